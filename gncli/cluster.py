"""Tasks on a Dask cluster, `--dask`. The only room that names distributed, which is loaded only then.

A task carries addresses and a block, never values: storage is shared. Dask has the queue, the retries and
the transport; here is what it leaves open, which is to be certain of the workers before, and of an end in
bounded time when they, or the scheduler, are gone.
"""

from __future__ import annotations

import atexit
import logging
import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from functools import partial
from importlib import import_module
from importlib.metadata import version
from typing import Any, TypeVar

from gncli import __version__
from gncli.contained import lift_limits
from gncli.errors import GnError, UsageError, WorkerError
from gncli.executors import Remote, perform, usable_cores
from gncli.extras import require_extra
from gncli.reader import prepared, release

PATIENCE = 15.0  # seconds without a scheduler, or without any worker, until that is an error
PULSE = 0.5  # seconds between two looks
LOGS = ("distributed", "tornado", "asyncio")  # that distributed writes, or what it is made of

Result = TypeVar("Result")


_OPEN: dict[tuple[str, int | None], Cluster] = {}


def connect(address: str, jobs: int | None) -> Cluster:
    """The cluster at `address`, the same for all tensors of a command.

    `address`: tcp://host:port, a scheduler file, or `local` for `jobs` processes on this machine.
    Raises UsageError where distributed is not installed, WorkerError where the cluster can't be used.
    """
    if (address, jobs) in _OPEN:
        return _OPEN[address, jobs]
    require_extra("dask", "distributed", "--dask")
    lift_limits()  # the cluster has its own, and a local one inherits these
    distributed: Any = import_module("distributed")
    if not os.environ.get("GN_DEBUG"):
        _silence()
    where: dict[str, Any] = {}
    local = None
    try:
        if address == "local":
            # Nobody will see the dashboard, which is not to be had without, nor the profiles of the workers.
            with import_module("dask.config").set({"distributed.worker.profile.enabled": False}):
                local = distributed.LocalCluster(
                    n_workers=jobs or usable_cores(),
                    threads_per_worker=1,
                    dashboard_address="127.0.0.1:0",
                    silence_logs=logging.CRITICAL,
                )
            where["address"] = local
        elif "://" in address:
            where["address"] = address
        elif os.path.isfile(address):
            where["scheduler_file"] = address
        else:
            hint = "is neither tcp://host:port, nor a scheduler file, nor local"
            raise UsageError(f"--dask {address} {hint}")
        client = distributed.Client(**where, timeout=PATIENCE, set_as_default=False)
    except UsageError:
        raise
    except Exception as error:  # noqa: BLE001 - of whatever kind the transport has
        if local is not None:
            local.close()
        raise WorkerError(f"no scheduler at {address}: {_reason(error)}; is it running?") from None
    cluster = _OPEN[address, jobs] = Cluster(address, client, local)
    try:
        cluster.meet()
    except BaseException:
        del _OPEN[address, jobs]
        cluster.close()
        raise
    return cluster


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


class Cluster(Remote):
    """distributed's executor, whose futures end even where the cluster is no more."""

    def __init__(self, address: str, client: Any, local: Any) -> None:
        self.address = address
        self._client, self._local = client, local
        self._pool = client.get_executor(pure=False)
        self._pending: set[Future[Any]] = set()
        self._lost: str | None = None
        self._closed = threading.Event()

    def meet(self) -> None:
        """Wait for a worker, see that all have what this process has, and begin to watch them."""
        try:
            self._client.wait_for_workers(1, timeout=PATIENCE)
        except OSError:  # TimeoutError
            message = f"no worker has joined {self.address} within {PATIENCE:.0f} seconds; start some"
            raise WorkerError(message) from None
        ours = _versions()
        for worker, theirs in self._everywhere(_versions).items():
            for name, held in ours.items():
                if theirs[name] != held:
                    message = f"worker {worker} has {name} {theirs[name]}, this process {held}"
                    raise WorkerError(f"{message}; install the same, lest the numbers differ")
        self.jobs = sum(self._client.nthreads().values())
        threading.Thread(target=self._watch, name="gn-watch", daemon=True).start()

    def check(self, recipe: bytes) -> None:
        """Raise WorkerError unless every worker sees the files that `recipe` names, and the same ones."""
        for worker, trouble in self._everywhere(_try, recipe).items():
            if trouble is not None:
                hint = "workers need the same files under the same paths"
                raise WorkerError(f"worker {worker} does not see them: {trouble}; {hint}")

    def forget(self) -> None:
        """What is open takes space even once it is removed. Nobody minds if the workers are gone."""
        with suppress(Exception):
            self._client.run(release, callback_timeout=2)

    def submit(self, fn: Callable[..., Result], /, *args: Any, **kwargs: Any) -> Future[Result]:
        ours: Future[Result] = Future()
        work = import_module("cloudpickle").dumps(partial(fn, *args, **kwargs))
        theirs: Future[Result] = self._pool.submit(perform, work)
        self._pending.add(ours)
        theirs.add_done_callback(partial(self._pass_on, ours))
        ours.add_done_callback(lambda ours: self._forget(ours, theirs))
        if self._lost is not None:
            self._give_up(self._lost)
        return ours

    def _pass_on(self, ours: Future[Any], theirs: Future[Any]) -> None:
        with suppress(InvalidStateError):  # it was cancelled, or given up
            if theirs.cancelled():  # not by us: distributed does it when it gives up the scheduler
                ours.set_exception(WorkerError(self._lost or self._loss("the scheduler")))
            elif (error := theirs.exception()) is None:
                ours.set_result(theirs.result())
            elif isinstance(error, import_module("distributed").KilledWorker):
                hint = "for want of memory perhaps; try a smaller --memory"
                ours.set_exception(WorkerError(f"a block killed one worker after another, {hint}"))
            else:
                ours.set_exception(error)

    def _forget(self, ours: Future[Any], theirs: Future[Any]) -> None:
        self._pending.discard(ours)
        if ours.cancelled():
            theirs.cancel()

    def _loss(self, what: str) -> str:
        return f"lost {what} at {self.address}; see its logs, and start again"

    def close(self) -> None:
        """Twice, it does nothing."""
        if self._closed.is_set():
            return
        self._closed.set()
        for part in filter(None, (self._client, self._local)):
            with suppress(Exception):
                part.close(timeout=2)

    def _everywhere(self, function: Callable[..., Any], *args: Any) -> dict[str, Any]:
        """What each worker makes of it. Raises WorkerError where one can't run it."""
        try:
            answers: dict[str, Any] = self._client.run(function, *args, on_error="return")
        except Exception as error:  # noqa: BLE001 - of whatever kind the transport has
            raise WorkerError(f"the workers of {self.address} do not answer: {_reason(error)}") from None
        for worker, answer in answers.items():
            if isinstance(answer, BaseException):
                hint = f"it needs Python {_versions()['python']} with gncli {__version__}"
                raise WorkerError(f"worker {worker} cannot do it: {_reason(answer)}; {hint}") from None
        return answers

    def _watch(self) -> None:
        alone = 0.0
        while not self._closed.wait(PULSE):
            alone = 0.0 if self._alive() else alone + PULSE
            if self._client.status == "closed" or alone >= PATIENCE:
                self._give_up(
                    self._loss("its workers" if self._client.status == "running" else "the scheduler")
                )
                return

    def _alive(self) -> bool:
        if self._client.status != "running":
            return False
        with suppress(Exception):
            return bool(self._client.nthreads())
        return False

    def _give_up(self, message: str) -> None:
        self._lost = message
        for future in list(self._pending):
            with suppress(InvalidStateError):
                future.set_exception(WorkerError(message))


def _versions() -> dict[str, str]:
    """What has to be the same everywhere, for tasks to be understood and for numbers to agree."""
    python = ".".join(map(str, sys.version_info[:2]))
    return {"gncli": __version__, "python": python} | {
        name: version(name) for name in ("numpy", "distributed")
    }


def _try(recipe: bytes) -> str | None:
    """On a worker: what is wrong with what the tasks will open."""
    try:
        prepared(recipe)
    except GnError as error:
        return str(error)
    return None


def _reason(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".partition("\n")[0].rstrip(": ")
