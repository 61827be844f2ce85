"""A tensor in an HDF5 file, read by block in one of three ways. Imported when such a file is met.

In place (hdf5_places), by raw chunks (hdf5_chunks), or else by HDF5 itself, which does one thing at a time.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from gncli.errors import AddressError, BudgetError, FormatError
from gncli.layout import Run
from gncli.tensors.hdf5_chunks import ChunkReader, raw
from gncli.tensors.hdf5_errors import translated
from gncli.tensors.hdf5_filters import require_filters
from gncli.tensors.hdf5_find import numeric_dtype
from gncli.tensors.hdf5_grid import Grid, hyperslabs
from gncli.tensors.hdf5_places import places, read_places
from gncli.tensors.hdf5_safety import lookup, open_file, require_own, require_stored

LEAST = 1 << 20  # bytes of chunks that are held whatever the budget


class NotThereError(AddressError):
    """No dataset has that name."""


class Hdf5Source:
    """The dataset `name` of the HDF5 file at `path`. Raises AddressError, FormatError.

    `external`: other files may be read, if the file names them. `force`: fill values may be read, where the
    file declares far more than it stores.
    """

    fortran = False

    def __init__(self, path: str, name: str, *, external: bool = False, force: bool = False) -> None:
        self.path, self.name, self.external = path, name, external
        self.address = f"{path}::{name}"
        self._file = open_file(path)
        self._closed = False
        try:
            with translated(FormatError, self.address):
                self._open(force)
        except BaseException:
            self._file.close()
            raise

    def _open(self, force: bool) -> None:
        dataset = lookup(self._file, self.name, external=self.external)
        if not isinstance(dataset, h5py.Dataset):
            raise NotThereError("is not there any more", address=self.address)
        self.dtype: np.dtype[Any] = numeric_dtype(dataset, self.address)
        require_own(dataset, self.address, external=self.external)
        self.dataset = dataset
        self.shape: tuple[int, ...] = dataset.shape
        file = dataset.file if self.external else self._file
        self.home: str = file.filename  # not `path`, where an external link led here
        if not force:
            require_stored(dataset, self.address)
        require_filters(dataset, self.address)
        self._descriptor: int = file.id.get_vfd_handle()
        self._state = _state(self._descriptor)
        self.places = places(dataset, self._state[0])
        self.chunks: tuple[int, ...] | None = dataset.chunks
        self.raw = raw(dataset) if self.chunks else None
        self._chunks = None
        if self.raw and not self.places:
            self._chunks = ChunkReader(self.raw, self._descriptor, self.address, self._box)
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
        if self.chunks is None or (self.places and itemsize in (0, self.dtype.itemsize)):
            return memory, jobs
        grid = Grid(self.shape, self.chunks)
        share = max(LEAST, memory // 4)
        largest = grid.size * max(itemsize, self.dtype.itemsize)
        if largest > share:
            message = f"a chunk takes {largest} bytes, and --memory {memory} is too little for it"
            raise BudgetError(f"{message}; use --memory {4 * largest}", address=self.address)
        if self._chunks:
            # Blocks that lie side by side share a band of chunks at each end. And what it takes to decode
            # and to encode comes on top, as blocks' scratch does: five chunks for each job.
            widest = grid.band * max(itemsize, self.dtype.itemsize)
            jobs = max(1, min(jobs, share // widest - 1, memory // (5 * largest)))
        wanted = [max(grid.size, (jobs + 1) * grid.band) * size for size in (self.dtype.itemsize, itemsize)]
        held, self.sink_share = (min(share, nbytes) for nbytes in wanted)
        self._keep(held, grid.size * self.dtype.itemsize)
        return memory - max(0, held - LEAST) - max(0, self.sink_share - LEAST), jobs

    def _keep(self, nbytes: int, chunk_bytes: int) -> None:
        if self._chunks:
            self._chunks.most = nbytes
        elif not self.places:
            file, name = self.dataset.file, h5py.h5i.get_name(self.dataset.id)
            del self.dataset  # an object that is open already would keep its first cache
            self.dataset = open_dataset(file, name, nbytes, chunk_bytes)

    def read(self, runs: Sequence[Run], buffer: NDArray[Any]) -> NDArray[Any]:
        """The runs' elements, one after another, in the front of `buffer`. From any thread."""
        if self.places:
            values = read_places(self._descriptor, self.places, runs, buffer, self.address)
        elif self._chunks:
            values = self._chunks.read(runs, buffer)
        else:
            values = self._read(runs, buffer)
        if _state(self._descriptor) != self._state:
            message = "changed while it was read; try again when nobody writes it"
            raise FormatError(message, address=self.address)
        return values

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

    def _box(self, offset: tuple[int, ...], extent: tuple[int, ...]) -> NDArray[Any]:
        block = np.empty(math.prod(extent), self.dtype)
        self._read_box(offset, extent, block)
        return block.reshape(extent)

    def _read_box(self, offset: tuple[int, ...], extent: tuple[int, ...], block: NDArray[Any]) -> None:
        with translated(FormatError, self.address):
            in_memory, in_file = select(self.dataset, offset, extent)
            self.dataset.id.read(in_memory, in_file, block)

    def close(self) -> None:
        """Close the dataset, and the file for this reader of it."""
        if not self._closed:
            self._closed = True
            self.dataset.id.close()
            self._file.close()

    def __reduce__(self) -> tuple[Callable[..., Hdf5Source], tuple[Any, ...]]:
        return _open_again, (os.path.abspath(self.path), self.name, self.external, self.address, self._state)


def _open_again(path: str, name: str, external: bool, address: str, state: tuple[int, int]) -> Hdf5Source:
    """In another process, perhaps on another machine. Raises AddressError unless it is the same file."""
    if not os.path.isfile(path):
        raise AddressError(f"{path}: no such file", address=address)
    source = Hdf5Source(path, name, external=external, force=True)
    source.address = address
    if source._state != state:
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
    slots = min(100 * (nbytes // chunk_bytes) + 1, 2**20 - 1)
    access = h5py.h5p.create(h5py.h5p.DATASET_ACCESS)
    access.set_chunk_cache(slots, nbytes, 0.75)
    return h5py.Dataset(h5py.h5d.open(file.id, name, access))


def _state(descriptor: int) -> tuple[int, int]:
    """What changes when a file is written: its size and its time."""
    status = os.fstat(descriptor)
    return status.st_size, status.st_mtime_ns
