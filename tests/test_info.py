"""Headers of tensors, against what h5py and numpy were told to write."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from conftest import Gn

from gncli.info import valid_groups


def records(gn: Gn, *words: object) -> list[dict[str, Any]]:
    return [json.loads(line) for line in gn("info", *words, "--format", "json").stdout.splitlines()]


@pytest.mark.parametrize(
    ("dtype", "order", "byte_order"), [("<f4", "C", "little"), (">f8", "F", "big"), ("u1", "C", "none")]
)
def test_npy(gn: Gn, tmp_path: Path, dtype: str, order: str, byte_order: str) -> None:
    array = np.asarray(np.ones((2, 6, 5)), dtype, order="F" if order == "F" else "C")
    np.save(tmp_path / "a [b].npy", array)
    (record,) = records(gn, tmp_path / "a [b].npy")
    assert record == {
        "schema": 1, "input": str(tmp_path / "a [b].npy"), "shape": [2, 6, 5], "dtype": array.dtype.name,
        "byte_order": byte_order, "order": order, "bytes": array.nbytes, "storage": "contiguous",
        "stored_bytes": array.nbytes, "ratio": 1.0, "chunks": None, "max_shape": None, "filters": [],
        "attributes": {}, "links": [],
        "groups": {"NCL": [1, 2, 3, 6], "NLC": [1, 5], "CHW": [1, 2], "HWC": [1, 5]},
    }  # fmt: skip


def test_a_tensor_larger_than_memory_is_not_read(gn: Gn, tmp_path: Path) -> None:
    """8 TB and 4 TiB: who read them would still be reading."""
    with open(tmp_path / "x.npy", "wb") as file:
        header = {"descr": "<f4", "fortran_order": False, "shape": (2_000_000, 1_000_000)}
        np.lib.format.write_array_header_1_0(file, header)
        size = file.tell() + 8 * 10**12
    try:
        with open(tmp_path / "x.npy", "r+b") as file:
            file.truncate(size)
    except OSError:
        pytest.skip("no file may be so large here")
    assert records(gn, tmp_path / "x.npy")[0]["bytes"] == 8 * 10**12
    with h5py.File(tmp_path / "f.h5", "w") as f:
        f.create_dataset("x", (1 << 20, 1 << 20), "f4", chunks=(1, 1 << 20))
    (record,) = records(gn, tmp_path / "f.h5")
    assert (record["bytes"], record["stored_bytes"], record["ratio"]) == (1 << 42, 0, None)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "f.h5"
    with h5py.File(path, "w") as f:
        x = f.create_dataset(
            "net/x", data=np.zeros((4, 6, 8, 8), "f4"), chunks=(1, 6, 8, 8), maxshape=(None, 6, 8, 8),
            compression="gzip", compression_opts=7, shuffle=True, fletcher32=True,
        )  # fmt: skip
        x.attrs["layout"] = "NCHW"
        x.attrs["scale"] = np.float32(0.5)
        x.attrs["bad"] = np.array([1.0, np.nan])
        x.attrs["bytes"] = np.bytes_(b"raw")
        x.attrs["none"] = h5py.Empty("f4")
        x.attrs["long"] = "y" * 5000
        f["net/same"] = x
        f["soft"] = h5py.SoftLink("/net/x")
        f["gone"] = h5py.SoftLink("/nowhere")
        f["lzf"] = np.float16(1)
        f.create_dataset("lz", data=np.zeros(100, ">i8"), compression="lzf")
        f["text"] = "not a tensor"
    return path


def test_hdf5(gn: Gn, file: Path) -> None:
    (record,) = records(gn, f"{file}::/net/x")
    with h5py.File(file) as f:
        stored = f["net/x"].id.get_storage_size()
    assert 0 < stored < 6144
    assert record == {
        "schema": 1, "input": f"{file}::/net/x", "shape": [4, 6, 8, 8], "dtype": "float32",
        "byte_order": "little", "order": "C", "bytes": 6144, "storage": "chunked", "stored_bytes": stored,
        "ratio": 6144 / stored, "chunks": [1, 6, 8, 8], "max_shape": [None, 6, 8, 8],
        "filters": [
            {"name": "shuffle", "id": 2, "options": [4]},
            {"name": "gzip", "id": 1, "options": [7]},
            {"name": "fletcher32", "id": 3, "options": []},
        ],
        "attributes": {
            "layout": "NCHW", "scale": 0.5, "bad": [1.0, None], "bytes": "raw", "none": None,
            "long": "y" * 5000,
        },
        "links": [{"path": "/net/same", "kind": "hard"}, {"path": "/soft", "kind": "soft"}],
        "groups": {"NCHW": [1, 2, 3, 6], "NHWC": [1, 2, 4, 8], "CDHW": [1, 2, 4]},
    }  # fmt: skip


def test_a_file_is_every_numeric_dataset_once_and_a_glob_some(gn: Gn, file: Path) -> None:
    found = {record["input"].partition("::")[2]: record for record in records(gn, file)}
    assert len(found) == 3
    assert {"/lz", "/lzf"} < set(found)
    assert found["/lz"]["byte_order"] == "big"
    assert [one["name"] for one in found["/lz"]["filters"]] == ["lzf"]
    assert (found["/lzf"]["shape"], found["/lzf"]["groups"]) == ([], {})
    assert [record["input"] for record in records(gn, f"{file}::/l*")] == [f"{file}::/lz", f"{file}::/lzf"]


def test_tables(gn: Gn, file: Path) -> None:
    one = gn("info", f"{file}::/net/x").stdout
    assert "filters      shuffle 4, gzip 7, fletcher32\n" in one
    assert "NCHW groups  1 2 3 6\n" in one
    assert "maximum      (None, 6, 8, 8)\n" in one
    assert f"@long        {'y' * 57}...\n" in one
    assert "links        /net/same (hard), /soft (soft)\n" in one
    many = gn("info", file).stdout.splitlines()
    assert len(many) == 4
    assert many[0].split() == [
        "input", "shape", "dtype", "order", "chunks", "filters", "groups", "attributes", "bytes", "ratio",
    ]  # fmt: skip


def test_thousands_of_datasets_are_a_listing(gn: Gn, tmp_path: Path) -> None:
    with h5py.File(tmp_path / "many.h5", "w") as f:
        for number in range(3000):
            f[f"layer{number // 100}/w{number}"] = np.array([number], "f4")
    lines = gn("info", tmp_path / "many.h5").stdout.splitlines()
    assert len(lines) == 3001
    assert len({line.split()[0] for line in lines}) == 3001
    assert len(gn("info", f"{tmp_path}/many.h5::/layer7/*").stdout.splitlines()) == 101


@pytest.mark.parametrize(
    ("shape", "first"), [((12,), [1, 2, 3, 4, 6, 12]), ((3, 0, 2), []), ((1, 7), [1, 7])]
)
def test_valid_groups(shape: tuple[int, ...], first: list[int]) -> None:
    assert next(iter(valid_groups(shape).values())) == first


def test_what_cannot_be_told_of_one_does_not_stop_the_others(gn: Gn, tmp_path: Path) -> None:
    (tmp_path / "empty.npy").touch()
    np.save(tmp_path / "x.npy", np.zeros(3))
    done = gn("info", tmp_path / "empty.npy", tmp_path, tmp_path / "x.npy", "--format", "tsv", code=1)
    assert len(done.stdout.splitlines()) == 2
    assert "empty.npy: is empty (0 bytes)" in done.stderr
    assert f"{tmp_path}: is a directory" in done.stderr
