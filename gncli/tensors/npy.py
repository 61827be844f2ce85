"""Tensors in .npy files, read and written by position, never as a whole."""

from __future__ import annotations

import io
import math
import os
import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gncli.errors import AddressError, FormatError
from gncli.layout import Run
from gncli.tensors.address import NPY_MAGIC, open_file, pasted, require_numeric, split
from gncli.tensors.npy_header import Check, Header, header_bytes, read_header
from gncli.tensors.permissions import DEFAULT_MODE
from gncli.tensors.positioned import POSITIONED, drain, fill
from gncli.tensors.staging import Joined, Staged


class NpySource:
    """The tensor in an open .npy file. Raises FormatError where the file is not as its header says."""

    @property
    def forkable(self) -> bool:
        """Forked processes share the file's one position."""
        return POSITIONED

    def __init__(
        self, address: str, file: io.FileIO, path: str | None = None, *, check: Check = require_numeric
    ) -> None:
        self.address = address
        self._file = file
        self._check = check
        self._path = path or split(address)[0]
        self._lock = threading.Lock()
        try:
            file.seek(0)
            header = read_header(file.read, address, check)
            _check_size(header, file, address)
        except BaseException:
            file.close()
            raise
        self.shape, self.dtype, self.fortran = header.shape, header.dtype, header.fortran
        self._offset = header.offset

    def read(self, runs: Sequence[Run], buffer: NDArray[Any]) -> NDArray[Any]:
        """The runs' elements, one after another, in the front of `buffer`. From any thread."""
        itemsize = self.dtype.itemsize
        done = 0
        for start, count in runs:
            # As bytes: memoryview.cast knows no foreign byte order.
            block = buffer[done : done + count].view(np.uint8)
            fill(block, self._offset + start * itemsize, self._read_once, self.address)
            done += count
        return buffer[:done]

    def abandon(self) -> None:
        """No reader of a file waits."""

    def close(self) -> None:
        self._file.close()

    def __reduce__(self) -> tuple[Callable[..., NpySource], tuple[Any, ...]]:
        held = os.fstat(self._file.fileno())
        state = held.st_size, held.st_mtime_ns
        return _open_again, (self.address, os.path.abspath(self._path), *state, self._check)

    def _read_once(self, view: memoryview, offset: int) -> int:
        if POSITIONED:
            return os.preadv(self._file.fileno(), [view], offset)
        with self._lock:
            self._file.seek(offset)
            return self._file.readinto(view)


def _open_again(address: str, path: str, size: int, mtime_ns: int, check: Check) -> NpySource:
    """In another process, perhaps on another machine. Raises AddressError unless it is the same file."""
    file = open_file(path)
    held = os.fstat(file.fileno())
    if (held.st_size, held.st_mtime_ns) != (size, mtime_ns):
        file.close()
        message = f"{path} has {held.st_size} bytes and another time of change than the file of {size} bytes"
        raise AddressError(message, address=address)
    return NpySource(address, file, path, check=check)


class NpyPart:
    """Where the values of an .npy that is being written go. Any process may have one, by pickling it."""

    positioned = True

    def __init__(self, address: str, staged: Joined, offset: int, nbytes: int, dtype: np.dtype[Any]) -> None:
        self.address = address
        self._staged, self._offset, self._nbytes, self._dtype = staged, offset, nbytes, dtype
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[type[NpyPart], tuple[Any, ...]]:
        return NpyPart, (self.address, self._staged, self._offset, self._nbytes, self._dtype)

    def reserve(self) -> None:
        """Take the space that the file will need."""
        self._staged.reserve(self._nbytes)

    def target(self, runs: Sequence[Run], buffer: NDArray[Any]) -> NDArray[Any]:
        """Where the runs' values are to be put for `write`."""
        return buffer[: sum(count for _, count in runs)]

    def pack(self, runs: Sequence[Run], values: NDArray[Any]) -> NDArray[Any]:
        """Never asked for: `write` is for any thread."""
        return values

    def write(self, runs: Sequence[Run], values: NDArray[Any]) -> None:
        """Write `values`, the runs' elements one after another. From any thread, in any order."""
        values = np.ascontiguousarray(values, self._dtype)
        done = 0
        for start, count in runs:
            block = values[done : done + count].view(np.uint8)
            self._put(block, self._offset + start * self._dtype.itemsize)
            done += count

    def _put(self, block: NDArray[np.uint8], offset: int) -> None:
        try:
            drain(block, offset, self._write_once)
        except OSError as error:
            raise self._staged.failure(error) from None

    def _write_once(self, view: memoryview, offset: int) -> int:
        file = self._staged.file
        if POSITIONED:
            return os.pwrite(file.fileno(), view, offset)
        with self._lock:
            file.seek(offset)
            return file.write(view)


class NpySink(NpyPart):
    """A new .npy file, version 1.0, as np.save writes it, in the order of axes of `fortran`."""

    def __init__(
        self,
        target: str,
        shape: tuple[int, ...],
        dtype: np.dtype[Any],
        fortran: bool,
        *,
        force: bool,
        mode: int = DEFAULT_MODE,
    ) -> None:
        dtype = dtype.newbyteorder("=")
        header = header_bytes(shape, dtype, fortran)
        nbytes = len(header) + math.prod(shape) * dtype.itemsize
        self._whole = Staged(target, force=force, mode=mode)
        super().__init__(target, self._whole, len(header), nbytes, dtype)
        try:
            self._whole.extend(nbytes)
            self._put(np.frombuffer(header, np.uint8), 0)
        except BaseException:
            self._whole.discard()
            raise

    def commit(self) -> None:
        self._whole.commit()

    def discard(self) -> None:
        self._whole.discard()


def _check_size(header: Header, file: io.FileIO, address: str) -> None:
    """Raise FormatError unless the file ends where the array that the header declares ends."""
    held = os.fstat(file.fileno()).st_size - header.offset
    if held < header.nbytes:
        message = f"is truncated: its header declares {header.nbytes} bytes of data, the file holds {held}"
        raise FormatError(message, address=address)
    if held > header.nbytes:
        file.seek(header.offset + header.nbytes)
        another = file.read(len(NPY_MAGIC)) == NPY_MAGIC
        raise FormatError(_several(address) if another else _too_long(header, held, address), address=address)


def _several(address: str) -> str:
    pipe = f"`gn ... - < {pasted(address)}`"
    return f"holds several arrays, one after another; give it as a pipe, {pipe}, or save each in its own file"


def _too_long(header: Header, held: int, address: str) -> str:
    """The message for `held` bytes of data, which are more than the header declares."""
    found = f"has {held - header.nbytes} bytes after its data ({header.nbytes} bytes)"
    count, rest = divmod(held, header.dtype.itemsize)
    if rest:
        return f"{found}, neither another array nor whole elements of {header.dtype.name}; write it again"
    # The slowest axis is the one that grows when an array is appended to.
    others = header.shape[:-1] if header.fortran else header.shape[1:]
    shape: tuple[int, ...] = (count,)
    if math.prod(others) and count % math.prod(others) == 0:
        length = count // math.prod(others)
        shape = (*others, length) if header.fortran else (length, *others)
    order = ", order='F'" if header.fortran else ""
    read = f"np.fromfile({address!r}, {header.dtype.str!r}, offset={header.offset}).reshape({shape}{order})"
    looks = f"the shape in its header, {header.shape}, looks too small for {count} elements"
    return f"{found}: {looks}; if all are wanted, save this with np.save: {read}"
