"""Measures and normalizes whole tensors: hands blocks to workers, and puts together what comes back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby, repeat
from typing import Any, TypeAlias, TypeVar

import numpy as np

from gncli.executors import Remote, in_order
from gncli.layout import Box
from gncli.moments import Cascade, Moments, Pool, pool
from gncli.norm import Norm
from gncli.plan import Plan, Window
from gncli.reader import Reader
from gncli.tensors import Sink, Source
from gncli.worker import Done, Normalizer

Advance: TypeAlias = Callable[[int], None]
ReaderT = TypeVar("ReaderT", bound=Reader)


def unwatched(count: int) -> None:
    """Nobody wants to know."""


def bytes_to_read(source: Source, plan: Plan) -> int:
    """Of a normalization: once, or twice where groups exceed a block."""
    passes = 1 if plan.one_pass else 2
    return passes * plan.geometry.size * source.dtype.itemsize


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
        lost = int(self.after.inf) - int(self.before.inf)
        if lost > 0:
            said.append(f"{lost} values became infinite, beyond the output's dtype; use a wider --dtype")
        return said


def measure_groups(
    source: Source, plan: Plan, executor: Executor, advance: Advance = unwatched
) -> Iterator[tuple[Window, Moments]]:
    """The moments of every group, window by window: arrays (first, second) of the window's groups."""
    windows: list[Window] = []

    def blocks() -> Iterator[Box]:
        for window in plan.windows():
            windows.append(window)
            yield from window.blocks

    lots = plan.lots(handed_back=True) if source.forkable else repeat(1)  # else they take turns
    with _introduced(Reader(source, plan), executor) as reader:
        results = in_order(executor, reader.records, blocks(), 2 * plan.jobs, lots, source.abandon)
        done, cascade = 0, Cascade(plan.fan_in)
        for records in results:
            advance(plan.elements(windows[0].blocks[done]) * source.dtype.itemsize)
            cascade.push(records)
            done += 1
            if done == len(windows[0].blocks):
                yield windows.pop(0), cascade.result()
                done, cascade = 0, Cascade(plan.fan_in)


def measure_all(source: Source, plan: Plan, executor: Executor, advance: Advance = unwatched) -> Moments:
    """The moments of the whole tensor."""
    whole = Pool()
    for _, moments in measure_groups(source, plan, executor, advance):
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
    advance: Advance = unwatched,
) -> Outcome:
    """Write the normalized source to the sink, which is neither committed nor discarded here.

    `advance` is told of bytes as they have been read; those of groups that exceed a block, twice.
    """
    before, after, undefined = Pool(), Pool(), 0
    with _introduced(Normalizer(source, sink, plan, norm, dtype, statistics), executor) as worker:
        reserved = executor.submit(worker.reserve)
        for done in _steps(worker, plan, executor, advance):
            advance(sum(count for _, count in done.runs) * source.dtype.itemsize)
            if done.before is not None:
                before.push(done.before)
            if done.after is not None:
                after.push(done.after)
            undefined += done.undefined
            if done.values is not None:
                sink.write(done.runs, done.values)
            if reserved.done():
                reserved.result()
        reserved.result()
    return Outcome(before.result(), after.result(), undefined)


def _steps(worker: Normalizer, plan: Plan, executor: Executor, advance: Advance) -> Iterator[Done]:
    """Windows of one block run side by side; a window of several is measured whole, then written."""
    ahead = 2 * plan.jobs
    one = not worker.source.forkable or not worker.sink.positioned  # in turn; values are held

    def lots(blocks: int | None = None, *, handed_back: bool = False) -> Iterator[int]:
        return repeat(1) if one else plan.lots(blocks, handed_back=handed_back)

    for single, windows in groupby(plan.windows(), key=lambda window: len(window.blocks) == 1):
        if single:
            whole = (window.blocks[0] for window in windows)
            yield from in_order(executor, worker.once, whole, ahead, lots(), worker.source.abandon)
            continue
        for window in windows:
            cascade, blocks = Cascade(plan.fan_in), window.blocks
            handed = lots(len(blocks), handed_back=True)
            measured = in_order(executor, worker.records, blocks, ahead, handed)
            for block, records in zip(blocks, measured, strict=True):
                advance(plan.elements(block) * worker.source.dtype.itemsize)
                cascade.push(records)
            moments = cascade.result()
            yield Done(pool([moments]), None, worker.check(moments), [], None)
            known = ((block, moments) for block in blocks)
            yield from in_order(executor, worker.again, known, ahead, lots(len(blocks)))


@contextmanager
def _introduced(reader: ReaderT, executor: Executor) -> Iterator[ReaderT]:
    """The reader, once an executor that knows nothing of this process has seen that it can open the same."""
    if not isinstance(executor, Remote):
        yield reader
        return
    reader.travels = True
    try:
        executor.check(reader.recipe)
        yield reader
    finally:
        executor.forget()
