"""The checksums of HDF5: Jenkins' lookup3 of headers, and fletcher32 of chunks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Words = NDArray[np.uint32]
# (target, subtracted and rotated, by how much, then added), http://burtleburtle.net/bob/c/lookup3.c
_MIX = [(0, 2, 4, 1), (1, 0, 6, 2), (2, 1, 8, 0), (0, 2, 16, 1), (1, 0, 19, 2), (2, 1, 4, 0)]
_FINAL = [(2, 1, 14), (0, 2, 11), (1, 0, 25), (2, 1, 16), (0, 2, 4), (1, 0, 14), (2, 1, 24)]


def lookup3(data: bytes, lengths: Sequence[int] | NDArray[np.int64]) -> Words:
    """Return the hash of the first n bytes of `data`, for each n in `lengths`: positive, ascending."""
    n = np.asarray(lengths, np.int64)
    state = [(n + 0xDEADBEEF).astype(np.uint32) for _ in range(3)]
    for number, words in enumerate(np.frombuffer(data, "<u4", len(data) // 12 * 3).reshape(-1, 3)):
        first = np.searchsorted(n, 12 * (number + 1), "right")  # the last block of others is mixed otherwise
        if first == len(n):
            break
        part = [value[first:] for value in state]
        for value, word in zip(part, words, strict=True):
            value += word
        for to, of, by, other in _MIX:
            part[to] -= part[of]
            part[to] ^= _rotated(part[of], by)
            part[of] += part[other]
    at = ((n - 1) // 12 * 12)[:, np.newaxis] + np.arange(12)
    padded = np.frombuffer(data + bytes(12), np.uint8)
    last = np.where(at < n[:, np.newaxis], padded[np.minimum(at, len(padded) - 1)], 0).astype(np.uint8)
    for value, word in zip(state, last.view("<u4").T, strict=True):
        value += word
    for to, of, by in _FINAL:
        state[to] ^= state[of]
        state[to] -= _rotated(state[of], by)
    return state[2]


def _rotated(value: Words, by: int) -> Words:
    return (value << np.uint32(by)) | (value >> np.uint32(32 - by))


def checksummed_length(data: bytes, most: int) -> int | None:
    """Return the length that is followed by its own lookup3, or None where none up to `most` is."""
    most = min(most, len(data) - 4)
    if most < 8:
        return None
    lengths = np.arange(8, most + 1)
    stored: NDArray[Any] = np.ndarray(len(lengths), "<u4", data, offset=8, strides=(1,))
    found = np.flatnonzero(stored == lookup3(data, lengths))
    return int(lengths[found[0]]) if len(found) else None


def fletcher32(data: bytes) -> bytes:
    """Return HDF5's checksum of 16-bit words, as the filter appends it."""
    first = second = 0
    for at in range(0, len(data), 2):
        first += int.from_bytes(data[at : at + 2].ljust(2, b"\0"), "big")
        second += first
    sums = [total and (total - 1) % 65535 + 1 for total in (first, second)]
    return (sums[1] << 16 | sums[0]).to_bytes(4, "little")
