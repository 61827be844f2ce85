"""Which dtype gn gives for which it takes (what it takes: `tensors.address.require_numeric`)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from gncli.errors import UsageError

OUTPUTS = ("float16", "float32", "float64")


def output_dtype(stored: np.dtype[Any], wanted: DTypeLike | None = None) -> np.dtype[Any]:
    """The wanted one; else a float's own, float32 for integers of 8 and 16 bits, float64 for others."""
    if wanted is not None:
        dtype = np.dtype(wanted)
        if dtype.name not in OUTPUTS:
            raise UsageError(f"output dtype {dtype} is not one of {', '.join(OUTPUTS)}")
        return dtype.newbyteorder("=")
    if stored.kind == "f":
        return stored.newbyteorder("=")
    return np.dtype(np.float32 if stored.itemsize <= 2 else np.float64)


def last_place(bits: int) -> float:
    """The last place of a float32 whose bits, shifted by one to lose the sign, are these."""
    return float(2.0 ** (max(bits >> 24 & 255, 1) - 150))
