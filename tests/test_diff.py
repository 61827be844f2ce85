"""`gn diff` on files: its numbers against numpy on whole arrays, its verdicts against what was done."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from arrays import Array, normal
from conftest import Gn, Shell
from oracle import ulp_distance

from gncli.abreast import CHUNK
from gncli.compare import Comparison, compare_files

SHAPE = (4, 8, 6, 10)


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def save(**arrays: Array) -> None:
    for name, array in arrays.items():
        np.save(f"{name}.npy", array)


def diff(gn: Gn, *words: object, code: int = 1) -> dict[str, Any]:
    record: dict[str, Any] = json.loads(gn("diff", *words, "--format", "json", code=code).stdout)
    return record


def compared(gn: Gn, a: Array, b: Array, *words: object, code: int = 1) -> dict[str, Any]:
    save(a=a, b=b)
    return diff(gn, "a.npy", "b.npy", *words, code=code)


def noisy(dtype: str) -> tuple[Array, Array]:
    a = normal(*SHAPE, mean=5, std=30, dtype=dtype)
    b = a + (np.random.default_rng(1).standard_normal(SHAPE) * (np.arange(10) > 4)).astype(a.dtype)
    return a, b.astype(dtype)


@pytest.mark.parametrize("dtypes", [("f4", "f4"), ("f8", "f4"), ("f2", "f4"), (">f4", "<f8"), ("i2", "i2")])
@pytest.mark.parametrize(("rtol", "atol"), [(0, 0), (0, 0.75), (0.02, 0), (0.01, 0.3)])
def test_numbers_are_those_of_numpy(gn: Gn, dtypes: tuple[str, str], rtol: float, atol: float) -> None:
    a, b = noisy("f8")
    a, b = a.astype(dtypes[0]), b.astype(dtypes[1])
    x, y = a.astype("f8"), b.astype("f8")
    off = np.abs(x - y)
    close = np.isclose(x, y, rtol, atol)
    assert not close.all()
    record = compared(gn, a, b, "--rtol", rtol, "--atol", atol)
    assert record["differing"] == np.count_nonzero(~close)
    assert record["share"] == record["differing"] / record["count"] == np.mean(~close)
    assert record["max_abs"] == off.max()
    assert record["mean_abs"] == pytest.approx(off.mean(), rel=1e-12)
    elsewhere = (off[y != 0] / np.abs(y[y != 0])).max()
    zeros = np.count_nonzero((y == 0) & (x != 0))
    assert record["max_rel"] == (None if zeros else elsewhere)
    assert (record["max_rel_elsewhere"], record["differing_where_b_is_0"]) == (elsewhere, zeros)
    assert record["worst_index"] == list(np.unravel_index(off.argmax(), SHAPE))
    assert (record["worst_a"], record["worst_b"]) == (x.flat[off.argmax()], y.flat[off.argmax()])
    if a.dtype.kind == "f":
        short = min(a.dtype, b.dtype, key=lambda dtype: dtype.itemsize).newbyteorder("=")
        assert record["max_ulp"] == ulp_distance(a.astype(short), b.astype(short)).max()
    else:
        assert record["max_ulp"] == off.max()


@pytest.mark.parametrize("rtol", [0, 1e-3, 0.0137])
def test_the_least_tolerance_passes_and_none_below_it(gn: Gn, rtol: float) -> None:
    record = compared(gn, *noisy("f4"), "--rtol", rtol)
    passing, ulp = record["passing_atol"], record["passing_max_ulp"]
    files = ("a.npy", "b.npy", "--rtol", rtol)
    assert diff(gn, *files, "--atol", repr(passing), code=0)["differing"] == 0
    assert diff(gn, *files, "--atol", repr(np.nextafter(passing, 0).item()))["differing"] > 0
    assert diff(gn, *files, "--max-ulp", ulp, code=0)["equal"]
    assert diff(gn, *files, "--max-ulp", ulp - 1)["differing"] > 0


def test_ulp_or_atol_is_enough_for_an_element(gn: Gn) -> None:
    a = np.array([1e-8, 1.0, 100.0], "f4")
    b = np.array([2e-8, 1.0, np.nextafter(np.float32(100), np.float32(200))], "f4")
    assert compared(gn, a, b, "--atol", 1e-7)["differing"] == 1
    assert compared(gn, a, b, "--max-ulp", 1)["differing"] == 1
    record = compared(gn, a, b, "--max-ulp", 1, "--atol", 1e-7, code=0)
    assert record["verdict"] == "equal within the tolerance"


@pytest.mark.parametrize(
    ("a", "b", "differing"),
    [
        ([np.nan, 1], [np.nan, 1], 0),
        ([np.nan, 1], [1, 1], 1),
        ([np.inf, -np.inf], [np.inf, -np.inf], 0),
        ([np.inf, 1], [-np.inf, 1], 1),
        ([np.inf, 1], [3e38, 1], 1),
        ([0.0, 1], [-0.0, 1], 0),
    ],
)
def test_nan_and_infinity(gn: Gn, a: list[float], b: list[float], differing: int) -> None:
    left, right = np.array(a, "f4"), np.array(b, "f4")
    record = compared(gn, left, right, code=int(differing > 0))
    assert record["differing"] == record["nonfinite_differing"] == differing
    if differing:  # and no tolerance would do
        assert record["passing_atol"] is None
        assert record["worst_index"] == [0]
        assert compared(gn, left, right, "--atol", 1e300, "--max-ulp", 2**31)["differing"] == 1
    nans = int(np.isnan(left).sum())
    assert compared(gn, left, right, "--nan-differ", code=int(differing + nans > 0))["differing"] == max(
        differing, nans
    )


def test_integers_that_float64_cannot_hold(gn: Gn) -> None:
    a = np.array([2**62, 5], "i8")
    record = compared(gn, a, a + np.array([1, 0]))
    assert (record["differing"], record["max_abs"], record["passing_max_ulp"]) == (1, 1.0, 1)
    assert (record["worst_a"], record["worst_b"]) == (2**62, 2**62 + 1)


@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 2), (1,), (7,), (CHUNK + 1,)])
def test_odd_shapes(gn: Gn, shape: tuple[int, ...]) -> None:
    a = np.full(shape, 2.0)
    assert compared(gn, a, a.astype("f4"), code=0)["count"] == a.size
    if a.size:
        b = a.copy()
        b.flat[-1] = 3
        record = compared(gn, a, b)
        assert (record["differing"], record["max_abs"]) == (1, 1.0)
        assert record["worst_index"] == [length - 1 for length in shape]


def test_memory_order_does_not_matter(gn: Gn) -> None:
    a, b = noisy("f4")
    expected = compared(gn, a, b)
    for left, right in ((np.asfortranarray(a), b), (np.asfortranarray(a), np.asfortranarray(b))):
        record = compared(gn, left, right)
        assert {key: record[key] for key in record if key != "mean_abs"} == {
            key: expected[key] for key in expected if key != "mean_abs"
        }
    assert compared(gn, np.asfortranarray(a), a, code=0)["equal"]


def affine_groups(a: Array) -> Array:
    """Each of (4 samples, 2 groups) scaled and shifted."""
    rows = a.astype("f8").reshape(4, 2, -1) * np.linspace(1, 2, 8).reshape(4, 2, 1)
    return (rows + np.linspace(-1, 1, 8).reshape(4, 2, 1)).reshape(a.shape).astype(a.dtype)


A = normal(*SHAPE)
VERDICTS: list[tuple[Array, str]] = [
    (np.nextafter(A, np.float32(9)), "different; same up to rounding"),
    (A + np.float32(0.5), "different; off by a constant: a = b - 0.5"),
    (A * np.float32(-4), "different; off by a factor: a = -0.25·b"),
    (A * np.float32(2) + np.float32(6), "different; off by an affine map: a = 0.5·b - 3"),
    (A.byteswap(), "different; byte-swapped: b holds the bytes of a's elements in reverse"),
    (
        A.transpose(0, 2, 3, 1),
        "the shapes differ; transposed: b is a in the order (0, 2, 3, 1) of axes, as NCHW to NHWC",
    ),
    (
        np.asfortranarray(A.transpose(0, 2, 3, 1)),
        "the shapes differ; transposed: b is a in the order (0, 2, 3, 1) of axes, as NCHW to NHWC",
    ),
    (
        A.transpose(0, 2, 3, 1).reshape(SHAPE),
        "different; transposed: b is a in the order (0, 2, 3, 1) of axes, as NCHW to NHWC, "
        "reshaped from (4, 6, 10, 8) to (4, 8, 6, 10)",
    ),
    (A[:2], "the shapes differ"),
    (A[::-1].copy(), "different"),
    (normal(*SHAPE, dtype="f8") ** 2, "different"),
]  # fmt: skip


@pytest.mark.parametrize(("b", "verdict"), VERDICTS, ids=lambda value: str(value)[:40])
def test_verdicts(gn: Gn, b: Array, verdict: str) -> None:
    assert compared(gn, A, b)["verdict"] == verdict


def test_a_verdict_is_confirmed_on_every_element(gn: Gn) -> None:
    """A constant in all elements that the guess was made from, and not in one between them."""
    a = normal(64, 8, 20, 30)
    b = a + np.float32(0.5)
    assert "off by a constant" in compared(gn, a, b)["verdict"]
    b[5, 3, 1, 1] += 1e-3
    assert compared(gn, a, b)["verdict"] == "different"


def test_transposed_twice_the_same_sizes(gn: Gn) -> None:
    a = normal(5, 5, 7)
    assert "order (1, 0, 2) of axes" in compared(gn, a, a.transpose(1, 0, 2))["verdict"]


@pytest.mark.parametrize("order", ["C", "F"])
def test_groups(gn: Gn, order: Any) -> None:
    a, b = A.copy(order=order), affine_groups(A).copy(order=order)
    record = compared(gn, a, b, "--groups", 2)
    assert record["verdict"].startswith("different; off per group by an affine map, so a statistic differs")
    assert (record["layout"], record["groups"], record["grouping"]) == ("NCHW", 2, "contiguous")
    rows = record["group_differences"]
    cells = [side.astype("f8").reshape(4, 2, -1) for side in (A, affine_groups(A))]
    means, stds = ([getattr(cell, name)(-1) for cell in cells] for name in ("mean", "std"))
    assert {(row["sample"], row["group"]) for row in rows} == set(np.ndindex(4, 2))
    for row in rows:
        at = row["sample"], row["group"]
        expected = [means[0][at], means[1][at], stds[0][at], stds[1][at]]
        assert [row[name] for name in ("mean_a", "mean_b", "std_a", "std_b")] == pytest.approx(expected)
        assert row["mean_diff"] == pytest.approx(means[0][at] - means[1][at])
        assert row["std_diff"] == pytest.approx(stds[0][at] - stds[1][at])
    apart = [max(abs(row["mean_diff"]), abs(row["std_diff"])) for row in rows]
    assert apart == sorted(apart, reverse=True)


@pytest.mark.parametrize("grouping", ["contiguous", "interleaved"])
def test_groups_in_another_layout(gn: Gn, grouping: str) -> None:
    a = normal(3, 5, 6, mean=2)
    c = np.arange(6)
    factor = np.where((c % 2 if grouping == "interleaved" else c // 3) == 1, 2, 1)
    b = (a * factor).astype("f4")
    record = compared(gn, a, b, "--groups", 2, "--layout", "NLC", "--grouping", grouping)
    assert "off per group by an affine map" in record["verdict"]
    wrong = "contiguous" if grouping == "interleaved" else "interleaved"
    record = compared(gn, a, b, "--groups", 2, "--layout", "NLC", "--grouping", wrong)
    assert record["verdict"] == "different"


def test_groups_that_do_not_divide_are_trouble(gn: Gn) -> None:
    save(a=A)
    done = gn("diff", "a.npy", "a.npy", "--groups", 3, code=2)
    assert done.stderr == "gn: error: a.npy: 8 channels do not divide into 3 groups; valid: 1, 2, 4, 8\n"


@pytest.mark.parametrize(("a", "b"), [("i8", "f8"), ("u1", "f4"), ("i4", "u8"), ("?", "i2"), ("f2", "c8")])
def test_equal_values_of_two_kinds_are_equal(gn: Gn, a: str, b: str) -> None:
    record = compared(gn, np.arange(2).astype(a), np.arange(2).astype(b), code=0)
    assert (record["equal"], record["differing"]) == (True, 0)
    assert record["verdict"] == f"equal; of two kinds of dtype, {np.dtype(a).name} and {np.dtype(b).name}"
    assert compared(gn, np.arange(2).astype(a), np.ones(2, b))["verdict"].startswith("different")


def test_hdf5_files_dataset_by_dataset(gn: Gn) -> None:
    for name in "ab":
        with h5py.File(f"{name}.h5", "w") as file:
            file["net/x"] = A
            file["net/y"] = A[0] if name == "a" else A[0] + 1
            file[f"only_{name}"] = A[:, 0]
    lines = gn("diff", "a.h5", "b.h5", "--format", "json", code=1).stdout.splitlines()
    found = {(record["a"], record["b"]): record["verdict"] for record in map(json.loads, lines)}
    assert list(found) == [
        ("a.h5::/net/x", "b.h5::/net/x"), ("a.h5::/net/y", "b.h5::/net/y"),
        ("a.h5::/only_a", None), (None, "b.h5::/only_b"),
    ]  # fmt: skip
    assert [text.partition(":")[0] for text in found.values()] == [
        "equal", "different; off by a constant", "only in a", "only in b",
    ]  # fmt: skip
    assert len(gn("diff", "a.h5", "b.h5", code=1).stdout.splitlines()) == 5
    gn("diff", "a.h5::/net/*", "b.h5::/net/*", code=1)
    save(a=A)
    assert "name one there" in gn("diff", "a.npy", "b.h5", code=2).stderr
    assert gn("diff", "a.npy", "b.h5::/net/x").stdout.endswith("\nequal\n")


def test_trouble(gn: Gn) -> None:
    save(a=A)
    Path("bad.npy").write_bytes(Path("a.npy").read_bytes()[:-1])
    Path("folder").mkdir()
    for other in ("bad.npy", "folder", "none.npy"):
        done = gn("diff", "a.npy", other, code=2)
        assert done.stderr.startswith(f"gn: error: {other}: ")
        assert not done.stdout
    gn("diff", "a.npy", code=2)
    gn("diff", "a.npy", "a.npy", "--atol", "-1", code=2)


def test_quiet_is_the_code_alone(shell: Shell) -> None:
    save(a=A, b=A + 1)
    assert shell("$gn diff -q a.npy a.npy").stdout == ""
    done = shell("$gn diff -q a.npy b.npy", code=1)
    assert not done.stdout + done.stderr


def test_table(gn: Gn) -> None:
    b = A.copy()
    b[1, 2, 3, 4] += 1
    save(a=A, b=b)
    lines = gn("diff", "a.npy", "b.npy", "-g", 2, code=1).stdout.splitlines()
    assert lines[0] == "a           a.npy: float32 (4, 8, 6, 10)"
    assert lines[2] == "differing   1 of 1920, 0.0521 %"
    assert f"worst       (1, 2, 3, 4): {A[1, 2, 3, 4]:.6g} and {b[1, 2, 3, 4]:.6g}" in lines
    assert any(line.startswith("would pass  --atol ") for line in lines)
    assert lines[-1] == "different"
    first = lines[lines.index("NCHW, groups 2, contiguous: the most different") + 3]
    assert first.split()[:2] == ["1", "0"]


@pytest.mark.parametrize("order", ["C", "F"])
def test_memory_is_bounded(order: Any) -> None:
    a = normal(40, 64, 50, 50)  # 26 MB; 51 MB of both, 100 as float64
    b = a.copy(order=order)
    b[:, :, ::3] += 1e-3
    save(a=a, b=b)
    del a, b
    tracemalloc.start()
    compare_files("a.npy", "b.npy", Comparison(jobs=1))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 25 << 20


def test_one_side_or_both_on_a_pipe(shell: Shell) -> None:
    save(a=A, b=A + np.float32(0.5))
    with h5py.File("a.h5", "w") as file:
        file["x"] = A
    assert shell("cat a.npy | $gn diff - a.npy -g 2").stdout.endswith("\nequal\n")
    done = shell("cat b.npy | $gn diff a.npy - --format json", code=1)
    assert json.loads(done.stdout)["verdict"] == "different; off by a constant: a = b - 0.5"
    assert "off by a constant" in shell("$gn diff <(cat a.npy) <(cat b.npy)", code=1).stdout
    assert shell("cat a.h5 | $gn diff a.npy -- -::/x").stdout.endswith("\nequal\n")
    assert "is truncated" in shell("head -c 999 a.npy | $gn diff - a.npy", code=2).stderr
