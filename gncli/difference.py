"""How far two runs of numbers are apart: absolutely, relatively, and in units of the last place."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from math import frexp, inf, ldexp, nan
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from gncli.totals import Sizes, exact_sum, mean_of

Floats: TypeAlias = NDArray[Any]
Flags: TypeAlias = NDArray[np.bool_]

SUMMED = ("count", "finite", "differing", "odd", "vast", "off_zero", "total_abs", "sizes")
MAXIMA = ("max_abs", "max_rel", "max_ulp", "passing_atol", "passing_ulp", "largest_a", "largest_b")
WORST = ("worst", "worst_a", "worst_b")
MOST_EXCEED = 1000  # one pair in so many may be more ulps apart than `ulp_q999` says


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

    `odd` counts pairs that differ and are not both finite: no tolerance makes these equal. `vast` counts
    those whose |a - b| is beyond float64, `off_zero` those where b is 0 and a is not; `max_rel` is over
    the others. `total_abs` is in units of 2**-1074, and leaves out the vast. `passing_atol` and
    `passing_ulp` are the least tolerances that would do, the others being as they are. `worst` is the
    place of the first odd pair, or else of the largest |a - b|; -1 where there is no difference.
    """

    count: int = 0
    finite: int = 0
    differing: int = 0
    odd: int = 0
    vast: int = 0
    off_zero: int = 0
    total_abs: int = 0
    sizes: Sizes = field(default_factory=Sizes, compare=False)  # of the differences in ulps
    max_abs: float = 0.0
    max_rel: float = 0.0
    max_ulp: float = 0.0
    passing_atol: float = 0.0
    passing_ulp: float = 0.0
    largest_a: float = 0.0
    largest_b: float = 0.0
    worst: int = -1
    worst_a: Any = 0.0
    worst_b: Any = 0.0

    def __add__(self, other: object) -> Differences:
        """Return the differences of these pairs and of others together."""
        if not isinstance(other, Differences):
            return NotImplemented
        worst = max(self, other, key=Differences._rank)
        return replace(
            self,
            **{name: getattr(self, name) + getattr(other, name) for name in SUMMED},
            **{name: max(getattr(self, name), getattr(other, name)) for name in MAXIMA},
            **{name: getattr(worst, name) for name in WORST},
        )

    def _rank(self) -> tuple[bool, bool, float, int]:
        """How bad the worst pair is; of equals the first is the worst."""
        return self.worst >= 0, self.odd > 0, 0.0 if self.odd else self.max_abs, -self.worst

    def row(self, unit: float = 0.0) -> dict[str, object]:
        """Return the fields of a record. `unit`: one ulp at the largest magnitude, from `ulp_at`.

        Where no pair is finite on both sides, there is no measure, and those are None.
        """
        measured = self.finite > 0 or not self.count
        measures = {
            "max_abs": self.max_abs,
            "mean_abs": inf if self.vast else mean_of(self.total_abs, self.finite),
            "max_rel": inf if self.off_zero else self.max_rel,
            "max_rel_elsewhere": self.max_rel,
            "max_ulp": _whole(self.max_ulp),
            "ulp_q999": _whole(min(self.sizes.least_above(MOST_EXCEED), self.max_ulp)),
            "scaled_ulp": self.max_abs / unit if unit else self.max_abs,
        }
        return {
            "equal": not self.differing,
            "count": self.count,
            "differing": self.differing,
            "share": self.differing / self.count if self.count else 0.0,
            **{name: value if measured else None for name, value in measures.items()},
            "differing_where_b_is_0": self.off_zero,
            "passing_atol": None if self.odd or self.passing_atol == inf else self.passing_atol,
            "passing_max_ulp": None if self.odd else _whole(self.passing_ulp),
            "nonfinite_differing": self.odd,
        }


def _whole(ulp: float) -> int | None:
    return int(ulp) if ulp < inf else None


def differences(a: Floats, b: Floats, start: int, tolerance: Tolerance) -> Differences:
    """Compare two 1-D arrays of numbers, of one length; `start` is the place of their first elements."""
    if not a.size:
        return Differences()
    with np.errstate(all="ignore"):
        wide = _widest(a, b)
        largest = _largest(a, wide), _largest(b, wide)
        if np.isfinite(largest).all():
            return _of_finite(a, b, largest, start, tolerance)
        return _of_any(a, b, start, tolerance)


def _largest(values: Floats, wide: np.dtype[Any]) -> float:
    """The largest magnitude, of complex numbers as `wide`; infinity or NaN if not all values are finite."""
    if values.dtype.kind == "c":
        if not np.isfinite(values).all():
            return nan
        return float(np.abs(values.astype(wide)).max())
    if values.dtype == np.float16:  # whose comparisons are slow
        values = values.astype(np.float32)
    return max(abs(float(values.min())), abs(float(values.max())))


def _of_any(a: Floats, b: Floats, start: int, tolerance: Tolerance) -> Differences:
    """Compare numbers that are not all finite."""
    x, y = widened(a, b)
    finite = np.isfinite(x) & np.isfinite(y)
    odd = ~finite & (x != y)
    if not tolerance.nan_differ:
        odd &= ~(np.isnan(x) & np.isnan(y))
    there = np.flatnonzero(finite)
    found = Differences()
    if there.size:
        a_there, b_there = a[there], b[there]
        wide = _widest(a, b)
        largest = _largest(a_there, wide), _largest(b_there, wide)
        found = _of_finite(a_there, b_there, largest, 0, tolerance)
    worst = int(np.argmax(odd)) if odd.any() else int(there[found.worst]) if found.worst >= 0 else -1
    count = int(np.count_nonzero(odd))
    return replace(
        found,
        count=a.size,
        differing=found.differing + count,
        odd=count,
        worst=start + worst if worst >= 0 else -1,
        worst_a=a[worst].item(),
        worst_b=b[worst].item(),
    )


def _of_finite(
    a: Floats, b: Floats, largest: tuple[float, float], start: int, tolerance: Tolerance
) -> Differences:
    """Compare finite numbers; `largest` are the largest magnitudes of both.

    Equal pairs only count. Where they are many, the others are measured by themselves.
    """
    whole = Differences(a.size, a.size, largest_a=largest[0], largest_b=largest[1])
    apart = _apart(a, b)
    count = int(np.count_nonzero(apart))
    if count == 0:
        return replace(whole, sizes=Sizes.zeros(a.size))
    if count > a.size // 2:
        found = _measured(a, b, tolerance)
        worst = found.worst
    else:
        indices = np.flatnonzero(apart)
        found = _measured(a[indices], b[indices], tolerance)
        worst = int(indices[found.worst]) if found.worst >= 0 else -1
    return replace(
        found,
        count=a.size,
        finite=a.size,
        sizes=found.sizes + Sizes.zeros(a.size - found.count),
        largest_a=largest[0],
        largest_b=largest[1],
        worst=start + worst if worst >= 0 else -1,
    )


def _apart(a: Floats, b: Floats) -> Flags:
    """Return which pairs of finite numbers differ. A pair of 0 and -0 may count as one that does."""
    if a.dtype != b.dtype:
        a, b = widened(a, b)  # exactly: numpy would compare 64-bit integers with floats as float64
    elif a.itemsize <= 8:
        a, b = (array.view(f"u{array.itemsize}") for array in (a, b))
    apart: Flags = a != b
    return apart


def _measured(a: Floats, b: Floats, tolerance: Tolerance) -> Differences:
    """Compare finite numbers, of which there is one at least. The largest magnitudes are left out."""
    x, y = widened(a, b)
    off, size = np.abs(x - y), np.abs(y)
    ulp = off if narrower(a.dtype, b.dtype) is None else ulps(a, b, x, y)
    worst = int(np.argmax(off))
    most, most_ulp = float(off[worst]), _exact(ulp)
    vast = np.isinf(off) if most == inf else None
    zero = size == 0 if size.min() == 0 else None
    relative = off / size
    if zero is not None:
        relative[zero] = 0.0
    passing = _passing(x, y, off, size, ulp, vast, tolerance)
    return Differences(
        count=a.size,
        finite=a.size,
        differing=passing.lacking,
        vast=0 if vast is None else int(np.count_nonzero(vast)),
        off_zero=0 if zero is None else int(np.count_nonzero(off[zero])),
        total_abs=exact_sum(off if vast is None else off[~vast]),
        sizes=Sizes.of(ulp),
        max_abs=most,
        max_rel=float(relative.max()),
        max_ulp=most_ulp,
        passing_atol=passing.atol,
        passing_ulp=passing.ulp,
        worst=worst if most > 0 else -1,
        worst_a=a[worst].item(),
        worst_b=b[worst].item(),
    )


class _Passing(NamedTuple):
    """How many pairs a tolerance lacks, and the least of each kind that would do beside the others."""

    lacking: int
    atol: float
    ulp: float


def _passing(
    x: Floats, y: Floats, off: Floats, size: Floats, ulp: Floats, vast: Flags | None, tolerance: Tolerance
) -> _Passing:
    rtol, atol, max_ulp = tolerance.rtol, tolerance.atol, tolerance.max_ulp
    differs = off > 0
    if rtol == atol == 0 and max_ulp is None:
        return _Passing(int(np.count_nonzero(differs)), _at_least(off), _exact(ulp))
    close = ~differs if rtol == atol == 0 else off <= atol + rtol * size
    near = ~differs if max_ulp is None else ulp <= max_ulp
    if vast is not None:
        close[vast] = _within(x[vast], y[vast], rtol, atol)
        near = near | (vast & _within(x, y, rtol, 0.0))  # which needs no atol
    return _Passing(
        int(np.count_nonzero(~(close | near))),
        _at_least(off[~near]) if rtol == 0 else _least_atol(off[~near], size[~near], rtol),
        _exact(ulp[~close]) if rtol or atol else _exact(ulp),
    )


def _within(x: Floats, y: Floats, rtol: float, atol: float) -> Flags:
    """Return whether |x - y| <= atol + rtol·|y|, at a quarter of the scale, where a difference overflows."""
    within: Flags = np.abs(x / 4 - y / 4) <= atol / 4 + rtol * np.abs(y / 4)
    return within


def _exact(ulp: Floats) -> float:
    """The largest of some whole numbers, as an int: 64 bits may be more than float64 holds. Or infinity."""
    most = ulp.max(initial=0.0)
    return int(most) if most < inf else inf


def _at_least(off: Floats) -> float:
    """The least float64 that is no less than any of some longdouble or float64."""
    most = off.max(initial=0.0)
    return float(most) if float(most) >= most else float(np.nextafter(float(most), inf))


def _least_atol(off: Floats, size: Floats, rtol: float) -> float:
    least = float((off - rtol * size).max(initial=0.0))
    while least < inf and not (off <= least + rtol * size).all():  # for want of the sum's last bit
        least = float(np.nextafter(least, inf))
    return least


def widened(a: Floats, b: Floats) -> tuple[Floats, Floats]:
    """Both in a type that holds either; integers of 64 bits need more than float64."""
    wide = _widest(a, b)
    return a.astype(wide), b.astype(wide)


def _widest(a: Floats, b: Floats) -> np.dtype[Any]:
    return np.promote_types(_wide(a), _wide(b))


def _wide(array: Floats) -> np.dtype[Any]:
    if array.dtype.kind == "c":
        return np.dtype(np.complex128)
    long = array.dtype.kind in "iu" and array.dtype.itemsize == 8
    return np.dtype(np.longdouble if long else np.float64)


def narrower(a: np.dtype[Any], b: np.dtype[Any]) -> np.dtype[Any] | None:
    """The float type that has fewer digits, of one or two; None for integers. A complex has two floats."""
    sizes = {"f": 1, "c": 2}
    floats = [dtype.itemsize // sizes[dtype.kind] for dtype in (a, b) if dtype.kind in sizes]
    return np.dtype(f"f{min(floats)}") if floats else None


def epsilon(a: np.dtype[Any], b: np.dtype[Any]) -> float:
    """What 1 is rounded by in the narrower of the two; 0 for integers."""
    dtype = narrower(a, b)
    return 0.0 if dtype is None else float(np.finfo(dtype).eps)


def ulp_at(magnitude: float, a: np.dtype[Any], b: np.dtype[Any]) -> float:
    """The distance of neighbours in the narrower float type at `magnitude`; of integers it is 1."""
    dtype = narrower(a, b)
    if dtype is None:
        return 1.0
    limits = np.finfo(dtype)
    exponent = frexp(min(magnitude, float(limits.max)))[1] - 1
    return max(ldexp(float(limits.eps), exponent), float(limits.smallest_subnormal))


def ulps(a: Floats, b: Floats, x: Floats, y: Floats) -> Floats:
    """How many values of the narrower float type lie from a to b; of integers, their difference.

    Of complex numbers, the larger of what their two parts are apart.
    """
    dtype = narrower(a.dtype, b.dtype)
    if dtype is None:
        steps: Floats = np.abs(x - y)
        return steps
    if x.dtype.kind == "c":
        return np.maximum(ulps(a.real, b.real, x.real, y.real), ulps(a.imag, b.imag, x.imag, y.imag))
    ranks_a, ranks_b = (_ranks(np.ascontiguousarray(v, dtype)) for v in (a, b))
    upper, lower = np.maximum(ranks_a, ranks_b), np.minimum(ranks_a, ranks_b)
    # The difference may be beyond the signed type, but not beyond the unsigned one.
    distance: Floats = np.subtract(upper, lower, out=upper).view(f"u{dtype.itemsize}").astype(np.float64)
    if a.dtype.itemsize != dtype.itemsize or b.dtype.itemsize != dtype.itemsize:
        beyond = (np.isinf(a.astype(dtype)) | np.isinf(b.astype(dtype))) & (x != y)
        distance[beyond] = inf
    return distance


def _ranks(values: Floats) -> NDArray[Any]:
    """Return the rank of each float among those of its type, -0 and 0 at 0, in integers of its size."""
    bits = values.view(f"i{values.dtype.itemsize}")
    sign = bits >> (8 * values.dtype.itemsize - 1)  # 0, or -1; without a branch, which costs more
    ranks: NDArray[Any] = sign & np.iinfo(bits.dtype).max
    np.bitwise_xor(bits, ranks, out=ranks)
    np.subtract(ranks, sign, out=ranks)
    return ranks
