"""Runs what touches HDF5 in a child process, so that a crash inside libhdf5 is the error of one file.

A damaged file can make libhdf5 or one of its filters write out of bounds, loop for ever, take all memory,
print, or call exit(). No check in gn can prevent all of that. So gn forks before h5py is imported: the child
does the work and reports over a pipe, and the parent prints the results. The parent can end the child at any
time, and removes the temporary files of a child that died.

A child serves one call after another; the call after a crash gets a new child. This contains accidents. It is
no sandbox: machine code that a file smuggled in would run with the user's rights.
"""

from __future__ import annotations

import os
import pickle
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator, MutableMapping
from contextlib import contextmanager, suppress
from io import BufferedReader, FileIO
from typing import TYPE_CHECKING, Any, TypeVar

from gncli import leavings
from gncli.errors import CrashError

if TYPE_CHECKING:
    from gncli.contained import Call

Item = TypeVar("Item")
Advance = Callable[[int], None]

SECONDS_TO_STOP = 0.2  # that a child has to remove its temporary files before it is killed
SECONDS = 3.0  # of CPU time without progress, after which a file is taken for one that never ends; limits are
# whole seconds, so that it may be 4
BYTES_A_SECOND = 10_000_000  # of a file, by which that time grows: headers may take long, too

LOADING = ("HDF5_VOL_CONNECTOR", "HDF5_DRIVER", "HDF5_PLUGIN_PATH")  # by these, HDF5 loads libraries
BLAS_THREADS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")

_enabled = False
_child: Child | None = None


def is_possible() -> bool:
    """Return whether this system can fork."""
    return hasattr(os, "fork")


def enable() -> None:
    """Send the calls of this process to a child. For the `gn` command, whose process is its own."""
    global _enabled
    _enabled = is_possible()


def clean(environment: MutableMapping[str, str]) -> None:
    """Let HDF5 load no libraries that the environment names, and BLAS start no threads.

    The engine brings its own threads, and those of BLAS would fight them. Both are read when a library is
    loaded.
    """
    environment.update(dict.fromkeys(BLAS_THREADS, "1"))
    for name in LOADING:
        environment.pop(name, None)


def seconds_for(addresses: Iterable[str]) -> float:
    """Return the CPU time without progress that the files at `addresses` may take."""
    return SECONDS + sum(map(_size, addresses)) / BYTES_A_SECOND


def run(
    function: Callable[..., Iterable[Item]],
    *arguments: object,
    files: Iterable[object],
    memory: int,
    outputs: Iterable[str] = (),
    advance: Advance | None = None,
) -> Iterator[Item]:
    """Yield what `function(*arguments)` yields: from a child process if one of the files is HDF5.

    Parameters
    ----------
    function
        A picklable function, as are its arguments and its items. If `advance` is given, the function gets a
        keyword argument of that name; what it calls it with arrives at `advance`.
    files
        The addresses that the function reads; other objects among them are ignored. The first is blamed for
        a crash.
    outputs
        The addresses that it writes, which are not looked into: their suffix tells what they will be.
    memory
        The budget for buffers in bytes, from which the limit on the child's address space is derived.

    Raises
    ------
    CrashError
        The child ended by a signal, or without its final report.
    Exception
        Whatever the function raises.
    """
    from gncli.tensors import involves_hdf5, is_piped  # which load numpy
    from gncli.tensors.address import kind_of, split

    addresses = [file for file in files if isinstance(file, str)]
    written = any(kind_of(split(output)[0]) == "hdf5" for output in outputs)
    if not _enabled or not (written or involves_hdf5(*addresses)):
        yield from function(*arguments, **({} if advance is None else {"advance": advance}))
        return
    from gncli.contained import Call

    call = Call(function, arguments, advance is not None, seconds_for(addresses))
    pipes = {split(address)[0] for address in addresses if is_piped(address)}
    yield from _contained(call, addresses[0], memory, advance, pipes)


def _contained(
    call: Call, address: str, memory: int, advance: Advance | None, pipes: set[str]
) -> Iterator[Any]:
    """Yield what the call yields, from a child.

    Of `pipes`, this process has read the first bytes. A child that is forked now has these, and it alone
    reads on: calls that name such a pipe again are for the same child. While its items are not all taken, a
    child is busy, and another call gets a child of its own.
    """
    global _child
    child, _child = _child, None
    if child is not None and (child.memory != memory or not pipes <= child.pipes):
        child.stop()
        child = None
    if child is None:
        child = Child.forked(call, memory, pipes)
    else:
        child.send(call)
    finished = False
    try:
        while True:
            kind, value = child.receive(address)
            if kind == "item":
                yield value
            elif kind == "advance" and advance is not None:
                advance(value)
            elif kind in ("error", "end"):
                finished = True
                if kind == "error":
                    raise value
                return
    finally:
        if finished and _child is None:
            _child = child
        else:  # it crashed, or this process was interrupted, or nobody wants the rest, or there is another
            child.stop()


def _size(address: str) -> int:
    """Return the size of the file at `address` in bytes; 0 where there is none."""
    from gncli.tensors.address import split

    with suppress(OSError, ValueError):
        return os.path.getsize(split(address)[0])
    return 0


class Child:
    """The parent's view of the child: the process, the pipes to and from it, and its temporary files."""

    def __init__(
        self, pid: int, calls: FileIO, reports: BufferedReader, memory: int, pipes: set[str]
    ) -> None:
        self.memory, self.pipes = memory, pipes
        self._pid, self._calls, self._reports = pid, calls, reports
        self._temporaries: set[str] = set()
        self.busy = True  # with the call that it was forked for
        self._ended = self._reaped = False
        self._status = 0
        leavings.clear_later(self, self.stop)

    @classmethod
    def forked(cls, call: Call, memory: int, pipes: set[str]) -> Child:
        """Fork a child that begins with `call`, which it inherits."""
        sys.stdout.flush()
        sys.stderr.flush()
        calls_in, calls_out = os.pipe()
        reports_in, reports_out = os.pipe()
        with _signals_blocked() as mask:
            pid = os.fork()
            if pid == 0:
                os.close(calls_out)
                os.close(reports_in)
                from gncli.contained import serve

                serve(call, calls_in, reports_out, memory, mask)
            os.close(calls_in)
            os.close(reports_out)
            return cls(pid, FileIO(calls_out, "wb"), open(reports_in, "rb"), memory, pipes)

    @staticmethod
    def can_be_spawned() -> bool:
        """Return whether `spawned` works on this system."""
        return is_possible() and hasattr(os, "posix_spawn") and bool(sys.executable)

    @classmethod
    def spawned(cls, memory: int) -> Child:
        """Start a child that is an interpreter of its own: this process may have other threads."""
        calls_in, calls_out = os.pipe()
        reports_in, reports_out = os.pipe()
        script = f"import sys; sys.path[:] = {sys.path!r}; from gncli.contained import main; main({memory})"
        environment = dict(os.environ)
        clean(environment)
        try:
            pid = os.posix_spawn(
                sys.executable,
                [sys.executable, "-c", script],
                environment,
                file_actions=[
                    (os.POSIX_SPAWN_DUP2, calls_in, 0),
                    (os.POSIX_SPAWN_DUP2, reports_out, 1),
                    (os.POSIX_SPAWN_OPEN, 2, os.devnull, os.O_WRONLY, 0),
                ],
            )
        except BaseException:
            os.close(calls_out)
            os.close(reports_in)
            raise
        finally:
            os.close(calls_in)
            os.close(reports_out)
        reports = open(reports_in, "rb")  # noqa: SIM115
        child = cls(pid, FileIO(calls_out, "wb"), reports, memory, set())
        child.busy = False
        return child

    def is_alive(self) -> bool:
        return not self._ends_within(0)

    def send(self, call: Call) -> None:
        """Have the child do `call`. If it is dead, `receive` will say so."""
        from gncli.contained import write_all

        self.busy = True
        with suppress(BrokenPipeError):
            write_all(self._calls, pickle.dumps(call))

    def receive(self, address: str | None) -> tuple[str, Any]:
        """Wait for a report: an item, an advance, an error, or the end of the call.

        Raises CrashError, blamed on `address`, where the child has died.
        """
        while True:
            try:
                kind, value = pickle.load(self._reports)
            except Exception:  # noqa: BLE001 - the end of the pipe, or whatever a torn report raises
                raise CrashError(self._cause_of_death(), address=address) from None
            if kind == "temporary":
                self._temporaries.add(value)
            elif kind == "released":
                self._temporaries.discard(value)
            else:
                self.busy = kind not in ("error", "end")
                return kind, value

    def stop(self) -> None:
        """End the child, by force where it does not end at once, and remove what it left."""
        if self._ended:
            return
        self._ended = True
        leavings.is_cleared(self)
        self._calls.close()  # an idle child ends by itself
        if self.busy:
            with suppress(ProcessLookupError):
                os.kill(self._pid, signal.SIGTERM)
        if not self._ends_within(SECONDS_TO_STOP):
            with suppress(ProcessLookupError):
                os.kill(self._pid, signal.SIGKILL)
            self._ends_within(SECONDS_TO_STOP)
        if self._temporaries:
            import shutil
        for path in self._temporaries:
            with suppress(OSError):
                (shutil.rmtree if os.path.isdir(path) else os.unlink)(path)

    def discard(self) -> None:
        """Stop it, and close its pipe; by the thread that receives, for another would wait for that."""
        self.stop()
        self._reports.close()

    def _cause_of_death(self) -> str:
        if self._ends_within(SECONDS_TO_STOP) and os.WIFSIGNALED(self._status):
            number = os.WTERMSIG(self._status)
            if number == signal.SIGXCPU:
                return "reading it comes to no end; it is damaged, or made to do harm"
            if number == signal.SIGKILL:
                return (
                    "the process that read it was killed, perhaps for want of memory; try a smaller --memory"
                )
        return "the HDF5 library crashed on this file"

    def _ends_within(self, seconds: float) -> bool:
        """Return whether the child has ended within so many seconds."""
        end = time.monotonic() + seconds
        while not self._reaped:
            with suppress(ChildProcessError):  # somebody else has waited for it
                pid, self._status = os.waitpid(self._pid, os.WNOHANG)
                if pid == 0:
                    if time.monotonic() >= end:
                        return False
                    time.sleep(0.002)
                    continue
            self._reaped = True
        return True


@contextmanager
def _signals_blocked() -> Iterator[set[int | signal.Signals]]:
    """Keep signals from arriving between the fork and the registration of the child."""
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGHUP})
    try:
        yield mask
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
