"""The compiled passes over tiles of float32 and of float64, where they were built: see kernel.c.

What they give is what numpy gives, to the bit. Sums of float32 are exact. Those of squares and of float64 are
not: BLAS adds them up in rows, and numpy in columns; so rows are left to it, and columns taken in its order.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from gncli.doubledouble import Number, Pair
from gncli.dtypes import last_place
from gncli.layout import widest
from gncli.tile import Columns, Floats, Form, Rows, Short

_VERSION = 8  # of what kernel.c offers: an editable installation may hold an older one


def _load() -> Any:
    """The module, whose names are ufuncs. GNCLI_KERNEL=0 does without."""
    if os.environ.get("GNCLI_KERNEL") == "0":
        return None
    try:
        import gncli_kernel
    except ImportError:
        return None
    return gncli_kernel if getattr(gncli_kernel, "VERSION", 0) == _VERSION else None


passes = _load()
# A tile's sum is exact, here and in numpy's passes, where its largest value is no more than this times the
# last place of its least.
REACH = 2.0**61
_STRIP = 256  # columns that are taken at a time


def swift(form: Form, *tiles: NDArray[Any]) -> Runs | None:
    """The passes for these tiles of a form, if there are any: native float32, contiguous within."""
    fit = passes is not None and all(_fits(tile, np.float32) for tile in tiles)
    return _swift(form) if fit else None


def swift_to(form: Form, source: NDArray[Any], sink: NDArray[Any]) -> Runs | None:
    """As `swift`, of values that go to `sink`, which may be of float16."""
    found = swift(form, source)
    half = _fits(sink, np.float16) and not isinstance(found, Sets)
    return found if half or _fits(sink, np.float32) else None


def doubles(form: Form, *tiles: NDArray[Any]) -> Doubles | None:
    """The passes for these tiles of native float64, if their cells are long runs."""
    if passes is None or not isinstance(form, Rows) or not form.lines:
        return None
    return Doubles(form) if all(_fits(tile, np.float64) for tile in tiles) else None


def takes(dtype: np.dtype[Any]) -> bool:
    """Whether there are passes for values of this dtype: all that float32 holds."""
    return passes is not None and (dtype.itemsize <= 2 or (dtype.kind == "f" and dtype.itemsize == 4))


def widened(tile: NDArray[Any], buffer: Callable[[], NDArray[np.float32]]) -> NDArray[Any]:
    """The tile as float32, in a `buffer` of its size, if that holds all its values and there are passes."""
    if tile.dtype == np.float32 or not takes(tile.dtype):
        return tile
    wide = buffer().reshape(tile.shape)
    if tile.dtype == np.float16:
        passes.widen(tile, out=wide)
    else:
        np.copyto(wide, tile)
    return wide


def _fits(tile: NDArray[Any], dtype: DTypeLike) -> bool:
    step = tile.strides[-1] == tile.itemsize or tile.shape[-1] == 1
    return step and tile.dtype == dtype and tile.dtype.isnative


@lru_cache(maxsize=256)
def _swift(form: Form) -> Runs | None:
    if isinstance(form, Short):
        # As they lie, and added up one after the other.
        whole = form.shape[0] == form.shape[2] == 1 and form.plane == (form.each, form.size // form.each)
        return Sets(form) if whole and form.plane[1] > 1 else None
    if isinstance(form, Columns):
        return Planes(form) if form.plane[1] > 1 else None  # numpy adds up a single column in another order
    if isinstance(form, Rows) and form.lines:
        return Lines(form)
    return Runs(form)


class Runs:
    """Long runs of the inner axis. The tiles are as `swift` asks."""

    centers = True  # whether `squares` leaves the deviations in the first scratch

    def __init__(self, form: Form) -> None:
        self.form = form

    def survey(self, tile: NDArray[Any]) -> tuple[Any, Any, float, Pair]:
        """(first, second): least, most, their sum; in between, the last place of the least magnitude."""
        least, most, bits, *sums = passes.survey(tile)  # of each run: (outer, first, middle, second)
        pick, cells = self.form.pick, self.form.cells
        high, low = passes.total(*(runs.transpose(1, 3, 0, 2).reshape(*cells, -1) for runs in sums))
        least, most = np.minimum.reduce(least, axis=(0, 2)), np.maximum.reduce(most, axis=(0, 2))
        return pick(least), pick(most), last_place(int(bits.min()) + 1), (pick(high), pick(low))

    def squares(self, tile: NDArray[Any], mean: Any, work: Floats, spare: Floats) -> Any:
        """(first, second): the sum of squares of the tile less `mean`, which is of the cells."""
        form = self.form
        work = passes.deviate(form.arrange(tile), form.lay_cells(mean), out=form.view(work))
        return form.dot(work, work, spare)

    def apply(self, tile: NDArray[Any], mean: Any, scale: Any, shift: Any, sink: NDArray[Any]) -> None:
        """(tile - mean)·scale + shift to `sink`; `mean` is of the cells, the others are to be laid."""
        form = self.form
        out = form.arrange(sink)
        apply = passes.apply if sink.dtype == np.float32 else passes.apply_half
        apply(form.arrange(tile), *self._laid(mean, scale, shift), out=out)
        if not np.may_share_memory(out, sink):
            form.store(out.reshape(-1), sink)

    def near(self, tile: NDArray[Any], mean: Any, scale: Any, shift: Any, bound: float) -> Any:
        """(first, second): where some magnitude of what `apply` gives, as float64, may be below `bound`."""
        found = self._near(tile, *self._laid(mean, scale, shift), bound)
        return found.reshape(*self.form.shape[:4], -1).any(axis=(0, 2, 4))

    def _near(self, tile: NDArray[Any], mean: Any, scale: Any, shift: Any, bound: float) -> Any:
        """The same of each row."""
        return passes.near(self.form.arrange(tile), *map(np.atleast_1d, (mean, scale, shift)), bound)

    def _laid(self, mean: Any, scale: Any, shift: Any) -> tuple[Any, Any, Any]:
        return self.form.lay_cells(mean), self.form.lay(scale), self.form.lay(shift)


class Lines(Runs):
    """Long runs, each a cell: what is read of memory is all done while a cache has it."""

    form: Rows
    centers = False

    def moments(self, tile: NDArray[Any]) -> tuple[Any, Any, float, Pair, Pair]:
        """(first, second): least, most, last place (as of `survey`), mean and m2."""
        form = self.form
        *found, bits, high, low, squares = passes.moments_rows(tile.reshape(form.chunks))
        least, most, high, low = (form.pick(v.reshape(form.cells)) for v in (*found, high, low))
        m2 = form.about(form.total_chunks(squares), low, form.each)
        return least, most, last_place(int(bits.min()) + 1), (high, low), m2


class Doubles:
    """Long runs of float64, each a cell. What is of cells is as the form's `reduce` gives it."""

    def __init__(self, form: Rows) -> None:
        self.form = form

    def extremes(self, tile: NDArray[Any]) -> tuple[Number, Number]:
        """Least and most; of NaN there is no trace, but that sums are NaN."""
        least, most = (self._pick(each) for each in passes.extremes(tile))
        return least, most

    def totals(self, tile: NDArray[Any], anchor: Number, then: Number) -> tuple[Number, Number, Number]:
        """The sums of what is above one anchor's cut, of what is above the other's, and of the rest."""
        upper, middle, lower = map(self.form.total_chunks, passes.cut_rows(*self._rows(tile, anchor, then)))
        return upper, middle, lower

    def squares(self, tile: NDArray[Any], mean: Number) -> Number:
        """The sum of squares of the tile less `mean`."""
        return self.form.total_chunks(passes.squares_rows(*self._rows(tile, mean)))

    def squares_in_pairs(self, tile: NDArray[Any], *grid: Number) -> Pair:
        """The same, less the mean of the `pairs.Grid`."""
        high, low = passes.center_rows(*self._rows(tile, *grid))
        return self.form.total_chunks(high), self.form.total_chunks(low)

    def apply(
        self,
        tile: NDArray[Any],
        grid: Sequence[Number],
        scale: Sequence[Any],
        shift: Any | None,
        sink: NDArray[Any],
    ) -> None:
        """`pairs.center` and `pairs.scale`, to `sink`; the scale's parts and the shift are to be laid."""
        form = self.form
        line = *map(form.lay_cells, grid[:3]), *map(form.lay, scale)
        x, out = form.arrange(tile), form.arrange(sink)
        if shift is None:
            passes.center_scale(x, *line, out=out)
        else:
            passes.center_shift(x, *line, form.lay(shift), out=out)

    def _rows(self, tile: NDArray[Any], *values: Number) -> Iterator[NDArray[Any]]:
        yield tile.reshape(self.form.chunks)
        for each in values:
            yield np.reshape(each, (1, self.form.cells[0], 1, self.form.cells[1]))

    def _pick(self, values: NDArray[Any]) -> Number:
        return self.form.pick(values.reshape(self.form.cells))


class Planes(Runs):
    """Columns: short runs, side by side."""

    form: Columns
    centers = False

    def __init__(self, form: Columns) -> None:
        super().__init__(form)
        rows, width = form.rows, form.size // max(form.rows, 1)
        beside = widest(rows, _STRIP // max(width, 1))
        self._narrow = (rows // beside, beside * width)

    def survey(self, tile: NDArray[Any]) -> tuple[Any, Any, float, Pair]:
        form = self.form
        plane = np.ascontiguousarray(form.arrange(tile)).reshape(self._narrow)
        least, most, bits, *sums = passes.survey_columns(plane)
        lanes = (each.reshape(-1, *form.cells, form.shape[4]).transpose(1, 2, 0, 3) for each in sums)
        total = passes.total(*(each.reshape(*form.cells, -1) for each in lanes))
        return (
            form.across(np.minimum, least),
            form.across(np.maximum, most),
            last_place(int(bits.min()) + 1),
            total,
        )

    def squares(self, tile: NDArray[Any], mean: Any, work: Floats, spare: Floats) -> Any:
        plane = np.ascontiguousarray(self.form.arrange(tile))
        return self.form.across(np.add, passes.squares_columns(plane, self.form.lay_cells(mean)[0]))

    def near(self, tile: NDArray[Any], mean: Any, scale: Any, shift: Any, bound: float) -> Any:
        plane, laid = self.form.arrange(tile), self._laid(mean, scale, shift)
        rows = np.flatnonzero(self._near(tile, *laid, bound))  # few, and looked at again
        middle, *line = (np.broadcast_to(values, plane.shape)[rows] for values in laid)
        values = (plane[rows] - middle) * line[0] + line[1]
        return self.form.across(np.fmin, np.fmin.reduce(np.abs(values), axis=0, initial=np.inf)) < bound


class Sets(Runs):
    """Short runs, each a cell. They have no `survey`, and no `squares`."""

    centers = False

    def moments(self, tile: NDArray[Any]) -> tuple[Any, Any, float, Pair, Pair]:
        """(first, second): least, most, last place (as of `survey`), mean and m2."""
        least, most, bits, high, low, m2 = (v.reshape(self.form.cells) for v in passes.moments(tile))
        return least, most, last_place(int(bits.min()) + 1), (high, low), (m2, self.form.none)

    def apply(self, tile: NDArray[Any], mean: Any, scale: Any, shift: Any, sink: NDArray[Any]) -> None:
        middle, *each = self._laid(mean, scale, shift)
        passes.apply_sets(tile, middle[..., 0], *each, out=sink)

    def _near(self, tile: NDArray[Any], mean: Any, scale: Any, shift: Any, bound: float) -> Any:
        return passes.near(tile, mean, scale, shift, bound)

    def _laid(self, mean: Any, scale: Any, shift: Any) -> tuple[Any, Any, Any]:
        scale, shift = (np.broadcast_to(values, self.form.shape) for values in (scale, shift))
        return self.form.spread(mean), scale, shift
