"""The command's memory, seen from outside: under 150 MB whatever the size and the groups."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryFile

import numpy as np
import pytest
from arrays import Array, rng
from oracle import ulp_distance

MB = 1_000_000
LIMIT = 150 * MB  # of a process

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

# Runs a command and prints the peak of the largest single process of it and its children, in bytes. A
# process's peak counts from before its exec, so it is not started from pytest, which is a large one.
LAUNCHER = """
import os, sys
pid = os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ)
_, status, usage = os.wait4(pid, 0)
print(usage.ru_maxrss * 1024)
sys.exit(os.waitstatus_to_exitcode(status))
"""


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """Emptied again: pytest keeps the last three."""
    yield tmp_path
    for left in tmp_path.iterdir():
        left.unlink()


def make(path: Path, shape: tuple[int, ...]) -> None:
    """float32 zeros, sparse, but for four stretches of random values; one is at the end."""
    size = int(np.prod(shape)) * 4
    room = os.statvfs(path.parent)
    if room.f_bavail * room.f_frsize < size + (64 << 20):
        pytest.skip(f"{path.parent} has no room for {size} bytes")
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})
        start = file.tell()
        file.truncate(start + size)
        stretch = rng().standard_normal(100_000).astype("f4") * 3 + 2
        for place in np.linspace(0, size // 4 - stretch.size, 4).astype(int):
            file.seek(start + int(place) * 4)
            file.write(stretch.tobytes())


def pss(launcher: int) -> int:
    """Bytes of all processes below the launcher, each shared page divided by its sharers."""
    total = 0
    parents: dict[int, int] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
        except OSError:  # it is gone
            continue
    family = {launcher}
    while more := {pid for pid, parent in parents.items() if parent in family} - family:
        family |= more
    for pid in family - {launcher}:
        try:
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        total += sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))
    return total


def run(folder: Path, *words: str, code: int = 0) -> tuple[int, int, str]:
    """Of `gn words`: the largest process's peak, the highest sum seen, and what it printed.

    `code` is the status that it has to exit with.
    """
    command = [sys.executable, "-SEc", LAUNCHER, sys.executable, "-m", "gncli", *words]
    highest = 0
    with (
        TemporaryFile("w+") as said,
        subprocess.Popen(command, cwd=folder, stdout=said, stderr=subprocess.STDOUT) as process,
    ):
        while process.poll() is None:
            highest = max(highest, pss(process.pid))
            time.sleep(0.005)
        said.seek(0)
        *report, peak = said.read().splitlines() or [""]
    shown = "\n".join(report)
    assert process.returncode == code, shown
    return int(peak), highest, shown


def check_values(folder: Path, layout: str, groups: int) -> None:
    """The last sample's last group, from moments in float64 over all of it: a part of its elements."""

    def last_group(name: str) -> Array:
        array = np.load(folder / name, mmap_mode="r")
        sample = np.moveaxis(array, (layout.index("N"), layout.index("C")), (0, 1))[-1]
        group: Array = sample[-(sample.shape[0] // groups) :]
        return group

    x, y = last_group("x.npy"), last_group("x.gn.npy")
    parts = np.array_split(x, 16, axis=1) if x.ndim > 1 else [x]
    mean = sum(part.sum(dtype="f8") for part in parts) / x.size
    var = sum(np.square(part.astype("f8") - mean).sum() for part in parts) / x.size
    end = np.array_split(y, 16, axis=1)[-1] if x.ndim > 1 else y
    want = ((parts[-1] - mean) / np.sqrt(var + 1e-5)).astype("f4")
    off = ulp_distance(np.asarray(end), want)
    assert np.count_nonzero(want != want.flat[0]) > 1
    assert off.max() <= 1
    assert np.count_nonzero(off) <= 0.001 * off.size


CASES = [
    pytest.param("NCHW", (50, 64, 400, 400), 32, id="2 GB, NCHW, G = 32"),
    pytest.param("NCHW", (1, 16, 2500, 2500), 1, id="NCHW, a group larger than the budget"),
    pytest.param("NHWC", (10, 400, 400, 64), 32, id="NHWC"),
    pytest.param("NHWC", (1, 2500, 2500, 16), 1, id="NHWC, a group larger than the budget"),
    pytest.param("HWCN", (400, 400, 64, 10), 32, id="HWCN: two passes over short runs"),
    pytest.param("NC", (400_000, 256), 32, id="NC, 12 800 000 groups"),
]


@pytest.mark.parametrize(("layout", "shape", "groups"), CASES)
def test_normalize(folder: Path, layout: str, shape: tuple[int, ...], groups: int) -> None:
    make(folder / "x.npy", shape)
    words = ("normalize", "x.npy", "--layout", layout, "--groups", str(groups), "-j", "2", "-q")
    peak, together, report = run(folder, *words)
    assert report == ""
    assert sorted(os.listdir(folder)) == ["x.gn.npy", "x.npy"]
    check_values(folder, layout, groups)
    assert peak < LIMIT
    assert together < LIMIT


@pytest.mark.parametrize(
    "words",
    [
        pytest.param("normalize -q --dtype float64 --beta 0.5", id="float64 output, two buffers"),
        pytest.param("normalize -q --groups 1 --grouping interleaved", id="interleaved"),
        pytest.param("normalize -q --jobs 1 --dry-run", id="one thread"),
        pytest.param("stats", id="stats"),
        pytest.param("stats --layout NHWC --by channel --by sample", id="stats of 2000 parts"),
    ],
)
def test_other_ways(folder: Path, words: str) -> None:
    make(folder / "x.npy", (5, 64, 400, 400))
    peak, together, _ = run(folder, *words.split(), "x.npy")
    assert peak < LIMIT
    assert together < LIMIT
