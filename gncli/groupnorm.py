"""The arithmetic of one tile: its values normalized, from the moments of their groups.

`y = (x - mean) / sqrt(var + eps) * gamma + beta` (Wu & He 2018, eq. 1-2), rounded once. An output of
float32 or less is computed in float64. An output of float64 is computed in two float64 parts of which
the upper one has so few bits that its products are exact; only their final sum is rounded.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gncli import doubledouble as dd
from gncli import kernel
from gncli.doubledouble import Pair
from gncli.layout import Box
from gncli.measure import Left, Scratch, deviations, measure
from gncli.moments import Floats, Moments
from gncli.norm import Norm, channels, scale_of
from gncli.tile import Form

_CANCELLED = 2.0**-25  # of beta: a float64 sum below it is short of digits for a float32
_LARGE_CELL = 4096  # elements: smaller ones are mended a tile at a time, where there may be many
_PAIR_NOISE = (
    2.0**-66
)  # of beta: nothing below it is known, in a sum of pairs whose variance is good to 2**-70


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
    gamma, beta = _affine(norm, form, box)
    apply = _apply_twofold if norm.twofold else _apply
    apply(norm, form, source, sink, moments, gamma, beta, scratch, left)


def normalize_at_once(
    norm: Norm, form: Form, box: Box, source: NDArray[Any], sink: NDArray[Any], moments: Moments
) -> bool:
    """As `normalize`, of a tile of any size, from its PLAIN moments: where one compiled pass does it all."""
    gamma, beta = _affine(norm, form, box)
    swift = kernel.swift_to(form, source, sink)
    scale, shift = _line(norm, form, moments, gamma, beta, Left.PLAIN)
    if swift is None or norm.twofold or beta is not None or not np.isfinite(shift).all():
        return False
    swift.apply(source, moments.mean[0], scale, shift, sink)
    return True


def _affine(norm: Norm, form: Form, box: Box) -> tuple[Floats | None, Floats | None]:
    """gamma and beta of the channels, to broadcast as `channels` says."""
    if norm.gamma is None and norm.beta is None:
        return None, None
    numbers = channels(norm.geometry, form, box)
    gamma, beta = (None if each is None else each[numbers] for each in (norm.gamma, norm.beta))
    return gamma, beta


def _apply(
    norm: Norm,
    form: Form,
    source: NDArray[Any],
    sink: NDArray[Any],
    moments: Moments,
    gamma: Floats | None,
    beta: Floats | None,
    scratch: Scratch,
    left: Left | None,
) -> None:
    """In float64."""
    mean = moments.mean[0]
    scale, shift = _line(norm, form, moments, gamma, beta, left)
    whole = bool(left) or form.all(moments.finite == moments.size)
    defined = bool(whole and np.isfinite(shift).all())  # which no shift is whose scale is not
    swift = None
    if defined and (left or form.all(moments.unit == 1.0)):
        swift = kernel.swift_to(form, source, sink)
    if not swift:
        _evaluate(form, source, moments, scale, shift, scratch, left=left)
    short = 0.0
    if beta is not None:
        short = float(np.abs(beta[np.isfinite(beta)]).max(initial=0.0)) * _CANCELLED
    parts: list[_Part] = []
    if short:
        if swift:
            near = swift.near(source, mean, scale, shift, short)
        else:
            magnitude = np.abs(form.view(scratch.work), out=form.view(scratch.part))
            near = form.reduce(np.fmin, magnitude) < short
        parts = _parts(form, near)
    kept = [part.of(source).copy() for part in parts]  # the sink may be where the source is
    if swift:
        swift.apply(source, mean, scale, shift, sink)
    else:
        _store(form, scratch.work, sink, defined=defined)
    for part, values in zip(parts, kept, strict=True):
        _mend(norm, part, values, sink, moments, gamma, beta, short, scratch, left)


def _line(
    norm: Norm, form: Form, moments: Moments, gamma: Floats | None, beta: Floats | None, left: Left | None
) -> tuple[Any, Any]:
    """The scale and the shift of (x - mean)·scale + shift, whose mean is the upper part."""
    plain = left in (Left.PLAIN, Left.DEVIATIONS)
    scale = form.spread(scale_of(norm, form, moments, plain)[0])
    if gamma is not None:
        scale = scale * gamma
    shift = -(form.spread(moments.mean[1]) * scale)
    return scale, shift if beta is None else shift + beta


def _evaluate(
    form: Form,
    source: NDArray[Any],
    moments: Moments,
    scale: Any,
    shift: Any,
    scratch: Scratch,
    *,
    left: Left | None = None,
) -> Floats:
    """(source - mean)·scale + shift, in `scratch.work`."""
    work = form.view(scratch.work)
    if left != Left.DEVIATIONS:
        work = form.load(source, scratch.work)
        if form.any(moments.unit != 1.0):
            np.multiply(work, form.lay_cells(moments.unit), out=work)
        np.subtract(work, form.lay_cells(moments.mean[0]), out=work)
    np.multiply(work, form.lay(scale), out=work)
    np.add(work, form.lay(shift), out=work)
    return work


def _store(form: Form, work: Floats, sink: NDArray[Any], *, defined: bool) -> None:
    """The work to the sink, with NaN of one kind where not all is `defined`: of two, chance takes one."""
    if not defined:
        work = work[: form.size]
        work[np.isnan(work)] = np.nan
    form.store(work, sink)


class _Part(NamedTuple):
    """Of a tile, one cell or all."""

    tile: Form
    form: Form
    first: slice
    second: slice

    def pick(self, values: Any) -> Any:
        """Of what each cell has one of."""
        cells = np.reshape(values, self.tile.cells)
        return self.form.pick(cells[self.first, self.second])

    def of(self, values: NDArray[Any]) -> NDArray[Any]:
        """Of what broadcasts to the tile, a view."""
        along = ((1, self.first), (3, self.second))
        first, second = (at if values.shape[axis] > 1 else slice(None) for axis, at in along)
        return values[:, first, :, second]


def _parts(form: Form, near: Any) -> list[_Part]:
    """What is mended together, where the cells `near` may need it: whatever the others hold."""
    if not np.any(near):
        return []
    if form.each < _LARGE_CELL:
        return [_Part(form, form, slice(None), slice(None))]
    return [
        _Part(form, form.of_cell(), slice(a, a + 1), slice(b, b + 1))
        for a, b in np.argwhere(np.reshape(near, form.cells))
    ]


def _mend(
    norm: Norm,
    part: _Part,
    source: NDArray[Any],
    sink: NDArray[Any],
    moments: Moments,
    gamma: Floats | None,
    beta: Floats | None,
    short: float,
    scratch: Scratch,
    left: Left | None,
) -> None:
    """Compute anew, in pairs, what is so small beside beta that float64 may miss it by a float32 ulp.

    `source` is of the part, all else of its tile. With what was `left`, the moments are those of this tile
    alone, which are not good enough, and are taken again.
    """
    form, moments = part.form, moments.map(part.pick)
    gamma, beta = (None if values is None else part.of(values) for values in (gamma, beta))
    result = _evaluate(form, source, moments, *_line(norm, form, moments, gamma, beta, left), scratch).copy()
    lost = np.abs(result) < short
    if not lost.any():
        return
    if left is not None:
        moments, _ = measure(form, source, scratch, twofold=True)

    def picked(values: Any) -> Any:
        return np.broadcast_to(form.lay(values), lost.shape)[lost]

    values = form.load(source, scratch.work)[lost] * picked(form.spread(moments.unit))
    mean = (picked(form.spread(moments.mean[0])), picked(form.spread(moments.mean[1])))
    high, low = scale_of(replace(norm, twofold=True), form, moments)
    scale = (picked(form.spread(high)), picked(form.spread(low)))
    if gamma is not None:
        scale = dd.multiply(scale, (picked(gamma), 0.0))
    shift = picked(beta)
    exact = dd.add(dd.multiply(dd.subtract((values, 0.0), mean), scale), (shift, 0.0))[0]
    exact[np.abs(exact) < np.abs(shift) * _PAIR_NOISE] = 0.0
    result[lost] = exact
    _store(form, result.reshape(-1), part.of(sink), defined=False)


def _apply_twofold(
    norm: Norm,
    form: Form,
    source: NDArray[Any],
    sink: NDArray[Any],
    moments: Moments,
    gamma: Floats | None,
    beta: Floats | None,
    scratch: Scratch,
    left: Left | None,
) -> None:
    """In pairs.

    part·head is exact; all else is below 2**-24 of it, but for beta, whose sum with it is kept exact.
    """
    high, low = scale_of(norm, form, moments)
    scale: Pair = (form.spread(high), form.spread(low))
    if gamma is not None:
        scale = dd.multiply(scale, (gamma, 0.0))
    work, part = form.view(scratch.work), form.view(scratch.part)
    if left != Left.PAIRS:
        work, part, _ = deviations(form, source, scratch, moments)
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
    whole = bool(left) or form.all(moments.finite == moments.size)
    if not whole:
        values = form.load(source, scratch.spare)
        gone = ~np.isfinite(values)
        work[gone] = (values * form.lay(scale[0]))[gone]
    defined = whole and np.isfinite(scale[0]).all() and (beta is None or np.isfinite(beta).all())
    _store(form, scratch.work, sink, defined=bool(defined))
