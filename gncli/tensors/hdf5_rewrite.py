"""Filtered chunks replaced with chunks of other sizes: the space of all is free before one is written.

One after another, they would leave gaps, and a file would grow with every run. To shrink the dataset to
nothing and to grow it again would free the space as well. But HDF5 2.0 does not survive that where the whole
dataset is one chunk in the file format of HDF5 1.10.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from itertools import product
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from gncli.tensors.hdf5_filters import (
    DEFLATE,
    FLETCHER32,
    SHUFFLE,
    Pipeline,
    changes_size,
    settings_like,
)
from gncli.tensors.hdf5_grid import Grid, Place
from gncli.tensors.hdf5_opened import Dataset, filters_of

_PLACEHOLDER = b"\0"  # no chunk that a filter could decode


class Released:
    """A filtered dataset each of whose chunks is now a placeholder of one byte.

    HDF5 can write a whole chunk over it. To write a part of a chunk, it reads the chunk first: `prepare` puts
    `blank` there, a filtered chunk of fill values.
    """

    def __init__(self, dataset: Dataset, blank: Callable[[], bytes]) -> None:
        self._grid = Grid(dataset.shape, dataset.chunks)
        self._blank = cache(blank)  # made when it is needed
        self._is_placeholder = np.zeros(self._grid.counts, bool)
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

    def prepare(self, dataset: Dataset, offset: Place, extent: Place) -> None:
        """Make HDF5 able to write that box of the dataset."""
        box = list(zip(offset, extent, self._grid.chunks, strict=True))
        for number in product(*(range(o // c, -(-(o + e) // c)) for o, e, c in box)):
            start = self._grid.start(number)
            whole = all(o <= s and s + c <= o + e for s, (o, e, c) in zip(start, box, strict=True))
            if self._is_placeholder[number] and not whole:
                dataset.id.write_direct_chunk(start, self._blank())
            self._is_placeholder[number] = False


def release(dataset: Dataset) -> Released | None:
    """Free the space of the chunks, whose values are lost; None where nothing is done.

    That is where new chunks are as large as old ones, and where no chunk of fill values can be made. The
    dataset has to be opened again: HDF5 2.0 takes the filter mask of the chunk that it saw last for that of
    its placeholder.
    """
    if dataset.chunks is None or not changes_size(dataset):
        return None
    values = np.broadcast_to(np.asarray(dataset.fillvalue, dataset.dtype), dataset.chunks)
    if pipeline := Pipeline.of(dataset):
        return Released(dataset, partial(_by_pipeline, values, pipeline))
    if all(each.code in (DEFLATE, SHUFFLE, FLETCHER32) for each in dataset.storage.filters):
        return None  # with settings that HDF5 cannot write by: it would not survive the attempt
    blank = _by_hdf5(values, dataset)
    return Released(dataset, lambda: blank) if blank else None


def free(dataset: Dataset) -> None:
    """Free the space of the chunks of a dataset that will be deleted, before another one takes its place."""
    if dataset.chunks is not None and changes_size(dataset):
        Released(dataset, bytes)


def _by_pipeline(values: NDArray[Any], pipeline: Pipeline) -> bytes:
    return bytes(pipeline.encode(np.ascontiguousarray(values).reshape(-1).view(np.uint8)))


def _by_hdf5(values: NDArray[Any], dataset: Dataset) -> bytes | None:
    """Made in a file in memory; None where a filter adapts itself to that file."""
    space, kind = h5py.h5s.create_simple(dataset.chunks), h5py.h5t.py_create(dataset.dtype)
    with h5py.File("blank", "w", driver="core", backing_store=False) as file:
        chunk = h5py.h5d.create(file.id, b"x", kind, space, settings_like(dataset))
        made = filters_of(chunk.get_create_plist())
        if [each[:3] for each in made] != [each[:3] for each in dataset.storage.filters]:
            return None
        chunk.write(space, space, np.ascontiguousarray(values))
        chunk.flush()
        mask, stored = chunk.read_direct_chunk((0,) * len(dataset.chunks))
        return None if mask else bytes(stored)
