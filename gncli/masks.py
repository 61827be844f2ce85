"""Assignment to flagged elements by operations on their bits.

Where flags are set here and there, a branch for each element is mispredicted, which takes ten times as long.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

Flags: TypeAlias = NDArray[np.bool_]
Mask: TypeAlias = NDArray[np.signedinteger[Any]]


def mask_of(flags: Flags, dtype: np.dtype[Any]) -> Mask:
    """Return integers of the size of `dtype`: 0 where a flag is set, and all bits elsewhere."""
    return (flags.view(np.int8) - np.int8(1)).astype(f"i{dtype.itemsize}")


def put(values: NDArray[np.floating[Any]], mask: Mask, others: ArrayLike) -> None:
    """Set native floats, in place, to `others` (one or as many) where the mask is 0."""
    bits = values.view(mask.dtype)
    fill = np.asarray(others, values.dtype).view(mask.dtype)
    np.bitwise_xor(bits, fill, out=bits)
    np.bitwise_and(bits, mask, out=bits)
    np.bitwise_xor(bits, fill, out=bits)
