"""Filtered chunks replaced with chunks of other sizes: the space of all is free before one is written.

One after another, they would leave gaps, and a file would grow with every run. To shrink the dataset to
nothing and to grow it again would free the space as well. But HDF5 2.0 does not survive that where the whole
dataset is one chunk in the file format of HDF5 1.10.
"""

from __future__ import annotations

from itertools import product
from typing import Any

import h5py
import numpy as np

from gncli.tensors.hdf5_grid import Grid, Place

_PLACEHOLDER = b"\0"  # no chunk that a filter could decode


class Released:
    """A filtered dataset each of whose chunks is now a placeholder of one byte.

    HDF5 can write a whole chunk over it. To write a part of a chunk, it reads the chunk first: `prepare` puts
    fill values there.
    """

    def __init__(self, dataset: h5py.Dataset) -> None:
        self._grid = Grid(dataset.shape, dataset.chunks)
        self._is_placeholder = np.zeros(self._grid.counts, bool)
        self._blank: tuple[int, bytes] | None = None
        nbytes = self._grid.size * dataset.dtype.itemsize
        for number in np.ndindex(self._grid.counts):
            start = self._grid.start(number)
            if self._grid.is_partial(number):
                # A file can ask that chunks at the edges be stored unfiltered, and h5py does not tell.
                size = dataset.id.get_chunk_info_by_coord(start).size
                if size in (0, nbytes):
                    continue
            dataset.id.write_direct_chunk(start, _PLACEHOLDER)
            self._is_placeholder[number] = True

    def prepare(self, dataset: h5py.Dataset, offset: Place, extent: Place) -> None:
        """Make HDF5 able to write that box of the dataset."""
        box = list(zip(offset, extent, self._grid.chunks, strict=True))
        for number in product(*(range(o // c, -(-(o + e) // c)) for o, e, c in box)):
            start = self._grid.start(number)
            whole = all(o <= s and s + c <= o + e for s, (o, e, c) in zip(start, box, strict=True))
            if self._is_placeholder[number] and not whole:
                self._blank = self._blank or _blank_chunk(dataset)
                mask, stored = self._blank
                dataset.id.write_direct_chunk(start, stored, mask)
            self._is_placeholder[number] = False


def release(dataset: h5py.Dataset) -> Released | None:
    """Free the space of the chunks, whose values are lost; do nothing where new ones are as large as old."""
    filtered = dataset.chunks is not None and dataset.id.get_create_plist().get_nfilters() > 0
    return Released(dataset) if filtered else None


def _blank_chunk(dataset: h5py.Dataset) -> tuple[int, bytes]:
    """The filter mask and the stored bytes of a chunk of fill values, made in a file in memory."""
    kind: Any = h5py.h5t.py_create(dataset.dtype)
    values = np.full(dataset.chunks, dataset.fillvalue, dataset.dtype)
    with h5py.File("blank", "w", driver="core", backing_store=False) as file:
        space, settings = h5py.h5s.create_simple(dataset.chunks), dataset.id.get_create_plist()
        chunk = h5py.h5d.create(file.id, b"x", kind, space, settings)
        chunk.write(space, space, values)
        chunk.flush()
        blank: tuple[int, bytes] = chunk.read_direct_chunk((0,) * len(dataset.chunks))
        return blank
