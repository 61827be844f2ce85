"""What a library does to its process in a child: each as a real process, whose exit status counts."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
from conftest import Shell

SCRIPT = Path(__file__).with_name("misbehave.py")
CRASHED = "! f.h5: the HDF5 library crashed on this file"

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="nothing is contained without fork")


@pytest.fixture(autouse=True)
def _file(tmp_path: Path) -> None:
    tmp_path.joinpath("f.h5").write_bytes(b"\x89HDF\r\n\x1a\n")  # all that is needed to be taken for HDF5


def start(names: str, folder: Path) -> subprocess.Popen[str]:
    command = [sys.executable, str(SCRIPT), names, str(folder)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=folder, stdout=pipe, stderr=pipe, stdin=pipe, text=True)


def outcome(names: str, folder: Path) -> tuple[list[str], str]:
    """Lines on stdout, and stderr. The process ends well, whatever its child does."""
    with start(names, folder) as process:
        out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    return out.splitlines(), err


def test_a_call_runs_in_a_child(tmp_path: Path) -> None:
    assert outcome("behave,behave", tmp_path) == (["= child", "= child"], "")


@pytest.mark.parametrize("way", ["crash", "leave", "abort"])
def test_the_end_of_a_child_is_an_error_and_the_next_call_has_another(way: str, tmp_path: Path) -> None:
    lines, err = outcome(f"behave,{way},behave", tmp_path)
    assert (lines, err) == (["= child", "= before", CRASHED, "= child"], "")


def test_a_loop_that_never_ends_is_ended(tmp_path: Path) -> None:
    lines, _ = outcome("loop,behave", tmp_path)
    assert lines == ["! f.h5: reading it comes to no end; it is damaged, or made to do harm", "= child"]


def test_memory_is_limited(tmp_path: Path) -> None:
    lines, err = outcome("gorge,behave", tmp_path)
    message = "needs more memory than --memory 1048576 allows; use a larger one if you trust the file"
    assert (lines, err) == ([f"! {message}", "= child"], "")


def test_what_libraries_print_goes_nowhere(tmp_path: Path) -> None:
    lines, err = outcome("babble", tmp_path)
    assert sorted(lines) == ["= done", "ours on stdout"]
    assert err == "ours on stderr\n"


def test_temporary_files_of_a_child_that_crashed_are_removed(tmp_path: Path) -> None:
    lines, _ = outcome("litter", tmp_path)
    assert lines == ["= before", CRASHED]
    assert sorted(os.listdir(tmp_path)) == ["f.h5", "kept"]


def test_a_process_of_the_child_does_not_hide_its_end(tmp_path: Path) -> None:
    lines, _ = outcome("fork", tmp_path)  # which waits a shorter time than the other process lives
    assert lines == ["= before", CRASHED]
    for pid in _children_of(tmp_path):
        os.kill(int(pid), signal.SIGKILL)


def test_errors_arrive(tmp_path: Path) -> None:
    lines, _ = outcome("refuse,embarrass,behave", tmp_path)
    assert lines[:3] == ["= before", "! f.h5: is refused", "= before"]
    assert lines[3].startswith("! ValueError: ")
    assert lines[4] == "= child"


@pytest.mark.parametrize("way", ["loop", "sleep"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_end_the_command_within_a_loop_of_a_library(
    number: signal.Signals, way: str, tmp_path: Path
) -> None:
    # With gn's own handlers, which the script does not set: its own `gn` command does.
    tmp_path.joinpath("run.py").write_text(
        f"import sys; sys.path.insert(0, {str(SCRIPT.parent)!r}); import misbehave\n"
        "import gncli.cli, signal\n"
        "for number in (signal.SIGINT, signal.SIGTERM):\n"
        "    signal.signal(number, gncli.cli._stop)\n"
        f"misbehave.main({way!r}, '.')\n"
    )
    command = [sys.executable, "run.py"]
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert process.stderr.readline() == "looping\n"
        os.kill(process.pid, number)
        process.wait(timeout=30)
        assert process.returncode in (128 + number, -number, 1, 130)
    assert not _children_of(tmp_path)


def _children_of(folder: Path) -> list[str]:
    """Processes whose working directory is the folder."""
    if not os.path.isdir("/proc/self"):
        return []
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            if os.readlink(f"/proc/{pid}/cwd") == str(folder):
                found.append(pid)
        except OSError:
            continue
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="prctl(2)")
def test_a_child_does_not_outlive_its_parent(tmp_path: Path) -> None:
    with start("sleep", tmp_path) as process:
        assert process.stderr is not None
        assert process.stderr.readline() == "looping\n"
        process.kill()
    end = time.monotonic() + 30
    while _children_of(tmp_path):
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.parametrize("more", ["--hist", "--plot p.svg", "--hist --plot p.svg"])
def test_pictures_of_what_was_normalized(shell: Shell, tmp_path: Path, more: str) -> None:
    """The picture is made by a call of its own, while that which normalizes is not over."""
    x = np.arange(48.0, dtype="f4").reshape(2, 4, 6)
    with h5py.File(tmp_path / "f.h5", "w") as file:
        file["x"], file["y"] = x, x
    hist = more.partition("--plot")[0]
    done = shell(f"$gn normalize f.h5::/x f.h5::/y -g 2 --format json -o all.h5::/n/ {hist}")
    records = [json.loads(line) for line in done.stdout.splitlines()]
    assert [record["input"] for record in records] == ["f.h5::/x", "f.h5::/y"]
    assert all(("histogram" in record) is ("--hist" in more) for record in records)
    done = shell(f"$gn normalize f.h5::/x -g 2 {more}")
    assert done.stdout.splitlines()[-1] == "wrote f.gn.h5::/x"
    assert done.stderr == ""
    assert (tmp_path / "p.svg").exists() is ("--plot" in more)
    assert sorted(path.name for path in tmp_path.glob("*.h5")) == ["all.h5", "f.gn.h5", "f.h5"]
