"""Missing values of HDF5 datasets: statistics leave them out, and they stay missing in the output."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from conftest import Gn, Shell
from numpy.typing import NDArray

pytestmark = pytest.mark.usefixtures("passes")


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


# What is missing, and what is NaN without being missing, in groups of many elements and of few.
LAYOUTS = [
    ((2, 6, 40, 300), "NCHW", 3),  # long runs, a cell each
    ((2, 6, 5, 7), "NCHW", 3),
    ((3, 9, 11, 6), "NHWC", 3),  # columns
    ((2, 50, 60, 4), "NHWC", 2),
    ((7, 12), "NC", 4),  # sets of few elements
    ((6, 40000), "NC", 2),
    ((5, 8, 3), "NCL", 8),
]


def groups_of(x: NDArray[Any], layout: str, groups: int) -> NDArray[Any]:
    """(N, groups, elements of a group), from any layout."""
    first = np.moveaxis(x, layout.index("C"), 1)
    return first.reshape(x.shape[0], groups, -1)


def ungrouped(y: NDArray[Any], shape: tuple[int, ...], layout: str) -> NDArray[Any]:
    order = [
        shape[axis] for axis in sorted(range(len(shape)), key=lambda axis: (axis != 0, layout[axis] != "C"))
    ]
    return np.moveaxis(y.reshape(order), 1, layout.index("C"))


@pytest.mark.parametrize(("shape", "layout", "groups"), LAYOUTS)
@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", "i2"])
def test_missing_values_are_left_out_and_stay(
    dtype: str, shape: tuple[int, ...], layout: str, groups: int, gn: Gn
) -> None:
    """Statistics over what is present, under each policy, by compiled passes and by numpy alone."""
    random = np.random.default_rng(len(shape) + groups)
    x = random.integers(-90, 90, shape).astype(dtype)
    fill = x.dtype.type(99)
    missing = random.random(shape) < 0.3
    missing[0, ...] = False  # groups without
    x[missing] = fill
    view = groups_of(missing, layout, groups)
    view[1, 0] = True  # a group of nothing else
    missing = ungrouped(view, shape, layout)
    x[missing] = fill
    with h5py.File("f.h5", "w") as file:
        file["x"] = x
        file["x"].attrs["_FillValue"] = fill
    values = np.where(missing, np.nan, x.astype("f8"))
    parts = np.ma.masked_invalid(groups_of(values, layout, groups))
    mean = parts.mean(2, keepdims=True).filled(np.nan)
    var = parts.var(2, keepdims=True).filled(np.nan)
    wanted = ungrouped((parts.data - mean) / np.sqrt(var + 1e-5), shape, layout)
    for policy in ("propagate", "omit", "fail") if dtype == "f4" else ("propagate",):
        words = f"normalize f.h5::/x -g {groups} --layout {layout} --nan {policy} -f --dtype float64"
        done = gn(*words.split(), "--format", "json")
        assert done.stderr == ""
        record = json.loads(done.stdout)
        with h5py.File("f.gn.h5") as file:
            y = file["x"][()]
            assert np.isnan(file["x"].attrs["_FillValue"]).all()
        assert np.allclose(y, wanted, rtol=1e-12, atol=1e-13, equal_nan=True)
        bits = y.view("u8")[np.isnan(y)]
        assert (bits == np.array(np.nan).view("u8")).all()  # the quiet positive one
        assert record["decoded"]["missing"] == np.count_nonzero(missing)
        for side, of in (("before", values), ("after", wanted)):
            row = record[side]
            assert (row["count"], row["nan"], row["inf"]) == (np.count_nonzero(~missing), 0, 0)
            assert np.allclose(
                [row["mean"], row["std"]], [np.nanmean(of), np.nanstd(of)], rtol=1e-9, atol=1e-12
            )
            assert np.allclose([row["min"], row["max"]], [np.nanmin(of), np.nanmax(of)], rtol=1e-12)
    done = gn(*f"stats f.h5 --by sample --by group -g {groups} --layout {layout} --format json".split())
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["count"] for row in rows] == np.count_nonzero(~view, axis=2).reshape(-1).tolist()
    assert [row["decoded"]["missing"] for row in rows] == np.count_nonzero(view, axis=2).reshape(-1).tolist()
    assert [row["mean"] is None for row in rows] == view.all(axis=2).reshape(-1).tolist()
    means = [np.nan if row["mean"] is None else row["mean"] for row in rows]
    assert np.allclose(means, mean.reshape(-1), rtol=1e-14, equal_nan=True)


@pytest.mark.parametrize(("shape", "layout", "groups"), LAYOUTS)
def test_other_nan_still_follow_the_policy(shape: tuple[int, ...], layout: str, groups: int, gn: Gn) -> None:
    random = np.random.default_rng(1)
    x = random.standard_normal(shape).astype("f4")
    missing = random.random(shape) < 0.2
    x[missing] = 1e20
    x.reshape(-1)[0] = np.nan
    missing.reshape(-1)[0] = False
    with h5py.File("f.h5", "w") as file:
        file["x"] = x
        file["x"].attrs["missing_value"] = np.float32(1e20)
    words = [
        "normalize",
        "f.h5::/x",
        "-g",
        str(groups),
        "--layout",
        layout,
        "-f",
        "--format",
        "json",
        "--nan",
    ]
    assert "holds NaN or infinity, 1 or more" in gn(*words, "fail", code=1).stderr
    values = groups_of(np.where(missing, np.nan, x.astype("f8")), layout, groups)
    mean, var = np.nanmean(values, 2, keepdims=True), np.nanvar(values, 2, keepdims=True)
    wanted = (values - mean) / np.sqrt(var + 1e-5)
    for policy in ("omit", "propagate"):
        if policy == "propagate":
            wanted[0, 0] = np.nan
        done = gn(*words, policy)
        assert done.stderr.startswith("gn: warning: f.h5::/x: 1 NaN and 0 infinite values; ")
        record = json.loads(done.stdout)
        with h5py.File("f.gn.h5") as file:
            y = groups_of(file["x"][()], layout, groups)
        assert np.allclose(y, wanted, rtol=2e-6, atol=1e-6, equal_nan=True)
        assert record["decoded"]["missing"] == np.count_nonzero(missing)
        present = np.count_nonzero(~missing)
        assert (record["before"]["count"], record["before"]["nan"]) == (present, 1)
        lost = np.count_nonzero(np.isnan(wanted)) - np.count_nonzero(missing)
        assert (record["after"]["count"], record["after"]["nan"]) == (present, lost)


def test_numbers_do_not_depend_on_how_it_is_done(shell: Shell) -> None:
    """Nor does any bit of the output: on jobs, memory, chunks, and the compiled passes."""
    random = np.random.default_rng(2)
    x = random.integers(-3000, 3000, (3, 8, 300, 400)).astype("i2")
    x[random.random(x.shape) < 0.1] = -32768
    outputs, reports = set(), set()
    for how in ({}, {"chunks": (1, 2, 150, 400), "compression": "gzip"}):
        with h5py.File("f.h5", "w") as file:
            file.create_dataset("x", data=x, **how)
            file["x"].attrs.update(scale_factor=0.01, add_offset=np.float32(273), _FillValue=np.int16(-32768))
        for words in ("", "-j 1 --memory 6M", "-j 3"):
            for kernel in "01":
                line = f"GNCLI_KERNEL={kernel} $gn normalize f.h5::/x -g 2 -o y.npy -f --format json {words}"
                report = json.loads(shell(line).stdout)
                outputs.add(Path("y.npy").read_bytes())
                reports.add(json.dumps({key: value for key, value in report.items() if key != "seconds"}))
    assert len(outputs) == len(reports) == 1
