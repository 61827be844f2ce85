"""A process that has loaded gn, and that forks for each command: some hundredths of a second each.

It differs from `gn` in one thing: h5py is loaded before the fork, which saves most of the time of a command.
"""

from __future__ import annotations

import atexit
import ctypes
import gc
import io
import os
import pickle
import resource
import select
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from importlib import import_module
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any, BinaryIO, NamedTuple, NoReturn

SECONDS = 60  # until a process that waits for something is killed
CPU_SECONDS = 20  # for a reading by h5py, which nobody else limits
MEMORY = 4 << 30  # bytes of addresses, for the same
M_PERTURB = -6  # of mallopt(3)
LOADED = [
    *(f"gncli.cli.{name}" for name in ("info", "stats", "normalize", "diff", "identify")),
    *("gncli.batch", "gncli.contained", "gncli.identify", "gncli.info", "gncli.stats"),
    *("gncli.tensors.hdf5_info", "gncli.tensors.hdf5_sink", "gncli.tensors.hdf5_values", "gncli.compare"),
    *("difflib", "fuzz.reading", "json", "numpy.ma", "numpy.random"),  # what commands load later
]


class Outcome(NamedTuple):
    """How a process ended."""

    code: int  # negative: the number of the signal that ended it
    out: bytes
    err: str
    seconds: float  # of CPU time, its children's included
    memory: int  # bytes, of the largest process


class Harness:
    """The client of the process: `Harness().gn(folder, ["stats", "f.h5"])`."""

    def __init__(self) -> None:
        context = get_context("spawn")
        self._connection, end = context.Pipe()
        self._process = context.Process(target=_serve, args=(end,))
        self._process.start()
        end.close()
        atexit.register(self.close)  # before multiprocessing waits for it

    def close(self) -> None:
        """End the process."""
        self._connection.close()
        self._process.join()

    def gn(self, folder: str, words: Sequence[str], memory: int = 0) -> Outcome:
        """Run `gn WORDS` in `folder`; fresh memory holds bytes that depend on `memory`, if it is not 0."""
        return self._ask(folder, partial(_run_gn, words), memory)

    def read(self, folder: str, path: str, memory: int = 0, name: str | None = None) -> dict[str, Any]:
        """Return what `reading.entries` yields, up to where h5py crashes; or of the dataset `name` alone."""
        stream = io.BytesIO(self._ask(folder, partial(_run_reading, path, name), memory).out)
        found = {}
        while stream.tell() < len(stream.getbuffer()):
            try:
                key, value = pickle.load(stream)
            except Exception:  # noqa: BLE001 - torn, and pickle raises many kinds
                break
            found[key] = value
        return found

    def call(self, folder: str, work: Callable[[], Any]) -> Any:
        """Return what `work()` returns in a process of its own."""
        outcome = self._ask(folder, partial(_run_work, work), 0)
        assert outcome.code == 0, outcome.err
        return pickle.loads(outcome.out)

    def _ask(self, folder: str, work: Callable[[], None], memory: int) -> Outcome:
        self._connection.send((folder, work, memory))
        outcome: Outcome = self._connection.recv()
        return outcome


def _serve(connection: Connection) -> None:
    """Fork for each request, until the client closes the connection."""
    sys.argv = ["gn"]
    for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):  # as gn does
        os.environ[name] = "1"
    for name in LOADED:
        import_module(name)
    with suppress(ImportError):
        import_module("hdf5plugin")
    gc.freeze()  # a forked process would copy what the collector looks at
    with suppress(EOFError):
        while True:
            connection.send(_outcome(*connection.recv()))


def _outcome(folder: str, work: Callable[[], None], memory: int) -> Outcome:
    out, err = os.memfd_create("out"), os.memfd_create("err")
    pid = os.fork()
    if pid == 0:
        _do(folder, out, err, work, memory)
    handle = os.pidfd_open(pid)
    try:
        waiting = select.poll()
        waiting.register(handle, select.POLLIN)
        if not waiting.poll(1000 * SECONDS):
            os.kill(pid, signal.SIGKILL)
        _, status, used = os.wait4(pid, 0)
        code = os.waitstatus_to_exitcode(status)
        seconds, most = used.ru_utime + used.ru_stime, used.ru_maxrss * 1024
        texts = [os.pread(file, os.fstat(file).st_size, 0) for file in (out, err)]
        return Outcome(code, texts[0], texts[1].decode(errors="surrogateescape"), seconds, most)
    finally:
        for file in (out, err, handle):
            os.close(file)


def _do(folder: str, out: int, err: int, work: Callable[[], None], memory: int) -> NoReturn:
    """Do the work in this process, which was forked for it, and end."""
    code = 70  # when the harness itself is at fault
    try:
        os.chdir(folder)
        for file, number in ((os.open(os.devnull, os.O_RDONLY), 0), (out, 1), (err, 2)):
            os.dup2(file, number)
        sys.stdout, sys.stderr = (open(number, "w", closefd=False) for number in (1, 2))  # noqa: SIM115
        ctypes.CDLL(None).mallopt(M_PERTURB, memory)
        work()
        code = 0
    except Exception:  # noqa: BLE001 - shown
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def _run_gn(words: Sequence[str]) -> None:
    from gncli.cli import main

    sys.argv = ["gn", *words]
    main()


def _run_reading(path: str, name: str | None) -> None:
    from fuzz.reading import entries, entry

    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
    with _answers() as stream:
        for found in entries(path) if name is None else [entry(path, name)]:
            pickle.dump(found, stream)
            stream.flush()


def _run_work(work: Callable[[], object]) -> None:
    with _answers() as stream:
        pickle.dump(work(), stream)


def _answers() -> BinaryIO:
    """Return what writes to the standard output, which from now on is the standard error: filters print."""
    stream = open(os.dup(1), "wb")  # noqa: SIM115
    os.dup2(2, 1)
    return stream
