"""The arithmetic of one tile: its values normalized, from the moments of their groups.

`y = (x - mean) / sqrt(var + eps) * gamma + beta` (Wu & He 2018, eq. 1-2), rounded once. An output of
float32 or less is computed in float64. An output of float64 is computed in two float64 parts of which
the upper one has so few bits that its products are exact; only their final sum is rounded.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gncli import doubledouble as dd
from gncli import kernel
from gncli.doubledouble import Pair
from gncli.errors import UsageError
from gncli.layout import Box, Geometry
from gncli.measure import TINY, Left, Scratch, deviations, measure
from gncli.moments import Floats, Moments
from gncli.tile import Form

_CANCELLED = 2.0**-25  # of beta: a float64 sum below it is short of digits for a float32
_PAIR_NOISE = (
    2.0**-66
)  # of beta: nothing below it is known, in a sum of pairs whose variance is good to 2**-70


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

    def __post_init__(self) -> None:
        if not 0 <= self.eps < float("inf"):
            raise UsageError(f"eps {self.eps} is not finite and 0 or more")
        if self.divide_by not in ("std", "variance"):
            raise UsageError(f"{self.divide_by!r} is none of std, variance")
        if self.nan not in ("propagate", "omit", "fail"):
            raise UsageError(f"{self.nan!r} is none of propagate, omit, fail")

    @staticmethod
    def needs_twofold(source: np.dtype[Any], sink: np.dtype[Any]) -> bool:
        """Where float64 arithmetic holds too little: of the result, or of the input."""
        return sink == np.float64 or (source.kind in "iu" and source.itemsize == 8)


def scale_of(norm: Norm, form: Form, moments: Moments, plain: bool = False) -> Pair:
    """1 / sqrt(var + eps) of each cell, or 1 / (var + eps), per `moments.unit`; NaN where it has no value.

    `plain`: all are finite, of unit 1, and a float64 is enough.
    """
    root = norm.divide_by == "std"
    if plain:
        variance = np.float64(moments.m2[0] / form.each + norm.eps)
        return 1.0 / np.sqrt(variance) if root else 1.0 / variance, form.none
    unit, finite = moments.unit, form.larger(moments.finite, 1)
    by = form.where(
        (unit > 1.0) & (norm.eps > 0), 1.0 / unit, 1.0
    )  # eps · unit² would overflow; var is nothing beside it
    squares = (np.float64(moments.m2[0] * by * by), moments.m2[1] * by * by)
    eps = norm.eps * (unit * by) * (unit * by)
    if norm.eps > 0:
        eps = form.larger(eps, TINY * TINY)  # not 0 for want of range
    if norm.twofold:
        var = dd.add(dd.divide(squares, finite), (eps, 0.0))
        high, low = dd.reciprocal_root(var) if root else dd.reciprocal(var)
    else:
        variance = squares[0] / finite + eps
        high = 1.0 / np.sqrt(variance) if root else 1.0 / variance
        low = 0.0 * squares[1]
    if not root:
        by = by * (unit * by)
    void = moments.finite < (moments.size if norm.nan == "propagate" else 1)
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
    left: Left | None = None,
) -> None:
    """Write the normalized tile `source` to `sink` (five axes each), from the moments of its cells' groups.

    `left`: by `measure` of this very tile, where these are its moments; not where groups have several.
    """
    high, low = scale_of(norm, form, moments, plain=left in (Left.PLAIN, Left.DEVIATIONS))
    scale: Pair = (form.spread(high), form.spread(low))
    beta = None
    if norm.gamma is not None or norm.beta is not None:
        channels = _channels(norm.geometry, form, box)
        beta = None if norm.beta is None else norm.beta[channels]
        if norm.gamma is not None:
            scale = (
                dd.multiply(scale, (norm.gamma[channels], 0.0))
                if norm.twofold
                else (scale[0] * norm.gamma[channels], 0.0)
            )
    whole = bool(left) or form.all(moments.finite == moments.size)
    if norm.twofold:
        _apply_twofold(form, source, moments, scale, beta, scratch, left=left)
        defined = bool(whole and np.isfinite(scale[0]).all() and (beta is None or np.isfinite(beta).all()))
        _store(form, scratch, sink, defined=defined)
        return
    shift = -(form.spread(moments.mean[1]) * scale[0])
    if beta is not None:
        shift = shift + beta
    short = None if beta is None else float(np.abs(beta).max()) * _CANCELLED
    defined = bool(whole and np.isfinite(shift).all())  # which no shift is whose scale is not
    if defined and (left or form.all(moments.unit == 1.0)):
        swift = kernel.swift_to(form, source, sink)
        if swift and _applied(swift, source, sink, moments.mean[0], scale[0], shift, short):
            return
    work = form.view(scratch.work)
    if left != Left.DEVIATIONS:
        work = form.load(source, scratch.work)
        if form.any(moments.unit != 1.0):
            np.multiply(work, form.lay_cells(moments.unit), out=work)
        np.subtract(work, form.lay_cells(moments.mean[0]), out=work)
    np.multiply(work, form.lay(scale[0]), out=work)
    np.add(work, form.lay(shift), out=work)
    if beta is not None and short is not None:
        _mend(norm, form, source, moments, scratch, channels, beta, short, own=left is not None)
    _store(form, scratch, sink, defined=defined)


def _store(form: Form, scratch: Scratch, sink: NDArray[Any], *, defined: bool) -> None:
    """The work to the sink, with NaN of one kind where not all is `defined`: of two, chance takes one."""
    if not defined:
        work = scratch.work[: form.size]
        work[np.isnan(work)] = np.nan
    form.store(scratch.work, sink)


def _applied(
    swift: kernel.Runs,
    source: NDArray[Any],
    sink: NDArray[Any],
    mean: Any,
    scale: Floats,
    shift: Floats,
    short: float | None,
) -> bool:
    """By the compiled pass; not where a value may need mending, for which the source is left as it is."""
    if short is not None and (
        sink.dtype != np.float32 or swift.nearest(source, mean, scale, shift) <= np.float32(short)
    ):
        return False
    swift.apply(source, mean, scale, shift, sink)
    return True


def _mend(
    norm: Norm,
    form: Form,
    source: NDArray[Any],
    moments: Moments,
    scratch: Scratch,
    channels: NDArray[np.intp],
    beta: Floats,
    short: float,
    own: bool,
) -> None:
    """Compute anew, in pairs, what is so small beside beta that float64 may miss it by a float32 ulp.

    `own`: the moments are those of this tile alone, which are not good enough, and are taken again.
    """
    work = form.view(scratch.work)
    magnitude = np.abs(work, out=form.view(scratch.part))
    if not np.fmin.reduce(scratch.part[: form.size]) < short:  # whatever group is NaN
        return
    lost = magnitude < short
    result = work.copy()
    if own:
        moments, _ = measure(form, source, scratch, twofold=True)

    def picked(values: Any) -> Any:
        return np.broadcast_to(form.lay(values), lost.shape)[lost]

    values = form.load(source, scratch.work)[lost] * picked(form.spread(moments.unit))
    mean = (picked(form.spread(moments.mean[0])), picked(form.spread(moments.mean[1])))
    high, low = scale_of(replace(norm, twofold=True), form, moments)
    scale = (picked(form.spread(high)), picked(form.spread(low)))
    if norm.gamma is not None:
        scale = dd.multiply(scale, (picked(norm.gamma[channels]), 0.0))
    shift = picked(beta)
    exact = dd.add(dd.multiply(dd.subtract((values, 0.0), mean), scale), (shift, 0.0))[0]
    exact[np.abs(exact) < np.abs(shift) * _PAIR_NOISE] = 0.0
    result[lost] = exact
    np.copyto(work, result)


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
    form: Form,
    source: NDArray[Any],
    moments: Moments,
    scale: Pair,
    beta: Floats | None,
    scratch: Scratch,
    *,
    left: Left | None,
) -> None:
    """part·head is exact; all else is below 2**-14 of it, but for beta, whose sum with it is kept exact."""
    work, part = form.view(scratch.work), form.view(scratch.part)
    if left != Left.PAIRS:
        work, part = deviations(form, source, scratch, moments)
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
    if form.any(moments.finite < moments.size):
        values = form.load(source, scratch.spare)
        gone = ~np.isfinite(values)
        work[gone] = (values * form.lay(scale[0]))[gone]
