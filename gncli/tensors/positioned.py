"""Files read and written at a place, in as many calls as that takes."""

from __future__ import annotations

import os
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from gncli.errors import FormatError
from gncli.tensors.address import reason

POSITIONED = hasattr(os, "preadv") and hasattr(os, "pwrite")  # else a lock, seek, and read or write


def fill(block: NDArray[np.uint8], offset: int, read: Callable[[memoryview, int], int], address: str) -> None:
    """Bytes at `offset` of a file, by `read(view, offset)`, which may bring fewer. Raises FormatError."""
    done = 0
    while done < block.size:  # one call reads 2 GiB at most, or less where a signal comes
        try:
            got = read(block.data[done:], offset + done)
        except OSError as error:
            raise FormatError(f"cannot be read: {reason(error)}", address=address) from None
        if got == 0:
            raise FormatError("shrank while it was read; try again", address=address)
        done += got


def drain(block: NDArray[np.uint8], offset: int, write: Callable[[memoryview, int], int]) -> None:
    """Write bytes to `offset` of a file, by `write(view, offset)`, which may take fewer. Raises OSError."""
    done = 0
    while done < block.size:
        done += write(block.data[done:], offset + done)
