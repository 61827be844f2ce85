"""A tile: a few ten thousand elements, laid out in scratch so that numpy's inner loops are long.

A tile is a box of the five-axis view (`layout.Geometry`): outer, first, middle, second, inner, where
`first` and `second` are kept and each of their cells is summed over the other three. Three forms:

    rows      the inner run is long (NCHW): laid as it is, sums along the last axis
    columns   the inner run is short (NHWC): reduced axes in front, sums down the first axis
    short     sets of a few elements (NC): one row for each element of a set, a column for each set

and a row on its own, whose moments are plain numbers: there arithmetic on arrays of one costs more than
on the tile.

Values that belong to cells are `laid`: reshaped so that they broadcast against the scratch.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from math import prod
from operator import methodcaller
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from gncli.doubledouble import Pair
from gncli.layout import Geometry, divisors, widest

Floats: TypeAlias = NDArray[np.float64]
Shape5: TypeAlias = tuple[int, int, int, int, int]

LONG_RUN = 64  # elements: shorter inner runs cost more in numpy's loop overhead than in arithmetic
_DOT = 8192  # BLAS's dot brings in threads of its own above 10000 elements; kernel.c takes no more
_WIDE = 4096  # elements: narrow columns are taken several rows at a time, to this length


@lru_cache(maxsize=256)
def form(shape: Shape5, long_rows: bool, few: bool, run: int) -> Form:
    """The form of a tile; equal tiles share one. `run`: elements of the inner axis to a channel."""
    if long_rows:
        return Row(shape, run) if shape[:4] == (1, 1, 1, 1) else Rows(shape, run)
    return Short(shape) if few else Columns(shape)


def form_of(geometry: Geometry, shape: Shape5) -> Form:
    outer, _, middle, _, inner = geometry.dims
    run = geometry.channel_run if geometry.channel_axis == 4 else inner
    return form(shape, inner >= LONG_RUN, outer * middle < 8, run)


class Form:
    """Common to all. `cells` is the shape (first, second); `each` the number of elements of a cell."""

    order: tuple[int, ...] = (0, 1, 2, 3, 4)
    straight = True  # the elements of a tile lie as in this form, or nearly so
    lines = False  # each cell is one run, which is summed in chunks
    # Arithmetic on what `reduce` gives: arrays of the shape `cells`, or numbers.
    larger: Callable[..., Any] = staticmethod(np.maximum)
    where: Callable[..., Any] = staticmethod(np.where)
    any: Callable[..., Any] = methodcaller("any")
    all: Callable[..., Any] = methodcaller("all")

    def __init__(self, shape: Shape5) -> None:
        self.shape = shape
        self.size = prod(shape)
        self.cells = (shape[1], shape[3])
        self.each = shape[0] * shape[2] * shape[4]
        self.count: Any = np.full(self.cells, self.each)
        self.none: Any = np.zeros(self.cells)
        self.one: Any = np.ones(self.cells)
        self.step = 1  # elements of the inner axis that share a laid value
        self._permuted = tuple(shape[axis] for axis in self.order)

    def of_cell(self) -> Form:
        """The form of one of the cells."""
        outer, _, middle, _, inner = self.shape
        return form((outer, 1, middle, 1, inner), isinstance(self, Rows), isinstance(self, Short), self.step)

    def load(self, tile: NDArray[Any], scratch: Floats) -> Floats:
        """The tile (five axes, any real dtype) as float64, in this form."""
        np.copyto(scratch[: self.size].reshape(self._permuted), tile.transpose(self.order))
        return self.view(scratch)

    def own(self, tile: NDArray[Any]) -> Floats | None:
        """The tile's elements in this form, where they are float64 and lie so; else None."""
        lying = tile.transpose(self.order)
        return self.view(lying.reshape(-1)) if tile.dtype == np.float64 and lying.flags.c_contiguous else None

    def store(self, scratch: Floats, tile: NDArray[Any]) -> None:
        """The scratch back to five axes, rounded once to the tile's dtype."""
        np.copyto(tile.transpose(self.order), scratch[: self.size].reshape(self._permuted), casting="unsafe")

    def pick(self, values: Any) -> Any:
        """An array of the shape `cells` as this form's arithmetic takes it."""
        return values

    def view(self, scratch: Floats) -> Floats:
        raise NotImplementedError

    def spread(self, values: Any) -> Any:
        """Values of the cells on five axes."""
        return values.reshape(1, self.cells[0], 1, self.cells[1], 1)

    def lay(self, values: Any) -> Any:
        """`values` (outer, first, middle, second, inner / step), each axis whole or 1, to broadcast."""
        raise NotImplementedError

    def lay_cells(self, values: Any) -> Any:
        return self.lay(self.spread(values))

    def reduce(self, function: np.ufunc, work: Floats) -> Any:
        """(first, second): `function` over each cell."""
        raise NotImplementedError

    def extremes(self, tile: NDArray[Any], work: Floats) -> tuple[Any, Any]:
        """(first, second) each: least and most of each cell of `tile`, which `work` holds as float64."""
        if self.straight and tile.dtype.itemsize <= 4 and tile.dtype != np.float16 and tile.dtype.isnative:
            work = self.arrange(tile)  # fewer bytes to go through, and numpy is as quick at them
        least, most = self.reduce(np.minimum, work), self.reduce(np.maximum, work)
        return np.float64(least) + 0.0, np.float64(most) + 0.0  # not -0

    def arrange(self, tile: NDArray[Any]) -> NDArray[Any]:
        """The tile's own elements in this form, as a view where that is possible."""
        raise NotImplementedError

    @staticmethod
    def span(values: Any) -> tuple[float, float]:
        """The most and the least of the cells' values."""
        return float(values.max()), float(values.min())

    folds: tuple[int, ...] = ()  # how many elements `fold` may add, the most first

    def fold(self, work: Floats, count: int) -> Floats:
        """Sums of `count` elements of a cell each; `count` is one of `folds`."""
        raise NotImplementedError

    def lay_folded(self, values: Any) -> Any:
        """Values of the cells, to broadcast against what `fold` gives."""
        raise NotImplementedError

    def total_folded(self, sums: Floats) -> Any:
        """(first, second): the total of what `fold` gave."""
        raise NotImplementedError

    def total(self, work: Floats) -> Any:
        return self.reduce(np.add, work)

    def dot(self, a: Floats, b: Floats, scratch: Floats) -> Any:
        """(first, second): the sum of a·b over each cell."""
        return self.total(np.multiply(a, b, out=self.view(scratch)))

    def about(self, squares: Any, rest: Any, count: Any) -> Pair:
        """Squares about the mean, of those about its upper part."""
        return self.larger(squares - count * (rest * rest), 0.0), 0.0 * rest


class Rows(Form):
    def __init__(self, shape: Shape5, run: int) -> None:
        super().__init__(shape)
        inner = shape[4]
        self.step = run if inner % run == 0 else inner
        self._split = (*shape[:4], inner // self.step, self.step)
        chunk = next(c for c in range(min(inner, _DOT), 0, -1) if inner % c == 0)
        self.chunks = (*shape[:4], inner // chunk, chunk) if chunk >= min(inner, 512) else None
        self.lines = self.chunks is not None and shape[0] == shape[2] == 1
        self._ones = np.ones(chunk)
        self._height = next((f for f in range(min(128, inner // 32), 7, -1) if inner % f == 0), 1)
        self.folds = tuple(divisors(self._height)[:0:-1])

    def view(self, scratch: Floats) -> Floats:
        return scratch[: self.size].reshape(self._split)

    def arrange(self, tile: NDArray[Any]) -> NDArray[Any]:
        return tile.reshape(self._split)

    def lay(self, values: Any) -> Any:
        return values[..., None]

    def reduce(self, function: np.ufunc, work: Floats) -> Any:
        rows = function.reduce(work.reshape(self.shape), axis=-1)
        return function.reduce(rows, axis=(0, 2))

    def fold(self, work: Floats, count: int) -> Floats:
        parts, width = self._height // count, self.shape[4] // self._height
        sums: Floats = np.add.reduce(work.reshape(*self.shape[:4], parts, count, width), axis=5)
        return sums.reshape(*self.shape[:4], parts * width)

    def lay_folded(self, values: Any) -> Any:
        return self.spread(values)

    def total_folded(self, sums: Floats) -> Any:
        return np.add.reduce(sums, axis=(0, 2, 4))

    def total(self, work: Floats) -> Any:
        if self.chunks is None:
            return super().total(work)
        return self.total_chunks(np.vecdot(work.reshape(self.chunks), self._ones))

    def dot(self, a: Floats, b: Floats, scratch: Floats) -> Any:
        if self.chunks is None:
            return super().dot(a, b, scratch)
        return self.total_chunks(np.vecdot(a.reshape(self.chunks), b.reshape(self.chunks)))

    def total_chunks(self, sums: Floats) -> Any:
        return self.total_folded(sums)


class Row(Rows):
    """One run of one cell: `reduce` gives a float, and a float is laid as it is."""

    larger = staticmethod(max)
    any = staticmethod(bool)
    all = staticmethod(bool)

    def __init__(self, shape: Shape5, run: int) -> None:
        super().__init__(shape, run)
        self.count, self.none, self.one = self.each, 0.0, 1.0

    @staticmethod
    def span(values: Any) -> tuple[float, float]:
        return values, values

    @staticmethod
    def where(condition: bool, yes: float, no: float) -> float:
        return yes if condition else no

    def pick(self, values: Any) -> Any:
        return values.item()

    def view(self, scratch: Floats) -> Floats:
        return scratch[: self.size].reshape(-1, self.step)

    def arrange(self, tile: NDArray[Any]) -> NDArray[Any]:
        return tile.reshape(-1, self.step)

    def spread(self, values: float) -> float:
        return values

    def lay(self, values: Any) -> Any:
        return values.reshape(-1, 1) if isinstance(values, np.ndarray) else values

    def reduce(self, function: np.ufunc, work: Floats) -> float:
        return float(function.reduce(work.reshape(-1)))

    def total_folded(self, sums: Floats) -> float:
        return float(np.add.reduce(sums, axis=None))


class Columns(Form):
    order: tuple[int, ...] = (0, 2, 1, 3, 4)

    def __init__(self, shape: Shape5) -> None:
        super().__init__(shape)
        self.rows = prod(shape[axis] for axis in self._down)
        width = self.size // self.rows if self.rows else 0
        self._repeat = widest(self.rows, _WIDE // max(width, 1))
        self._down_shape = tuple(shape[axis] for axis in self._down)
        self._across_shape = tuple(shape[axis] for axis in self.order if axis not in self._down)
        self.plane = (self.rows // self._repeat, self._repeat * width)
        self.folds = tuple(divisors(self.plane[0])[:0:-1]) if self.plane[0] <= 128 else ()

    @property
    def _down(self) -> tuple[int, ...]:
        return (0, 2)

    def view(self, scratch: Floats) -> Floats:
        return scratch[: self.size].reshape(self.plane)

    def arrange(self, tile: NDArray[Any]) -> NDArray[Any]:
        return tile.transpose(self.order).reshape(self.plane)

    def lay(self, values: Any) -> Any:
        values = np.asarray(values).transpose(self.order)
        down = len(self._down)
        if prod(values.shape[:down]) > 1:
            return np.broadcast_to(values, self._down_shape + self._across_shape).reshape(self.plane)
        line = np.empty((self._repeat, *self._across_shape))
        line[:] = values.reshape(values.shape[down:])
        return line.reshape(1, -1)

    def reduce(self, function: np.ufunc, work: Floats) -> Any:
        return self.across(function, function.reduce(work, axis=0))

    def across(self, function: np.ufunc, line: Any) -> Any:
        """(first, second): `function` over values of a line of columns."""
        line = function.reduce(line.reshape(-1, *self._across_shape), axis=0)
        return function.reduce(line, axis=2) if line.ndim == 3 else line

    def fold(self, work: Floats, count: int) -> Floats:
        rows, width = self.plane
        sums: Floats = np.add.reduce(work.reshape(rows // count, count, width), axis=1)
        return sums

    def lay_folded(self, values: Any) -> Any:
        return self.lay_cells(values)

    def total_folded(self, sums: Floats) -> Any:
        return self.reduce(np.add, sums)


class Short(Columns):
    order = (0, 2, 4, 1, 3)
    straight = False

    @property
    def _down(self) -> tuple[int, ...]:
        return (0, 2, 4)
