"""What the output holds beside the normalized dataset: all that the input held, say h5diff and h5dump."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from arrays import normal
from conftest import Gn
from oracle import group_norm_exact

X = normal(4, 8, 10, 11, mean=2)
NORMALIZED = "conv/x"


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def everything(**how: Any) -> None:
    """f.h5: all that HDF5 files are made of, and /conv/x to be normalized."""
    with h5py.File("f.h5", "w", userblock_size=512, track_order=True) as file:
        file.attrs.update({"title": "naïve", "version": 3, "list": ["a", "bcd"], "none": h5py.Empty("f4")})
        conv = file.create_group("conv", track_order=True)
        conv["zero"] = 1.5
        x = conv.create_dataset("x", data=X, **how)
        for name in ("later", "even_later", "a"):
            conv[name] = np.arange(3)
        conv.attrs["role"] = np.bytes_(b"fixed")
        x.attrs.create("unit", "mV", dtype=h5py.string_dtype("ascii", 5))
        x.attrs["long"] = "x" * 70_000 if how.get("chunks") is None else "short"
        x.attrs["flag"] = True
        x.attrs["self"] = x.ref
        file["n"] = np.arange(4.0)
        file["n"].make_scale("time")
        x.dims[0].attach_scale(file["n"])
        x.dims[0].label, x.dims[1].label = "N", "C"
        file["alias"] = x
        file["soft"] = h5py.SoftLink("/conv/x")
        file["dangling"] = h5py.SoftLink("/no")
        file["external"] = h5py.ExternalLink("no.h5", "/x")
        file["loop"] = file["/"]
        file["words"] = ["a", "bé"]
        file.create_dataset("fixed", data=np.array([b"ab", b"c"], "S3"))
        file["flags"] = np.array([True, False])
        file.create_dataset("enum", data=[0, 1], dtype=h5py.enum_dtype({"OFF": 0, "ON": 1}, "i2"))
        file["complex"] = np.arange(3) * 1j
        file["table"] = np.array([(1, 2.0), (3, 4.0)], [("a", "i4"), ("b", ">f8")])
        file["opaque"] = np.array([b"abc"], "V3")
        file["null"] = h5py.Empty("f4")
        file["type"] = np.dtype([("re", "f4"), ("im", "f4")])
        file.create_dataset("typed", (3,), file["type"])
        file.create_dataset("grows", (0, 8), "f4", maxshape=(None, 8), chunks=(4, 8), fillvalue=-1)
        file.create_dataset("never", (5, 5), "i4", chunks=(2, 2), compression="gzip", fillvalue=7)
        file.create_dataset("lzf", data=np.zeros((10, 10)), compression="lzf", shuffle=True)
        file.create_dataset("scaled", data=np.arange(20), chunks=(20,), scaleoffset=0)
        compact = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        compact.set_layout(h5py.h5d.COMPACT)
        space = h5py.h5s.create_simple((4,))
        h5py.h5d.create(file.id, b"compact", h5py.h5t.IEEE_F32LE, space, compact).write(
            space, space, np.arange(4, dtype="f4")
        )
        lists = file.create_dataset("lists", (2,), h5py.vlen_dtype("i4"))
        lists[0], lists[1] = [1, 2, 3], [4]
        file.create_dataset("refs", data=[x.ref, file["n"].ref, conv.ref], dtype=h5py.ref_dtype)
        file.attrs["here"] = x.ref
        file.attrs["region"] = x.regionref[1:3, 2]
        mixed = np.zeros(2, [("k", "i4"), ("r", h5py.ref_dtype)])
        mixed["r"][0], mixed["r"][1] = x.ref, file["n"].ref
        file["mixed"] = mixed
        nested = file.create_dataset("nested", (1,), h5py.vlen_dtype(h5py.ref_dtype))
        nested[0] = np.array([file["n"].ref, x.ref], h5py.ref_dtype)
    with open("f.h5", "r+b") as raw:
        raw.write(b"#!/bin/a user block\n")


OTHERS = (
    *("conv/later", "conv/even_later", "conv/a", "conv/zero", "words", "fixed", "flags", "enum", "complex"),
    *("table", "opaque", "null", "type", "typed", "grows", "never", "scaled", "compact", "lists"),
)
WAYS: dict[str, dict[str, Any]] = {
    "contiguous": {},
    "in place": {"chunks": (1, 8, 10, 11)},
    "gzip": {
        "chunks": (3, 8, 10, 11), "compression": "gzip", "compression_opts": 7, "shuffle": True,
        "fletcher32": True, "maxshape": (None, 8, 10, 11), "fillvalue": 3,
    },
    "lzf": {"chunks": (2, 3, 4, 5), "compression": "lzf"},
}  # fmt: skip


def tool(*words: str, code: int = 0) -> str:
    if shutil.which(words[0]) is None:
        pytest.skip(f"no {words[0]}")
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == code, f"{done.stdout}\n{done.stderr}"
    return done.stdout


def dump(path: str) -> str:
    """What h5dump says of structure, properties and attributes, less where things are in the file."""
    text = tool("h5dump", "-p", "-A", path).replace(path, "")
    text = re.sub(r"(OFFSET|SIZE|USERBLOCK_SIZE) \d+.*", r"\1", text)
    text = re.sub(r"^ *\(\d+,\d+,\d+,\d+\): .*\n", "", text, flags=re.MULTILINE)  # what references lead to
    # Each on the same level of braces as it begins with.
    return re.sub(r"^( *)ATTRIBUTE \"gn_\w+\" \{\n(?:.*\n)*?\1\}\n", "", text, flags=re.MULTILINE)


@pytest.mark.parametrize("way", WAYS)
def test_the_same_dtype(way: str, gn: Gn) -> None:
    everything(**WAYS[way])
    gn("normalize", f"f.h5::/{NORMALIZED}", "-g", "4", "-q")
    if way != "lzf":  # h5py's own filter, which the tools lack
        assert dump("f.gn.h5") == dump("f.h5")
    for name in OTHERS:
        tool("h5diff", "f.h5", "f.gn.h5", f"/{name}")
    assert Path("f.gn.h5").read_bytes()[:512] == Path("f.h5").read_bytes()[:512]
    with h5py.File("f.h5") as old, h5py.File("f.gn.h5") as new:
        same(old, new)
        y = group_norm_exact(X, 4).astype("f4")
        assert np.mean(new[NORMALIZED][()] == y) > 0.999
        for key in WAYS[way]:
            assert getattr(new[NORMALIZED], key) == getattr(old[NORMALIZED], key)


@pytest.mark.parametrize("way", WAYS)
def test_another_dtype(way: str, gn: Gn) -> None:
    """Another dataset, then, to which all must lead that led to the old one."""
    everything(**WAYS[way])
    gn("normalize", f"f.h5::/{NORMALIZED}", "-g", "4", "-q", "--dtype", "float64")
    for name in OTHERS:
        tool("h5diff", "f.h5", "f.gn.h5", f"/{name}")
    with h5py.File("f.h5") as old, h5py.File("f.gn.h5") as new:
        same(old, new)
        assert new[NORMALIZED].dtype == "f8"
        for key in WAYS[way]:
            assert getattr(new[NORMALIZED], key) == getattr(old[NORMALIZED], key)


def same(old: h5py.File, new: h5py.File) -> None:
    """Order of creation, names, links, scales, references: all that h5diff does not compare."""
    for group in ("/", "/conv"):
        assert list(new[group]) == list(old[group])
    x = new[NORMALIZED]
    for name in ("n", "lzf"):
        np.testing.assert_array_equal(new[name], old[name], strict=True)
    for path in ("alias", "soft", "loop/conv/x"):
        assert new[path] == x
    for name in ("soft", "dangling", "external"):
        a, b = old.get(name, getlink=True), new.get(name, getlink=True)
        assert (type(a), a.path) == (type(b), b.path)
    assert new[new.attrs["here"]] == x
    assert new[x.attrs["self"]] == x
    assert new[new.attrs["region"]] == x
    region = h5py.h5r.get_region(new.attrs["region"], new.id)
    assert region.get_select_bounds() == ((1, 2, 0, 0), (2, 2, 9, 10))
    assert [new[reference].name for reference in new["refs"]] == [x.name, "/n", "/conv"]
    assert new[new["refs"][0]] == x
    assert [new[reference] for reference in new["mixed"]["r"]] == [x, new["n"]]
    assert [new[reference] for reference in new["nested"][0]] == [new["n"], x]
    assert (x.dims[0].label, x.dims[1].label) == ("N", "C")
    assert x.dims[0][0] == new["n"]
    assert [new[reference] for reference, _ in new["n"].attrs["REFERENCE_LIST"]] == [x]
    assert set(x.attrs) - set(old[NORMALIZED].attrs) == {name for name in x.attrs if name.startswith("gn_")}
    for name, value in old[NORMALIZED].attrs.items():
        if not isinstance(value, h5py.Reference) and name != "DIMENSION_LIST":
            np.testing.assert_array_equal(x.attrs[name], value)
            assert x.attrs.get_id(name).get_type().equal(old[NORMALIZED].attrs.get_id(name).get_type())


def test_a_scale_that_is_itself_normalized(gn: Gn) -> None:
    with h5py.File("f.h5", "w") as file:
        file["x"], file["grid"] = X, X[:, :, 0].astype("i2")
        file["grid"].make_scale("grid")
        file["x"].dims[1].attach_scale(file["grid"])
    gn("normalize", "f.h5::/grid", "-g", "4", "-q")
    with h5py.File("f.gn.h5") as file:
        assert file["grid"].dtype == "f4"
        assert file["x"].dims[1][0] == file["grid"]
        assert file["grid"].is_scale


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("null", "is empty: it has a type and no shape"),
        ("zero", "a scalar has no channels"),
        ("flags", "has dtype bool"),
        ("enum", "holds an enumeration"),
        ("words", "holds strings"),
        ("type", "is not a dataset"),
        ("refs", "holds strings, references or lists"),
    ],
)
def test_what_cannot_be_normalized(name: str, message: str, gn: Gn) -> None:
    everything()
    with h5py.File("f.h5", "r+") as file:
        file["zero"] = 1.5
    done = gn("normalize", f"f.h5::/{name}", "-g", "1", code=1)
    assert message in done.stderr
    assert not Path("f.gn.h5").exists()


@pytest.mark.parametrize("how", [{}, {"chunks": (2, 4), "maxshape": (None, 4), "compression": "gzip"}])
@pytest.mark.parametrize("shape", [(0, 4), (3, 0), (3, 4)])
def test_odd_shapes(how: dict[str, Any], shape: tuple[int, ...], gn: Gn) -> None:
    how = how if not how or shape[1] else {}
    with h5py.File("f.h5", "w") as file:
        file.create_dataset("x", data=np.ones(shape, "f4"), **how)
    gn("normalize", "f.h5::/x", "-g", "2", "-q")
    gn("normalize", "f.h5::/x", "-g", "2", "-q", "-o", "wide.h5", "--dtype", "float64")
    for path in ("f.gn.h5", "wide.h5"):
        with h5py.File(path) as file:
            np.testing.assert_array_equal(file["x"], np.zeros(shape))
            assert file["x"].maxshape == how.get("maxshape", shape)


def test_a_compact_dataset(gn: Gn) -> None:
    everything()
    gn("normalize", "f.h5::/compact", "-g", "1", "--layout", "C", "-q", "--eps", "0")
    with h5py.File("f.gn.h5") as file:
        y = group_norm_exact(np.arange(4.0), 1, eps=0, layout="C").astype("f4")
        np.testing.assert_array_equal(file["compact"], y)
        assert file["compact"].id.get_create_plist().get_layout() == h5py.h5d.COMPACT


def test_weights_as_keras_saves_them(gn: Gn) -> None:
    kernel = normal(3, 3, 16, 32)
    with h5py.File("model.weights.h5", "w") as file:
        file.attrs["layer_names"] = np.array([b"conv2d", b"dense"])
        file.attrs["backend"] = b"tensorflow"
        for layer, value in (("conv2d", kernel), ("dense", normal(20, 10))):
            group = file.create_group(layer)
            group.attrs["weight_names"] = np.array([f"{layer}/kernel:0".encode(), f"{layer}/bias:0".encode()])
            group[f"{layer}/kernel:0"] = value
            group[f"{layer}/bias:0"] = np.zeros(value.shape[-1], "f4")
    address = "model.weights.h5::/conv2d/conv2d/kernel:0"
    assert "(3, 3, 16, 32)" in gn("stats", address).stdout
    gn("normalize", address, "--layout", "HWLC", "-g", "8", "-q")
    assert dump("model.weights.gn.h5") == dump("model.weights.h5")
    tool("h5diff", "model.weights.h5", "model.weights.gn.h5", "/dense")
    with h5py.File("model.weights.gn.h5") as file:
        y = group_norm_exact(kernel, 8, layout="HWLC").astype("f4")
        assert np.mean(file["conv2d/conv2d/kernel:0"][()] == y) > 0.999


def test_a_matlab_file(gn: Gn) -> None:
    with h5py.File("m.mat", "w", userblock_size=512) as file:
        file.create_dataset("A", data=X, chunks=(2, 8, 10, 11), compression="gzip", compression_opts=3)
        file["A"].attrs["MATLAB_class"] = np.bytes_(b"single")
    header = b"MATLAB 7.3 MAT-file".ljust(124) + b"\0\2IM"
    with open("m.mat", "r+b") as raw:
        raw.write(header)
    gn("normalize", "m.mat", "-g", "4", "-q")
    assert Path("m.gn.mat").read_bytes()[:128] == header
    with h5py.File("m.gn.mat") as file:
        assert np.mean(file["A"][()] == group_norm_exact(X, 4).astype("f4")) > 0.999
        assert file["A"].attrs["MATLAB_class"] == b"single"


def test_an_h5ad_file(gn: Gn) -> None:
    """As anndata 0.10 lays it out."""
    cells = normal(50, 12, mean=1)
    with h5py.File("a.h5ad", "w") as file:
        file.attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0"})
        file.create_dataset("X", data=cells, chunks=(20, 12), compression="gzip")
        file["X"].attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
        file.create_dataset("obs/_index", data=[f"cell{i}" for i in range(50)])
    gn("normalize", "a.h5ad::/X", "-g", "3", "-q", "-o", "b.h5ad")
    assert dump("b.h5ad") == dump("a.h5ad")
    with h5py.File("b.h5ad") as file:
        assert np.mean(file["X"][()] == group_norm_exact(cells, 3).astype("f4")) > 0.999


# In a process of its own: the library brings another libhdf5.
NETCDF = """
import sys, numpy as np, netCDF4
if sys.argv[1] == "write":
    with netCDF4.Dataset("f.nc", "w") as file:
        file.title = "a network"
        for name, length in (("n", None), ("c", 8), ("y", 10), ("x", 11)):
            file.createDimension(name, length)
        for name in ("y", "x"):
            file.createVariable(name, "f8", (name,))[:] = np.arange(file.dimensions[name].size)
        x = file.createVariable("t", sys.argv[2], ("n", "c", "y", "x"), zlib=True, shuffle=True,
                                chunksizes=(1, 8, 10, 11), fill_value=9999)
        x.units = "K"
        x[:4] = np.load("x.npy")
        file.createVariable("after", "i4", ("n",))[:] = range(4)
else:
    with netCDF4.Dataset("f.gn.nc") as file:
        x = file["t"]
        assert list(file.variables) == ["y", "x", "t", "after"], file.variables
        assert (x.dimensions, x.units, x.shape) == (("n", "c", "y", "x"), "1", (4, 8, 10, 11))
        assert file.dimensions["n"].isunlimited() and file.title == "a network"
        assert "_FillValue" not in x.ncattrs()
        assert x.chunking() == [1, 8, 10, 11] and x.filters()["zlib"] and x.gn_groups == 4
        assert list(file["after"][:]) == [0, 1, 2, 3] and list(file["y"][:]) == list(range(10))
        np.save("y.npy", x[:].filled())
"""


@pytest.mark.parametrize("dtype", ["f4", "i2"])
def test_a_netcdf_file(dtype: str, gn: Gn) -> None:
    pytest.importorskip("netCDF4")
    x = (X * 10).astype(dtype)
    np.save("x.npy", x)
    subprocess.run([sys.executable, "-c", NETCDF, "write", dtype], check=True)
    gn("normalize", "f.nc::/t", "-g", "4", "-q")
    subprocess.run([sys.executable, "-c", NETCDF, "read"], check=True)
    assert np.mean(np.load("y.npy") == group_norm_exact(x, 4).astype("f4")) > 0.999
    if dtype == "f4":
        assert dump("f.gn.nc") == dump("f.nc")


def test_a_netcdf_file_in_xarray(gn: Gn) -> None:
    xarray = pytest.importorskip("xarray")
    pytest.importorskip("netCDF4")
    np.save("x.npy", X)
    subprocess.run([sys.executable, "-c", NETCDF, "write", "f4"], check=True)
    gn("normalize", "f.nc::/t", "-g", "4", "-q")
    program = (
        "import xarray, numpy; t = xarray.open_dataset('f.gn.nc').t; numpy.save('y.npy', t); print(*t.dims)"
    )
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert done.stdout == "n c y x\n"
    assert np.mean(np.load("y.npy") == group_norm_exact(X, 4).astype("f4")) > 0.999
    assert xarray.__version__
