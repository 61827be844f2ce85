"""The arithmetic of one tile: its values normalized, from the moments of their groups.

`y = (x - mean) / sqrt(var + eps) * gamma + beta` (Wu & He 2018, eq. 1-2), rounded once. An output of
float32 or less is computed in float64. An output of float64 is computed in two float64 parts of which
the upper one has so few bits that its products are exact; only their final sum is rounded.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gncli import doubledouble as dd
from gncli import kernel, pairs
from gncli.deviations import deviations
from gncli.doubledouble import Pair
from gncli.layout import Box
from gncli.masks import mask_of, put
from gncli.measure import Left, measure
from gncli.moments import Floats, Moments
from gncli.norm import Norm, channels, scale_of
from gncli.scratch import Scratch
from gncli.tile import Form

_CANCELLED = 2.0**-25  # of beta: a float64 sum below it is short of digits for a float32
_LARGE_CELL = 4096  # elements: smaller ones are mended a tile at a time, where there may be many
_PAIR_NOISE = (
    2.0**-66
)  # of beta: nothing below it is known, in a sum of pairs whose variance is good to 2**-70


class _Tile(NamedTuple):
    """What is done to a tile, or to a part of one: arrays of five axes each, moments of its cells' groups.

    `gamma` and `beta` are of the channels, to broadcast as `channels` says. `left`: as `normalize` says.
    """

    norm: Norm
    form: Form
    source: NDArray[Any]
    sink: NDArray[Any]
    moments: Moments
    gamma: Floats | None
    beta: Floats | None
    left: Left | None

    @property
    def whole(self) -> bool:
        """Whether all values are finite, and none is missing."""
        return bool(self.left) or bool(self.form.all(self.moments.finite == self.norm.geometry.group_size))

    @property
    def sound(self) -> bool:
        """Whether all values are finite but for missing ones, which are the NaN that results are to be."""
        return bool(self.left) or bool(self.form.all(self.moments.finite == self.moments.size))

    def line(self) -> tuple[Any, Any]:
        """The scale and the shift of (x - mean)·scale + shift, whose mean is the upper part."""
        plain = self.left in (Left.PLAIN, Left.DEVIATIONS)
        scale = self.form.spread(scale_of(self.norm, self.form, self.moments, plain)[0])
        if self.gamma is not None:
            scale = scale * self.gamma
        shift = -(self.form.spread(self.moments.mean[1]) * scale)
        return scale, shift if self.beta is None else shift + self.beta

    def scale_in_parts(self) -> tuple[tuple[Any, Any, Any], bool]:
        """The scale, its upper half and the rest, for `pairs.scale`; whether they and beta are finite."""
        high, low = scale_of(self.norm, self.form, self.moments)
        scale: Pair = (self.form.spread(high), self.form.spread(low))
        if self.gamma is not None:
            scale = dd.multiply(scale, (self.gamma, 0.0))
        head, tail = dd.halves(scale[0])
        finite = np.isfinite(scale[0]).all() and (self.beta is None or np.isfinite(self.beta).all())
        return (scale[0], head, tail + scale[1]), bool(finite)

    @property
    def short(self) -> float:
        """Magnitudes below it are short of digits, so much of beta has cancelled."""
        if self.beta is None:
            return 0.0
        return float(np.abs(self.beta[np.isfinite(self.beta)]).max(initial=0.0)) * _CANCELLED


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
    tile = _Tile(norm, form, source, sink, moments, *_affine(norm, form, box), left)
    if norm.twofold:
        _apply_twofold(tile, scratch)
    else:
        _apply(tile, scratch)


def normalize_at_once(
    norm: Norm,
    form: Form,
    box: Box,
    source: NDArray[Any],
    sink: NDArray[Any],
    moments: Moments,
    scratch: Scratch,
) -> bool:
    """As `normalize`, of a tile of any size, if one compiled pass does it all: from `measure_lines`' moments.

    `scratch` has room for a cell. False: nothing is written.
    """
    tile = _Tile(norm, form, source, sink, moments, *_affine(norm, form, box), Left.PLAIN)
    return _apply_doubles(tile) if norm.twofold else _apply_swiftly(tile, *tile.line(), scratch)


def _affine(norm: Norm, form: Form, box: Box) -> tuple[Floats | None, Floats | None]:
    """gamma and beta of the box's channels."""
    if not norm.affine:
        return None, None
    numbers = channels(norm.geometry, form, box)
    gamma, beta = (None if each is None else each[numbers] for each in (norm.gamma, norm.beta))
    return gamma, beta


def _apply(tile: _Tile, scratch: Scratch) -> None:
    """In float64."""
    line = tile.line()
    if _apply_swiftly(tile, *line, scratch):
        return
    form, work, short = tile.form, _evaluate(tile, *line, scratch), tile.short
    near = short and form.reduce(np.fmin, np.abs(work, out=form.view(scratch.part))) < short
    with _mending(tile, _parts(form, near), scratch):
        _store(form, scratch.work, tile.sink, defined=tile.whole and _is_finite(line[1]))


def _apply_swiftly(tile: _Tile, scale: Any, shift: Any, scratch: Scratch) -> bool:
    """By one compiled pass, if that may do it: of any size, if the scratch holds what is to be mended."""
    swift = kernel.swift_to(tile.form, tile.source, tile.sink)
    if swift is None or not (tile.left or tile.form.all(tile.moments.unit == 1.0)):
        return False
    if not (tile.sound and _is_finite(shift)):
        return False
    line = tile.moments.mean[0], scale, shift
    short = tile.short
    parts = _parts(tile.form, short and swift.near(tile.source, *line, short))
    if sum(part.form.size for part in parts) > len(scratch.work):
        return False
    with _mending(tile, parts, scratch):
        swift.apply(tile.source, *line, tile.sink)
    return True


def _is_finite(shift: Any) -> bool:
    """Whether every shift is finite; none is whose scale is not."""
    return bool(np.isfinite(shift).all())


def _evaluate(tile: _Tile, scale: Any, shift: Any, scratch: Scratch) -> Floats:
    """(source - mean)·scale + shift, in `scratch.work`."""
    form, moments, work = tile.form, tile.moments, tile.form.view(scratch.work)
    if tile.left != Left.DEVIATIONS:
        work = form.load(tile.source, scratch.work)
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

    cells: tuple[int, int]  # of the tile
    form: Form
    first: slice
    second: slice

    def pick(self, values: Any) -> Any:
        """Of what each cell has one of."""
        return self.form.pick(np.reshape(values, self.cells)[self.first, self.second])

    def of(self, values: NDArray[Any]) -> NDArray[Any]:
        """Of what broadcasts to the tile, a view."""
        along = ((1, self.first), (3, self.second))
        first, second = (at if values.shape[axis] > 1 else slice(None) for axis, at in along)
        return values[:, first, :, second]

    def cut(self, tile: _Tile, source: NDArray[Any]) -> _Tile:
        """The tile's part, as a tile; its `source`, which may be overwritten, was kept."""
        return tile._replace(
            form=self.form,
            source=source,
            sink=self.of(tile.sink),
            moments=tile.moments.map(self.pick),
            gamma=None if tile.gamma is None else self.of(tile.gamma),
            beta=None if tile.beta is None else self.of(tile.beta),
            left=Left.PLAIN if tile.left == Left.DEVIATIONS else tile.left,  # which are the whole tile's
        )


def _parts(form: Form, near: Any) -> list[_Part]:
    """What is mended together, where the cells `near` may need it: whatever the others hold."""
    if not np.any(near):
        return []
    if form.each < _LARGE_CELL:
        return [_Part(form.cells, form, slice(None), slice(None))]
    return [
        _Part(form.cells, form.of_cell(), slice(a, a + 1), slice(b, b + 1))
        for a, b in np.argwhere(np.reshape(near, form.cells))
    ]


@contextmanager
def _mending(tile: _Tile, parts: list[_Part], scratch: Scratch) -> Iterator[None]:
    """Once the tile is written: in these parts, compute anew what float64 is too short for."""
    kept = [part.of(tile.source).copy() for part in parts]  # the sink may be where the source is
    yield
    for part, values in zip(parts, kept, strict=True):
        _mend(part.cut(tile, values), scratch)


def _mend(part: _Tile, scratch: Scratch) -> None:
    """Compute anew, in pairs, what is so small beside beta that float64 may miss it by a float32 ulp.

    With what was `left`, the moments are those of the tile alone, which are not good enough: taken again.
    """
    form, source, moments = part.form, part.source, part.moments
    result = _evaluate(part, *part.line(), scratch).copy()
    lost = np.abs(result) < np.abs(form.lay(part.beta)) * _CANCELLED  # each by its own beta: not the block's
    if not lost.any():
        return
    if part.left is not None:
        measured, _ = measure(form, source, scratch, twofold=True)
        moments = measured._replace(size=moments.size, nan=moments.nan)  # without what is missing

    def picked(values: Any) -> Any:
        return np.broadcast_to(form.lay(values), lost.shape)[lost]

    values = form.load(source, scratch.work)[lost] * picked(form.spread(moments.unit))
    mean = (picked(form.spread(moments.mean[0])), picked(form.spread(moments.mean[1])))
    high, low = scale_of(replace(part.norm, twofold=True), form, moments)
    scale = (picked(form.spread(high)), picked(form.spread(low)))
    if part.gamma is not None:
        scale = dd.multiply(scale, (picked(part.gamma), 0.0))
    shift = picked(part.beta)
    exact = dd.add(dd.multiply(dd.subtract((values, 0.0), mean), scale), (shift, 0.0))[0]
    exact[np.abs(exact) < np.abs(shift) * _PAIR_NOISE] = 0.0
    result[lost] = exact
    _store(form, result.reshape(-1), part.sink, defined=False)


def _apply_twofold(tile: _Tile, scratch: Scratch) -> None:
    """In pairs.

    part·head is exact; all else is below 2**-24 of it, but for beta, whose sum with it is kept exact.
    """
    form, beta = tile.form, tile.beta
    if not tile.whole and _apply_doubles(tile):
        return
    scale, finite = tile.scale_in_parts()
    defined = tile.whole and finite
    work, part = form.view(scratch.work), form.view(scratch.part)
    if tile.left != Left.PAIRS:
        work, part, _ = deviations(form, tile.source, scratch, tile.moments)
    by, head, rest = map(form.lay, scale)
    own = form.own(tile.sink) if defined else None
    out = form.view(scratch.spare) if own is None else own
    pairs.scale(part, work, by, head, rest, None if beta is None else form.lay(beta), out)
    if not tile.whole:
        values = form.load(tile.source, scratch.work)
        put(out, mask_of(~np.isfinite(values), out.dtype), values * form.lay(scale[0]))
    if own is None:
        _store(form, scratch.spare, tile.sink, defined=defined)


def _apply_doubles(tile: _Tile) -> bool:
    """As `_apply_twofold`, of a tile of any size by one compiled pass; False where that may not do it."""
    doubles, moments = kernel.doubles(tile.form, tile.source, tile.sink), tile.moments
    if doubles is None or not tile.sound:
        return False
    scale, finite = tile.scale_in_parts()
    if not finite:
        return False
    grid = pairs.grid(tile.form, moments.mean, moments.least, moments.most)
    doubles.apply(tile.source, grid, scale, tile.beta, tile.sink)
    return True
