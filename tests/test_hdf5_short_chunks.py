"""A chunk that decodes to less than a chunk is an error: HDF5 gives whatever lies behind it in memory."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from conftest import Gn, Shell

hdf5plugin = pytest.importorskip("hdf5plugin")

SHAPE, SMALL = (2, 4, 64, 64), (2, 4, 6, 5)
X = np.random.default_rng(0).standard_normal(SHAPE).astype("f4")
SHORT = np.zeros(50, "f4")
FILTERS: dict[str, dict[str, Any]] = {
    "blosc": dict(hdf5plugin.Blosc()),
    "lz4": dict(hdf5plugin.LZ4()),
    "bitshuffle": dict(hdf5plugin.Bitshuffle()),
    "zstd": dict(hdf5plugin.Zstd()),
}


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def put(shape: tuple[int, ...], stored: bytes, mask: int = 0, **how: Any) -> None:
    """f.h5::/d, whose second chunk is `stored`."""
    with h5py.File("f.h5", "w") as file:
        dataset = file.create_dataset("d", data=np.resize(X, shape), chunks=(1, *shape[1:]), **how)
        dataset.id.write_direct_chunk((1, 0, 0, 0), stored, mask)


def chunk_of(values: np.ndarray, **how: Any) -> tuple[bytes, int]:
    """What a filter makes of the values, which are one chunk, and the filter mask."""
    with h5py.File("other.h5", "w") as file:
        dataset = file.create_dataset("d", data=values, chunks=values.shape, **how)
        dataset.flush()
        mask, stored = dataset.id.read_direct_chunk((0,) * values.ndim)
        return stored, mask


def check(gn: Gn) -> None:
    for command, code in (("stats", 1), ("normalize -g 2 -n", 1), ("diff f.h5::/d", 2)):
        done = gn(*command.split(), "f.h5::/d", code=code)
        assert done.stdout == ""
        assert done.stderr.startswith("gn: error: f.h5::/d: cannot be read: the chunk at (1, 0, 0, 0) ")
        assert done.stderr.endswith("; the file is damaged\n")
        assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("shape", [SHAPE, SMALL])
@pytest.mark.parametrize(
    ("stored", "how"),
    [
        (bytes(100), {}),
        (zlib.compress(bytes(100)), {"compression": "gzip"}),
        (zlib.compress(bytes(100)), {"compression": "gzip", "shuffle": True}),
        (zlib.compress(X[1].tobytes())[:-9], {"compression": "gzip"}),
        (bytes(96) + b"\0\0\0\0", {"fletcher32": True}),
        (b"", {"compression": "gzip"}),
    ],
    ids=["plain", "gzip", "shuffle and gzip", "cut off", "fletcher32", "nothing"],
)
def test_chunks_that_gn_decodes(gn: Gn, shape: tuple[int, ...], stored: bytes, how: dict[str, Any]) -> None:
    if stored == b"":
        stored = b"\0"
    put(shape, stored, **how)
    check(gn)


def test_chunks_beside_edges_that_were_never_written(gn: Gn) -> None:
    with h5py.File("f.h5", "w") as file:
        dataset = file.create_dataset("d", (2, 4, 16, 20), "f4", chunks=(1, 4, 16, 8), compression="gzip")
        dataset[0, :, :, :8] = 1.0
        dataset.id.write_direct_chunk((1, 0, 0, 0), zlib.compress(bytes(100)))
    check(gn)


@pytest.mark.parametrize("shape", [SHAPE, SMALL])
@pytest.mark.parametrize("name", FILTERS)
def test_chunks_that_hdf5_decodes(gn: Gn, shape: tuple[int, ...], name: str) -> None:
    how = FILTERS[name]
    put(shape, *chunk_of(SHORT, **how), **how)
    check(gn)
    put(shape, *chunk_of(np.resize(X, shape)[1:], **how), **how)  # a whole one is read
    assert gn("stats", "f.h5::/d", "-q").stderr == ""


CUT: dict[str, dict[str, Any]] = {
    **{name: how for name, how in FILTERS.items() if name != "zstd"},  # which knows where its input ends
    "lz4 in blocks": dict(hdf5plugin.LZ4(nbytes=1000)),
    "scaleoffset": {"scaleoffset": 2},
}


@pytest.mark.parametrize("name", CUT)
def test_a_chunk_that_is_cut_off(gn: Gn, name: str) -> None:
    """The filter would read what lies behind it in memory."""
    stored, mask = chunk_of(X[1:], **CUT[name])
    assert mask == 0
    put(SHAPE, stored, **CUT[name])
    assert gn("stats", "f.h5::/d", "-q").stderr == ""
    put(SHAPE, stored[: len(stored) // 2], **CUT[name])
    check(gn)


def test_a_chunk_of_few_bits_that_is_cut_off(gn: Gn) -> None:
    settings = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    settings.set_chunk((1, *SHAPE[1:]))
    settings.set_filter(h5py.h5z.FILTER_NBIT, 0, ())
    kind = h5py.h5t.STD_I16LE.copy()
    kind.set_precision(11)
    with h5py.File("f.h5", "w") as file:
        space = h5py.h5s.create_simple(SHAPE)
        dataset = h5py.h5d.create(file.id, b"d", kind, space, settings)
        dataset.write(space, space, (X * 100).astype("i2"))
    assert gn("stats", "f.h5::/d", "-q").stderr == ""
    with h5py.File("f.h5", "r+") as file:
        mask, stored = file["d"].id.read_direct_chunk((1, 0, 0, 0))
        file["d"].id.write_direct_chunk((1, 0, 0, 0), stored[:1000], mask)
    check(gn)


@pytest.mark.parametrize("name", [*CUT, "zstd"])
def test_whole_chunks_of_all_lengths(gn: Gn, name: str) -> None:
    how = {**FILTERS, **CUT}[name]
    with h5py.File("f.h5", "w") as file:
        for size in (1, 7, 8, 9, 63, 64, 65, 128, 256, 1000, 1027, 4099):
            file.create_dataset(f"random {size}", data=X.flat[:size], chunks=(size,), **how)
            file.create_dataset(f"same {size}", data=np.ones(size, "i2"), chunks=(size,), **how)
    assert gn("stats", "f.h5", "-q").stderr == ""


@pytest.mark.parametrize("name", FILTERS)
def test_a_chunk_that_is_stored_unfiltered(gn: Gn, name: str) -> None:
    put(SHAPE, bytes(100), mask=1, **FILTERS[name])
    check(gn)
    put(SHAPE, X[1].tobytes(), mask=1, **FILTERS[name])
    assert gn("stats", "f.h5::/d", "-q").stderr == ""


def test_the_same_in_a_process(shell: Shell) -> None:
    put(SHAPE, zlib.compress(bytes(100)), compression="gzip")
    first, second = (shell("$gn stats f.h5 --format tsv", code=1) for _ in range(2))
    assert first.stdout == second.stdout == ""
    assert "does not decode to a whole chunk" in first.stderr
