"""A tensor in an HDF5 file, read by block in one of three ways. Imported when such a file is met.

In place (hdf5_places), by raw chunks (hdf5_chunks), or else by HDF5 itself, which does one thing at a time.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import closing
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from gncli.errors import AddressError, BudgetError, FormatError
from gncli.layout import Box, Run
from gncli.tensors.hdf5_cf import find_decoding
from gncli.tensors.hdf5_chunks import ChunkReader, raw
from gncli.tensors.hdf5_errors import translated
from gncli.tensors.hdf5_filters import require_filters
from gncli.tensors.hdf5_find import numeric_dtype
from gncli.tensors.hdf5_frames import require_whole_chunks
from gncli.tensors.hdf5_grid import Grid, first_to_cut, hyperslabs
from gncli.tensors.hdf5_opened import Dataset, FileHeader
from gncli.tensors.hdf5_places import places, read_places
from gncli.tensors.hdf5_safety import lookup, open_file, require_own, require_stored

MOST_CACHED = 1 << 15  # chunks in HDF5's cache, where each takes a kilobyte besides its values
LEAST = 1 << 20  # bytes of chunks that are held whatever the budget


class NotThereError(AddressError):
    """No dataset has that name."""


class Hdf5Source:
    """The dataset `name` of the HDF5 file at `path`. Raises AddressError, FormatError.

    `external`: other files may be read, if the file names them. `force`: fill values may be read, where the
    file declares far more than it stores, and filters that damaged data can crash.
    `as_stored`: the numbers are not decoded (see `decoding`).
    `address` is what messages call it, by default both joined.
    """

    fortran = False
    _dtype_of = staticmethod(numeric_dtype)

    def __init__(
        self,
        path: str,
        name: str,
        *,
        external: bool = False,
        force: bool = False,
        as_stored: bool = False,
        address: str | None = None,
    ) -> None:
        self.path, self.name, self.external, self.as_stored = path, name, external, as_stored
        self.address = address or f"{path}::{name}"
        shown = self.address.removesuffix(f"::{name}")
        self._file = open_file(path, shown)
        self._closed = False
        try:
            with translated(FormatError, self.address):
                self._open(shown, force)
        except BaseException:
            self._file.close()
            raise

    def _open(self, shown: str, force: bool) -> None:
        dataset = self._file.found.pop(self.name, None)
        dataset = dataset or lookup(self._file, self.name, external=self.external, shown=shown)
        if not isinstance(dataset, Dataset):
            raise NotThereError("is not there any more", address=self.address)
        self.stored: np.dtype[Any] = self._dtype_of(dataset, self.address)
        require_own(dataset, self.address, external=self.external)
        self.dataset = dataset
        header = self._file.header_of(dataset, external=self.external)
        self.decoding = None if self.as_stored else find_decoding(dataset, header.is_netcdf)
        self.dtype = self.decoding.dtype if self.decoding else self.stored
        self.shape: tuple[int, ...] = dataset.shape
        self.home = header.path  # not `path`, where an external link led here
        if not force:
            require_stored(dataset, self._file, self.address)
        require_filters(dataset, self.address, force=force)
        self.version = oldest_version(dataset, header)
        self._descriptor = header.descriptor
        self._state = _state(self._descriptor)
        self.places = places(dataset, self._state[0])
        self._chunk_shape: tuple[int, ...] | None = dataset.chunks
        self.raw = raw(dataset) if self._chunk_shape else None
        self._chunks = None
        if self.raw and not self.places:
            self._chunks = ChunkReader(self.raw, self._descriptor, self.address)
        elif self._chunk_shape and not self.places:
            require_whole_chunks(dataset, self._descriptor, self.address)
        self.sink_share = LEAST

    @property
    def forkable(self) -> bool:
        """Not where HDF5 is asked, and not where threads share chunks."""
        return self.places is not None

    def hold(self, memory: int, jobs: int, itemsize: int = 0) -> tuple[int, int]:
        """What chunks in hand, of the source and of such a sink, leave of `memory` bytes, and of `jobs`.

        `itemsize`: of the sink, or 0 where there is none. Raises BudgetError.
        """
        self.sink_share = LEAST
        if self._chunk_shape is None or (self.places and itemsize in (0, self.stored.itemsize)):
            return memory, jobs
        jobs = min(jobs, self.decoders(memory, itemsize))
        grid = Grid(self.shape, self._chunk_shape)
        share = max(LEAST, memory // 4)
        if self._chunks:
            # Blocks that lie side by side share a band of chunks at each end.
            widest = grid.band * max(itemsize, self.stored.itemsize)
            jobs = max(1, min(jobs, share // widest - 1))
        wanted = [max(grid.size, (jobs + 1) * grid.band) * size for size in (self.stored.itemsize, itemsize)]
        held, self.sink_share = (min(share, nbytes) for nbytes in wanted)
        self._keep(held, grid.size * self.stored.itemsize)
        return memory - max(0, held - LEAST) - max(0, self.sink_share - LEAST), jobs

    def decoders(self, memory: int, itemsize: int = 0) -> int:
        """Return how many jobs may decode or encode chunks at once, in `memory` bytes of buffers.

        `itemsize`: of what the values become, if they do. Raises BudgetError where a chunk takes too much.
        """
        largest = math.prod(self._chunk_shape or ()) * max(itemsize, self.stored.itemsize)
        require_room("a chunk", largest, memory, self.address)
        # What it takes comes on top, as blocks' scratch does: five chunks for each job.
        return max(1, memory // (5 * max(largest, 1))) if self._chunks else sys.maxsize

    def _keep(self, nbytes: int, chunk_bytes: int) -> None:
        if self._chunks:
            self._chunks.most = nbytes
        elif not self.places:
            file, name = self.dataset.file, h5py.h5i.get_name(self.dataset.id)
            del self.dataset  # an object that is open already would keep its first cache
            self.dataset = open_dataset(file, name, nbytes, chunk_bytes)

    def read(self, runs: Sequence[Run], buffer: NDArray[Any]) -> NDArray[Any]:
        """The runs' elements, one after another, in the front of `buffer`. From any thread."""
        count = sum(count for _, count in runs)

        def read(stored: NDArray[Any]) -> NDArray[Any]:
            if self.places:
                return read_places(self._descriptor, self.places, runs, stored, self.address)
            return self._chunks.read(runs, stored) if self._chunks else self._read(runs, stored)

        return self._read_decoded(read, buffer[:count])

    def _read_decoded(
        self, read: Callable[[NDArray[Any]], NDArray[Any]], values: NDArray[Any]
    ) -> NDArray[Any]:
        """Return what `read` puts into an array of the stored dtype, decoded into `values` if need be."""
        if self.decoding is None:
            found = read(values)
        else:  # stored numbers are at most as wide: they are read into the end of the same memory
            stored = values.view(self.stored)[values.nbytes // self.stored.itemsize - values.size :]
            found = self.decoding.decode(read(stored), values)
        self._check_state()
        return found

    @property
    def chunks(self) -> tuple[int, ...] | None:
        """The shape of what has to be decoded as a whole; None where elements are read one by one."""
        return None if self.places or not self.dataset.size else self._chunk_shape

    def keep(self, nbytes: int) -> None:
        """Keep up to so many bytes of decoded chunks for the reads to come, and one in any case."""
        if self.chunks:
            self._keep(nbytes, math.prod(self.chunks) * self.stored.itemsize)

    def read_box(self, box: Box, buffer: NDArray[Any]) -> NDArray[Any]:
        """The elements of a box in C order, in the front of `buffer`. From any thread."""
        offset = tuple(start for start, _ in box)
        extent = tuple(stop - start for start, stop in box)
        by = self._chunks.read_box if self._chunks else self._read_box

        def read(stored: NDArray[Any]) -> NDArray[Any]:
            by(offset, extent, stored)
            return stored

        return self._read_decoded(read, buffer[: math.prod(extent)])

    def _check_state(self) -> None:
        if _state(self._descriptor) != self._state:
            message = "changed while it was read; try again when nobody writes it"
            raise FormatError(message, address=self.address)

    def _read(self, runs: Sequence[Run], buffer: NDArray[Any]) -> NDArray[Any]:
        done = 0
        for run in runs:
            for offset, extent in hyperslabs(run, self.shape):
                block = buffer[done : done + math.prod(extent)]
                self._read_box(offset, extent, block)
                done += block.size
        return buffer[:done]

    def abandon(self) -> None:
        """No reader of a file waits."""

    def _read_box(self, offset: tuple[int, ...], extent: tuple[int, ...], block: NDArray[Any]) -> None:
        if self._chunk_shape and (axis := first_to_cut(offset, extent, self._chunk_shape)) is not None:
            # HDF5 keeps a kilobyte of notes for each chunk of a read.
            half = extent[axis] // 2
            for start, length in ((0, half), (half, extent[axis] - half)):
                size = length * math.prod(extent[:axis] + extent[axis + 1 :])
                first = start * (block.size // extent[axis])
                self._read_box(
                    (*offset[:axis], offset[axis] + start, *offset[axis + 1 :]),
                    (*extent[:axis], length, *extent[axis + 1 :]),
                    block[first : first + size],
                )
            return
        with translated(FormatError, self.address):
            in_memory, in_file = select(self.dataset, offset, extent)
            self.dataset.id.read(in_memory, in_file, block)

    def close(self) -> None:
        """Close the dataset, and the file for this reader of it. Raises FormatError where HDF5 cannot."""
        if self._closed:
            return
        self._closed = True
        with translated(FormatError, self.address, "cannot be closed"):
            self.dataset.id.close()
            self._file.close()

    def __reduce__(self) -> tuple[Callable[..., Hdf5Source], tuple[Any, ...]]:
        state = self._state[:2]  # a copy of the file on another machine has a time of its own
        path = os.path.abspath(self.path)
        how = (path, self.name, self.external, self.as_stored, self.address, state)
        return _open_again, (type(self), *how)


def require_room(what: str, nbytes: int, memory: int, address: str) -> None:
    """Raise BudgetError where something that is held as a whole takes more than its share of `memory`."""
    if nbytes > max(LEAST, memory // 4):
        message = f"{what} takes {nbytes} bytes, and --memory {memory} is too little for it"
        raise BudgetError(f"{message}; use --memory {4 * nbytes}", address=address)


def _open_again(
    kind: type[Hdf5Source],
    path: str,
    name: str,
    external: bool,
    as_stored: bool,
    address: str,
    state: tuple[int, int],
) -> Hdf5Source:
    """In another process, perhaps on another machine. Raises AddressError unless it is the same file."""
    if not os.path.isfile(path):
        raise AddressError(f"{path}: no such file", address=address)
    source = kind(path, name, external=external, force=True, as_stored=as_stored, address=address)
    if source._state[:2] != state:
        source.close()
        message = f"{path} has another size or time of change than the file that was meant"
        raise AddressError(message, address=address)
    return source


def select(dataset: h5py.Dataset, offset: tuple[int, ...], extent: tuple[int, ...]) -> tuple[Any, Any]:
    """The dataspaces of a box, as 1-D in memory and where it lies in the file."""
    in_file = dataset.id.get_space()
    if extent:  # of a scalar, all there is
        in_file.select_hyperslab(offset, extent)
    return h5py.h5s.create_simple((math.prod(extent),)), in_file


def open_dataset(file: h5py.File, name: bytes, nbytes: int, chunk_bytes: int) -> h5py.Dataset:
    """The chunked dataset, with room for `nbytes` of its chunks, of `chunk_bytes` each.

    With less than a pass in storage order has in hand, chunks would be inflated again for each row.
    """
    # HDF5's advice: a hundred slots a chunk, so that no two share one. With w0 = 1, which its manual
    # recommends for what is read once, HDF5 (1.14 and 2.0) does not keep to the size; 0.75 is its default.
    nbytes = min(nbytes, MOST_CACHED * chunk_bytes)
    slots = min(100 * (nbytes // chunk_bytes) + 1, 2**20 - 1)
    with closing(h5py.h5p.create(h5py.h5p.DATASET_ACCESS)) as access:
        access.set_chunk_cache(slots, nbytes, 0.75)
        return Dataset(h5py.h5d.open(file.id, name, access))


def _state(descriptor: int) -> tuple[int, int, int]:
    """What changes when a file is written: its size and its times, of which no program sets the second."""
    status = os.fstat(descriptor)
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns


def oldest_version(dataset: Dataset, header: FileHeader) -> str:
    """Return the first version of HDF5 that can read the dataset, as h5py's `libver` has it.

    A dataset made like it needs that version: an attribute can have more than 64 kB since 1.8, and chunks at
    the edges can be unfiltered since 1.10. A newer version would shut out readers.
    """
    if header.superblock >= 3:
        return "v110"
    return "v108" if h5py.h5o.get_info(dataset.id).hdr.version >= 2 else "earliest"
