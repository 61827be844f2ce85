"""How a tensor is cut into chunks: boxes of integers, and what runs of elements have of each."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import Any, NamedTuple

from numpy.typing import NDArray

from gncli.layout import Box, Run

Place = tuple[int, ...]  # an index on each axis
MOST = 1 << 13  # chunks that HDF5 is asked for at once


def hyperslabs(run: Run, shape: Place) -> Iterator[tuple[Place, Place]]:
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


def first_to_cut(offset: Place, extent: Place, chunks: Place) -> int | None:
    """Return the first axis along which a box can be cut in two; None if it has at most `MOST` chunks."""
    axes = zip(offset, extent, chunks, strict=True)
    crossed = math.prod(-(-(start + length) // chunk) - start // chunk for start, length, chunk in axes)
    if crossed <= MOST:
        return None
    return next(axis for axis, length in enumerate(extent) if length > 1)


@dataclass(frozen=True)
class Grid:
    """How a tensor of `shape` is cut into chunks."""

    shape: Place
    chunks: Place

    @cached_property
    def counts(self) -> Place:
        return tuple(-(-length // chunk) for length, chunk in zip(self.shape, self.chunks, strict=True))

    @cached_property
    def size(self) -> int:
        """Elements of a chunk, at an edge too: HDF5 stores whole ones."""
        return math.prod(self.chunks)

    @property
    def band(self) -> int:
        """Elements of all chunks that a pass in storage order has in hand at once."""
        axis = next((axis for axis, length in enumerate(self.chunks) if length > 1), 0)
        ahead = zip(self.counts[axis + 1 :], self.chunks[axis + 1 :], strict=True)
        return math.prod(self.chunks[: axis + 1]) * math.prod(count * chunk for count, chunk in ahead)

    def number(self, start: Place) -> Place | None:
        """Which chunk begins at `start`; None where the file says nonsense."""
        found = tuple(begin // chunk for begin, chunk in zip(start, self.chunks, strict=True))
        return found if all(n < count for n, count in zip(found, self.counts, strict=True)) else None

    def start(self, number: Place) -> Place:
        """Where a chunk begins."""
        return tuple(n * chunk for n, chunk in zip(number, self.chunks, strict=True))

    def is_partial(self, number: Place) -> bool:
        """Whether a chunk reaches beyond the shape."""
        axes = zip(number, self.chunks, self.shape, strict=True)
        return any((n + 1) * chunk > length for n, chunk, length in axes)

    def numbers(self, box: Box) -> Box:
        """The chunks that a box of elements crosses: their first number and the one after the last."""
        return tuple((a // c, -(-b // c)) for (a, b), c in zip(box, self.chunks, strict=True))

    def whole_numbers(self, box: Box) -> Box | None:
        """The chunks that a box of elements has whole, as far as they are within the shape; None if none."""
        axes = zip(box, self.chunks, self.shape, strict=True)
        found = tuple((-(-a // c), -(-b // c) if b == length else b // c) for (a, b), c, length in axes)
        return found if all(low < high for low, high in found) else None

    def pieces(self, runs: Sequence[Run]) -> Iterator[Piece]:
        """What the runs have of each chunk that they cross."""
        done = 0
        for run in runs:
            for offset, extent in hyperslabs(run, self.shape):
                box = tuple((start, start + length) for start, length in zip(offset, extent, strict=True))
                for index in product(*(range(*span) for span in self.numbers(box))):
                    yield self.piece(index, box, done)
                done += math.prod(extent)

    def piece(self, index: Place, box: Box, done: int = 0) -> Piece:
        """What a box has of a chunk; `done` elements stand before the box's own."""
        offset, stop = [start for start, _ in box], [stop for _, stop in box]
        start = [i * c for i, c in zip(index, self.chunks, strict=True)]
        end = [min(s + c, n) for s, c, n in zip(start, self.chunks, self.shape, strict=True)]
        low = [max(a, o) for a, o in zip(start, offset, strict=True)]
        high = [min(b, s) for b, s in zip(end, stop, strict=True)]
        return Piece(
            index,
            tuple(start),
            tuple(b - a for a, b in zip(start, end, strict=True)),
            done,
            tuple(s - o for o, s in zip(offset, stop, strict=True)),
            tuple(slice(a - s, b - s) for a, b, s in zip(low, high, start, strict=True)),
            tuple(slice(a - o, b - o) for a, b, o in zip(low, high, offset, strict=True)),
            whole=low == start and high == end,
            last=high == end,
        )


class Piece(NamedTuple):
    """What one box of the runs has of the chunk `number`, whose `valid` elements begin at `start`."""

    number: Place
    start: Place
    valid: Place
    done: int  # elements of the runs before the box
    box: Place  # the box's shape
    in_chunk: tuple[slice, ...]
    in_box: tuple[slice, ...]
    whole: bool
    last: bool  # it has the chunk's last element

    def of(self, flat: NDArray[Any]) -> NDArray[Any]:
        """The piece's elements in the runs' own, as a view."""
        boxed: NDArray[Any] = flat[self.done : self.done + math.prod(self.box)].reshape(self.box)
        return boxed[self.in_box]
