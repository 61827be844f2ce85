"""The README does what it shows: its commands are run, and their output is the one that is printed there."""

from __future__ import annotations

import doctest
import os
import re
import shutil
import subprocess
import sysconfig
from pathlib import Path

import h5py
import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
FENCES = re.findall(r"^```(\w+)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
CONSOLE = [body for kind, body in FENCES if kind == "console"]
PYTHON = "\n".join(body for kind, body in FENCES if kind == "python")
SETUP = [body.strip() for kind, body in FENCES if kind == "sh"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A root of a clone, as far as the README's commands see it, with `gn` and `python` on the path."""
    shutil.copytree(ROOT / "sample_data", tmp_path / "sample_data", ignore=shutil.ignore_patterns("*.gn.*"))
    for name in [name for name in os.environ if name.startswith("GN_") or name == "COLUMNS"]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PATH", sysconfig.get_path("scripts"), prepend=os.pathsep)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(commands: list[str], folder: Path) -> list[str]:
    """Return what a person sees of each command, stdout and stderr as they come, pasted into one shell.

    The commands are on the shell's standard input: one that reads it takes the rest of the paste.
    """
    script = "".join(f"{command}\n{{ code=$?; printf '\\0'; (exit $code); }}\n" for command in commands)
    done = subprocess.run(
        ["bash"], input=script, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        check=False, timeout=500,
    )  # fmt: skip
    return done.stdout.split("\0")[:-1]


def steps(block: str) -> list[tuple[str, str]]:
    """(command, expected output) of each `$` line, which goes on after a backslash and on `> ` lines."""
    found = re.findall(r"^\$ (.*(?:(?<=\\)\n.*|\n> .*)*)\n((?:(?!\$ ).*\n)*)", block, re.MULTILINE)
    return [(re.sub(r"^> ", "", command, flags=re.MULTILINE), expected) for command, expected in found]


def as_shown(expected: str) -> str:
    """The shown output as a pattern: exact, but a line of three dots stands for any lines."""
    lines = expected.splitlines(keepends=True)
    return "".join(r"(?:.*\n)*?" if line == "...\n" else re.escape(line) for line in lines)


def check(pasted: list[tuple[str, str]], folder: Path) -> None:
    """Run commands in one shell, and compare with what is shown of each."""
    for (command, expected), shown in zip(
        pasted, run([command for command, _ in pasted], folder), strict=True
    ):
        if not re.fullmatch(as_shown(expected), shown):
            assert shown == expected, command  # not equal: for pytest to show where they part
            pytest.fail(f"{command}: not as shown:\n{shown}")


@pytest.mark.parametrize("block", CONSOLE, ids=lambda block: block.splitlines()[0][2:42])
def test_console(block: str, folder: Path) -> None:
    check(steps(block), folder)


def test_the_whole_page_in_one_paste(folder: Path) -> None:
    """Twice, each time after the line that sets up: no block fails because of what others have left."""
    page = [step for block in CONSOLE for step in steps(block)]
    check([(installed(SETUP[0]), "...\n"), *page, (installed(SETUP[0]), "...\n"), *page], folder)


def installed(line: str) -> str:
    """Return the command of the set-up line that comes when gn is installed, for the gn on the path."""
    return line.rpartition("&& ")[2].removeprefix(".venv/bin/")


def test_nothing_is_set_for_the_rest_of_the_page() -> None:
    commands = [command for block in CONSOLE for command, _ in steps(block)]
    assert not [command for command in commands if re.match(r"export|cd|set|alias|\w+=\S*$", command)]


def test_every_block_is_of_a_kind_that_is_run() -> None:
    assert {kind for kind, _ in FENCES} == {"console", "python", "sh"}
    assert len(FENCES) == README.count("\n```") / 2
    assert all(block.startswith("$ ") for block in CONSOLE)


def test_setup_lines(folder: Path) -> None:
    """Single lines; the first ends in a command that works, the second is what CI runs."""
    first, second = SETUP
    assert "\n" not in first + second
    assert f"<!-- test -->\n```sh\n{second}\n```" in README
    assert second.endswith(".venv/bin/python -m pytest -n auto")
    assert first.endswith("&& .venv/bin/gn normalize sample_data/activations.npy --groups 4 --force")
    shown = run([installed(first)] * 2, folder)  # it may be pasted again
    assert all(text.endswith("\n\nwrote sample_data/activations.gn.npy\n") for text in shown)
    assert (folder / "sample_data/activations.gn.npy").exists()


@pytest.mark.usefixtures("folder")
def test_python() -> None:
    test = doctest.DocTestParser().get_doctest(PYTHON, {}, "README.md", "README.md", 0)
    failures: list[str] = []
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    runner.run(test, out=failures.append)
    assert test.examples
    assert not failures, "".join(failures)


def test_sample_data_is_as_its_own_readme_says() -> None:
    lines = (ROOT / "sample_data/README.md").read_text(encoding="utf-8").splitlines()
    rows = [
        [cell.strip(" `") for cell in line.strip("|").split("|")] for line in lines if line.startswith("| `/")
    ]
    with h5py.File(ROOT / "sample_data/network.h5") as file:
        held = {f"/{name}": (str(d.shape), str(d.dtype), d.attrs["layout"]) for name, d in file.items()}
        assert (file["conv9"].compression, file["conv9"].shuffle) == ("gzip", True)
    assert {name: (shape, dtype, layout) for name, shape, dtype, layout, *_ in rows} == held
    files = [path for path in (ROOT / "sample_data").iterdir() if ".gn." not in path.name]
    assert sum(path.stat().st_size for path in files) < 7_000_000
