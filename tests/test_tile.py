"""gncli.tile: every form of a tile against plain numpy over the axes."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np
import pytest
from arrays import Array
from hypothesis import given, settings
from hypothesis import strategies as st

from gncli.layout import geometry
from gncli.tile import Columns, Form, Row, Rows, Short, form, form_of

EXAMPLES = settings(deadline=None, max_examples=200, derandomize=True)
SUMMED = (0, 2, 4)  # the axes that a cell's elements lie on
Shape5 = tuple[int, int, int, int, int]


def grid(shape: tuple[int, ...], seed: int, dtype: str = "f8") -> Array:
    """Small integers, so that sums and products of some thousands are exact in any order."""
    low, high = (0, 100) if dtype.startswith("u") else (-50, 50)
    return np.random.default_rng(seed).integers(low, high, shape).astype(dtype)


@st.composite
def tiles(draw: st.DrawFn, dtypes: tuple[str, ...] = ("f8",)) -> tuple[Form, Array]:
    """A form of each kind, and a tile for it, cut out of a larger block or not."""
    lengths = st.sampled_from([1, 1, 2, 3, 4, 7])
    made: Form
    kind = draw(st.sampled_from(["row", "rows", "columns", "short"]))
    if kind in ("row", "rows"):
        inner = draw(st.sampled_from([1, 64, 96, 97, 360, 512, 1024, 1031]))
        o, a, m, b = (1, 1, 1, 1) if kind == "row" else [draw(lengths) for _ in range(4)]
        run = draw(st.sampled_from([d for d in range(1, inner + 1) if inner % d == 0] + [inner + 5]))
        shape: Shape5 = (o, a, m, b, inner)
        made = Row(shape, run) if kind == "row" else Rows(shape, run)
    else:
        first, second, inner = draw(lengths), draw(lengths), draw(st.sampled_from([1, 2, 5, 63]))
        outer, middle = (
            draw(lengths),
            draw(st.sampled_from([1, 2, 60, 350] if kind == "columns" else [1, 2, 7])),
        )
        shape = (outer, first, middle, second, inner)
        made = Columns(shape) if kind == "columns" else Short(shape)
    within = draw(st.booleans())
    block = grid(
        tuple(n + 2 for n in shape) if within else shape,
        draw(st.integers(0, 99)),
        draw(st.sampled_from(dtypes)),
    )
    tile = block[tuple(slice(1, 1 + n) for n in shape)] if within else block
    return made, tile


def loaded(made: Form, tile: Array) -> tuple[Array, Array]:
    """The scratch, a little longer than the tile, and its view."""
    scratch = np.full(made.size + 3, np.nan)
    return scratch, made.load(tile, scratch)


def cells(made: Form, values: Any) -> Array:
    return np.reshape(values, made.cells)


def stored(made: Form, scratch: Array) -> Array:
    out = np.empty(made.shape)
    made.store(scratch, out)
    return out


@EXAMPLES
@given(tiles(("f2", "f4", ">f4", "f8", "u1", "i2", ">i4", "i8")))
def test_load_and_store(case: tuple[Form, Array]) -> None:
    """There and back, from any dtype, without touching what is beside."""
    made, tile = case
    scratch, work = loaded(made, tile)
    assert np.isnan(scratch[made.size :]).all()
    assert np.shares_memory(work, scratch)
    assert work.size == made.size == tile.size
    block = np.full(tuple(n + 2 for n in made.shape), 99, tile.dtype)
    place = tuple(slice(1, 1 + n) for n in made.shape)
    made.store(scratch, block[place])
    assert np.array_equal(block[place], tile)
    assert np.count_nonzero(block != 99) <= tile.size


def test_store_rounds_once_to_nearest() -> None:
    made = Rows((1, 2, 1, 1, 3), 3)
    values = np.array([1 + 2.0**-24, 1 + 3 * 2.0**-24, 1 + 2.0**-24 + 2.0**-50, 1e-50, -0.0, 3.4e38])
    out = np.empty((1, 2, 1, 1, 3), "f4")
    made.store(values, out)
    assert np.array_equal(out.ravel(), np.array([1, 1 + 2.0**-22, 1 + 2.0**-23, 0, -0.0, 3.4e38], "f4"))
    assert np.signbit(out.ravel()[4])


@EXAMPLES
@given(tiles())
def test_reduce(case: tuple[Form, Array]) -> None:
    made, tile = case
    _, work = loaded(made, tile)
    assert np.array_equal(cells(made, made.reduce(np.add, work)), tile.sum(SUMMED))
    assert np.array_equal(cells(made, made.reduce(np.minimum, work)), tile.min(SUMMED))
    assert np.array_equal(cells(made, made.reduce(np.maximum, work)), tile.max(SUMMED))


@EXAMPLES
@given(tiles())
def test_total_and_dot(case: tuple[Form, Array]) -> None:
    made, tile = case
    scratch, work = loaded(made, tile)
    other = tile[::-1, :, ::-1, :, ::-1] + 1
    _, beside = loaded(made, other)
    spare = np.empty(made.size)
    assert np.array_equal(cells(made, made.total(work)), tile.sum(SUMMED))
    assert np.array_equal(cells(made, made.dot(work, beside, spare)), (tile * other).sum(SUMMED))
    assert np.array_equal(cells(made, made.dot(work, work, spare)), (tile * tile).sum(SUMMED))
    assert np.array_equal(stored(made, scratch), tile)  # as it was


@EXAMPLES
@given(tiles())
def test_fold(case: tuple[Form, Array]) -> None:
    """Partial sums, of no more elements than is said, that `total_folded` completes."""
    made, tile = case
    first, second = made.cells
    number = np.arange(first * second, dtype="f8").reshape(1, first, 1, second, 1)
    for count in made.folds:
        scratch, work = loaded(made, tile)
        sums = made.fold(work, count)
        assert sums.size * count == tile.size
        assert np.array_equal(cells(made, made.total_folded(sums)), tile.sum(SUMMED))
        made.load(np.ones(made.shape), scratch)
        assert (made.fold(made.view(scratch), count) == count).all()
        # Values of cells against the sums: each sum is of elements of one cell.
        made.load(np.broadcast_to(number, made.shape), scratch)
        each = made.pick(number.reshape(made.cells))
        sums = made.fold(made.view(scratch), count)
        assert np.array_equal(sums - count * made.lay_folded(each), 0 * sums)


@EXAMPLES
@given(tiles(("f2", "f4", ">f4", "f8", "u1", "i2", ">i4", "i8")))
def test_extremes(case: tuple[Form, Array]) -> None:
    made, tile = case
    _, work = loaded(made, tile)
    least, most = made.extremes(tile, work)
    assert np.asarray(least).dtype == np.asarray(most).dtype == np.float64
    assert np.array_equal(cells(made, least), tile.min(SUMMED))
    assert np.array_equal(cells(made, most), tile.max(SUMMED))
    top, bottom = made.span(most)
    assert (top, bottom) == (tile.max(SUMMED).max(), tile.max(SUMMED).min())


@EXAMPLES
@given(tiles(), st.data())
def test_lay(case: tuple[Form, Array], data: st.DataObject) -> None:
    """Values on any of the axes, a step of the inner one each, broadcast against the scratch."""
    made, tile = case
    whole = (*made.shape[:4], made.shape[4] // made.step)
    shape = tuple(data.draw(st.sampled_from([1, n])) for n in whole)
    values = grid(shape, 5)
    scratch, work = loaded(made, tile)
    np.multiply(work, made.lay(values), out=work)
    steps = np.repeat(values, made.step, axis=4) if shape[4] == whole[4] else values
    assert np.array_equal(stored(made, scratch), tile * steps)


@EXAMPLES
@given(tiles())
def test_lay_cells(case: tuple[Form, Array]) -> None:
    """What `reduce` gives, and what `pick` makes of an array of cells, belongs to its own cell."""
    made, tile = case
    scratch, work = loaded(made, tile)
    np.subtract(work, made.lay_cells(made.reduce(np.minimum, work)), out=work)
    assert np.array_equal(stored(made, scratch), tile - tile.min(SUMMED, keepdims=True))
    numbers = np.arange(prod(made.cells), dtype="f8").reshape(made.cells)
    made.load(tile, scratch)
    np.add(work, made.lay_cells(made.pick(numbers)), out=work)
    first, second = made.cells
    assert np.array_equal(stored(made, scratch), tile + numbers.reshape(1, first, 1, second, 1))


@EXAMPLES
@given(tiles())
def test_arithmetic_of_cells(case: tuple[Form, Array]) -> None:
    """larger, where, any, all: on numbers or arrays, as `reduce` gives them."""
    made, tile = case
    _, work = loaded(made, tile)
    sums, least = made.reduce(np.add, work), made.reduce(np.minimum, work)
    right, low = tile.sum(SUMMED), tile.min(SUMMED)
    assert np.array_equal(cells(made, made.larger(sums, -least)), np.maximum(right, -low))
    assert np.array_equal(cells(made, made.where(sums > least, sums, 0.0)), np.where(right > low, right, 0))
    assert bool(made.any(sums > least)) == bool((right > low).any())
    assert bool(made.all(sums > least)) == bool((right > low).all())
    assert np.array_equal(cells(made, made.count), np.full(made.cells, made.each))
    assert not np.any(made.none)
    assert np.all(np.asarray(made.one) == 1)


LONG = [8192, 8193, 8209, 25_000, 100_352, 131_071, 3 * 8191, 2**18]


@pytest.mark.parametrize("inner", LONG)
@pytest.mark.parametrize("rows", [1, 3])
def test_long_rows(inner: int, rows: int) -> None:
    """Longer than one dot takes, prime lengths among them."""
    made = form((1, rows, 1, 1, inner), True, False, inner)
    tile = grid(made.shape, inner)
    _, work = loaded(made, tile)
    assert np.array_equal(cells(made, made.total(work)), tile.sum(SUMMED))
    assert np.array_equal(cells(made, made.dot(work, work, np.empty(made.size))), (tile * tile).sum(SUMMED))
    for count in made.folds:
        assert np.array_equal(cells(made, made.total_folded(made.fold(work, count))), tile.sum(SUMMED))


@pytest.mark.parametrize(
    ("word", "shape", "groups", "kind"),
    [
        ("NCHW", (4, 32, 56, 56), 8, Rows),
        ("CHW", (8, 9, 9), 1, Row),
        ("NHWC", (4, 56, 56, 32), 8, Columns),
        ("NHWC", (4, 56, 56, 512), 8, Rows),
        ("HWCN", (56, 56, 32, 5), 8, Columns),
        ("NC", (1000, 32), 8, Short),
        ("NC", (1000, 512), 8, Rows),
    ],
)
def test_which_form(word: str, shape: tuple[int, ...], groups: int, kind: type[Form]) -> None:
    view = geometry(shape, word, groups)
    tile = tuple(min(n, 1) if axis == 1 else n for axis, n in enumerate(view.dims))
    found = form_of(view, tile)  # type: ignore[arg-type]
    assert type(found) is kind
    assert found is form_of(view, tile)  # type: ignore[arg-type]
