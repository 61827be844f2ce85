"""gn's row in the README's table of distances from the right value, measured again."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from oracle import EXTENDED, group_norm_exact

from gncli import group_norm

README = Path(__file__).parents[1] / "README.md"
SHAPE, GROUPS = (2, 8, 32, 32), 4

# Each column of the table: what is done in float64, before the one rounding to float32.
COLUMNS: dict[str, Callable[[NDArray[np.float64]], NDArray[np.float64]]] = {
    "N(0,1)": lambda z: z,
    "mean 1e2, std 1": lambda z: z + 1e2,
    "mean 1e3, std 1": lambda z: z + 1e3,
    "mean 1e4, std 0.1": lambda z: z * 0.1 + 1e4,
    "constant 0.1": lambda z: np.full_like(z, 0.1),
}


def column(name: str) -> NDArray[np.float32]:
    z = np.random.default_rng(0).standard_normal(SHAPE) + 0.5 * np.arange(SHAPE[1])[:, None, None]
    return COLUMNS[name](z).astype(np.float32)


def error(y: NDArray[Any], x: NDArray[np.float32]) -> float:
    return float(np.abs(y - group_norm_exact(x, GROUPS)).max())


def table() -> dict[str, dict[str, str]]:
    """The table of the README whose columns are these, as row → column → cell."""
    lines = [line for line in README.read_text(encoding="utf-8").splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    start = next(place for place, row in enumerate(cells) if row[1:] == list(COLUMNS))
    return {row[0]: dict(zip(COLUMNS, row[1:], strict=True)) for row in cells[start + 2 :] if len(row) == 6}


@pytest.mark.skipif(not EXTENDED, reason="np.longdouble is a double on this platform")
@pytest.mark.parametrize("name", COLUMNS)
def test_the_row_of_gn_is_what_is_measured(name: str) -> None:
    x = column(name)
    assert x.shape == SHAPE
    measured = error(group_norm(x, GROUPS), x)
    largest = np.abs(group_norm_exact(x, GROUPS)).max().astype(np.float32)
    assert measured <= np.spacing(largest) / 2  # no float32 is nearer
    (row,) = (cells for label, cells in table().items() if re.match(r"\W*gn\b", label))
    assert row[name].strip("*") == f"{measured:.2g}"


@pytest.mark.skipif(not EXTENDED, reason="np.longdouble is a double on this platform")
@pytest.mark.parametrize("name", COLUMNS)
def test_the_input_is_that_of_the_table(name: str) -> None:
    """Plain float32 numpy is in the table too: its errors come out again, so the rows compare."""
    x = column(name)
    rows = x.reshape(SHAPE[0], GROUPS, -1)
    spread = np.sqrt(rows.var(2, keepdims=True) + np.float32(1e-5))
    y = ((rows - rows.mean(2, keepdims=True)) / spread).reshape(SHAPE)
    (row,) = (cells for label, cells in table().items() if label.startswith("numpy"))
    # The order of a float32 sum, and so its error, is numpy's and the processor's affair.
    assert error(y, x) == pytest.approx(float(row[name]), rel=0.5)
