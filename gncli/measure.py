"""Moments of one tile, by sums that are taken by extraction.

Every value is cut at a grid coarse enough for the upper parts to add up without any rounding, and the
remainders are cut once more, and what these leave is added apart. So a mean is good to 2**-100 of the
largest value, in whatever order the elements stand. Squares are of deviations from the mean, in a second
pass over the tile.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gncli import doubledouble as dd
from gncli import kernel, pairs
from gncli.deviations import EXACT, deviations, exact_extremes, is_long, load, values_of
from gncli.doubledouble import Number, Pair
from gncli.dtypes import last_place
from gncli.masks import mask_of, put
from gncli.moments import Floats, Moments
from gncli.scratch import Scratch
from gncli.tile import Form

_PIVOT = 2.0**18  # cuts 18 bits off a mean: times a tile's 2**18 elements, it is exact
HUGE, TINY, UNIT = 2.0**400, 2.0**-400, 2.0**600  # where squares need another unit, and which


class Left(IntEnum):
    """What `measure` found out of the tile, and left in `scratch.work`."""

    NOTHING = 0
    PLAIN = 1  # all values are finite, their unit is 1, and float64 does for their moments
    DEVIATIONS = 2  # and the work is the values less the upper part of their mean
    PAIRS = 3  # all values are finite, and the work and the part are what `deviations` gives


def measure(form: Form, tile: NDArray[Any], scratch: Scratch, twofold: bool = False) -> tuple[Moments, Left]:
    """Moments of each cell of a tile (five axes), and what is left of it.

    With `twofold`, m2 is a pair that is good to about 2**-70. Of 64-bit integers, `least` and `most` are
    exact, in the tile's dtype.
    """
    moments, left = _measure(form, tile, scratch, twofold)
    if is_long(tile.dtype):
        least, most = exact_extremes(form, tile, moments)
        moments = moments._replace(least=least, most=most)
    return moments, left


def _measure(form: Form, tile: NDArray[Any], scratch: Scratch, twofold: bool) -> tuple[Moments, Left]:
    """As `measure`, with `least` and `most` in float64."""
    swift = _measure_swiftly(form, tile, scratch, twofold)
    if swift:
        return _measure_twofold(form, tile, scratch, swift[0]) if twofold else swift
    values = values_of(form, tile, scratch)
    least, most = form.extremes(tile, values)
    largest = form.larger(most, -least)
    top = _ordinary(form, largest)
    if top is None:
        return measure_any(form, tile, scratch, twofold)
    if top >= EXACT and is_long(tile.dtype):
        return _measure_long(form, tile, scratch, least, most)
    exact = EXACT * _grain(tile, scratch) if form.folds else 0.0  # such sums need no rounding
    count = next((f for f in form.folds if f * top <= exact), 0)
    total = _folded_total(form, values, largest, count) if count else _total(form, values, scratch, largest)
    mean = _settle(form, _divide(total, form.each, twofold or tile.dtype.itemsize == 8), least, most)
    nothing = (form.none, form.none)  # yet
    moments = Moments(form.count, mean, nothing, least, most, form.none, form.none, form.one)
    if twofold:
        return _measure_twofold(form, tile, scratch, moments, values)
    work = np.subtract(values, form.lay_cells(mean[0]), out=form.view(scratch.work))
    squares = form.about(form.dot(work, work, scratch.part), mean[1], form.each)
    return moments._replace(m2=squares), Left.DEVIATIONS


def measure_lines(form: Form, *tiles: NDArray[Any], twofold: bool = False) -> Moments | None:
    """Moments of the first tile, which is of any size: by compiled passes that need no scratch, if all
    of the tiles are fit for these."""
    swift = kernel.swift(form, *tiles)
    if isinstance(swift, kernel.Lines) and not twofold:
        return _trusted(form, *swift.moments(tiles[0]))
    doubles = kernel.doubles(form, *tiles)
    return _measure_doubles(doubles, tiles[0], twofold) if doubles else None


def _measure_doubles(doubles: kernel.Doubles, tile: NDArray[Any], twofold: bool) -> Moments | None:
    """As `measure`; None where a cell is not all finite, or needs another unit."""
    form = doubles.form
    least, most = doubles.extremes(tile)
    largest = form.larger(most, -least)
    if _ordinary(form, largest) is None:
        return None
    anchor = largest * dd.ANCHOR
    total = dd.of_sums(*doubles.totals(tile, anchor, anchor * dd.NEXT_ANCHOR))
    if not form.all(np.isfinite(total[0])):  # of NaN, the extremes say nothing
        return None
    mean = _settle(form, _divide(total, form.each, True), least, most)
    if twofold:
        m2 = dd.two_sum(*doubles.squares_in_pairs(tile, *pairs.grid(form, mean, least, most)))
    else:
        m2 = form.about(doubles.squares(tile, mean[0]), mean[1], form.each)
    return Moments(form.count, mean, m2, least, most, form.none, form.none, form.one)


def _ordinary(form: Form, largest: Number) -> float | None:
    """The largest magnitude of any cell, where all are finite and none needs another unit."""
    top, bottom = form.span(largest)
    return top if top < HUGE and (bottom > TINY or form.all((largest > TINY) | (largest == 0))) else None


def _measure_swiftly(
    form: Form, tile: NDArray[Any], scratch: Scratch, twofold: bool
) -> tuple[Moments, Left] | None:
    """As `measure`, by compiled passes; None where there are none, or a sum would not be exact."""
    swift = kernel.swift(form, tile)
    if swift is None:
        return None
    if isinstance(swift, kernel.Sets | kernel.Lines) and not twofold:
        moments = _trusted(form, *swift.moments(tile))
    elif isinstance(swift, kernel.Sets):
        return None
    else:
        least, most, place, total = swift.survey(tile)
        if not form.all(np.isfinite(total[0])):  # of NaN, the extremes say nothing
            return None
        mean = _settle(form, _divide(total, form.each, twofold), least, most)
        m2 = (form.none, form.none)  # with `twofold`, it is still to come
        if not twofold:
            m2 = form.about(swift.squares(tile, mean[0], scratch.work, scratch.part), mean[1], form.each)
        moments = _trusted(form, least, most, place, mean, m2)
    return moments and (moments, Left.DEVIATIONS if swift.centers else Left.PLAIN)


def _trusted(form: Form, least: Number, most: Number, place: float, mean: Pair, m2: Pair) -> Moments | None:
    """What a compiled pass found, if the sum was exact and nothing left float64's range."""
    top, _ = form.span(form.larger(most, -least))
    if not (top <= kernel.REACH * place and form.all(np.isfinite(m2[0]))):
        return None
    return Moments(form.count, mean, m2, least, most, form.none, form.none, form.one)


def _measure_long(
    form: Form, tile: NDArray[Any], scratch: Scratch, least: Number, most: Number
) -> tuple[Moments, Left]:
    """Of 64-bit integers that float64 cannot hold."""
    values, low, base = load(form, tile, scratch)
    mean = _divide(_total(form, values, scratch, 2.0**64 * form.one, low), form.each, True)
    if base is not None:
        mean = dd.add(base, mean)
    nothing = (form.none, form.none)  # yet
    moments = Moments(form.count, mean, nothing, least, most, form.none, form.none, form.one)
    return _measure_twofold(form, tile, scratch, moments)


def _total(form: Form, values: Floats, scratch: Scratch, largest: Number, low: Floats | None = None) -> Pair:
    """The sum of `values` and of what is `low`, in two parts."""
    upper, rest = form.view(scratch.part), form.view(scratch.spare)
    anchor = largest * dd.ANCHOR
    pairs.cut(values, form.lay_cells(anchor), upper, rest)
    high = form.total(upper)
    pairs.cut(rest, form.lay_cells(anchor * dd.NEXT_ANCHOR), upper, rest)
    if low is not None:
        np.add(rest, low, out=rest)
    return dd.of_sums(high, form.total(upper), form.total(rest))


def _folded_total(form: Form, values: Floats, largest: Number, count: int) -> Pair:
    """As `_total`, where `count` values add up without rounding: only their sums are taken apart."""
    sums = form.fold(values, count)
    anchor = form.lay_folded(largest * (dd.ANCHOR * count))
    part = (sums + anchor) - anchor
    return form.total_folded(part), form.total_folded(sums - part)


def _grain(tile: NDArray[Any], scratch: Scratch) -> float:
    """A power of two that every element is a multiple of; 0 where it is not worth the search."""
    if tile.dtype.kind in "iu":
        return 1.0
    if tile.dtype.itemsize == 2:
        return 2.0**-24
    if tile.dtype != np.float32 or not tile.dtype.isnative:
        return 0.0
    # Magnitudes of floats are ordered as their bits; less 1, those of zeros come last.
    bits = scratch.part[: -(-tile.size // 2)].view(np.uint32)[: tile.size].reshape(tile.shape)
    np.left_shift(tile.view(np.uint32), 1, out=bits)
    least = int(bits.min())
    if least == 0:
        np.subtract(bits, 1, out=bits)
        least = int(bits.min()) + 1
    return last_place(least)


def _divide(total: Pair, count: Number, twofold: bool) -> Pair:
    upper, lower = dd.two_sum(*total)
    if twofold:
        return dd.divide((upper, lower), count)
    mean = upper / count
    step = mean * _PIVOT
    pivot = (mean + step) - step  # short enough for pivot · count to be exact
    return pivot, ((upper - pivot * count) + lower) / count


def _settle(form: Form, mean: Pair, least: Number, most: Number) -> Pair:
    """A constant is its own mean, to the last bit; of zeros it is -0, from which both signs are 0 away."""
    same = least == most
    if not form.any(same):
        return mean
    return form.where(same, -(0.0 - least), mean[0]), form.where(same, 0.0, mean[1])


def measure_any(form: Form, tile: NDArray[Any], scratch: Scratch, twofold: bool) -> tuple[Moments, Left]:
    """Measure as `measure` does, floats with NaN, infinity, or squares that leave float64's range."""
    work = form.load(tile, scratch.work)
    finite, undefined = np.isfinite(work), np.isnan(work)
    kept = form.reduce(np.add, finite.astype(np.float64))
    nan = form.count - kept
    if np.count_nonzero(finite) + np.count_nonzero(undefined) < form.size:  # there is an infinity
        nan = form.reduce(np.add, undefined.astype(np.float64))
    mask, extreme = mask_of(~finite, work.dtype), work.copy()
    put(extreme, mask, np.inf)
    least = form.reduce(np.minimum, extreme)
    put(extreme, mask, -np.inf)
    most = form.reduce(np.maximum, extreme)
    put(work, mask, 0.0)
    largest = form.where(kept > 0, form.larger(most, -least), 0.0)
    unit = form.where(largest >= HUGE, 1 / UNIT, form.where((largest <= TINY) & (largest > 0), UNIT, 1.0))
    np.multiply(work, form.lay_cells(unit), out=work)
    total = _total(form, work, scratch, largest * unit)
    mean = _divide(total, form.larger(kept, 1.0), twofold)
    mean = _settle(form, mean, least * unit, most * unit)
    np.subtract(work, form.lay_cells(mean[0]), out=work)
    put(work, mask, 0.0)
    squares = form.about(form.dot(work, work, scratch.part), mean[1], kept)
    moments = Moments(form.count, mean, squares, least, most, nan, form.count - kept - nan, unit)
    return _measure_twofold(form, tile, scratch, moments) if twofold else (moments, Left.NOTHING)


def _measure_twofold(
    form: Form, tile: NDArray[Any], scratch: Scratch, moments: Moments, values: Floats | None = None
) -> tuple[Moments, Left]:
    work, part, grid = deviations(form, tile, scratch, moments, values)
    left = Left.PAIRS
    if form.any(moments.finite < form.count):
        left = Left.NOTHING
        mask = mask_of(~np.isfinite(work), work.dtype)
        put(work, mask, 0.0)
        put(part, mask, 0.0)
    head, terms = form.view(scratch.spare), form.view(scratch.extra)
    pairs.square(part, work, form.lay_cells(grid.square), head, terms)
    rest = form.total(terms)
    high, low = dd.two_sum(form.dot(head, head, scratch.extra), rest)
    some = moments.finite > 0
    return moments._replace(m2=(form.where(some, high, 0.0), form.where(some, low, 0.0))), left
