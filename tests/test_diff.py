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
        assert compared(gn, left, right) == expected
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


# Where b is 0, and how many ulps that is


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", "i4"])
def test_elements_where_b_is_0(gn: Gn, dtype: str) -> None:
    """A tile that was never written: the relative error there is infinite, and is not left out."""
    a = normal(4, 8, 6, 10, mean=50).astype(dtype)
    b = a.copy()
    b[0, 0] += 1
    b[1, :4, 2] = 0  # 40 elements
    b[2, 0, 0, 0] = a[2, 0, 0, 0] = 0
    x, y = a.astype("f8"), b.astype("f8")
    record = compared(gn, a, b)
    zeros = (y == 0) & (x != 0)
    assert (record["max_rel"], record["differing_where_b_is_0"]) == (None, np.count_nonzero(zeros))
    elsewhere = (np.abs(x - y)[y != 0] / np.abs(y[y != 0])).max()
    assert record["max_rel_elsewhere"] == elsewhere
    lines = gn("diff", "a.npy", "b.npy", code=1).stdout.splitlines()
    assert f"max rel     inf ({np.count_nonzero(zeros)} where b is 0), {elsewhere:.6g} elsewhere" in lines
    header = gn("diff", "a.npy", "b.npy", "--format", "tsv", code=1).stdout.splitlines()[0].split("\t")
    assert {"max_rel", "differing_where_b_is_0"} <= set(header)
    for name, array in (("a", a), ("b", b)):
        with h5py.File(f"{name}.h5", "w") as file:
            file["x"] = array
            file["y"] = array
    assert "  inf (40 where b is 0)  " in gn("diff", "a.h5", "b.h5", code=1).stdout


@pytest.mark.parametrize("dtypes", [("f4", "f4"), ("f8", "f8"), ("f2", "f2"), ("f8", "f4"), (">f4", "<f2")])
@pytest.mark.parametrize("scale", [1e-7, 3e-5, 0.3])
def test_ulps_of_most_and_at_the_largest_magnitude(gn: Gn, dtypes: tuple[str, str], scale: float) -> None:
    """Noise on zeros is millions of ulps of its own, and less than one of the largest value."""
    a = normal(50, 8, 60, mean=1).astype("f8")
    a[:, 3] = 0
    b = a + scale * np.random.default_rng(1).standard_normal(a.shape)
    a, b = a.astype(dtypes[0]), b.astype(dtypes[1])
    record = compared(gn, a, b)
    short = min(a.dtype, b.dtype, key=lambda dtype: dtype.itemsize).newbyteorder("=")
    ulp = np.sort(ulp_distance(a.astype(short), b.astype(short)), axis=None)
    expected = ulp[ulp.size - ulp.size // 1000 - 1]
    assert expected <= record["ulp_q999"] <= expected * (1 if expected < 2048 else 1.001)
    top = max(np.abs(a).max(), np.abs(b).max())
    assert record["scaled_ulp"] == pytest.approx(record["max_abs"] / np.spacing(top.astype(short)))
    shown = gn("diff", "a.npy", "b.npy", code=1).stdout
    assert f"99.9 % ulp  {record['ulp_q999']} or less\n" in shown
    assert f"scaled ulp  {record['scaled_ulp']:.6g}, of the largest magnitude\n" in shown


def test_few_that_are_far_off_are_told_from_many(gn: Gn) -> None:
    a = np.ones(10_000, "f4")
    for far, expected in ((10, 1), (11, 2**23)):
        b = np.nextafter(a, np.float32(2))
        b[:far] = 2
        record = compared(gn, a, b)
        assert (record["ulp_q999"], record["max_ulp"]) == (expected, 2**23)
    assert compared(gn, a, a, code=0)["ulp_q999"] == 0


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
def test_ulps_at_the_ends_of_the_type(gn: Gn, dtype: str) -> None:
    limits = np.finfo(dtype)
    tiny, huge = limits.smallest_subnormal, limits.max
    assert compared(gn, np.array([tiny * 3, 0], dtype), np.zeros(2, dtype))["scaled_ulp"] == 3
    below = np.nextafter(huge, np.zeros(1, dtype)[0])
    assert compared(gn, np.array([huge]), np.array([below]))["scaled_ulp"] == 1
    record = compared(gn, np.array([huge, 1], dtype), np.array([-huge, 1], dtype))
    assert record["max_ulp"] == pytest.approx(2 * (int(huge.view(f"i{limits.bits // 8}"))))


# What is advised, and what cannot be measured


def test_a_difference_beyond_float64(gn: Gn) -> None:
    a, b = np.array([1.5e308, 1.0]), np.array([-1.5e308, 1.0])
    record = compared(gn, a, b)
    assert (record["max_abs"], record["mean_abs"], record["passing_atol"]) == (None, None, None)
    shown = gn("diff", "a.npy", "b.npy", code=1).stdout
    assert "inf" not in shown[shown.index("would pass") :]
    assert diff(gn, "a.npy", "b.npy", "--max-ulp", record["passing_max_ulp"], code=0)["equal"]
    diff(gn, "a.npy", "b.npy", "--max-ulp", record["passing_max_ulp"] - 2**12)
    assert diff(gn, "a.npy", "b.npy", "--rtol", 2, code=0)["equal"]
    assert diff(gn, "a.npy", "b.npy", "--rtol", 1.999)["differing"] == 1
    assert diff(gn, "a.npy", "b.npy", "--atol", 1.7e308, "--rtol", 1, code=0)["equal"]
    assert diff(gn, "a.npy", "b.npy", "--atol", 1.4e308, "--rtol", 1)["passing_atol"] is None
    gn("diff", "a.npy", "b.npy", "--atol", "inf", code=2)
    record = compared(gn, np.array([1e300]), np.array([-1], "f4"))
    assert (record["passing_atol"], record["passing_max_ulp"]) == (1e300, None)
    assert "would pass  --atol 1e+300\n" in gn("diff", "a.npy", "b.npy", code=1).stdout


@pytest.mark.parametrize("far", [2**53 + 1, 2**62 + 1, 2**63 - 1])
def test_what_is_advised_for_integers_passes(gn: Gn, far: int) -> None:
    record = compared(gn, np.array([far, 5], "i8"), np.array([0, 5], "i8"))
    files = "a.npy", "b.npy"
    assert diff(gn, *files, "--atol", repr(record["passing_atol"]), code=0)["equal"]
    assert diff(gn, *files, "--max-ulp", record["passing_max_ulp"], code=0)["equal"]


@pytest.mark.parametrize("nans", ["a", "b", "both"])
def test_all_nan(gn: Gn, nans: str) -> None:
    """Nothing was measured: that is not a difference of 0."""
    nan = np.full((3, 4), np.nan, "f4")
    a, b = (nan if nans in (name, "both") else normal(3, 4) for name in "ab")
    record = compared(gn, a, b, code=int(nans != "both"))
    for name in ("max_abs", "mean_abs", "max_rel", "max_ulp", "ulp_q999", "scaled_ulp"):
        assert record[name] is None
    assert record["verdict"] == ("equal" if nans == "both" else "different; 12 differ in NaN or infinity")
    assert record["equal"] is (nans == "both")
    for name, array in (("a", a), ("b", b)):
        with h5py.File(f"{name}.h5", "w") as file:
            file["x"] = array
            file["y"] = array
    cells = gn("diff", "a.h5", "b.h5", code=int(nans != "both")).stdout.splitlines()[1].split()
    assert cells[-4:] == ["-"] * 4


@pytest.mark.parametrize("value", [np.nan, 0.0, 3.0, np.inf])
def test_what_is_the_same_everywhere_has_no_order(gn: Gn, value: float) -> None:
    for shape, other in (((2, 3), (3, 2)), ((2, 3, 4), (4, 6)), ((5, 5), (5, 5)), ((), (1,))):
        a, b = np.full(shape, value), np.full(other, value)
        words = ["--nan-differ"] if shape == other else []
        code = int(shape != other or np.isnan(value))
        verdict = compared(gn, a, b, *words, code=code)["verdict"]
        assert "transposed" not in verdict
        assert "reshaped" not in verdict


def test_reshaped_is_not_transposed(gn: Gn) -> None:
    a = normal(4, 6, 5)
    verdict = compared(gn, a, a.reshape(6, 4, 5))["verdict"]
    assert verdict.startswith("the shapes differ; reshaped: b has the elements of a in the same order")
    verdict = compared(gn, a, a.transpose(1, 0, 2))["verdict"]
    assert verdict.startswith("the shapes differ; transposed: b is a in the order (1, 0, 2) of axes")


# Chunks


def written(name: str, array: Array, **options: Any) -> None:
    with h5py.File(f"{name}.h5", "w") as file:
        file.create_dataset("x", data=array, **options)


CHUNKED: list[tuple[Any, Any]] = [
    ((4, 8, 10, 10), (4, 8, 10, 10)),
    ((16, 64, 4, 2), (3, 64, 20, 10)),
    ((1, 64, 20, 10), (16, 1, 20, 10)),
    ((16, 64, 20, 7), None),
    ((2, 2, 2, 2), (4, 4, 4, 4)),
]


@pytest.mark.parametrize(("first", "second"), CHUNKED)
@pytest.mark.parametrize("memory", ["64M", "1M"])
def test_chunks_and_memory_do_not_matter(gn: Gn, first: Any, second: Any, memory: str) -> None:
    a = normal(16, 64, 20, 10, std=9)
    b = a + (np.random.default_rng(1).standard_normal(a.shape) * (np.arange(10) > 4)).astype("f4")
    a[3, 5, 7, 9] = np.nan
    expected = compared(gn, a, b)
    written("a", a, chunks=first, compression="gzip", compression_opts=1)
    written("b", b, chunks=second, compression="gzip" if second else None)
    for jobs in (1, 2):
        record = diff(gn, "a.h5", "b.h5", "--memory", memory, "-j", jobs)
        assert record | {"a": "a.npy", "b": "b.npy"} == expected


CHANGES: list[tuple[str, Any]] = [
    ("different", lambda a: a + np.random.default_rng(1).standard_normal(a.shape).astype("f4")),
    ("off by a constant", lambda a: a + np.float32(0.5)),
    ("different", lambda a: np.where(np.arange(a.size).reshape(a.shape) == a.size - 5, 7, a).astype("f4")),
    ("same up to rounding", lambda a: np.nextafter(a, np.float32(9))),
    ("the shapes differ", lambda a: np.random.default_rng(1).random((16, 8, 16, 16, 16), "f4")),
]


@pytest.mark.parametrize(("verdict", "change"), CHANGES)
@pytest.mark.parametrize("memory", ["64M", "4M"])
def test_each_chunk_is_decoded_once(
    gn: Gn, monkeypatch: pytest.MonkeyPatch, verdict: str, change: Any, memory: str
) -> None:
    """But for a few from which the sample is taken, where the files are too large to be held."""
    from gncli.tensors import hdf5_filters

    decoded = 0
    inflate = hdf5_filters.inflated

    def counted(data: Any, room: int) -> Any:
        nonlocal decoded
        decoded += 1
        return inflate(data, room)

    a = normal(8, 16, 16, 16, 16, std=9)
    for name, array in (("a", a), ("b", change(a))):
        written(name, array, chunks=(2, 4, 8, 8, 8), compression="gzip", compression_opts=1)
    monkeypatch.setattr(hdf5_filters, "inflated", counted)
    assert verdict in diff(gn, "a.h5", "b.h5", "--memory", memory, "-j", "2")["verdict"]
    assert 0 < decoded <= 1.25 * 2 * 128


def test_transposed_in_chunks(gn: Gn) -> None:
    a = normal(8, 16, 40, 30, std=9)
    written("a", a, chunks=(2, 16, 8, 16), compression="gzip")
    written("b", a.transpose(0, 2, 3, 1), chunks=True, compression="gzip")
    for memory in ("64M", "1M"):
        verdict = diff(gn, "a.h5", "b.h5", "--memory", memory)["verdict"]
        assert "transposed: b is a in the order (0, 2, 3, 1) of axes, as NCHW to NHWC" in verdict


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
