"""Totals that do not depend on the order of their parts: exact sums, and counts by size."""

from __future__ import annotations

from math import frexp, inf
from typing import Any

import numpy as np
from numpy.typing import NDArray

_UNIT = 1074  # every float64 is a whole multiple of 2**-1074
_DIGITS = 10  # binary digits that a count by size tells apart, behind the first
_FEW = 1 << _DIGITS  # up to twice this, each number has its own count
_BASE = ((1023 + _DIGITS) << _DIGITS) - _FEW  # by which the leading bits of that number exceed it
_MOST = 2.0**65  # what stands for infinity among numbers up to 2**64


def exact_sum(values: NDArray[Any]) -> int:
    """Return the exact sum of finite values of float64 or longdouble, in units of 2**-1074.

    Sums by extraction (Rump, Ogita and Oishi 2008): each round adds the leading bits of all values, so
    few that float64 makes no error, until nothing is left of them.
    """
    left = values.astype(np.float64, copy=False)
    total = 0
    if values.dtype == np.longdouble:  # of 64 bits: two float64 hold each
        total = exact_sum((values - left).astype(np.float64))
    room = len(values).bit_length()
    while top := max(float(left.max(initial=0.0)), -float(left.min(initial=0.0))):
        exponent = frexp(top)[1] + room
        if exponent > 1000:  # where the anchor would overflow
            return total + sum(_units(value) for value in left.tolist())
        anchor = 1.5 * 2.0**exponent
        leading = left + anchor
        np.subtract(leading, anchor, out=leading)
        total += _units(float(leading.sum()))
        left = np.subtract(left, leading, out=leading)
    return total


def mean_of(total: int, count: int) -> float:
    """Return the correctly rounded mean of `count` values whose `exact_sum` is `total`."""
    return total / (count << _UNIT) if count else 0.0


def _units(value: float) -> int:
    numerator, denominator = value.as_integer_ratio()
    return numerator * ((1 << _UNIT) // denominator)


class Sizes:
    """Counts of whole numbers by size: of each below 2048, and of each eleven leading bits above.

    Holds at most 57 345 counts, whatever is counted.
    """

    def __init__(self, counts: NDArray[np.int64] | None = None) -> None:
        self.counts = np.zeros(0, np.int64) if counts is None else counts

    @classmethod
    def of(cls, numbers: NDArray[Any]) -> Sizes:
        """Count `numbers`: whole ones from 0 to 2**64, and infinity, as floats."""
        numbers = np.asarray(numbers, np.float64)
        top = numbers.max(initial=0.0)
        if top > _MOST:
            numbers = np.minimum(numbers, _MOST)
        bins = numbers.astype(np.int64) if top < 2 * _FEW else _bins(numbers)
        return cls(np.bincount(bins).astype(np.int64))

    @classmethod
    def zeros(cls, count: int) -> Sizes:
        """Count the number 0, `count` times."""
        return cls(np.array([count], np.int64))

    def __add__(self, other: Sizes) -> Sizes:
        short, long = sorted((self.counts, other.counts), key=len)
        counts = long.copy()
        counts[: len(short)] += short
        return Sizes(counts)

    def least_above(self, beyond: int) -> float:
        """Return the least number that no more than one in `beyond` of the counted numbers exceeds.

        Exact below 2048; above, it is the largest number of the same eleven leading bits, so that it may
        be too large by 0.1 %. 0 where nothing was counted.
        """
        total = int(self.counts.sum())
        if not total:
            return 0.0
        place = int(np.searchsorted(np.cumsum(self.counts), total - total // beyond))
        low, high = (_smallest(place + step) for step in (0, 1))
        return inf if low >= _MOST else max(low, high - 1)


def _bins(numbers: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return where each number is counted: small ones at themselves, others by their leading bits."""
    leading = numbers.view(np.int64) >> (52 - _DIGITS)
    bins: NDArray[np.int64] = np.maximum(leading - _BASE, np.minimum(numbers, _FEW).astype(np.int64))
    return bins


def _smallest(place: int) -> float:
    """Return the smallest number that is counted at `place`."""
    if place < _FEW:
        return float(place)
    return float(np.array([(place + _BASE) << (52 - _DIGITS)], np.int64).view(np.float64)[0])
