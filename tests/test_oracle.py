"""The oracles against each other and against values done by hand."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from arrays import normal
from oracle import EXTENDED, group_norm_exact, group_norm_gold, rounded, ulp_distance


@pytest.mark.skipif(not EXTENDED, reason="np.longdouble is a double on this platform")
@pytest.mark.parametrize("dtype", ["f2", "f4"])
def test_the_oracles_agree(dtype: str) -> None:
    x = normal(2, 6, 9, 7, mean=100)
    how: dict[str, Any] = {"gamma": normal(6), "beta": normal(6), "grouping": "interleaved"}
    gold, extended = group_norm_gold(x, 3, **how), group_norm_exact(x, 3, **how)
    assert np.array_equal(rounded(gold, dtype), rounded(extended, dtype))


def test_the_oracle_by_hand() -> None:
    """1, 2, 3, 4 in one group: mean 5/2, variance 5/4; eps 1: the root is 3/2."""
    y = group_norm_gold(np.array([[1, 2, 3, 4]]), 1, 1.0)
    assert [float(v) for v in y[0]] == [-1.0, -1 / 3, 1 / 3, 1.0]
    by_variance = group_norm_gold(np.array([[1, 2, 3, 4]]), 1, 0.0, divide_by="variance")
    assert list(by_variance[0]) == [Fraction(n, 5) for n in (-6, -2, 2, 6)]


def test_rounding_is_single() -> None:
    """1 + 2**-11 + 2**-60 lies just above the middle of two float16; as a double it is the middle."""
    value = Fraction(1) + Fraction(1, 2**11) + Fraction(1, 2**60)
    above = np.nextafter(np.float16(1), np.float16(2))
    assert rounded(np.array([value], object), "f2")[0] == above
    if EXTENDED:
        assert rounded(np.longdouble(1) + np.array([2.0**-11]) + np.array([2.0**-60], "g"), "f2")[0] == above


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
def test_ulp_distance_counts_the_values_between(dtype: str) -> None:
    kind = np.dtype(dtype).type
    tiny = np.nextafter(kind(0), kind(1))
    pairs: list[tuple[Any, Any, float]] = [
        (1, 1, 0),
        (0.0, -0.0, 0),
        (tiny, -tiny, 2),
        (1, np.nextafter(kind(1), kind(2)), 1),
    ]
    pairs += [(np.nan, np.nan, 0), (np.nan, 1, math.inf), (np.finfo(kind).max, np.inf, 1)]
    a, b, want = (np.array(column) for column in zip(*pairs, strict=True))
    assert list(ulp_distance(a.astype(dtype), b.astype(dtype))) == list(want)
