"""How far two runs of numbers are apart: absolutely, relatively, and in units of the last place."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import inf
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[Any]
SUMMED = ("count", "finite", "differing", "odd", "total_abs")
MAXIMA = ("max_abs", "max_rel", "max_ulp", "passing_atol", "passing_ulp", "largest_a", "largest_b")
Flags: TypeAlias = NDArray[np.bool_]


@dataclass(frozen=True)
class Tolerance:
    """Equal: |a - b| <= atol + rtol·|b|, as numpy's allclose has it, or no more than `max_ulp` apart.

    Infinities are equal to their like, NaN to NaN unless `nan_differ`.
    """

    rtol: float = 0.0
    atol: float = 0.0
    max_ulp: int | None = None
    nan_differ: bool = False


@dataclass(frozen=True)
class Differences:
    """Of `count` pairs. Maxima and totals are over those of which both are finite.

    `odd` counts pairs that differ and are not both finite: no tolerance makes these equal. `passing_atol`
    and `passing_ulp` are the least tolerances that would do, the others being as they are. `worst` is
    the place of the first odd pair, or else of the largest |a - b|; -1 where there is no difference.
    """

    count: int = 0
    finite: int = 0
    differing: int = 0
    odd: int = 0
    total_abs: float = 0.0
    max_abs: float = 0.0
    max_rel: float = 0.0
    max_ulp: float = 0.0
    passing_atol: float = 0.0
    passing_ulp: float = 0.0
    largest_a: float = 0.0
    largest_b: float = 0.0
    worst: int = -1
    worst_a: float = 0.0
    worst_b: float = 0.0

    def __add__(self, later: object) -> Differences:
        """Of these pairs and of those behind them."""
        if not isinstance(later, Differences):
            return NotImplemented
        ahead = (later.odd and not self.odd) or (not self.odd and later.max_abs > self.max_abs)
        worst = later if ahead or self.worst < 0 else self
        return replace(
            self,
            **{name: getattr(self, name) + getattr(later, name) for name in SUMMED},
            **{name: max(getattr(self, name), getattr(later, name)) for name in MAXIMA},
            **{name: getattr(worst, name) for name in ("worst", "worst_a", "worst_b")},
        )

    def row(self) -> dict[str, object]:
        """By the names of a record."""
        spoiled = self.odd > 0
        return {
            "equal": not self.differing,
            "count": self.count,
            "differing": self.differing,
            "share": self.differing / self.count if self.count else 0.0,
            "max_abs": self.max_abs,
            "mean_abs": self.total_abs / self.finite if self.finite else 0.0,
            "max_rel": self.max_rel,
            "max_ulp": _whole(self.max_ulp),
            "passing_atol": None if spoiled else self.passing_atol,
            "passing_max_ulp": None if spoiled else _whole(self.passing_ulp),
            "nonfinite_differing": self.odd,
        }


def _whole(ulp: float) -> int | None:
    return int(ulp) if ulp < inf else None


def differences(a: Floats, b: Floats, start: int, tolerance: Tolerance) -> Differences:
    """Of two 1-D arrays of real dtypes and one length; `start` is the place of their first elements."""
    if same_bits(a, b):
        finite = np.isfinite(a)
        if finite.all() or not (tolerance.nan_differ and np.isnan(a).any()):
            top = float(np.abs(a[finite].astype(np.float64)).max(initial=0.0))
            return Differences(a.size, int(np.count_nonzero(finite)), largest_a=top, largest_b=top)
    with np.errstate(all="ignore"):
        return _differences(a, b, start, tolerance)


def same_bits(a: Floats, b: Floats) -> bool:
    bits = f"u{a.dtype.itemsize}"
    return a.dtype == b.dtype and bool(np.array_equal(a.view(bits), b.view(bits)))


def _differences(a: Floats, b: Floats, start: int, tolerance: Tolerance) -> Differences:
    x, y = widened(a, b)
    finite = np.isfinite(x) & np.isfinite(y)
    off = np.abs(x - y)
    off[~finite] = 0.0
    size = np.where(finite, np.abs(y), 0)
    ulp = np.where(finite, ulps(a, b, x, y), 0.0)
    close = off <= tolerance.atol + tolerance.rtol * size
    near = ulp <= tolerance.max_ulp if tolerance.max_ulp is not None else off == 0
    odd = ~finite & (x != y)
    if not tolerance.nan_differ:
        odd &= ~(np.isnan(x) & np.isnan(y))
    differing = ~(close | near) | odd
    worst = int(np.argmax(odd if odd.any() else off))
    some = worst if odd[worst] or off[worst] > 0 else -1
    return Differences(
        a.size,
        int(np.count_nonzero(finite)),
        int(np.count_nonzero(differing)),
        int(np.count_nonzero(odd)),
        float(off.sum()),
        float(off.max(initial=0.0)),
        float((off[size > 0] / size[size > 0]).max(initial=0.0)),
        float(ulp.max(initial=0.0)),
        _least_atol(off[~near], size[~near], tolerance.rtol),
        float(ulp[~close].max(initial=0.0)),
        float(np.abs(x[finite]).max(initial=0.0)),
        float(size.max(initial=0.0)),
        start + some if some >= 0 else -1,
        a[worst].item(),
        b[worst].item(),
    )


def _least_atol(off: Floats, size: Floats, rtol: float) -> float:
    least = float((off - rtol * size).max(initial=0.0))
    while least < inf and not (off <= least + rtol * size).all():  # for want of the sum's last bit
        least = float(np.nextafter(least, inf))
    return least


def widened(a: Floats, b: Floats) -> tuple[Floats, Floats]:
    """Both in a type that holds either; integers of 64 bits need more than float64."""
    long = any(array.dtype.kind in "iu" and array.dtype.itemsize == 8 for array in (a, b))
    wide = np.longdouble if long else np.float64
    return a.astype(wide), b.astype(wide)


def narrower(a: np.dtype[Any], b: np.dtype[Any]) -> np.dtype[Any] | None:
    """The float type that has fewer digits, of one or two; None for integers."""
    floats = [dtype.newbyteorder("=") for dtype in (a, b) if dtype.kind == "f"]
    return min(floats, key=lambda dtype: dtype.itemsize, default=None)


def epsilon(a: np.dtype[Any], b: np.dtype[Any]) -> float:
    """What 1 is rounded by in the narrower of the two; 0 for integers."""
    dtype = narrower(a, b)
    return 0.0 if dtype is None else float(np.finfo(dtype).eps)


def ulps(a: Floats, b: Floats, x: Floats, y: Floats) -> Floats:
    """How many values of the narrower float type lie from a to b; of integers, their difference."""
    dtype = narrower(a.dtype, b.dtype)
    if dtype is None:
        steps: Floats = np.abs(x - y)
        return steps
    short_a, short_b = a.astype(dtype), b.astype(dtype)
    places_a, places_b = _places(short_a), _places(short_b)
    apart = np.where(places_a > places_b, places_a - places_b, places_b - places_a)
    beyond = (np.isinf(short_a) | np.isinf(short_b)) & (x != y)  # of what the narrower type can hold
    distance: Floats = np.where(beyond, inf, apart.view(np.uint64).astype(np.float64))
    return distance


def _places(values: Floats) -> NDArray[np.int64]:
    """The place of each float in the order of its type, -0 and 0 at 0. Differences may wrap to uint64."""
    bits = values.view(f"i{values.dtype.itemsize}").astype(np.int64)
    least = np.int64(-(2 ** (8 * values.dtype.itemsize - 1)))
    places: NDArray[np.int64] = np.where(bits < 0, least - bits, bits)
    return places
