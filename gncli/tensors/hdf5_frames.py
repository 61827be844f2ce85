"""Chunks that HDF5 is to decode: whether each states that it decodes to a whole chunk.

A filter may give less than a chunk. HDF5 does not notice, and hands out whatever memory lies behind it. Where
the stored bytes state the decoded length, that is checked here, before anything is decoded.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from typing import Any

from gncli.errors import FormatError
from gncli.tensors.hdf5_filters import FLETCHER32, SHUFFLE
from gncli.tensors.hdf5_opened import Dataset
from gncli.tensors.hdf5_places import user_block

HEADER = 18  # bytes that are enough to know the length
CHECKSUM = 4  # bytes, of fletcher32
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"


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
    same_size = all(code in (SHUFFLE, FLETCHER32) for code in before)

    bad: list[str] = []

    def check(chunk: Any) -> bool | None:
        skipped = [chunk.filter_mask >> number & 1 for number in range(len(filters))]
        if all(skipped):
            length, wanted = chunk.size, nbytes
        elif readable and same_size and length_of is not None and not any(skipped):
            header = os.pread(descriptor, HEADER, chunk.byte_offset)
            stated = length_of(header[: chunk.size])
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


def _stated_length(filters: list[tuple[int, tuple[int, ...]]]) -> Callable[[bytes], int | None] | None:
    """Return what reads the decoded length from the front of a chunk, or None where nothing can."""
    if not filters:
        return None
    code, values = filters[-1]
    if code == 32008 and (len(values) < 5 or values[4] == 0):  # bitshuffle that does not compress
        return None
    return _LENGTHS.get(code)


def _unsigned(header: bytes, start: int, stop: int, order: Any) -> int | None:
    return int.from_bytes(header[start:stop], order) if len(header) >= stop else 0


def _of_zstd(header: bytes) -> int | None:
    """RFC 8878, 3.1.1.1. A frame need not state the length."""
    if len(header) < 5 or not header.startswith(_ZSTD_MAGIC):
        return 0
    descriptor = header[4]
    single, code = descriptor >> 5 & 1, descriptor >> 6
    wide = (single, 2, 4, 8)[code]
    if not wide:
        return None
    start = 5 + (not single) + (0, 1, 2, 4)[descriptor & 3]
    length = _unsigned(header, start, start + wide, "little")
    return length + 256 if length is not None and wide == 2 else length


_LENGTHS: dict[int, Callable[[bytes], int | None]] = {
    4: lambda header: _unsigned(header, 0, 4, "little"),  # szip
    32001: lambda header: _unsigned(header, 4, 8, "little"),  # blosc
    32004: lambda header: _unsigned(header, 0, 8, "big"),  # lz4
    32008: lambda header: _unsigned(header, 0, 8, "big"),  # bitshuffle
    32015: _of_zstd,
}
