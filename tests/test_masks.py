"""Assignment by bits is assignment by flags."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gncli.masks import mask_of, put


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
@pytest.mark.parametrize("other", [0.0, -0.0, np.nan, -np.nan, np.inf, 1.5, "many"])
def test_put(dtype: str, other: Any) -> None:
    random = np.random.default_rng(0)
    values = np.frombuffer(random.bytes(6000 * np.dtype(dtype).itemsize), dtype).reshape(30, 200).copy()
    flags = random.random(values.shape) < 0.3
    others = values[::-1].copy() if other == "many" else np.asarray(other, dtype)
    wanted = values.copy()
    wanted[flags] = np.broadcast_to(others, values.shape)[flags]
    put(values, mask_of(flags, values.dtype), others)
    assert values.tobytes() == wanted.tobytes()
    part, every = values[:, ::2], np.ones((30, 100), bool)
    put(part, mask_of(every, part.dtype), 0.0)
    assert not values[:, ::2].any() and values[:, 1::2].tobytes() == wanted[:, 1::2].tobytes()
