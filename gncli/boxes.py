"""A tensor cut into boxes along the chunks of its file, so that each chunk is decoded once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import lcm, prod

import numpy as np
from numpy.typing import NDArray

from gncli.layout import Box, Run, runs_of


@dataclass(frozen=True)
class Boxes:
    """All of a tensor of `shape`, in C order, in boxes of `steps` along its axes."""

    shape: tuple[int, ...]
    steps: tuple[int, ...]

    @property
    def counts(self) -> tuple[int, ...]:
        return tuple(-(-length // step) for length, step in zip(self.shape, self.steps, strict=True))

    def __len__(self) -> int:
        return prod(self.counts)

    def __getitem__(self, number: int) -> Box:
        """Start and stop of that box on each axis; boxes are numbered in C order."""
        box: Box = ()
        for count, step, length in reversed(list(zip(self.counts, self.steps, self.shape, strict=True))):
            number, index = divmod(number, count)
            box = ((index * step, min(index * step + step, length)), *box)
        return box

    def __iter__(self) -> Iterator[Box]:
        return (self[number] for number in range(len(self)))

    def runs(self, box: Box) -> list[Run]:
        """The elements of a box, in order."""
        return runs_of(self.shape, box)


def along_chunks(shape: Sequence[int], chunks: Sequence[Sequence[int]], most: int) -> Boxes:
    """Cut `shape` into boxes of up to `most` elements, of whole chunks in each of some ways to cut it.

    Where no box of whole chunks is that small, they are whole in the first way only.
    """
    steps = [min(lcm(*each), length) for *each, length in zip(*chunks, shape, strict=True)]
    if prod(steps) > most:
        steps = [min(chunk, length) for chunk, length in zip(chunks[0], shape, strict=True)]
    # The last axes first: the fewer and longer the runs of a box, the faster it is read.
    for axis in reversed(range(len(shape))):
        others = prod(steps) // steps[axis]
        times = max(1, most // (others * steps[axis]))
        steps[axis] = min(shape[axis], steps[axis] * times)
        if steps[axis] < shape[axis]:
            break
    return Boxes(tuple(shape), tuple(steps))


def in_line(size: int, most: int) -> Boxes:
    """Cut `size` elements in storage order into stretches of up to `most`."""
    return Boxes((size,), (min(size, most) or 1,))


def split(runs: Sequence[Run], most: int) -> Iterator[list[Run]]:
    """Cut runs, one after another, into lists that have `most` elements each, but for the last."""
    part: list[Run] = []
    room = most
    for start, count in runs:
        while count:
            taken = min(count, room)
            part.append((start, taken))
            start, count, room = start + taken, count - taken, room - taken
            if not room:
                yield part
                part, room = [], most
    if part:
        yield part


def place_at(runs: Sequence[Run], index: int) -> int:
    """Return where the element number `index` of the runs stands in storage order."""
    for start, count in runs:
        if index < count:
            return start + index
        index -= count
    raise IndexError(index)


def places_of(runs: Sequence[Run]) -> NDArray[np.int64]:
    """Return where each element of the runs stands in storage order."""
    return np.concatenate([np.arange(start, start + count) for start, count in runs])
