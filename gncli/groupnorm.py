"""The arithmetic of one tile: its moments, and its values normalized.

`y = (x - mean) / sqrt(var + eps) * gamma + beta` (Wu & He 2018, eq. 1-2), rounded once. An output of
float32 or less is computed in float64. An output of float64 is computed in two float64 parts of which
the upper one has so few bits that its products are exact; only their final sum is rounded.

A tile's sums are taken by extraction: every value is cut at a grid coarse enough for the upper parts to
add up without any rounding, and the remainders are added apart. So a mean is good to 2**-80 of the
largest value, in whatever order the elements stand.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from gncli import doubledouble as dd
from gncli.doubledouble import Number, Pair
from gncli.layout import Geometry
from gncli.moments import Floats, Moments
from gncli.tile import Form

# An anchor cuts what is added to and taken from it at 2**-53 of itself.
_SUM_ANCHOR = 1.5 * 2.0**26  # of the largest value: 28 bits above the cut, and room for 2**25 of them
_PART_ANCHOR = 1.5 * 2.0**33  # of the largest deviation: 18 bits, so that their squares add up exactly
_PIVOT = 2.0**18  # cuts 18 bits off a mean: times a tile's 2**17 elements, it is exact
_EXACT = 2**53  # integers beyond it do not fit float64
_LOW_BITS = 2047
_HUGE, _TINY, _UNIT = 2.0**400, 2.0**-400, 2.0**600  # where squares need another unit, and which

Box: TypeAlias = tuple[tuple[int, int], ...]
"""Start and stop on each of the five axes."""


@dataclass(frozen=True)
class Norm:
    """What is to be done. `gamma` and `beta` are (C,) or None; `twofold` asks for a float64 result."""

    geometry: Geometry
    eps: float = 1e-5
    divide_by: str = "std"
    nan: str = "propagate"
    gamma: Floats | None = None
    beta: Floats | None = None
    twofold: bool = False


class Scratch:
    """Three reused float64 buffers of one tile each, no larger than the caches."""

    def __init__(self, size: int) -> None:
        self.work, self.part, self.spare = (np.empty(size) for _ in range(3))


def measure(form: Form, tile: NDArray[Any], scratch: Scratch) -> Moments:
    """Moments of each cell of a tile (five axes).

    Leaves the values less the upper part of their mean in `scratch.work`, if all of them are finite.
    """
    work = form.load(tile, scratch.work)
    least, most = form.reduce(np.minimum, work), form.reduce(np.maximum, work)
    largest = form.larger(most, -least)
    if not form.all(largest < _HUGE):  # NaN and infinity too
        return _measure_any(form, tile, work, scratch)
    if not form.all((largest > _TINY) | (largest == 0)):
        return _measure_any(form, tile, work, scratch)
    low = _low_bits(form, tile, scratch)
    mean = _mean(form, work, scratch, largest, form.each, low)
    moments = Moments(form.count, mean, mean, least, most, form.none, form.none, form.one)
    return _centred(form, work, scratch, moments)


def _mean(form: Form, work: Floats, scratch: Scratch, largest: Number, count: Number, low: Floats | None) -> Pair:
    part = form.view(scratch.part)
    anchor = form.lay_cells(largest * _SUM_ANCHOR)
    np.add(work, anchor, out=part)
    np.subtract(part, anchor, out=part)
    upper = form.total(part)
    np.subtract(work, part, out=part)
    if low is not None:
        np.add(part, low, out=part)
        np.add(work, low, out=work)
    lower = form.total(part)
    mean = (upper + lower) / count
    step = mean * _PIVOT
    pivot = (mean + step) - step  # short enough for pivot · count to be exact
    return pivot, ((upper - pivot * count) + lower) / count


def _centred(form: Form, work: Floats, scratch: Scratch, moments: Moments) -> Moments:
    """Take the mean off `work`, and add the squares of what is left."""
    high, rest = moments.mean
    same = moments.least == moments.most
    if form.any(same):
        value = moments.least * moments.unit
        high, rest = form.where(same, value, high), form.where(same, 0.0, rest)
    np.subtract(work, form.lay_cells(high), out=work)
    return replace(moments, mean=(high, rest), m2=_squares(form, work, scratch, rest, form.each))


def _squares(form: Form, work: Floats, scratch: Scratch, rest: Number, count: Number) -> Pair:
    return form.larger(form.dot(work, work, scratch.part) - count * (rest * rest), 0.0), 0.0 * rest


def _measure_any(form: Form, tile: NDArray[Any], work: Floats, scratch: Scratch) -> Moments:
    """With NaN, infinity, or values whose squares leave float64's range."""
    finite = np.isfinite(work)
    kept = form.reduce(np.add, finite.astype(np.float64))
    nan = form.reduce(np.add, np.isnan(work).astype(np.float64))
    least = form.reduce(np.minimum, np.where(finite, work, np.inf))
    most = form.reduce(np.maximum, np.where(finite, work, -np.inf))
    work[~finite] = 0.0
    largest = form.where(kept > 0, form.larger(most, -least), 0.0)
    unit = form.where(largest >= _HUGE, 1 / _UNIT, form.where((largest <= _TINY) & (largest > 0), _UNIT, 1.0))
    np.multiply(work, form.lay_cells(unit), out=work)
    count = form.larger(kept, 1.0)
    high, rest = _mean(form, work, scratch, largest * unit, count, _low_bits(form, tile, scratch))
    same = least == most
    high, rest = form.where(same, least * unit, high), form.where(same, 0.0, rest)
    np.subtract(work, form.lay_cells(high), out=work)
    work[~finite] = 0.0
    squares = _squares(form, work, scratch, rest, kept)
    return Moments(form.count, (high, rest), squares, least, most, nan, form.count - kept - nan, unit)


def measure_twofold(form: Form, tile: NDArray[Any], scratch: Scratch) -> Moments:
    """As `measure`, with m2 as a pair that is good to about 2**-70; leaves nothing of use in the scratch."""
    moments = measure(form, tile, scratch)
    if form.any(moments.finite < form.count):
        return moments
    work, part = _deviations(form, tile, scratch, moments)
    spare = form.view(scratch.spare)
    np.add(part, part, out=spare)
    np.add(spare, work, out=spare)
    np.multiply(spare, work, out=spare)  # (2·part + work)·work, the square less part²
    small = form.total(spare)
    return replace(moments, m2=dd.two_sum(form.dot(part, part, scratch.spare), small))


def _low_bits(form: Form, tile: NDArray[Any], scratch: Scratch) -> Floats | None:
    """What float64 cannot hold of 64-bit integers: leaves the upper bits in `work`, returns the lower ones."""
    if tile.dtype.kind not in "iu" or tile.dtype.itemsize < 8:
        return None
    if max(-int(tile.min()), int(tile.max())) <= _EXACT:
        return None
    native = tile.astype(tile.dtype.newbyteorder("="))
    form.load(native & ~native.dtype.type(_LOW_BITS), scratch.work)
    return form.load(native & native.dtype.type(_LOW_BITS), np.empty(form.size))


def _deviations(form: Form, tile: NDArray[Any], scratch: Scratch, moments: Moments) -> tuple[Floats, Floats]:
    """x - mean as lower part and upper part; the upper one is exact, and of few bits."""
    work = form.load(tile, scratch.work)
    part = form.view(scratch.part)
    low = _low_bits(form, tile, scratch)
    mean, unit = moments.mean, moments.unit
    if form.any(unit != 1.0):
        np.multiply(work, form.lay_cells(unit), out=work)
    least, most = moments.least * unit, moments.most * unit
    reach = form.larger(most - mean[0], mean[0] - least)
    cut = form.larger(reach * _PART_ANCHOR, 4.0 * form.larger(most, -least))
    anchor = form.lay_cells(cut)
    np.add(work, anchor, out=part)
    np.subtract(part, anchor, out=part)
    np.subtract(work, part, out=work)
    if low is not None:
        np.add(work, low, out=work)
    pivot = (mean[0] + cut) - cut
    np.subtract(part, form.lay_cells(pivot), out=part)
    np.subtract(work, form.lay_cells((mean[0] - pivot) + mean[1]), out=work)
    return work, part


def scale_of(norm: Norm, form: Form, moments: Moments) -> Pair:
    """1 / sqrt(var + eps) of each cell, or 1 / (var + eps), per `moments.unit`; NaN where it has no value."""
    root = norm.divide_by == "std"
    unit, finite = moments.unit, form.larger(moments.finite, 1)
    by = form.where((unit > 1.0) & (norm.eps > 0), 1.0 / unit, 1.0)  # eps · unit² would overflow; var is nothing beside it
    squares = (np.float64(moments.m2[0] * by * by), moments.m2[1] * by * by)
    eps = norm.eps * (unit * by) * (unit * by)
    if norm.twofold:
        var = dd.add(dd.divide(squares, finite), (eps, 0.0))
        high, low = dd.reciprocal_root(var) if root else dd.reciprocal(var)
    else:
        variance = squares[0] / finite + eps
        high = 1.0 / np.sqrt(variance) if root else 1.0 / variance
        low = 0.0 * squares[1]
    if not root:
        by = by * (unit * by)
    void = moments.finite < (moments.count if norm.nan == "propagate" else 1)
    if form.any(void):
        high = form.where(void, np.nan, high)
    return high * by, low * by

def normalize(
    norm: Norm,
    form: Form,
    box: Box,
    source: NDArray[Any],
    sink: NDArray[Any],
    moments: Moments,
    scratch: Scratch,
    *,
    measured: bool = False,
) -> None:
    """Write the normalized tile `source` to `sink` (five axes each), from the moments of its cells' groups.

    `measured`: the scratch still holds what `measure` left of this very tile.
    """
    high, low = scale_of(norm, form, moments)
    scale: Pair = (form.spread(high), form.spread(low))
    beta = None
    if norm.gamma is not None or norm.beta is not None:
        channels = _channels(norm.geometry, form, box)
        beta = None if norm.beta is None else norm.beta[channels]
        if norm.gamma is not None:
            scale = dd.multiply(scale, (norm.gamma[channels], 0.0)) if norm.twofold else (scale[0] * norm.gamma[channels], 0.0)
    if norm.twofold:
        _apply_twofold(form, source, moments, scale, beta, scratch)
    else:
        work = form.view(scratch.work)
        if not measured:
            work = form.load(source, scratch.work)
            if form.any(moments.unit != 1.0):
                np.multiply(work, form.lay_cells(moments.unit), out=work)
            np.subtract(work, form.lay_cells(moments.mean[0]), out=work)
        shift = -(form.spread(moments.mean[1]) * scale[0])
        np.multiply(work, form.lay(scale[0]), out=work)
        np.add(work, form.lay(shift if beta is None else shift + beta), out=work)
    form.store(scratch.work, sink)


def _channels(geometry: Geometry, form: Form, box: Box) -> NDArray[np.intp]:
    """Channel numbers of a box, to broadcast over (outer, first, middle, second, inner / step)."""
    axis, group_axis = geometry.channel_axis, 3 if geometry.samples_first else 1
    position = np.arange(*box[axis], form.step if axis == 4 else 1) // geometry.channel_run
    within = (position % geometry.channels_per_group).reshape([-1 if a == axis else 1 for a in range(5)])
    group = np.arange(*box[group_axis]).reshape([-1 if a == group_axis else 1 for a in range(5)])
    if geometry.interleaved:
        return within * geometry.groups + group
    return group * geometry.channels_per_group + within


def _apply_twofold(
    form: Form, source: NDArray[Any], moments: Moments, scale: Pair, beta: Floats | None, scratch: Scratch
) -> None:
    """part·head is exact; all else is below 2**-16 of it, but for beta, whose sum with it is kept exact."""
    work, part = _deviations(form, source, scratch, moments)
    spare = form.view(scratch.spare)
    head, tail = dd.halves(scale[0])
    np.multiply(part, form.lay(tail + scale[1]), out=spare)
    np.multiply(work, form.lay(scale[0]), out=work)
    np.add(work, spare, out=work)
    np.multiply(part, form.lay(head), out=part)
    if beta is not None:
        part, lost = dd.two_sum(part, form.lay(beta))
        np.add(work, lost, out=work)
    np.add(work, part, out=work)
    if form.any(moments.finite < moments.count):
        values = form.load(source, scratch.spare)
        gone = ~np.isfinite(values)
        work[gone] = (values * form.lay(scale[0]))[gone]
