"""Faults, for real: kills, signals, full disks, inputs that change. No output but a whole one, ever."""

from __future__ import annotations

import array
import contextlib
import fcntl
import io
import json
import os
import random
import re
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import h5py
import numpy as np
import pytest
from arrays import normal
from conftest import Shell
from oracle import ulp_distance
from test_pipes import reference, saved

GN = [sys.executable, "-m", "gncli"]
TEMPORARY = re.compile(r"\.y\.npy\.gn-[0-9a-f]{8}\.tmp")

linux = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")


def start(words: str, folder: Path, **kwargs: Any) -> subprocess.Popen[bytes]:
    """`gn words` in a process of its own, its output on pipes."""
    return subprocess.Popen(
        [*GN, *words.split()],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=False,
        **kwargs,
    )


def until(condition: Callable[[], Any], what: str) -> None:
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.005)


def temporaries(folder: Path) -> list[str]:
    return [name for name in os.listdir(folder) if TEMPORARY.fullmatch(name)]


# SIGKILL


@pytest.fixture(scope="module")
def slow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, bytes, float]]:
    """A folder with an x.npy that takes half a second or more, what becomes of it, and how long it takes."""
    folder = tmp_path_factory.mktemp("slow")
    x = np.resize(normal(10_000, 64), (250_000, 64))
    seconds = 0.0
    while seconds < 0.5:
        np.save(folder / "x.npy", x)
        began = time.monotonic()
        subprocess.run([*GN, "normalize", "x.npy", "-fqj2", "-o", "z.npy"], cwd=folder, check=True)
        seconds = time.monotonic() - began
        whole = (folder / "z.npy").read_bytes()
        (folder / "z.npy").unlink()
        x = np.concatenate([x, x])
    yield folder, whole, seconds
    for left in folder.iterdir():
        left.unlink()


@pytest.mark.parametrize("jobs", [1, 2])
@pytest.mark.parametrize("exists", [False, True])
def test_sigkill_leaves_nothing_or_the_whole(
    slow: tuple[Path, bytes, float], exists: bool, jobs: int
) -> None:
    folder, whole, seconds = slow
    output = folder / "y.npy"
    moments = random.Random(jobs)
    seen = {"none": 0, "old": 0, "new": 0}
    for _ in range(15):
        output.unlink(missing_ok=True)
        if exists:
            output.write_bytes(b"old")
        process = start(f"normalize x.npy -fqj{jobs} -o y.npy", folder, start_new_session=True)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(moments.uniform(0, 1.2 * seconds))
        process.kill()
        process.communicate()
        content = output.read_bytes() if output.exists() else None
        state = {None: "none", b"old": "old", whole: "new"}.get(content)
        assert state is not None, "what stands there is neither nothing, nor the old file, nor the new one"
        assert exists == (state != "none") or state == "new"
        seen[state] += 1
    assert seen["old" if exists else "none"], "no run was killed before its end"
    assert sorted(os.listdir(folder)) == sorted(
        {"x.npy", *temporaries(folder), *(["y.npy"] if output.exists() else [])}
    )
    until(lambda: not any(held(folder / left) for left in temporaries(folder)), "workers live on")
    subprocess.run([*GN, "normalize", "x.npy", "-fqj2", "-o", "y.npy"], cwd=folder, check=True)
    assert sorted(os.listdir(folder)) == ["x.npy", "y.npy"]
    assert output.read_bytes() == whole
    output.unlink()


@pytest.mark.parametrize("jobs", [1, 2])
def test_signals_at_any_moment(slow: tuple[Path, bytes, float], jobs: int) -> None:
    """From the first byte written on: nothing is left, nothing is said, and the code is the signal's."""
    folder, whole, seconds = slow
    chance = random.Random(jobs)
    ends = []
    for _ in range(8):
        number = chance.choice([signal.SIGINT, signal.SIGTERM])
        process = start(f"normalize x.npy -fqj{jobs} -o y.npy", folder, start_new_session=True)
        until(lambda: temporaries(folder) or (folder / "y.npy").exists(), "nothing is written")
        time.sleep(chance.uniform(0, seconds))
        chance.choice([os.killpg, os.kill])(process.pid, number)
        assert process.communicate(timeout=30) == (b"", b"")
        ends.append(process.returncode)
        # The last is what a shell calls 128 + number, too: Python, at its very end, has no handlers any more.
        assert process.returncode in (0, 128 + number, -number)
        if (folder / "y.npy").exists():  # also where the signal came just after
            assert (folder / "y.npy").read_bytes() == whole
            (folder / "y.npy").unlink()
        assert os.listdir(folder) == ["x.npy"]
    assert set(ends) & {130, 143}, "no run was stopped before its end"


def held(path: Path) -> bool:
    """Whether any process has the file open."""
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        with contextlib.suppress(OSError):
            if os.readlink(link) == str(path):
                return True
    return False


def test_what_is_left_over_goes_and_what_is_written_stays(tmp_path: Path) -> None:
    x = normal(2, 4, 3)
    np.save(tmp_path / "x.npy", x)
    (tmp_path / ".y.npy.gn-01234567.tmp").write_bytes(b"left")
    (tmp_path / ".z.npy.gn-01234567.tmp").write_bytes(b"another output's")
    with start("normalize - -fq -g 4 -o y.npy", tmp_path, stdin=subprocess.PIPE) as writing:
        assert writing.stdin is not None
        content = io.BytesIO()
        np.save(content, x)
        writing.stdin.write(content.getvalue()[:-1])
        writing.stdin.flush()
        left = [".y.npy.gn-01234567.tmp"]
        until(lambda: temporaries(tmp_path) not in ([], left), "nothing is written")
        until(lambda: left[0] not in temporaries(tmp_path), "what was left is there")
        (name,) = temporaries(tmp_path)
        with start("normalize x.npy -fq -g 2 -o y.npy", tmp_path) as other:
            assert other.communicate() == (b"", b"")
        assert temporaries(tmp_path) == [name]
        assert ulp_distance(np.load(tmp_path / "y.npy"), reference(x, 2)).max() <= 1
        writing.stdin.write(content.getvalue()[-1:])
        writing.stdin.close()
        writing.stdin = None
        assert writing.wait(timeout=30) == 0
    assert sorted(os.listdir(tmp_path)) == [".z.npy.gn-01234567.tmp", "x.npy", "y.npy"]
    assert ulp_distance(np.load(tmp_path / "y.npy"), reference(x, 4)).max() <= 1


# SIGINT and SIGTERM

SIGNALS = [(signal.SIGINT, 130), (signal.SIGTERM, 143)]


@pytest.mark.parametrize(("number", "code"), SIGNALS)
def test_a_signal_while_a_pipe_gives_nothing(tmp_path: Path, number: int, code: int) -> None:
    content = io.BytesIO()
    np.save(content, normal(64, 64, 3000))
    with start("normalize - -g 4 -o y.npy", tmp_path, stdin=subprocess.PIPE) as process:
        assert process.stdin is not None
        process.stdin.write(content.getvalue()[:-100])
        process.stdin.flush()
        until(lambda: temporaries(tmp_path), "nothing is written")
        process.send_signal(number)
        # Its input has not ended, and does not.
        assert process.wait(timeout=30) == code
        assert process.communicate() == (b"", b"")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(("number", "code"), SIGNALS)
@pytest.mark.parametrize("kind", ["HDF5", "Fortran order", "list"])
def test_a_signal_while_standard_input_is_awaited(tmp_path: Path, number: int, code: int, kind: str) -> None:
    """The temporary file goes, too."""
    spool = tmp_path / "spool"
    spool.mkdir()
    content = b"\x89HDF\r\n\x1a\n" + bytes(5000)
    words = "normalize - -o y.npy -g 1 --memory 1M"
    if kind == "Fortran order":
        content = saved(np.asfortranarray(normal(64, 64, 300)))[:-1]
    elif kind == "list":
        words, content = "stats --from-file -", b"x.npy\n"
    environment = {**os.environ, "TMPDIR": str(spool)}
    with start(words, tmp_path, stdin=subprocess.PIPE, env=environment) as process:
        assert process.stdin is not None
        process.stdin.write(content)
        process.stdin.flush()
        until(lambda: unread(process.stdin) == 0, "nothing is read")
        process.send_signal(number)
        assert process.wait(timeout=30) == code
        assert process.communicate() == (b"", b"")
    assert os.listdir(tmp_path) == ["spool"]
    assert os.listdir(spool) == []


ENDING = [
    "USR1",
    "USR2",
    "QUIT",
    "ABRT",
    "ALRM",
    "VTALRM",
    "PROF",
    "XCPU",
    "IO",
    "PWR",
    "SYS",
    "TRAP",
    "STKFLT",
]


@linux
@pytest.mark.parametrize("number", [*(getattr(signal, f"SIG{n}", 0) for n in ENDING), signal.SIGRTMIN, 50])
def test_every_signal_that_ends_a_process_leaves_nothing(tmp_path: Path, number: int) -> None:
    if not number:
        pytest.skip("this Python does not name it")
    with start("normalize - -g 4 -o y.npy", tmp_path, stdin=subprocess.PIPE) as process:
        assert process.stdin is not None
        process.stdin.write(saved(normal(64, 64, 3000))[:-100])
        process.stdin.flush()
        until(lambda: temporaries(tmp_path), "nothing is written")
        process.send_signal(number)
        assert process.wait(timeout=30) == 128 + number
        assert process.communicate() == (b"", b"")
    assert os.listdir(tmp_path) == []


@linux
@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGWINCH, signal.SIGCHLD])
def test_a_signal_that_the_caller_ignores_or_that_ends_nothing(tmp_path: Path, number: int) -> None:
    x = normal(2, 4, 3)
    ignore = [sys.executable, "-c", IGNORING, str(int(number))]
    with subprocess.Popen(
        [*ignore, *GN, "normalize", "-", "-qg4", "-o", "y.npy"], cwd=tmp_path, stdin=subprocess.PIPE
    ) as process:
        assert process.stdin is not None
        process.stdin.write(saved(x)[:-1])
        process.stdin.flush()
        until(lambda: temporaries(tmp_path), "nothing is written")
        process.send_signal(number)
        process.stdin.write(saved(x)[-1:])
        process.stdin.close()
        process.stdin = None
        assert process.wait(timeout=30) == 0
    assert os.listdir(tmp_path) == ["y.npy"]


IGNORING = """
import os, signal, sys
if int(sys.argv[1]) == signal.SIGUSR1:
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
os.execv(sys.argv[2], sys.argv[2:])
"""


def unread(pipe: Any) -> int:
    """Bytes that nobody has read from the pipe yet."""
    count = array.array("i", [0])
    fcntl.ioctl(pipe.fileno(), termios.FIONREAD, count)
    return count[0]


ENDLESS = """
import os, sys, time
import gncli.executors
from gncli.tensors.npy import NpySource

def endless(self, view, offset):
    os.open("reading", os.O_CREAT)
    time.sleep(600)

NpySource._read_once = endless
gncli.executors._WORTH_FORKING = int(sys.argv.pop())
from gncli.cli import main
main()
"""


@pytest.mark.parametrize("apart", [True, False], ids=["processes", "threads"])
@pytest.mark.parametrize(("number", "code"), SIGNALS)
@pytest.mark.parametrize("count", [1, 3])
def test_a_signal_during_a_read_that_does_not_end(
    tmp_path: Path, number: int, code: int, apart: bool, count: int
) -> None:
    """As of a network's file system that is gone. No thread, and no process, is waited for."""
    names = [f"{k}.npy" for k in range(count)]
    for name in names:
        np.save(tmp_path / name, normal(2, 4, 3))
    words = ["normalize", *names, "-g", "4", "-q", "-j", "2", "-o", "out/", "0" if apart else str(1 << 60)]
    with subprocess.Popen(
        [sys.executable, "-c", ENDLESS, *words], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        until((tmp_path / "reading").exists, "nothing is read")
        process.send_signal(number)
        assert process.wait(timeout=30) == code
        # The pipes are closed when the last of its processes is gone.
        assert process.communicate(timeout=30) == (b"", b"")
    assert os.listdir(tmp_path / "out") == []


@pytest.mark.parametrize(("number", "code"), SIGNALS)
def test_a_signal_during_a_batch(tmp_path: Path, number: int, code: int) -> None:
    names = [f"{k:02}.npy" for k in range(60)]
    x = normal(4, 8, 20_000)
    for name in names:
        np.save(tmp_path / name, x)
    with start(f"normalize {' '.join(names)} -q -g 4 -j 2 -o out/", tmp_path, start_new_session=True) as run:
        until(lambda: (tmp_path / "out/04.npy").exists(), "nothing is written")
        os.killpg(run.pid, number)
        assert run.wait(timeout=30) == code
        assert run.communicate(timeout=30) == (b"", b"")
    done = sorted(os.listdir(tmp_path / "out"))
    assert set(done) < set(names)
    for name in done:
        assert ulp_distance(np.load(tmp_path / "out" / name), reference(x, 4)).max() <= 1


# Full disks

FULL = """
set -e
mkdir full
mount -t tmpfs -o size=2M tmpfs full
echo old > full/z.npy
set +e
for words in "x.npy -o full/y.npy" "x.npy -fo full/z.npy" "x.npy w.npy -o full/" "x.npy -o full/y.h5"; do
    $gn normalize $words -q -g 4
    echo $?
done
TMPDIR=full $gn normalize f.npy -q -g 4 -o - --memory 1M > /dev/null
echo $?
TMPDIR=full $gn normalize - -q -g 4 -o y.npy --memory 1M < f.npy
echo $?
ls -A full
cat full/z.npy
umount full
"""


def test_a_small_tmpfs(shell: Shell, tmp_path: Path) -> None:
    if subprocess.run(["unshare", "-rm", "true"], capture_output=True, check=False).returncode:
        pytest.skip("file systems may not be mounted here")
    np.save(tmp_path / "x.npy", normal(4, 8, 40_000))
    np.save(tmp_path / "w.npy", normal(4, 8, 3))
    np.save(tmp_path / "f.npy", np.asfortranarray(normal(4, 8, 40_000)))
    x = (tmp_path / "x.npy").read_bytes()
    (tmp_path / "script").write_text(FULL)
    done = shell("unshare -rm bash script")
    assert done.stdout.split() == ["1"] * 6 + ["w.npy", "z.npy", "old"]
    errors = done.stderr.splitlines()
    assert len(errors) == 6
    assert all("no space left on device" in error for error in errors)
    assert errors[0].startswith(
        "gn: error: full/y.npy: cannot write 5120128 bytes: no space left on device ("
    )
    assert (tmp_path / "x.npy").read_bytes() == x


@pytest.mark.parametrize("limit", [0, 100, 100_000])
@pytest.mark.parametrize(
    "words", ["x.npy -o y.npy", "x.npy -o y.h5", "- -o y.npy", "f.npy -o -", "f.h5 -o z.h5"]
)
def test_a_limit_on_the_size_of_files(shell: Shell, tmp_path: Path, words: str, limit: int) -> None:
    """The header fits or not, the spool in $TMPDIR or not: one line, and nothing left."""
    x = normal(4, 8, 40_000)
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "f.npy", np.asfortranarray(x))
    with h5py.File(tmp_path / "f.h5", "w") as file:
        file["x"] = x
    names = sorted(os.listdir(tmp_path))
    before = [(tmp_path / name).read_bytes() for name in names]
    limited = "ulimit -f $(($1 / 1024)); cat f.npy | TMPDIR=. $gn normalize $2 -q -g 4 --memory 1M | cat"
    done = shell(f"set -o pipefail; {limited}", limit, words, code=1)
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("gn: error: ")
    assert "file too large" in done.stderr
    assert sorted(os.listdir(tmp_path)) == names
    assert [(tmp_path / name).read_bytes() for name in names] == before


# Inputs that change


def shrink(path: Path) -> None:
    os.truncate(path, 5000)


def grow(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"more")


def replace(path: Path) -> None:
    np.save(path.with_name("new.npy"), np.load(path))
    os.replace(path.with_name("new.npy"), path)


def write_over(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(-4, os.SEEK_END)
        file.write(b"\x00\x00\x80\x3f")


CHANGED = "was changed or replaced while it was read; try again"


@linux
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (shrink, "shrank while it was read; try again"),
        (grow, CHANGED),
        (replace, CHANGED),
        (write_over, CHANGED),
        (os.unlink, None),  # what was read is whole, and perhaps nowhere else any more
    ],
)
def test_an_input_that_changes(tmp_path: Path, change: Callable[[Path], None], message: str | None) -> None:
    """gn has read the header, and waits for gamma, when it happens."""
    x = normal(2, 8, 3000)
    np.save(tmp_path / "x.npy", x)
    os.mkfifo(tmp_path / "gamma")
    values = saved(np.ones(8))
    with start("normalize x.npy -q -g 4 --gamma gamma -o y.npy", tmp_path) as process:
        with (tmp_path / "gamma").open("wb", buffering=0) as gamma:  # which returns when gn opens it, too
            gamma.write(values[:8])  # which tell the format
            until(lambda: header_is_read(process.pid, tmp_path / "x.npy"), "x.npy is not opened")
            change(tmp_path / "x.npy")
            gamma.write(values[8:])
        out, err = process.communicate(timeout=30)
    if message is None:
        assert (process.returncode, out, err) == (0, b"", b"")
        assert ulp_distance(np.load(tmp_path / "y.npy"), reference(x, 4)).max() <= 1
    else:
        assert (process.returncode, err.decode()) == (1, f"gn: error: x.npy: {message}\n")
        assert sorted(os.listdir(tmp_path)) == ["gamma", "x.npy"]


def header_is_read(pid: int, path: Path) -> bool:
    for number in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(OSError):
            if os.readlink(f"/proc/{pid}/fd/{number}") == str(path):
                return Path(f"/proc/{pid}/fdinfo/{number}").read_text().split()[1] == "128"
    return False


# Errors of workers


@pytest.mark.parametrize("apart", [True, False], ids=["processes", "threads"])
def test_an_error_in_a_worker_surfaces(tmp_path: Path, apart: bool) -> None:
    """In the first of many blocks: the others are not read."""
    x = np.zeros((8, 64, 1024, 64), "f4")  # 134 MB
    x[0, 0, 0, 0] = np.nan
    np.save(tmp_path / "x.npy", x)
    script = "import gncli.executors as e, sys\n"
    script += "" if apart else "e._WORTH_FORKING = 1 << 60\n"
    script += "import gncli.tensors.npy as n; read = n.os.preadv\n"
    script += "def preadv(fd, views, at):\n    print(end='r', flush=True)\n    return read(fd, views, at)\n"
    script += "n.os.preadv = preadv\nfrom gncli.cli import main; main()"
    words = ["normalize", "x.npy", "--nan", "fail", "-q", "-j", "2", "--memory", "4M"]
    done = subprocess.run(
        [sys.executable, "-c", script, *words], cwd=tmp_path, capture_output=True, text=True
    )
    (tmp_path / "x.npy").unlink()
    assert done.returncode == 1
    assert done.stderr == (
        "gn: error: x.npy: holds NaN or infinity, 1 or more; use --nan omit or propagate\n"
    )
    assert 1 <= done.stdout.count("r") <= 8  # of 64 or more
    assert os.listdir(tmp_path) == []


# Two at once


@pytest.mark.parametrize("force", [True, False])
def test_two_runs_to_one_output(tmp_path: Path, force: bool) -> None:
    np.save(tmp_path / "x.npy", normal(16, 64, 2000))
    groups = (1, 2, 4, 8, 16, 32)
    for g in groups:
        subprocess.run([*GN, *f"normalize x.npy -q -g {g} -o {g}.npy".split()], cwd=tmp_path, check=True)
    whole = {(tmp_path / f"{g}.npy").read_bytes(): g for g in groups}
    options = "-fq" if force else "-q"
    running = [start(f"normalize x.npy {options} -g {g} -o y.npy", tmp_path) for g in groups]
    ends = {
        g: (run.communicate(timeout=60)[1], run.returncode) for g, run in zip(groups, running, strict=True)
    }
    winner = whole[(tmp_path / "y.npy").read_bytes()]
    assert temporaries(tmp_path) == []
    if force:
        assert set(ends.values()) == {(b"", 0)}
    else:
        assert ends.pop(winner) == (b"", 0)
        for err, code in ends.values():
            assert code == 1
            assert re.fullmatch(
                rb"gn: error: y\.npy: (exists|has appeared in the meantime); use --force .*\n", err
            )


# Names and kinds of files


@pytest.mark.parametrize(
    "name",
    [
        "a b.npy", " .npy", "a\nb.npy", "[bold]x.npy", "-x.npy", "--groups", "*.npy", "'\".npy",
        "$(x).npy", "\x1b[31mx.npy", "é.npy", "a::b.npy", "NUL", "~", "\\",
    ],
)  # fmt: skip
def test_names(shell: Shell, tmp_path: Path, name: str) -> None:
    x = normal(2, 8, 3)
    with (tmp_path / name).open("wb") as file:
        np.save(file, x)
    shown = shell('$gn normalize -g 4 -- "$1"', name).stdout
    (output,) = set(os.listdir(tmp_path)) - {name}
    stem, suffix = os.path.splitext(name)
    assert output == (f"{stem}.gn{suffix}" if suffix else f"{stem}.gn.npy")
    with (tmp_path / output).open("rb") as file:
        assert ulp_distance(np.load(file), reference(x, 4)).max() <= 1
    assert "\x1b" not in shown
    assert len(shown.splitlines()) == 8
    record = json.loads(shell('$gn stats --format json -- "$1"', name).stdout)
    assert record["input"] == name


def test_a_name_that_is_no_text(shell: Shell, tmp_path: Path) -> None:
    try:
        np.save(tmp_path / os.fsdecode(b"\xff\xfe.npy"), normal(2, 8, 3))
    except OSError:
        pytest.skip("the file system takes text only")
    for locale in ("C", "C.UTF-8", "POSIX"):
        shell(f"LC_ALL={locale} LANG={locale} $gn normalize *.npy -g 4 -f -q -o $'\\xfe'/")
    assert os.listdir(os.fsencode(tmp_path) + b"/\xfe") == [b"\xff\xfe.npy"]


OUTPUTS = [
    ("folder", "", 0),  # a folder takes the file
    ("dangling", "", 0),
    ("link", "exists; use --force to overwrite it", 1),
    ("fifo", "is not a regular file; give another output, or -o - for a pipe", 1),
    ("/dev/full", "is not a regular file; give another output, or -o - for a pipe", 1),
    ("/dev/stdout", "is not a regular file; give another output, or -o - for a pipe", 1),
    ("loop", "is not a regular file; give another output, or -o - for a pipe", 1),
    ("x.npy", "exists; use --force to overwrite it", 1),
    ("no/y.npy", "there is no folder 'no'; make it first", 1),
    ("x.npy/y.npy", "cannot write there: not a directory", 1),
]


@pytest.mark.parametrize(("output", "message", "code"), OUTPUTS)
def test_outputs(shell: Shell, tmp_path: Path, output: str, message: str, code: int) -> None:
    x = normal(2, 8, 3)
    np.save(tmp_path / "x.npy", x)
    (tmp_path / "real.npy").write_bytes(b"old")
    (tmp_path / "folder").mkdir()
    (tmp_path / "dangling").symlink_to("folder/new.npy")
    (tmp_path / "link").symlink_to("real.npy")
    (tmp_path / "loop").symlink_to("loop")
    os.mkfifo(tmp_path / "fifo")
    before = sorted(os.listdir(tmp_path))
    done = shell('$gn normalize x.npy -q -g 4 -o "$1"', output, code=code)
    assert done.stderr == (f"gn: error: {output}: {message}\n" if message else "")
    assert sorted(os.listdir(tmp_path)) == before
    assert (tmp_path / "real.npy").read_bytes() == b"old"
    assert np.array_equal(np.load(tmp_path / "x.npy"), x)
    written = {"folder": ["x.npy"], "dangling": ["new.npy"]}.get(output, [])
    assert os.listdir(tmp_path / "folder") == written


def test_links_are_written_through_and_other_names_kept(shell: Shell, tmp_path: Path) -> None:
    """A symbolic link stays one, and its target is replaced; another hard link keeps the old content."""
    x = normal(2, 8, 3)
    np.save(tmp_path / "x.npy", x)
    (tmp_path / "target.npy").write_bytes(b"old")
    (tmp_path / "link.npy").symlink_to("target.npy")
    os.link(tmp_path / "x.npy", tmp_path / "hard.npy")
    shell("$gn normalize x.npy -qf -g 4 -o link.npy; $gn normalize x.npy -qf -g 4 -o hard.npy")
    assert os.readlink(tmp_path / "link.npy") == "target.npy"
    for name in ("target.npy", "hard.npy"):
        assert ulp_distance(np.load(tmp_path / name), reference(x, 4)).max() <= 1
    assert np.array_equal(np.load(tmp_path / "x.npy"), x)
    shell("$gn normalize x.npy -qf -g 4 -o x.npy")  # in place
    assert (tmp_path / "x.npy").read_bytes() == (tmp_path / "hard.npy").read_bytes()


def test_inputs_that_are_no_files(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "dangling").symlink_to("nowhere")
    (tmp_path / "loop").symlink_to("loop")
    rows = {
        ".": "is a directory; give the files in it",
        "dangling": "is a link to 'nowhere', where there is no file",
        "loop": "too many levels of symbolic links",
        "/dev/null": "is empty (0 bytes); write it again",
        "/dev/zero": "is neither .npy nor HDF5 (it begins with b'\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00')",
    }
    for name, message in rows.items():
        for words in ("stats", "normalize"):
            done = shell(f'$gn {words} "$1"', name, code=1)
            assert done.stderr == f"gn: error: {name}: {message}\n"


@pytest.mark.parametrize("mode", ["folder", "file"])
def test_no_permission(mode: str) -> None:
    """As another user where the tests are run by root, who may do everything."""
    script = (
        "import difflib, gncli.batch, gncli.cli.normalize, os\n"  # from where the other may not read, perhaps
    )
    script += "if os.geteuid() == 0:\n    os.setgid(65534); os.setuid(65534)\n"
    script += "from gncli.cli import main; main()"
    with TemporaryDirectory() as name:
        folder = Path(name)
        np.save(folder / "x.npy", normal(2, 8, 3))
        (folder / "x.npy").chmod(0o000 if mode == "file" else 0o644)
        folder.chmod(0o777 if mode == "file" else 0o555)
        done = subprocess.run(
            [sys.executable, "-c", script, "normalize", "x.npy", "-g", "4"],
            cwd=folder,
            capture_output=True,
            text=True,
        )
        folder.chmod(0o755)
        assert os.listdir(folder) == ["x.npy"]
    what = "x.npy: permission denied" if mode == "file" else "x.gn.npy: cannot write there: permission denied"
    assert (done.returncode, done.stderr) == (1, f"gn: error: {what}\n")
