"""Mutants of sound HDF5 files: damage that keeps to the structure, and leaves checksums valid."""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import h5py

from fuzz.anatomy import Anatomy, Block, Chunk, anatomy, header_stop
from fuzz.checksums import fletcher32, lookup3
from fuzz.seeds import make_seeds

DEFLATE, FLETCHER32 = h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_FLETCHER32
HEADERS = {"OHDR", "OCHK", "header 1"}
CONTENTS = 40  # bytes that are mostly flipped in a chunk: headers of compressed streams are there


class Seed(NamedTuple):
    name: str
    data: bytes
    anatomy: Anatomy


class Mutant(NamedTuple):
    """The mutant of a number: its bytes, the sound file's, what was done, and the dataset to try."""

    seed: str
    data: bytes
    sound: bytes
    done: tuple[str, ...]
    target: str


def make(folder: Path) -> list[Seed]:
    return [Seed(path.stem, path.read_bytes(), anatomy(path)) for path in make_seeds(folder)]


def mutant(seeds: list[Seed], seed: int, number: int) -> Mutant:
    """Return a mutant, the same for the same numbers (and the same version of HDF5)."""
    chance = random.Random(f"{seed}.{number}")
    of = chance.choice(seeds)
    file = _File(of, chance)
    wanted = chance.choice([1, 1, 1, 2, 3])
    while len(file.done) < wanted or file.data == of.data:
        (change,) = chance.choices([*WEIGHTS], [*WEIGHTS.values()])
        file.done += filter(None, [change(file)])
    if chance.random() < 0.9:
        file.seal()
    return Mutant(of.name, bytes(file.data), of.data, tuple(file.done), chance.choice(of.anatomy.targets))


class _File:
    """A file on its way to a mutant."""

    def __init__(self, seed: Seed, chance: random.Random) -> None:
        self.data = bytearray(seed.data)
        self.parts = seed.anatomy
        self.chance = chance
        self.done: list[str] = []
        self.touched: set[Block] = set()
        self.summed: set[Chunk] = set()

    def block(self) -> Block:
        """Return one of the structures: of each kind as often, and of object headers half the time."""
        kinds = sorted({block.kind for block in self.parts.blocks})
        headers = [kind for kind in kinds if kind in HEADERS]
        kind = self.chance.choice(headers if self.chance.random() < 0.5 else kinds)
        found = self.chance.choice([block for block in self.parts.blocks if block.kind == kind])
        self.touched.add(found)
        return found

    def put(self, at: int, width: int, value: int) -> None:
        if at + width <= len(self.data):
            self.data[at : at + width] = (value % 256**width).to_bytes(width, "little")

    def get(self, at: int, width: int) -> int:
        return int.from_bytes(self.data[at : at + width], "little")

    def seal(self) -> None:
        """Make the checksums valid again."""
        for chunk in self.summed:
            stop = chunk.start + chunk.size
            if stop <= len(self.data):
                self.data[stop - 4 : stop] = fletcher32(bytes(self.data[chunk.start : stop - 4]))
        for block in sorted(self.touched):
            at = block.checksum
            if at is None or block.stop > len(self.data):
                continue
            if block.kind == "OHDR":  # as long as it says now
                at = header_stop(self.data, block.start)[1]
            if at + 4 > len(self.data):
                continue
            self.put(at, 4, 0)
            stop = block.stop if block.kind == "FHDB" else at
            self.put(at, 4, int(lookup3(bytes(self.data[block.start : stop]), [stop - block.start])[0]))


def _set_field(file: _File) -> str:
    """Give a field of a structure a value at an edge."""
    block = file.block()
    at, width = file.chance.choice(block.fields)
    value, top = file.get(at, width), 256**width
    edges = [0, 1, 2, 7, 8, 31, 32, 33, value + 1, value - 1, 2 * value, value ^ 0x80, top // 2 - 1, top // 2]
    edges += [top - 1, top - 2, value ^ (1 << file.chance.randrange(8 * width)), file.chance.randrange(top)]
    if width == 8:
        edges += [len(file.data), len(file.data) - 1, file.chance.choice(file.parts.addresses)] * 2
    new = file.chance.choice([edge % top for edge in edges if edge % top != value])
    file.put(at, width, new)
    return f"{block.kind} at {block.start}: the {width} bytes at {at} from {value} to {new}"


def _exchange(file: _File) -> str:
    """Have an address lead to another structure."""
    known = set(file.parts.addresses)
    fields = [
        (block, at)
        for block in file.parts.blocks
        for at in range(block.start, min(block.stop, len(file.data)) - 7)
        if file.get(at, 8) in known
    ]
    if not fields:
        return ""
    block, at = file.chance.choice(fields)
    other = file.chance.choice(sorted(known))
    file.touched.add(block)
    file.put(at, 8, other)
    return f"{block.kind} at {block.start}: the address at {at} to {other}"


def _flip(file: _File) -> str:
    """Change bytes of a structure."""
    block = file.block()
    places = [file.chance.randrange(block.start, block.stop) for _ in range(file.chance.choice([1, 2, 8]))]
    for at in places:
        file.put(at, 1, file.chance.randrange(256))
    return f"{block.kind} at {block.start}: the bytes at {places}"


def _chunk(file: _File) -> Chunk | None:
    """Return a chunk, of each dataset as often."""
    if not file.parts.chunks:
        return None
    dataset = file.chance.choice(sorted({chunk.dataset for chunk in file.parts.chunks}))
    return file.chance.choice([chunk for chunk in file.parts.chunks if chunk.dataset == dataset])


def _damage_chunk(file: _File) -> str:
    """Change bytes of a chunk, or make it end in zeros."""
    chunk = _chunk(file)
    if chunk is None or not chunk.size:
        return ""
    length = chunk.size if file.chance.random() < 0.3 else min(chunk.size, CONTENTS)
    if file.chance.random() < 0.2:
        file.data[chunk.start + length // 2 : chunk.start + chunk.size] = bytes(chunk.size - length // 2)
    else:
        for _ in range(file.chance.choice([1, 1, 2, 8])):
            at = chunk.start + file.chance.randrange(length)
            file.put(at, 1, file.chance.choice([0, 1, 127, 128, 255, file.chance.randrange(256)]))
    if chunk.filters[-1:] == (FLETCHER32,):
        file.summed.add(chunk)
    return f"a chunk of {chunk.dataset} at {chunk.start}"


def _store_chunk(file: _File) -> str:
    """Store a chunk of another length, or one that decodes to another length.

    HDF5 does this, so that it has to be the first change.
    """
    chunk = _chunk(file)
    if chunk is None or not chunk.offset or file.done:
        return ""
    stored = bytes(file.data[chunk.start : chunk.start + chunk.size])
    length = file.chance.choice([0, 1, 16, 100, len(stored) - 1, len(stored) + 1, 2 * len(stored), 5000])
    if DEFLATE in chunk.filters and file.chance.random() < 0.7:
        stored = zlib.compress(bytes(length))
        if chunk.filters[-1:] == (FLETCHER32,):
            stored += fletcher32(stored)
    else:
        stored = (stored * (length // len(stored) + 1))[: max(1, length)]
    mask = file.chance.choice([0, 0, 0, 1, 0xFFFFFFFF])
    # In memory: h5py works on a copy of the sound file.
    name = b"in memory"
    access = h5py.h5p.create(h5py.h5p.FILE_ACCESS)
    access.set_fapl_core(1 << 16, False)
    access.set_file_image(bytes(file.data))
    with h5py.File(h5py.h5f.open(name, h5py.h5f.ACC_RDWR, access)) as copy:
        try:
            copy[chunk.dataset].id.write_direct_chunk(chunk.offset, stored, mask)
        except OSError:  # beyond the end of the file, where no filter lets sizes differ
            return ""
        copy.flush()
        file.data[:] = copy.id.get_file_image()
    return f"a chunk of {chunk.dataset} of {len(stored)} bytes at {chunk.offset}, mask {mask}"


def _cut(file: _File) -> str:
    """Cut off the end."""
    length = len(file.data) - 1 if file.chance.random() < 0.3 else file.chance.randrange(1, len(file.data))
    del file.data[length:]
    return f"cut to {length} bytes"


# How often each is done, of 25; each returns what it has done, or nothing where it cannot do it.
WEIGHTS: dict[Callable[[_File], str], int] = {
    _set_field: 10, _exchange: 3, _flip: 3, _damage_chunk: 5, _store_chunk: 3, _cut: 1,
}  # fmt: skip
