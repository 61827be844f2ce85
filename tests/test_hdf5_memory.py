"""The command's memory on HDF5 files, seen from outside: bounded, whatever the chunks and the filters."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from arrays import normal
from test_memory import MB, folder, run

assert folder  # a fixture, which pytest finds by its name

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

SHAPE = (24, 64, 160, 160)  # 157 MB
ALIKE = normal(1, 64, 160, 160)


def make(path: Path, **how: Any) -> None:
    """Samples that are all alike, so that chunks are filtered once, and written again and again."""
    with h5py.File(path, "w") as file:
        x = file.create_dataset("x", SHAPE, "f4", **how)
        if x.chunks is None:
            for i in range(len(x)):
                x[i] = ALIKE[0]
            return
        deep = x.chunks[0]
        x[:deep] = np.broadcast_to(ALIKE, (deep, *SHAPE[1:]))
        first: list[Any] = []
        x.id.chunk_iter(lambda chunk: first.append(chunk.chunk_offset))
        for start in first:
            mask, chunk = x.id.read_direct_chunk(start)  # what does not get smaller is not filtered
            for sample in range(deep, SHAPE[0], deep):
                x.id.write_direct_chunk((sample, *start[1:]), chunk, mask)


LZF = {"compression": "lzf"}
GZIP = {"compression": "gzip", "compression_opts": 1}


@pytest.mark.parametrize(
    ("how", "words", "limit"),
    [
        pytest.param({}, "normalize", 150, id="contiguous"),
        pytest.param({"chunks": (1, *SHAPE[1:])}, "normalize", 150, id="chunks in place"),
        pytest.param({"chunks": (1, 32, 160, 160), **GZIP}, "normalize", 200, id="gzip"),
        pytest.param({"chunks": (2, *SHAPE[1:]), **GZIP}, "normalize", 200, id="chunks of 13 MB"),
        pytest.param({"chunks": (1, *SHAPE[1:]), **LZF}, "normalize", 200, id="by HDF5 itself"),
        pytest.param(
            {"chunks": (12, 16, 40, 40), **LZF}, "stats", 150, id="by HDF5 itself, across the samples"
        ),
    ],
)
def test_peak(folder: Path, how: dict[str, Any], words: str, limit: int) -> None:
    make(folder / "x.h5", **how)
    peak, together, _ = run(folder, *words.split(), "x.h5", "-j", "2", "-q")
    assert peak < limit * MB
    assert together < limit * MB
    if words == "normalize":
        with h5py.File(folder / "x.gn.h5") as file:
            np.testing.assert_array_equal(file["x"][0], file["x"][-1])
            assert abs(float(file["x"][7, 2:4].mean(dtype="f8"))) < 1e-6
