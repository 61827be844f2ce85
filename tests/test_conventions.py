"""The frameworks' defaults, as read from the sources that the room names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Gn

from gncli.conventions import CONVENTIONS

HELD = sorted((Path(__file__).parent / "conformance").glob("*.npz"))

ROWS = {
    "torch": ("channels_first", None, 1e-5, "contiguous"),
    "keras": ("channels_last", 32, 1e-3, "contiguous"),
    "tensorflow": ("channels_last", 32, 1e-3, "contiguous"),
    "flax": ("channels_last", 32, 1e-6, "contiguous"),
    "onnx": ("channels_first", None, 1e-5, "contiguous"),
    "mlx": ("channels_last", None, 1e-5, "interleaved"),
}


@pytest.mark.parametrize(("name", "row"), ROWS.items())
def test_defaults(name: str, row: tuple[str, int | None, float, str]) -> None:
    found = CONVENTIONS[name]
    assert (found.layout, found.groups, found.eps, found.grouping) == row
    assert found.name == name
    assert "GroupNorm" in found.source


def test_the_frameworks_of_the_contract_and_no_other() -> None:
    assert list(CONVENTIONS) == list(ROWS)


def test_no_default_of_the_framework_leaves_ours() -> None:
    assert "groups" not in CONVENTIONS["torch"].defaults
    assert CONVENTIONS["keras"].defaults == {
        "layout": "channels_last", "groups": 32, "eps": 1e-3, "grouping": "contiguous",
    }  # fmt: skip


@pytest.mark.parametrize("path", HELD, ids=lambda path: path.stem)
def test_frameworks_own_outputs_say_the_same(path: Path) -> None:
    """The files of tests/conformance were made with the frameworks' own default eps."""
    with np.load(path) as held:
        meta = json.loads(str(held["meta"]))
    convention = CONVENTIONS[meta.get("like") or meta["source"].split()[0]]
    assert convention.eps == meta["eps"]
    assert (convention.layout == "channels_last") == meta["layout"].endswith("C") or meta["layout"] == "NC"


def applied(gn: Gn, folder: Path, *words: str) -> dict[str, Any]:
    """What a dry run says that it would do to a tensor of 64 channels first and last."""
    np.save(folder / "x.npy", np.arange(2 * 64 * 3 * 64, dtype=np.float32).reshape(2, 64, 3, 64))
    shown = gn("normalize", folder / "x.npy", "-n", "--format", "json", *words).stdout
    record: dict[str, Any] = json.loads(shown)
    return record


def test_like_fills_what_was_not_said(gn: Gn, tmp_path: Path) -> None:
    record = applied(gn, tmp_path, "--like", "keras")
    assert (record["groups"], record["eps"], record["layout"], record["like"]) == (32, 1e-3, "NHWC", "keras")
    assert applied(gn, tmp_path, "--like", "mlx")["grouping"] == "interleaved"
    assert applied(gn, tmp_path, "--like", "flax")["eps"] == 1e-6
    assert "like" not in applied(gn, tmp_path, "--layout", "NHWC")


def test_what_is_said_wins_over_like(gn: Gn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GN_NORMALIZE_EPS", "0.25")
    record = applied(gn, tmp_path, "--layout", "NCHW", "-g", "2", "--like", "keras")
    assert (record["groups"], record["eps"], record["layout"], record["grouping"]) == (
        2,
        0.25,
        "NCHW",
        "contiguous",
    )
