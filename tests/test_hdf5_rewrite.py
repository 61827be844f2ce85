"""Datasets written over or replaced in a copy of their file: values, attributes and all else afterwards."""

from __future__ import annotations

import json
import re
from itertools import product
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from arrays import normal
from conftest import Gn, Shell
from oracle import group_norm_exact

import gncli.tensors.hdf5_chunks as chunks_module
from gncli.normalize import Settings, normalize_file
from gncli.words import shortened

SHAPE = (4, 8, 24, 24)
FLOATS = normal(*SHAPE, mean=2)
INTEGERS = (FLOATS * 20).astype("i2")


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


CHUNK = (2, 8, 24, 24)
INDEXES: dict[str, dict[str, Any]] = {
    "single": {"chunks": SHAPE},
    "single, larger than the shape": {"chunks": (5, 8, 24, 25), "maxshape": (None, 8, 24, None)},
    "implicit": {"chunks": CHUNK},  # in the 1.10 format, and without filters
    "fixed array": {"chunks": (3, 8, 24, 24), "maxshape": (9, 8, 24, 24)},
    "extensible array": {"chunks": CHUNK, "maxshape": (None, 8, 24, 24)},
    "B-tree": {"chunks": CHUNK, "maxshape": (None, 8, None, 24)},
    "small chunks": {"chunks": (3, 3, 5, 7)},
}
FILTERS: dict[str, dict[str, Any]] = {
    "none": {},
    "gzip": {"compression": "gzip", "compression_opts": 4},
    "shuffle, gzip, fletcher32": {"compression": "gzip", "shuffle": True, "fletcher32": True},
    "lzf": {"compression": "lzf"},  # one that gn leaves to HDF5
}
FEW = {"note": "x" * 100, "n": np.arange(50)}
MANY = {f"k{i}": "y" * (i + 1) for i in range(40)} | FEW
LARGE = {"calibration": np.arange(10_000.0)} | FEW  # over 64 kB, which HDF5 1.8 and later can hold


def settings_of(index: str, how: dict[str, Any]) -> Any:
    """The properties that h5py gives to a dataset so made, and what it has no words for."""
    with h5py.File("settings", "w", driver="core", backing_store=False) as file:
        settings = file.create_dataset("x", SHAPE, "f4", **how).id.get_create_plist()
    if index == "implicit":
        settings.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    return settings


def make(x: np.ndarray, libver: str, index: str, how: dict[str, Any], attributes: dict[str, Any]) -> None:
    """f.h5: /x, what leads to it, and a neighbour of the same kind."""
    how = INDEXES[index] | how
    with h5py.File("f.h5", "w", libver=libver) as file:
        settings = settings_of(index, how)
        if attributes is LARGE:
            settings.set_attr_creation_order(h5py.h5p.CRT_ORDER_TRACKED | h5py.h5p.CRT_ORDER_INDEXED)
        space = h5py.h5s.create_simple(SHAPE, how.get("maxshape") and tuple(
            h5py.h5s.UNLIMITED if length is None else length for length in how["maxshape"]
        ))  # fmt: skip
        dataset = h5py.Dataset(h5py.h5d.create(file.id, b"x", h5py.h5t.py_create(x.dtype), space, settings))
        dataset[...] = x
        dataset.attrs.update(attributes)
        file.create_dataset("neighbour", data=x, **how).attrs.update(FEW)
        file["scale"] = np.arange(8)
        file["scale"].make_scale("channel")
        dataset.dims[1].attach_scale(file["scale"])
        file["alias"] = dataset
        file.attrs["reference"] = dataset.ref
        file.attrs["region"] = dataset.regionref[1:3, 2]


def check(x: np.ndarray, y: np.ndarray, attributes: dict[str, Any], path: str = "f.gn.h5") -> None:
    with h5py.File(path) as file:
        dataset = file["x"]
        assert dataset.dtype == y.dtype
        assert y.dtype == "f8" or np.mean(dataset[()] == y) > 0.999
        np.testing.assert_allclose(dataset[()], y, 1e-6 if y.dtype == "f4" else 1e-12, 1e-13)
        assert dataset == file["alias"] == file[file.attrs["reference"]] == file[file.attrs["region"]]
        assert dataset.dims[1][0] == file["scale"]
        assert [file[reference] for reference, _ in file["scale"].attrs["REFERENCE_LIST"]] == [dataset]
        for key, value in attributes.items():
            np.testing.assert_array_equal(dataset.attrs[key], value)
        added = {key for key in dataset.attrs if not key.startswith("gn_")} - attributes.keys()
        assert added == {"DIMENSION_LIST"}
        assert dataset.attrs["gn_groups"] == 4
        np.testing.assert_array_equal(file["neighbour"][()], x, strict=True)
        for key, value in FEW.items():
            np.testing.assert_array_equal(file["neighbour"].attrs[key], value)
        np.testing.assert_array_equal(file["scale"][()], np.arange(8))
        assert set(file) == {"x", "neighbour", "scale", "alias"}


@pytest.fixture(scope="module")
def truth() -> dict[str, np.ndarray]:
    """Of `stored` values; and of what `output` holds of these, normalized once more."""
    exact = {"f4": group_norm_exact(FLOATS, 4), "i2": group_norm_exact(INTEGERS, 4)}
    for stored, output in (("f4", "f4"), ("f4", "f8"), ("i2", "f4")):
        exact[stored + output] = group_norm_exact(exact[stored].astype(output), 4)
    return exact


@pytest.mark.parametrize("libver", ["earliest", "latest"])
@pytest.mark.parametrize("index", INDEXES)
@pytest.mark.parametrize("filters", FILTERS)
@pytest.mark.parametrize(("stored", "output"), [("f4", "f4"), ("f4", "f8"), ("i2", "f4")])
def test_every_kind_of_dataset(
    libver: str, index: str, filters: str, stored: str, output: str, truth: dict[str, np.ndarray]
) -> None:
    x = {"f4": FLOATS, "i2": INTEGERS}[stored]
    for attributes in ({}, FEW, MANY, LARGE) if index in ("single", "extensible array") else (MANY,):
        make(x, libver, index, FILTERS[filters], attributes)
        normalize_file("f.h5::/x", "f.gn.h5", Settings(groups=4, dtype=np.dtype(output).name), force=True)
        check(x, truth[stored].astype(output), attributes)
    normalize_file("f.gn.h5::/x", "f.gn.h5", Settings(groups=4), force=True)  # and over gn's own chunks
    check(x, truth[stored + output].astype(output), attributes)


@pytest.mark.parametrize("filters", ["gzip", "lzf"])
@pytest.mark.parametrize("libver", ["earliest", "latest"])
def test_all_datasets_of_a_file(libver: str, filters: str, gn: Gn) -> None:
    with h5py.File("f.h5", "w", libver=libver) as file:
        for name, dtype in product("ab", ("f4", "i2")):
            x = {"f4": FLOATS, "i2": INTEGERS}[dtype]
            file.create_dataset(name + dtype, data=x, chunks=SHAPE, **FILTERS[filters])
            file[name + dtype].attrs.update(MANY)
    gn("normalize", "f.h5::/*", "-g", "4", "-q")
    with h5py.File("f.gn.h5") as file:
        for name in file:
            y = group_norm_exact(INTEGERS if name.endswith("i2") else FLOATS, 4).astype("f4")
            assert np.mean(file[name][()] == y) > 0.999
            for key, value in MANY.items():
                np.testing.assert_array_equal(file[name].attrs[key], value)


def test_a_single_chunk_in_processes_of_its_own(shell: Shell) -> None:
    """HDF5 could crash when it closes the file."""
    for index, filters in product(("single", "fixed array"), ("none", "gzip", "lzf")):
        make(INTEGERS, "latest", index, FILTERS[filters], MANY)
        shell("$gn normalize f.h5::/x -g 4 -q -f && $gn normalize f.gn.h5::/x -g 4 -q -f")
        check(INTEGERS, group_norm_exact(INTEGERS, 4).astype("f4"), MANY)


@pytest.mark.parametrize("filters", ["gzip", "lzf", "none"])
@pytest.mark.parametrize("index", ["single", "extensible array", "small chunks"])
@pytest.mark.parametrize("libver", ["earliest", "latest"])
def test_a_file_does_not_grow_with_every_run(libver: str, index: str, filters: str) -> None:
    make(FLOATS, libver, index, FILTERS[filters], FEW)
    sizes = []
    for _ in range(10):
        normalize_file("f.h5::/x", "f.h5", Settings(groups=4), force=True)
        sizes.append(Path("f.h5").stat().st_size)
    assert sizes[-1] <= 1.02 * sizes[0]


@pytest.mark.parametrize("memory", [1 << 20, 1 << 26])
def test_parts_of_chunks_over_old_ones(memory: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """HDF5 reads the chunk that it writes a part of; the old one is not in the copy any more."""
    monkeypatch.setattr(chunks_module, "_SMALLEST", 1)
    x = normal(8, 16, 40, 40)
    for filters, chunks in product(("gzip", "lzf"), ((8, 3, 16, 40), (3, 16, 7, 9), (9, 16, 40, 40))):
        with h5py.File("f.h5", "w") as file:
            how = {"chunks": chunks, "maxshape": (None, 16, 40, 40), "fillvalue": 7, **FILTERS[filters]}
            file.create_dataset("x", data=x, **how)
        normalize_file("f.h5", "f.gn.h5", Settings(groups=4, memory=memory), force=True)
        with h5py.File("f.gn.h5", "r+") as file:
            assert np.mean(file["x"][()] == group_norm_exact(x, 4).astype("f4")) > 0.999
            file["x"].resize((10, 16, 40, 40))
            assert np.all(file["x"][8:] == 7)  # as it was beyond the shape


@pytest.mark.parametrize("memory", [1 << 20, 1 << 26])
@pytest.mark.parametrize("libver", ["earliest", "latest"])
@pytest.mark.parametrize("filters", ["gzip", "lzf"])
def test_parts_of_chunks_over_unfiltered_ones(filters: str, libver: str, memory: int, shell: Shell) -> None:
    """LZF does not filter what it cannot make smaller, and HDF5 remembers which filters were left out."""
    x = np.random.default_rng(0).integers(0, 1 << 32, (4, 8, 20, 30), "u4").view("f4")
    x[~np.isfinite(x)] = 1
    with h5py.File("f.h5", "w", libver=libver) as file:
        for i, chunks in enumerate([x.shape, (5, 8, 20, 30), (3, 3, 20, 30), (1, 1, 20, 30), (4, 8, 7, 11)]):
            how = {"chunks": chunks, "maxshape": (None, 8, 20, 30), **FILTERS[filters]}
            file.create_dataset(f"x{i}", data=x, **how)
            if filters == "gzip":
                at = (0,) * 4
                full = np.zeros(chunks, "f4")
                part = tuple(slice(n) for n in chunks)
                full[tuple(slice(n) for n in x[part].shape)] = x[part]
                file[f"x{i}"].id.write_direct_chunk(at, full, 1)
    shell(f"$gn normalize 'f.h5::/x*' -g 4 -q --memory {memory}")
    with h5py.File("f.gn.h5") as file:
        for name in file:
            assert np.mean(file[name][()] == group_norm_exact(x, 4).astype("f4")) > 0.999


def plugin(name: str) -> Any:
    return getattr(pytest.importorskip("hdf5plugin"), name)()


@pytest.mark.parametrize("libver", ["earliest", "latest"])
@pytest.mark.parametrize("name", ["Bitshuffle", "Blosc", "Blosc2", "Zstd", "LZ4"])
def test_filters_of_plugins(name: str, libver: str, gn: Gn) -> None:
    y = group_norm_exact(FLOATS, 4)
    for chunks, dtype in product((SHAPE, CHUNK, (3, 3, 5, 7), (5, 8, 24, 25)), ("f4", "f8")):
        with h5py.File("f.h5", "w", libver=libver) as file:
            how = {"chunks": chunks, "maxshape": (None, 8, 24, None), **plugin(name)}
            file.create_dataset("x", data=FLOATS, **how)
            file["x"].attrs.update(MANY)
        gn("normalize", "f.h5", "-g", "4", "-q", "-f", "--dtype", np.dtype(dtype).name)
        with h5py.File("f.gn.h5") as file:
            np.testing.assert_allclose(file["x"][()], y, 1e-6, 1e-7)
            for key, value in MANY.items():
                np.testing.assert_array_equal(file["x"].attrs[key], value)
            settings, chunk = file["x"].id.get_create_plist(), file["x"].id.get_chunk_info(0)
            assert settings.get_nfilters() == 1
            if name in ("Bitshuffle", "Zstd"):
                assert chunk.size < 0.99 * np.prod(chunks) * np.dtype(dtype).itemsize, "it is compressed"


def float_type(size: int, exponent: int, mantissa: int, bias: int) -> Any:
    kind = h5py.h5t.IEEE_F32LE.copy()
    kind.set_fields(exponent + mantissa, mantissa, exponent, 0, mantissa)
    kind.set_precision(1 + exponent + mantissa)
    kind.set_size(size)
    kind.set_ebias(bias)
    return kind


NARROW = {
    "bfloat16": (2, 8, 7, 127),
    "float8 e4m3": (1, 4, 3, 7),
    "float8 e5m2": (1, 5, 2, 15),
    "tfloat32": (4, 8, 10, 127),
    "float24": (3, 8, 15, 127),
}


@pytest.mark.parametrize("how", [{}, {"chunks": CHUNK}, {"chunks": CHUNK, "compression": "gzip"}])
@pytest.mark.parametrize("name", NARROW)
def test_a_float_type_of_the_files_own(name: str, how: dict[str, Any], gn: Gn) -> None:
    kind = float_type(*NARROW[name])
    with h5py.File("f.h5", "w") as file:
        settings = settings_of("", {**how, "fillvalue": 1.5})
        space = h5py.h5s.create_simple(SHAPE)
        dataset = h5py.Dataset(h5py.h5d.create(file.id, b"x", kind, space, settings))
        dataset[...] = FLOATS
        stored = dataset[()]
    done = gn("normalize", "f.h5::/x", "-g", "4", "--format", "json")
    dtype = json.loads(done.stdout)["output_dtype"]
    gn("normalize", "f.h5::/x", "-g", "4", "-q", "-o", "y.npy")
    gn("normalize", "f.h5::/x", "-g", "4", "-q", "-o", "other.h5::/y")
    with h5py.File("f.gn.h5") as file, h5py.File("other.h5") as other:
        for dataset in (file["x"], other["y"]):
            assert dataset.id.get_type().equal(h5py.h5t.py_create(np.dtype(dtype)))
            np.testing.assert_array_equal(dataset[()], np.load("y.npy"), strict=True)
            assert dataset.fillvalue == 1.5
            assert dataset.chunks == how.get("chunks")
    assert np.mean(np.load("y.npy") == group_norm_exact(stored, 4).astype(dtype)) > 0.999


@pytest.mark.parametrize("dtype", [">f2", ">f4", ">f8"])
def test_the_order_of_bytes_stays(dtype: str, gn: Gn) -> None:
    with h5py.File("f.h5", "w") as file:
        file.create_dataset("x", data=FLOATS.astype(dtype), chunks=CHUNK, compression="gzip")
    gn("normalize", "f.h5", "-g", "4", "-q")
    with h5py.File("f.gn.h5") as file:
        assert file["x"].dtype == dtype


def test_attributes_over_64_kb_under_another_name(gn: Gn) -> None:
    with h5py.File("f.h5", "w", libver="latest") as file:
        file["x"] = INTEGERS
        file["x"].attrs.update(LARGE | MANY)
    gn("normalize", "f.h5::/x", "-g", "4", "-q", "-o", "out.h5::/y")
    with h5py.File("out.h5") as file:
        for key, value in (LARGE | MANY).items():
            np.testing.assert_array_equal(file["x"].attrs[key], value)
            np.testing.assert_array_equal(file["y"].attrs[key], value)


def test_the_old_file_format_stays(gn: Gn) -> None:
    """HDF5 1.6 can read what it could read before."""
    make(INTEGERS, "earliest", "extensible array", FILTERS["gzip"], MANY)
    gn("normalize", "f.h5::/x", "-g", "4", "-q")
    with h5py.File("f.gn.h5") as file:
        assert h5py.h5o.get_info(file["x"].id).hdr.version == 1
        assert file.id.get_create_plist().get_version()[0] == 0


def test_an_attribute_of_a_type_that_numpy_lacks(gn: Gn) -> None:
    with h5py.File("f.h5", "w") as file:
        file["x"] = INTEGERS
        space = h5py.h5s.create_simple((2,))
        attribute = h5py.h5a.create(file["x"].id, b"time", h5py.h5t.UNIX_D32LE, space)
        attribute.write(np.frombuffer(b"abcdefgh", "V4"), h5py.h5t.UNIX_D32LE)
    gn("normalize", "f.h5", "-g", "4", "-q")
    with h5py.File("f.gn.h5") as file:
        attribute, value = h5py.h5a.open(file["x"].id, b"time"), np.zeros(2, "V4")
        attribute.read(value, h5py.h5t.UNIX_D32LE)
        assert value.tobytes() == b"abcdefgh"


@pytest.mark.parametrize("kind", ["<u8", "<f8", "S16"])
def test_a_list_of_dimensions_that_is_none(kind: str, shell: Shell) -> None:
    """HDF5 itself takes the bytes for addresses in memory."""
    value = np.full(1000, b"AAAAAAAAAAAAAAA" if kind == "S16" else 0x4141414141414141, kind)
    with h5py.File("f.h5", "w") as file:
        file["x"] = INTEGERS
        file["x"].attrs["DIMENSION_LIST"] = value
    shell("$gn normalize f.h5 -g 4 -q")
    with h5py.File("f.gn.h5") as file:
        np.testing.assert_array_equal(file["x"].attrs["DIMENSION_LIST"], value)
        assert file["x"].dtype == "f4"


OWN = {"gn_gain": 5.0, "gn_": 1, "gn_names": ["a", "b"], "gn_Groups": 7, "gn": 2}


@pytest.mark.parametrize("options", [(), ("--dtype", "float64"), ("-o", "f.gn.h5::/x")])
@pytest.mark.parametrize("attribute", [99, "four", np.arange(3), h5py.Empty("f4")])
def test_the_users_own_gn_attributes(attribute: object, options: tuple[str, ...], gn: Gn) -> None:
    with h5py.File("f.h5", "w") as file:
        file["x"] = FLOATS
        file["x"].attrs.update(OWN)
        file["x"].attrs.update({"gn_groups": attribute, "gn_gamma": 3.0, "gn_like": "keras"})
    gn("normalize", "f.h5", "-g", "4", "--beta", "2", "-q", *options)
    with h5py.File("f.gn.h5") as file:
        attributes = file["x"].attrs
        for key, value in OWN.items():
            np.testing.assert_array_equal(attributes[key], value)
        assert (attributes["gn_groups"], attributes["gn_beta"]) == (4, 2)
        assert "gn_gamma" not in attributes, "an earlier run's, and this one had none"
        assert "gn_like" not in attributes


def test_a_long_command_line_is_cut(gn: Gn) -> None:
    names = [f"a_rather_long_file_name_{i:03d}.h5" for i in range(60)]
    for name in names:
        with h5py.File(name, "w") as file:
            file["x"] = np.ones((2, 4, 3), "f4")
    done = gn("normalize", *names, "-g", "2", "-q", "-o", "done/")
    assert done.stderr == ""
    whole = f"gn normalize {' '.join(names)} -g 2 -q -o done/"
    for name in names:
        with h5py.File(f"done/{name}") as file:
            command = file["x"].attrs["gn_command"]
        assert 900 < len(command) <= 1000
        head, tail = re.split(r" \[\.\.\. \d+ bytes cut \.\.\.\] ", command)
        assert whole.startswith(head)
        assert whole.endswith(tail)


@pytest.mark.parametrize("text", ["a", "é", "\U0001f600", "\udcff", "aé\U0001f600"])
@pytest.mark.parametrize("count", [0, 1, 200, 999, 1000, 1001, 5000])
def test_what_is_shortened(text: str, count: int) -> None:
    whole = text * count
    short = shortened(whole, 1000)
    size = len(whole.encode("utf-8", "surrogateescape"))
    assert len(short.encode("utf-8", "surrogateescape")) <= 1000
    if size <= 1000:
        assert short == whole
    else:
        head, mark = short.split(" [... ")
        cut, tail = mark.split(" bytes cut ...] ")
        assert whole.startswith(head)
        assert whole.endswith(tail)
        assert len((head + tail).encode("utf-8", "surrogateescape")) + int(cut) == size
