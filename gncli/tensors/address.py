"""Addresses, FILE or FILE::/path/in/file, and what stands there, told by its first bytes."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from io import FileIO
from typing import Any, Literal

import numpy as np

from gncli.errors import AddressError, FormatError, UsageError
from gncli.words import quoted

NPY_MAGIC = b"\x93NUMPY"
HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"
# What else people call a tensor file, by its first bytes, and the way out.
STRANGERS = {
    b"PK\x03\x04": "a zip archive; if it is an .npz, unzip it and give the .npy files in it",
    b"CDF": "classic netCDF; convert it with `nccopy -k nc4`",
    b"\x1f\x8b": "compressed by gzip; gunzip it first",
}
# The suffix of an output says its kind. The first of each kind is what an output is called by default.
HDF5_SUFFIXES = (".h5", ".hdf5", ".hdf", ".he5", ".nc", ".nc4", ".h5ad", ".mat")
SUFFIXES = {".npy": "npy", **dict.fromkeys(HDF5_SUFFIXES, "hdf5")}
_COLONS = re.compile("(?=::)")
LISTED = 20  # candidates shown in one error


def split(address: str) -> tuple[str, str | None]:
    """The file and the path in it: `f.h5::conv1` is ("f.h5", "/conv1"), `x.npy` is ("x.npy", None)."""
    places = [found.start() for found in _COLONS.finditer(address)]
    if not places or os.path.exists(address):  # a file may have `::` in its own name
        return address, None
    place = places[0]
    if len(places) > 1:
        place = next((place for place in reversed(places) if os.path.isfile(address[:place])), place)
    path, name = address[:place], address[place + 2 :]
    if suffix(path) not in SUFFIXES and suffix(address) in SUFFIXES:
        return address, None  # such a file that is yet to be
    return path, "/" + "/".join(part for part in name.split("/") if part)


def name_in_hdf5(address: str) -> str:
    """The path of what becomes of the input in an HDF5 file: that in the input's file, or the file's name."""
    path, name = split(address)
    stem = os.path.splitext(os.path.basename(path))[0]
    return name or "/" + (stem.strip("-.") or "tensor")


def suffix(path: str) -> str:
    return os.path.splitext(path)[1].lower()


def kind_of(path: str) -> str | None:
    """Of an output, as its suffix says; None where it says nothing."""
    return SUFFIXES.get(suffix(path))


def require_written(path: str) -> None:
    """Raise UsageError where an output's suffix is one that gn does not write."""
    if suffix(path) and kind_of(path) is None:
        written = f"it writes {', '.join(SUFFIXES)}, and without a suffix the format of the input"
        raise UsageError(f"gn does not write {suffix(path)} files; {written}", address=path)


def open_file(path: str) -> FileIO:
    """The regular file at `path`, unbuffered, for reading. Raises AddressError."""
    if not path:
        raise AddressError("'' names no file; give a path, or - for standard input", address=path)
    try:
        # Without O_NONBLOCK, opening a FIFO that nobody writes would hang before it can be told apart.
        file = FileIO(path, "rb", opener=lambda p, flags: os.open(p, flags | getattr(os, "O_NONBLOCK", 0)))
    except FileNotFoundError:
        if os.path.islink(path):
            message = f"is a link to '{os.readlink(path)}', where there is no file"
            raise AddressError(message, address=path) from None
        raise AddressError(f"no such file{_near_files(path)}", address=path) from None
    except IsADirectoryError:
        raise AddressError("is a directory; give the files in it", address=path) from None
    except NotADirectoryError:
        hint = "not a folder in its path; a dataset in a file is written FILE::/path"
        raise AddressError(hint, address=path) from None
    except OSError as error:
        raise AddressError(reason(error), address=path) from None
    except ValueError as error:  # a NUL in the name
        raise AddressError(f"not a file name: {error}", address=path) from None
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise AddressError("is not a regular file", address=path)  # since it was looked at as a pipe
    return file


def sniff(file: FileIO, address: str) -> Literal["npy", "hdf5"]:
    """What the file's first bytes say it is; its name says nothing. Raises FormatError."""
    size = os.fstat(file.fileno()).st_size
    start = file.read(len(HDF5_MAGIC))
    if start.startswith(NPY_MAGIC):
        return "npy"
    offset = 0
    while offset < size:  # a user block of 512, 1024, 2048, ... bytes may stand before the signature
        file.seek(offset)
        if file.read(len(HDF5_MAGIC)) == HDF5_MAGIC:
            return "hdf5"
        offset = 2 * offset or 512
    raise stranger(start, address)


def stranger(start: bytes, address: str) -> FormatError:
    """The error for what begins with `start`, and is neither .npy nor HDF5."""
    if not start:
        return FormatError("is empty (0 bytes); write it again", address=address)
    for magic, what in STRANGERS.items():
        if start.startswith(magic):
            return FormatError(f"is {what}", address=address)
    return FormatError(f"is neither .npy nor HDF5 (it begins with {start!r})", address=address)


def identity(address: str) -> tuple[int, ...] | None:
    """What tells whether the file at `address` is still the same; None where there is none, or a pipe."""
    try:
        held = os.stat(split(address)[0])
    except (OSError, ValueError):
        return None
    if not stat.S_ISREG(held.st_mode):
        return None
    # A program can set the time of change back; the time at which it did so is the system's own.
    return held.st_dev, held.st_ino, held.st_size, held.st_mtime_ns, held.st_ctime_ns


def change_check(*addresses: str | None) -> Callable[[], None]:
    """Return what raises FormatError if a file at one of `addresses` has changed since now.

    Another file there, or other content, is a change. A file may be removed.
    """
    before = [(address, identity(address)) for address in addresses if address is not None]

    def check() -> None:
        for address, state in before:
            now = identity(address)
            if state and now and now != state:
                hint = "was changed or replaced while it was read; try again"
                raise FormatError(hint, address=address)

    return check


@contextmanager
def unchanged(*addresses: str | None) -> Iterator[None]:
    """Raise FormatError at the end of the block if a file at one of `addresses` has changed meanwhile."""
    check = change_check(*addresses)
    yield
    check()


def require_numeric(dtype: np.dtype[Any], address: str) -> None:
    """Raise a FormatError that names `dtype`, unless it is an integer or float16, 32 or 64."""
    if dtype.kind in "iu" or (dtype.kind == "f" and dtype.itemsize <= 8):
        return
    if dtype.hasobject:
        message = "holds objects, which gn never unpickles; save it as numbers: x.astype('float32')"
    elif dtype.names is not None:
        message = f"has a structured dtype ({', '.join(map(ascii, dtype.names))}); save one field of it"
    else:
        message = f"has dtype {dtype.name}; gn takes float16, float32, float64 and integers"
    raise FormatError(message, address=address)


def require_number(dtype: np.dtype[Any], address: str) -> None:
    """Raise a FormatError unless `dtype` is numeric, bool, or complex of two float32 or float64."""
    if dtype.kind != "b" and not (dtype.kind == "c" and dtype.itemsize <= 16):
        require_numeric(dtype, address)


def reason(error: OSError) -> str:
    """The system's words for an error, as the rest of a sentence."""
    words = error.strerror or str(error) or type(error).__name__
    return words[:1].lower() + words[1:]


def candidates(path: str, tensors: Iterable[tuple[str, tuple[int, ...] | None]]) -> str:
    """Datasets of the file at `path` with their shapes, ready to paste: `'f.h5::/conv1' (4, 16)`."""
    shown = [f"{pasted(f'{path}::{name}')} {'(?)' if shape is None else shape}" for name, shape in tensors]
    more = f" and {len(shown) - LISTED} more" if len(shown) > LISTED else ""
    return ", ".join(shown[:LISTED]) + more


def pasted(address: str) -> str:
    """In quotes, as a shell takes it."""
    return quoted(address) if "'" in address or not address.isprintable() else f"'{address}'"


def near(word: str, words: Sequence[str]) -> list[str]:
    """Up to three of `words` that `word` may have been meant to be, the nearest first."""
    from difflib import get_close_matches  # only errors need it

    return get_close_matches(word, words, n=3)


def _near_files(path: str) -> str:
    folder, name = os.path.split(path)
    try:
        found = near(name, os.listdir(folder or "."))
    except OSError:
        return ""
    return "; did you mean " + ", ".join(os.path.join(folder, word) for word in found) + "?" if found else ""
