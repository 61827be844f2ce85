"""Pipes and devices as streams of bytes, each opened once: what reads next goes on where one stopped."""

from __future__ import annotations

import contextlib
import io
import os
import select
import stat
import sys
from functools import partial
from typing import Literal, TypeAlias, cast

from gncli.errors import AddressError, FormatError, OutputError
from gncli.leavings import clear_later, is_cleared
from gncli.report import say
from gncli.tensors.address import HDF5_MAGIC, NPY_MAGIC, reason, stranger

CHUNK = 1 << 20  # bytes copied at once
PIPE = 1 << 20  # bytes that a pipe is made to hold: of Linux's 64 KiB, each costs a switch of processes
PATIENCE = 50  # milliseconds until a reader that waits for data looks whether it is still wanted
LARGE = 100_000_000  # bytes that do not go unsaid into $TMPDIR

Binary: TypeAlias = io.FileIO | io.BufferedIOBase

_OPEN: dict[str, Stream] = {}
_BROKEN: set[str] = set()


def stream_at(path: str) -> Stream | None:
    """The pipe or device at `path`, where `-` is standard input; None for what is neither.

    The same one for the rest of the command. Raises AddressError.
    """
    if path not in _OPEN:
        file = _standard_input() if path == "-" else _open_pipe(path)
        if file is None:
            return None
        if file.isatty():
            raise AddressError("is a terminal; pipe a tensor into it, or name a file", address=path)
        _OPEN[path] = Stream(path, file)
        clear_later(_OPEN[path], _OPEN[path].close)
    return _OPEN[path]


class Stream:
    """Bytes in order, from an open pipe."""

    def __init__(self, address: str, file: Binary) -> None:
        self.address = address
        self.abandoned = False
        self._file = file
        self._ahead = b""  # seen, and not yet taken
        self._begun = 0  # tensors, the one that is being read included
        self._owed = 0  # bytes of the tensor that is being read
        self._spool: str | None = None
        self._poll: select.poll | None = None
        with contextlib.suppress(OSError, AttributeError):  # no descriptor, or no such call
            _widen(file.fileno())
            self._poll = select.poll()
            self._poll.register(file.fileno(), select.POLLIN)

    def kind(self) -> Literal["npy", "hdf5"]:
        """What the bytes to come are. Raises FormatError."""
        if self._spool is not None:
            return "hdf5"
        start = self._peek(8)
        if start.startswith(NPY_MAGIC):
            return "npy"
        if start == HDF5_MAGIC:
            return "hdf5"
        error = stranger(start, self.address)
        if self._begun:
            error.message += f" after array {self._begun}, whose header may declare too small a shape"
        raise error

    def more(self) -> bool:
        """Whether anything comes after the tensor that was read last."""
        return self._spool is None and bool(self._peek(1))

    def begin(self, nbytes: int) -> None:
        """What comes now is a tensor of so many bytes."""
        self._begun += 1
        self._owed = nbytes

    def skip(self) -> None:
        """What of the tensor under way nobody wanted to read."""
        while self._owed and self.take(min(self._owed, CHUNK)):
            pass

    def take(self, count: int) -> bytes:
        """The next `count` bytes, or as many as there are."""
        room = bytearray(count)
        return bytes(room[: self.fill(memoryview(room))])

    def fill(self, room: memoryview) -> int:
        """Put the next bytes in `room`; the count of them, which is less only at the end."""
        done = min(len(room), len(self._ahead))
        room[:done], self._ahead = self._ahead[:done], self._ahead[done:]
        while done < len(room):
            while self._poll is not None and not self._poll.poll(PATIENCE):
                if self.abandoned:
                    raise FormatError("was not read to its end", address=self.address)
            try:
                got = self._file.readinto(room[done:])
            except OSError as error:
                raise FormatError(f"cannot be read: {reason(error)}", address=self.address) from None
            if got == 0:
                break
            done += got or 0  # None: nothing there, whatever poll said
        self._owed = max(0, self._owed - done)
        return done

    def spool(self) -> str:
        """The name of a temporary file that holds the rest, and stands until the stream is closed."""
        if self._spool is None:
            import tempfile  # which loads some twenty modules

            try:
                descriptor, self._spool = tempfile.mkstemp(".h5", "gn-", spool_folder())
                clear_later(self._spool, partial(os.unlink, self._spool))
                with open(descriptor, "wb", buffering=0) as file:
                    self.copy(file, None)
            except OSError as error:
                raise no_room(error, self.address) from None
        return self._spool

    def copy(self, file: io.FileIO, nbytes: int | None) -> int:
        """Write the next `nbytes` to a temporary file, or all there are; the count of them."""
        room, copied = memoryview(bytearray(CHUNK)), 0
        while nbytes is None or copied < nbytes:
            got = self.fill(room if nbytes is None else room[: nbytes - copied])
            write_all(file, room[:got])
            if copied < LARGE <= copied + got:
                tell_of_spool(self.address)
            copied += got
            if got == 0:
                break
        return copied

    def close(self) -> None:
        """Who still writes to the pipe is told by SIGPIPE."""
        is_cleared(self)
        _OPEN.pop(self.address, None)
        if self._spool is not None:
            is_cleared(self._spool)
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._spool)
        if self.address == "-" and self._poll is not None:
            with open(os.devnull, "rb") as nothing:  # the number 0 is not to go to another file
                os.dup2(nothing.fileno(), self._file.fileno())
        elif self._poll is not None:
            self._file.close()

    def _peek(self, count: int) -> bytes:
        self.skip()
        if len(self._ahead) < count:
            ahead, self._ahead = self._ahead, b""
            self._ahead = ahead + self.take(count - len(ahead))
        return self._ahead[:count]


def standard_output() -> Binary:
    """For bytes. Raises OutputError where it is a terminal, or closed, or has broken off."""
    if _BROKEN:
        hint = "broke off within a tensor; nothing more is written to it"
        raise OutputError(hint, address="standard output")
    if sys.stdout is None or sys.__stdout__ is None:
        raise OutputError("is closed; write to a file with -o", address="standard output")
    if sys.stdout.isatty():
        raise OutputError("is a terminal; pipe it on, or write to a file with -o", address="standard output")
    try:
        descriptor = sys.stdout.fileno()
    except OSError:  # in a test, say
        return cast("io.BufferedIOBase", sys.stdout.buffer)
    _widen(descriptor)
    return io.FileIO(descriptor, "wb", closefd=False)


def break_off() -> None:
    """Have nothing more written to standard output by this command."""
    _BROKEN.add("-")
    clear_later(standard_output, _BROKEN.clear)


def write_all(file: Binary, data: memoryview) -> None:
    """All of `data`, also where a call takes only a part or, on a pipe that does not block, nothing."""
    done = 0
    while done < len(data):
        taken = file.write(data[done:])
        if taken is None:
            select.select([], [file], [])
        done += taken or 0


def _standard_input() -> Binary:
    if sys.stdin is None:
        raise AddressError("standard input is closed; name a file", address="-")
    try:
        return io.FileIO(sys.stdin.fileno(), "rb", closefd=False)
    except OSError:  # in a test, say
        return cast("io.BufferedIOBase", sys.stdin.buffer)


def _open_pipe(path: str) -> io.FileIO | None:
    try:
        mode = os.stat(path).st_mode
        if stat.S_ISREG(mode) or stat.S_ISDIR(mode):
            return None
    except (OSError, ValueError):  # what is wrong is said where a file is opened
        return None
    try:
        return io.FileIO(path, "rb")
    except OSError as error:
        raise AddressError(reason(error), address=path) from None


def _widen(descriptor: int) -> None:
    with contextlib.suppress(ImportError, AttributeError, OSError):  # no pipe, no Linux, or no more for us
        import fcntl

        fcntl.fcntl(descriptor, fcntl.F_SETPIPE_SZ, PIPE)


def spool_folder() -> str:
    """$TMPDIR, and no other where that is set: Python would go on to /tmp without a word."""
    from tempfile import gettempdir

    return os.environ.get("TMPDIR") or gettempdir()


def tell_of_spool(address: str) -> None:
    say(
        "note",
        f"{address}: more than {LARGE // 1_000_000} MB go through a temporary file in {spool_folder()}",
    )


def no_room(error: OSError, address: str) -> OutputError:
    hint = "set TMPDIR to a folder with room"
    return OutputError(f"cannot be kept in {spool_folder()}: {reason(error)}; {hint}", address=address)
