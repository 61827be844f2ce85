"""What HDF5 does to a chunk on its way to the file, done here, where no lock is in the way.

The filters that HDF5 itself brings and numpy or a library can do: shuffle, deflate, fletcher32. Formats:
https://support.hdfgroup.org/documentation/hdf5/latest/_f_m_t4.html
"""

from __future__ import annotations

import threading
import zlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from gncli.errors import FormatError
from gncli.extras import how_to_install
from gncli.tensors.hdf5_opened import Dataset


def _zlib() -> Any:
    """isal's, of the extra [fast], or else Python's own, which is a tenth as fast."""
    try:
        from isal import isal_zlib
    except ImportError:
        return zlib
    return isal_zlib


LIBRARY = _zlib()
Bytes = NDArray[np.uint8]
BITSHUFFLE = 32008
DEFLATE, SHUFFLE, FLETCHER32 = h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_FLETCHER32
SAME_SIZE = (SHUFFLE, FLETCHER32)  # filters that make all chunks of a dataset equally long
WORD: dict[int, Any] = {
    2: np.dtype("<u2"),
    4: np.dtype("<u4"),
    8: np.dtype("<u8"),
}  # as shuffle takes elements apart
_STRIP = 1 << 15  # elements that stay in the caches while they are taken apart
_SLICE = 1 << 16  # bytes that are inflated at once: what they become is small enough to be warm memory
BUILT_IN = {4: "szip"}  # of HDF5 itself, but not in every build of it
REGISTERED = {  # https://github.com/HDFGroup/hdf5_plugins; what hdf5plugin brings
    307: "bzip2", 32000: "lzf", 32001: "blosc", 32004: "lz4", 32008: "bitshuffle", 32013: "zfp",
    32015: "zstd", 32017: "sz", 32019: "fcidecomp", 32024: "sz3", 32026: "blosc2", 32028: "sperr",
}  # fmt: skip

CRASHING = (32013, 32017, 32024, 32028)  # zfp, sz, sz3, sperr: on damaged data, in most of our tries


class _Scratch(threading.local):
    def __init__(self) -> None:
        self.held: dict[str, Bytes] = {}


_SCRATCH = _Scratch()


def scratch(name: str, size: int) -> Bytes:
    """Bytes of the calling thread, until it asks for that name again: fresh memory costs more to touch."""
    held = _SCRATCH.held.get(name)
    if held is None or len(held) < size:
        held = _SCRATCH.held[name] = np.empty(size, np.uint8)
    return held[:size]


class UndecodableError(Exception):
    """Bytes that are not what the filters make."""


@dataclass(frozen=True)
class Pipeline:
    """The filters of a dataset, in the order of writing: (number, its settings)."""

    filters: tuple[tuple[int, tuple[int, ...]], ...]

    @classmethod
    def of(cls, dataset: Dataset) -> Pipeline | None:
        """Return the pipeline of a dataset, or None where a filter is not among those done here."""
        filters = []
        for code, _, values, _ in dataset.storage.filters:
            known = {
                DEFLATE: values[:1] and values[0] <= 9,  # HDF5 neither writes nor reads other levels
                SHUFFLE: values[:1] and values[0] in (1, *WORD),
                FLETCHER32: True,
            }
            if not known.get(code):
                return None
            filters.append((code, tuple(values)))
        return cls(tuple(filters))

    def encode(self, data: Bytes) -> Bytes | bytes:
        """A chunk's bytes as they are stored; perhaps `data` itself, perhaps the thread's scratch."""
        stored: Bytes | bytes = data
        for code, values in self.filters:
            stored = _ENCODE[code](stored, values)
        return stored

    def decode(self, stored: Bytes, mask: int, size: int) -> Bytes:
        """The chunk of `size` bytes, from what is stored; filters whose bit is in `mask` were left out.

        Perhaps in the thread's scratch. Raises UndecodableError.
        """
        data: Bytes | bytes = stored
        room = size + 4 * len(self.filters)  # a checksum is four bytes
        for number, (code, values) in reversed([*enumerate(self.filters)]):
            if not mask >> number & 1:
                data = _DECODE[code](data, values, room)
        if len(data) != size:
            raise UndecodableError
        return np.frombuffer(data, np.uint8)

    def decode_all(self, stored: Sequence[memoryview], size: int) -> Bytes:
        """Decode small chunks of `size` bytes, none of whose filters was left out, one after another.

        They are unshuffled all together. Perhaps in the thread's scratch. Raises UndecodableError.
        """
        filters, word = self.filters, 1
        if filters and filters[0][0] == SHUFFLE and size % filters[0][1][0] == 0:
            word, filters = filters[0][1][0], filters[1:]
        steps = [(_DECODE[code], values) for code, values in reversed(filters)]
        room = size + 4 * len(self.filters)
        parts = []
        for part in stored:
            data: Any = part
            for decode, values in steps:
                data = decode(data, values, room)
            if len(data) != size:
                raise UndecodableError
            parts.append(bytes(data))  # a copy of what is in the scratch
        joined = b"".join(parts)
        return unshuffled(joined, word, len(parts)) if word > 1 else np.frombuffer(joined, np.uint8)


def changes_size(dataset: Dataset) -> bool:
    """Return whether its filters make chunks of different sizes."""
    return any(each.code not in SAME_SIZE for each in dataset.storage.filters)


def settings_like(dataset: Dataset) -> Any:
    """Creation properties for another dataset with the same filters."""
    settings = dataset.id.get_create_plist()
    filters = dataset.storage.filters
    for each in filters:
        settings.remove_filter(each.code)
    for code, flags, values, _ in filters:
        # Of the values of bitshuffle, the first three are its own, and it would put them there once more.
        settings.set_filter(code, flags, values[3:] if code == BITSHUFFLE else values)
    return settings


def require_filters(dataset: Dataset, address: str, *, force: bool = False) -> None:
    """Raise FormatError, with the name of a filter and what brings it, where one is missing.

    Unless `force`, also where the filter is one of `CRASHING`.
    """
    for code, _, _, told in dataset.storage.filters:
        if code in CRASHING and not force:
            message = f"is filtered by {REGISTERED[code]} (HDF5 filter {code}), which damaged data can crash"
            raise FormatError(f"{message}; if you trust the file, --force reads it", address=address)
        if h5py.h5z.filter_avail(code):
            continue
        with suppress(ImportError):  # it makes what it brings known to HDF5
            import hdf5plugin  # noqa: F401
        if h5py.h5z.filter_avail(code):
            continue
        name = {**BUILT_IN, **REGISTERED}.get(code) or told.decode("utf-8", "replace") or "unknown"
        message = f"is filtered by {name} (HDF5 filter {code}), which is not there; "
        if code in REGISTERED:
            message += f"it needs the extra filters: {how_to_install('filters')}"
        else:
            message += "rewrite the file with gzip: h5repack -f GZIP=4"
        raise FormatError(message, address=address)


def shuffled(data: Bytes | bytes, size: int) -> Bytes:
    """The first bytes of all elements, then the second ones, and so on. In the thread's scratch."""
    count = len(data) // size if size > 1 else 0
    out = scratch("shuffled", len(data))
    planes = out[: count * size].reshape(size, count)
    words = np.frombuffer(data, WORD.get(size, np.uint8), count)
    for start in range(0, count, _STRIP):
        strip = words[start : start + _STRIP]
        moved = np.empty_like(strip)
        for place in range(size):
            np.right_shift(strip, 8 * place, out=moved)
            planes[place, start : start + _STRIP] = moved  # its low bytes
    out[count * size :] = np.frombuffer(data, np.uint8)[count * size :]
    return out


def unshuffled(data: Bytes | bytes, size: int, chunks: int = 1) -> Bytes:
    """The reverse, of each of `chunks` of one length. In the thread's scratch.

    Several chunks are to be of whole elements.
    """
    count = len(data) // chunks // size if size > 1 and chunks else 0
    out = scratch("unshuffled", len(data))
    planes = np.frombuffer(data, np.uint8, chunks * count * size).reshape(chunks, size, count)
    words = out[: chunks * count * size].view(WORD.get(size, np.uint8)).reshape(chunks, count)
    high = max(1, _STRIP // max(count, 1))
    for first in range(0, chunks, high):
        for start in range(0, count, _STRIP):
            strip = words[first : first + high, start : start + _STRIP]
            lanes = planes[first : first + high, :, start : start + _STRIP]
            strip[...] = lanes[:, -1]
            for place in range(size - 2, -1, -1):
                np.left_shift(strip, 8, out=strip)
                np.bitwise_or(strip, lanes[:, place], out=strip)
    out[chunks * count * size :] = np.frombuffer(data, np.uint8)[chunks * count * size :]
    return out


def deflated(data: Bytes | bytes, level: int) -> bytes:
    # isal's levels are 0 to 3; its first takes a few hundredths more space than zlib's fourth.
    own = level if LIBRARY is zlib else min(level, 1 + (level > 5) + (level > 8))
    done: bytes = LIBRARY.compress(data, own)
    return done


def inflated(data: Bytes | bytes, room: int) -> Bytes | bytes:
    """At most `room` bytes, whatever the stream would make of itself. If many, in the thread's scratch."""
    stream = LIBRARY.decompressobj()
    done = 0
    try:
        if room <= 2 * _SLICE:  # one call, and no copy
            whole: bytes = stream.decompress(data, room + 1)
            if not stream.eof or len(whole) > room:
                raise UndecodableError
            return whole
        out = scratch("inflated", room)
        for start in range(0, len(data), _SLICE):
            part = stream.decompress(data[start : start + _SLICE], room - done + 1)
            if stream.unconsumed_tail or done + len(part) > room:
                raise UndecodableError
            out[done : done + len(part)] = np.frombuffer(part, np.uint8)
            done += len(part)
    except LIBRARY.error:
        raise UndecodableError from None
    if not stream.eof:
        raise UndecodableError
    return out[:done]


def fletcher32(data: Bytes | bytes) -> bytes:
    """HDF5's checksum, of 16-bit words, first byte first: sums modulo 65535, never 0 but for zeros alone."""
    padded = np.frombuffer(data, np.uint8)
    if len(padded) % 2:
        padded = np.append(padded, np.uint8(0))
    words = padded.view(">u2")
    first = second = 0
    for start in range(0, len(words), 1 << 14):
        part = words[start : start + (1 << 14)].astype(np.float64)  # sums below 2**45: exact
        second += len(part) * first + int(np.arange(len(part), 0, -1) @ part)
        first += int(part.sum())
        first, second = _folded(first), _folded(second)
    return (second << 16 | first).to_bytes(4, "little")


def _folded(total: int) -> int:
    return (total - 1) % 65535 + 1 if total else 0


def _checked(data: Bytes | bytes) -> Bytes | bytes:
    body, stored = data[:-4], bytes(data[-4:])
    found = fletcher32(body)
    # HDF5 before 1.6.3 swapped bytes on some machines.
    if stored not in (found, bytes((found[1], found[0], found[3], found[2]))):
        raise UndecodableError
    return body


def _with_checksum(data: Bytes | bytes) -> bytes:
    return bytes(data) + fletcher32(data)


_ENCODE: dict[int, Callable[[Any, tuple[int, ...]], Bytes | bytes]] = {
    SHUFFLE: lambda data, values: shuffled(data, values[0]),
    DEFLATE: lambda data, values: deflated(data, values[0] if values else 6),
    FLETCHER32: lambda data, values: _with_checksum(data),
}
_DECODE: dict[int, Callable[[Any, tuple[int, ...], int], Bytes | bytes]] = {
    SHUFFLE: lambda data, values, room: unshuffled(data, values[0]),
    DEFLATE: lambda data, values, room: inflated(data, room),
    FLETCHER32: lambda data, values, room: _checked(data),
}
