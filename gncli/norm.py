"""What is to be done with a tensor, and what that comes to for the cells and the channels of a tile."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gncli import doubledouble as dd
from gncli.doubledouble import Pair
from gncli.errors import UsageError
from gncli.layout import Box, Geometry
from gncli.measure import TINY
from gncli.moments import Floats, Moments
from gncli.tile import Form


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

    @property
    def affine(self) -> bool:
        return self.gamma is not None or self.beta is not None

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


def channels(geometry: Geometry, form: Form, box: Box) -> NDArray[np.intp]:
    """Channel numbers of a box, to broadcast over (outer, first, middle, second, inner / step)."""
    axis, group_axis = geometry.channel_axis, 3 if geometry.samples_first else 1
    return _numbers(geometry, box[axis], box[group_axis], form.step if axis == 4 else 1)


@lru_cache(maxsize=4)
def _numbers(
    geometry: Geometry, along: tuple[int, int], groups: tuple[int, int], step: int
) -> NDArray[np.intp]:
    """The same, of ranges of the channel axis and of the axis of groups."""
    axis, group_axis = geometry.channel_axis, 3 if geometry.samples_first else 1
    position = np.arange(*along, step) // geometry.channel_run
    within = (position % geometry.channels_per_group).reshape([-1 if a == axis else 1 for a in range(5)])
    group = np.arange(*groups).reshape([-1 if a == group_axis else 1 for a in range(5)])
    if geometry.interleaved:
        return within * geometry.groups + group
    return group * geometry.channels_per_group + within
