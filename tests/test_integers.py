"""min and max of integers are exact wherever they are reported, and histograms of them miscount none."""

from __future__ import annotations

import json
from bisect import bisect_right
from fractions import Fraction
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from arrays import Array
from conftest import Gn

from gncli import describe
from gncli.histogram import BINS, of_statistics


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


DTYPES = ["i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", ">i8", ">u8"]
SHAPES = [(2, 6, 5, 7), (3, 4, 100), (70, 6), (2, 6, 300, 301)]


def extremes_of(values: Array) -> tuple[int, int]:
    return int(values.min()), int(values.max())


def tensor(dtype: str, shape: tuple[int, ...], least: int | None = None, most: int | None = None) -> Array:
    """Values of all the range, with both ends of it among them."""
    native = np.dtype(dtype).newbyteorder("=")
    least = np.iinfo(dtype).min if least is None else least
    most = np.iinfo(dtype).max if most is None else most
    x = np.random.default_rng(1).integers(least, most, shape, native, endpoint=True)
    x.flat[[x.size // 3, x.size // 2]] = least, most
    return x.astype(dtype)


def reported(gn: Gn, *words: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in gn(*words, "--format", "json").stdout.splitlines()]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_of_the_whole(gn: Gn, dtype: str, shape: tuple[int, ...]) -> None:
    x = tensor(dtype, shape)
    np.save("x.npy", x)
    least, most = extremes_of(x)
    (row,) = reported(gn, "stats", "x.npy", "-j", "2", "--memory", "1M")
    before = reported(gn, "normalize", "x.npy", "-g", "2", "-n")[0]["before"]
    for found in (row, before, describe(x)):
        assert (found["min"], found["max"]) == (least, most)
        assert type(found["min"]) is type(found["max"]) is int
    header, line = (text.split("\t") for text in gn("stats", "x.npy", "--format", "tsv").stdout.splitlines())
    assert [line[header.index(name)] for name in ("min", "max")] == [str(least), str(most)]
    assert f" {least} " in gn("stats", "x.npy").stdout
    table = gn("normalize", "x.npy", "-g", "2", "-n").stdout
    assert f" {least} " in table
    assert f" {most} " in table


@pytest.mark.parametrize(
    ("least", "most"), [(-(2**53) - 1, 2**53 + 1), (2**62, 2**62 + 3), (-(2**63), -(2**63) + 1), (5, 9)]
)
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("layout", ["channels_first", "channels_last"])
@pytest.mark.parametrize("shape", SHAPES[:3])
def test_of_each_part(gn: Gn, shape: tuple[int, ...], layout: str, order: Any, least: int, most: int) -> None:
    x = tensor("i8", shape, least, most)
    last = layout == "channels_last"
    np.save("x.npy", np.asarray(np.moveaxis(x, 1, -1) if last else x, order=order))
    parts = {"channel": x.reshape(*x.shape[:2], -1), "group": x.reshape(len(x), 2, -1)}
    for name, rows in parts.items():
        found = reported(gn, "stats", "x.npy", "--layout", layout, "-g", "2", "--by", name, "--by", "sample")
        assert [row["min"] for row in found] == rows.min(-1).ravel().tolist()
        assert [row["max"] for row in found] == rows.max(-1).ravel().tolist()


def test_tiles_below_and_beyond_what_float64_holds(gn: Gn) -> None:
    """Their extremes meet in one merge, which must not go through float64."""
    x = np.zeros((1, 4, 300_000), "u8")
    x[0, 1], x[0, 2, 7], x[0, 3, 9] = 3, 2**64 - 1, 2**53 + 1
    np.save("x.npy", x)
    rows = reported(gn, "stats", "x.npy", "--by", "channel")
    assert [(row["min"], row["max"]) for row in rows] == [(0, 0), (3, 3), (0, 2**64 - 1), (0, 2**53 + 1)]
    assert describe(x)["max"] == 2**64 - 1
    assert describe(x[:, :2])["max"] == 3


def test_values_that_round_down_to_the_limit() -> None:
    """2**53 + 1 is 2**53 as a float64, which is one too few for it to count as held."""
    x = np.array([2**53 + 1] * 3 + [2**53 - 1])
    found = describe(x)
    assert found["mean"] == float(Fraction(sum(x.tolist()), 4))
    assert found["std"] == pytest.approx(np.std([1, 1, 1, -1]), rel=1e-15)
    assert found["max"] == 2**53 + 1


def test_in_hdf5_and_in_what_info_shows(gn: Gn) -> None:
    with h5py.File("x.h5", "w") as file:
        file.create_dataset("d", data=tensor("u8", (2, 6, 5)), chunks=(1, 3, 5), compression="gzip")
        file["d"].attrs["top"] = np.uint64(2**64 - 1)
    assert reported(gn, "stats", "x.h5")[0]["max"] == 2**64 - 1
    assert reported(gn, "info", "x.h5")[0]["attributes"]["top"] == 2**64 - 1
    assert "18446744073709551615" in gn("info", "x.h5").stdout


def test_of_nothing(gn: Gn) -> None:
    np.save("x.npy", np.empty((2, 0, 3), "i8"))
    assert reported(gn, "stats", "x.npy")[0]["min"] is None


def test_floats_stay_floats() -> None:
    found = describe(np.array([1.0, 2.0]))
    assert type(found["min"]) is type(found["max"]) is float


# Histograms


def counted(values: list[int], bins: int) -> list[int]:
    """In `bins` equal bins, the last of which is closed, by fractions."""
    least, most = Fraction(min(values)), Fraction(max(values))
    if least == most:
        least, most = least - Fraction(1, 2), most + Fraction(1, 2)
    edges = [least + (most - least) * index / bins for index in range(bins + 1)]
    counts = [0] * bins
    for value in values:
        counts[min(bisect_right(edges, value), bins) - 1] += 1
    return counts


RANGES = [
    (-(2**63), 2**63 - 1), (2**62, 2**62 + 19), (2**62, 2**62 + 20), (2**53, 2**53 + 1),
    (-(2**54), 7 - 2**54), (2**63 - 1, 2**63 - 1), (-(2**63), -(2**63)), (-3, 2**53 + 1),
    (2**60, 2**60 + 2**55 + 1),
]  # fmt: skip


@pytest.mark.parametrize(("least", "most"), RANGES)
@pytest.mark.parametrize("bins", [1, 2, 7, BINS, 100])
def test_every_integer_is_in_its_bin(least: int, most: int, bins: int) -> None:
    x = tensor("i8", (2, 4, 50), least, most).ravel()
    histogram = of_statistics(describe(x), bins)
    assert histogram is not None
    histogram.add(histogram.count(x))
    row = histogram.row()
    assert row["counts"] == counted(x.tolist(), bins)
    assert row["edges"] == sorted(row["edges"])
    assert row["edges"][0] == least
    assert row["edges"][-1] == most + (least == most)


def test_of_unsigned_integers(gn: Gn) -> None:
    x = tensor("u8", (2, 4, 50))
    np.save("x.npy", x)
    (row,) = reported(gn, "stats", "x.npy", "--hist")
    assert row["histogram"]["counts"] == counted(x.ravel().tolist(), BINS)
    (row,) = reported(gn, "normalize", "x.npy", "-g", "2", "--hist")
    assert row["histogram"]["before"]["counts"] == counted(x.ravel().tolist(), BINS)
    assert "18446744073709551615" in gn("stats", "x.npy", "--hist").stdout


@pytest.mark.parametrize(
    "values",
    [
        [1e20] * 4, [2.0**53, 2.0**53 + 2], [1e20, float(np.nextafter(1e20, np.inf))], [5e-324, 0.0],
        [-1e300] * 2, [-(2.0**60), -(2.0**60) + 256], [2**64 - 1] * 3, [2**53, 2**53 + 1],
        [1.7976931348623157e308] * 2,
    ],
    ids=str,
)  # fmt: skip
def test_a_range_of_fewer_floats_than_bins(gn: Gn, values: list[float]) -> None:
    np.save("x.npy", np.array(values).reshape(1, -1))
    (row,) = reported(gn, "stats", "x.npy", "--hist")
    assert sum(row["histogram"]["counts"]) == len(values)
    if max(map(abs, values)) < 1e300:
        gn("stats", "x.npy", "-q", "--plot", "p.png")
        assert Path("p.png").exists()
