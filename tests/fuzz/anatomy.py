"""Where the structures of an HDF5 file lie, and their fields: found by signatures and addresses.

The format: https://support.hdfgroup.org/documentation/hdf5/latest/_f_m_t4.html
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import chain, cycle
from pathlib import Path
from typing import Any, NamedTuple

import h5py

from fuzz.checksums import checksummed_length, lookup3

SHORT, MOST = 200, 5000  # bytes of a structure whose length is not known: most are short
SIZES = (512, 1024, 2048)  # of direct blocks of a fractal heap

Field = tuple[int, int]  # where it is, and how many bytes wide


class Block(NamedTuple):
    """A structure: header, node of a tree, heap …, with its messages, if it has any."""

    kind: str
    start: int
    stop: int
    fields: tuple[Field, ...]
    checksum: int | None  # where that of all other bytes is


class Chunk(NamedTuple):
    """A stored chunk of a dataset, or its contiguous values."""

    dataset: str
    offset: tuple[int, ...]
    start: int
    size: int
    filters: tuple[int, ...]


class Anatomy(NamedTuple):
    blocks: tuple[Block, ...]
    chunks: tuple[Chunk, ...]
    targets: tuple[str, ...]  # numeric datasets that can be normalized

    @property
    def addresses(self) -> list[int]:
        return [block.start for block in self.blocks] + [chunk.start for chunk in self.chunks]


# Widths in bytes of the fields that follow a signature; the last one goes on to the end.
STRUCTURES = {
    "OCHK": (1,), "TREE": (1, 1, 2, 8), "SNOD": (1, 1, 2, 8, 8, 4, 4, 8), "HEAP": (1, 3, 8, 8, 8),
    "GCOL": (1, 3, 8, 2, 2, 4, 8), "BTHD": (1, 1, 4, 2, 2, 1, 1, 8, 2, 8, 4), "BTIN": (1, 1, 8),
    "BTLF": (1, 1, 8), "FRHP": (1, 2, 2, 1, 4, *[8] * 12, 2, 8, 8, 2, 2, 8, 2, 8), "FHDB": (1, 8, 4, 4, 1),
    "FHIB": (1, 8, 4, 8), "FAHD": (1, 1, 1, 1, 8, 8, 4), "FADB": (1, 1, 8), "EAHD": (1,) * 8 + (8,),
    "EAIB": (1, 1, 8), "EASB": (1, 1, 8), "EADB": (1, 1, 8), "FSHD": (1, 1, *[8] * 4, 2, 2, 2, 8),
    "FSSE": (1, 8, 1), "SMTB": (1, 1, 2, 4, 2, 2, 2, 8), "SMLI": (1, 4, 8),
}  # fmt: skip
# Of superblocks, by their version; and of header messages, by their type.
SUPERBLOCKS = {0: (1,) * 8 + (2, 2, 4) + (8,) * 6 + (4, 4, 8, 8), 2: (1, 1, 1, 1, 8, 8, 8, 8)}
MESSAGES = {
    0x01: (1, 1, 1, 1, 8), 0x02: (1, 1, 8), 0x03: (1, 1, 1, 1, 4, 2, 2, 1), 0x04: (4, 1), 0x05: (1, 1, 4, 1),
    0x06: (1, 1, 1), 0x07: (1, 3, 8), 0x08: (1, 1, 1, 1, 4), 0x0A: (1, 1, 2), 0x0B: (1, 1, 2, 2, 2, 2, 4),
    0x0C: (1, 1, 2, 2, 2, 1), 0x0F: (1, 8, 1), 0x10: (8, 8), 0x11: (8, 8), 0x12: (1, 3, 4),
    0x13: (1, 2, 2, 2), 0x14: (1, 1, 8), 0x15: (1, 1, 2, 8), 0x16: (1, 4), 0x17: (1, 1, 8),
}  # fmt: skip
CONTINUATION = 0x10


def anatomy(path: Path) -> Anatomy:
    """Find all of it in a sound file."""
    data = path.read_bytes()
    with h5py.File(path) as file:
        base = file.userblock_size
        headers, chunks, targets = _ask(file)
    blocks = {block.start: block for block in _signed(data, base)}
    for address in sorted(headers):
        if base + address not in blocks:
            for block in _old_header(data, base, base + address):
                blocks[block.start] = block
    chunks = [chunk for chunk in chunks if 0 < chunk.start < len(data)]
    return Anatomy(tuple(blocks.values()), tuple(chunks), tuple(targets))


def _ask(file: h5py.File) -> tuple[set[int], list[Chunk], list[str]]:
    """Return what h5py knows: addresses of object headers, the chunks, and the datasets to normalize."""
    headers, chunks, targets = {h5py.h5o.get_info(file.id).addr}, [], []

    def visit(name: str, thing: Any) -> None:
        headers.add(h5py.h5o.get_info(thing.id).addr)
        if not isinstance(thing, h5py.Dataset):
            return
        if len(thing.shape or ()) >= 3 and thing.dtype.kind in "iuf":
            targets.append(name)
        settings = thing.id.get_create_plist()
        filters = tuple(settings.get_filter(index)[0] for index in range(settings.get_nfilters()))
        if thing.chunks:
            for number in range(thing.id.get_num_chunks()):
                info = thing.id.get_chunk_info(number)
                chunks.append(Chunk(name, info.chunk_offset, info.byte_offset, info.size, filters))
        elif offset := thing.id.get_offset():
            chunks.append(Chunk(name, (), offset, thing.id.get_storage_size(), ()))

    file.visititems(visit)
    return headers, chunks, targets


def _signed(data: bytes, base: int) -> Iterator[Block]:
    """Yield structures that begin with a signature."""
    version = data[base + 8]
    widths = SUPERBLOCKS[version and 2]
    stop = base + 8 + sum(widths)
    fields = tuple(_fields(widths, base + 8, stop))
    yield Block("superblock", base, stop + (4 if version else 0), fields, stop if version else None)
    for match in re.finditer(b"OHDR\x02", data):
        block, further = _new_header(data, base, match.start())
        if block:
            yield block
        while further:
            start, length, flags = further.pop()
            stop = start + length
            if data[start : start + 4] == b"OCHK":
                fields, more = _messages(data, base, start + 4, stop - 4, flags)
                further += [(*where, flags) for where in more]
                yield Block("OCHK", start, stop, fields, stop - 4)
    names = "|".join(name for name in STRUCTURES if name != "OCHK").encode()
    for match in re.finditer(b"(?:" + names + rb")[\0-\5]", data):
        start, kind = match.start(), match[0][:4].decode()
        checksum: int | None = None
        end: int | None = None
        if kind == "FHDB":
            checksum, end = _heap_block(data, start)
        elif kind not in ("TREE", "SNOD", "HEAP", "GCOL"):
            rest = data[start : start + MOST]
            found = checksummed_length(rest, SHORT) or checksummed_length(rest, MOST)
            if found is not None:
                checksum, end = start + found, start + found + 4
        stop = end or min(start + 300, len(data))
        fields = tuple(_fields(STRUCTURES[kind], start + 4, stop if kind == "FHDB" else checksum or stop))
        yield Block(kind, start, stop, fields, checksum)


def _heap_block(data: bytes, start: int) -> tuple[int | None, int | None]:
    """Return where the checksum of a direct block of a fractal heap is, and where the block ends."""
    for checksum in range(start + 14, start + 22):  # the block's offset in the heap is 1 to 8 bytes wide
        block = data[start:checksum] + bytes(4) + data[checksum + 4 : start + SIZES[-1]]
        for size, found in zip(SIZES, lookup3(block, SIZES), strict=True):
            if found.tobytes() == data[checksum : checksum + 4]:
                return checksum, start + size
    return None, None


def header_stop(data: bytes | bytearray, start: int) -> tuple[int, int]:
    """Return where the messages of a header OHDR begin, and where its checksum is."""
    flags = data[start + 5]
    at = start + 6 + (16 if flags & 0x20 else 0) + (4 if flags & 0x10 else 0)
    width = 1 << (flags & 3)
    size = int.from_bytes(data[at : at + width], "little")
    return at + width, at + width + size


def _new_header(data: bytes, base: int, start: int) -> tuple[Block | None, list[tuple[int, int, int]]]:
    """Return a header OHDR, and where it is continued: address, length, the header's flags."""
    at, stop = header_stop(data, start)
    if stop + 4 > len(data):
        return None, []
    fields, further = _messages(data, base, at, stop, data[start + 5])
    width = 1 << (data[start + 5] & 3)
    head: tuple[Field, ...] = ((start + 4, 1), (start + 5, 1), (at - width, width))
    return Block("OHDR", start, stop + 4, head + fields, stop), [
        (*where, data[start + 5]) for where in further
    ]


def _old_header(data: bytes, base: int, start: int) -> Iterator[Block]:
    """Yield an object header of version 1, and what continues it."""
    head: tuple[Field, ...] = ((start, 1), (start + 2, 2), (start + 4, 4), (start + 8, 4))
    todo = [(start + 16, int.from_bytes(data[start + 8 : start + 12], "little"))]
    while todo:
        at, length = todo.pop()
        fields, further = _messages(data, base, at, at + length, None)
        yield Block("header 1", at if at != start + 16 else start, at + length, head + fields, None)
        head = ()
        todo += further


def _messages(
    data: bytes, base: int, at: int, stop: int, flags: int | None
) -> tuple[tuple[Field, ...], list[tuple[int, int]]]:
    """Return the fields of the messages in a part of an object header, and where it is continued.

    `flags`: of a header of version 2; None for one of version 1.
    """
    fields: list[Field] = []
    further = []
    head = 8 if flags is None else 4 + (2 if flags & 4 else 0)
    wide = 2 if flags is None else 1
    while at + head <= stop:
        kind = int.from_bytes(data[at : at + wide], "little")
        size = int.from_bytes(data[at + wide : at + wide + 2], "little")
        fields += [(at, wide), (at + wide, 2), (at + wide + 2, 1)]
        body = at + head
        fields += _fields(MESSAGES.get(kind, (1,)), body, min(body + size, stop))
        if kind == CONTINUATION:
            where, length = (int.from_bytes(data[body + i : body + i + 8], "little") for i in (0, 8))
            further.append((base + where, length))
        at = body + size
    return tuple(fields), further


def _fields(widths: tuple[int, ...], at: int, stop: int) -> Iterator[Field]:
    for width in chain(widths, cycle(widths[-1:])):
        if at + width > stop:
            return
        yield at, width
        at += width
