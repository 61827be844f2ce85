"""Arithmetic on pairs: a number as an unevaluated sum of two float64, high and low, about 106 bits.

Every function takes floats or arrays alike. Sources: Dekker 1971 for the products, Knuth's TwoSum,
Rump, Ogita and Oishi 2008 for the sum by extraction.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np

Number: TypeAlias = Any  # float or float64 array
Pair: TypeAlias = tuple[Number, Number]

# What is added to values and taken from them again cuts them at 2**-53 of itself.
ANCHOR = 1.5 * 2.0**26  # of the largest value: 28 bits above the cut, and room for 2**25 of them
NEXT_ANCHOR = 1.5 * 2.0**-27  # of this: the same of what it leaves
_SPLIT = 134217729.0  # 2**27 + 1: halves of 26 bits, whose products are exact


def two_sum(a: Number, b: Number) -> Pair:
    """a + b, exactly."""
    s = a + b
    t = s - a
    return s, (a - (s - t)) + (b - t)


def quick_two_sum(a: Number, b: Number) -> Pair:
    """a + b, exactly, where |a| >= |b|."""
    s = a + b
    return s, b - (s - a)


def halves(a: Number) -> Pair:
    """The upper 26 bits of a, and the rest (Veltkamp)."""
    t = _SPLIT * a
    high = t - (t - a)
    return high, a - high


def two_product(a: Number, b: Number) -> Pair:
    """a · b, exactly."""
    p = a * b
    ah, al = halves(a)
    bh, bl = halves(b)
    return p, al * bl - (((p - ah * bh) - al * bh) - ah * bl)


def add(x: Pair, y: Pair) -> Pair:
    s, e = two_sum(x[0], y[0])
    return quick_two_sum(s, e + (x[1] + y[1]))


def subtract(x: Pair, y: Pair) -> Pair:
    return add(x, (-y[0], -y[1]))


def multiply(x: Pair, y: Pair) -> Pair:
    p, e = two_product(x[0], y[0])
    return quick_two_sum(p, e + (x[0] * y[1] + x[1] * y[0]))


def divide(x: Pair, b: Number) -> Pair:
    """x / b for a float64 b."""
    q = x[0] / b
    p, e = two_product(q, b)
    return quick_two_sum(q, ((x[0] - p) - e + x[1]) / b)


def reciprocal(x: Pair) -> Pair:
    r = 1.0 / x[0]
    p, e = multiply(x, (r, 0.0 * r))
    return quick_two_sum(r, r * ((1.0 - p) - e))


def reciprocal_root(x: Pair) -> Pair:
    """1 / sqrt(x): the float64 value and one Newton step, whose residual is taken in pairs."""
    r = 1.0 / np.sqrt(x[0])
    p, e = multiply(multiply(x, (r, 0.0 * r)), (r, 0.0 * r))
    return quick_two_sum(r, 0.5 * r * ((1.0 - p) - e))


def total(x: Pair) -> Pair:
    """Sum over the first axis. The high parts, cut at two common grids, add up without any rounding."""
    high, low = x
    anchor = np.abs(high).max(axis=0, initial=0.0) * ANCHOR
    coarse = (high + anchor) - anchor
    rest = high - coarse
    anchor = anchor * NEXT_ANCHOR
    fine = (rest + anchor) - anchor
    parts = (np.add.reduce(part, axis=0) for part in (coarse, fine, (rest - fine) + low))
    return quick_two_sum(*of_sums(*parts))


def of_sums(high: Number, middle: Number, low: Number) -> Pair:
    """What three sums come to, of which the first two are exact."""
    upper, rest = two_sum(high, middle)
    return upper, rest + low
