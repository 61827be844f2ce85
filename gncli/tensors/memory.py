"""Arrays in memory as source and sink: views, never copies where the runs allow it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gncli.layout import Run


def storage_order(array: NDArray[Any]) -> tuple[NDArray[Any], bool]:
    """The array's elements in storage order, 1-D, and whether the first axis is the fastest one."""
    fortran = array.flags.f_contiguous and not array.flags.c_contiguous
    return (array.T if fortran else array).reshape(-1), fortran


class ArraySource:
    forkable = False  # what a process writes to an array stays with it

    def __init__(self, array: NDArray[Any], address: str = "array") -> None:
        self.address, self.shape, self.dtype = address, array.shape, array.dtype
        self._flat, self.fortran = storage_order(array)

    def read(self, runs: Sequence[Run], buffer: NDArray[Any]) -> NDArray[Any]:
        if len(runs) == 1:
            start, count = runs[0]
            return self._flat[start : start + count]
        size = sum(count for _, count in runs)
        np.concatenate([self._flat[start : start + count] for start, count in runs], out=buffer[:size])
        return buffer[:size]

    def abandon(self) -> None:
        """No reader of an array waits."""

    def close(self) -> None:
        """Nothing to release."""


class ArraySink:
    positioned = True

    def __init__(self, array: NDArray[Any], address: str = "array") -> None:
        """`array`: C- or Fortran-contiguous; filled in storage order."""
        self.address = address
        self._flat, _ = storage_order(array)

    def target(self, runs: Sequence[Run], buffer: NDArray[Any]) -> NDArray[Any]:
        if len(runs) == 1:
            start, count = runs[0]
            return self._flat[start : start + count]
        return buffer[: sum(count for _, count in runs)]

    def pack(self, runs: Sequence[Run], values: NDArray[Any]) -> NDArray[Any]:
        """Never asked for: `write` is for any thread."""
        return values

    def write(self, runs: Sequence[Run], values: NDArray[Any]) -> None:
        if len(runs) == 1:
            return  # computed in place
        done = 0
        for start, count in runs:
            self._flat[start : start + count] = values[done : done + count]
            done += count

    def reserve(self) -> None:
        """No space to take."""

    def commit(self) -> None:
        """The array is the result."""

    def discard(self) -> None:
        """Nothing to remove."""
