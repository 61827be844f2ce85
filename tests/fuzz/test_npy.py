"""Malformed .npy: never a traceback, never a hang, never much memory, never an output. See npy.py."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from fuzz import npy


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc, and limits memory")
@pytest.mark.parametrize("seed", range(5))
def test_malformed_files(tmp_path: Path, seed: int, request: pytest.FixtureRequest) -> None:
    count = request.config.getoption("fuzz") // 5
    (tmp_path / "folder").mkdir()
    done = subprocess.run(
        [sys.executable, npy.__file__, str(seed), str(count)], cwd=tmp_path / "folder", text=True,
        capture_output=True, check=False,
    )  # fmt: skip
    last = tmp_path / "last"
    assert (done.returncode, done.stdout, done.stderr) == (0, "", ""), f"{done.stderr}\n{last.read_text()}"
