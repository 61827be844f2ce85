"""What hatchling makes of this tree: wheels with the kernel, or without it where it cannot be compiled."""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import zipfile
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from conftest import ROOT
from hatchling.builders.sdist import SdistBuilder
from hatchling.builders.wheel import WheelBuilder

PRODUCT = f"gncli_kernel{sysconfig.get_config_var('EXT_SUFFIX')}"


@pytest.fixture(autouse=True)
def _temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    monkeypatch.setattr(sys, "dont_write_bytecode", False)  # hatchling's loading of the hook does write it
    monkeypatch.delenv("GNCLI_KERNEL", raising=False)


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what a wheel is made of. In the tree itself, others may leave files at any time."""
    copy = tmp_path_factory.mktemp("tree")
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, copy)
    for name in ("gncli", ".packaging"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    return copy


def wheel(folder: Path, root: Path, *, version: str = "standard") -> Path:
    """Build a wheel of `root`. Leaves nothing behind, neither beside the hook nor among temporary files."""
    built = Path(next(WheelBuilder(str(root)).build(directory=str(folder), versions=[version])))
    assert not (root / ".packaging" / "__pycache__").exists()
    assert not list(Path(tempfile.gettempdir()).iterdir())
    return built


def names(file: Path) -> set[str]:
    with zipfile.ZipFile(file) as archive:
        return set(archive.namelist())


def test_it_computes(kernel: ModuleType) -> None:
    x, c = np.arange(6, dtype=np.float32).reshape(2, 3)[:, ::-2], np.array([[0.1], [0.2]])
    found = kernel.deviate(x, c)
    assert found.dtype == np.float64
    assert np.array_equal(found, x.astype(np.float64) - c)


def test_it_compiles_without_a_warning(
    kernel: ModuleType, packaging: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CC", " ".join([*packaging.compiler(), "-Wall", "-Wextra", "-Werror"]))
    assert packaging.compiled(ROOT / "gncli" / "kernel.c", tmp_path).stat().st_size


@pytest.mark.usefixtures("kernel")  # or a skip
def test_a_wheel_has_the_module_and_not_its_source(tmp_path: Path, tree: Path) -> None:
    built = wheel(tmp_path, tree)
    assert not built.name.endswith("none-any.whl")
    assert PRODUCT in names(built)
    assert not [name for name in names(built) if name.endswith(".c") or "packaging" in name]


@pytest.mark.usefixtures("kernel")
def test_so_has_an_editable_one(tmp_path: Path, tree: Path) -> None:
    found = names(wheel(tmp_path, tree, version="editable"))
    assert PRODUCT in found
    assert "gncli/__init__.py" not in found


@pytest.mark.parametrize(
    ("cc", "why"),
    [
        ("/nonexistent", "No such file or directory: '/nonexistent'"),
        ("false", "false: exit code 1"),
        ("true", PRODUCT),
        ("'no closing quote", "No closing quotation"),
    ],
)
@pytest.mark.parametrize("version", ["standard", "editable"])
def test_without_a_compiler_it_is_pure_python_and_says_so(
    version: str,
    cc: str,
    why: str,
    tmp_path: Path,
    tree: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("CC", cc)
    built = wheel(tmp_path, tree, version=version)
    assert built.name.endswith("-py3-none-any.whl")
    assert PRODUCT not in names(built)
    said = capfd.readouterr().err.splitlines()
    assert len(said) == 1
    assert said[0].startswith("gn will use numpy")
    assert why in said[0]


def test_what_the_compiler_says_is_the_reason(
    kernel: ModuleType, packaging: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CC", " ".join([*packaging.compiler(), "-ffast-math"]))
    with pytest.raises(ChildProcessError, match="float64 is not rounded at every step"):
        packaging.compiled(ROOT / "gncli" / "kernel.c", tmp_path)


def test_nothing_is_compiled_where_that_is_not_wanted(
    tmp_path: Path, tree: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GNCLI_KERNEL", "0")
    assert wheel(tmp_path, tree).name.endswith("-py3-none-any.whl")
    assert capfd.readouterr().err == ""


def test_a_compiler_that_hangs_is_left(
    packaging: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cc").write_text("#!/bin/sh\nexec sleep 60\n")
    (tmp_path / "cc").chmod(0o755)
    monkeypatch.setenv("CC", str(tmp_path / "cc"))
    monkeypatch.setattr(packaging, "SECONDS", 0.2)
    with pytest.raises(subprocess.TimeoutExpired):
        packaging.compiled(ROOT / "gncli" / "kernel.c", tmp_path)


def test_a_missing_compiler_of_python_s_own_is_replaced(
    packaging: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setitem(sysconfig.get_config_vars(), "CC", "/build/host/clang -pthread")
    assert packaging.compiler() == ["cc"]
    monkeypatch.setenv("CC", "ccache gcc")
    assert packaging.compiler() == ["ccache", "gcc"]


@pytest.mark.usefixtures("kernel")
def test_an_sdist_holds_all_that_a_wheel_is_made_of(tmp_path: Path) -> None:
    built = next(SdistBuilder(str(ROOT)).build(directory=str(tmp_path), versions=["standard"]))
    with tarfile.open(built) as archive:
        archive.extractall(tmp_path, filter="data")
    (root,) = tmp_path.glob("gncli-*/")
    assert PRODUCT in names(wheel(tmp_path, root))
