"""The columns of TSV depend on the command and its options alone, not on the first tensor or on any other."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import h5py
import numpy as np
import pytest
from arrays import normal
from conftest import Gn


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tensors that have as little in common as may be."""
    monkeypatch.chdir(tmp_path)
    for name in ("a.h5", "b.h5"):
        with h5py.File(name, "w") as file:
            file.create_dataset("chunked", data=normal(2, 4, 3), chunks=(1, 4, 3), compression="gzip")
            file["chunked"].attrs.update({"units": "K", "scale": np.float32(2), "tab\there": "a\tb\nc"})
            file["flat"] = np.arange(6, dtype="u8") + (name == "b.h5")
            file["flat"].attrs["other"] = np.nan
            file["nan"] = np.full((2, 4, 3, 2), np.nan)
            file["shaped"] = normal(2, 4, 3 if name == "a.h5" else 4)
            file[f"only_in_{name[0]}"] = np.float64(1)
    np.save("x.npy", normal(2, 4, 5))
    np.save("empty.npy", np.empty((2, 0, 4)))
    np.save("nan.npy", np.full((2, 4, 5), np.nan))


def rows(gn: Gn, words: str, code: int = 0) -> list[dict[str, str]]:
    """The rows by column, each of which has a field for every column."""
    text = gn(*words.split(), "--format", "tsv", code=code).stdout
    table = [line.split("\t") for line in text.splitlines()]
    assert {len(line) for line in table} == {len(table[0])}
    assert len(set(table[0])) == len(table[0])
    return [dict(zip(table[0], line, strict=True)) for line in table[1:]]


def header(gn: Gn, words: str, code: int = 0) -> list[str]:
    return list(rows(gn, words, code)[0])


COMMANDS = [
    (
        "info",
        ["a.h5::/chunked", "a.h5::/flat", "a.h5::/only_in_a", "x.npy", "empty.npy", "a.h5::/nan"],
        "",
        0,
    ),
    ("stats", ["a.h5::/chunked", "a.h5::/flat", "x.npy", "empty.npy", "nan.npy"], "", 0),
    ("stats", ["nan.npy", "x.npy", "empty.npy", "a.h5::/flat"], " --hist", 0),
    ("stats", ["x.npy", "a.h5::/chunked", "a.h5::/nan"], " --by sample", 0),
    ("normalize", ["nan.npy", "x.npy", "a.h5::/chunked", "empty.npy"], " -g 2 -n --hist", 0),
    ("normalize", ["x.npy", "nan.npy", "a.h5::/chunked"], " -g 2 -n", 0),
]


@pytest.mark.parametrize(("command", "inputs", "options", "code"), COMMANDS)
def test_whatever_comes_first(gn: Gn, command: str, inputs: list[str], options: str, code: int) -> None:
    expected = header(gn, f"{command} {inputs[0]}{options}", code)
    for turn in range(len(inputs)):
        turned = inputs[turn:] + inputs[:turn]
        found = rows(gn, f"{command} {' '.join(turned)}{options}", code)
        assert list(found[0]) == expected
        assert list(dict.fromkeys(row["input"] for row in found)) == turned


@pytest.mark.parametrize("options", ["", " -g 2 --layout NCL", " -g 2"])
def test_of_pairs(gn: Gn, options: str) -> None:
    """Equal, different, of two shapes."""
    headers = []
    for kind in ["chunked", "shaped"] if options else ["chunked", "flat", "shaped"]:
        code = 0 if kind == "chunked" else 1
        headers.append(header(gn, f"diff a.h5::/{kind} b.h5::/{kind}{options}", code))
    assert all(one == headers[0] for one in headers)
    assert ("group_differences" in headers[0]) == bool(options)


def test_of_two_files(gn: Gn) -> None:
    found = rows(gn, "diff a.h5 b.h5", code=1)
    assert [row["verdict"].split(";")[0] for row in found] == [
        "equal", "different", "equal", "only in a", "only in b", "the shapes differ",
    ]  # fmt: skip
    assert [row["shape_a"] for row in found] == ["[2,4,3]", "[6]", "[2,4,3,2]", "", "", "[2,4,3]"]
    lines = gn("diff", "a.h5", "b.h5", "--format", "json", code=1).stdout.splitlines()
    records = [json.loads(line) for line in lines]
    assert all(list(record) == list(records[0]) for record in records)
    # JSON says nothing of decoding where there was none; a column has to be there.
    assert list(records[0]) == [name for name in found[0] if not name.startswith("decoded_")]


def test_what_the_data_names_is_json_in_one_column(gn: Gn) -> None:
    chunked, flat = rows(gn, "info a.h5::/chunked a.h5::/flat")
    assert json.loads(chunked["attributes"]) == {"units": "K", "scale": 2.0, "tab\there": "a\tb\nc"}
    assert json.loads(flat["attributes"]) == {"other": None}
    assert json.loads(chunked["groups"])["NCL"] == [1, 2, 4]
    assert json.loads(flat["groups"]) == {"C": [1, 2, 3, 6]}
    assert not any("." in name for name in chunked if not name.startswith("decoded."))


def test_histograms_have_columns(gn: Gn) -> None:
    for row in rows(gn, "stats nan.npy x.npy --hist"):
        edges, counts = row["histogram.edges"], row["histogram.counts"]
        assert (edges == counts == "") == (row["input"] == "nan.npy")
    names = [f"histogram.{when}.{what}" for when in ("before", "after") for what in ("edges", "counts")]
    assert header(gn, "normalize nan.npy x.npy -g 2 -n --hist")[-4:] == names


def test_csv_reads_it(gn: Gn) -> None:
    """Quotes in JSON are no quotes of CSV."""
    text = gn("info", "a.h5::/chunked", "x.npy", "--format", "tsv").stdout
    first, _ = csv.DictReader(text.splitlines(), delimiter="	", quoting=csv.QUOTE_NONE)
    assert json.loads(first["attributes"])["units"] == "K"
