"""Datasets whose elements lie in the file as they do in memory: read and written by position, without HDF5.

Contiguous ones, and those of unfiltered chunks each of which is one run of the storage order.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from gncli.layout import Run
from gncli.tensors.hdf5_grid import Grid
from gncli.tensors.hdf5_opened import Dataset
from gncli.tensors.positioned import POSITIONED, drain, fill

_SHORTEST = 1 << 14  # bytes of a chunk: many calls for little are slower than HDF5


@dataclass(frozen=True)
class Places:
    """Where elements lie: `offsets[i]` is the byte where the i-th unit begins.

    A unit has `unit` elements, but for the last one of each `row` elements, which has what is left.
    """

    itemsize: int
    row: int
    unit: int
    offsets: NDArray[np.int64]

    def of(self, runs: Iterable[Run]) -> Iterator[Run]:
        """(byte, count in elements) of the unbroken pieces of the runs, in order."""
        each = -(-self.row // self.unit)
        for start, count in runs:
            while count:
                row, within = divmod(start, self.row)
                unit, within = divmod(within, self.unit)
                length = min(self.unit - within, self.row - unit * self.unit - within, count)
                yield int(self.offsets[row * each + unit]) + within * self.itemsize, length
                start, count = start + length, count - length

    def ranges(self, size: int) -> list[tuple[int, int]]:
        """(first byte, byte after the last) of all `size` elements, ordered and joined."""
        joined: list[tuple[int, int]] = []
        for offset, count in sorted(self.of([(0, size)])):
            end = offset + count * self.itemsize
            if joined and joined[-1][1] == offset:
                joined[-1] = joined[-1][0], end
            else:
                joined.append((offset, end))
        return joined


def places(dataset: Dataset, size: int) -> Places | None:
    """Of a dataset of a file of `size` bytes; None where values are not there, or not as in memory."""
    storage = dataset.storage
    count, itemsize = dataset.size, dataset.dtype.itemsize
    nbytes = count * itemsize
    if not (POSITIONED and count and is_plain(dataset)) or storage.files:
        return None
    if storage.layout == h5py.h5d.CONTIGUOUS:
        # Of one that was never written, storage is 0; the offset is no use to tell it by.
        allocated = dataset.id.get_storage_size() == nbytes
        offset = dataset.id.get_offset() if allocated else None
        if offset is None or not 0 < offset <= size - nbytes:
            return None
        return Places(itemsize, count, count, np.array([offset]))
    if storage.layout != h5py.h5d.CHUNKED or storage.filters:
        return None
    return _of_chunks(dataset, size)


def is_plain(dataset: Dataset) -> bool:
    """Whether elements are stored as numpy has them, and HDF5 says where chunks are."""
    return dataset.is_numpys and hasattr(dataset.id, "chunk_iter")


def user_block(file: h5py.File) -> int:
    with closing(file.id.get_create_plist()) as settings:
        return int(settings.get_userblock())


def _of_chunks(dataset: Dataset, size: int) -> Places | None:
    shape, chunks = dataset.shape, dataset.chunks
    axis = next((axis for axis, length in enumerate(chunks) if length > 1), len(shape) - 1)
    behind = math.prod(shape[axis + 1 :])
    unit = chunks[axis] * behind
    if chunks[axis + 1 :] != shape[axis + 1 :] or unit * dataset.dtype.itemsize < _SHORTEST:
        return None
    grid = Grid(shape, chunks)
    count = math.prod(grid.counts)
    # Chunks' addresses do not count a user block, or do: that depends on the version.
    if user_block(dataset.file) or dataset.id.get_num_chunks() != count:
        return None
    offsets = np.zeros(count, np.int64)
    nbytes = unit * dataset.dtype.itemsize

    def note(chunk: Any) -> None:
        number = grid.number(chunk.chunk_offset)
        if number and 0 < chunk.byte_offset <= size - nbytes and chunk.size == nbytes:
            offsets[np.ravel_multi_index(number, grid.counts)] = chunk.byte_offset

    dataset.id.chunk_iter(note)
    return Places(dataset.dtype.itemsize, shape[axis] * behind, unit, offsets) if offsets.all() else None


def read_places(
    descriptor: int, where: Places, runs: Sequence[Run], buffer: NDArray[Any], address: str
) -> NDArray[Any]:
    """The runs' elements, one after another, in the front of `buffer`. From any thread or process."""
    done = 0
    for offset, count in where.of(runs):
        # As bytes: memoryview.cast knows no foreign byte order.
        read_at(descriptor, buffer[done : done + count].view(np.uint8), offset, address)
        done += count
    return buffer[:done]


def read_at(descriptor: int, block: NDArray[np.uint8], offset: int, address: str) -> None:
    fill(block, offset, lambda view, at: os.preadv(descriptor, [view], at), address)


def write_places(descriptor: int, where: Places, runs: Sequence[Run], values: NDArray[Any]) -> None:
    """Write the runs' elements, 1-D, of the dtype as stored. From any thread or process. Raises OSError."""
    done = 0
    for offset, count in where.of(runs):
        drain(values[done : done + count].view(np.uint8), offset, partial(os.pwrite, descriptor))
        done += count
