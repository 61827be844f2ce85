"""Datasets and attributes of HDF5 types that are no tensor's: the rest of the file is read all the same."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from arrays import normal
from conftest import Gn

from gncli import group_norm

T: Any = h5py.h5t
X = normal(2, 4, 3)


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def integer(base: Any, size: int, bits: int, offset: int = 0) -> Any:
    """`bits` bits of an integer, from bit `offset` of `size` bytes."""
    kind = base.copy()
    kind.set_precision(min(bits, 8 * kind.get_size()))
    kind.set_size(size)
    kind.set_precision(bits)
    kind.set_offset(offset)
    return kind


def enumeration(base: Any, *names: bytes) -> Any:
    kind = T.enum_create(base)
    for value, name in enumerate(names):
        kind.enum_insert(name, value)
    return kind


def opaque() -> Any:
    kind = T.create(T.OPAQUE, 4)
    kind.set_tag(b"a tag")
    return kind


def structure() -> Any:
    kind = T.create(T.COMPOUND, 8)
    kind.insert(b"a", 0, T.IEEE_F32LE)
    kind.insert(b"\xff", 4, T.STD_B32LE)
    return kind


TOLD = {  # with a part of the warning
    "bits8": (T.STD_B8LE, "holds a bitfield"),
    "bits16": (T.STD_B16BE, "holds a bitfield"),
    "bits64": (T.STD_B64LE, "holds a bitfield"),
    "opaque": (opaque(), "holds opaque bytes"),
    "time32": (T.UNIX_D32LE, "holds times"),
    "time64": (T.UNIX_D64BE, "holds times"),
    "enum": (enumeration(T.STD_I32LE, b"a", b"b"), "holds an enumeration"),
    "enum12": (enumeration(integer(T.STD_I16LE, 2, 12, 4), b"a", b"b"), "holds an enumeration"),
    "int24": (integer(T.STD_I32LE, 3, 24), "has a type that numpy lacks"),
    "uint40": (integer(T.STD_U64BE, 5, 40), "has a type that numpy lacks"),
    "int128": (integer(T.STD_I64LE, 16, 128), "has a type that numpy lacks"),
    "complex": (T.py_create(np.dtype("c8")), "has dtype complex64"),
    "long_double": (T.NATIVE_LDOUBLE, "has dtype"),
}
SILENT = {  # what nobody takes for a tensor
    "text": T.C_S1,
    "list": T.vlen_create(T.STD_I32LE),
    "list_of_bits": T.vlen_create(T.STD_B8LE),
    "array": T.array_create(T.IEEE_F32LE, (3,)),
    "structure": structure(),
    "bool": T.py_create(np.dtype(bool)),
    "object": T.STD_REF_OBJ,
    "region": T.STD_REF_DSETREG,
}
ALL = {**{name: kind for name, (kind, _) in TOLD.items()}, **SILENT}
UNCOMPARED = {"region"}  # by gn diff: a part of another dataset, or a list that numpy cannot hold
PADDED = {
    "int12": integer(T.STD_I16LE, 2, 12),
    "int12_in_the_middle": integer(T.STD_I16LE, 2, 12, 2),
    "uint24_in_4": integer(T.STD_U32BE, 4, 24, 8),
}


def make(name: str, kind: Any) -> None:
    """f.h5: X, and a dataset `name` before it and one of that type after it."""
    with h5py.File("f.h5", "w") as file:
        file["net/x"] = X
        space = h5py.h5s.create_simple(X.shape)
        for path in (f"a_{name}", f"z_{name}"):
            h5py.h5d.create(file.id, path.encode(), kind, space)


@pytest.mark.parametrize("name", ALL)
def test_the_rest_of_the_file_is_read(name: str, gn: Gn) -> None:
    make(name, ALL[name])
    for command in ("stats", "info"):
        done = gn(command, "f.h5", "--format", "json")
        assert [json.loads(line)["input"] for line in done.stdout.splitlines()] == ["f.h5::/net/x"]
        told = done.stderr.splitlines()
        if name in SILENT:
            assert told == []
        else:
            start = [f"gn: warning: f.h5::/{letter}_{name}: left out: {TOLD[name][1]}" for letter in "az"]
            assert len(told) == 2
            assert all(line.startswith(begin) for line, begin in zip(told, start, strict=True)), told
    gn("normalize", "f.h5", "-g", "2", "-q")
    with h5py.File("f.gn.h5") as file:
        np.testing.assert_array_equal(file["net/x"], group_norm(X, groups=2))
        assert sorted(file) == [f"a_{name}", "net", f"z_{name}"]
    compared = name not in UNCOMPARED
    done = gn("diff", "f.h5", "f.h5", "--format", "json", code=0 if compared else 1)
    records = {record["a"]: record for record in map(json.loads, done.stdout.splitlines())}
    assert records.keys() == {"f.h5::/net/x", f"f.h5::/a_{name}", f"f.h5::/z_{name}"}
    assert records["f.h5::/net/x"]["equal"]
    assert records[f"f.h5::/a_{name}"]["equal"] == compared


@pytest.mark.parametrize("command", ["stats", "info", "normalize"])
@pytest.mark.parametrize("name", ALL)
def test_by_its_name_it_is_an_error(name: str, command: str, gn: Gn) -> None:
    make(name, ALL[name])
    done = gn(command, f"f.h5::/a_{name}", code=1)
    assert done.stderr.startswith(f"gn: error: f.h5::/a_{name}: ")
    assert done.stderr.count("\n") == 1
    assert "bug" not in done.stderr


@pytest.mark.parametrize("command", ["stats", "info"])
@pytest.mark.parametrize("name", ALL)
def test_a_file_of_nothing_else(name: str, command: str, gn: Gn) -> None:
    with h5py.File("f.h5", "w") as file:
        h5py.h5d.create(file.id, b"d", ALL[name], h5py.h5s.create_simple(X.shape))
    done = gn(command, "f.h5", code=1)
    assert "gn: error: f.h5: no numeric dataset there" in done.stderr


@pytest.mark.parametrize("name", PADDED)
def test_integers_with_padding_are_numbers(name: str, gn: Gn) -> None:
    values = np.arange(24).reshape(2, 4, 3) * 5
    with h5py.File("f.h5", "w") as file:
        data = h5py.h5d.create(file.id, b"x", PADDED[name], h5py.h5s.create_simple(values.shape))
        data.write(h5py.h5s.ALL, h5py.h5s.ALL, values)
    row = json.loads(gn("stats", "f.h5", "--format", "json").stdout)
    assert (row["min"], row["max"], row["mean"]) == (0, 115, values.mean())
    gn("normalize", "f.h5", "-g", "2", "-q")
    with h5py.File("f.gn.h5") as file:
        expected = group_norm(values.astype(row["dtype"]), groups=2)
        np.testing.assert_array_equal(file["x"], expected)


@pytest.mark.parametrize("name", [*ALL, *PADDED])
def test_attributes_of_any_type_stay(name: str, gn: Gn) -> None:
    kind = {**ALL, **PADDED}[name]
    with h5py.File("f.h5", "w") as file:
        file["x"] = X
        for holder in (file["x"], file):
            h5py.h5a.create(holder.id, b"odd", kind, h5py.h5s.create_simple((2,)))
        if not kind.detect_class(T.VLEN) and not kind.detect_class(T.REFERENCE):
            raw = np.frombuffer(bytes(range(1, 2 * kind.get_size() + 1)), f"V{kind.get_size()}")
            h5py.h5a.open(file["x"].id, b"odd").write(raw, kind)
    gn("info", "f.h5")
    for dtype in ("float32", "float64"):
        gn("normalize", "f.h5", "-g", "2", "-q", "-f", "--dtype", dtype)
        with h5py.File("f.h5") as old, h5py.File("f.gn.h5") as new:
            a, b = (h5py.h5a.open(file["x"].id, b"odd") for file in (old, new))
            assert a.get_type() == b.get_type() == kind
            if not kind.detect_class(T.VLEN) and not kind.detect_class(T.REFERENCE):
                held = [np.empty(2, f"V{kind.get_size()}") for _ in "ab"]
                a.read(held[0], kind)
                b.read(held[1], kind)
                assert held[0].tobytes() == held[1].tobytes() == raw.tobytes()


def test_an_attribute_that_cannot_be_copied_is_told(gn: Gn) -> None:
    with h5py.File("f.h5", "w") as file:
        file["x"] = X
        kind = T.vlen_create(integer(T.STD_I32LE, 3, 24))
        h5py.h5a.create(file["x"].id, b"odd", kind, h5py.h5s.create_simple((2,)))
    done = gn("normalize", "f.h5", "-g", "2", "-q", "--dtype", "float64")
    assert done.stderr == "gn: warning: attribute odd is left out: h5py cannot read its type\n"


def test_a_warning_names_so_many_and_counts_the_rest(gn: Gn) -> None:
    with h5py.File("f.h5", "w") as file:
        file["x"] = X
        for number in range(30):
            h5py.h5d.create(file.id, b"%02d" % number, T.STD_B8LE, h5py.h5s.create_simple((2,)))
    told = gn("stats", "f.h5").stderr.splitlines()
    assert len(told) == 21
    assert told[-1] == "gn: warning: f.h5: 10 more datasets of such types are left out"


def test_pytables_and_pandas(gn: Gn) -> None:
    tables, pandas = pytest.importorskip("tables"), pytest.importorskip("pandas")
    with tables.open_file("p.h5", "w") as file:
        file.create_array("/", "mask", obj=np.ones(3, bool))
        file.create_array("/", "x", obj=X)
    pandas.DataFrame({"a": [1.0, 2.0], "ok": [True, False]}).to_hdf("d.h5", key="df")
    for name, inside in (("p.h5", "/x"), ("d.h5", "/df/block0_values")):
        rows = gn("stats", name, "--format", "tsv").stdout.splitlines()
        assert f"{name}::{inside}" in [row.split("\t")[1] for row in rows]


# Links


def listed(gn: Gn, address: str) -> list[str]:
    return [
        json.loads(line)["input"] for line in gn("stats", address, "--format", "json").stdout.splitlines()
    ]


def test_a_dataset_is_listed_by_its_own_path(gn: Gn) -> None:
    with h5py.File("f.h5", "w") as file:
        file["net/x"] = X
        file["alias"] = h5py.SoftLink("/net/x")
        file["net/a_relative_alias"] = h5py.SoftLink("x")
        file["of_an_alias"] = h5py.SoftLink("/alias")
        file["to_nothing"] = h5py.SoftLink("/gone")
        file["to_a_group"] = h5py.SoftLink("/net")
    assert listed(gn, "f.h5") == ["f.h5::/net/x"]
    assert listed(gn, "f.h5::/alias") == ["f.h5::/alias"]
    assert listed(gn, "f.h5::/al*") == ["f.h5::/alias"]
    assert listed(gn, "f.h5::/**") == ["f.h5::/net/x"]
    record = json.loads(gn("info", "f.h5", "--format", "json").stdout)
    assert record["input"] == "f.h5::/net/x"
    aliases = ["/alias", "/net/a_relative_alias", "/of_an_alias"]
    assert record["links"] == [{"path": path, "kind": "soft"} for path in aliases]
    assert "links       /alias (soft), " in gn("info", "f.h5").stdout
    gn("normalize", "f.h5", "-g", "2", "-q")
    with h5py.File("f.gn.h5") as file:
        np.testing.assert_array_equal(file["net/x"], group_norm(X, groups=2))
        assert file["alias"] == file["net/x"]


def test_two_hard_links_and_an_alias(gn: Gn) -> None:
    with h5py.File("f.h5", "w") as file:
        file["b"] = X
        file["c"] = file["b"]
        file["a"] = h5py.SoftLink("/c")
    assert listed(gn, "f.h5") == ["f.h5::/b"]
    (record,) = [json.loads(line) for line in gn("info", "f.h5", "--format", "json").stdout.splitlines()]
    assert record["links"] == [{"path": "/c", "kind": "hard"}, {"path": "/a", "kind": "soft"}]


# File names that are not UTF-8


LATIN = os.fsdecode(b"caf\xe9 [1]")


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_names_that_are_not_utf8(dtype: str, gn: Gn) -> None:
    with h5py.File(os.fsencode(f"{LATIN}.h5"), "w") as file:
        file["a"] = X
    done = gn("normalize", f"{LATIN}.h5", "-g", "2", "--dtype", dtype, "--format", "json")
    record = json.loads(done.stdout)
    assert record["input"] == f"{LATIN}.h5::/a"
    assert record["output"] == f"{LATIN}.gn.h5::/a"
    with h5py.File(os.fsencode(f"{LATIN}.gn.h5")) as file:
        np.testing.assert_array_equal(file["a"], group_norm(X.astype(dtype), groups=2))
        command = f"gn normalize $'caf\\xe9 [1].h5' -g 2 --dtype {dtype} --format json"
        assert file["a"].attrs["gn_command"] == command
    for words in (["stats", f"{LATIN}.h5"], ["info", f"{LATIN}.h5"], ["stats", f"{LATIN}.h5::/*"]):
        assert json.loads(gn(*words, "--format", "json").stdout)["input"] == f"{LATIN}.h5::/a"
        assert "caf\\udce9 [1].h5::/a" in gn(*words).stdout
    done = gn("stats", f"{LATIN}.h5::/b", code=1)
    assert "gn: error: caf\\udce9 [1].h5: no dataset '/b'; it holds $'caf\\xe9 [1].h5::/a'" in done.stderr


def test_a_npy_of_such_a_name_becomes_a_dataset_of_it(gn: Gn) -> None:
    np.save(f"{LATIN}.npy", X)
    np.save(f"g{LATIN}.npy", np.full(4, 2.0))
    for words in (["-o", f"{LATIN}.h5"], ["-o", f"out.h5::/{LATIN}"]):
        gn("normalize", f"{LATIN}.npy", "-g", "2", "--gamma", f"g{LATIN}.npy", *words, "-q")
        with h5py.File(os.fsencode(words[1].partition("::")[0])) as file:
            data = file[b"caf\xe9 [1]"]
            np.testing.assert_array_equal(data, group_norm(X, groups=2, gamma=2.0))
            assert data.attrs["gn_gamma"] == "gcaf\\xe9 [1].npy"
        gn("info", words[1])


def test_names_in_a_file_that_are_not_utf8(gn: Gn) -> None:
    with h5py.File(b"caf\xe9.h5", "w") as file:
        file["x"] = X
    space = h5py.h5s.create_simple(X.shape)
    with h5py.File("main.h5", "w") as file:
        file["own"] = X
        file[b"\xff"] = h5py.SoftLink("/own")
        file.id.links.create_external(b"linked", b"caf\xe9.h5", b"/x")
        settings = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        settings.set_virtual(space, b"caf\xe9.h5", b"x", space)
        h5py.h5d.create(file.id, b"virtual", T.IEEE_F32LE, space, settings)
        file["own"].attrs.create("plain", 1)
        h5py.h5a.create(file["own"].id, b"\xfe", T.STD_B8LE, h5py.h5s.create_simple((1,)))
    record = json.loads(gn("info", "main.h5::/own", "--format", "json").stdout)
    assert record["links"] == [{"path": "/\udcff", "kind": "soft"}]
    assert record["attributes"].keys() == {"plain", "\udcfe"}
    gn("info", "main.h5::/own")
    for name in ("linked", "virtual"):
        done = gn("stats", f"main.h5::/{name}", code=1)
        assert "'caf\\udce9.h5'; --allow-external permits it" in done.stderr
        row = json.loads(gn("stats", f"main.h5::/{name}", "--allow-external", "--format", "json").stdout)
        assert row["max"] == X.max()
