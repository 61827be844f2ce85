"""HDF5 numbers that stand for others, by attributes of netCDF and CF: decoded as netCDF4-python does.

The library brings another libhdf5, so it reads and writes in processes of its own.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from conftest import Gn
from numpy.typing import NDArray
from oracle import group_norm_exact

from gncli.tensors.decoding import DEFAULT_FILL, decoding_of
from gncli.tensors.hdf5 import Hdf5Source

SHAPE = (2, 4, 6, 7)
RANDOM = np.random.default_rng(0)
REMOVED = (
    *("scale_factor", "add_offset", "_FillValue", "missing_value", "valid_min", "valid_max", "valid_range"),
    *("_Unsigned", "actual_range", "dtype", "MATLAB_int_decode"),
)


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def python(program: str, *words: str) -> str:
    command = [sys.executable, "-W", "ignore", "-c", program, *words]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def stored(dtype: str, **attributes: Any) -> NDArray[Any]:
    """/x of f.h5: some numbers of that dtype, small and at its ends, with these attributes."""
    kind = np.dtype(dtype)
    x = RANDOM.integers(0, 100, SHAPE).astype(kind)
    if kind.kind in "iu":
        x.reshape(-1)[:4] = np.iinfo(kind).min, np.iinfo(kind).max, np.iinfo(kind).min + 1, 99
    with h5py.File("f.h5", "w") as file:
        file["x"] = x
        file["x"].attrs.update(attributes)
    return x


def decoded(name: str = "/x") -> NDArray[Any]:
    source = Hdf5Source("f.h5", name)
    size = int(np.prod(source.shape))
    values = source.read([(0, size)], np.empty(size, source.dtype)).reshape(source.shape)
    source.close()
    return values


def record(gn: Gn, *words: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(gn(*words, "--format", "json").stdout)
    return found


def masked_mean(x: NDArray[Any], groups: int) -> NDArray[np.float64]:
    """Group norm over what is not NaN, from numpy's float64."""
    view = x.astype(np.float64).reshape(x.shape[0], groups, -1)
    mean, var = np.nanmean(view, 2, keepdims=True), np.nanvar(view, 2, keepdims=True)
    return ((view - mean) / np.sqrt(var + 1e-5)).reshape(x.shape)


READ = """
import sys, netCDF4, numpy as np
with netCDF4.Dataset(sys.argv[1]) as file:
    for name, v in file.variables.items():
        values = v[:]
        np.savez(name, values=np.ma.getdata(values), mask=np.ma.getmaskarray(values))
"""
F4, F8 = np.float32, np.float64
PACKINGS: list[tuple[str, dict[str, Any]]] = [
    ("i2", {"scale_factor": 0.01, "add_offset": 273.15}),
    ("i2", {"scale_factor": F4(0.01), "add_offset": F4(273.15)}),
    ("i2", {"scale_factor": F4(0.01), "add_offset": 273.15}),
    ("i2", {"scale_factor": 0.01, "add_offset": F4(273.15)}),
    ("i2", {"scale_factor": F4(0.1)}),
    ("u1", {"add_offset": F4(0.1)}),
    ("i4", {"scale_factor": F4(0.1), "add_offset": F4(0.3)}),
    ("u4", {"add_offset": F4(0.3)}),
    ("i8", {"scale_factor": F4(0.1)}),
    ("f4", {"scale_factor": 0.1, "add_offset": 7.0}),
    ("f4", {"scale_factor": F4(0.1), "_FillValue": F4(5)}),
    ("f8", {"scale_factor": F4(0.1), "valid_max": 50.0}),
    ("i1", {"_Unsigned": "true", "scale_factor": 0.5, "_FillValue": np.int8(-1)}),
    ("i2", {"_Unsigned": "true", "valid_range": np.array([3, -5], "i2")}),
    ("i2", {"_Unsigned": "false", "scale_factor": 0.5}),
    ("u2", {"_FillValue": np.uint16(65535), "missing_value": np.array([1, 2, 99], "i4")}),
    ("i2", {"missing_value": 1e20, "scale_factor": 0.5}),
    ("i2", {"missing_value": 7.0, "valid_min": 3.0, "valid_max": 275.5, "scale_factor": 0.5}),
    ("i2", {"valid_range": np.array([3, 90], "i2"), "valid_min": np.int16(50)}),
    ("i2", {"valid_range": np.array([3, 90, 95], "i2"), "valid_max": np.int16(50)}),
    ("f4", {"missing_value": F4(np.nan), "_FillValue": F4(9)}),
    ("f4", {"_FillValue": F4(np.nan), "valid_min": F4(4)}),
    ("i2", {"scale_factor": np.array([0.1, 0.2]), "add_offset": 1.0}),
    ("i4", {"scale_factor": 1.0, "add_offset": 0.0}),
    *((code, {}) for code in DEFAULT_FILL),
]
WRITE = """
import pickle, sys, netCDF4, numpy as np
with netCDF4.Dataset("f.nc", "w") as file:
    for axis, length in zip("tcyx", (2, 4, 6, 7)):
        file.createDimension(axis, length)
    for name, (code, attributes, x) in pickle.load(open("given", "rb")).items():
        fill = attributes.pop("_FillValue", None)
        v = file.createVariable(name, code, tuple("tcyx"), fill_value=fill)
        v.setncatts(attributes)
        v.set_auto_maskandscale(False)
        v[:] = x
"""


def test_netcdf4_python_decodes_alike(gn: Gn) -> None:
    """Values, masks and dtypes of all packings, default fill values and those of a wrong type included."""
    pytest.importorskip("netCDF4")
    import pickle

    given = {}
    for number, (code, attributes) in enumerate(PACKINGS):
        x = stored(code)
        x.reshape(-1)[10:12] = DEFAULT_FILL[code]
        if code[0] == "f":
            x.reshape(-1)[12:15] = np.nan, np.inf, -1
        given[f"v{number}"] = (code, attributes, x)
    Path("given").write_bytes(pickle.dumps(given))
    python(WRITE)
    python(READ, "f.nc")
    Path("f.nc").rename("f.h5")
    for name in given:
        values, found = np.load(f"{name}.npz"), decoded(f"/{name}")
        mask, wanted = values["mask"], values["values"]
        other = np.isnan(found) & np.signbit(found)
        assert np.array_equal(np.isnan(found) & ~other, mask), (name, given[name][:2])
        assert np.array_equal(other, np.isnan(wanted) & ~mask), (name, given[name][:2])
        some = ~np.isnan(found)
        assert np.array_equal(found[some], wanted[some].astype(found.dtype)), (name, given[name][:2])
        if wanted.dtype.kind == "f":
            assert found.dtype == wanted.dtype, (name, given[name][:2])
        one = record(gn, "stats", f"f.h5::/{name}")
        assert one["count"] == np.count_nonzero(~mask), (name, given[name][:2])
        assert one["nan"] == np.count_nonzero(other)
        said = one["decoded"]
        assert (said["missing"] if said else 0) == np.count_nonzero(mask)


def test_xarray_decodes_alike() -> None:
    """Values and dtypes, where xarray knows the attributes: not limits, and several missing values."""
    xarray = pytest.importorskip("xarray")
    pytest.importorskip("netCDF4")
    import pickle

    taken = [
        (code, attributes)
        for code, attributes in PACKINGS
        if attributes and not {"valid_range", "valid_min", "valid_max", "missing_value"} & {*attributes}
        and np.size(attributes.get("scale_factor", 0)) == 1 and (code, "_Unsigned") != ("i2", "false")
        and not (code == "i8")
    ]
    given = {f"v{n}": (code, dict(attributes), stored(code)) for n, (code, attributes) in enumerate(taken)}
    Path("given").write_bytes(pickle.dumps(given))
    python(WRITE)
    program = """
import xarray, numpy as np
for name, v in xarray.open_dataset("f.nc").data_vars.items():
    np.save(name, v.values)
"""
    python(program)
    Path("f.nc").rename("f.h5")
    for name, (code, attributes, _) in given.items():
        found, wanted = decoded(f"/{name}"), np.load(f"{name}.npy")
        if len({np.dtype(type(v)) for k, v in attributes.items() if k[0] != "_"}) == 1:
            assert found.dtype == wanted.dtype, (code, attributes)
        if "_FillValue" not in attributes:  # nor does it know netCDF's own fill value
            wanted = np.where(np.isnan(found), np.nan, wanted)
        assert np.allclose(found, wanted, rtol=2e-7, equal_nan=True), (code, attributes)
    assert xarray.__version__
