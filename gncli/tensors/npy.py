"""Tensors in .npy files, read and written by position, never as a whole.

The format: https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html
"""

from __future__ import annotations

import io
import math
import os
import re
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gncli.errors import AddressError, FormatError
from gncli.layout import Run
from gncli.tensors.address import NPY_MAGIC, open_file, require_numeric, split
from gncli.tensors.positioned import POSITIONED, drain, fill
from gncli.tensors.staging import Joined, Staged

MAX_HEADER = 64 * 1024  # bytes; of one tensor's, rank 64 and all, hardly 1500 are not padding
MAX_RANK = 64  # numpy's own

# The header is the text of a Python dict. Three entries of fixed form need no evaluator, which a
# stranger could make to recurse, to warn or to fill memory. The L is Python 2's.
BLANKS = " \t\n"
_B = f"[{BLANKS}]*"
_LENGTH = rf"(?:0|[1-9]\d{{0,18}})L?{_B}"
_TUPLE = rf"\({_B}(?:(?:{_LENGTH},{_B})+(?:{_LENGTH})?)?\)"
_ENTRY = re.compile(
    rf"""(?P<quote>['"])(?P<key>descr|fortran_order|shape)(?P=quote){_B}:{_B}"""
    rf"""(?P<value>'[^'"\\]*'|"[^'"\\]*"|True|False|{_TUPLE}){_B}(?:,{_B}|$)""",
    re.ASCII,
)
_STRUCTURED = re.compile(r"""['"]descr['"]\s*:\s*[\[(]""", re.ASCII)
_DESCR = re.compile(r"[<>|=]?(?:O|[biufcmMSUV]\d{1,9}(?:\[\w{1,9}\])?)", re.ASCII)

Check = Callable[[np.dtype[Any], str], None]


@dataclass(frozen=True)
class Header:
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    fortran: bool
    offset: int  # of the first element, in bytes


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
            _check_size(header, os.fstat(file.fileno()).st_size - header.offset, address)
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
        self, target: str, shape: tuple[int, ...], dtype: np.dtype[Any], fortran: bool, *, force: bool
    ) -> None:
        dtype = dtype.newbyteorder("=")
        header = header_bytes(shape, dtype, fortran)
        nbytes = len(header) + math.prod(shape) * dtype.itemsize
        self._whole = Staged(target, force=force)
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


def read_header(read: Callable[[int], bytes], address: str, check: Check = require_numeric) -> Header:
    """The header at the front of what `read(count)` gives; it gives fewer bytes only at the end.

    `check` raises FormatError for a dtype that the caller cannot take.
    Nothing of a size that the header claims is allocated. Raises FormatError.
    """
    start = read(8)
    major, minor = start[6:8] if start.startswith(NPY_MAGIC) and len(start) == 8 else (0, 0)
    if (major, minor) not in ((1, 0), (2, 0), (3, 0)):
        message = f"has .npy version {major}.{minor}; gn reads 1.0, 2.0 and 3.0"
        raise FormatError(message, address=address)
    wide = 2 if major == 1 else 4
    field = read(wide)
    length = int.from_bytes(field, "little")
    if length > MAX_HEADER:
        message = f"declares a header of {length} bytes; of one tensor it has at most {MAX_HEADER}"
        raise FormatError(message, address=address)
    body = read(length)
    held, offset = 8 + len(field) + len(body), 8 + wide + length
    if held < offset:
        message = f"is cut off in its header, at {held} of {offset} bytes; write it again"
        raise FormatError(message, address=address)
    shape, dtype, fortran = _parse(body.decode("utf-8" if major == 3 else "latin-1", "replace"), address)
    check(dtype, address)
    # numpy counts in int64, and leaves out the zeros when it checks that the product fits.
    if len(shape) > MAX_RANK or math.prod(filter(None, shape)) * dtype.itemsize >= 2**63:
        raise FormatError(f"declares an absurd shape, {shape}", address=address)
    return Header(shape, dtype, fortran and len(shape) > 1, offset)


def _parse(text: str, address: str) -> tuple[tuple[int, ...], np.dtype[Any], bool]:
    """shape, dtype and fortran_order of the header's text. Raises FormatError."""
    if _STRUCTURED.search(text):
        raise FormatError("has a structured or sub-array dtype; save one field of it", address=address)
    text = text.strip(BLANKS)
    entries: dict[str, str] = {}
    if text[:1] == "{" and text[-1:] == "}":
        body = text[1:-1].strip(BLANKS)
        position = 0
        while (match := _ENTRY.match(body, position)) and match["key"] not in entries:
            entries[match["key"]] = match["value"]
            position = match.end()
        if position < len(body):
            entries.clear()
    descr, order, shape = (entries.get(key, "") for key in ("descr", "fortran_order", "shape"))
    if descr[:1] not in ("'", '"') or order not in ("True", "False") or shape[:1] != "(":
        shown = ascii(text if len(text) <= 80 else text[:80] + "...")
        raise FormatError(f"has a header that is not of an .npy: {shown}", address=address)
    dtype = _parse_dtype(descr[1:-1], address)
    return tuple(int(digits) for digits in re.findall(r"\d+", shape)), dtype, order == "True"


def _parse_dtype(descr: str, address: str) -> np.dtype[Any]:
    try:
        # np.dtype alone would take lists of fields, aliases and what it warns about.
        dtype = np.dtype(descr) if _DESCR.fullmatch(descr) else None
    except (TypeError, ValueError):
        dtype = None
    if dtype is None:
        raise FormatError(f"has a dtype that gn does not know: {descr!a}", address=address)
    return dtype


def _check_size(header: Header, held: int, address: str) -> None:
    """Raise FormatError unless `held` bytes are what the header declares."""
    declared = math.prod(header.shape) * header.dtype.itemsize
    if held < declared:
        message = f"is truncated: its header declares {declared} bytes of data, the file holds {held}"
        raise FormatError(message, address=address)
    if held > declared:
        message = f"has {held - declared} bytes after its data ({declared} bytes); cut them off"
        raise FormatError(message, address=address)


def header_bytes(shape: tuple[int, ...], dtype: np.dtype[Any], fortran: bool) -> bytes:
    text = io.BytesIO()
    entries = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": fortran, "shape": shape}
    np.lib.format.write_array_header_1_0(text, entries)
    return text.getvalue()
