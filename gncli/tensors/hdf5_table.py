"""Where the chunks of a dataset are in its file, and how they are encoded there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import h5py
import numpy as np

from gncli.tensors.hdf5_filters import Pipeline
from gncli.tensors.hdf5_grid import Grid

_TOGETHER = 4096  # chunks that are entered at once: HDF5 names them one by one


class Table:
    """The place, the stored size and the filter mask of each chunk. Those never written have size 0.

    `sound`: the file says of no chunk that it is where none can be.
    """

    def __init__(self, dataset: h5py.Dataset, grid: Grid) -> None:
        self.offsets, self.sizes = np.zeros(grid.counts, np.int64), np.zeros(grid.counts, np.int64)
        self.masks = np.zeros(grid.counts, np.uint32)
        self.sound = True
        found: list[Any] = []

        def note(chunk: Any) -> None:
            found.append(chunk)
            if len(found) == _TOGETHER:
                self._enter(found, grid)
                found.clear()

        dataset.id.chunk_iter(note)
        self._enter(found, grid)

    def _enter(self, found: list[Any], grid: Grid) -> None:
        if not found:
            return
        starts, masks, offsets, sizes = map(list, zip(*found, strict=True))  # (h5py's StoreInfo)
        if max(offsets) + max(sizes) > 1 << 60:
            self.sound = False
            return
        numbers = np.array(starts, np.uint64) // np.array(grid.chunks, np.uint64)
        if (numbers >= np.array(grid.counts, np.uint64)).any():
            self.sound = False
            return
        index = tuple(numbers.T)
        self.offsets[index], self.sizes[index], self.masks[index] = offsets, sizes, masks

    def ranges(self) -> list[tuple[int, int]]:
        """(first byte, byte after the last) of each chunk."""
        written = self.sizes > 0
        offsets = self.offsets[written].tolist()
        return [
            (start, start + size) for start, size in zip(offsets, self.sizes[written].tolist(), strict=True)
        ]

    def has_edge_of(self, size: int, grid: Grid) -> bool:
        """Whether a chunk at the edges, partly beyond the shape, has that stored size."""
        edges = np.zeros(grid.counts, bool)
        for axis, (length, chunk) in enumerate(zip(grid.shape, grid.chunks, strict=True)):
            if length % chunk:
                edges[(slice(None),) * axis + (-1,)] = True
        return bool(np.any(edges & (self.sizes == size)))


@dataclass(frozen=True)
class Coding:
    """How the values of a dataset become chunks in the file, and back."""

    grid: Grid
    pipeline: Pipeline
    dtype: np.dtype[Any]
    fill: Any

    @property
    def nbytes(self) -> int:
        return self.grid.size * self.dtype.itemsize

    @property
    def most_stored(self) -> int:
        """Bytes that no encoded chunk exceeds: larger ones are not even read."""
        return 2 * self.nbytes + 4096


@dataclass(frozen=True)
class Raw(Coding):
    """A dataset whose chunks can be taken raw."""

    table: Table

    @property
    def filters_edges(self) -> bool:
        """Whether chunks at the edges are filtered: a file can ask for another way, and h5py cannot tell.

        It shows in chunks that are written.
        """
        return not self.pipeline.filters or not self.table.has_edge_of(0, self.grid)

    @property
    def coding(self) -> Coding:
        return Coding(self.grid, self.pipeline, self.dtype, self.fill)
