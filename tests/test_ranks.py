"""Any letter, any rank up to numpy's limit, N or B or neither: every command against plain numpy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from arrays import Array
from conftest import Gn

from gncli import group_norm
from gncli.layout import MAX_RANK


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def records(gn: Gn, *words: str, code: int = 0) -> list[dict[str, Any]]:
    shown = gn(*words, "--format", "json", code=code)
    return [json.loads(line) for line in shown.stdout.splitlines()]


def tensor(shape: tuple[int, ...]) -> Array:
    """Samples and channels of means and sizes that differ much."""
    random = np.random.default_rng(len(shape))
    x: Array = random.standard_normal(shape) + 10 * random.standard_normal(
        shape[:2] + (1,) * (len(shape) - 2)
    )
    return x


def normalized(x: Array, groups: int) -> Array:
    """Of samples and channels first."""
    rows = x.reshape(len(x), groups, -1)
    y = (rows - rows.mean(-1, keepdims=True)) / np.sqrt(rows.var(-1, keepdims=True) + 1e-5)
    return np.asarray(y.reshape(x.shape))


def shape_of(rank: int) -> tuple[int, ...]:
    """Two samples of four channels, and space that is longer than 1 on its first and last axes."""
    space = [1] * (rank - 2)
    if space:
        space[0], space[-1] = 3, 2
    return (2, 4, *space)


RANKS = [2, 8, 10, 11, 12, 24, 25, 26, 27, 30, 31, 32, 33, 40, 63, MAX_RANK]


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("rank", RANKS)
@pytest.mark.parametrize("layout", ["channels_first", "channels_last"])
def test_every_command_takes_every_rank(gn: Gn, rank: int, layout: str, order: Any) -> None:
    first = tensor(shape_of(rank))
    last = layout == "channels_last"

    def turned(array: Array) -> Array:
        return np.asarray(np.moveaxis(array, 1, -1) if last else array, order=order)

    x, y = turned(first), turned(normalized(first, 2))
    np.save("x.npy", x)
    (done,) = records(gn, "normalize", "x.npy", "-g", "2", "--layout", layout)
    assert done["shape"] == list(x.shape)
    assert len(done["grouped_shape"]) == rank + 1
    assert np.load("x.gn.npy").shape == x.shape
    assert np.allclose(np.load("x.gn.npy"), y, rtol=0, atol=1e-12)
    assert np.array_equal(group_norm(x, 2, layout=layout), np.load("x.gn.npy"))

    rows = records(gn, "stats", "x.npy", "--by", "channel", "--by", "sample", "--layout", layout)
    assert [(row["sample"], row["channel"]) for row in rows] == [(n, c) for n in range(2) for c in range(4)]
    assert [row["mean"] for row in rows] == pytest.approx(first.reshape(8, -1).mean(1).tolist())

    np.save("z.npy", np.where(np.arange(2).reshape((2,) + (1,) * (rank - 1)) == 0, x, x + 1))
    (apart,) = records(gn, "diff", "x.npy", "z.npy", "-g", "2", "--layout", layout, code=1)
    assert apart["group_differences"][0]["sample"] == 1
    assert apart["group_differences"][0]["mean_diff"] == pytest.approx(-1)
    assert len(apart["worst_index"]) == rank

    (found,) = records(gn, "identify", "x.npy", "x.gn.npy", "--layout", layout)
    assert found["match"]
    assert found["candidates"][0]["groups"] == 2
    (header,) = records(gn, "info", "x.npy")
    assert all(counts for counts in header["groups"].values())


@pytest.mark.parametrize("rank", RANKS)
def test_identify_without_a_layout(gn: Gn, rank: int) -> None:
    """The line that it gives can be run, whatever the rank."""
    x = tensor(shape_of(rank))
    np.save("x.npy", x)
    np.save("y.npy", normalized(x, 2))
    (found,) = records(gn, "identify", "x.npy", "y.npy")
    words = found["candidates"][0]["command"].split()
    gn(*words[1:], "-o", "again.npy")
    assert np.allclose(np.load("again.npy"), normalized(x, 2), rtol=0, atol=1e-12)


def test_more_axes_than_numpy_takes(gn: Gn) -> None:
    np.save("x.npy", np.ones((2, 4)))
    raw = Path("x.npy").read_bytes()
    text = b"{'descr': '<f8', 'fortran_order': False, 'shape': (2, 4" + b", 1" * 63 + b"), }"
    body = text.ljust(502) + b"\n"
    Path("y.npy").write_bytes(raw[:8] + len(body).to_bytes(2, "little") + body + np.ones(8).tobytes())
    for words, code in (
        (["stats", "y.npy"], 1),
        (["info", "y.npy"], 1),
        (["normalize", "y.npy", "-g", "2"], 1),
        (["diff", "y.npy", "y.npy"], 2),
        (["identify", "y.npy", "y.npy"], 2),
    ):
        shown = gn(*words, code=code)
        assert shown.stderr.count("\n") == 1
        assert shown.stderr.startswith("gn: error: y.npy: declares 65 axes; gn and numpy take 64 at most")


def test_more_axes_than_hdf5_takes(gn: Gn) -> None:
    np.save("x.npy", tensor(shape_of(33)))
    shown = gn("normalize", "x.npy", "-g", "2", "-o", "x.h5", code=1)
    assert (
        shown.stderr == "gn: error: x.h5: HDF5 takes 32 axes at most, the tensor has 33; write .npy instead\n"
    )
    assert not Path("x.h5").exists()
    with h5py.File("y.h5", "w") as file:
        file["d"] = tensor(shape_of(32))
    gn("normalize", "y.h5", "-g", "2", "-q")
    with h5py.File("y.gn.h5") as file:
        assert file["d"][()] == pytest.approx(normalized(tensor(shape_of(32)), 2), abs=1e-12)


LETTERS = "ABDEFGHIJKLMOPQRSTUVWXYZ"


@pytest.mark.parametrize("letter", LETTERS)
def test_every_letter_names_space(gn: Gn, letter: str) -> None:
    word = f"NC{letter}{'W' if letter != 'W' else 'H'}"
    x = tensor((3, 4, 5, 6))
    np.save("x.npy", x)
    if letter == "B":
        gn("normalize", "x.npy", "-g", "2", "--layout", word, code=2)
        return
    rows = records(gn, "stats", "x.npy", "--layout", word, "-g", "1", "--by", "channel")
    assert [row["mean"] for row in rows] == pytest.approx(x.mean((0, 2, 3)).tolist())
    assert [row["channel"] for row in rows] == [0, 1, 2, 3]
    gn("normalize", "x.npy", "-g", "2", "--layout", word, "-q")
    assert np.load("x.gn.npy") == pytest.approx(normalized(x, 2), abs=1e-12)
    assert np.array_equal(group_norm(x, 2, layout=word), np.load("x.gn.npy"))
    (found,) = records(gn, "identify", "x.npy", "x.gn.npy", "--layout", word)
    assert found["match"]


@pytest.mark.parametrize("word", ["BCHW", "bchw", "NCHW"])
def test_b_is_the_sample(gn: Gn, word: str) -> None:
    x = tensor((2, 8, 4, 4))
    np.save("x.npy", x)
    (done,) = records(gn, "normalize", "x.npy", "-g", "2", "--layout", word)
    assert done["layout"] == "NCHW"
    assert not done["one_sample"]
    assert np.load("x.gn.npy") == pytest.approx(normalized(x, 2), abs=1e-12)
    assert np.array_equal(group_norm(x, 2, layout=word), np.load("x.gn.npy"))
    rows = records(gn, "stats", "x.npy", "--by", "sample", "--layout", word)
    assert [row["mean"] for row in rows] == pytest.approx(x.reshape(2, -1).mean(1).tolist())


def test_bhwc(gn: Gn) -> None:
    x = tensor((2, 8, 4, 4))
    np.save("x.npy", np.moveaxis(x, 1, -1))
    gn("normalize", "x.npy", "-g", "2", "--layout", "bhwc", "-q")
    assert np.load("x.gn.npy") == pytest.approx(np.moveaxis(normalized(x, 2), 1, -1), abs=1e-12)


def test_both_are_too_many(gn: Gn) -> None:
    np.save("x.npy", tensor((2, 8, 4, 4)))
    shown = gn("normalize", "x.npy", "-g", "2", "--layout", "NBCH", code=2)
    assert "layout NBCH has N and B, which both name the sample" in shown.stderr


SAID = "the whole tensor is one sample"


def test_without_n_the_report_says_so(gn: Gn) -> None:
    x = tensor((1, 8, 4, 4))[0]
    np.save("x.npy", x)
    np.save("y.npy", normalized(x[None], 2)[0])
    for layout, batch in (("CHW", False), ("NCL", True)):
        lines = gn("normalize", "x.npy", "-n", "-g", "1" if batch else "2", "--layout", layout).stdout
        assert (SAID in lines.splitlines()[1]) != batch
        by = gn("stats", "x.npy", "--layout", layout, "--by", "sample", "--by", "channel").stdout
        assert (f"layout {layout} has no N: {SAID}" in by) != batch
        apart = gn("diff", "x.npy", "y.npy", "--layout", layout, "-g", "1", code=1).stdout
        assert (SAID in apart) != batch
        for words in (
            ["normalize", "x.npy", "-n", "-g", "1"],
            ["stats", "x.npy", "--by", "sample"],
            ["diff", "x.npy", "x.npy", "-g", "1"],
        ):
            assert records(gn, *words, "--layout", layout)[0]["one_sample"] != batch
    found = gn("identify", "x.npy", "y.npy", "--layout", "CHW").stdout
    assert f"layout CHW has no N: {SAID}" in found
    assert SAID not in gn("identify", "x.npy", "y.npy", "--layout", "NCL", code=1).stdout
