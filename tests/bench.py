"""The benchmark: `python tests/bench.py` measures every row of bench_rows.py, in one run, as ratios.

Both sides of a row are whole processes, run in turn: a pair to warm up, then `--pairs` pairs, of which the
median counts. Exits with 1 where a row misses its reach. Loads no numpy and starts from little, since what a
process has in memory when it starts another is counted in the other's ru_maxrss.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from types import FrameType
from typing import NoReturn

from bench_rows import (
    GB,
    HDF5_STORES,
    MAKE,
    MAKE_HDF5,
    MB,
    OUT,
    OUT_HDF5,
    TOUCH,
    Result,
    Row,
    Tensor,
    Work,
    inputs,
    judged,
    room,
    rows,
    taken,
)

CHECKOUT = Path(__file__).parents[1]
SAMPLING = 0.02  # seconds between two looks at the memory of a process and its children
HEADER = ("work", "against", "measured", "reach", "aim", "verdict", "seconds")


class WorkError(Exception):
    """A command that did not exit with 0."""


@dataclass(frozen=True)
class Used:
    seconds: float
    peak: int  # bytes
    said: str  # on stdout


class Bench:
    """Runs work in a folder of its own, with gn's settings and PYTHONDONTWRITEBYTECODE out of the way."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        foreign = [name for name in os.environ if name.startswith(("GN_", "PYTHONDONTWRITEBYTECODE"))]
        kept = {name: value for name, value in os.environ.items() if name not in foreign}
        path = os.pathsep.join(filter(None, [str(CHECKOUT), kept.get("PYTHONPATH", "")]))
        self.environment = {**kept, "PYTHONPATH": path}  # this checkout's gncli, installed or not
        self.programs = {"gn": gn_command(), "python": [sys.executable]}

    def make(self, tensor: Tensor) -> None:
        path = self.folder / tensor.name
        shape = map(str, tensor.shape)
        if not path.exists() and tensor.store:
            sample, how = str(CHECKOUT / "sample_data/activations.npy"), json.dumps(HDF5_STORES[tensor.store])
            self.run(("python", "-c", MAKE_HDF5, str(path), sample, how, *shape))
        elif not path.exists():
            self.run(("python", "-c", MAKE, str(path), tensor.dtype, tensor.order, *shape))

    def run(self, work: Work, *, sampled: bool = False) -> Used:
        """The time and the memory of a process, from before its start to after its end.

        Memory is the larger of what the kernel says at the end, for the largest process alone, and of the
        shares of all of them together, where `sampled`: that takes time, so do not take the time then.
        """
        outputs = {OUT: self.folder / "output.npy", OUT_HDF5: self.folder / "output.h5"}
        words = [str(self.folder / word.name) if isinstance(word, Tensor) else word for word in work]
        words = [str(outputs.get(word, word)) for word in words]
        argv = [*self.programs.get(words[0], words[:1]), *words[1:]]
        peak = 0
        start = time.perf_counter()
        # Pipes, so that nobody takes us for a terminal; what is said is a few lines, which they hold.
        child = subprocess.Popen(
            argv, cwd=self.folder, env=self.environment, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        try:
            while not (ended := os.wait4(child.pid, os.WNOHANG if sampled else 0))[0]:
                peak = max(peak, pss(child.pid))
                time.sleep(SAMPLING)
            seconds = time.perf_counter() - start
        except BaseException:
            stop(child)
            raise
        child.returncode = os.waitstatus_to_exitcode(ended[1])
        said, complaint = child.communicate()
        for output in outputs.values():
            output.unlink(missing_ok=True)
        if child.returncode:
            last = (complaint.strip().splitlines() or [""])[-1]
            raise WorkError(f"failed: {words[0]} exited with {child.returncode}: {last}")
        largest = ended[2].ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        return Used(seconds, max(peak, largest), said)

    def measure(self, row: Row, pairs: int) -> Result:
        if row.needs and not find_spec(row.needs):
            return Result(row, missing=f"not measured: no {row.needs}")
        try:
            for tensor in inputs([row]):
                self.make(tensor)
            if row.kind == "memory":
                return self.memory(row)
            cold, pairs = (0, 1) if row.long else (1, pairs)
            rounds = [[self.timed(row, work) for work in row.runs] for _ in range(cold + pairs)][cold:]
        except WorkError as error:
            return Result(row, missing=str(error))
        return judged(row, rounds)

    def timed(self, row: Row, work: Work) -> float:
        if not row.light and reclaimed():
            warm(GB + 3 * taken(work) // 2)
        used = self.run(work)
        return float(used.said) if row.printed else used.seconds

    def memory(self, row: Row) -> Result:
        peaks = [self.run(work, sampled=True).peak / MB for work in row.runs]
        _, *words = row.runs[peaks.index(max(peaks))]
        names = (word.name if isinstance(word, Tensor) else word for word in words)
        largest = " ".join(part for name in names for part in name.split())  # scripts have several lines
        return Result(row, peaks, max(peaks), f", largest: {largest.replace(f' -o {OUT}', '')}")


def stop(child: subprocess.Popen[str]) -> None:
    """End it before its folder goes; what it has begun it can take back."""
    child.terminate()
    try:
        child.wait(5)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


def pss(process: int) -> int:
    """Bytes of memory that a process and its descendants have: what several share is divided among them."""
    total = 0
    try:
        found = re.search(r"^Pss: +(\d+)", Path(f"/proc/{process}/smaps_rollup").read_text(), re.MULTILINE)
        total = int(found[1]) * 1024 if found else 0
        for thread in Path(f"/proc/{process}/task").iterdir():
            total += sum(pss(int(child)) for child in (thread / "children").read_text().split())
    except OSError:  # it has ended meanwhile; or this is not Linux
        pass
    return total


def gn_command() -> list[str]:
    """The entry point that came with this Python, if it is ours: Debian's generate-ninja owns a gn too."""
    path = Path(sys.executable).with_name("gn")
    if path.is_file() and b"gncli" in path.read_bytes()[:1000]:
        return [str(path)]
    return [sys.executable, "-m", "gncli"]


def proc(name: str, key: str) -> str:
    """What /proc/NAME says of `key`, or nothing."""
    try:
        found = re.search(rf"^{key}\s*:\s*(.*)$", Path("/proc", name).read_text(), re.MULTILINE)
    except OSError:
        return ""
    return found[1] if found else ""


def file_system(folder: Path) -> str:
    try:
        mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    except OSError:
        return "unknown"
    holding = [mount for mount in mounts if folder.is_relative_to(mount[1])]
    return max(holding, key=lambda mount: len(mount[1]))[2]


def space(folder: Path) -> int:
    """Bytes that fit there; files on tmpfs are memory."""
    free = shutil.disk_usage(folder).free
    return min(free, memory("MemAvailable") or free) if file_system(folder) == "tmpfs" else free


def memory(key: str) -> int:
    """Bytes, by /proc/meminfo; 0 where that is not told."""
    found = proc("meminfo", key).split()
    return int(found[0]) * 1024 if found else 0


def reclaimed() -> bool:
    """Whether this is a virtual machine whose host takes memory back some seconds after it is freed."""
    reporting = 5  # the bit VIRTIO_BALLOON_F_REPORTING
    features = Path("/sys/bus/virtio/drivers/virtio_balloon").glob("virtio*/features")
    return any(path.read_text()[reporting] == "1" for path in features)


def warm(size: int) -> None:
    """Touch so much free memory: to have it back from the host takes several times as long as to use it."""
    size = min(size, memory("MemFree") * 9 // 10)
    # In a process of its own, whose peak is not that of all that start here.
    subprocess.run([sys.executable, "-c", TOUCH, str(size)], check=True)


def version(name: str) -> str:
    try:
        return f"{name} {metadata.version(name)}"
    except metadata.PackageNotFoundError:
        return f"no {name}"


def machine(folder: Path) -> str:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return ", ".join((
        f"{proc('cpuinfo', 'model name') or platform.machine()}",
        f"{cores} cores",
        f"{total / GB:.1f} GB of memory" if (total := memory("MemTotal")) else "unknown memory",
        f"{platform.system()} {platform.release()}",
        f"{platform.python_implementation()} {platform.python_version()}",
        *map(version, ("numpy", "torch")),
        f"files on {file_system(folder)}",
        *(["free memory touched before each run, since the host takes it back"] if reclaimed() else []),
    ))  # fmt: skip


def show(results: Sequence[Result], *, markdown: bool) -> None:
    """The table: for the README, for a terminal, or for a file."""
    lines = [result.cells() for result in results]
    if markdown:
        for line in (HEADER, ["---"] * len(HEADER), *lines):
            print("| " + " | ".join(line) + " |")
    elif sys.stdout.isatty():
        from rich import box
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        table = Table(*HEADER, box=box.SIMPLE_HEAD)
        for result, line in zip(results, lines, strict=True):
            table.add_row(*map(Text, line), style="bold red" if result.failed else "")
        Console().print(table)
    else:
        widths = [max(map(len, column)) for column in zip(HEADER, *lines, strict=True)]
        for line in (HEADER, *lines):
            print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def size_of(text: str) -> int:
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([KMG]?)B?", text.upper())
    if not found or float(found[1]) <= 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size as 64M or 1G")
    return int(float(found[1]) * {"": 1, "K": 1000, "M": MB, "G": GB}[found[2]])


def positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1")
    return int(text)


def options() -> argparse.ArgumentParser:
    default = Path("/dev/shm" if Path("/dev/shm").is_dir() else tempfile.gettempdir())
    parser = argparse.ArgumentParser(description="Measure gn against cp, cat, numpy and torch.")
    parser.add_argument("--size", type=size_of, default=GB, help="the 1 GB of the table, as 64M (default 1G)")
    parser.add_argument("--rows", default="*", help="names or globs of rows, with commas between them")
    parser.add_argument("--list", action="store_true", help="list the names of the rows, and stop")
    parser.add_argument("--pairs", type=positive, default=5, help="after one to warm up (default 5)")
    parser.add_argument("--dir", type=Path, default=default, help="where the files go (default /dev/shm)")
    parser.add_argument("--markdown", action="store_true", help="print the table of the README")
    return parser


def leave(number: int, frame: FrameType | None) -> NoReturn:
    raise SystemExit(128 + number)


def main() -> int:
    parser = options()
    chosen = parser.parse_args()
    every = rows(chosen.size)
    globs = chosen.rows.split(",")
    for glob in globs:
        if not any(fnmatchcase(row.name, glob) for row in every):
            parser.error(f"no row is named {glob}; there are: {', '.join(row.name for row in every)}")
    table = [row for row in every if any(fnmatchcase(row.name, glob) for glob in globs)]
    if chosen.list:
        print("\n".join(f"{row.name:15} {row.work}" for row in table))
        return 0
    table = [row for row in table if not row.long or row.name in globs]
    if not chosen.dir.is_dir():
        parser.error(f"{chosen.dir} is not a folder")
    if (needed := room(table)) > (free := space(chosen.dir)):
        parser.error(
            f"{chosen.dir} has room for {free / GB:.1f} GB, and this takes {needed / GB:.1f}; "
            "try a smaller --size, fewer --rows or another --dir"
        )
    for number in (signal.SIGTERM, signal.SIGHUP):  # as an exception, so that the folder goes
        if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup sets it
            signal.signal(number, leave)
    with tempfile.TemporaryDirectory(prefix="gn-bench-", dir=chosen.dir) as name:
        bench = Bench(Path(name).resolve())
        print(f"{machine(bench.folder)}.")
        print(
            f"The median of {chosen.pairs} after one to warm up (and smallest..largest); seconds are medians."
        )
        if chosen.size != GB:
            print(f"Sizes are {chosen.size / GB:g} of those that reach and aim are for.")
        print(flush=True)
        results = []
        for place, row in enumerate(table):
            results.append(bench.measure(row, chosen.pairs))
            print("  ".join((row.name, *filter(None, results[-1].cells()[2:]))), file=sys.stderr, flush=True)
            for tensor in inputs([row]) - inputs(table[place + 1 :]):
                (bench.folder / tensor.name).unlink(missing_ok=True)
    show(results, markdown=chosen.markdown)
    return int(any(result.failed for result in results))


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
