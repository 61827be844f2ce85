"""The reported statistics against exact moments: counts exact, mean and std within 1e-12 relative."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest
from arrays import Array, normal, rng, spoiled, with_outliers
from oracle import moments_gold

from gncli import describe, group_norm

pytestmark = pytest.mark.usefixtures("passes")

STATISTICS: dict[str, Callable[[], Array]] = {
    "N(0,1)": lambda: normal(3, 8, 31, 33),
    "mean/std 1e5": lambda: normal(3, 8, 31, 33, mean=1e5),
    "normalized: the mean is 1e-10, all but cancelled": lambda: group_norm(normal(3, 8, 31, 33, mean=9), 4),
    "normalized float64: 1e-18": lambda: group_norm(normal(3, 8, 31, 33, dtype="f8"), 4),
    "centred on purpose": lambda: normal(3, 8, 31, 33) - normal(3, 8, 31, 33)[:, :, ::-1],
    "outliers that cancel": lambda: with_outliers(1e8),
    "float16": lambda: normal(3, 8, 31, 33, mean=300, std=99, dtype="f2"),
    "float64 1e200": lambda: normal(3, 8, 31, 33, mean=1e200, std=1e200, dtype="f8"),
    "float64 1e-200": lambda: normal(3, 8, 31, 33, std=1e-200, dtype="f8"),
    "float32 denormals": lambda: normal(3, 8, 31, 33, std=1e-42),
    "uint8": lambda: rng().integers(0, 256, (3, 8, 31, 33)).astype("u1"),
    "int64": lambda: rng().integers(-(2**63), 2**63 - 1, (3, 8, 31, 33), "i8"),
    "uint64": lambda: rng().integers(0, 2**64 - 1, (3, 8, 31, 33), "u8"),
    "big-endian": lambda: normal(3, 8, 31, 33, mean=2, dtype=">f4"),
    "Fortran order": lambda: np.asfortranarray(normal(3, 8, 31, 33, mean=2)),
    "one element": lambda: np.array([3.5], "f4"),
    "float64 whose mean cancels": lambda: group_norm(normal(1, 2, 600, 601, dtype="f8"), 1),
    "a million": lambda: normal(1000, 1003, mean=0.1),
}


@pytest.mark.parametrize("make", STATISTICS.values(), ids=STATISTICS.keys())
def test_statistics(make: Callable[[], Array]) -> None:
    x = make()
    found = describe(x)
    mean, variance = moments_gold(x)
    assert (found["count"], found["nan"], found["inf"]) == (x.size, 0, 0)
    assert (found["min"], found["max"]) == (x.min(), x.max())
    assert abs(Fraction(found["mean"]) - mean) <= abs(mean) * Fraction(1, 10**12)
    assert found["mean"] == pytest.approx(math.fsum(x.flat) / x.size, rel=1e-12, abs=0)
    assert abs(Fraction(found["std"]) ** 2 - variance) <= variance * Fraction(2, 10**12)


def test_statistics_are_over_the_finite() -> None:
    x = spoiled()
    found = describe(x)
    mean, variance = moments_gold(x[np.isfinite(x)])
    assert (found["count"], found["nan"], found["inf"]) == (200, 1, 2)
    assert (found["min"], found["max"]) == (x[np.isfinite(x)].min(), x[np.isfinite(x)].max())
    assert found["mean"] == pytest.approx(float(mean), rel=1e-12, abs=0)
    assert found["std"] == pytest.approx(math.sqrt(variance), rel=1e-12, abs=0)
