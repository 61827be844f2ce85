"""Tensors that several tests take: seeded, so that a failure can be looked at again."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def rng() -> np.random.Generator:
    return np.random.default_rng(20180322)


def normal(*shape: int, mean: float = 0.0, std: float = 1.0, dtype: str = "f4") -> Array:
    """Normally distributed, scaled and shifted in float64, then rounded to `dtype`."""
    return (rng().standard_normal(shape) * std + mean).astype(dtype)


def with_outliers(size: float) -> Array:
    """(1, 2, 40, 50): values of about 1e-3, and `size` and -`size` among them."""
    x = normal(1, 2, 40, 50, std=1e-3)
    x[0, :, 3, 7] = size
    x[0, :, 21, 5] = -size
    return x


def spoiled() -> Array:
    """(2, 4, 5, 5), G = 2: group (0, 0) with a NaN, (0, 1) with both infinities, (1, 0) and (1, 1) sound."""
    x = normal(2, 4, 5, 5, mean=2)
    x[0, 0, 1, 1] = np.nan
    x[0, 2, 3, 3], x[0, 3, 0, 0] = np.inf, -np.inf
    return x
