"""Tensors on a pipe: one .npy after another, each read and written once, in storage order.

What cannot be done in that order goes through a temporary file in $TMPDIR.
"""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gncli.errors import FormatError, OutputError
from gncli.layout import Run
from gncli.tensors.address import reason, require_numeric
from gncli.tensors.npy import NpySink, NpySource
from gncli.tensors.npy_header import Check, header_bytes, read_header
from gncli.tensors.pipe import (
    CHUNK,
    LARGE,
    Binary,
    Stream,
    break_off,
    no_room,
    spool_folder,
    standard_output,
    tell_of_spool,
    write_all,
)


class StreamSource:
    """One tensor of a stream. Readers wait for their turn: blocks are to be asked for in storage order."""

    forkable = False

    def __init__(self, stream: Stream, check: Check = require_numeric) -> None:
        self._stream, self._check = stream, check
        self.address = stream.address
        stream.skip()
        header = read_header(stream.take, stream.address, check)
        self.shape, self.dtype, self.fortran = header.shape, header.dtype, header.fortran
        self._place = 0  # of the next element
        self._turn = threading.Condition()
        stream.begin(self.nbytes)

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    def read(self, runs: Sequence[Run], buffer: NDArray[Any]) -> NDArray[Any]:
        """The runs' elements, one after another, in the front of `buffer`. From any thread, in turn."""
        count = sum(count for _, count in runs)
        with self._turn:
            while self._place != runs[0][0] and not self._stream.abandoned:
                self._turn.wait()
            try:
                self._fill(buffer[:count].view(np.uint8).data)
                self._place += count
            except BaseException:
                self._stream.abandoned = True
                raise
            finally:
                self._turn.notify_all()
        return buffer[:count]

    def spooled(self) -> NpySource:
        """The tensor in a temporary file, which has no name: to be read in any order, and more than once."""
        import tempfile  # which loads some twenty modules

        try:
            file = tempfile.TemporaryFile(buffering=0, dir=spool_folder())  # noqa: SIM115 - the source closes it
            header = header_bytes(self.shape, self.dtype, self.fortran)
            write_all(file, memoryview(header))
            copied = self._stream.copy(file, self.nbytes)
        except OSError as error:
            raise no_room(error, self.address) from None
        if copied < self.nbytes:
            raise self._truncated(copied)
        return NpySource(self.address, file, check=self._check)

    def abandon(self) -> None:
        """Let go of the readers that wait for data, or for their turn."""
        self._stream.abandoned = True
        with self._turn:
            self._turn.notify_all()

    def close(self) -> None:
        """The stream stays open, for the tensor after this."""

    def _fill(self, room: memoryview) -> None:
        got = self._stream.fill(room)
        if got < len(room):
            raise self._truncated(self._place * self.dtype.itemsize + got)

    def _truncated(self, held: int) -> FormatError:
        declared = f"its header declares {self.nbytes} bytes of data, the stream holds {held}"
        return FormatError(f"is truncated: {declared}", address=self.address)


class StreamSink:
    """A tensor on standard output, to be written in storage order.

    One that breaks off is the last: another after it would be taken for the rest of it.
    """

    positioned = False
    address = "-"

    def __init__(self, shape: tuple[int, ...], dtype: np.dtype[Any], fortran: bool) -> None:
        self._dtype = dtype.newbyteorder("=")
        self._header = header_bytes(shape, self._dtype, fortran)
        self._file = standard_output()
        self._begun = False

    def reserve(self) -> None:
        """A pipe has no space to take."""

    def target(self, runs: Sequence[Run], buffer: NDArray[Any]) -> NDArray[Any]:
        """Where the runs' values are to be put for `write`."""
        return buffer[: sum(count for _, count in runs)]

    def pack(self, runs: Sequence[Run], values: NDArray[Any]) -> NDArray[Any]:
        return values.copy()

    def write(self, runs: Sequence[Run], values: NDArray[Any]) -> None:
        self._begin()
        _put(self._file, np.ascontiguousarray(values, self._dtype).view(np.uint8).data)

    def commit(self) -> None:
        self._begin()
        self._begun = False

    def discard(self) -> None:
        """What is gone down a pipe is gone."""
        if self._begun:
            break_off()

    def _begin(self) -> None:
        if not self._begun:
            self._begun = True
            _put(self._file, memoryview(self._header))


class SpooledSink(NpySink):
    """A tensor for standard output that is not written in storage order: by way of a temporary file."""

    def __init__(self, shape: tuple[int, ...], dtype: np.dtype[Any], fortran: bool) -> None:
        self._out = standard_output()
        name = os.path.join(spool_folder(), f"gn-{os.urandom(4).hex()}.npy")
        super().__init__(name, shape, dtype, fortran, force=False, mode=0o600)  # others see the folder
        self.address = "-"
        if self._nbytes >= LARGE:
            tell_of_spool("-")

    def commit(self) -> None:
        file = self._staged.file
        file.seek(0)
        room = memoryview(bytearray(CHUNK))
        while got := file.readinto(room):
            _put(self._out, room[:got])
        self.discard()


def _put(file: Binary, data: memoryview) -> None:
    try:
        write_all(file, data)
    except BrokenPipeError:
        raise
    except OSError as error:
        break_off()
        raise OutputError(f"cannot be written: {reason(error)}", address="standard output") from None
