"""Where tiles are worked on: buffers that are used again and again, and how numpy is to behave there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property

import numpy as np

from gncli import kernel
from gncli.moments import Floats

_BUFFER = 128 if kernel.passes else 512  # elements: numpy's reductions, which copy more, want the larger
_ARENA = 8 << 20  # bytes


class Scratch:
    """Reused float64 buffers of one tile each, no larger than the caches."""

    def __init__(self, size: int) -> None:
        # glibc hands the memory of every tile's arrays back, and takes it anew page by page, until it has
        # seen a larger array come and go.
        np.empty(_ARENA, np.uint8)
        self.work, self.part, self.spare = (np.empty(size) for _ in range(3))

    @cached_property
    def extra(self) -> Floats:
        """One more, where pairs are measured."""
        return np.empty_like(self.work)


@contextmanager
def arithmetic() -> Iterator[None]:
    """numpy as tiles want it: without warnings, and with small buffers.

    It copies what is broadcast along rows that are shorter than a buffer, of 8192 elements by default,
    until one is full: that takes three times as long as the arithmetic.
    """
    before = np.setbufsize(_BUFFER)
    try:
        with np.errstate(all="ignore"):
            yield
    finally:
        np.setbufsize(before)
