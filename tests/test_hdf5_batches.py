"""Small chunks are read many at a time, with the values that h5py reads one by one."""

from __future__ import annotations

import zlib
from contextlib import closing
from itertools import product
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from gncli.errors import FormatError
from gncli.tensors import hdf5_batches
from gncli.tensors.hdf5 import Hdf5Source
from gncli.tensors.hdf5_places import read_at

SHAPE = (5, 6, 33, 20)
X = np.random.default_rng(0).integers(0, 1000, SHAPE)
GZIP: dict[str, Any] = {"compression": "gzip", "compression_opts": 1}
FILTERS: dict[str, dict[str, Any]] = {
    "gzip": GZIP,
    "shuffle": {"shuffle": True},
    "shuffle and gzip": {"shuffle": True, **GZIP},
    "all": {"shuffle": True, "fletcher32": True, **GZIP},
    "fletcher32": {"fletcher32": True},
}


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def make(chunks: tuple[int, ...], dtype: str = "f4", **how: Any) -> np.ndarray:
    """f.h5::/x, in which every fifth chunk is not written, but for those that reach beyond the shape."""
    with h5py.File("f.h5", "w") as file:
        dataset = file.create_dataset("x", SHAPE, dtype, chunks=chunks, fillvalue=7, **how)
        starts = product(*(range(0, length, step) for length, step in zip(SHAPE, chunks, strict=True)))
        for number, start in enumerate(starts):
            stop = [s + step for s, step in zip(start, chunks, strict=True)]
            if number % 5 != 3 or any(s > length for s, length in zip(stop, SHAPE, strict=True)):
                part = tuple(slice(*span) for span in zip(start, stop, strict=True))
                dataset[part] = X[part]
        values: np.ndarray = dataset[()]
    return values


def check(wanted: np.ndarray) -> None:
    """Boxes that have chunks whole, in part, or both; and runs of elements."""
    with closing(Hdf5Source("f.h5", "/x")) as source:
        assert source.raw or source.dataset.compression is None  # HDF5 reads: an edge may be unfiltered
        starts = [(0, 0, 0, 0), (1, 2, 3, 4), (0, 3, 32, 0), (4, 5, 7, 11)]
        for start, stop in product(starts, [SHAPE, (5, 6, 33, 12), (2, 6, 33, 20)]):
            box = tuple(zip(start, stop, strict=True))
            if all(low < high for low, high in box):
                part = wanted[tuple(slice(*span) for span in box)]
                got = source.read_box(box, np.empty(part.size, source.dtype))
                np.testing.assert_array_equal(got, part.ravel())
        for run in [(0, X.size), (17, 4000), (X.size - 1500, 1500), (660, 1)]:
            got = source.read([run, (3, 5)], np.empty(run[1] + 5, source.dtype))
            flat = wanted.ravel()
            np.testing.assert_array_equal(got, np.append(flat[run[0] : sum(run)], flat[3:8]))


@pytest.mark.parametrize("filters", FILTERS)
@pytest.mark.parametrize("chunks", [(1, 1, 8, 20), (2, 4, 7, 3), (1, 1, 1, 4), (5, 6, 33, 4), (1, 6, 11, 20)])
def test_whatever_the_chunks(chunks: tuple[int, ...], filters: str) -> None:
    check(make(chunks, **FILTERS[filters]))


@pytest.mark.parametrize("dtype", ["i1", ">i2", "<f2", ">f8", "u8"])
def test_whatever_the_dtype(dtype: str) -> None:
    check(make((1, 3, 11, 10), dtype, **FILTERS["all"]))


def test_some_chunks_were_stored_unfiltered() -> None:
    wanted = make((1, 1, 33, 20), **FILTERS["shuffle and gzip"])
    with h5py.File("f.h5", "r+") as file:
        plain = np.arange(660, dtype="f4").reshape(33, 20)
        file["x"].id.write_direct_chunk((1, 4, 0, 0), plain.tobytes(), 3)
        shuffled = np.frombuffer(plain.tobytes(), np.uint8).reshape(660, 4).T.tobytes()
        file["x"].id.write_direct_chunk((3, 4, 0, 0), shuffled, 2)
    wanted[1, 4] = wanted[3, 4] = plain
    check(wanted)


def test_rank_32() -> None:
    shape = (1,) * 28 + (3, 4, 5, 6)
    with h5py.File("f.h5", "w") as file:
        file.create_dataset("x", data=X[0, 0].ravel()[:360].reshape(shape), chunks=(1,) * 30 + (2, 6), **GZIP)
    with closing(Hdf5Source("f.h5", "/x")) as source:
        got = source.read([(0, 360)], np.empty(360, source.dtype))
    np.testing.assert_array_equal(got, X[0, 0].ravel()[:360])


def test_neighbours_in_the_file_are_read_in_one_call(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = make((1, 1, 3, 20), **GZIP)
    calls = []

    def counted(*arguments: Any) -> None:
        calls.append(arguments)
        read_at(*arguments)

    monkeypatch.setattr(hdf5_batches, "read_at", counted)
    check(wanted)
    assert calls
    calls.clear()
    with closing(Hdf5Source("f.h5", "/x")) as source:
        source.read([(0, X.size)], np.empty(X.size, source.dtype))
    assert 0 < len(calls) < 30  # of 330 chunks


@pytest.mark.parametrize(
    "stored",
    [
        zlib.compress(bytes(100)),
        zlib.compress(bytes(100_000)),
        zlib.compress(bytes(640))[:-3],
        b"\0",
        zlib.compress(bytes(30_000_000), 9),
    ],
    ids=["short", "long", "cut off", "no stream", "far too large"],
)
def test_a_damaged_chunk_is_named(stored: bytes) -> None:
    make((1, 1, 8, 20), **GZIP)
    with h5py.File("f.h5", "r+") as file:
        file["x"].id.write_direct_chunk((1, 3, 16, 0), stored)
    with closing(Hdf5Source("f.h5", "/x")) as source:
        with pytest.raises(FormatError, match=r"the chunk at \(1, 3, 16, 0\) does not decode to a whole"):
            source.read([(0, X.size)], np.empty(X.size, source.dtype))
        source.read([(0, 660)], np.empty(660, source.dtype))  # others are read
