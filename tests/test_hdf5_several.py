"""Several datasets of one HDF5 file into one output: all of them, or nothing."""

from __future__ import annotations

import json
import os
from pathlib import Path

import h5py
import numpy as np
import pytest
from arrays import Array, normal
from conftest import Gn
from oracle import group_norm_gold, rounded, ulp_distance

from gncli.cli.normalize import plan_targets
from gncli.errors import UsageError


@pytest.fixture
def net(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Array]:
    """net.h5: datasets of every way to be stored, in two groups; what each holds."""
    monkeypatch.chdir(tmp_path)
    held = {
        "conv1": normal(2, 8, 6, 5, mean=3),
        "conv2": normal(3, 16, 20, 21, mean=-2),
        "deep/conv3": normal(2, 8, 40, 41, dtype="f8"),
        "small": normal(2, 8, 3, 3, dtype="f2"),
    }
    with h5py.File("net.h5", "w") as file:
        file["conv1"] = held["conv1"]
        file.create_dataset("conv2", data=held["conv2"], chunks=(1, 16, 20, 21))
        file.create_dataset("deep/conv3", data=held["deep/conv3"], chunks=(1, 8, 16, 41), compression="gzip")
        file.create_dataset("small", data=held["small"], chunks=(1, 2, 3, 3), compression="gzip")
        file["conv_beta"] = np.arange(8, dtype="f4")
        file.attrs["title"] = "net"
    return held


def expected(x: Array, dtype: str | None = None) -> Array:
    return rounded(group_norm_gold(x, 4), dtype or x.dtype)


def check(path: str, held: dict[str, Array], *normalized: str) -> None:
    with h5py.File(path) as file:
        for name, x in held.items():
            if name not in normalized:
                np.testing.assert_array_equal(file[name], x, strict=True)
                assert "gn_groups" not in file[name].attrs
                continue
            assert np.max(ulp_distance(file[name][()], expected(x))) <= 1
            assert file[name].attrs["gn_groups"] == 4
        np.testing.assert_array_equal(file["conv_beta"], np.arange(8))
        assert file.attrs["title"] == "net"


def test_a_glob_goes_into_one_file(net: dict[str, Array], gn: Gn) -> None:
    done = gn("normalize", "net.h5::/**/conv*", "--groups", "4", "--format", "json")
    records = [json.loads(line) for line in done.stdout.splitlines()]
    assert [record["output"] for record in records] == [
        "net.gn.h5::/conv1", "net.gn.h5::/conv2", "net.gn.h5::/deep/conv3"
    ]  # fmt: skip
    assert "net.h5::/conv_beta: left out: shape (8,) does not fit layout channels_first" in done.stderr
    check("net.gn.h5", net, "conv1", "conv2", "deep/conv3")
    assert sorted(os.listdir()) == ["net.gn.h5", "net.h5"]


def test_named_one_by_one_and_with_another_file(net: dict[str, Array], gn: Gn) -> None:
    np.save("x.npy", net["conv1"])
    gn("normalize", "net.h5::/conv1", "x.npy", "net.h5::/small", "-g", "4", "-o", "d/")
    check("d/net.h5", net, "conv1", "small")
    with h5py.File("d/net.h5") as file:
        np.testing.assert_array_equal(np.load("d/x.npy"), file["conv1"])


def test_into_a_file_of_their_own_kind(net: dict[str, Array], gn: Gn) -> None:
    gn("normalize", "net.h5::/conv?", "-g", "4", "-o", "out.hdf5")
    check("out.hdf5", net, "conv1", "conv2")
    gn("normalize", "net.h5::/conv?", "-g", "4", "-o", "net.h5", "--force")
    check("net.h5", net, "conv1", "conv2")


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_into_another_dtype(net: dict[str, Array], gn: Gn, dtype: str) -> None:
    gn("normalize", "net.h5::/conv1", "net.h5::/deep/conv3", "-g", "4", "--dtype", dtype)
    with h5py.File("net.gn.h5") as file:
        for name in ("conv1", "deep/conv3"):
            assert file[name].dtype == dtype
            distance = ulp_distance(file[name][()], expected(net[name], dtype))
            assert np.max(distance) <= (1 if dtype == "float32" else 64)
        assert file["deep/conv3"].compression == "gzip"


@pytest.mark.parametrize("where", ["first", "last"])
def test_one_that_cannot_be_done_stops_all(net: dict[str, Array], gn: Gn, where: str) -> None:
    names = ["net.h5::/conv1", "net.h5::/conv2"]  # 8 and 16 channels
    done = gn("normalize", *(names if where == "first" else reversed(names)), "-g", "16", code=1)
    assert "gn: error: net.h5::/conv1: 8 channels do not divide into 16 groups" in done.stderr
    assert done.stderr.splitlines()[0].endswith("; so none of the 2 datasets is written")
    assert done.stdout == ""
    assert os.listdir() == ["net.h5"]


def test_one_that_fails_on_the_way_leaves_nothing(net: dict[str, Array], gn: Gn) -> None:
    with h5py.File("net.h5", "r+") as file:
        file["conv2"][1, 0, 0, 0] = np.nan
    done = gn("normalize", "net.h5::/conv?", "-g", "4", "--nan", "fail", code=1)
    assert "net.h5::/conv2: holds NaN" in done.stderr
    assert done.stdout == ""
    assert os.listdir() == ["net.h5"]


def test_a_dry_run_writes_nothing(net: dict[str, Array], gn: Gn) -> None:
    done = gn("normalize", "net.h5::/conv?", "-g", "4", "-n", "--format", "json")
    assert [json.loads(line)["output"] for line in done.stdout.splitlines()] == [None, None]
    assert os.listdir() == ["net.h5"]


def test_a_glob_that_fits_nothing(net: dict[str, Array], gn: Gn) -> None:
    done = gn("normalize", "net.h5::/conv_*", code=1)
    assert "no dataset has a shape that fits; it holds 'net.h5::/conv_beta' (8,)" in done.stderr


@pytest.mark.parametrize(
    ("addresses", "output", "pairs"),
    [
        (["f.h5::/a", "f.h5::/b"], None, [("f.h5::/a", "f.gn.h5"), ("f.h5::/b", "f.gn.h5")]),
        (["f.h5::/a", "./f.h5::/b"], None, [("f.h5::/a", "f.gn.h5"), ("./f.h5::/b", "f.gn.h5")]),
        (["f.h5::/a", "./f.h5::/b"], "o.h5", [("f.h5::/a", "o.h5"), ("./f.h5::/b", "o.h5")]),
    ],
)
def test_targets_that_are_shared(
    addresses: list[str], output: str | None, pairs: list[tuple[str, str]]
) -> None:
    assert plan_targets(addresses, output) == pairs


@pytest.mark.parametrize(
    ("addresses", "output"),
    [
        (["f.h5::/a", "f.h5::/a"], None),
        (["f.h5::/a", "f.h5::/b"], "o.npy"),
        (["f.h5::/a", "f.h5::/b"], "o.h5::/c"),
        (["f.h5::/a", "g.h5::/b"], "o.h5"),
        (["f.h5::/a", "g/f.h5::/b"], "d/"),
        (["f.h5::/a", "f.npy"], "o.h5"),
    ],
)
def test_targets_that_cannot_be_shared(addresses: list[str], output: str | None) -> None:
    with pytest.raises(UsageError):
        plan_targets(addresses, output)
