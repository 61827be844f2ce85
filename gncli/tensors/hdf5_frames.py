"""Chunks that HDF5 is to decode: whether each states that it decodes to a whole chunk.

A filter may give less than a chunk. HDF5 does not notice, and hands out whatever memory lies behind it. Other
filters read on in memory behind a chunk that is cut off. Where the stored bytes state how many they are, and
how many they decode to, that is checked here, before anything is decoded.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple

import h5py

from gncli.errors import FormatError
from gncli.tensors.hdf5_filters import BITSHUFFLE, FLETCHER32, SAME_SIZE
from gncli.tensors.hdf5_opened import Dataset
from gncli.tensors.hdf5_places import user_block

CHECKSUM = 4  # bytes, of fletcher32
_ATOMIC = 1  # numbers, to nbit
_ZSTD_MAGIC = 0xFD2FB528


def require_whole_chunks(dataset: Dataset, descriptor: int, address: str) -> None:
    """Raise FormatError where a chunk decodes to another length than that of a chunk, as far as it says so.

    `descriptor` is of the file that holds the dataset.
    """
    if not dataset.chunks or not hasattr(dataset.id, "chunk_iter"):
        return
    filters = [(each.code, each.values) for each in dataset.storage.filters]
    nbytes = math.prod(dataset.chunks) * dataset.id.get_type().get_size()
    length_of = _stated_length(filters)
    # Addresses of chunks count a user block, or not: that depends on the version.
    readable = length_of is not None and not user_block(dataset.file)
    before = [code for code, _ in filters[:-1]]
    expected = nbytes + CHECKSUM * before.count(FLETCHER32)
    same_size = all(code in SAME_SIZE for code in before)

    bad: list[str] = []

    def check(chunk: Any) -> bool | None:
        skipped = [chunk.filter_mask >> number & 1 for number in range(len(filters))]
        if all(skipped):
            length, wanted = chunk.size, nbytes
        elif readable and same_size and length_of is not None and not any(skipped):
            stated = length_of(_Stored(descriptor, chunk.byte_offset, chunk.size))
            length, wanted = expected if stated is None else stated, expected
        else:
            return None
        if length == wanted:
            return None
        bad.append(f"the chunk at {chunk.chunk_offset} decodes to {length} bytes, not to {wanted}")
        return True  # ends the iteration

    dataset.id.chunk_iter(check)
    if bad:
        raise FormatError(f"cannot be read: {bad[0]}; the file is damaged", address=address)


class _Stored(NamedTuple):
    """The stored bytes of a chunk, of which few are looked at."""

    descriptor: int
    offset: int
    size: int

    def unsigned(self, start: int, stop: int, order: Literal["little", "big"]) -> int:
        """Return a number; 0 where the chunk has no such bytes."""
        data = os.pread(self.descriptor, stop - start, self.offset + start) if stop <= self.size else b""
        return int.from_bytes(data, order)


Length = Callable[[_Stored], int | None]


def _stated_length(filters: list[tuple[int, tuple[int, ...]]]) -> Length | None:
    """Return what knows the length that a chunk decodes to, or None where nothing does.

    It gives 0 where the chunk has fewer bytes than it says, and None where it does not say how many.
    """
    if not filters:
        return None
    code, values = filters[-1]
    if code == BITSHUFFLE:
        compresses = len(values) > 4 and values[4] != 0
        return partial(_of_blocks, values[2]) if compresses else None
    if code == h5py.h5z.FILTER_SCALEOFFSET:
        return partial(_of_scaleoffset, values) if len(values) > 4 else None
    if code == h5py.h5z.FILTER_NBIT:
        return partial(_of_nbit, values) if len(values) > 6 and values[3] == _ATOMIC else None
    return _LENGTHS.get(code)


def _of_blocks(width: int, chunk: _Stored) -> int:
    """Length, length of a block, and blocks, each after its own stored length; of lz4 and bitshuffle.

    Bitshuffle blocks hold a multiple of 8 elements, `width` bytes each. What is left follows as it is.
    """
    length, block = chunk.unsigned(0, 8, "big"), chunk.unsigned(8, 12, "big")
    left, at = length, 12
    while left >= 8 * width and block and at < chunk.size:
        at += 4 + chunk.unsigned(at, at + 4, "big")
        left -= min(block, left // (8 * width) * (8 * width))
    return length if at + left <= chunk.size and left < 8 * width else 0


def _of_lz4(chunk: _Stored) -> int:
    length, block = chunk.unsigned(0, 8, "big"), chunk.unsigned(8, 12, "big")
    left, at = length, 12
    while left > 0 and block and at < chunk.size:
        at += 4 + chunk.unsigned(at, at + 4, "big")
        left -= block
    return length if at <= chunk.size and left <= 0 else 0


def _of_scaleoffset(values: tuple[int, ...], chunk: _Stored) -> int:
    """`values`: type, factor, number of elements, class, bytes of an element."""
    count, width = values[2], values[4]
    bits = chunk.unsigned(0, 4, "little")  # of an element; they follow 21 bytes
    return count * width if 21 + -(-count * bits // 8) <= chunk.size else 0


def _of_nbit(values: tuple[int, ...], chunk: _Stored) -> int:
    """`values`: how many, whether all bits are kept, number of elements, class, bytes, order, bits."""
    if values[1]:
        return chunk.size
    return values[2] * values[4] if -(-values[2] * values[6] // 8) <= chunk.size else 0


def _of_blosc(chunk: _Stored) -> int:
    """The header tells the length and the stored length."""
    return chunk.unsigned(4, 8, "little") if chunk.unsigned(12, 16, "little") <= chunk.size else 0


def _of_zstd(chunk: _Stored) -> int | None:
    """RFC 8878, 3.1.1.1. A frame need not state the length. The decoder knows where the chunk ends."""
    if chunk.unsigned(0, 4, "little") != _ZSTD_MAGIC:
        return 0
    descriptor = chunk.unsigned(4, 5, "little")
    single, code = descriptor >> 5 & 1, descriptor >> 6
    wide = (single, 2, 4, 8)[code]
    if not wide:
        return None
    start = 5 + (not single) + (0, 1, 2, 4)[descriptor & 3]
    length = chunk.unsigned(start, start + wide, "little") + 256 * (wide == 2)
    return length if start + wide <= chunk.size else 0


_LENGTHS: dict[int, Length] = {
    4: lambda chunk: chunk.unsigned(0, 4, "little"),  # szip
    32001: _of_blosc,
    32004: _of_lz4,
    32015: _of_zstd,
}
