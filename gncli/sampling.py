"""Some elements of an input and its output, and the moments of every channel of the samples they are from.

All that is read of the input is these samples; where a layout has no N, all of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Executor
from math import prod
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gncli.difference import epsilon
from gncli.engine import measure_groups
from gncli.errors import BudgetError
from gncli.layout import Run, geometry
from gncli.plan import plan
from gncli.recipes import VIEW, Floats, Places, Structure
from gncli.tensors import Source, decoding_of

SAMPLES = 8
POINTS = 8192
ROW = 4096  # elements of the last axis that are read at once


class ChannelMoments(NamedTuple):
    """(samples, channels) each; NaN for a channel that has a value that is neither finite nor missing."""

    sizes: Floats  # of elements that are not missing
    mean: Floats
    m2: Floats

    def of_groups(self, structure: Structure) -> tuple[Floats, Floats]:
        """Mean and population variance, (samples, groups): Chan's merge of the channels of each."""
        samples, channels = self.mean.shape
        pair = structure.groups, channels // structure.groups
        split = (samples, *(reversed(pair) if structure.interleaved else pair))
        axis = 1 if structure.interleaved else 2
        counts, means, squares = (values.reshape(split) for values in self)
        count = counts.sum(axis)
        mean = (counts * means).sum(axis) / count
        m2 = squares.sum(axis) + (counts * (means - np.expand_dims(mean, axis)) ** 2).sum(axis)
        return mean, m2 / count


def samples_within(memory: int, channels: int, each: int) -> int:
    """Return how many samples to look at, whose channels take `each` bytes of `memory` in moments and sums.

    Raises BudgetError where one sample takes too much.
    """
    if channels * each > memory:
        message = f"the statistics of {channels} channels take {channels * each} bytes"
        raise BudgetError(
            f"{message}, and --memory {memory} is too little for it; use --memory {channels * each}"
        )
    return min(SAMPLES, memory // (channels * each))


class Sample:
    """Elements on a lattice of some indices of every axis: few channels, in any layout, with many of each."""

    def __init__(
        self, x: Source, y: Source, executor: Executor, jobs: int, memory: int, *, most: int = SAMPLES
    ) -> None:
        self._source, self._executor, self._jobs, self._memory = x, executor, jobs, memory
        self._tables: dict[tuple[tuple[int, int, int], bool], ChannelMoments] = {}
        self.shape = x.shape
        random = np.random.default_rng(0)
        counts = _counts(self.shape, most)
        axes = [_some(random, length, count) for length, count in zip(self.shape, counts, strict=True)]
        axes[0] = np.unique(np.linspace(0, self.shape[0] - 1, counts[0]).astype(np.int64))
        if axes[-1][-1] - axes[-1][0] >= ROW:
            axes[-1] = axes[-1][axes[-1] < axes[-1][0] + ROW]
        self.samples = axes[0]
        self.places = _places(axes, self.shape)
        self.x, self.y = (_take(source, axes) for source in (x, y))
        finite = self.y[np.isfinite(self.y)]
        size = float(np.sqrt(np.mean(finite**2))) if finite.size else 0.0
        self.rounding = epsilon(x.dtype, y.dtype) * size  # of a value of y, about

    def statistics(self, structure: Structure) -> tuple[Floats, Floats]:
        """Mean and population variance of the group of each element."""
        mean, var = self._table(structure).of_groups(structure)
        group = structure.group_of(structure.counted(self.places))
        sample = np.zeros_like(group)
        if structure.batched:
            sample = np.searchsorted(self.samples, self.places // prod(self.shape[1:]))
        return mean[sample, group], var[sample, group]

    def _table(self, structure: Structure) -> ChannelMoments:
        shape, batched = structure.view, structure.batched
        key = (shape, batched)
        if key not in self._tables:
            while sum(table.mean.nbytes for table in self._tables.values()) > self._memory // 8:
                del self._tables[next(iter(self._tables))]
            starts = (self.samples * prod(shape)).tolist() if batched else [0]
            parts = [self._measure(_Part(self._source, start, shape)) for start in starts]
            self._tables[key] = ChannelMoments(*map(np.stack, zip(*parts, strict=True)))
        return self._tables[key]

    def _measure(self, part: _Part) -> tuple[Floats, Floats, Floats]:
        """Count, mean and sum of squared deviations of each channel, (C,)."""
        cut = plan(
            geometry(part.shape, VIEW[1:], part.shape[1]), part.dtype.itemsize, 0, self._memory, self._jobs
        )
        count, mean, m2 = (np.empty(cut.geometry.cells) for _ in range(3))
        for window, moments in measure_groups(part, cut, self._executor):
            _, first, _, second, _ = (slice(*span) for span in cut.box(window.box))
            with np.errstate(all="ignore"):
                sound = np.where(moments.finite == moments.size, 1.0, np.nan)
                count[first, second] = moments.size
                mean[first, second] = (moments.mean[0] + moments.mean[1]) / moments.unit * sound
                m2[first, second] = moments.m2[0] / moments.unit / moments.unit * sound
        return count.reshape(-1), mean.reshape(-1), m2.reshape(-1)


class _Part:
    """A run of a source in C order, as a tensor of its own."""

    fortran = False
    forkable = False

    def __init__(self, source: Source, start: int, shape: tuple[int, ...]) -> None:
        self.address, self.dtype, self.shape = source.address, source.dtype, shape
        self.decoding = decoding_of(source)
        self._source, self._start = source, start

    def read(self, runs: Sequence[Run], buffer: NDArray[Any]) -> NDArray[Any]:
        return self._source.read([(self._start + start, count) for start, count in runs], buffer)

    def abandon(self) -> None:
        self._source.abandon()

    def close(self) -> None:
        """The source is closed by whom it was opened by."""


def _counts(shape: tuple[int, ...], most: int) -> list[int]:
    """How many indices of each axis: up to `most` of the first, and of others about as many of each."""
    counts = [1] * len(shape)
    room = POINTS
    if len(shape) > 1:
        counts[0] = min(shape[0], most)
        room //= counts[0]
    rest = sorted(range(1 if len(shape) > 1 else 0, len(shape)), key=lambda axis: shape[axis])
    for left, axis in zip(range(len(rest), 0, -1), rest, strict=True):
        counts[axis] = min(shape[axis], max(1, int(room ** (1 / left))))
        room //= counts[axis]
    return counts


def _some(random: np.random.Generator, length: int, count: int) -> Places:
    if length <= 1 << 16:
        return np.sort(random.choice(length, count, replace=False)).astype(np.int64)
    return np.unique(random.integers(0, length, count))


def _places(axes: Sequence[Places], shape: Sequence[int]) -> Places:
    """The places in storage order of the elements of a lattice; meshgrid takes 32 axes at most."""
    places: Places = np.zeros(1, np.int64)
    for index, length in zip(axes, shape, strict=True):
        places = np.add.outer(places * length, index).ravel()
    return places


def _take(source: Source, axes: Sequence[Places]) -> Floats:
    """The elements of the lattice in order, as float64; a read for each row of the last axis."""
    *front, last = axes
    rows = _places(front, source.shape[:-1])
    first, length = int(last[0]), int(last[-1] - last[0]) + 1
    buffer = np.empty(length, source.dtype)
    out = np.empty((len(rows), len(last)))
    for i, row in enumerate(rows.tolist()):
        out[i] = source.read([(row * source.shape[-1] + first, length)], buffer)[last - first]
    return out.ravel()
