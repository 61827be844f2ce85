"""gncli.errors: what an error says, where it says it, and what it exits with."""

from __future__ import annotations

import copy
import pickle
import threading
from pathlib import Path

import numpy as np
import pytest
from conftest import Gn

from gncli import errors
from gncli.errors import FormatError, GnError, LayoutError, UsageError

KINDS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, GnError)]


def test_there_are_children() -> None:
    assert {"FormatError", "LayoutError", "OutputError"} < {kind.__name__ for kind in KINDS}


@pytest.mark.parametrize("kind", KINDS)
def test_the_address_comes_first(kind: type[GnError]) -> None:
    assert str(kind("is cut off")) == "is cut off"
    assert str(kind("is cut off", address="x.h5::/a")) == "x.h5::/a: is cut off"
    assert kind("is cut off", address="x").message == "is cut off"


@pytest.mark.parametrize("kind", KINDS)
def test_exit_codes(kind: type[GnError]) -> None:
    assert kind("").exit_code == (2 if kind is UsageError else 1)


def test_who_is_blamed_first_stays_blamed() -> None:
    error = FormatError("is cut off")
    assert error.at("a.npy") is error
    assert error.at("b.npy") is error
    assert str(error) == "a.npy: is cut off"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("address", [None, "x.npy"])
@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_errors_survive_the_way_back_from_a_worker(
    kind: type[GnError], address: str | None, protocol: int
) -> None:
    error = kind("is cut off", address=address)
    for same in (pickle.loads(pickle.dumps(error, protocol)), copy.copy(error)):
        assert type(same) is kind
        assert (same.message, same.address, str(same)) == (error.message, address, str(error))
        assert str(same.at("y.npy")) == f"{address or 'y.npy'}: is cut off"


def test_the_line_of_the_contract(gn: Gn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    np.save("conv.npy", np.zeros((2, 16, 3, 3), np.float32))
    before = Path("conv.npy").read_bytes()
    result = gn("normalize", "conv.npy", "--groups", "5", code=LayoutError("").exit_code)
    line = "gn: error: conv.npy: 16 channels do not divide into 5 groups; valid: 1, 2, 4, 8, 16\n"
    assert (result.stdout, result.stderr) == ("", line)
    assert [path.name for path in tmp_path.iterdir()] == ["conv.npy"]
    assert Path("conv.npy").read_bytes() == before


@pytest.mark.parametrize(
    ("words", "shape", "line"),
    [
        (
            "--layout NCHW",
            (4, 16, 112),
            "x.npy: shape (4, 16, 112) has 3 axes, layout NCHW needs 4 axes; "
            "layouts that fit: NCL, NLC, CHW, HWC",
        ),
        (
            "--layout NHWC",
            (4, 16, 9, 9),
            "x.npy: 9 channels do not divide into 32 groups; valid: 1, 3, 9",
        ),
        (
            "--channels-per-group 3",
            (4, 16, 9, 9),
            "x.npy: 16 channels do not divide into groups of 3; valid: 1, 2, 4, 8, 16",
        ),
        (
            "--groups 4 --gamma g.npy",
            (4, 16, 9, 9),
            "g.npy: gamma has shape (5,), the tensor has 16 channels; give (16,)",
        ),
        (
            "--groups 4 --nan fail",
            (4, 16, 9, 9),
            "x.npy: holds NaN or infinity, 1 or more; use --nan omit or propagate",
        ),
        ("--groups 4 -o no/y.npy", (4, 16, 9, 9), "no/y.npy: there is no folder 'no'; make it first"),
        ("--groups 4 -o y.npy", (4, 16, 9, 9), "y.npy: exists; use --force to overwrite it"),
    ],
)
def test_one_line_with_the_numbers_and_what_to_try(
    gn: Gn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: str, shape: tuple[int, ...], line: str
) -> None:
    monkeypatch.chdir(tmp_path)
    x = np.zeros(shape, np.float32)
    x.flat[7] = np.nan
    np.save("x.npy", x)
    np.save("g.npy", np.ones(5))
    np.save("y.npy", np.ones(3))
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    result = gn("normalize", "x.npy", *words.split(), code=1)
    assert (result.stdout, result.stderr) == ("", f"gn: error: {line}\n")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_budget_that_is_too_small(gn: Gn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both numbers, and advice that works."""
    monkeypatch.chdir(tmp_path)
    np.save("x.npy", np.zeros((4, 16, 112), np.float32))
    result = gn("normalize", "x.npy", "--groups", "4", "--memory", "4k", code=1)
    assert result.stderr.startswith("gn: error: x.npy: --memory 4096 is too little: one tile takes ")
    assert result.stderr.endswith(" bytes; use --memory 1M or more\n")
    gn("normalize", "x.npy", "--groups", "4", "--memory", "1M")


def test_a_thread_that_cannot_be_started(gn: Gn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where the system limits processes or addresses: an error, and --jobs 1 helps."""

    def start(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.chdir(tmp_path)
    np.save("x.npy", np.zeros((4, 16, 10_000), np.float32))
    monkeypatch.setattr(threading.Thread, "start", start)
    result = gn("stats", "x.npy", "-q", "--jobs", "2", code=1)
    assert result.stderr.startswith("gn: error: x.npy: no thread can be started; try --jobs 1")
    gn("stats", "x.npy", "-q", "--jobs", "1")
