"""What tests/bench.py measures: each row of the table as data, how it is judged, and gn's opponents."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Literal

GB, MB = 10**9, 10**6
SPACE = 112 * 112
SAMPLE = 64 * SPACE  # elements: one sample of (…,64,112,112)
ITEMSIZE = {"uint8": 1, "float16": 2, "float32": 4, "float64": 8}
OUT = "{output}"  # among the words of a piece of work: a file that is not there yet
OUT_HDF5 = "{output.h5}"
HDF5_STORES = {  # of one sample a chunk
    "contiguous": {},
    "chunks": {"chunks": True},
    "gzip": {"chunks": True, "compression": "gzip", "compression_opts": 4, "shuffle": True},
}


@dataclass(frozen=True)
class Tensor:
    """An input, made before the first row that names it and removed after the last."""

    shape: tuple[int, ...]
    dtype: str = "float32"
    order: Literal["C", "F"] = "C"
    store: str = ""  # one of HDF5_STORES, for a file of real activations; else .npy, of random numbers

    @property
    def name(self) -> str:
        kind = f"{self.store}.h5" if self.store else "npy"
        return f"{self.dtype}-{self.order}-{'x'.join(map(str, self.shape))}.{kind}"

    @property
    def elements(self) -> int:
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        return self.elements * ITEMSIZE[self.dtype]

    @property
    def output(self) -> int:
        """Bytes that normalizing it writes: integers become float32."""
        return self.elements * (4 if self.dtype == "uint8" else ITEMSIZE[self.dtype])


TOUCH = """
import mmap, sys
memory = mmap.mmap(-1, int(sys.argv[1]), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
memory.madvise(mmap.MADV_HUGEPAGE)
for at in range(0, len(memory), 1 << 21):
    memory[at] = 1
"""

# A random block, again and again: as quick as writing a file, and no two channels of a sample are alike.
MAKE = """
import sys, numpy as np
path, dtype, order, *shape = sys.argv[1:]
shape = tuple(map(int, shape))
descr = np.lib.format.dtype_to_descr(np.dtype(dtype))
rng, left = np.random.default_rng(0), int(np.prod(shape))
count = min(left, 5_000_011)
block = rng.integers(0, 256, count) if dtype == "uint8" else rng.normal(1, 2, count)
block = block.astype(dtype)
with open(path, "wb") as file:
    header = {"descr": descr, "fortran_order": order == "F", "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)
    while left:
        left -= file.write(block[:left].data) // block.itemsize
"""

# The sample's activations, four maps of 16 channels as one of 64, again and again.
MAKE_HDF5 = """
import json, sys, h5py, numpy as np
path, sample, how, *shape = sys.argv[1:]
how, shape = json.loads(how), tuple(map(int, shape))
tile = np.load(sample).reshape(1, *shape[1:])
if how.pop("chunks", False):
    how["chunks"] = tile.shape
with h5py.File(path, "w") as file:
    x = file.create_dataset("x", shape, tile.dtype, **how)
    for i in range(len(x)):
        x[i] = tile[0]
"""

# What people write, sample by sample, in float32, with the filters of the input.
H5PY_NORMALIZE = """
import sys, h5py, numpy as np
with h5py.File(sys.argv[1]) as a, h5py.File(sys.argv[2], "w") as b:
    x = a["x"]
    y = b.create_dataset("x", x.shape, x.dtype, chunks=x.chunks, compression=x.compression,
                         compression_opts=x.compression_opts, shuffle=x.shuffle)
    for i in range(len(x)):
        rows = x[i].reshape(32, -1)
        mean, var = rows.mean(1, keepdims=True), rows.var(1, keepdims=True)
        y[i] = ((rows - mean) / np.sqrt(var + 1e-5)).reshape(x.shape[1:])
"""

H5PY_READ = """
import sys, h5py
with h5py.File(sys.argv[1]) as file:
    for i in range(len(file["x"])):
        file["x"][i]
"""

WITHOUT_ISAL = """
import sys
sys.modules["isal"] = None
from gncli.cli import main
main()
"""

# A command line: `gn` and `python` are those under test, and a tensor stands for the path of its file.
Work = tuple[str | Tensor, ...]


@dataclass(frozen=True)
class Row:
    """A line of the table. `runs` are, in turn: ours and theirs; ours alone; or, for memory, any number."""

    name: str
    work: str
    against: str
    runs: tuple[Work, ...]
    reach: float | None = None
    aim: float | None = None
    # ratio: our time over theirs; speed: theirs over ours, at least so much; or no comparison.
    kind: Literal["ratio", "speed", "memory", "time"] = "ratio"
    per: Literal["", "element", "byte"] = ""  # what each side's time is divided by before they compare
    printed: bool = False  # the time is what the work prints, not that of its whole process
    light: bool = False  # takes little memory
    long: bool = False  # takes minutes: once is enough, and only where it is named
    needs: str = ""  # a module without which there is nothing to compare with


@dataclass(frozen=True)
class Result:
    """Of a row: its figures, one a pair, the one that counts, and what is said beside them."""

    row: Row
    figures: Sequence[float] = ()
    figure: float = 0.0
    also: str = ""
    seconds: str = ""
    missing: str = ""

    @property
    def verdict(self) -> str:
        if self.missing or self.row.reach is None or self.row.aim is None:
            return self.missing
        sign = -1 if self.row.kind == "speed" else 1
        if sign * self.figure <= sign * self.row.aim:
            return "aim met"
        return "reached" if sign * self.figure <= sign * self.row.reach else "MISSED"

    @property
    def failed(self) -> bool:
        return self.verdict.startswith(("MISSED", "failed"))

    def cells(self) -> list[str]:
        sign, unit = "≥" if self.row.kind == "speed" else "≤", " MB" if self.row.kind == "memory" else " ×"
        limits = [f"{sign} {limit:g}{unit}" if limit else "" for limit in (self.row.reach, self.row.aim)]
        return [self.row.work, self.row.against, self.measured(), *limits, self.verdict, self.seconds]

    def measured(self) -> str:
        if not self.figures:
            return ""
        forms = {"memory": (".0f", " MB"), "time": (".3g", " s"), "speed": (".2f", " times as fast")}
        form, unit = forms.get(self.row.kind, (".2f", " ×"))
        spread = f"{min(self.figures):{form}}..{max(self.figures):{form}}"
        return f"{self.figure:{form}}{unit} ({spread}){self.also}"


def judged(row: Row, times: Sequence[Sequence[float]]) -> Result:
    """From the seconds of the runs of a row, pair after pair."""
    seconds = " : ".join(f"{median(side):.3g}" for side in zip(*times, strict=True))
    if row.kind == "time":
        figures = [ours for (ours,) in times]
        per_gb = median(figures) / tensors(row.runs[0])[0].nbytes * GB
        return Result(row, figures, median(figures), f", {per_gb:.2f} s a GB", seconds)
    ratios = [theirs / ours if row.kind == "speed" else ours / theirs for ours, theirs in times]
    if not row.per:
        return Result(row, ratios, median(ratios), "", seconds)
    a, b = (tensors(work)[0] for work in row.runs)
    scales = {"element": b.elements / a.elements, "byte": (b.nbytes + b.output) / (a.nbytes + a.output)}
    (other,) = scales.keys() - {row.per}
    figures = [ratio * scales[row.per] for ratio in ratios]
    also = f"; per {other} {median(ratios) * scales[other]:.2f}"
    return Result(row, figures, median(figures), also, seconds)


def tensors(work: Work) -> list[Tensor]:
    return [word for word in work if isinstance(word, Tensor)]


def inputs(table: Iterable[Row]) -> set[Tensor]:
    return {tensor for row in table for work in row.runs for tensor in tensors(work)}


def room(table: Sequence[Row]) -> int:
    """Bytes in files at the fullest moment, and what a script holds in memory: tmpfs takes from the same."""
    most = 0
    for place, row in enumerate(table):
        kept = sum(tensor.nbytes for tensor in inputs(table[: place + 1]) & inputs(table[place:]))
        most = max(most, kept + max(map(taken, row.runs)))
    return most


def taken(work: Work) -> int:
    """Bytes of memory that it takes at most, where files are memory: for its output, and in a script."""
    large = max(tensors(work), key=lambda tensor: tensor.output, default=Tensor((0,)))
    return large.output * bool({OUT, OUT_HDF5} & {*work}) + 3 * large.nbytes * (work[0] == "python")


def normalize(tensor: Tensor, *options: str | Tensor) -> Work:
    return ("gn", "normalize", tensor, "-o", OUT, *options)


def stats(tensor: Tensor, *options: str) -> Work:
    return ("gn", "stats", tensor, *options)


NUMPY_STATS = """
import sys, numpy as np
x = np.load(sys.argv[1], mmap_mode="r")
print(x.mean(), x.std(), x.min(), x.max())
"""

TORCH_FILE = """
import sys, numpy as np, torch
x = torch.from_numpy(np.load(sys.argv[1]))
np.save(sys.argv[2], torch.nn.functional.group_norm(x, 32).numpy())
"""


# The seconds of one call of the command for so many files, which are links to one.
MANY = """
import os, shutil, subprocess, sys, time
path, output, count = sys.argv[1:]
names = [f"{output}-in/{number}.npy" for number in range(int(count))]
try:
    os.mkdir(f"{output}-in")
    for name in names:
        os.link(path, name)
    start = time.perf_counter()
    gn = [sys.executable, "-m", "gncli"]
    subprocess.run([*gn, "normalize", *names, "-q", "-o", f"{output}-out/"], check=True)
    print(time.perf_counter() - start)
finally:
    for folder in ("in", "out"):
        shutil.rmtree(f"{output}-{folder}", ignore_errors=True)
"""

# The seconds of a normalization, on a cluster that has been started or, without one, on this machine. It is
# the second: at the first, workers load what they need, and memory is touched that was never used before.
ON_DASK = """
import os, sys, time
from gncli.crew import Crew
from gncli.normalize import Settings, normalize_file
path, output, jobs, dask = sys.argv[1:]
settings = Settings(jobs=int(jobs), dask=dask or None)
Crew.of(settings.jobs, settings.memory, settings.dask)
normalize_file(path, output, settings)
os.remove(output)
start = time.perf_counter()
normalize_file(path, output, settings)
print(time.perf_counter() - start)
"""

# The seconds of each of so many tasks that do nothing, through a scheduler and two workers.
DASK_TASKS = """
import sys, time
from gncli.cluster import connect
from gncli.executors import in_order
cluster, count = connect("local", 2), int(sys.argv[1])
list(in_order(cluster, abs, range(200), 4))
start = time.perf_counter()
assert list(in_order(cluster, abs, range(count), 2 * cluster.jobs)) == list(range(count))
print((time.perf_counter() - start) / count)
"""


def inside(setup: str, call: str) -> Work:
    """Work that prints the median seconds of nine `call`s, on 103 MB of float32, after one to warm up."""
    shape = (32, 64, 112, 112)
    script = f"""
import statistics, time, numpy as np
x = np.random.default_rng(0).standard_normal({shape}, dtype=np.float32)
{setup}
seconds = []
for _ in range(10):
    y = None
    start = time.perf_counter()
    y = {call}
    seconds.append(time.perf_counter() - start)
print(statistics.median(seconds[1:]))
"""
    return ("python", "-c", script)


def hdf5_rows(samples: int, label: str, npy: Work) -> list[Row]:
    """HDF5 files of as much as `npy` normalizes, against that, and against h5py."""
    contiguous, chunks, gzip = (
        Tensor((samples, 64, 112, 112), store=store) for store in ("contiguous", "chunks", "gzip")
    )
    out = ("-o", OUT_HDF5)
    by_zlib = ("python", "-c", WITHOUT_ISAL)
    by_h5py = ("python", "-c", H5PY_NORMALIZE, gzip, OUT_HDF5)
    read = ("python", "-c", H5PY_READ, gzip)
    works = [("gn", "normalize", tensor, *out) for tensor in (contiguous, chunks, gzip)]
    every = (*works, (*by_zlib, *works[2][1:]), ("gn", "stats", gzip))
    return [
        Row("hdf5-contiguous", f"normalize {label} of contiguous HDF5", "the same as .npy",
            (works[0], npy), 1.3, 1.0),
        Row("hdf5-chunks", f"{label} of HDF5 in chunks of a sample", "the same as .npy",
            (works[1], npy), 2, 1.3),
        Row("hdf5-gzip", "gzip-4 and shuffle, with `[fast]`", "a script of h5py and numpy, by sample",
            (works[2], by_h5py), 5, 8, "speed", needs="isal"),
        Row("hdf5-gzip-zlib", "gzip-4 and shuffle, zlib", "the same script",
            ((*by_zlib, *works[2][1:]), by_h5py), 1.8, 2, "speed"),
        Row("hdf5-stats", "`gn stats` of gzip, with `[fast]`", "h5py's reading of it",
            (("gn", "stats", gzip), read), 1.7, 3, "speed", needs="isal"),
        Row("hdf5-stats-zlib", "`gn stats` of gzip, zlib", "h5py's reading of it",
            ((*by_zlib, "stats", gzip), read), 1.7, 2, "speed"),
        Row("hdf5-memory", "peak memory of HDF5 files", "", every, 200, 150, "memory"),
    ]  # fmt: skip


def rows(size: int) -> list[Row]:
    """The whole table, its "1 GB" being `size` bytes, rounded up to an even number of samples."""
    samples = 2 * math.ceil(size / (2 * 4 * SAMPLE))

    def label(times: float) -> str:
        return f"{times * size / GB:.2g} GB"

    def nchw(times: float = 1, dtype: str = "float32", order: Literal["C", "F"] = "C") -> Tensor:
        return Tensor((round(samples * times), 64, 112, 112), dtype, order)

    one, four, small = nchw(), nchw(4), Tensor((4, 16, 8, 8))
    fortran = normalize(nchw(order="F"))
    small_groups = normalize(Tensor((samples * SAMPLE // (512 * 49), 512, 7, 7)))
    tiny_groups = normalize(Tensor((samples * SPACE, 64)))
    channels_last = normalize(Tensor((samples, 112, 112, 64)), "--layout", "NHWC")
    one_group = normalize(Tensor((1, 64, 112 * samples, 112)), "--groups", "1")
    affine = normalize(one, "--gamma", Tensor((64,)), "--beta", Tensor((64, 1, 1)))
    every = (
        *map(normalize, (one, four, nchw(1 / 2, "float64"), nchw(2, "float16"))),
        *(channels_last, small_groups, tiny_groups, one_group, affine, fortran),
        *(normalize(one, "--grouping", "interleaved"), stats(one), stats(four)),
    )
    tight = tuple((*work, "--memory", "8M") for work in every)
    inside_gn = inside("from gncli import group_norm", "group_norm(x, 32, jobs=2)")
    inside_torch = inside(
        "import torch; torch.set_num_threads(2); x = torch.from_numpy(x)",
        "torch.nn.functional.group_norm(x, 32)",
    )
    cat = ("sh", "-c", 'cat "$0" > /dev/null', four)
    numpy_stats = ("python", "-c", NUMPY_STATS, one)
    torch_file = ("python", "-c", TORCH_FILE, one, OUT)
    count = max(2, size // MB)
    many = ("python", "-c", MANY, Tensor((20, 64, 14, 14)), OUT, str(count))
    single = ("python", "-c", MANY, Tensor((20 * count, 64, 14, 14)), OUT, "1")
    on_dask = [("python", "-c", ON_DASK, four, OUT, jobs, "local") for jobs in ("1", "2")]
    local = ("python", "-c", ON_DASK, four, OUT, "2", "")
    tasks = {count: ("python", "-c", DASK_TASKS, str(count)) for count in (10**3, 10**4, 10**5)}
    click, numpy = ("python", "-c", "import click"), ("python", "-c", "import numpy")

    def against_nchw(name: str, work: str, ours: Work, reach: float, aim: float) -> Row:
        return Row(name, f"{label(1)} {work}", "the NCHW figure", (ours, normalize(one)), reach, aim)

    # "Its own bytes, the float32 figure per element", can be read in two ways where an element has not four
    # bytes. The verdict is by the time per element for the narrower dtypes, where an element costs the same
    # arithmetic and less copying, and by the time per byte for float64, where it is twice the copying. The
    # other figure is shown beside it. Bytes are those moved, read and written; for float64 that is in
    # proportion to its own.
    def against_float32(dtype: str, times: float, per: Literal["element", "byte"]) -> Row:
        ours = normalize(nchw(times, dtype))
        work = f"{label(1)} {dtype}{' → float32' if dtype == 'uint8' else ''}, per {per}"
        return Row(dtype, work, f"float32, per {per}", (ours, normalize(one)), 1.5, 1.0, per=per)

    def growth(times: float) -> Row:
        work = f"normalize {label(times)} float32 NCHW"
        return Row(f"growth-{times:g}", work, "", (normalize(nchw(times)),), kind="time")

    return [
        Row("cp-4G", f"normalize {label(4)} float32 NCHW (…,64,112,112), G = 32", "`cp` of the same file",
            (normalize(four), ("cp", four, OUT)), 2.0, 1.25),
        Row("cp-1G", f"the same, {label(1)}", "`cp`", (normalize(one), ("cp", one, OUT)), 2.3, 1.5),
        against_nchw("nhwc", "NHWC (…,112,112,64), G = 32", channels_last, 1.3, 1.0),
        against_nchw("small-groups", "of small groups: (…,512,7,7) G = 32", small_groups, 1.5, 1.1),
        against_nchw("tiny-groups", "of tiny groups: (…,64) NC, G = 32 (of 2 elements)", tiny_groups, 3, 2),
        Row("one-group", f"{label(1)} in one group (N = 1, G = 1), larger than the budget", "`cp`",
            (one_group, ("cp", *tensors(one_group), OUT)), 3, 2),
        against_float32("float64", 1 / 2, "byte"),
        against_float32("float16", 2, "element"),
        against_float32("uint8", 4, "element"),
        Row("affine", f"{label(1)} with gamma and beta", "without", (affine, normalize(one)), 1.2, 1.05),
        Row("fortran", f"Fortran-order {label(1)}", "C order", (fortran, normalize(one)), 3, 1.5),
        Row("stats-1G", f"`gn stats` {label(1)} float32",
            'numpy: `np.load(mmap_mode="r")`, mean, std, min, max', (stats(one), numpy_stats), 3, 6, "speed"),
        Row("stats-4G", f"`gn stats` {label(4)}", "`cat FILE > /dev/null`", (stats(four), cat), 4, 2),
        Row("torch-file", f"normalize {label(1)}", "a script: `np.load`, torch `group_norm`, `np.save`",
            (normalize(one), torch_file), 5, 10, "speed", needs="torch"),
        Row("torch-inside", "`gncli.group_norm` in process, 0.1 GB float32", "torch `group_norm`, 2 threads",
            (inside_gn, inside_torch), 0.7, 1.0, "speed", printed=True, needs="torch"),
        Row("help", "`gn --help`", '`python -c "import click"`', (("gn", "--help"), click), 1.4, 1.2,
            light=True),
        Row("start", "`gn stats small.npy --format json`", '`python -c "import numpy"`',
            (stats(small, "--format", "json"), numpy), 1.6, 1.3, light=True),
        Row("memory", "peak memory, default budget", "", every, 130, 100, "memory"),
        Row("memory-8M", "peak memory with `--memory 8M`", "", tight, 75, 60, "memory"),
        Row("linear", f"time of {label(4)}", f"time of {label(1)}",
            (normalize(four), normalize(one)), 4.2, 4.0),
        *map(growth, (0.1, 1, 4, 8)),
        Row("many", f"normalize {count} files of 1 MB, in one call", f"one of {label(1)}",
            (many, single), 1.5, 1.2, printed=True),
        Row("dask-workers", f"normalize {label(4)} on 2 Dask workers, started before", "on 1",
            (on_dask[1], on_dask[0]), 1.6, 1.9, "speed", printed=True, needs="distributed"),
        Row("dask-local", f"normalize {label(4)} on 2 Dask workers, started before", "`--jobs 2`",
            (on_dask[1], local), 1.5, 1.2, printed=True, needs="distributed"),
        Row("dask-tasks", "a Dask task that does nothing, of 10 000", "of 1 000",
            (tasks[10**4], tasks[10**3]), 1.5, 1.1, printed=True, light=True, needs="distributed"),
        Row("dask-tasks-1e5", "a Dask task that does nothing, of 100 000", "of 1 000",
            (tasks[10**5], tasks[10**3]), 1.5, 1.1, printed=True, light=True, long=True, needs="distributed"),
        *hdf5_rows(samples, label(1), normalize(one)),
    ]  # fmt: skip
