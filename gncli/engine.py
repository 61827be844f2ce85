"""Reads blocks, computes, writes blocks. The arithmetic is `groupnorm`'s, the cutting `plan`'s.

A task is a block and what its groups need; it reads for itself and, where the sink takes writes at any
place, writes for itself too. Otherwise its values come back and are written here, in storage order.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from itertools import groupby, product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gncli.errors import NonFiniteError
from gncli.executors import in_order
from gncli.groupnorm import Norm, normalize
from gncli.layout import Box, Run, flat_geometry
from gncli.measure import Scratch, measure
from gncli.moments import Cascade, Moments, Pool, join, merge, pool
from gncli.plan import Plan, Window
from gncli.tensors import Sink, Source
from gncli.tile import Form, form_of


@dataclass(frozen=True)
class Outcome:
    """Moments of all that was read and of all that was written; groups that had no spread, and became NaN."""

    before: Moments
    after: Moments
    undefined: int

    def warnings(self, nan: str) -> list[str]:
        """What a person should know of the result, under that policy for NaN and infinity."""
        said = []
        if self.before.nan or self.before.inf:
            then = "every group that holds one became NaN; --nan omit takes the statistics of the rest"
            if nan == "omit":
                then = "left out of the statistics"
            said.append(f"{int(self.before.nan)} NaN and {int(self.before.inf)} infinite values; {then}")
        if self.undefined:
            groups = "1 constant group" if self.undefined == 1 else f"{self.undefined} constant groups"
            said.append(f"{groups} became NaN, since eps is 0; use --eps 1e-5")
        return said


class _Desk(threading.local):
    """What one worker reuses from block to block."""

    def __init__(self, tile: int) -> None:
        self.scratch = Scratch(tile)
        self._buffers: dict[str, NDArray[Any]] = {}

    def buffer(self, name: str, size: int, dtype: np.dtype[Any]) -> NDArray[Any]:
        held = self._buffers.get(name)
        if held is None or len(held) < size or held.dtype != dtype:
            held = self._buffers[name] = np.empty(size, dtype)
        return held


class _Reader:
    """A source under a plan: blocks in, moments out."""

    def __init__(self, source: Source, plan: Plan, twofold: bool = False) -> None:
        self.source, self.plan = source, plan
        self.desk = _Desk(plan.tile)
        self.twofold = twofold

    def read(self, box: Box) -> NDArray[Any]:
        """The box's elements, on five axes."""
        runs = self.plan.runs(box)
        size = sum(count for _, count in runs)
        data = self.source.read(runs, self.desk.buffer("in", size, self.source.dtype))
        return data.reshape(_extent(box))

    def records(self, block: Box) -> list[Moments]:
        """The moments of the block's groups, a record for each step of the axes that are summed over."""
        return list(self._records(block, self.read(self.plan.box(block))))

    def _records(self, block: Box, data: NDArray[Any]) -> Iterator[Moments]:
        origin = self.plan.box(block)
        for outer, middle, inner in product(*(_single(block[axis]) for axis in (0, 2, 4))):
            rows = []
            for first in _single(block[1]):
                row = [
                    self._tile(self.plan.box((outer, first, middle, second, inner)), origin, data)
                    for second in _single(block[3])
                ]
                rows.append(join(row, axis=1))
            yield join(rows, axis=0)

    def _tile(self, box: Box, origin: Box, data: NDArray[Any]) -> Moments:
        form = form_of(self.plan.geometry, _extent(box))
        with np.errstate(all="ignore"):
            moments = measure(form, data[_within(box, origin)], self.desk.scratch, self.twofold)
        return moments.map(lambda values: np.reshape(values, form.cells))


@dataclass(frozen=True)
class _Done:
    """What a task of `_Normalizer` hands back; `values` only where the caller is to write them."""

    before: Moments | None
    after: Moments | None
    undefined: int
    runs: list[Run]
    values: NDArray[Any] | None


class _Normalizer(_Reader):
    def __init__(
        self, source: Source, sink: Sink, plan: Plan, norm: Norm, dtype: np.dtype[Any], statistics: bool
    ) -> None:
        # Groups of several tiles are not measured again where beta all but cancels a value.
        several = any(axis.tiles > 1 for axis in (plan.axes[0], plan.axes[2], plan.axes[4]))
        super().__init__(source, plan, norm.twofold or (norm.beta is not None and several))
        self.sink, self.norm, self.dtype, self.statistics = sink, norm, dtype, statistics

    def once(self, block: Box) -> _Done:
        """A block that holds its groups whole: read, measured, normalized, written."""
        data = self.read(self.plan.box(block))
        if all(b - a == 1 for a, b in (block[0], block[2], block[4])):
            return self._write(block, data, None)  # each tile holds its groups whole, too
        moments = known(Cascade().extend(self._records(block, data)).result())
        _refuse_nonfinite(self.norm, moments)
        done = self._write(block, data, moments)
        return replace(done, before=self._few([moments]), undefined=_undefined(self.norm, moments))

    def again(self, task: tuple[Box, Moments]) -> _Done:
        """A block of a window whose moments are known."""
        block, moments = task
        return self._write(block, self.read(self.plan.box(block)), moments)

    def _write(self, block: Box, data: NDArray[Any], moments: Moments | None) -> _Done:
        """Normalize a block tile by tile, from `moments` or, where these are None, each from its own."""
        origin = self.plan.box(block)
        runs = self.plan.runs(origin)
        flat = self.sink.target(runs, self.desk.buffer("out", data.size, self.dtype))
        out = flat.reshape(data.shape)
        before: list[Moments] = []
        after: list[Moments] = []
        undefined = 0
        with np.errstate(all="ignore"):
            for tiles in self.plan.tiles(block):
                box = self.plan.box(tiles)
                form, place = form_of(self.plan.geometry, _extent(box)), _within(box, origin)
                measured = False
                if moments is None:
                    part = measure(form, data[place], self.desk.scratch, self.twofold)
                    measured = not self.twofold and not form.any(part.finite < part.count)
                    undefined += self._check(part)
                    before.append(part)
                else:
                    part = moments.map(_picker(form, place))
                normalize(
                    self.norm, form, box, data[place], out[place], part, self.desk.scratch, measured=measured
                )
                if self.statistics:
                    after.append(_describe(out[place], self.desk.scratch))
        values = None
        if self.sink.positioned:
            self.sink.write(runs, flat)
        else:
            values = flat.copy()  # the buffer is used again before the caller gets to it
        return _Done(self._few(before), self._few(after), undefined, runs, values)

    def _check(self, moments: Moments) -> int:
        if self.norm.nan == "fail":
            _refuse_nonfinite(self.norm, moments)
        return _undefined(self.norm, moments)

    def _few(self, parts: list[Moments]) -> Moments | None:
        """The parts on one axis, merged here if they are so many that the caller would be held up."""
        if not parts:
            return None
        sets = pool(parts)
        return sets if len(sets.count) <= 64 else pool([merge(sets)])


def measure_groups(source: Source, plan: Plan, executor: Executor) -> Iterator[tuple[Window, Moments]]:
    """The moments of every group, window by window: arrays (first, second) of the window's groups."""
    reader = _Reader(source, plan)
    windows: list[Window] = []

    def blocks() -> Iterator[Box]:
        for window in plan.windows():
            windows.append(window)
            yield from window.blocks

    results = in_order(executor, reader.records, blocks(), 2 * plan.jobs)
    done, cascade = 0, Cascade()
    for records in results:
        cascade.extend(records)
        done += 1
        if done == len(windows[0].blocks):
            yield windows.pop(0), known(cascade.result())
            done, cascade = 0, Cascade()


def measure_all(source: Source, plan: Plan, executor: Executor) -> Moments:
    """The moments of the whole tensor."""
    whole = Pool()
    for _, moments in measure_groups(source, plan, executor):
        whole.push(pool([moments]))
    return whole.result()


def normalize_tensor(
    source: Source,
    sink: Sink,
    plan: Plan,
    norm: Norm,
    dtype: np.dtype[Any],
    executor: Executor,
    *,
    statistics: bool = True,
) -> Outcome:
    """Write the normalized source to the sink, which is neither committed nor discarded here."""
    worker = _Normalizer(source, sink, plan, norm, dtype, statistics)
    before, after, undefined = Pool(), Pool(), 0
    for done in _steps(worker, plan, norm, executor):
        if done.before is not None:
            before.push(done.before)
        if done.after is not None:
            after.push(done.after)
        undefined += done.undefined
        if done.values is not None:
            sink.write(done.runs, done.values)
    return Outcome(before.result(), after.result(), undefined)


def _steps(worker: _Normalizer, plan: Plan, norm: Norm, executor: Executor) -> Iterator[_Done]:
    """Windows of one block run side by side; a window of several is measured whole, then written."""
    ahead = 2 * plan.jobs
    for single, windows in groupby(plan.windows(), key=lambda window: len(window.blocks) == 1):
        if single:
            yield from in_order(executor, worker.once, (window.blocks[0] for window in windows), ahead)
            continue
        for window in windows:
            cascade = Cascade()
            for records in in_order(executor, worker.records, window.blocks, ahead):
                cascade.extend(records)
            moments = known(cascade.result())
            _refuse_nonfinite(norm, moments)
            yield _Done(pool([moments]), None, _undefined(norm, moments), [], None)
            yield from in_order(executor, worker.again, ((block, moments) for block in window.blocks), ahead)


def known(moments: Moments | None) -> Moments:
    """A window has at least one block, and a block at least one tile."""
    if moments is None:
        raise AssertionError("no block was measured")
    return moments


def _picker(form: Form, place: tuple[slice, ...]) -> Callable[[NDArray[Any]], Any]:
    return lambda array: form.pick(array[place[1], place[3]])


def _describe(tile: NDArray[Any], scratch: Scratch) -> Moments:
    """Of all elements of a tile together, whatever its shape."""
    shape = (1, 1, 1, 1, tile.size)
    return measure(form_of(flat_geometry(tile.size), shape), tile.reshape(shape), scratch)


def _refuse_nonfinite(norm: Norm, moments: Moments) -> None:
    if norm.nan == "fail" and np.any(moments.finite < moments.count):
        nan, inf = int(np.sum(moments.nan)), int(np.sum(moments.inf))
        raise NonFiniteError(
            f"holds NaN or infinity ({nan} and {inf} in one block); use --nan omit or propagate"
        )


def _undefined(norm: Norm, moments: Moments) -> int:
    """Groups without spread that eps = 0 turns into NaN."""
    if norm.eps > 0:
        return 0
    return int(
        np.count_nonzero((moments.m2[0] == 0) & (moments.finite == moments.count) & (moments.count > 0))
    )


def _extent(box: Box) -> tuple[int, int, int, int, int]:
    a, b, c, d, e = (stop - start for start, stop in box)
    return a, b, c, d, e


def _within(box: Box, origin: Box) -> tuple[slice, ...]:
    return tuple(slice(a - o, b - o) for (a, b), (o, _) in zip(box, origin, strict=True))


def _single(span: tuple[int, int]) -> list[tuple[int, int]]:
    return [(t, t + 1) for t in range(*span)]
