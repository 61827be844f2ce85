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


def loaded(name: str) -> dict[str, NDArray[Any]]:
    with np.load(f"{name}.npz") as arrays:
        return dict(arrays)


def decoded(name: str = "/x") -> NDArray[Any]:
    source = Hdf5Source("f.h5", name)
    size = int(np.prod(source.shape))
    values = source.read([(0, size)], np.empty(size, source.dtype)).reshape(source.shape)
    source.close()
    return values


def record(gn: Gn, *words: str, code: int = 0) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(gn(*words, "--format", "json", code=code).stdout)
    return found


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
        values, found = loaded(name), decoded(f"/{name}")
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
        said = one.get("decoded")
        assert (said["missing"] if said else 0) == np.count_nonzero(mask)


def test_xarray_decodes_alike() -> None:
    """Values and dtypes, where xarray knows the attributes: not limits, and several missing values."""
    xarray = pytest.importorskip("xarray")
    pytest.importorskip("netCDF4")
    import pickle

    taken = [
        (code, attributes)
        for code, attributes in PACKINGS
        if attributes
        and not {"valid_range", "valid_min", "valid_max", "missing_value"} & {*attributes}
        and np.size(attributes.get("scale_factor", 0)) == 1
        and (code, "_Unsigned") != ("i2", "false")
        and code != "i8"
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
        # With an offset, xarray takes float64 unless scale and offset are of one type.
        if "add_offset" not in attributes or type(attributes.get("scale_factor")) is type(
            attributes["add_offset"]
        ):
            assert found.dtype == wanted.dtype, (code, attributes)
        if "_FillValue" not in attributes:  # nor does it know netCDF's own fill value
            wanted = np.where(np.isnan(found), np.nan, wanted)
        assert np.allclose(found, wanted, rtol=2e-7, equal_nan=True), (code, attributes)
    assert xarray.__version__


def packed(**attributes: Any) -> NDArray[np.float64]:
    """/x of f.h5, packed to int16 with some missing values and these attributes; what it stands for."""
    x = RANDOM.integers(-3000, 3000, SHAPE).astype("i2")
    missing = RANDOM.random(SHAPE) < 0.2
    x[missing] = -32768
    with h5py.File("f.h5", "w") as file:
        file.create_dataset("x", data=x, chunks=(1, 4, 6, 7), compression="gzip")
        file["x"].attrs.update(
            {"scale_factor": 0.01, "add_offset": 273.15, "_FillValue": np.int16(-32768), **attributes}
        )
    return np.where(missing, np.nan, x * 0.01 + 273.15)


def test_the_report_says_so(gn: Gn) -> None:
    x = packed(valid_max=275.5)
    missing = np.count_nonzero(np.isnan(x))
    line = f"decoded: scale_factor 0.01, add_offset 273.15; {missing} missing (_FillValue -32768)"
    line += "; ignored valid_max"
    assert line in gn("stats", "f.h5").stdout.splitlines()
    assert line in gn("normalize", "f.h5", "-g", "2").stdout.splitlines()
    one = record(gn, "stats", "f.h5")
    assert one["dtype"] == "float64"
    assert one["decoded"] == {
        "stored_dtype": "int16",
        "scale_factor": 0.01,
        "add_offset": 273.15,
        "_FillValue": -32768,
        **dict.fromkeys(("missing_value", "valid_range", "valid_min", "valid_max", "_Unsigned", "dtype")),
        "default_fill": None,
        "ignored": ["valid_max"],
        "missing": missing,
    }
    assert np.isclose(one["mean"], np.nanmean(x), rtol=1e-15)
    raw = record(gn, "stats", "f.h5", "--raw")
    assert (raw["dtype"], raw["min"], raw["count"]) == ("int16", -32768, x.size) and "decoded" not in raw
    with h5py.File("f.h5", "r+") as file:
        file["a"] = np.zeros((2, 3))
    header, *rows = (line.split("\t") for line in gn("stats", "f.h5", "--format", "tsv").stdout.splitlines())
    assert {len(row) for row in rows} == {len(header)}
    assert [row[header.index("decoded.missing")] for row in rows] == ["", str(missing)]
    assert f"f.h5::/x: {line}" in gn("stats", "f.h5").stdout.splitlines()


def test_by_part_it_says_so_once(gn: Gn) -> None:
    missing = np.count_nonzero(np.isnan(packed()))
    shown = gn("stats", "f.h5::/x", "--by", "channel").stdout
    assert shown.count("decoded") == 1 and f"; {missing} missing" in shown


def test_nothing_is_said_of_plain_data(gn: Gn) -> None:
    """9.96921e36 in a file that netCDF did not write is a number."""
    x = RANDOM.standard_normal(SHAPE).astype("f4")
    x[0, 0, 0, 0] = DEFAULT_FILL["f4"]
    with h5py.File("f.h5", "w") as file:
        file["x"] = x
        file["x"].attrs.update(note="scale_factor", valid_users="all")
    assert "decoded" not in gn("stats", "f.h5").stdout
    one = record(gn, "stats", "f.h5")
    assert (one["count"], one["max"]) == (x.size, float(x.max())) and "decoded" not in one


@pytest.mark.parametrize("raw", [(), ("--raw",)])
def test_attributes_of_the_old_values_go(raw: tuple[str, ...], gn: Gn) -> None:
    kept = {"long_name": "air", "gn_of_a_user": 3}
    x = packed(
        **kept, actual_range=np.array([1.0, 2.0]), valid_range=np.array([-3000, 3000], "i2"), units="K",
        missing_value=np.array([-32768, -32767], "i2"), _Unsigned="false", dtype="int16",
    )  # fmt: skip
    gn("normalize", "f.h5", "-g", "2", "-q", *raw)
    with h5py.File("f.gn.h5") as file:
        attributes = dict(file["x"].attrs)
        y = file["x"][()]
    assert attributes["units"] == "1" and attributes["long_name"] == "air"
    fill = attributes.pop("_FillValue", None)
    assert not {*REMOVED} & {*attributes}
    if raw:
        assert fill is None and y.dtype == np.float32 and not np.isnan(y).any()
    else:
        assert np.isnan(fill) and fill.dtype == y.dtype == np.float64
        assert np.array_equal(np.isnan(y), np.isnan(x))
    if not raw:
        assert record(gn, "stats", "f.gn.h5")["decoded"]["missing"] == np.count_nonzero(np.isnan(x))


def test_a_dtype_that_is_no_text_stays(gn: Gn) -> None:
    packed(dtype=7)
    gn("normalize", "f.h5", "-g", "2", "-q")
    with h5py.File("f.gn.h5") as file:
        assert file["x"].attrs["dtype"] == 7


@pytest.mark.parametrize("chunks", [None, (1, 4, 6, 7), (2, 4, 6, 7)])
@pytest.mark.parametrize("libver", ["earliest", "latest"])
def test_the_fill_value_is_written_only_where_values_are_missing(
    libver: str, chunks: tuple[int, ...] | None, gn: Gn
) -> None:
    """In place, by chunks, and by HDF5; for several datasets of one file."""
    x = RANDOM.standard_normal(SHAPE).astype("f4")
    with h5py.File("f.h5", "w", libver=libver) as file:
        for name in "ab":
            file.create_dataset(name, data=x, chunks=chunks)
            file[name].attrs["_FillValue"] = np.float32(1e20)
        file["b"][0, 0, 0, 0] = 1e20
    gn("normalize", "f.h5::/*", "-g", "2", "-q")
    with h5py.File("f.gn.h5") as file:
        assert "_FillValue" not in file["a"].attrs
        assert np.isnan(file["b"].attrs["_FillValue"]).all()
        assert np.argwhere(np.isnan(file["b"][()])).tolist() == [[0, 0, 0, 0]]
        assert not np.isnan(file["a"][()]).any()


def test_netcdf4_and_xarray_read_the_output(gn: Gn) -> None:
    pytest.importorskip("netCDF4")
    pytest.importorskip("xarray")
    import pickle

    cases = {
        "packed": (
            "i2",
            {"scale_factor": 0.01, "add_offset": 273.15, "units": "K", "_FillValue": np.int16(-1)},
        ),
        "limits": ("f4", {"valid_min": F4(3), "valid_max": F4(90), "units": "K"}),
        "plain": ("f4", {}),
        "unsigned": ("i1", {"_Unsigned": "true", "_FillValue": np.int8(9)}),
    }
    given = {name: (code, attributes, stored(code)) for name, (code, attributes) in cases.items()}
    Path("given").write_bytes(pickle.dumps(given))
    python(WRITE)
    python(READ, "f.nc")
    before = {name: loaded(name) for name in cases}
    gn("normalize", *(f"f.nc::/{name}" for name in cases), "-g", "2", "-q")
    python(READ, "f.gn.nc")
    python("""
import xarray, numpy as np
for name, v in xarray.open_dataset("f.gn.nc").data_vars.items():
    np.save(name, v.values)
    assert v.attrs.get("units", "1") == "1", v.attrs
""")
    for name in cases:
        x = np.ma.array(before[name]["values"].astype("f8"), mask=before[name]["mask"]).reshape(2, 2, -1)
        mean, var = x.mean(2, keepdims=True), x.var(2, keepdims=True)
        wanted = ((x - mean) / np.sqrt(var + 1e-5)).reshape(SHAPE)
        after = loaded(name)
        assert np.array_equal(after["mask"], wanted.mask), name
        assert np.allclose(np.ma.array(after["values"], mask=after["mask"]), wanted, rtol=2e-6, atol=1e-6), (
            name
        )
        assert np.allclose(
            np.load(f"{name}.npy"), wanted.filled(np.nan), rtol=2e-6, atol=1e-6, equal_nan=True
        )


def test_bool_of_xarray(gn: Gn) -> None:
    xarray = pytest.importorskip("xarray")
    pytest.importorskip("netCDF4")
    m = RANDOM.random((2, 4, 6)) > 0.5
    np.save("m.npy", m)
    write = "xarray.Dataset({'m': (tuple('tcx'), np.load('m.npy'))}).to_netcdf('b.nc')"
    python(f"import xarray, numpy as np; {write}")
    one = record(gn, "stats", "b.nc::/m")
    assert (one["decoded"]["dtype"], one["mean"], one["min"], one["max"]) == ("bool", m.mean(), 0, 1)
    assert "decoded: bool" in gn("stats", "b.nc::/m").stdout
    gn("normalize", "b.nc::/m", "-g", "2", "-q")
    python("import xarray, numpy as np; np.save('y.npy', xarray.open_dataset('b.gn.nc').m.values)")
    y = np.load("y.npy")
    assert y.dtype == np.float32
    assert np.mean(y == group_norm_exact(m.astype("i1"), 2).astype("f4")) > 0.999
    assert xarray.__version__


@pytest.mark.parametrize(("dtype", "kind"), [("i2", "single"), ("u1", "single"), ("f8", "double")])
def test_matlab_reads_the_output(dtype: str, kind: str, gn: Gn) -> None:
    mat73 = pytest.importorskip("mat73")
    x = RANDOM.integers(0, 2, (2, 4, 6)).astype(dtype)
    with h5py.File("m.mat", "w", userblock_size=512) as file:
        file["A"] = x
        old = {"i2": b"int16", "u1": b"logical", "f8": b"double"}[dtype]
        file["A"].attrs["MATLAB_class"] = np.bytes_(old)
        if dtype == "u1":
            file["A"].attrs["MATLAB_int_decode"] = np.int32(1)
    with open("m.mat", "r+b") as raw:
        raw.write(b"MATLAB 7.3 MAT-file".ljust(124) + b"\0\2IM")
    gn("normalize", "m.mat", "-g", "2", "-q")
    with h5py.File("m.gn.mat") as file:
        assert file["A"].attrs["MATLAB_class"] == kind.encode()
        assert "MATLAB_int_decode" not in file["A"].attrs
        y = file["A"][()]
    assert np.array_equal(mat73.loadmat("m.gn.mat")["A"].T, y) and abs(y.std() - 1) < 1e-3
    gn("normalize", "m.mat", "-g", "2", "-q", "-f", "--dtype", "float16")
    with h5py.File("m.gn.mat") as file:
        assert "MATLAB_class" not in file["A"].attrs


def test_diff_identify_hist_and_plot_decode(gn: Gn) -> None:
    x = packed()
    missing = int(np.count_nonzero(np.isnan(x)))
    np.save("x.npy", x)
    one = record(gn, "diff", "f.h5::/x", "x.npy")
    assert one["equal"] and one["decoded_a"]["missing"] == missing and "decoded_b" not in one
    shown = gn("diff", "f.h5::/x", "x.npy").stdout
    assert f"decoded a: scale_factor 0.01, add_offset 273.15; {missing} missing (_FillValue -32768)" in shown
    assert not record(gn, "diff", "f.h5::/x", "x.npy", "--raw", code=1)["equal"]
    gn("normalize", "f.h5::/x", "-g", "2", "-q")
    found = record(gn, "identify", "f.h5::/x", "f.gn.h5::/x")
    assert found["match"] and found["candidates"][0]["groups"] == 2
    assert found["decoded_x"]["missing"] == found["decoded_y"]["missing"] == missing
    gn("identify", "f.h5::/x", "f.gn.h5::/x", "--raw", code=1)
    for words in (("stats", "f.h5"), ("normalize", "f.h5", "-g", "2", "-n")):
        counts = record(gn, *words, "--hist")["histogram"]
        counts = counts.get("before", counts)
        edges = np.array(counts["edges"])
        assert np.array_equal(counts["counts"], np.histogram(x[~np.isnan(x)], edges)[0])
    pytest.importorskip("matplotlib")
    gn("stats", "f.h5", "--plot", "p.png")
    gn("diff", "f.h5::/x", "x.npy", "--plot", "d.png")
    gn("normalize", "f.h5", "-g", "2", "-f", "--plot", "n.png")


def test_gamma_is_decoded(gn: Gn) -> None:
    packed()
    with h5py.File("f.h5", "r+") as file:
        file["gamma"] = np.array([1, 2, 3, 4], "i2")
        file["gamma"].attrs["scale_factor"] = 0.5
    np.save("gamma.npy", np.array([1, 2, 3, 4]) * 0.5)
    for name, gamma in (("a.npy", "f.h5::/gamma"), ("b.npy", "gamma.npy")):
        gn("normalize", "f.h5::/x", "-g", "2", "-q", "--gamma", gamma, "-o", name)
    assert Path("a.npy").read_bytes() == Path("b.npy").read_bytes()


@pytest.mark.parametrize("shape", [(), (0,), (7,), (0, 4, 3)])
def test_any_shape(shape: tuple[int, ...], gn: Gn) -> None:
    with h5py.File("f.h5", "w") as file:
        file["x"] = np.full(shape, 3, ">i2")
        file["x"].attrs["scale_factor"] = 0.5
        file["x"].attrs["missing_value"] = np.int16(4)
    one = record(gn, "stats", "f.h5")
    assert (one["count"], one["mean"], one["decoded"]["missing"]) == (
        int(np.prod(shape)), 1.5 if np.prod(shape) else None, 0,
    )  # fmt: skip
    if len(shape) > 1:
        gn("normalize", "f.h5", "-g", "2", "-q")


def test_attributes_that_make_no_sense(gn: Gn) -> None:
    with h5py.File("f.h5", "w") as file:
        x = file.create_dataset("x", data=np.arange(24.0).reshape(2, 4, 3))
        x.attrs["scale_factor"] = "0.5"
        x.attrs["add_offset"] = 3.0
        x.attrs["_FillValue"] = h5py.Empty("f4")
        x.attrs["missing_value"] = ["a", "b"]
        x.attrs["valid_range"] = np.array([(1, 2.0)], [("a", "i4"), ("b", "f8")])
        x.attrs["valid_min"] = x.ref
        x.attrs["valid_max"] = np.zeros(0)
        x.attrs["_Unsigned"] = 1
    one = record(gn, "stats", "f.h5")
    assert (one["mean"], one["decoded"]["missing"]) == (11.5, 0)
    assert {*one["decoded"]["ignored"]} == {
        "scale_factor", "add_offset", "_FillValue", "missing_value", "valid_range", "valid_min", "valid_max",
    }  # fmt: skip
    gn("normalize", "f.h5", "-g", "2", "-q")
    with h5py.File("f.gn.h5") as file:
        assert not {*REMOVED} & {*file["x"].attrs}


def test_a_decoding_without_effect_is_none() -> None:
    assert decoding_of({}, np.dtype("i2"), default=False) is None
    assert decoding_of({"_Unsigned": "false"}, np.dtype("i2"), default=False) is None


def test_info_says_how_it_would_be_decoded(gn: Gn) -> None:
    packed()
    line = "decoded        scale_factor 0.01, add_offset 273.15; missing (_FillValue -32768)"
    assert line in gn("info", "f.h5").stdout.splitlines()
    one = record(gn, "info", "f.h5")
    assert (one["dtype"], one["decoded"]["scale_factor"], one["decoded"]["missing"]) == ("int16", 0.01, None)
    assert "decoded" not in gn("info", "f.h5", "--raw").stdout
