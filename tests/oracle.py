"""Group norm written twice more, to judge gn by: plain longdouble, and exact rational arithmetic.

Nothing here knows gncli. `group_norm_exact` is a transcript of the formula in np.longdouble, on moved
axes; `group_norm_gold` does the same in integers, so that it is right to 200 bits whatever the data,
for small arrays (some microseconds an element).
"""

from __future__ import annotations

from fractions import Fraction
from math import isqrt
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

EXTENDED = np.finfo(np.longdouble).nmant >= 63  # x86 and IEEE quad; elsewhere longdouble is only double
BITS = 200  # of every quotient and root of the gold oracle


def to_rows(x: NDArray[Any], groups: int, layout: str | None, grouping: str) -> NDArray[Any]:
    """`x` in `layout` (None: channels first) as a copy (N, G, C/G, space), in C order."""
    word = layout.upper() if layout else "NC" + "x" * (x.ndim - 2)
    x = np.moveaxis(x, word.index("C"), -1)
    word = word.replace("C", "")
    x = np.moveaxis(x, word.index("N"), 0) if "N" in word else x[np.newaxis]
    x = np.moveaxis(x, -1, 1)
    n, c = x.shape[:2]
    x = x.reshape(n, c, int(np.prod(x.shape[2:], dtype=int)))
    if grouping == "interleaved":  # channel c belongs to group c % G
        return x.reshape(n, c // groups, groups, -1 if x.size else 0).swapaxes(1, 2)
    return x.reshape(n, groups, c // groups, -1 if x.size else 0)


def from_rows(rows: NDArray[Any], shape: tuple[int, ...], layout: str | None, grouping: str) -> NDArray[Any]:
    """The inverse of `to_rows`: (N, G, C/G, space) back to `shape` in `layout`."""
    word = layout.upper() if layout else "NC" + "x" * (len(shape) - 2)
    c = word.index("C")
    space = [size for axis, size in enumerate(shape) if word[axis] not in "NC"]
    x = rows.swapaxes(1, 2) if grouping == "interleaved" else rows
    x = x.reshape(rows.shape[0], shape[c], *space)
    x = np.moveaxis(x, 1, -1)
    word = word.replace("C", "")
    x = np.moveaxis(x, 0, word.index("N")) if "N" in word else x[0]
    return np.moveaxis(x, -1, c)


def per_channel(value: ArrayLike | None, rows: NDArray[Any], grouping: str, neutral: float) -> NDArray[Any]:
    """gamma or beta, a number or (C,), as (G, C/G, 1) in longdouble."""
    g, k = rows.shape[1:3]
    full = np.broadcast_to(np.asarray(neutral if value is None else value, np.longdouble), (g * k,))
    return (full.reshape(k, g).T if grouping == "interleaved" else full.reshape(g, k))[..., np.newaxis]


def group_norm_exact(
    x: NDArray[Any], groups: int, eps: float = 1e-5, layout: str | None = None, *,
    grouping: str = "contiguous", gamma: ArrayLike | None = None, beta: ArrayLike | None = None,
    divide_by: str = "std",
) -> NDArray[np.longdouble]:  # fmt: skip
    """y = (x - mean) / sqrt(var + eps) * gamma + beta in np.longdouble; `layout` None is channels first."""
    rows = to_rows(x, groups, layout, grouping).astype(np.longdouble)
    if rows.size:
        rows = rows - rows.mean((2, 3), keepdims=True)
        rows = rows - rows.mean((2, 3), keepdims=True)  # what the rounding of the first mean left
        spread = (rows * rows).mean((2, 3), keepdims=True) + np.longdouble(eps)
        with np.errstate(invalid="ignore", divide="ignore"):
            rows = rows / (np.sqrt(spread) if divide_by == "std" else spread)
        rows = rows * per_channel(gamma, rows, grouping, 1.0) + per_channel(beta, rows, grouping, 0.0)
    return from_rows(rows, x.shape, layout, grouping)


def group_norm_gold(
    x: NDArray[Any], groups: int, eps: float = 1e-5, layout: str | None = None, *,
    grouping: str = "contiguous", gamma: ArrayLike | None = None, beta: ArrayLike | None = None,
    divide_by: str = "std",
) -> NDArray[np.object_]:  # fmt: skip
    """The formula in exact rationals, as an object array of Fraction (None: 0 / 0, a constant group, eps 0).

    Only the square root is not exact: it is taken by integers to `BITS` bits beyond the point of its result.
    """
    rows = to_rows(x, groups, layout, grouping)
    scale = per_channel(gamma, rows, grouping, 1.0)
    shift = per_channel(beta, rows, grouping, 0.0)
    out = np.empty(rows.shape, object)
    for n, g in np.ndindex(*rows.shape[:2]):
        out[n, g] = _normalized(rows[n, g], Fraction(eps), divide_by == "std")
        for k in range(rows.shape[2]):
            a, b = _fraction(scale[g, k, 0]), _fraction(shift[g, k, 0])
            if a != 1 or b != 0:
                out[n, g, k] = [None if y is None else y * a + b for y in out[n, g, k]]
    return from_rows(out, x.shape, layout, grouping)


def _normalized(group: NDArray[Any], eps: Fraction, root: bool) -> NDArray[np.object_]:
    """(x - mean) / sqrt(var + eps), or / (var + eps), of one group of any shape."""
    values, unit = _integers(group)  # x == values * unit
    n = values.size
    if n == 0:
        return values
    centred = n * values - values.sum()  # (x - mean) == centred * unit / n
    squares = sum(int(c) * int(c) for c in centred.flat)
    spread = Fraction(squares, n) * (unit / n) ** 2 + eps
    if not spread:
        return np.full(group.shape, None, object)
    factor = unit / n / (_root(spread) if root else spread)
    return np.array([c * factor for c in centred.flat], object).reshape(group.shape)


def _root(value: Fraction) -> Fraction:
    """The square root: exact where it is rational (y + beta may then be exactly 0), else to `BITS` bits."""
    exact = Fraction(isqrt(value.numerator), isqrt(value.denominator))
    if exact * exact == value:
        return exact
    shift = BITS + max(0, value.denominator.bit_length() - value.numerator.bit_length())
    return Fraction(isqrt((value.numerator << 2 * shift) // value.denominator), 1 << shift)


def _integers(group: NDArray[Any]) -> tuple[NDArray[np.object_], Fraction]:
    """Python integers v and a unit u, a power of two, with group == v * u exactly."""
    if group.dtype.kind in "iu":
        return group.astype(object), Fraction(1)
    mantissa, exponent = np.frexp(group.astype(np.float64))  # exact: every float gn takes fits a double
    whole = (mantissa * 2.0**53).astype(np.int64).astype(object)
    low = int(exponent.min(initial=0))
    return whole << (exponent.astype(np.int64) - low).astype(object), Fraction(2) ** (low - 53)


def _fraction(value: np.longdouble) -> Fraction:
    """A longdouble as it is: float(value) would round it."""
    high = float(value)
    return Fraction(high) + Fraction(float(value - np.longdouble(high)))


def rounded(y: NDArray[Any], dtype: DTypeLike) -> NDArray[Any]:
    """Longdouble or Fraction values, rounded once, half to even, to float16, float32 or float64.

    astype is not enough: numpy takes longdouble to float16 by way of a double, which rounds twice.
    """
    dtype = np.dtype(dtype)
    if y.dtype == object:
        return np.array([_round_fraction(v, dtype) for v in y.flat], dtype).reshape(y.shape)
    with np.errstate(over="ignore", under="ignore"):
        near = np.asarray(y.astype(dtype))
        best, error = near, np.abs(y - near.astype(np.longdouble))
    for side in (-np.inf, np.inf):
        with np.errstate(over="ignore", under="ignore"):
            other = np.nextafter(near, np.array(side, dtype))
        off = np.abs(y - other.astype(np.longdouble))
        even = (other.view(f"i{dtype.itemsize}") & 1) == 0
        take = np.isfinite(near) & np.isfinite(other) & ((off < error) | ((off == error) & even))
        best, error = np.where(take, other, best), np.where(take, off, error)
    return best


def _round_fraction(value: Fraction | None, dtype: np.dtype[Any]) -> Any:
    if value is None:
        return dtype.type(np.nan)
    info = np.finfo(dtype)
    top = abs(value.numerator).bit_length() - value.denominator.bit_length()  # 2**(top-1) < |v| < 2**(top+1)
    step = max(top - 1 - int(info.nmant), int(info.minexp) - int(info.nmant))
    whole = round(value / Fraction(2) ** step)  # half to even
    if abs(whole) >= 2 << int(info.nmant):  # top was one too small: v is in the upper half of its range
        step += 1
        whole = round(value / Fraction(2) ** step)
    if abs(whole) * Fraction(2) ** step > Fraction(float(info.max)):
        return dtype.type(np.inf if value > 0 else -np.inf)
    return dtype.type(float(whole * Fraction(2) ** step))  # exact


def ulp_distance(a: NDArray[Any], b: NDArray[Any]) -> NDArray[np.float64]:
    """How many values of the dtype lie from a to b. 0 for two NaN, inf for one; -0 and +0 are the same."""
    if a.dtype.newbyteorder("=") != b.dtype.newbyteorder("=") or a.dtype.kind != "f":
        raise TypeError(f"one float dtype is wanted, not {a.dtype} and {b.dtype}")
    places = [_place(v.astype(v.dtype.newbyteorder("="))) for v in (a, b)]
    # uint64 wraps, and the wrapped difference is the right one: two places are less than 2**64 apart.
    up, down = places[0] - places[1], places[1] - places[0]
    distance = np.where(places[0] > places[1], up, down).astype(np.float64)
    nan = np.isnan(a).astype(int) + np.isnan(b)
    return np.where(nan == 2, 0.0, np.where(nan == 1, np.inf, distance))


def _place(v: NDArray[Any]) -> NDArray[np.uint64]:
    """The place of each value in the order of its dtype: sign and magnitude to one unsigned count."""
    bits = v.view(f"u{v.dtype.itemsize}").astype(np.uint64)
    sign = np.uint64(1) << np.uint64(8 * v.dtype.itemsize - 1)
    magnitude = bits & (sign - np.uint64(1))
    return np.where(bits & sign, sign - magnitude, sign + magnitude)


def moments_gold(x: NDArray[Any]) -> tuple[Fraction, Fraction]:
    """Mean and population variance of all of `x`, exactly."""
    values, unit = _integers(x)
    total, squares = int(values.sum()), int((values * values).sum())
    n = values.size
    return Fraction(total, n) * unit, Fraction(n * squares - total * total, n * n) * unit * unit


def score_gold(group: NDArray[Any], value: float, eps: float) -> Fraction:
    """(value - mean) / sqrt(var + eps), of the group's mean and variance."""
    mean, variance = moments_gold(group)
    return (Fraction(value) - mean) / _root(variance + Fraction(eps))
