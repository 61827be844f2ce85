"""Small chunks, read many at a time: the calls for each would take longer than to inflate it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gncli.layout import Box
from gncli.tensors.hdf5_filters import UndecodableError, scratch
from gncli.tensors.hdf5_places import read_at
from gncli.tensors.hdf5_table import Raw

_SMALL = 1 << 16  # bytes of a chunk, at most
_BYTES = 1 << 18  # of the values of a batch, which stay in a cache
_CHUNKS = 4096  # of a batch, at most
_GAP = 512  # bytes of the file between two chunks that are read along with them


class BatchReader:
    """Reads boxes of chunks by position. From any thread."""

    def __init__(self, raw: Raw, descriptor: int, address: str) -> None:
        self._raw, self._grid = raw, raw.grid
        self._descriptor, self._address = descriptor, address

    def takes(self, numbers: Box | None) -> Box | None:
        """Return the numbers, if there are several chunks of them, and these are small."""
        if numbers is None or self._raw.nbytes > _SMALL:
            return None
        return numbers if math.prod(high - low for low, high in numbers) > 1 else None

    def split(self, numbers: Box) -> Iterator[Box]:
        """Cut a box of chunks into batches, in C order."""
        room = min(_CHUNKS, max(1, _BYTES // self._raw.nbytes))
        steps: list[int] = []
        for low, high in reversed(numbers):
            steps.insert(0, min(room, high - low))
            room = max(1, room // steps[0])
        for starts in product(*(range(*span, step) for span, step in zip(numbers, steps, strict=True))):
            axes = zip(starts, steps, numbers, strict=True)
            yield tuple((start, min(start + step, high)) for start, step, (_, high) in axes)

    def read(self, numbers: Box, box: Box, values: NDArray[Any]) -> bool:
        """Put the values of a batch where they belong in `values`, which are those of a `box` of elements.

        False, if one of the chunks is not as the others or is damaged: they have to be read one by one.
        """
        table, index = self._raw.table, tuple(slice(*span) for span in numbers)
        offsets, sizes = table.offsets[index].ravel(), table.sizes[index].ravel()
        if table.masks[index].any() or sizes.max() > self._raw.most_stored:
            return False
        written = np.flatnonzero(sizes)
        if len(written) < len(sizes):
            chunks = np.full((len(sizes), self._grid.size), self._raw.fill, self._raw.dtype)
        if len(written):
            try:
                stored = self._stored(offsets[written], sizes[written])
                decoded = self._raw.pipeline.decode_all(stored, self._raw.nbytes).view(self._raw.dtype)
            except UndecodableError:
                return False
            if len(written) < len(sizes):
                chunks[written] = decoded.reshape(-1, self._grid.size)
            else:
                chunks = decoded
        self._place(chunks, numbers, box, values)
        return True

    def _stored(self, offsets: NDArray[np.int64], sizes: NDArray[np.int64]) -> list[memoryview]:
        """The bytes of each chunk, in the thread's scratch. Neighbours in the file are read in one call."""
        order = np.argsort(offsets)
        starts, stops = offsets[order], np.maximum.accumulate((offsets + sizes)[order])
        cuts = (np.flatnonzero(starts[1:] > stops[:-1] + _GAP) + 1).tolist()
        spans = [slice(*span) for span in zip([0, *cuts], [*cuts, len(starts)], strict=True)]
        extents = [(int(starts[span][0]), int(stops[span][-1])) for span in spans]
        room = scratch("stored", sum(stop - start for start, stop in extents))
        done = 0
        for span, (start, stop) in zip(spans, extents, strict=True):
            read_at(self._descriptor, room[done : done + stop - start], start, self._address)
            starts[span] += done - start
            done += stop - start
        begins = np.empty_like(starts)
        begins[order] = starts
        view = room.data
        return [view[at : at + size] for at, size in zip(begins.tolist(), sizes.tolist(), strict=True)]

    def _place(self, chunks: NDArray[Any], numbers: Box, box: Box, values: NDArray[Any]) -> None:
        """Put the values of chunks, in C order, where they belong; what is beyond the shape is left out."""
        lengths, counts = self._grid.chunks, [high - low for low, high in numbers]
        inside = zip(numbers, lengths, box, strict=True)
        target = values[
            tuple(slice(low * n - start, high * n - start) for (low, high), n, (start, _) in inside)
        ]
        apart = [each for pair in zip(counts, lengths, strict=True) for each in pair]
        rank = len(counts)
        side_by_side = [
            axis for pair in zip(range(rank), range(rank, 2 * rank), strict=True) for axis in pair
        ]
        moved = chunks.reshape(*counts, *lengths).transpose(side_by_side)
        full = tuple(count * length for count, length in zip(counts, lengths, strict=True))
        if target.shape == full:
            target.reshape(apart)[...] = moved  # which only splits axes: it is a view
        else:
            target[...] = moved.reshape(full)[tuple(map(slice, target.shape))]
