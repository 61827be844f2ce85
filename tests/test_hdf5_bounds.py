"""Files whose headers make much of little: the work is bounded by what is stored, not by what is declared."""

from __future__ import annotations

import json
from math import isqrt
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from conftest import Gn, Shell

from gncli.layout import divisors

X = np.random.default_rng(0).standard_normal((2, 4, 2)).astype("f4")
PRIME = 4611686018427387847


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def virtual(name: str, *sources: str) -> h5py.VirtualLayout:
    """A layout whose samples are the first samples of the sources."""
    layout = h5py.VirtualLayout(X.shape, "f4")
    for sample, source in enumerate(sources):
        layout[sample] = h5py.VirtualSource(".", source, X.shape)[sample]
    return layout


@pytest.mark.parametrize("number", [1, 2, 12, 36, 97, 1024, 4096**2, 4096**2 - 1])
def test_all_divisors_of_a_number_of_channels(number: int) -> None:
    assert divisors(number) == [d for d in range(1, number + 1) if number % d == 0][:number] or number > 1024
    assert all(number % d == 0 and number // d in divisors(number) for d in divisors(number))


@pytest.mark.parametrize("number", [PRIME, 2**62, 10**18])
def test_a_few_divisors_of_what_is_no_number_of_channels(number: int) -> None:
    found = divisors(number)
    assert found == [d for d in range(1, 4097) if number % d == 0]
    assert isqrt(number) > 4096


def test_shapes_that_are_absurd(gn: Gn) -> None:
    with h5py.File("f.h5", "w") as file:
        file.create_dataset("d", (2, PRIME, 1), "u1", chunks=(1, 1024, 1))
    record = json.loads(gn("info", "f.h5", "--format", "json").stdout)
    assert record["shape"] == [2, PRIME, 1]
    assert record["groups"]["NCL"] == [1]
    assert "declares" in gn("normalize", "f.h5::/d", "-g", "5", "-n", code=1).stderr


def test_a_message_lists_some_of_many_groups(gn: Gn) -> None:
    np.save("x.npy", np.zeros((1, 2**5 * 3**3 * 5 * 7), "f4"))
    message = gn("normalize", "x.npy", "-g", "11", "-n", code=1).stderr
    assert message.rstrip().endswith(", ...")
    assert message.count(",") == 32


@pytest.mark.parametrize("command", ["stats", "info", "normalize -n -g 2"])
def test_virtual_datasets_that_share_their_sources(command: str, shell: Shell) -> None:
    with h5py.File("f.h5", "w") as file:
        file["a0"] = file["b0"] = X
        for level in range(1, 30):
            for name in "ab":
                layout = virtual(name, f"/a{level - 1}", f"/b{level - 1}")
                file.create_virtual_dataset(f"{name}{level}", layout)
    done = shell(f"$gn {command} f.h5::/a29 --format json")
    record: dict[str, Any] = json.loads(done.stdout)
    assert record["shape"] == list(X.shape)


def test_virtual_datasets_on_many_levels(shell: Shell) -> None:
    with h5py.File("f.h5", "w") as file:
        file["d0"] = X
        for level in range(1, 60):
            file.create_virtual_dataset(f"d{level}", virtual("d", f"/d{level - 1}", f"/d{level - 1}"))
    message = "is a virtual dataset of virtual ones, on more than 32 levels"
    assert shell("$gn stats f.h5::/d59", code=1).stderr == f"gn: error: f.h5::/d59: {message}\n"


@pytest.mark.parametrize("command", ["stats", "info"])
def test_groups_that_are_deep(command: str, shell: Shell) -> None:
    with h5py.File("f.h5", "w", libver="latest") as file:
        group = file.id
        for _ in range(3000):
            group = h5py.h5g.create(group, b"a")
        h5py.Group(group)["z"] = X
        file["d"] = X
    done = shell(f"$gn {command} f.h5 --format json")
    assert [json.loads(line)["input"] for line in done.stdout.splitlines()] == [
        "f.h5::" + "/a" * 3000 + "/z",
        "f.h5::/d",
    ]
