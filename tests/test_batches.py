"""Many inputs in one call: lists, failures, what is skipped, what is told."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from arrays import Array, normal
from conftest import Gn, Shell
from oracle import ulp_distance
from test_pipes import reference

from gncli import batch
from gncli.batch import Batch, Job
from gncli.normalize import Normalized, Settings

NAMES = ["a.npy", "b b.npy", "[c].npy", "d\nd.npy", "-e.npy"]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def many(here: Path) -> dict[str, Array]:
    """Tensors of different shapes, by the names of their files in the folder `in`."""
    os.mkdir("in")
    tensors = {name: normal(1 + k, 8, 3 + k, mean=k) for k, name in enumerate(NAMES)}
    for name, x in tensors.items():
        np.save(f"in/{name}", x)
    return tensors


def check(folder: str, tensors: dict[str, Array], groups: int = 4) -> None:
    assert sorted(os.listdir(folder)) == sorted(tensors)
    for name, x in tensors.items():
        assert ulp_distance(np.load(f"{folder}/{name}"), reference(x, groups)).max() <= 1


def summary(stderr: str) -> str:
    """Of the last line, what does not depend on the time."""
    match = re.fullmatch(r"gn: summary: (.*) in \d+\.\d\d s", stderr.splitlines()[-1])
    assert match, stderr
    return match[1]


def nbytes(tensors: dict[str, Array]) -> str:
    return f"{sum(x.nbytes for x in tensors.values()) / 1000:.3g} kB"


# Lists


def test_a_glob_into_a_folder_that_is_made(shell: Shell, many: dict[str, Array]) -> None:
    done = shell("$gn normalize in/*.npy -g 4 -o out/ --format json")
    check("out", many)
    assert len(done.stdout.splitlines()) == len(many)
    assert summary(done.stderr) == f"{len(many)} done, 0 failed, {nbytes(many)}"


def test_find_print0(shell: Shell, many: dict[str, Array]) -> None:
    shell("find in -name '*.npy' -print0 | $gn normalize --from-file - -0 -g 4 -o out/")
    check("out", many)


def test_a_list_of_lines(shell: Shell, many: dict[str, Array]) -> None:
    del many["d\nd.npy"]
    Path("list").write_text("".join(f"in/{name}\n" for name in many) + "\n")
    done = shell("$gn normalize --from-file list -g 4 -o out/")
    check("out", many)
    assert summary(done.stderr).startswith("4 done")
    records = shell("$gn stats --from-file - --format json < list").stdout.splitlines()
    assert [json.loads(record)["shape"] for record in records] == [list(x.shape) for x in many.values()]


@pytest.mark.parametrize(
    ("start", "end", "encoding"),
    [
        ("", "\r\n", "utf-8"),
        ("\ufeff", "\n", "utf-8"),
        ("\ufeff", "\r\n", "utf-8"),
        ("\ufeff", "\r\n", "utf-16-le"),  # as `>` in Windows PowerShell writes it
        ("\ufeff", "\n", "utf-16-be"),
    ],
)
def test_lists_of_other_systems(
    shell: Shell, many: dict[str, Array], start: str, end: str, encoding: str
) -> None:
    del many["d\nd.npy"]
    lines = start + "".join(f"in/{name}{end}" for name in many) + end
    Path("list").write_bytes(lines.encode(encoding))
    for given in ("list", "- < list"):
        shell(f"rm -rf out; $gn normalize -g 4 -q -o out/ --from-file {given}")
        check("out", many)
    Path("last").write_bytes((start + "in/b b.npy").encode(encoding))  # no end of the line
    assert json.loads(shell("$gn stats --from-file last --format json").stdout)["input"] == "in/b b.npy"


def test_every_byte_of_a_name_before_a_nul_counts(shell: Shell, here: Path) -> None:
    for name in ("\ufeffa\r.npy", "b.npy\r"):
        np.save("x.npy", normal(2, 8, 3))
        Path("x.npy").rename(name)
    shell(r"printf '\xef\xbb\xbfa\r.npy\0b.npy\r\0' | $gn stats -0 --from-file -")


def test_inputs_on_the_line_come_before_the_list(gn: Gn, many: dict[str, Array]) -> None:
    Path("list").write_text("in/b b.npy\nin/[c].npy")
    done = gn("stats", "in/a.npy", "--from-file", "list", "--format", "json")
    shapes = [json.loads(line)["shape"] for line in done.stdout.splitlines()]
    assert shapes == [list(many[name].shape) for name in NAMES[:3]]


def test_an_empty_list_is_nothing_to_do(gn: Gn, here: Path) -> None:
    Path("list").write_text("")
    assert summary(gn("normalize", "--from-file", "list", "-o", "out/").stderr) == "0 done, 0 failed, 0 B"
    assert os.listdir() == ["list"]


def test_bytes_that_are_no_text(shell: Shell, here: Path) -> None:
    name = os.fsdecode(b"\xff\xfe.npy")
    try:
        np.save(name, normal(2, 8, 3))
    except OSError:
        pytest.skip("the file system takes text only")
    shell("LC_ALL=C; ls | $gn normalize --from-file - -g 4 -q -o out/")
    assert os.listdir(b"out") == [b"\xff\xfe.npy"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("normalize --from-file nothing", "gn: error: nothing: cannot be read: No such file or directory"),
        ("stats --from-file .", "gn: error: .: cannot be read: Is a directory"),
        ("stats --from-file utf16", "gn: error: utf16: is damaged UTF-16; write the list in UTF-8"),
        ("stats x.npy -0", "Error: -0 says how --from-file is read; give that, too"),
        ("stats", "Error: Missing argument 'INPUT...'."),
        ("normalize", "Error: Missing argument 'INPUT...'."),
    ],
)
def test_lists_that_cannot_be(gn: Gn, here: Path, words: str, message: str) -> None:
    Path("utf16").write_bytes(b"\xff\xfex\0\n")
    assert gn(*words.split(), code=2).stderr.splitlines()[-1] == message


# Failures


def test_one_failure_does_not_stop_the_others(gn: Gn, many: dict[str, Array]) -> None:
    Path("in/bad.npy").write_bytes(b"")
    np.save("in/odd.npy", normal(2, 7, 3))
    names = [*NAMES[:2], "bad.npy", "odd.npy", "none.npy", *NAMES[2:]]
    done = gn("normalize", *(f"in/{name}" for name in names), "-g", "4", "-o", "out/", code=1)
    check("out", many)
    *errors, _ = done.stderr.splitlines()
    assert {error.split(":")[2] for error in errors} == {" in/bad.npy", " in/odd.npy", " in/none.npy"}
    assert summary(done.stderr) == f"5 done, 3 failed, {nbytes(many)}"


def test_nothing_is_written_where_two_would_write_one_file(gn: Gn, many: dict[str, Array]) -> None:
    os.mkdir("more")
    np.save("more/a.npy", normal(1, 8, 3))
    done = gn("normalize", *(f"in/{name}" for name in NAMES), "more/a.npy", "-g", "4", "-o", "out/", code=2)
    assert "would both write out/a.npy" in done.stderr
    assert not os.path.exists("out")


def test_a_single_input_has_no_summary(gn: Gn, many: dict[str, Array]) -> None:
    assert gn("normalize", "in/a.npy", "-g", "4").stderr == ""


def test_quietly(gn: Gn, many: dict[str, Array]) -> None:
    done = gn("normalize", *(f"in/{name}" for name in NAMES), "-g", "4", "-q")
    assert (done.stdout, done.stderr) == ("", "")


# Resuming


def test_skip_existing_resumes(gn: Gn, many: dict[str, Array]) -> None:
    os.mkdir("out")
    Path("out/a.npy").write_text("stands")
    words = ["normalize", *(f"in/{name}" for name in NAMES), "-g", "4", "-o", "out/"]
    assert summary(gn(*words, code=1).stderr).startswith("4 done, 1 failed")
    os.unlink("out/[c].npy")
    done = gn(*words, "--skip-existing", "--format", "json")
    assert summary(done.stderr) == f"1 done, 0 failed, 4 skipped, {many['[c].npy'].nbytes} B"
    assert [json.loads(line)["output"] for line in done.stdout.splitlines()] == ["out/[c].npy"]
    assert Path("out/a.npy").read_text() == "stands"
    gn("normalize", "in/a.npy", "-g", "4", "-o", "out/a.npy", "--skip-existing", "--force")
    assert Path("out/a.npy").read_text() == "stands"


def test_a_killed_batch_can_be_resumed(here: Path) -> None:
    """What stands is whole: outputs are renamed into place."""
    os.mkdir("in")
    tensors = {f"{k:03}.npy": normal(4, 8, 4000, mean=k) for k in range(60)}
    for name, x in tensors.items():
        np.save(f"in/{name}", x)
    command = [sys.executable, "-m", "gncli", "normalize", *(f"in/{name}" for name in tensors)]
    command += ["-g", "4", "-j", "2", "-o", "out/", "--skip-existing"]
    with subprocess.Popen(
        [*command, "--format", "json"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as run:
        assert run.stdout is not None
        for _ in range(20):
            run.stdout.readline()
        run.kill()
        run.stdout.read()  # until its workers are gone, too
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert re.fullmatch(r"\d+ done, 0 failed, \d+ skipped, .*", summary(done.stderr))
    check("out", tensors)


# Sharing the cores


@pytest.mark.parametrize("jobs", [1, 2, 3])
def test_small_files_side_by_side(here: Path, monkeypatch: pytest.MonkeyPatch, jobs: int) -> None:
    """In forked processes: the same bytes, reported in order, failures told where they belong."""
    monkeypatch.setattr("gncli.executors._WORTH_FORKING", 0)
    monkeypatch.setattr("threading.active_count", lambda: 1)
    monkeypatch.setattr(batch, "BUNDLE", 3 * batch.OVERHEAD)
    os.mkdir("out")
    tensors = {f"{k:02}.npy": normal(2, 8, 50 + k, mean=k) for k in range(20)}
    for name, x in tensors.items():
        np.save(name, x)
    Path("07.npy").write_bytes(b"\x93NUMPY")
    targets = [(name, f"out/{name}") for name in tensors]
    results = [*Batch(Settings(groups=4, jobs=jobs)).run(targets)]
    assert [address for address, _ in results] == list(tensors)
    for address, outcome in results:
        if address == "07.npy":
            assert str(outcome).startswith("07.npy: has .npy version 0.0")
        else:
            assert isinstance(outcome, Normalized)
            assert outcome.record["input"] == address
            assert outcome.record["shape"] == list(tensors[address].shape)
    del tensors["07.npy"]
    check("out", tensors)


KILLED = """
import os, signal, gncli.batch, gncli.executors
from gncli.cli import main
from gncli.tensors.staging import Staged

whole = Staged.commit

def killed(self):
    if self.target == "out/03.npy":
        os.kill(os.getpid(), signal.SIGKILL)
    whole(self)

Staged.commit = killed
gncli.batch.BUNDLE = gncli.executors._WORTH_FORKING = 1
main()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="workers are forked on Linux only")
def test_a_killed_worker_fails_what_it_had_to_do(here: Path) -> None:
    """As by the system, for want of memory. What was done before stands, and the rest is told."""
    tensors = {f"{k:02}.npy": normal(2, 8, 50) for k in range(12)}
    for name, x in tensors.items():
        np.save(name, x)
    words = ["normalize", *tensors, "-g", "4", "-j", "2", "-o", "out/", "--format", "json"]
    done = subprocess.run([sys.executable, "-c", KILLED, *words], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    *errors, _ = done.stderr.splitlines()
    told = [json.loads(line)["input"] for line in done.stdout.splitlines()]
    assert told == list(tensors)[: len(told)]
    assert [error.split(":")[2] for error in errors] == [f" {name}" for name in list(tensors)[len(told) :]]
    assert all("a worker was killed" in error for error in errors)
    assert summary(done.stderr).startswith(f"{len(told)} done, {len(errors)} failed")
    assert set(told) <= set(os.listdir("out")) <= set(tensors), "a temporary file is left"


def test_which_are_done_side_by_side(here: Path) -> None:
    np.save("x.npy", normal(2, 8, 3))
    with h5py.File("f.h5", "w") as file:
        file["x"] = normal(2, 8, 3)
    with open("large.npy", "wb") as large:
        large.truncate(batch.SMALL)
    os.mkfifo("fifo")
    rows = {
        ("x.npy", "y.npy"): True, ("x.npy", "-"): False, ("x.npy", "y.h5"): False,
        ("f.h5::/x", "y.npy"): False, ("large.npy", "y.npy"): False, ("fifo", "y.npy"): False,
        ("none.npy", "y.npy"): False,
    }  # fmt: skip
    assert {pair: Job.of([pair]).small for pair in rows} == rows


# Progress

BATCH = """
import sys
import gncli.progress

class Clock:
    now = 0.0
    def monotonic():
        Clock.now += 1.5
        return Clock.now

gncli.progress.time = Clock
from gncli.cli import main
main()
"""


def test_plain_lines_off_a_terminal(many: dict[str, Array]) -> None:
    words = ["normalize", *(f"in/{name}" for name in NAMES), "-g", "4", "-o", "out/", "-q", "--progress"]
    done = subprocess.run([sys.executable, "-c", BATCH, *words], capture_output=True, text=True, check=True)
    total = sum(os.path.getsize(f"in/{name}") for name in NAMES)
    lines = done.stderr.splitlines()
    assert [line.partition(":")[2].split(":")[0] for line in lines] == [
        f" {k} of 5 files" for k in range(1, 6)
    ]
    assert f" 5 of 5 files: {total / 1000:.3g} kB of {total / 1000:.3g} kB, " in lines[-1]
    assert "\r" not in done.stderr


# Completion, and the environment


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """`gn` on the path."""
    scripts = Path(sys.executable).parent
    if not (scripts / "gn").exists():
        pytest.skip("gn is not installed: the tests run on the checkout")
    monkeypatch.setenv("PATH", str(scripts), prepend=os.pathsep)


@pytest.mark.parametrize("name", ["bash", "zsh", "fish"])
def test_completion_scripts(shell: Shell, installed: None, name: str) -> None:
    script = shell(f"_GN_COMPLETE={name}_source gn").stdout
    assert f"_GN_COMPLETE={name}_complete" in script


@pytest.mark.parametrize(
    ("words", "cword", "found"),
    [
        ("gn no", 1, ["normalize"]),
        ("gn normalize --gro", 2, ["--groups", "--grouping"]),
        ("gn normalize --like t", 3, ["torch", "tensorflow"]),
        ("gn normalize in/", 2, ["in/"]),
    ],
)
def test_completions_in_bash(shell: Shell, installed: None, words: str, cword: int, found: list[str]) -> None:
    shown = shell(f"COMP_WORDS='{words}' COMP_CWORD={cword} _GN_COMPLETE=bash_complete gn").stdout
    assert [line.split(",")[1] for line in shown.splitlines()] == found
    kind = "file" if "in/" in words else "plain"
    assert all(line.startswith(f"{kind},") for line in shown.splitlines())


def test_options_from_the_environment(shell: Shell, many: dict[str, Array]) -> None:
    shell("GN_NORMALIZE_GROUPS=4 GN_NORMALIZE_OUTPUT=out/ GN_NORMALIZE_QUIET=1 $gn normalize in/*.npy")
    check("out", many)
