"""For every test: gn in this process, gn in one of its own, and none of our settings."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterator
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from click.testing import CliRunner, Result

import gncli
import gncli.kernel
from gncli.cli import gn as group

ROOT = Path(__file__).parents[1]
OUTSIDE = ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "TTY_COMPATIBLE", "TTY_INTERACTIVE")

Gn = Callable[..., Result]
Shell = Callable[..., "subprocess.CompletedProcess[str]"]


def loaded_from(file: Path, name: str) -> ModuleType:
    """The module in `file`, without a place in sys.modules: another of that name may be installed."""
    spec = spec_from_file_location(name, file)
    assert spec and spec.loader
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--fuzz", type=int, default=10_000, metavar="N", help="malformed .npy files to try")
    parser.addoption("--mutants", type=int, default=300, metavar="N", help="mutants of HDF5 files to try")
    parser.addoption("--sound", type=int, default=300, metavar="N", help="random sound HDF5 files to try")
    parser.addoption("--seed", type=int, default=1, metavar="N", help="of these files")
    parser.addoption("--only", type=int, metavar="N", help="the number of the one such file to try")


def pytest_configure() -> None:
    # As they are on a terminal: nohup has the one ignored, a script that runs in the background the other,
    # and what the tests start would inherit it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for name in ("SIGHUP", "SIGQUIT"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_DFL)


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


@pytest.fixture(scope="session")
def packaging() -> ModuleType:
    """What hatchling runs to compile the kernel."""
    return loaded_from(ROOT / ".packaging" / "kernel.py", "packaging_kernel")


@pytest.fixture(scope="session")
def kernel(packaging: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    """gncli_kernel as of this tree's source, alone in the folder of its __file__; whatever is installed."""
    header = Path(sysconfig.get_path("include"), "Python.h")
    if not (shutil.which(packaging.compiler()[0]) and header.exists()):
        pytest.skip("no C compiler, or no Python.h")
    file = packaging.compiled(ROOT / "gncli" / "kernel.c", tmp_path_factory.mktemp("kernel"))
    return loaded_from(file, "gncli_kernel")


@pytest.fixture(scope="module", params=["numpy", "compiled"])
def passes(request: pytest.FixtureRequest) -> Iterator[None]:
    """All tests of a module twice: by numpy alone, and with the kernel, whatever is installed."""
    compiled = request.getfixturevalue("kernel") if request.param == "compiled" else None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gncli.kernel, "passes", compiled)
        yield
