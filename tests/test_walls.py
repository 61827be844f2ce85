"""The house: which room may name which library, which room may know which, and what a command loads."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import gncli

HOUSE = Path(gncli.__file__).parent
FILES = sorted(HOUSE.rglob("*.py"))

# Bottom up. A room knows rooms below its own floor, and the rest of its own package.
FLOORS: tuple[set[str], ...] = (
    {"errors", "leavings", "stopping", "words"},
    {"layout", "conventions", "doubledouble", "dtypes", "extras", "masks", "progress", "totals"},
    {"tile", "moments", "plan", "table", "boxes", "heartbeats", "localcluster"},
    {"kernel", "report"},
    {"pairs", "scratch"},
    {"deviations"},
    {"measure"},
    {"norm"},
    {"groupnorm", "tensors", "executors"},
    {"missing", "contained"},
    {"reader", "containment"},
    {"worker", "helpers"},
    {"onworker"},
    {"engine", "cluster"},
    {"api", "crew"},
    {"histogram", "rows"},
    {"normalize", "stats", "info", "difference", "plot", "abreast", "matching"},
    {"verdict", "batch", "recipes", "equality"},
    {"groupwise", "explain"},
    {"compare", "sampling"},
    {"screen"},
    {"confirm"},
    {"identify"},
    {"pictures"},
    {"cli"},
    {"__main__"},
)
ONLY_IN = {
    "gncli_kernel": {"kernel"},
    "click": {"cli"},
    "rich": {"table"},
    "h5py": {"tensors"},
    "distributed": {"cluster", "localcluster"},
    "dask": {"cluster", "localcluster"},
    "matplotlib": {"plot"},
    "isal": {"tensors"},
    "hdf5plugin": {"tensors"},
}


def modules(file: Path) -> Iterator[str]:
    """Every module that the file imports, wherever in it, `from a import b` as a.b."""
    for node in ast.walk(ast.parse(file.read_bytes())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def room(file: Path) -> str:
    """The module or the package below gncli that the file belongs to."""
    return file.relative_to(HOUSE).parts[0].removesuffix(".py")


def rooms_known(file: Path) -> set[str]:
    """Rooms that the file imports; names that gncli itself has, as __version__, are no rooms."""
    parts = (name.split(".") for name in modules(file))
    return {path[1] for path in parts if path[0] == "gncli" and path[1] not in gncli.__all__}


def floor(name: str) -> int:
    found = [number for number, rooms in enumerate(FLOORS) if name in rooms]
    assert found, f"{name} is on no floor: give it one in FLOORS"
    return found[0]


def ids(file: Path) -> str:
    return str(file.relative_to(HOUSE))


@pytest.mark.parametrize("file", FILES, ids=ids)
def test_libraries_keep_to_their_rooms(file: Path) -> None:
    for name in modules(file):
        allowed = ONLY_IN.get(name.split(".")[0], {room(file)})
        assert room(file) in allowed, f"{ids(file)} names {name}"


@pytest.mark.parametrize("file", [file for file in FILES if file.parent != HOUSE / "cli"], ids=ids)
def test_h5py_is_for_hdf5_alone(file: Path) -> None:
    names = {name.split(".")[0] for name in modules(file)}
    assert "h5py" not in names or (room(file) == "tensors" and file.name.startswith("hdf5"))


@pytest.mark.parametrize("file", [file for file in FILES if room(file) != "__init__"], ids=ids)
def test_arrows_point_down(file: Path) -> None:
    for name in rooms_known(file) - {room(file)}:
        assert floor(name) < floor(room(file)), f"{ids(file)} knows {name}"


def test_errors_imports_nothing() -> None:
    assert set(modules(HOUSE / "errors.py")) == {"__future__.annotations"}


@pytest.mark.parametrize("name", ["layout", "plan"])
def test_geometry_is_integers(name: str) -> None:
    assert "numpy" not in {found.split(".")[0] for found in modules(HOUSE / f"{name}.py")}


def loaded(code: str, cwd: Path) -> set[str]:
    """Top-level modules that are loaded once `code` has run, in an interpreter of its own."""
    # As an exit callback, for `main` does not return.
    script = f"import atexit, sys\natexit.register(lambda: print(*sys.modules, file=sys.stderr))\n{code}"
    done = subprocess.run([sys.executable, "-c", script], cwd=cwd, capture_output=True, text=True, check=True)
    return {name.split(".")[0] for name in done.stderr.split()}


def command(*words: str) -> str:
    return f"sys.argv = {['gn', *words]}; from gncli.cli import main; main()"


def test_importing_gncli_is_free(tmp_path: Path) -> None:
    assert not {"numpy", "click", "rich", "h5py"} & loaded("import gncli; dir(gncli)", tmp_path)


def test_help_is_quick(tmp_path: Path) -> None:
    for words in (
        ["--help"],
        ["--version"],
        ["normalize", "--help"],
        ["stats", "--help"],
        ["info", "--help"],
    ):
        assert not {"numpy", "rich", "h5py"} & loaded(command(*words), tmp_path)


@pytest.mark.parametrize("format", ["json", "tsv", "table"])
def test_an_npy_into_a_pipe_loads_no_h5py_and_no_rich(format: str, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros((2, 4, 3), np.float32))
    for words in (["stats"], ["normalize", "--groups", "2", "--force"]):
        found = loaded(command(*words, "x.npy", "--format", format), tmp_path)
        assert not {"rich", "h5py", "isal", "hdf5plugin", "distributed", "matplotlib"} & found
        assert "numpy" in found
