"""What is known of a tensor without reading it."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np

from gncli.tensors.decoding import Decoding


@dataclass(frozen=True)
class TensorHeader:
    """`stored_bytes` is what the elements take in the file. The last six are HDF5's.

    `dtype` is as stored. `decoding` is what `open_source` would do to the numbers.
    """

    address: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    fortran: bool
    storage: str
    stored_bytes: int
    chunks: tuple[int, ...] | None = None
    max_shape: tuple[int | None, ...] | None = None
    filters: list[dict[str, object]] = field(default_factory=list)
    attributes: dict[str, object] = field(default_factory=dict)
    links: list[dict[str, str]] = field(default_factory=list)  # other paths that lead to it
    decoding: Decoding | None = None

    @property
    def nbytes(self) -> int:
        return prod(self.shape) * self.dtype.itemsize
