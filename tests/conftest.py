"""For every test: gn in this process, gn in one of its own, and none of our settings."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

import gncli
from gncli.cli import gn as group

OUTSIDE = ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "TTY_COMPATIBLE", "TTY_INTERACTIVE")

Gn = Callable[..., Result]
Shell = Callable[..., "subprocess.CompletedProcess[str]"]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--fuzz", type=int, default=10_000, metavar="N", help="malformed files to try")


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    # The gncli of this process is that of every other, installed or not.
    monkeypatch.setenv("PYTHONPATH", str(Path(gncli.__file__).parents[1]))
    for name in [name for name in os.environ if name.startswith("GN_") or name in OUTSIDE]:
        monkeypatch.delenv(name)


@pytest.fixture
def gn() -> Gn:
    """`gn(*words, code=0)` in this process, for messages and codes."""

    def run(*words: object, code: int = 0) -> Result:
        result = CliRunner().invoke(group, [str(word) for word in words], prog_name="gn")
        shown = f"exit {result.exit_code}\n-- stdout\n{result.stdout}\n-- stderr\n{result.stderr}"
        assert result.exit_code == code, shown
        return result

    return run


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    """`shell(script, *words, code=0)`: bash in a folder of the test's own; `$gn` is gn."""

    def run(script: str, *words: object, code: int = 0, **kwargs: Any) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            ["bash", "-c", script, "bash", *map(str, words)], cwd=tmp_path, check=False, text=True,
            env={**os.environ, "gn": f"{sys.executable} -m gncli"},
            stdin=subprocess.DEVNULL, capture_output=True, timeout=120, **kwargs,
        )  # fmt: skip
        shown = f"exit {done.returncode}\n-- stdout\n{done.stdout}\n-- stderr\n{done.stderr}"
        assert done.returncode == code, shown
        return done

    return run
