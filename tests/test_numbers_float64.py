"""float64: the error of every element, in exact arithmetic, within the contract's bound."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from arrays import Array, normal, rng
from oracle import group_norm_gold, moments_gold, to_rows

from gncli import group_norm

WIDE: dict[str, tuple[Callable[[], Array], float]] = {
    "N(0,1)": (lambda: normal(2, 8, 31, 33, dtype="f8"), 1e-5),
    "mean/std 10": (lambda: normal(2, 8, 31, 33, mean=10, dtype="f8"), 1e-5),
    "mean/std 1e5": (lambda: normal(2, 8, 31, 33, mean=1e5, dtype="f8"), 1e-5),
    "mean/std 1e10": (lambda: normal(2, 8, 31, 33, mean=1e10, dtype="f8"), 0.0),
    "1e200: the squares overflow": (lambda: normal(2, 8, 31, 33, mean=1e200, std=1e200, dtype="f8"), 1e-5),
    "1e-200: the squares underflow": (lambda: normal(2, 8, 31, 33, std=1e-200, dtype="f8"), 0.0),
    "1e-200 and eps": (lambda: normal(2, 8, 31, 33, std=1e-200, dtype="f8"), 1e-5),
    "1e-160: the squares are denormal": (lambda: normal(2, 8, 31, 33, std=1e-160, dtype="f8"), 0.0),
    "near the largest: the sum overflows": (lambda: 1.7e308 * rng().uniform(-1, 1, (2, 8, 31, 33)), 1e-5),
    "all near the largest": (lambda: rng().uniform(1.6e308, 1.7e308, (2, 8, 31, 33)), 1e-5),
    "denormals": (lambda: rng().integers(-99, 99, (2, 8, 9, 9)) * 5e-324, 0.0),
    "big-endian": (lambda: normal(2, 8, 31, 33, mean=10, dtype=">f8"), 1e-5),
    "Fortran order": (lambda: np.asfortranarray(normal(2, 8, 31, 33, mean=10, dtype="f8")), 1e-5),
}


def assert_float64(x: Array, groups: int, eps: float, layout: str | None = None, **how: Any) -> None:
    """|error| <= 4 * 2**-52 * max(1, |mean| / std), relative where |y| is above 1."""
    y = group_norm(x, groups, eps, layout, **how)
    assert (y.shape, y.dtype) == (x.shape, np.dtype(np.float64))
    rows = to_rows(x, groups, layout, "contiguous")
    right = to_rows(group_norm_gold(x, groups, eps, layout, **how), groups, layout, "contiguous")
    got = to_rows(y, groups, layout, "contiguous")
    for n, g in np.ndindex(*rows.shape[:2]):
        mean, variance = moments_gold(rows[n, g])
        limit = Fraction(4, 2**52)
        if mean * mean > variance:
            limit *= Fraction(math.sqrt(mean * mean / variance))
        for have, want in zip(got[n, g].flat, right[n, g].flat, strict=True):
            assert abs(Fraction(have) - want) <= limit * max(1, abs(want)), (n, g, have, float(want))


@pytest.mark.parametrize(("make", "eps"), WIDE.values(), ids=WIDE.keys())
def test_float64_error(make: Callable[[], Array], eps: float) -> None:
    assert_float64(make(), 4, eps)


@pytest.mark.parametrize("layout", ["NHWC", "HWCN", "NHCW", "CHW"])
def test_float64_error_by_layout(layout: str) -> None:
    shape = {"NHWC": (2, 5, 7, 6), "HWCN": (5, 7, 6, 2), "NHCW": (2, 5, 6, 7), "CHW": (6, 5, 7)}[layout]
    assert_float64(normal(*shape, mean=20, dtype="f8"), 3, 1e-5, layout)
