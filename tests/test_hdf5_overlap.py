"""Damaged files whose values lie over other things: what would be written to one place is lost in another."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from arrays import normal
from conftest import Gn

X = normal(2, 4, 64, 64)  # chunks large enough for gn to write them by position, or raw
WAYS: dict[str, dict[str, Any]] = {
    "by position": {"chunks": (1, 4, 64, 64)},
    "by HDF5": {"chunks": (1, 2, 33, 64)},
    "raw": {"chunks": (1, 4, 64, 64), "compression": "gzip", "shuffle": True},
}


def damage(how: dict[str, Any], address: int | None) -> None:
    """Make f.h5, whose second chunk is at `address`, or (None) where the first one is."""
    with h5py.File("f.h5", "w") as file:
        chunks = file.create_dataset("x", data=X, **how).id
        file.flush()
        first, second = (chunks.get_chunk_info(number).byte_offset for number in (0, 1))
    data = Path("f.h5").read_bytes()
    old, new = (number.to_bytes(8, "little") for number in (second, first if address is None else address))
    assert data.count(old) == 1
    Path("f.h5").write_bytes(data.replace(old, new))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("address", [None, 8], ids=["another chunk", "the superblock"])
@pytest.mark.parametrize("output", ["o.h5", "f.h5::/x"])
def test_values_that_lie_over_others(
    way: str, address: int | None, output: str, gn: Gn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    damage(WAYS[way], address)
    before = Path("f.h5").read_bytes()
    done = gn("normalize", "f.h5::/x", "-g", "2", "-q", "-f", "-o", output, code=1)
    assert done.stderr.startswith("gn: error: ")
    assert "cannot be written: " in done.stderr
    assert done.stderr.count("\n") == 1
    assert os.listdir() == ["f.h5"]
    assert Path("f.h5").read_bytes() == before


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_sound_ones(way: str, dtype: str, gn: Gn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with h5py.File("f.h5", "w", userblock_size=512) as file:
        file.create_dataset("x", data=X, **WAYS[way])
    gn("normalize", "f.h5::/x", "-g", "2", "-q", "-f", "-o", "f.h5::/x", "--dtype", dtype)
    with h5py.File("f.h5") as file:
        assert np.isfinite(file["x"][()]).all()
