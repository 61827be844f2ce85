"""Many datasets in one file: what is done for one does not depend on how many there are."""

from __future__ import annotations

import os
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import h5py
import numpy as np
import pytest
from arrays import Array, normal
from conftest import Gn
from oracle import group_norm_gold, rounded

from gncli.tensors.hdf5_safety import open_file
from gncli.tensors.kept import MOST, keep_open


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def tensor(number: int) -> Array:
    return normal(2, 4, 3, mean=number)


def make(path: str, count: int, *, references: bool = False, **how: Any) -> None:
    """A file of `count` tensors; with `references`, all that may lead to each of them."""
    with h5py.File(path, "w", track_order=references) as file:
        for number in range(count):
            file.create_dataset(f"t{number:03}/act", data=tensor(number), **how)
        if references:
            names = [f"t{number:03}/act" for number in range(count)]
            file["cells"] = np.array([file[name].ref for name in names], h5py.ref_dtype)
            for name in names:
                file[f"also/{name[:4]}"] = file[name]
                file[name].attrs["next"] = file[name].ref


@contextmanager
def counted() -> Iterator[Counter[str]]:
    """Calls of functions, of ours and of libraries, in all threads; and files that h5py opens."""
    found: Counter[str] = Counter()

    def note(frame: FrameType, event: str, argument: Any) -> None:
        if event in ("call", "c_call"):
            found["calls"] += 1
        if event == "call" and frame.f_code is h5py.File.__init__.__code__:
            found["files"] += isinstance(frame.f_locals["name"], str)

    before = sys.getprofile()
    threading.setprofile(note)
    sys.setprofile(note)
    try:
        yield found
    finally:
        sys.setprofile(before)
        threading.setprofile(None)


NORMALIZE = ["normalize", "-g", "2", "-qf", "-j", "1"]
RUNS: dict[str, tuple[list[str], dict[str, Any]]] = {
    "by a glob": ([*NORMALIZE, "q.h5::/t*/act"], {}),
    "by a glob, of chunks": ([*NORMALIZE, "q.h5::/t*/act"], {"chunks": (1, 4, 3), "compression": "gzip"}),
    "one by one": ([*NORMALIZE, "--from-file", "names"], {}),
    "into another dtype": ([*NORMALIZE, "q.h5::/t*/act", "--dtype", "float64"], {"references": True}),
    "into a group": ([*NORMALIZE, "q.h5::/t*/act", "-o", "all.h5::/deep/"], {}),
    "done already": ([*NORMALIZE[:3], "-q", "q.h5::/t*/act", "--skip-existing"], {}),
    "stats": (["stats", "q.h5", "-q", "-j", "1"], {}),
    "info": (["info", "q.h5", "-q"], {}),
    "diff": (["diff", "q.h5", "q.h5", "-q", "-j", "1"], {}),
}


@pytest.mark.parametrize("run", RUNS)
def test_each_dataset_costs_the_same(gn: Gn, run: str) -> None:
    words, how = RUNS[run]
    seen = []
    for count in (2, 20, 40, 80):  # the first loads modules
        make("q.h5", count, **how)
        Path("names").write_text("".join(f"q.h5::/t{number:03}/act\n" for number in range(count)))
        for name in ("q.gn.h5", "all.h5"):
            if os.path.exists(name):
                os.unlink(name)
        if run == "into a group":
            make("all.h5", count)
        if run == "done already":
            gn(*NORMALIZE, "q.h5::/t*/act")
        with counted() as found:
            gn(*words)
        seen.append(found)
    few, some, many = (found["calls"] for found in seen[1:])
    assert many - some <= 1.1 * 2 * (some - few), "the more there are, the more each one costs"
    files = [found["files"] for found in seen[1:]]
    assert files[0] == files[1] == files[2] <= 8, "files are opened for each dataset"


def test_values_and_what_leads_to_them(gn: Gn) -> None:
    """Every dataset replaced by one of another dtype: links, their order, and references follow."""
    make("q.h5", 12, references=True)
    gn(*NORMALIZE, "q.h5::/t*/act", "--dtype", "float64")
    with h5py.File("q.h5") as old, h5py.File("q.gn.h5") as new:
        assert list(new) == list(old)
        for number in range(12):
            name = f"t{number:03}"
            values = new[name]["act"]
            np.testing.assert_array_equal(values, rounded(group_norm_gold(tensor(number), 2), "f8"))
            assert values == new["also"][name] == new[new["cells"][number]]
            assert values == new[values.attrs["next"]]


def test_some_replaced_and_some_not(gn: Gn) -> None:
    make("q.h5", 6, references=True)
    gn(*NORMALIZE, "q.h5::/t00[135]/act", "--dtype", "float64")
    with h5py.File("q.gn.h5") as new:
        assert list(new) == [*(f"t{number:03}" for number in range(6)), "cells", "also"]
        for number in range(6):
            values = new[f"t{number:03}/act"]
            assert values.dtype == ("f8" if number % 2 else "f4")
            assert values == new[new["cells"][number]] == new[values.attrs["next"]]


# Files that are kept open


def test_a_kept_file_is_opened_once_and_closed_in_the_end() -> None:
    make("q.h5", 1)
    with keep_open():
        first = open_file("q.h5")
        second = open_file("q.h5")
        assert first is second
        first.close()
        second.close()
        assert first
        assert open_file("q.h5") is first
        first.close()
    assert not first
    third = open_file("q.h5")
    third.close()
    assert not third


def test_another_file_of_that_name_is_opened_anew() -> None:
    make("q.h5", 1)
    make("other.h5", 2)
    with keep_open():
        first = open_file("q.h5")
        os.replace("other.h5", "q.h5")
        second = open_file("q.h5")
        assert len(second) == 2
        assert len(first) == 1, "it is still in use"
        first.close()
        assert not first
        second.close()


def test_a_file_in_use_outlives_the_scope() -> None:
    make("q.h5", 1)
    with keep_open():
        used = open_file("q.h5")
    assert len(used) == 1
    used.close()
    assert not used


def test_no_more_than_some_are_kept() -> None:
    names = [f"{number}.h5" for number in range(MOST + 3)]
    with keep_open():
        files = []
        for name in names:
            make(name, 1)
            files.append(open_file(name))
            files[-1].close()
        assert [bool(file) for file in files] == [False] * 3 + [True] * MOST
    assert not any(files)
