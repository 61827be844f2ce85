"""gncli.moments and gncli.measure against exact rationals: any partition, any unit, any order."""

from __future__ import annotations

from fractions import Fraction
from math import prod
from typing import Any

import numpy as np
import pytest
from arrays import Array, normal, rng, with_outliers
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import moments_gold

from gncli import pairs
from gncli.deviations import deviations
from gncli.doubledouble import Number, Pair
from gncli.layout import flat_geometry
from gncli.measure import HUGE, TINY, UNIT, Left, measure
from gncli.moments import Cascade, Moments, Pool, join, merge, pool, stack
from gncli.scratch import Scratch
from gncli.tile import Columns, Form, Row, Rows, Short, form_of

pytestmark = pytest.mark.usefixtures("passes")

EXAMPLES = settings(deadline=None, max_examples=150, derandomize=True)
MERGED = Fraction(1, 2**64)  # of the largest value or of m2: what merging may add
ALONE = Fraction(1, 10**12)  # of m2: what a tile's own sum of squares in float64 may be off

# Records, made exactly


def pair(value: Fraction) -> Pair:
    high = float(value)
    return high, float(value - Fraction(high))


def exact(pair: Pair, unit: Number = 1.0, power: int = 1) -> Fraction:
    """What the pair stands for, in units of 1."""
    return (Fraction(float(pair[0])) + Fraction(float(pair[1]))) / Fraction(float(unit)) ** power


def unit_for(largest: float) -> float:
    if largest >= HUGE:
        return 1 / UNIT
    return UNIT if 0 < largest <= TINY else 1.0


def record(values: Array) -> Moments:
    """The moments of the values to the last bit of the pairs, NaN and infinity counted apart."""
    kept = values[np.isfinite(values)]
    nan, inf = int(np.isnan(values).sum()), int(np.isinf(values).sum())
    if not kept.size:
        return Moments(values.size, (0.0, 0.0), (0.0, 0.0), np.inf, -np.inf, nan, inf, 1.0)
    unit = unit_for(float(np.abs(kept).max()))
    mean, variance = moments_gold(kept)
    mean, m2 = mean * Fraction(unit), variance * kept.size * Fraction(unit) ** 2
    least, most = float(kept.min()), float(kept.max())
    return Moments(values.size, pair(mean), pair(m2), least, most, nan, inf, unit)


def sets(parts: list[Array]) -> Moments:
    """A record with an entry for each part."""
    return stack([record(part) for part in parts])


def assert_moments(found: Moments, values: Array, tolerance: Fraction = MERGED) -> None:
    """Counts and extremes as they are; the mean within 2**-64 of the largest value, m2 within `tolerance`."""
    kept = values[np.isfinite(values)]
    counts = (int(found.size), int(found.nan), int(found.inf), int(found.finite))
    assert counts == (values.size, np.isnan(values).sum(), np.isinf(values).sum(), kept.size)
    if not kept.size:
        assert (found.least, found.most) == (np.inf, -np.inf)
        assert np.isnan([found.row()[name] for name in ("mean", "std", "min", "max")]).all()
        return
    assert (found.least, found.most) == (kept.min(), kept.max())
    mean, variance = moments_gold(kept)
    largest = max(abs(Fraction(float(kept.min()))), abs(Fraction(float(kept.max()))))
    m2 = variance * kept.size
    off = abs(exact(found.mean, found.unit) - mean)
    assert off <= largest * MERGED
    # A mean that is off by d moves m2 by n·d², and what is lost of the squares is lost of each.
    assert abs(exact(found.m2, found.unit, 2) - m2) <= m2 * tolerance + kept.size * (largest * MERGED) ** 2


SCALES = st.sampled_from([1.0, 1.0, 2.0**60, 2.0**-60, 2.0**900, 2.0**-900])


@st.composite
def parts(draw: st.DrawFn) -> list[Array]:
    """Some sets of values on a grid about a common centre, empty sets and spoiled ones among them."""
    generator = np.random.default_rng(draw(st.integers(0, 2**32)))
    centre, reach = draw(st.integers(-(2**20), 2**20)), draw(st.sampled_from([1, 100, 2**24]))
    scale = draw(SCALES)
    found = []
    for _ in range(draw(st.integers(1, 30))):
        size = draw(st.sampled_from([0, 1, 1, 2, 5, 40]))
        values = (generator.integers(-reach, reach, size, endpoint=True) + centre) * scale
        if draw(st.integers(0, 9)) == 0:
            values[: size // 2] = draw(st.sampled_from([np.nan, np.inf, -np.inf]))
        found.append(values)
    return found


# Merging


@EXAMPLES
@given(parts())
def test_merge(parts: list[Array]) -> None:
    assert_moments(merge(sets(parts)), np.concatenate(parts))


@EXAMPLES
@given(parts(), st.integers(2, 8))
def test_cascade(parts: list[Array], fan_in: int) -> None:
    """A tree of any fan-in, and nothing lost at its right edge."""
    found = Cascade(fan_in).push(sets(parts)).result()
    assert_moments(found, np.concatenate(parts))


@EXAMPLES
@given(parts(), st.data())
def test_pool(parts: list[Array], data: st.DataObject) -> None:
    """Sets that come some at a time, flushed now and then."""
    whole = Pool()
    rest = parts
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Pool, "MANY", data.draw(st.integers(1, 40)))
        while rest:
            many = data.draw(st.integers(1, len(rest)))
            whole.push(sets(rest[:many]))
            rest = rest[many:]
        found = whole.result()
    assert_moments(found, np.concatenate(parts))


@EXAMPLES
@given(parts(), st.data())
def test_any_partition_gives_the_same(parts: list[Array], data: st.DataObject) -> None:
    values = np.concatenate(parts)
    cuts = sorted(data.draw(st.lists(st.integers(0, values.size), max_size=12)))
    assert_moments(merge(sets(np.split(values, cuts))), values)


def test_what_blocks_bring_does_not_show_in_the_bits() -> None:
    """A cascade is determined by the order and the number of records, however they are handed over."""
    parts = np.split(rng().standard_normal(1000) + 7, 100)
    once = Cascade(8).push(sets(parts)).result()
    for step in (1, 3, 7, 64):
        cascade = Cascade(8)
        for start in range(0, 100, step):
            cascade.push(sets(parts[start : start + step]))
        assert cascade.result() == once


def test_a_cascade_holds_few_records() -> None:
    cascade = Cascade(8)
    for value in np.arange(5000.0):
        cascade.push(sets([np.array([value])]))
        assert all(sum(len(part.size) for part in level) < 8 for level in cascade._levels)
    assert len(cascade._levels) == 5  # 8**4 < 5000
    found = cascade.result()
    assert_moments(found, np.arange(5000.0))


def test_nothing() -> None:
    with pytest.raises(IndexError):
        Cascade(8).result()
    row = Pool().result().row()
    assert (row["count"], row["nan"], row["inf"]) == (0, 0, 0)
    assert np.isnan([row[name] for name in ("mean", "std", "min", "max")]).all()


def test_ten_thousand_sets() -> None:
    """More than a pool takes at a time, of sizes that differ, about a mean that all but cancels."""
    values = normal(200_000, std=3, dtype="f8")
    values -= values[::-1]  # the mean is 0, but for one rounding each
    whole = Pool()
    edges = np.sort(rng().integers(0, values.size, 10_000))
    parts = np.split(values, edges)
    for start in range(0, len(parts), 777):
        whole.push(sets(parts[start : start + 777]))
    assert_moments(whole.result(), values)


@pytest.mark.parametrize(
    ("scales", "why"),
    [
        ([1e300, 1e-300, 1.0], "squares overflow, underflow and do neither"),
        ([1e-300, 1e-310], "denormals among them"),
        ([1.7e308, -1.7e308, 1.7e308], "the sum of the values overflows"),
        ([2.0**400, 2.0**399], "at the edge of the unit"),
        ([5e-324, 5e-324], "the smallest there is"),
        ([1e300, 0.0], "a set of zeros has unit 1"),
    ],
)
def test_units(scales: list[float], why: str) -> None:
    parts = [scale * (rng().integers(-9, 10, 50) / 9) for scale in scales]
    merged = merge(sets(parts))
    assert_moments(merged, np.concatenate(parts))
    mean, variance = moments_gold(np.concatenate(parts))
    row = merged.row()
    smallest = Fraction(1, 2**1074)
    assert abs(Fraction(row["mean"]) - mean) <= max(abs(mean) * ALONE, smallest)
    assert abs(Fraction(row["std"]) ** 2 - variance) <= max(variance * ALONE, smallest * 2**50 * smallest)


def test_counts_beyond_float64() -> None:
    """2**53 + 1 elements and more: counts are integers, and stay so."""
    size = np.array([2**53, 1, 2**60])
    zeros, ones = np.zeros(3), np.ones(3)
    none = np.zeros(3, int)
    merged = merge(Moments(size, (ones, zeros), (zeros, zeros), ones, ones, none, none, ones))
    assert int(merged.size) == 2**60 + 2**53 + 1
    assert merged.row()["count"] == 2**60 + 2**53 + 1
    assert abs(exact(merged.mean) - 1) < Fraction(1, 2**52)


def test_shapes() -> None:
    """map, row, stack, join and pool keep every field's entries together."""
    parts = [[normal(5, dtype="f8") * i + j for j in range(3)] for i in range(2)]
    grid = stack([sets(row) for row in parts])
    assert np.shape(grid.m2[1]) == (2, 3)
    for i, j in np.ndindex(2, 3):
        assert_moments(grid.map(lambda array, at=(i, j): array[at]), parts[i][j])  # type: ignore[misc]
        assert grid.row(i, j) == record(parts[i][j]).row()
    beside = join([grid, grid], axis=1)
    assert beside.size.shape == beside.mean[0].shape == (2, 6)
    assert join([grid], axis=0) is grid
    flat = pool([grid, record(parts[0][0]), sets(parts[1])])
    assert flat.size.shape == flat.unit.shape == (10,)
    assert_moments(merge(flat), np.concatenate([*parts[0], *parts[1], parts[0][0], *parts[1]]))


# Measuring a tile


def forms() -> dict[str, Form]:
    return {
        "a row": Row((1, 1, 1, 1, 1260), 1260),
        "a row of channels": Row((1, 1, 1, 1, 1260), 90),
        "rows": Rows((1, 2, 2, 3, 105), 105),
        "columns": Columns((3, 2, 35, 2, 3)),
        "short": Short((2, 70, 3, 3, 1)),
        "one": Row((1, 1, 1, 1, 1), 1),
    }


DATA: dict[str, Any] = {
    "N(0,1)": lambda n: normal(n),
    "mean/std 1e5": lambda n: normal(n, mean=1e5),
    "float16": lambda n: normal(n, mean=300, std=99, dtype="f2"),
    "big-endian": lambda n: normal(n, mean=3, dtype=">f4"),
    "float64": lambda n: normal(n, mean=1e9, dtype="f8"),
    "1e200": lambda n: normal(n, mean=1e200, std=1e200, dtype="f8"),
    "1e-200": lambda n: normal(n, std=1e-200, dtype="f8"),
    "float32 denormals": lambda n: normal(n, std=1e-42),
    "float64 denormals": lambda n: rng().integers(-99, 99, n) * 5e-324,
    "outliers that cancel": lambda n: np.resize(with_outliers(1e8).ravel(), n),
    "constant 0.1": lambda n: np.full(n, 0.1, "f4"),
    "zeros": lambda n: np.zeros(n, "f4"),
    "uint8": lambda n: rng().integers(0, 256, n).astype("u1"),
    "int16": lambda n: rng().integers(-(2**15), 2**15, n).astype("i2"),
    "int64": lambda n: rng().integers(-(2**63), 2**63 - 1, n, "i8"),
    "int64 about 2**60": lambda n: 2**60 + rng().integers(0, 2**30, n, "i8"),
    "uint64": lambda n: rng().integers(0, 2**64 - 1, n, "u8"),
    "spoiled": lambda n: np.where(rng().random(n) < 0.1, np.resize([np.nan, np.inf, -np.inf], n), normal(n)),
    "all NaN": lambda n: np.full(n, np.nan, "f4"),
    "1e30 and NaN": lambda n: np.where(rng().random(n) < 0.5, np.nan, normal(n, std=1e30)).astype("f4"),
}


@pytest.mark.parametrize("twofold", [False, True])
@pytest.mark.parametrize("form", forms().values(), ids=forms().keys())
@pytest.mark.parametrize("make", DATA.values(), ids=DATA.keys())
def test_measure(make: Any, form: Form, twofold: bool) -> None:
    """Every cell: m2 good to float64, or with `twofold` to 2**-64."""
    tile = make(prod(form.shape)).reshape(form.shape)
    scratch = Scratch(form.size)
    with np.errstate(all="ignore"):
        moments, left = measure(form, tile, scratch, twofold)
    found = moments.map(lambda values: np.reshape(values, form.cells))
    for i, j in np.ndindex(*form.cells):
        cell = tile[:, i, :, j]
        one = found.map(lambda values, at=(i, j): values[at])  # type: ignore[misc]
        if cell.dtype.kind in "iu":
            assert_integers(one, cell, MERGED if twofold else ALONE)
        else:
            assert_moments(one, cell.astype("f8").ravel(), MERGED if twofold else ALONE)
    if left == Left.DEVIATIONS:
        mean = np.reshape(moments.mean[0], (1, form.cells[0], 1, form.cells[1], 1))
        work = np.empty(form.shape)
        form.store(scratch.work, work)
        assert np.array_equal(work, tile.astype("f8") - mean)
    if left == Left.PAIRS:
        with np.errstate(all="ignore"):
            again = deviations(form, tile, Scratch(form.size), moments)[:2]
        for kept, right in zip((scratch.work, scratch.part), again, strict=True):
            assert np.array_equal(form.view(kept), right)


def assert_integers(found: Moments, cell: Array, tolerance: Fraction) -> None:
    """As `assert_moments`, of integers that float64 may not hold; extremes are rounded to it."""
    mean, variance = moments_gold(cell)
    assert (int(found.size), int(found.nan), int(found.inf)) == (cell.size, 0, 0)
    assert (found.least, found.most) == (float(cell.min()), float(cell.max()))
    largest = max(abs(int(cell.min())), abs(int(cell.max())))
    assert abs(exact(found.mean) - mean) <= largest * MERGED
    m2 = variance * cell.size
    assert abs(exact(found.m2) - m2) <= m2 * tolerance + cell.size * (largest * MERGED) ** 2


@pytest.mark.parametrize("name", ["N(0,1)", "mean/std 1e5", "float64", "int64", "int64 about 2**60", "1e200"])
@pytest.mark.parametrize("form", forms().values(), ids=forms().keys())
def test_deviations(form: Form, name: str) -> None:
    """Upper and lower parts add up to x - mean, and the upper ones have few bits; and the largest."""
    tile = DATA[name](prod(form.shape)).reshape(form.shape)
    scratch = Scratch(form.size)
    with np.errstate(all="ignore"):
        moments, _ = measure(form, tile, scratch, twofold=True)
        work, part, grid = deviations(form, tile, scratch, moments)
    lower, upper = np.empty(form.shape), np.empty(form.shape)
    form.store(np.ravel(work), lower)
    form.store(np.ravel(part), upper)
    found = moments.map(lambda values: np.reshape(values, form.cells))
    for i, j in np.ndindex(*form.cells):
        one = found.map(lambda values, at=(i, j): values[at])  # type: ignore[misc]
        mean, unit = exact(one.mean), Fraction(float(one.unit))
        cell = [Fraction(int(v) if tile.dtype.kind in "iu" else float(v)) for v in tile[:, i, :, j].flat]
        reach = max(abs(value * unit - mean) for value in cell)
        largest = max(abs(value * unit) for value in cell)
        parts = zip(upper[:, i, :, j].flat, lower[:, i, :, j].flat, cell, strict=True)
        for up, low, value in parts:
            right = value * unit - mean
            assert abs(Fraction(up) + Fraction(low) - right) <= reach * MERGED + largest * Fraction(1, 2**95)
            digits = abs(Fraction(up).numerator)
            assert digits // max(digits & -digits, 1) < 2**27
        found_reach = Fraction(float(np.reshape(grid.square, form.cells)[i, j])) / Fraction(pairs._SQUARE)
        assert abs(found_reach - reach) <= largest * Fraction(1, 2**50)


@pytest.mark.parametrize("size", [2**14, 100_000, 2**18])
@pytest.mark.parametrize("mean", [0.0, 1e3])
def test_squares_of_a_large_tile(size: int, mean: float) -> None:
    """Of so many, a sum in float64 is good to 2**-53 or so."""
    tile = normal(size, mean=mean)
    gold = moments_gold(tile)[1] * size
    for form in (Row((1, 1, 1, 1, size), size), Columns((1, 1, size // 32, 1, 32))):
        with np.errstate(all="ignore"):
            moments, _ = measure(form, tile.reshape(form.shape), Scratch(size), twofold=True)
        m2 = moments.map(np.ravel).map(lambda values: values[0]).m2
        assert abs(exact(m2) - gold) <= gold * Fraction(1, 2**66)


def test_a_tile_of_a_larger_block() -> None:
    """Strided, as tiles are: the same moments as of a copy."""
    block = normal(1, 4, 3, 5, 200, mean=2)
    tile = block[:, 1:3, :, 2:4, 50:150]
    form = Rows((1, 2, 3, 2, 100), 100)
    strided, _ = measure(form, tile, Scratch(form.size))
    copied, _ = measure(form, tile.copy(), Scratch(form.size))
    for one, other in zip(strided, copied, strict=True):
        assert np.array_equal(one, other)


def test_the_order_of_elements_does_not_move_the_mean() -> None:
    x = with_outliers(1e8).ravel()
    form = form_of(flat_geometry(x.size), (1, 1, 1, 1, x.size))
    means = set()
    for seed in range(5):
        shuffled = np.random.default_rng(seed).permutation(x).reshape(1, 1, 1, 1, -1)
        means.add(float(measure(form, shuffled, Scratch(x.size))[0].row()["mean"]))
    assert max(means) - min(means) <= abs(max(means)) * 1e-12
