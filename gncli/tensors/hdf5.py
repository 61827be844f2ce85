"""Tensors in HDF5 files: found by path or glob, read by block. Imported when such a file is met."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from gncli.errors import AddressError, FormatError, GnError
from gncli.layout import Run
from gncli.tensors.address import LISTED, candidates, near, pasted, require_numeric

MIN_CACHE, MAX_CACHE = 2**20, 2**26  # bytes of chunks that HDF5 may keep of one open dataset


class Hdf5Source:
    """The dataset `name` of the HDF5 file at `path`. Raises AddressError, FormatError."""

    fortran = False
    forkable = False  # the library's own state would be shared

    def __init__(self, path: str, name: str) -> None:
        self.path, self.name = path, name
        self.address = f"{path}::{name}"
        self._file = open_file(path)
        try:
            with translated(FormatError, self.address):
                self.dataset = open_dataset(self._file, name)
            self.dtype: np.dtype[Any] = _numeric_dtype(self.dataset, self.address)
            self.shape: tuple[int, ...] = self.dataset.shape
            self.home: str = self.dataset.file.filename  # not `path`, where an external link led here
        except BaseException:
            self._file.close()
            raise

    def read(self, runs: Sequence[Run], buffer: NDArray[Any]) -> NDArray[Any]:
        """The runs' elements, one after another, in the front of `buffer`. Under h5py's one lock."""
        done = 0
        with translated(FormatError, self.address):
            for run in runs:
                for offset, extent in hyperslabs(run, self.shape):
                    block = buffer[done : done + math.prod(extent)]
                    in_memory, in_file = select(self.dataset, offset, extent)
                    self.dataset.id.read(in_memory, in_file, block)
                    done += block.size
        return buffer[:done]

    def abandon(self) -> None:
        """No reader of a file waits."""

    def close(self) -> None:
        self._file.close()


def find(path: str, pattern: str | None) -> list[tuple[str, tuple[int, ...]]]:
    """Path and shape of the numeric datasets that `pattern` names: a path, a glob, None for all.

    Each once, under its first name. Raises AddressError where there is none.
    """
    with open_file(path) as file, translated(FormatError, path):
        if pattern is not None and (thing := lookup(file, pattern)) is not None:
            return [(pattern, _dataset_shape(path, pattern, thing))]
        everything = list(walk(file))
        seen = set()
        found = []
        for name, dataset in everything:
            if (pattern is None or _matches(name, pattern)) and dataset not in seen:
                seen.add(dataset)
                if _is_numeric(dataset):
                    found.append((name, dataset.shape))
        if not found:
            names = [name for name, _ in everything]
            raise AddressError(_nothing(path, pattern, names, bool(seen)), address=path)
        return found


def walk(file: h5py.File, *, hard: bool = False) -> Iterator[tuple[str, h5py.Dataset]]:
    """Every dataset by every path to it within the file; with `hard`, not those by soft links."""
    links: list[tuple[str, object]] = []
    file.visititems_links(lambda name, link: links.append((f"/{name}", link)))
    kinds = (h5py.HardLink,) if hard else (h5py.HardLink, h5py.SoftLink)
    for name, link in links:
        if isinstance(link, kinds) and isinstance(thing := lookup(file, name), h5py.Dataset):
            yield name, thing


def lookup(file: h5py.File, name: str) -> Any:
    """The object at `name`, or None: a link that leads nowhere is nothing."""
    try:
        return file[name]
    except (KeyError, OSError, RuntimeError, ValueError):
        return None


def hyperslabs(run: Run, shape: tuple[int, ...]) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
    """(offset, extent) of the boxes that hold a run of a C-order tensor of `shape`, in order.

    Each box is one unbroken piece of the run; there are fewer than twice as many as axes.
    """
    start, count = run
    strides = [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]
    while count:
        offset, extent = [], list(shape)
        rest = start
        for axis, stride in enumerate(strides):
            offset.append(rest // stride)
            rest %= stride
            extent[axis] = min(shape[axis] - offset[axis], count // stride)
            if extent[axis] and not rest:  # from here on the box is whole rows of this axis
                offset += [0] * (len(shape) - axis - 1)
                break
            extent[axis] = 1
        yield tuple(offset), tuple(extent)
        size = math.prod(extent)
        start, count = start + size, count - size


def select(dataset: h5py.Dataset, offset: tuple[int, ...], extent: tuple[int, ...]) -> tuple[Any, Any]:
    """The dataspaces of a box, as 1-D in memory and where it lies in the file."""
    in_file = dataset.id.get_space()
    if extent:  # of a scalar, all there is
        in_file.select_hyperslab(offset, extent)
    return h5py.h5s.create_simple((math.prod(extent),)), in_file


def open_file(path: str, mode: str = "r") -> h5py.File:
    """The HDF5 file at `path`. Raises AddressError where it is locked, FormatError where it is broken."""
    try:
        return h5py.File(path, mode)
    except BlockingIOError:
        raise AddressError("is open for writing elsewhere; close it there first", address=path) from None
    except (OSError, RuntimeError, ValueError) as error:
        raise FormatError(f"cannot be opened as HDF5: {h5py_reason(error)}", address=path) from None


def open_dataset(file: h5py.File, name: str) -> h5py.Dataset:
    """The dataset, with a cache for all chunks that a pass in storage order has in hand at once.

    With less, every chunk would be inflated again for every row that crosses it.
    """
    dataset = file[name]
    chunks = dataset.chunks
    if chunks is None:
        return dataset
    across = [-(-length // chunk) for length, chunk in zip(dataset.shape[1:], chunks[1:], strict=True)]
    chunk_bytes = math.prod(chunks) * dataset.dtype.itemsize
    nbytes = min(max(math.prod(across) * chunk_bytes, MIN_CACHE), MAX_CACHE)
    # HDF5's advice: a hundred slots a chunk, so that no two share one. w0 = 1: what is done goes first.
    slots = min(100 * (nbytes // chunk_bytes) + 1, 2**20 - 1)
    access = h5py.h5p.create(h5py.h5p.DATASET_ACCESS)
    access.set_chunk_cache(slots, nbytes, 1.0)
    del dataset  # an object that is open already would keep its first cache
    return h5py.Dataset(h5py.h5d.open(file.id, name.encode("utf-8", "surrogateescape"), access))


@contextmanager
def translated(kind: type[GnError], address: str, what: str = "cannot be read") -> Iterator[None]:
    """What h5py raises within, as a `kind` on one line."""
    try:
        yield
    except (OSError, RuntimeError, ValueError, TypeError, KeyError) as error:
        raise kind(f"{what}: {h5py_reason(error)}", address=address) from None


def h5py_reason(error: Exception) -> str:
    """The core of h5py's message: the system's words if it quotes them, else the innermost cause."""
    text = " ".join(str(error).strip("'\"").split())
    match = re.search(r"error message = '([^']+)'", text) or re.search(r"\((.+)\)", text)
    text = (match[1] if match else text)[:200]
    return text[:1].lower() + text[1:]


def _dataset_shape(path: str, name: str, thing: Any) -> tuple[int, ...]:
    if isinstance(thing, h5py.Dataset):
        _numeric_dtype(thing, f"{path}::{name}")
        shape: tuple[int, ...] = thing.shape
        return shape
    prefix = name.rstrip("/") + "/"
    inside = [(n, d.shape) for n, d in walk(thing.file) if n.startswith(prefix) and _is_numeric(d)]
    if inside:
        message = f"is a group; name a dataset: {candidates(path, inside)}"
    else:
        message = "is not a dataset, and holds no numeric one"
    raise AddressError(message, address=f"{path}::{name}")


def _numeric_dtype(dataset: h5py.Dataset, address: str) -> np.dtype[Any]:
    """The dtype, if gn can take it; else a FormatError."""
    if not isinstance(dataset, h5py.Dataset):
        raise AddressError("is not a dataset", address=address)
    try:
        dtype: np.dtype[Any] = dataset.dtype
    except TypeError as error:
        raise FormatError(f"has a type that numpy lacks: {h5py_reason(error)}", address=address) from None
    if dataset.shape is None:
        raise FormatError("is empty: it has a type and no shape", address=address)
    if dtype.hasobject:  # h5py's way with what has no fixed size
        raise FormatError("holds strings, references or lists; gn takes numbers", address=address)
    if dtype.kind in "iu" and h5py.check_enum_dtype(dtype) is not None:
        raise FormatError("holds an enumeration; save its values as integers", address=address)
    require_numeric(dtype, address)
    return dtype


def _is_numeric(dataset: h5py.Dataset) -> bool:
    try:
        _numeric_dtype(dataset, "")
    except FormatError:
        return False
    return True


def _matches(name: str, pattern: str) -> bool:
    """As in a shell: `*` stays within one part of the path, `**` stands for any number of them."""

    def match(parts: list[str], patterns: list[str]) -> bool:
        if not patterns:
            return not parts
        if patterns[0] == "**":
            return any(match(parts[skip:], patterns[1:]) for skip in range(len(parts) + 1))
        return bool(parts) and fnmatchcase(parts[0], patterns[0]) and match(parts[1:], patterns[1:])

    return match(name.split("/"), pattern.split("/"))


def _nothing(path: str, pattern: str | None, names: list[str], matched: bool) -> str:
    if matched or (pattern is None and names):
        return "no numeric dataset there; gn takes float16, float32, float64 and integers"
    if pattern is None:
        return "holds no dataset"
    close = near(pattern, names)
    shown = ", ".join(pasted(f"{path}::{name}") for name in (close or names)[:LISTED])
    return f"no dataset {pattern!a}; " + (
        f"did you mean {shown}?" if close else f"it holds {shown or 'none'}"
    )
