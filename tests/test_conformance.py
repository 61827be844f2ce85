"""The outputs of other implementations, through the real command line. Provenance: conformance/README.md."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Gn
from numpy.typing import NDArray
from oracle import group_norm_gold, rounded, ulp_distance

Arrays = dict[str, NDArray[Any]]
FILES = sorted((Path(__file__).parent / "conformance").glob("*.npz"))
TOLERANCE = 1e-5  # absolute: the frameworks compute in float32, on |y| below 8


def load(path: Path) -> tuple[Arrays, dict[str, Any]]:
    with np.load(path, allow_pickle=False) as held:
        arrays = {name: held[name] for name in held.files if name != "meta"}
        return arrays, json.loads(str(held["meta"]))


def options(meta: dict[str, Any]) -> list[str]:
    return ["--groups", str(meta["groups"]), "--eps", str(meta["eps"]), "--layout", meta["layout"]]


def normalize(gn: Gn, arrays: Arrays, folder: Path, *words: str) -> tuple[NDArray[Any], dict[str, Any]]:
    """`gn normalize x.npy OPTIONS`, with the file's gamma and beta: the tensor and the report."""
    np.save(folder / "x.npy", arrays["x"])
    command = ["normalize", folder / "x.npy", "-o", folder / "y.npy", "--format", "json", *words]
    for name in ("gamma", "beta"):
        if name in arrays:
            np.save(folder / f"{name}.npy", arrays[name])
            command += [f"--{name}", folder / f"{name}.npy"]
    done = gn(*command)
    assert not done.stderr
    return np.load(folder / "y.npy"), json.loads(done.stdout)


def test_the_files_are_here() -> None:
    assert len(FILES) == 16


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_agrees_with_the_framework_and_the_oracle(path: Path, gn: Gn, tmp_path: Path) -> None:
    arrays, meta = load(path)
    y, report = normalize(gn, arrays, tmp_path, *options(meta))
    assert {key: report[key] for key in ("groups", "eps", "layout")} == {
        key: meta[key] for key in ("groups", "eps", "layout")
    }
    assert np.abs(y - arrays["y"]).max() <= TOLERANCE

    exact = group_norm_gold(
        arrays["x"], meta["groups"], meta["eps"], meta["layout"],
        gamma=arrays.get("gamma"), beta=arrays.get("beta"),
    )  # fmt: skip
    off = ulp_distance(y, rounded(exact, "f4"))
    assert off.max() <= 1
    assert np.count_nonzero(off) <= 0.001 * off.size


LIKE = [path for path in FILES if "like" in load(path)[1]]


@pytest.mark.parametrize("path", LIKE, ids=lambda path: path.stem)
def test_like_gives_the_defaults_of_the_framework(path: Path, gn: Gn, tmp_path: Path) -> None:
    """Only the groups are told, where the framework's own default of 32 does not fit."""
    arrays, meta = load(path)
    groups = [] if meta["groups"] == 32 else ["--groups", str(meta["groups"])]
    y, report = normalize(gn, arrays, tmp_path, "--like", meta["like"], *groups)
    assert (report["groups"], report["eps"]) == (meta["groups"], meta["eps"])
    told, _ = normalize(gn, arrays, tmp_path, *options(meta), "--force")
    assert y.tobytes() == told.tobytes()
    assert np.abs(y - arrays["y"]).max() <= TOLERANCE
