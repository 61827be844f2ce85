"""How a tensor is cut. Plain integers: a property test says that every element is in one block, once.

*Tiles* depend on the geometry alone, so that every sum is over the same elements whatever the budget.
A *window* is a range of whole groups; a *block* is a box of whole tiles within it, and is what is read
at once. A window of one block is read once; one that is larger than the budget has several blocks and
is read twice, first for its moments and then for its values.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from math import prod
from typing import overload

from gncli.errors import BudgetError
from gncli.layout import Box, Geometry, Run, runs_of

TILE = 1 << 20  # bytes of a block's buffer: with less, the interpreter takes more time than the arithmetic
BLOCK = 8  # tiles in a block, where the budget has room for them and groups are not larger
LOT = 4  # blocks that a worker is given at a time
SETS = 32768  # small groups in a tile
LONGEST = 1 << 18  # elements: the sums of more would not be exact
_FEW = 1024  # groups
_RECORD = 80  # bytes of moments a cell, times what the cascade holds of them


@dataclass(frozen=True)
class Axis:
    """One axis of `length` cut every `step`; where `step` < `run`, every run of channels is cut anew."""

    length: int
    step: int
    run: int = 1

    @cached_property
    def _per_run(self) -> int:
        return -(-self.run // self.step) if self.step < self.run else 1

    @cached_property
    def _pitch(self) -> int:
        return self.run if self.step < self.run else self.step

    @property
    def tiles(self) -> int:
        whole, rest = divmod(self.length, self._pitch)
        return whole * self._per_run + (-(-rest // self.step) if self._per_run > 1 else int(rest > 0))

    def edge(self, tile: int) -> int:
        """Where this tile begins; for `tiles`, the length."""
        run, within = divmod(tile, self._per_run)
        return min(run * self._pitch + within * self.step, self.length)

    def spans(self, count: int, first: int = 0, last: int | None = None) -> Iterator[tuple[int, int]]:
        """Tile ranges of `count` tiles each, from `first` to `last`."""
        last = self.tiles if last is None else last
        for start in range(first, last, count):
            yield start, min(start + count, last)


@dataclass(frozen=True)
class Blocks(Sequence[Box]):
    """A box of tiles, cut every so many tiles on each axis: in storage order, each made when asked for."""

    box: Box
    steps: tuple[int, ...]

    @cached_property
    def _counts(self) -> list[int]:
        return [-(-(stop - start) // step) for (start, stop), step in zip(self.box, self.steps, strict=True)]

    def __len__(self) -> int:
        return prod(self._counts)

    @overload
    def __getitem__(self, index: int) -> Box: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Box]: ...
    def __getitem__(self, index: int | slice) -> Box | Sequence[Box]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not 0 <= index < len(self):
            raise IndexError(index)
        spans = []
        for (start, stop), step, count in reversed([*zip(self.box, self.steps, self._counts, strict=True)]):
            index, place = divmod(index, count)
            spans.append((start + place * step, min(start + (place + 1) * step, stop)))
        return tuple(reversed(spans))


@dataclass(frozen=True)
class Window:
    """A range of whole groups, as tile ranges on axes 1 and 3, and the blocks that it is cut in."""

    box: Box
    blocks: Blocks


@dataclass(frozen=True)
class Plan:
    """Tile ranges per axis, in units of tiles; `box` turns them into elements."""

    geometry: Geometry
    axes: tuple[Axis, Axis, Axis, Axis, Axis]
    most: int  # elements a block may have
    cells: int  # groups whose moments may be held at once
    jobs: int
    tile: int  # elements a tile may have
    together: int = LOT  # blocks that a worker may be given at a time
    measuring: bool = False  # moments of all groups are handed back, of whole ones too

    def lots(self, blocks: int | None = None, *, handed_back: bool) -> Iterator[int]:
        """How many blocks a worker is given at a time: several of many, lest it wait for each one; fewer
        towards the end, lest all wait for the last.

        `blocks`: how many there are, if not the whole tensor's. `handed_back`: the moments of their groups
        are, which of many groups take more than the blocks.
        """
        most = min(self.together, self.geometry.size // (8 * BLOCK * self.tile * self.jobs))
        if handed_back and self._has_many_groups:
            most = 1
        left = self._blocks if blocks is None else blocks
        least = max(1, min(most // 8, left // (8 * self.jobs)))
        while True:
            lot = max(least, min(most, left // (2 * self.jobs)))
            yield lot
            left -= lot

    @cached_property
    def _blocks(self) -> int:
        """How many there are, or a few more."""
        if self._largest is None:
            return 0
        first, second = self._shape_of_window
        return len(self._largest.blocks) * -(-self.axes[1].tiles // first) * -(-self.axes[3].tiles // second)

    @property
    def _has_many_groups(self) -> bool:
        """Whether a window has."""
        window = self._largest
        return window is not None and prod(b - a for a, b in self.box(window.box)[1::2]) > _FEW

    @property
    def fan_in(self) -> int:
        """Records that are merged at a time: many of few groups, since a merge has a cost of its own."""
        return 64 if self.geometry.dims[1] * self.geometry.dims[3] <= 64 else 8

    def box(self, tiles: Box) -> Box:
        return tuple((axis.edge(a), axis.edge(b)) for axis, (a, b) in zip(self.axes, tiles, strict=True))

    def edges(self, block: Box) -> tuple[tuple[int, ...], ...]:
        """Where the block's tiles begin and end on each axis, from the block's own start."""
        spans = zip(self.axes, block, strict=True)
        return tuple(tuple(axis.edge(t) - axis.edge(a) for t in range(a, b + 1)) for axis, (a, b) in spans)

    def windows(self) -> Iterator[Window]:
        if self.geometry.size == 0:
            return
        first, second = self._shape_of_window
        for a in self.axes[1].spans(first):
            for b in self.axes[3].spans(second):
                whole = ((0, self.axes[0].tiles), a, (0, self.axes[2].tiles), b, (0, self.axes[4].tiles))
                yield Window(whole, Blocks(whole, self._steps(whole)))

    @cached_property
    def _largest(self) -> Window | None:
        """Of all windows, the first."""
        return next(self.windows(), None)

    @cached_property
    def one_pass(self) -> bool:
        """Whether a block holds its groups whole."""
        return self._largest is None or len(self._largest.blocks) == 1

    @cached_property
    def in_order(self) -> bool:
        """Whether the blocks, as they come, are the stored elements as they come."""
        window = self._largest
        if window is None:
            return True
        dims = self.geometry.dims
        wide = [stop - start for start, stop in self.box(window.box)]
        if (wide[1] < dims[1] and dims[0] > 1) or (wide[3] < dims[3] and (dims[0] > 1 or dims[2] > 1)):
            return False  # a window has a part of each of many stretches
        extents = [stop - start for start, stop in self.box(window.blocks[0])]
        cut = next((axis for axis in range(5) if extents[axis] > 1), 4)
        return extents[cut + 1 :] == list(dims[cut + 1 :])

    def elements(self, tiles: Box) -> int:
        """The number of elements in a box of tiles."""
        return prod(b - a for a, b in self.box(tiles))

    @cached_property
    def _shape_of_window(self) -> tuple[int, int]:
        """How many tiles of axis 1 and of axis 3 make a window."""
        outer, middle = self.geometry.dims[0], self.geometry.dims[2]
        _, first, _, second, _ = self.axes
        group = self.geometry.group_size
        row = group * self.geometry.dims[3]  # elements for one step of axis 1
        if outer == 1 and (row <= self.most or middle > 1):
            wide = min(BLOCK * self.tile, self.most)
            return self._fit(max(1, wide // (row * first.step)), second.tiles)
        if outer == 1:
            return 1, max(1, min(BLOCK * self.tile, self.most) // (group * second.step))
        return self._fit(first.tiles, second.tiles)

    def _fit(self, first: int, second: int) -> tuple[int, int]:
        """Fewer tiles, where a slab of them or the moments of their groups exceed the budget."""
        outer, one, middle, two, inner = self.axes
        first, second = min(first, one.tiles), min(second, two.tiles)
        slab = min(outer.step, outer.length) * min(middle.step, middle.length) * min(inner.step, inner.length)

        def excess() -> bool:
            cells = min(first * one.step, one.length) * min(second * two.step, two.length)
            whole = cells * self.geometry.group_size <= self.most
            if whole:
                return self.measuring and cells > self.cells
            return cells * slab > self.most or cells > self.cells

        while excess() and first > 1:
            first = -(-first // 2)
        while excess() and second > 1:
            second = -(-second // 2)
        return first, second

    def _steps(self, window: Box) -> tuple[int, ...]:
        """Tiles of each axis to a block: all, or as many steps of the summed axes as the budget holds."""
        counts = [b - a for a, b in window]
        if self.elements(window) <= self.most:
            return tuple(counts)
        steps = counts
        for axis in (0, 2, 4):
            # One tile of this axis and of those before it, whole on those behind: does it fit?
            steps = [1 if outer in (0, 2, 4) and outer <= axis else counts[outer] for outer in range(5)]
            size = self.elements(tuple((a, min(a + n, b)) for (a, b), n in zip(window, steps, strict=True)))
            if size <= self.most or axis == 4:
                steps[axis] = max(1, min(BLOCK * self.tile, self.most) // max(size, 1))
                break
        return tuple(steps)

    def runs(self, box: Box) -> list[Run]:
        """The box (in elements) as runs of the stored elements: (start, count), in storage order."""
        return runs_of(self.geometry.dims, box)


@lru_cache(maxsize=16)
def plan(geometry: Geometry, source: int, sink: int, memory: int, jobs: int, together: int = LOT) -> Plan:
    """Tiles, windows and blocks, for `memory` bytes of blocks and moments that `jobs` workers share.

    `source`, `sink`: bytes of an element; where they agree, one buffer serves both. Fewer workers are
    used where the budget is too small for all; where it is too small for one, a BudgetError with both
    numbers. A worker's scratch, tiles of float64 and float32, comes on top. `together`: see `Plan.lots`.
    """
    each = source if sink in (source, 0) else source + sink
    tile = min(LONGEST, 1 << (TILE // each).bit_length() - 1)
    least = tile * each
    if memory < least:
        raise BudgetError(
            f"--memory {memory} is too little: one tile takes {least} bytes; use --memory 1M or more"
        )
    jobs = max(1, min(jobs, memory // least))
    many = geometry.dims[1] * geometry.dims[3] > _FEW
    most = max(tile, memory // jobs // (2 if many else 1) // each)
    cells = max(_FEW, memory // 2 // (_RECORD * 32))
    return Plan(geometry, _axes(geometry, tile), most, cells, jobs, tile, together, measuring=not sink)


def _axes(geometry: Geometry, tile: int) -> tuple[Axis, Axis, Axis, Axis, Axis]:
    runs = [1, 1, 1, 1, 1]
    if not geometry.interleaved:
        runs[geometry.channel_axis] = geometry.channel_run
    steps = _steps(geometry, tile)
    axes = []
    for length, step, run in zip(geometry.dims, steps, runs, strict=True):
        step = max(1, min(step, length))
        if run < step < length:
            step -= step % run
        axes.append(Axis(length, step, run if run < length else 1))
    return axes[0], axes[1], axes[2], axes[3], axes[4]


def _steps(geometry: Geometry, tile: int) -> tuple[int, int, int, int, int]:
    """Elements of each axis to a tile."""
    outer, first, middle, second, inner = (max(1, d) for d in geometry.dims)
    if inner >= 64 or outer * middle < 8:
        # Long runs, or sets of a few elements: filled from the innermost axis outwards.
        steps, room = [1, 1, 1, 1, 1], tile
        small = inner < 64
        if small:  # what is done for a set, on arrays of one entry a set, should stay in the caches, too
            room = min(tile, SETS * outer * middle * inner)
        order = (4, 2, 0, 3, 1) if small else (4, 3, 2, 1, 0)
        for axis in order:
            steps[axis] = min((outer, first, middle, second, inner)[axis], max(1, room))
            room //= steps[axis]
        return steps[0], steps[1], steps[2], steps[3], steps[4]
    # Short runs, many of them: columns as high as the tile allows, at least 64 elements.
    across = min(second, max(1, tile // 64 // inner))
    down = min(middle, tile // (across * inner))
    room = tile // (across * inner * down)
    if outer == 1:
        return 1, min(first, room), down, across, inner
    beside = min(first, max(1, room * down // 128)) if down < 128 else 1
    return min(outer, max(1, room // beside)), beside, down, across, inner
