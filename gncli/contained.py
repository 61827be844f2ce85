"""The life of the child process that `containment` forks: it does one call after another, and reports."""

from __future__ import annotations

import atexit
import ctypes
import os
import pickle
import resource
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Hashable, Iterable
from contextlib import suppress
from functools import partial
from importlib import import_module
from io import FileIO
from math import ceil
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from gncli import leavings, progress
from gncli.errors import BudgetError
from gncli.tensors.kept import keep_open

HEADROOM = 512 << 20  # bytes of address space beside the buffers: libraries, threads' stacks, one chunk
STACK = 4 << 20  # bytes of a thread's stack, usually 8 MiB: the limit counts all of it, used or not
ARENAS = 2  # of malloc, which otherwise takes 64 MiB of addresses for each thread


class Call(NamedTuple):
    """A function to call in the child, and the seconds of CPU time it may take without progress."""

    function: Callable[..., Iterable[Any]]
    arguments: tuple[object, ...]
    advances: bool
    seconds: float


def write_all(file: FileIO, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[file.write(view) or 0 :]


class _Reports:
    """The child's end of the pipe. Any thread may write to it."""

    def __init__(self, descriptor: int) -> None:
        self._file = FileIO(descriptor, "wb")
        self._lock = threading.Lock()

    def send(self, kind: str, value: object = None) -> None:
        """Write one report. Raises what pickling raises, before anything is written."""
        data = pickle.dumps((kind, value))
        with self._lock:
            write_all(self._file, data)


def main(memory: int) -> NoReturn:
    """Serve the calls that arrive on stdin, with reports on stdout, as an interpreter of its own."""
    import_module("numpy")  # which a forked child has from its parent, so that the limit leaves it out
    calls, reports = os.dup(0), os.dup(1)
    nowhere = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1):
        os.dup2(nowhere, descriptor)
    os.close(nowhere)
    serve(None, calls, reports, memory, set())


def serve(
    call: Call | None, calls: int, reports: int, memory: int, mask: set[int | signal.Signals]
) -> NoReturn:
    """Do `call`, and then what arrives, until the parent closes the pipe: the whole life of a child."""
    code = 1
    try:
        report = _Reports(reports)

        def note(kind: str, key: Hashable) -> None:
            if isinstance(key, str):  # the path of a temporary file
                report.send(kind, key)

        leavings.start_over(note)
        _set_up(reports, memory, mask)
        with open(calls, "rb") as stream, keep_open():
            while True:
                if call is not None:
                    _perform(call, report, memory)
                call = pickle.load(stream)
    except EOFError:
        code = 0
        atexit._run_exitfuncs()
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    finally:
        leavings.clear()
        os._exit(code)


def _perform(call: Call, report: _Reports, memory: int) -> None:
    allow_time = partial(_allow_time, call.seconds)
    try:
        allow_time()
        progress.on_advance(allow_time)
        watch = {"advance": partial(report.send, "advance")} if call.advances else {}
        for item in call.function(*call.arguments, **watch):
            report.send("item", item)
            allow_time()
        sys.stdout.flush()
    except MemoryError:
        message = f"needs more memory than --memory {memory} allows; use a larger one if you trust the file"
        report.send("error", BudgetError(message))
    except Exception as error:  # noqa: BLE001 - raised again in the parent
        if os.environ.get("GN_DEBUG"):
            traceback.print_exception(error)
        try:
            report.send("error", error)
        except Exception:  # noqa: BLE001 - whatever the exception holds that cannot be pickled
            report.send("error", RuntimeError(f"{type(error).__name__}: {error}"))
    else:
        report.send("end")


def _set_up(reports: int, memory: int, mask: set[int | signal.Signals]) -> None:
    """Leave ^C to the parent, end with it, silence what libraries print, and limit the memory."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGXCPU, signal.SIG_DFL)  # Python's handlers do not run within a loop of a library
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    os.register_at_fork(after_in_child=partial(_leave_to_parent, reports))
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for name, descriptor in (("stdout", 1), ("stderr", 2)):
        stream = getattr(sys, name)
        own = open(os.dup(descriptor), "w", encoding=stream.encoding, errors=stream.errors)  # noqa: SIM115
        own.reconfigure(line_buffering=name == "stderr" or stream.line_buffering)
        setattr(sys, name, own)
        os.dup2(nowhere, descriptor)
    os.close(nowhere)
    end_with_parent()
    if sys.platform == "linux":
        _limit_memory(memory)


def _leave_to_parent(reports: int) -> None:
    """In a process forked from the child, which computes on what it gets and touches no HDF5 library.

    It must not keep the pipe open after the child has ended, and its time is not limited.
    """
    os.close(reports)
    lift_limits()


def lift_limits() -> None:
    """Remove the limits on memory and time, for processes that are started from here and have their own."""
    for limit in (resource.RLIMIT_AS, resource.RLIMIT_CPU):
        _, hard = resource.getrlimit(limit)
        resource.setrlimit(limit, (hard, hard))
    progress.on_advance(None)


def _allow_time(seconds: float) -> None:
    """Allow this process so much more CPU time: beyond it the system sends SIGXCPU."""
    used = time.process_time()
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    soft = ceil(used + seconds)
    resource.setrlimit(
        resource.RLIMIT_CPU, (soft if hard == resource.RLIM_INFINITY else min(soft, hard), hard)
    )


def end_with_parent() -> None:
    """Have the system kill this process when the parent is gone, where it can: see prctl(2)."""
    set_death_signal = 1
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(set_death_signal, signal.SIGKILL)


def _limit_memory(memory: int) -> None:
    """Limit the address space to what this process has, `memory` bytes of buffers, and HEADROOM.

    Threads are made to take few addresses, so that the number of jobs hardly counts.
    """
    threading.stack_size(STACK)
    most_arenas = -8  # M_ARENA_MAX of mallopt(3), which other libraries than glibc may lack
    with suppress(AttributeError):
        ctypes.CDLL(None).mallopt(most_arenas, ARENAS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + memory + HEADROOM
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    limit = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
