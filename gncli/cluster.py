"""Tasks on a Dask cluster, `--dask`. The only room that names distributed, which is loaded only then.

A task carries addresses and a block, never values: storage is shared. Dask has the queue, the retries and
the transport; here is what it leaves open, which is to be certain of the workers before, and of an end in
bounded time when they, or the scheduler, are gone.
"""

from __future__ import annotations

import asyncio
import atexit
import json
import logging
import os
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from importlib.metadata import version
from typing import Any, TypeVar

from gncli import __version__, leavings
from gncli.contained import end_with_parent, lift_limits
from gncli.errors import GnError, UsageError, WorkerError
from gncli.executors import Remote, usable_cores
from gncli.extras import require_dask
from gncli.heartbeats import Heartbeats
from gncli.helpers import Limits, dismiss_all, perform_safely
from gncli.localcluster import LocalProcesses
from gncli.onworker import release_files, try_to_open
from gncli.words import reason_of

PATIENCE = 15.0  # seconds without a scheduler, or without any worker, until that is an error
SILENCE = 30.0  # seconds without a sign of life, after which a scheduler or a worker is taken for stopped
STALL = 600.0  # seconds without any result, although all live; DASK_GN__STALL sets another time
PULSE = 0.5  # seconds between two looks
LOGS = ("distributed", "tornado", "asyncio")  # that distributed writes, or what it is made of

Result = TypeVar("Result")


_OPEN: dict[tuple[str, int | None], Cluster] = {}


def connect(address: str, jobs: int | None) -> Cluster:
    """The cluster at `address`, the same for all tensors of a command.

    `address`: tcp://host:port, tls://host:port, a scheduler file, or `local` for `jobs` processes on this
    machine. Raises UsageError where distributed is not installed, or cryptography, WorkerError where the
    cluster can't be used.
    """
    if (address, jobs) in _OPEN:
        return _OPEN[address, jobs]
    require_dask(address)
    lift_limits()  # the cluster has its own, and a local one inherits these
    distributed: Any = import_module("distributed")
    if not os.environ.get("GN_DEBUG"):
        _silence()
    target: Any
    local: LocalProcesses | None = None
    try:
        if address == "local":
            local = LocalProcesses(jobs or usable_cores())
            target = local.cluster
        elif "://" in address:
            target = address
        elif os.path.isfile(address):
            with open(address, encoding="utf-8") as file:
                target = json.load(file)["address"]
        else:
            hint = "is neither tcp://host:port, nor a scheduler file, nor local"
            raise UsageError(f"--dask {address} {hint}")
        if local is None:
            asyncio.run(_see(target))
        client = distributed.Client(target, timeout=PATIENCE, set_as_default=False)
    except (UsageError, WorkerError):
        raise
    except Exception as error:  # noqa: BLE001 - of whatever kind the transport has
        if local is not None:
            local.end()
        raise WorkerError(f"no scheduler at {address}: {reason_of(error)}; is it running?") from None
    cluster = _OPEN[address, jobs] = Cluster(address, client, local)
    leavings.clear_later(cluster, cluster.close)
    try:
        cluster.meet()
    except BaseException:
        del _OPEN[address, jobs]
        cluster.close()
        raise
    return cluster


async def _see(address: str) -> None:
    """Raise unless a scheduler answers: for one that is stopped, a client would wait for ever."""
    arguments = import_module("distributed").Security().get_connection_args("client")
    connecting = import_module("distributed.comm").connect(address, timeout=PATIENCE, **arguments)
    comm = await asyncio.wait_for(connecting, PATIENCE)
    await comm.close()


def _silence() -> None:
    """Keep logs off stderr: what goes wrong is an error of ours, and an interrupted run logs that, too."""
    for name in [*LOGS, *logging.root.manager.loggerDict]:
        if name.partition(".")[0] in LOGS:
            logging.getLogger(name).setLevel(logging.CRITICAL + 1)  # each has a level of its own


@atexit.register
def disconnect() -> None:
    """Leave all clusters, and end those that were started for this process."""
    while _OPEN:
        _OPEN.popitem()[1].close()


@dataclass
class _Task:
    """A task of the cluster: a pickled call, and the futures of the workers that were told to do it."""

    work: bytes
    copies: list[Any] = field(default_factory=list)


class Cluster(Remote):
    """The workers of a cluster as an executor, whose futures end even where the cluster is no more.

    A thread watches the cluster. What a silent worker was given is given to others, too.
    """

    def __init__(self, address: str, client: Any, local: LocalProcesses | None) -> None:
        self.address = address
        self.limits = Limits(0, 0.0)
        self._client, self._local = client, local
        self._pending: dict[Future[Any], _Task] = {}
        self._workers: dict[str, Any] = {}  # as the scheduler describes them, by their addresses
        self._avoided: set[str] = set()
        self._heartbeats = Heartbeats()
        self._alone = 0.0  # seconds without a worker that the scheduler tells of
        self._quiet = 0.0  # seconds without a result
        self._retried = False
        self._stall = float(import_module("dask.config").get("gn.stall", STALL))
        self._lost: str | None = None
        self._met = threading.Event()  # a worker, or the end of it
        self._closed = threading.Event()

    def meet(self) -> None:
        """Wait for a worker, and see that all have what this process has."""
        threading.Thread(target=self._watch, name="gn-watch", daemon=True).start()
        self._met.wait()
        if self._local is not None:  # also one that is stopped
            self._everywhere(end_with_parent)
        ours = _versions()
        for worker, theirs in self._everywhere(_versions).items():
            for name, held in ours.items():
                if theirs[name] != held:
                    message = f"worker {worker} has {name} {theirs[name]}, this process {held}"
                    raise WorkerError(f"{message}; install the same, lest the numbers differ")
        self.jobs = sum(self._workers[worker]["nthreads"] for worker in self._others(self._avoided))

    def check(self, recipe: bytes) -> None:
        """Raise GnError unless every worker sees the files that `recipe` names, and the same ones."""
        for worker, trouble in self._everywhere(try_to_open, recipe, self.limits).items():
            if trouble is not None:
                hint = "workers need the same files under the same paths"
                raise WorkerError(f"worker {worker} does not see them: {trouble}; {hint}")

    def forget(self) -> None:
        """Have the workers close the files, which take space even once they are removed.

        Nobody minds if the workers are gone.
        """
        with suppress(Exception):
            self._client.run(release_files, callback_timeout=2)

    def submit(self, fn: Callable[..., Result], /, *args: Any, **kwargs: Any) -> Future[Result]:
        ours: Future[Result] = Future()
        if not self._pending:
            self._quiet = 0.0
        self._pending[ours] = _Task(import_module("cloudpickle").dumps(partial(fn, *args, **kwargs)))
        ours.add_done_callback(self._end)
        self._send(ours, self._others(self._avoided) if self._avoided else [])
        if self._lost is not None:
            self._give_up(self._lost)
        return ours

    def close(self) -> None:
        """Leave the cluster, and end one that was started here. Twice, it does nothing."""
        if self._closed.is_set():
            return
        self._closed.set()
        leavings.is_cleared(self)
        if self._local is None and self._lost is None:
            with suppress(Exception):
                self._client.run(dismiss_all, callback_timeout=2)
        with suppress(Exception):
            self._client.close(timeout=2)
        if self._local is not None:
            self._local.end()

    def _send(self, ours: Future[Any], workers: list[str]) -> None:
        """Have one of the workers do the task, beside those that are at it already; any worker if none."""
        task = self._pending.get(ours)
        if task is None:  # it has just ended
            return
        how = {"pure": False, "workers": workers or None}
        theirs = self._client.submit(perform_safely, task.work, self.limits, **how)
        task.copies.append(theirs)
        self._client.loop.add_callback(self._pass_on, ours, theirs)
        if ours.done():
            theirs.release()

    def _end(self, ours: Future[Any]) -> None:
        for theirs in self._pending.pop(ours).copies:
            theirs.release()  # without a result, that cancels it

    async def _pass_on(self, ours: Future[Any], theirs: Any) -> None:
        """Wait for the worker's result, in the client's loop."""
        result, error = None, None
        try:
            result = await theirs
        except BaseException as raised:  # noqa: BLE001 - whatever the task raised, or a cancellation
            error = raised
        if ours.done():  # cancelled, given up, or done by another worker
            return
        self._quiet, self._retried = 0.0, False
        gone = isinstance(error, import_module("distributed.comm").CommClosedError)  # as a result was fetched
        if gone or theirs.cancelled():  # not by us: distributed does it when it gives up the scheduler
            error = WorkerError(self._lost or self._loss("the scheduler"))
        elif isinstance(error, import_module("distributed").KilledWorker):
            hint = "for want of memory perhaps; try a smaller --memory"
            error = WorkerError(f"a block killed one worker after another, {hint}")
        with suppress(InvalidStateError):
            if error is None:
                ours.set_result(result)
            else:
                ours.set_exception(error)

    def _everywhere(self, function: Callable[..., Any], *args: Any) -> dict[str, Any]:
        """Return what each worker makes of it, but for silent ones.

        Raises the GnError that one raises, and WorkerError where one can't run it, or none answers.
        """
        try:
            answers: dict[str, Any] = self._client.sync(self._ask_all, function, args)
        except Exception as error:  # noqa: BLE001 - of whatever kind the transport has
            raise WorkerError(f"the workers of {self.address} do not answer: {reason_of(error)}") from None
        if self._lost is not None:
            raise WorkerError(self._lost)
        for worker, answer in answers.items():
            if isinstance(answer, GnError):
                raise answer
            if isinstance(answer, BaseException):
                hint = f"it needs Python {_versions()['python']} with gncli {__version__}"
                raise WorkerError(f"worker {worker} cannot do it: {reason_of(answer)}; {hint}") from None
        return answers

    async def _ask_all(self, function: Callable[..., Any], args: tuple[Any, ...]) -> dict[str, Any]:
        answers = await asyncio.gather(*(self._ask(worker, function, args) for worker in self._workers))
        return {worker: answer for found in answers for worker, answer in found.items()}

    async def _ask(self, worker: str, function: Callable[..., Any], args: tuple[Any, ...]) -> dict[str, Any]:
        """Return the worker's answer by its address, or nothing if it falls silent."""
        asking = asyncio.ensure_future(self._client.run(function, *args, workers=[worker], on_error="return"))
        while not (await asyncio.wait([asking], timeout=PULSE))[0]:
            if self._lost is not None or worker in self._avoided:
                asking.cancel()
                return {}
        answer: dict[str, Any] = await asking
        return answer

    def _watch(self) -> None:
        try:
            self._look()
            while not self._closed.wait(PULSE):
                self._look()
        except WorkerError as error:
            self._give_up(error.message)

    def _look(self) -> None:
        """See how the cluster is. Raises WorkerError where there is no hope for what it was given."""
        began = time.monotonic()
        found = self._described()
        # At most as long as that may take: for the rest, this process was stopped.
        passed = PULSE + min(time.monotonic() - began, SILENCE / 3)
        self._alone = 0.0 if found else self._alone + passed
        if not found:
            self._check_patience(answered=found is not None)
            return
        self._workers = found
        self._heartbeats.note({worker: about["last_seen"] for worker, about in found.items()}, passed)
        silent = self._heartbeats.silent(SILENCE)
        if silent >= set(found):
            raise WorkerError(f"the workers at {self.address} do not answer; see their logs, and start again")
        self._met.set()
        self._retry(silent, passed)

    def _described(self) -> dict[str, Any] | None:
        """The scheduler's description of each worker, or None if it does not answer."""
        with suppress(Exception):
            identity = self._client.sync(self._client.scheduler.identity, callback_timeout=SILENCE / 3)
            workers: dict[str, Any] = identity["workers"]
            return workers
        return None

    def _check_patience(self, answered: bool) -> None:
        """Raise WorkerError where there has been no worker, or no scheduler, for too long."""
        status = self._client.status
        silent = status == "running" and not answered
        if status != "closed" and self._alone < (SILENCE if silent else PATIENCE):
            return
        if status == "running" and answered and not self._met.is_set():
            message = f"no worker has joined {self.address} within {PATIENCE:.0f} seconds; start some"
            raise WorkerError(message)
        raise WorkerError(self._loss("its workers" if status == "running" and answered else "the scheduler"))

    def _retry(self, silent: set[str], passed: float) -> None:
        """Give others what a worker does not end. Raises WorkerError where that did not help."""
        self._quiet = self._quiet + passed if self._pending else 0.0
        if silent - self._avoided:
            self._avoided |= silent
            workers = self._others(self._avoided)
        elif self._quiet < self._stall:
            return
        elif self._retried:
            message = f"the workers at {self.address} have ended no block for {self._quiet:.0f} seconds"
            raise WorkerError(f"{message}, twice; see their logs, and whether the storage answers")
        else:
            self._retried = True
            workers = self._others(self._avoided | self._at_work()) or self._others(self._avoided)
        self._quiet = 0.0
        for ours in list(self._pending):
            self._send(ours, workers)

    def _others(self, avoided: set[str]) -> list[str]:
        return sorted(set(self._workers) - avoided)

    def _at_work(self) -> set[str]:
        """The workers that have tasks of ours."""
        keys = {theirs.key for task in list(self._pending.values()) for theirs in task.copies}
        with suppress(Exception):
            found = self._client.sync(self._client.scheduler.processing, callback_timeout=SILENCE / 3)
            return {worker for worker, tasks in found.items() if keys & set(tasks)}
        return set()

    def _loss(self, what: str) -> str:
        return f"lost {what} at {self.address}; see its logs, and start again"

    def _give_up(self, message: str) -> None:
        self._lost = message
        self._met.set()
        for future in list(self._pending):
            with suppress(InvalidStateError):
                future.set_exception(WorkerError(message))


def _versions() -> dict[str, str]:
    """Return what has to be the same everywhere, for tasks to be understood and for numbers to agree."""
    python = ".".join(map(str, sys.version_info[:2]))
    return {"gncli": __version__, "python": python} | {
        name: version(name) for name in ("numpy", "distributed")
    }
