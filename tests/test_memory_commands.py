"""The memory of all processes of every command, seen from outside, on files that were made to take much."""

from __future__ import annotations

import json
import struct
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from arrays import rng
from test_memory import MB, folder, run

assert folder  # a fixture, which pytest finds by its name

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

LIMIT = (64 << 20) + 250 * MB


def one_chunk(path: Path) -> None:
    """400 MiB of zeros in 0.4 MB."""
    with h5py.File(path, "w") as file:
        shape = (4, 50, 1024, 512)
        x = file.create_dataset("x", shape, "f4", chunks=shape, compression="gzip")
        compressor = zlib.compressobj(1)
        parts = [compressor.compress(bytes(1 << 20)) for _ in range(400)]
        x.id.write_direct_chunk((0, 0, 0, 0), b"".join([*parts, compressor.flush()]))


def one_number(path: Path) -> None:
    """A gamma for one channel, in a chunk of 400 MiB."""
    with h5py.File(path, "w") as file:
        file.create_dataset("g", (1,), "f4", maxshape=(None,), chunks=(100 << 20,), compression="gzip")
        compressor = zlib.compressobj(1)
        parts = [compressor.compress(bytes(1 << 20)) for _ in range(400)]
        file["g"].id.write_direct_chunk((0,), b"".join([*parts, compressor.flush()]))
    np.save(path.with_name("x.npy"), np.ones((2, 1, 4), "f4"))


def large_attributes(path: Path) -> None:
    with h5py.File(path, "w", libver="latest") as file:
        x = file.create_dataset("x", data=np.ones((2, 8, 4), "f4"))
        x.attrs["units"] = "m"
        x.attrs["large"] = np.zeros(8_000_000, "f4")


def sharing_lists(path: Path, count: int, *, attribute: bool) -> None:
    """Lists of 300 kB, all of which are one in the file: written as short ones, which are then patched."""
    size, kind = 300_000, h5py.vlen_dtype(np.uint8)
    lists = np.empty(count, object)
    lists[0] = rng().integers(0, 255, size).astype("u1")
    for i in range(1, count):
        lists[i] = np.zeros(3, "u1")
    with h5py.File(path, "w") as file:
        x = file.create_dataset("x", data=np.ones((2, 8, 4), "f4"))
        if attribute:
            x.attrs.create("lists", lists, dtype=kind)
        else:
            file.create_dataset("lists", data=lists, dtype=kind)
    data = bytearray(path.read_bytes())
    long, short = struct.pack("<I", size), struct.pack("<I", 3)
    at = data.index(long)
    while data[at + 16 : at + 20] != short or data[at + 32 : at + 36] != short:
        at = data.index(long, at + 1)
    data[at : at + 16 * count] = data[at : at + 16] * count
    path.write_bytes(data)


def attribute_of_lists(path: Path) -> None:
    sharing_lists(path, 4000, attribute=True)


def dataset_of_lists(path: Path) -> None:
    sharing_lists(path, 8000, attribute=False)


def long_strings(path: Path) -> None:
    with h5py.File(path, "w") as file:
        for name in "ab":
            x = file.create_dataset(name, (5120,), "S65536", chunks=(64,), compression="gzip")
            x.id.write_direct_chunk((0,), zlib.compress(bytes(64 << 16)))
            stored = x.id.read_direct_chunk((0,))[1]
            for start in range(64, 5120, 64):
                x.id.write_direct_chunk((start,), stored)


def many_datasets(path: Path) -> None:
    space, values = h5py.h5s.create_simple((2, 2)), np.ones((2, 2), "f4")
    with h5py.File(path, "w") as file:
        for number in range(8_000):
            h5py.h5d.create(file.id, b"%d" % number, h5py.h5t.IEEE_F32LE, space).write(
                h5py.h5s.ALL, h5py.h5s.ALL, values
            )


def wide(path: Path) -> None:
    np.save(path, rng().standard_normal((8, 600_000)).astype("f4"))


def tall(path: Path) -> None:
    np.save(path, rng().standard_normal((600_000, 8)).astype("f4"))


def many_samples(path: Path) -> None:
    np.save(path, rng().standard_normal((60_000, 4)).astype("f4"))


def tall_in_fortran_order(path: Path) -> None:
    np.save(path, np.asfortranarray(rng().standard_normal((300_000, 4)).astype("f4")))


Make = Callable[[Path], None]
CASES = [
    (one_chunk, "x.h5", "diff x.h5 x.h5", 2),
    (one_chunk, "x.h5", "identify x.h5 x.h5", 2),
    (one_chunk, "x.h5", "stats x.h5", 1),
    (one_chunk, "x.h5", "normalize x.h5 -g 2 -n", 1),
    (one_chunk, "x.h5", "info x.h5", 0),
    (one_number, "g.h5", "normalize x.npy -g 1 -n --gamma g.h5::/g", 1),
    (one_number, "g.h5", "identify x.npy x.npy --gamma g.h5::/g", 2),
    (large_attributes, "x.h5", "info x.h5 --format json", 0),
    (attribute_of_lists, "x.h5", "info x.h5 --format json", 0),
    (attribute_of_lists, "x.h5", "normalize x.h5 -g 2 -q", 0),
    (dataset_of_lists, "x.h5", "diff x.h5 x.h5", 2),
    (long_strings, "x.h5", "diff x.h5::/a x.h5::/b", 0),
    (wide, "x.npy", "stats x.npy --by channel -q", 0),
    (wide, "x.npy", "identify x.npy x.npy --layout NC", 1),
    (tall, "x.npy", "diff x.npy x.npy -g 8", 0),
    (tall_in_fortran_order, "x.npy", "stats x.npy --by sample --by channel -q", 0),
]


@pytest.mark.parametrize(
    ("make", "name", "words", "code"), CASES, ids=[f"{c[0].__name__}: {c[2]}" for c in CASES]
)
def test_all_processes_together(folder: Path, make: Make, name: str, words: str, code: int) -> None:
    make(folder / name)
    _, together, report = run(folder, *words.split(), code=code)
    assert together < LIMIT
    if make in (one_chunk, one_number) and code:
        assert "a chunk takes 419430400 bytes, and --memory 67108864 is too little for it" in report
        assert report.endswith("use --memory 1677721600")


@pytest.mark.parametrize(
    ("make", "name", "words", "limit"),
    [
        pytest.param(many_datasets, "x.h5", "info x.h5 --format tsv", 130, id="many datasets"),
        pytest.param(many_samples, "x.npy", "stats x.npy --by sample", 110, id="a long table"),
    ],
)
def test_rows_are_streamed(folder: Path, make: Make, name: str, words: str, limit: int) -> None:
    """With a limit that shows it on files that are quickly made: what is held grows with the rows."""
    make(folder / name)
    _, together, report = run(folder, *words.split())
    assert together < limit * MB
    lines = report.splitlines()
    assert len(lines) > 8_000


@pytest.mark.parametrize("words", ["--by sample", "--by sample --by group -g 2", "--by channel --by sample"])
def test_rows_are_in_the_order_of_the_samples(folder: Path, words: str) -> None:
    """Also where groups come first in storage, and the rows take a temporary file."""
    x = rng().standard_normal((5, 4, 300)).astype("f4")
    np.save(folder / "c.npy", x)
    np.save(folder / "f.npy", np.asfortranarray(x))
    rows = []
    for name in ("c.npy", "f.npy"):
        _, _, report = run(folder, "stats", name, *words.split(), "--format", "tsv", "--memory", "1M")
        header, *lines = (line.split("\t") for line in report.splitlines())
        index = [header.index(one) for one in ("sample", "group", "channel", "min", "max") if one in header]
        rows.append([[line[i] for i in index] for line in lines])
    assert rows[0] == rows[1]
    assert len(rows[0]) > 4


def test_every_attribute_is_shown_that_is_not_too_large(folder: Path) -> None:
    large_attributes(folder / "x.h5")
    _, _, report = run(folder, "info", "x.h5")
    assert "@units      m" in report
    assert "@large      8000000 elements, 32 MB or more: too large to be shown" in report


def test_attributes_that_are_too_large_to_be_listed_keep_no_dataset_from_being_read(folder: Path) -> None:
    x = np.arange(48.0, dtype="f4").reshape(2, 4, 6)
    with h5py.File(folder / "x.h5", "w", libver="latest") as file:
        dataset = file.create_dataset("x", data=x)
        for number in range(20):
            dataset.attrs.create(f"a{number}", np.zeros(4 << 20, "u1"))
    _, _, report = run(folder, "stats", "x.h5", "--format", "json")
    assert json.loads(report)["mean"] == x.mean()
    _, _, report = run(folder, "info", "x.h5")
    assert "(2, 4, 6)" in report
