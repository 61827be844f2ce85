"""MAT-files of version 7.3: what gn makes of an .npy, and of another one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from arrays import normal
from conftest import Gn


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(("dtype", "name"), [("f4", "single"), ("f8", "double"), ("f2", None)])
@pytest.mark.parametrize("order", ["C", "F"])
def test_an_npy_becomes_a_mat_file(gn: Gn, dtype: str, name: str | None, order: Any) -> None:
    """HDF5 has the shape of the .npy; MATLAB, which counts axes from the other end, has it reversed."""
    np.save("x.npy", normal(2, 4, 30).astype(dtype).copy(order))
    gn("normalize", "x.npy", "-g", 2, "-q")
    gn("normalize", "x.npy", "-g", 2, "-q", "-o", "x.mat")
    want = np.load("x.gn.npy")
    start = Path("x.mat").read_bytes()[:128]
    assert start.startswith(b"MATLAB 7.3 MAT-file")
    assert start[124:] == b"\x00\x02IM"
    with h5py.File("x.mat") as file:
        assert file.userblock_size == 512
        np.testing.assert_array_equal(file["x"], want, strict=True)
        assert file["x"].attrs.get("MATLAB_class") == (name and name.encode())
    gn("diff", "x.mat::/x", "x.gn.npy", "-q")
    if name:
        mat73 = pytest.importorskip("mat73")
        np.testing.assert_array_equal(mat73.loadmat("x.mat")["x"], want.T, strict=True)


def test_a_mat_file_stays_one(gn: Gn) -> None:
    np.save("x.npy", normal(2, 4, 30))
    gn("normalize", "x.npy", "-g", 2, "-q", "-o", "x.mat")
    gn("normalize", "x.mat", "-g", 4, "-q")
    gn("normalize", "x.mat", "-g", 4, "-q", "-o", "y.npy")
    assert Path("x.gn.mat").read_bytes()[:512] == Path("x.mat").read_bytes()[:512]
    with h5py.File("x.gn.mat") as file:
        np.testing.assert_array_equal(file["x"], np.load("y.npy"), strict=True)
