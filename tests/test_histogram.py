"""Histograms of tensors in files, against numpy's of the whole array."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from arrays import Array, normal, spoiled
from conftest import Gn, Shell

from gncli.histogram import BINS, CHUNK, Histogram
from gncli.words import histograms


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def record(gn: Gn, *words: object) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(gn(*words, "--hist", "--format", "json").stdout)
    return found


def check(found: dict[str, Any], array: Array) -> None:
    finite = array[np.isfinite(array)].astype(np.float64)
    counts, edges = np.histogram(finite, BINS)
    assert found["counts"] == counts.tolist()
    assert found["edges"] == edges.tolist()
    assert sum(found["counts"]) == finite.size


@pytest.mark.parametrize(
    "array",
    [
        normal(2, 8, 30, 40, mean=3), normal(CHUNK + 5, dtype="f8"), spoiled(), np.full(9, 2.5),
        np.arange(300).astype("u1"), np.arange(-5, 7), np.array([1, 2, 2, 60000], "f2"), np.array(3, "f4"),
        np.asfortranarray(normal(5, 7)), normal(50).astype(">f4"),
    ],
    ids=lambda array: f"{array.dtype}{array.shape}",
)  # fmt: skip
def test_stats(gn: Gn, array: Array) -> None:
    np.save("x.npy", array)
    check(record(gn, "stats", "x.npy")["histogram"], array)


@pytest.mark.parametrize("array", [np.empty((2, 0)), np.full(3, np.nan)])
def test_nothing_to_show(gn: Gn, array: Array) -> None:
    np.save("x.npy", array)
    assert record(gn, "stats", "x.npy")["histogram"] is None
    assert len(gn("stats", "x.npy", "--hist").stdout.splitlines()) == 2


def test_a_range_beyond_float64() -> None:
    values = np.array([-1.5e308, 0.0, 1.0, 1.5e308])
    histogram = Histogram(-1.5e308, 1.5e308, 2)
    histogram.add(histogram.count(values))
    assert histogram.row() == {"edges": [-1.5e308, 0.0, 1.5e308], "counts": [1, 3]}


@pytest.mark.parametrize("dry", [[], ["--dry-run"]])
def test_normalize_before_and_after(gn: Gn, dry: list[str]) -> None:
    x = normal(3, 8, 30, 40, mean=3)
    np.save("x.npy", x)
    gn("normalize", "x.npy", "-g", 2, "-o", "expected.npy")
    found = record(gn, "normalize", "x.npy", "-g", 2, *dry)
    check(found["histogram"]["before"], x)
    check(found["histogram"]["after"], np.load("expected.npy"))
    assert Path("x.gn.npy").exists() is not bool(dry)


def test_terminal(gn: Gn) -> None:
    np.save("x.npy", np.repeat(np.arange(20.0), np.arange(1, 21)))
    shown = gn("stats", "x.npy", "--hist").stdout
    lines = shown.splitlines()[-20:]
    assert [line.split()[1] for line in lines] == [str(count) for count in range(1, 21)]
    assert lines[-1].endswith(" " + "█" * 16)
    assert lines[9].endswith(" " + "█" * 8)
    assert all(lines[i].rindex("█") <= lines[i + 1].rindex("█") for i in range(2, 19))
    np.save("y.npy", normal(2, 4, 30))
    shown = gn("normalize", "y.npy", "-g", 2, "--hist").stdout
    assert "before  count" in shown
    assert "after  count" in shown
    assert shown.splitlines()[-1] == "wrote y.gn.npy"


def test_an_empty_bin_has_no_bar_and_one_element_has() -> None:
    row = {"edges": [0.0, 1.0, 2.0, 3.0], "counts": [0, 1, 10**6]}
    (grid,) = histograms({"histogram": row})
    assert not isinstance(grid, str)
    assert [line[2] for line in grid.rows] == ["", "▏", "█" * 16]


def test_of_whole_tensors_only(gn: Gn) -> None:
    np.save("x.npy", normal(2, 4, 3))
    assert "drop --by" in gn("stats", "x.npy", "--by", "sample", "--hist", code=2).stderr
    assert "give a file" in gn("normalize", "x.npy", "-g", 2, "-o", "-", "--hist", code=2).stderr


def test_a_pipe_cannot_be_read_twice(shell: Shell) -> None:
    np.save("x.npy", normal(2, 4, 3))
    for words in ("stats -", "stats <(cat x.npy)", "normalize - -g 2 -o y.npy"):
        done = shell(f"cat x.npy | $gn {words} --hist", code=2)
        assert "--hist reads a tensor twice; give a file in place of " in done.stderr
    assert not Path("y.npy").exists()


@pytest.mark.parametrize("more", [["--hist"], ["--plot", "p.svg"], ["--hist", "--plot", "p.svg"]])
@pytest.mark.parametrize("dry", [[], ["--dry-run"]])
@pytest.mark.parametrize("how", ["sparse", "external"])
def test_what_was_read_once_is_read_again(
    gn: Gn, monkeypatch: pytest.MonkeyPatch, how: str, dry: list[str], more: list[str]
) -> None:
    """What the first pass was permitted, the passes of a picture are."""
    monkeypatch.setattr("gncli.tensors.hdf5_safety.WORTH_A_DOUBT", 100)  # bytes, in place of a gigabyte
    monkeypatch.setattr("gncli.tensors.hdf5_safety.SMALL", 100)
    x = np.zeros((2, 4, 30), "f4")
    with h5py.File("f.h5", "w") as file:
        if how == "sparse":
            file.create_dataset("x", x.shape, "f4", chunks=(1, 4, 10))
        else:
            x = normal(2, 4, 30)
            file.create_dataset("x", data=x, external=[("raw.bin", 0, x.nbytes)])
    permit = {"sparse": "--force", "external": "--allow-external"}[how]
    assert permit in gn("normalize", "f.h5::/x", "-g", 2, *more, *dry, code=1).stderr
    assert sorted(os.listdir()) == (["f.h5"] if how == "sparse" else ["f.h5", "raw.bin"])
    done = gn("normalize", "f.h5::/x", "-g", 2, permit, *more, *dry, "--format", "json")
    if "--hist" in more:
        found = json.loads(done.stdout)["histogram"]
        check(found["before"], x)
        assert sum(found["after"]["counts"]) == x.size
    assert Path("p.svg").exists() is ("--plot" in more)
    assert Path("f.gn.h5").exists() is not bool(dry)


@pytest.mark.parametrize("more", [["--hist"], ["--plot", "p.svg"]])
def test_an_input_that_is_replaced_cannot_be_read_again(gn: Gn, more: list[str]) -> None:
    np.save("x.npy", x := normal(2, 4, 30))
    os.symlink("x.npy", "link.npy")
    for output in ("x.npy", "link.npy"):
        done = gn("normalize", "x.npy", "-g", 2, "-f", "-o", output, *more, code=2)
        assert "x.npy: --hist and --plot read the input again" in done.stderr
    np.testing.assert_array_equal(np.load("x.npy"), x)
