"""What a worker does with a block to be normalized: read it, measure it, normalize it, write it.

A block is read by the worker itself and, where the sink takes writes at any place, written by it too.
Otherwise its values go back to the caller, who writes them in storage order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain
from math import prod
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gncli.errors import NonFiniteError
from gncli.groupnorm import normalize, normalize_at_once
from gncli.layout import Box, Run, flat_geometry
from gncli.masks import Flags
from gncli.measure import Left, measure_lines
from gncli.missing import measure_present
from gncli.moments import Cascade, Moments, alone, merge, pool
from gncli.norm import Norm
from gncli.plan import Plan
from gncli.reader import Piece, Reader, pieces_of, plain
from gncli.scratch import Scratch, arithmetic
from gncli.tensors import Sink, Source
from gncli.tile import LONG_RUN, Form, form_of

_LONG_LINE = 4096  # elements: to merge the moments of shorter ones takes a part of the time that they take
_FEW_SETS = 64  # of moments, which whoever gets them can merge beside other work


class Done(NamedTuple):
    """What a task of `Normalizer` hands back; `values`, packed, only where the caller is to write them."""

    before: Moments | None
    after: Moments | None
    undefined: int
    runs: Sequence[Run] = ()
    values: Any = None


class Normalizer(Reader):
    def __init__(
        self, source: Source, sink: Sink, plan: Plan, norm: Norm, dtype: np.dtype[Any], statistics: bool
    ) -> None:
        # Groups of several tiles are not measured again where beta all but cancels a value.
        several = any(axis.tiles > 1 for axis in (plan.axes[0], plan.axes[2], plan.axes[4]))
        super().__init__(source, plan, norm.twofold or (norm.beta is not None and several))
        self.sink, self.norm, self.dtype, self.statistics = sink, norm, dtype, statistics

    def _parts(self) -> tuple[Any, ...]:
        return self.source, self.sink, self.plan, self.norm, self.dtype, self.statistics

    def reserve(self) -> None:
        self.sink.reserve()

    def once(self, block: Box) -> Done:
        """A block that holds its groups whole: read, measured, normalized, written."""
        data = self.read(self.plan.box(block))
        if all(b - a == 1 for a, b in (block[0], block[2], block[4])):
            return self._write(block, data, None)  # each tile holds its groups whole, too
        moments = Cascade(self.plan.fan_in).push(self._records(block, data)).result()
        undefined = self.check(moments)
        done = self._write(block, data, moments)
        return done._replace(before=_few([moments]), undefined=undefined)

    def again(self, task: tuple[Box, Moments]) -> Done:
        """A block of a window whose moments are known."""
        block, moments = task
        return self._write(block, self.read(self.plan.box(block)), moments)

    def _write(self, block: Box, data: NDArray[Any], moments: Moments | None) -> Done:
        """Normalize and write a block, from `moments` or, where these are None, each tile from its own."""
        origin = self.plan.box(block)
        runs = self.plan.runs(origin)
        flat = plain(self.sink.target(runs, self._room(data)))
        out = flat.reshape(data.shape)
        pieces = list(chain.from_iterable(pieces_of(self.plan.geometry, self.plan.edges(block))))
        with arithmetic():
            done = self._at_once(origin, data, out, pieces) if moments is None else None
            if done is None:
                done = self._by_tiles(origin, data, out, pieces, moments)
        if not self.sink.positioned:
            return done._replace(runs=runs, values=self.sink.pack(runs, flat))
        self.sink.write(runs, flat)
        return done._replace(runs=runs)

    def _by_tiles(
        self,
        origin: Box,
        data: NDArray[Any],
        out: NDArray[Any],
        pieces: list[Piece],
        moments: Moments | None,
    ) -> Done:
        before: list[Moments] = []
        after: list[Moments] = []
        undefined = 0
        for form, place in pieces:
            tile, left = self._widened(data[place]), None
            missing = self._missing(tile)
            if moments is None:
                many = form.each < LONG_RUN and prod(form.cells) > _FEW_SETS
                if many:  # to merge so many sets takes longer than to sum anew, which needs the scratch
                    before.append(_describe(tile, missing, self.desk.scratch))
                part, left = measure_present(form, tile, missing, self.desk.scratch, self.twofold)
                undefined += self.check(part, left)
                if not many:
                    before.append(part)
            else:
                part = moments.map(_picker(form, place))
            box = tuple((o + at.start, o + at.stop) for (o, _), at in zip(origin, place, strict=True))
            normalize(self.norm, form, box, tile, out[place], part, self.desk.scratch, left=left)
            if self.statistics:
                after.append(self._after(form, out[place], missing))
        return Done(_few(before), _few(after), undefined)

    def _at_once(
        self, origin: Box, data: NDArray[Any], out: NDArray[Any], pieces: list[Piece]
    ) -> Done | None:
        """The same of a block of whole groups in one call of each pass, if there are some that need no tiles.

        What a call costs besides, and the wait for the interpreter's lock after it, take as long as a tile.
        But a result whose short lines are described all together is quicker by tiles, which the caches hold.
        """
        if data.shape[4] < LONG_RUN:  # a form holds some arrays with an entry for each group of the block
            return None
        form = form_of(self.plan.geometry, data.shape)
        described = self.statistics and not _by_lines(form)
        outgrown = self.norm.affine and form.step < LONG_RUN  # the block, by what gamma and beta make of it
        if described or outgrown:
            return None
        moments = measure_lines(form, data, out, twofold=self.twofold)
        scratch = self.desk.scratch
        if moments is None or not normalize_at_once(self.norm, form, origin, data, out, moments, scratch):
            return None
        after: list[Moments] = []
        if self.statistics:
            whole = measure_lines(form, out)
            after = [self._after(form, out[place]) for form, place in pieces] if whole is None else [whole]
        return Done(_few([moments]), _few(after), self.check(moments))

    def _after(self, form: Form, out: NDArray[Any], missing: Flags | None = None) -> Moments:
        """Moments of a normalized tile: of each of its lines, if they are long, or else of all of it."""
        tile, scratch = self._widened(out), self.desk.scratch
        if _by_lines(form):
            return measure_present(form, tile, missing, scratch)[0]
        return _describe(tile, missing, scratch)

    def _room(self, data: NDArray[Any]) -> NDArray[Any]:
        """Where the block's values may go: into the buffer they were read to, if they take as much."""
        held = self.desk.buffer("in", data.size, self.source.dtype)
        if self.dtype.itemsize == held.itemsize and np.may_share_memory(data, held):
            return held.view(self.dtype)
        return self.desk.buffer("out", data.size, self.dtype)

    def check(self, moments: Moments, left: Left | None = None) -> int:
        """How many groups eps = 0 turns into NaN. Raises NonFiniteError where NaN is to fail."""
        if not left and self.norm.nan == "fail" and np.any(moments.finite < moments.size):
            held = int(np.sum(moments.size - moments.finite))
            raise NonFiniteError(f"holds NaN or infinity, {held} or more; use --nan omit or propagate")
        if self.norm.eps > 0:
            return 0
        whole = (moments.finite == moments.size) & (moments.size > 0)
        return int(np.count_nonzero((moments.m2[0] == 0) & whole))


def _few(parts: list[Moments]) -> Moments | None:
    """The parts on one axis, merged here if they are so many that the caller would be held up."""
    if not parts:
        return None
    sets = pool(parts)
    return sets if len(sets.size) <= _FEW_SETS else alone(merge(sets))


def _picker(form: Form, place: tuple[slice, ...]) -> Callable[[NDArray[Any]], Any]:
    return lambda array: form.pick(array[place[1], place[3]])


def _describe(tile: NDArray[Any], missing: Flags | None, scratch: Scratch) -> Moments:
    """Moments of all elements of a tile together that are not missing, whatever its shape."""
    shape = (1, 1, 1, 1, tile.size)
    form, flags = (
        form_of(flat_geometry(tile.size), shape),
        None if missing is None else missing.reshape(shape),
    )
    return measure_present(form, tile.reshape(shape), flags, scratch)[0]


def _by_lines(form: Form) -> bool:
    return form.lines and form.each >= _LONG_LINE
