"""How processes end that have opened HDF5: by the exit status that is meant, whatever was refused or failed.

libhdf5's exit handler closes what is still open, and crashes on some of it.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import h5py
import numpy as np
import pytest
from arrays import normal
from conftest import Gn

from gncli import group_norm

X = normal(2, 4, 5, 6)
# Ends as the interpreter does, not by os._exit, and collects nothing: libhdf5 finds all that is left open.
BY_ITSELF = "import gc, sys\nfrom gncli.cli import gn\ntry: gn(sys.argv[1:])\nfinally: gc.freeze()"


def unwritable(file: h5py.File, name: str, shape: tuple[int, ...], chunks: tuple[int, ...]) -> None:
    """A dataset that HDF5 reads, and that it cannot write: deflate has no level 12."""
    settings = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    settings.set_chunk(chunks)
    settings.set_filter(h5py.h5z.FILTER_DEFLATE, 0, (12,))
    space = h5py.h5s.create_simple(shape)
    dataset = h5py.h5d.create(file.id, name.encode(), h5py.h5t.IEEE_F32LE, space, settings)
    values = normal(*shape)
    for start in range(0, shape[0], chunks[0]):
        stored = values[start : start + chunks[0]].tobytes()
        dataset.write_direct_chunk((start, 0, 0, 0), stored, 1)  # 1: the filter was left out


def virtual(file: h5py.File, name: str, source: str, inside: str = "x") -> None:
    layout = h5py.VirtualLayout(X.shape, "f4")
    layout[...] = h5py.VirtualSource(source, inside, X.shape)
    file.create_virtual_dataset(name, layout)


def parts(words: Sequence[str]) -> set[str]:
    """The names of datasets in a command line."""
    return {word.rpartition("::/")[2] for word in words}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exit")
    os.chdir(folder)
    np.save("x.npy", X)
    with h5py.File("other.h5", "w") as file:
        file["x"] = X
    with h5py.File("main.h5", "w") as file:
        file["x"] = X
        file["text"] = "no tensor"
        file["group/x"] = X
        file["linked"] = h5py.ExternalLink("other.h5", "/x")
        file.create_dataset("outside", data=X, external=[("raw.bin", 0, X.nbytes)])
        file.create_dataset("short", data=X, external=[("short.bin", 0, X.nbytes)])
        file.create_dataset("empty", dtype="f4")
        file.create_dataset("sparse", (1 << 20, 1024, 1024), "f4", chunks=(1, 1024, 1024))
        virtual(file, "virtual", "other.h5")
        virtual(file, "own", ".")
        virtual(file, "missing", "gone.h5")
        virtual(file, "no_such", ".", "/gone")
        virtual(file, "itself", ".", "/itself")
        virtual(file, "through_link", ".", "/linked")
        unwritable(file, "small", (2, 4, 3, 5), (1, 4, 3, 5))
        unwritable(file, "large", (2, 4, 64, 64), (1, 4, 64, 64))
        bits = h5py.h5s.create_simple((2, 4, 3))
        h5py.h5d.create(file.id, b"bits", h5py.h5t.STD_B32LE, bits)
        zipped = file.create_dataset("zipped", data=X, chunks=X.shape, compression="gzip")
        chunk = zipped.id.get_chunk_info(0)
    os.truncate("short.bin", 5)
    with open("main.h5", "r+b") as raw:
        raw.seek(chunk.byte_offset)
        raw.write(b"\xff" * 9)
    Path("cut.h5").write_bytes(Path("other.h5").read_bytes()[:600])
    Path("stands.h5").write_bytes(b"somebody's")
    with h5py.File("virtual.h5", "w") as file:
        virtual(file, "x", "other.h5")
    return folder


READ = ["linked", "outside", "short", "empty", "sparse", "virtual", "missing", "no_such", "itself", "zipped"]
READ += ["through_link", "text", "group", "bits", "nothing"]
HEADERS = [name for name in READ if name not in ("sparse", "zipped")]  # what is wrong with these is no header
PERMITTED = ["short", "missing", "no_such", "itself"]
REFUSALS = [
    *(["stats", f"main.h5::/{name}"] for name in READ),
    *(["info", f"main.h5::/{name}"] for name in HEADERS),
    *(["normalize", f"main.h5::/{name}", "-g", "2"] for name in READ),
    *(["stats", f"main.h5::/{name}", "--allow-external"] for name in PERMITTED),
    *(["normalize", "x.npy", "-g", "2", "-n", "--gamma", f"main.h5::/{name}"] for name in READ),
    *(["normalize", f"main.h5::/{name}", "-g", "2", "-o", "stands.h5"] for name in ("x", "own")),
    *(["normalize", f"main.h5::/{name}", "-g", "2", "-o", "no/out.h5"] for name in ("x", "own")),
    *(["normalize", f"main.h5::/{name}", "-g", "3"] for name in ("x", "own")),
    ["normalize", "main.h5::/linked", "-g", "2", "--allow-external", "-o", "out.h5"],
    ["normalize", "main.h5::/virtual", "-g", "3", "--allow-external"],
    ["normalize", "x.npy", "-g", "2", "-n", "--beta", "virtual.h5"],
    ["info", "virtual.h5"],
    ["stats", "cut.h5"],
    ["info", "cut.h5"],
    ["normalize", "cut.h5", "-g", "2"],
]
TROUBLE = [
    ["diff", "main.h5::/virtual", "x.npy"],
    ["diff", "x.npy", "main.h5::/zipped"],
    ["identify", "main.h5::/own", "main.h5::/virtual"],
]


VIRTUAL = [words for words in (*REFUSALS, *TROUBLE) if {"own", "virtual", "through_link"} & parts(words)]


def refused(folder: Path, words: Sequence[str], *start: str) -> None:
    """Run the command, and require the exit status, one line of error, and no file more or less."""
    before = sorted(os.listdir(folder))
    done = subprocess.run(
        [sys.executable, *start, *words], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == (2 if words in TROUBLE else 1), done.stderr
    assert done.stderr.startswith("gn: error: ")
    assert done.stderr.count("\n") == 1
    assert "bug" not in done.stderr
    assert sorted(os.listdir(folder)) == before


@pytest.mark.parametrize("words", [*REFUSALS, *TROUBLE], ids=" ".join)
def test_a_refusal_ends_by_its_exit_status(folder: Path, words: Sequence[str]) -> None:
    refused(folder, words, "-m", "gncli")


@pytest.mark.parametrize("words", VIRTUAL, ids=" ".join)
def test_no_virtual_dataset_is_left_to_the_exit_handler(folder: Path, words: Sequence[str]) -> None:
    refused(folder, words, "-c", BY_ITSELF)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", ["small", "large"])
def test_a_close_that_fails_fails_the_command(folder: Path, name: str, dtype: str) -> None:
    # What a small chunk holds is written when its dataset is closed. libhdf5 does not survive a second try.
    before = sorted(os.listdir(folder))
    words = ["normalize", f"main.h5::/{name}", "-g", "2", "--dtype", dtype, "-o", "out.h5"]
    done = subprocess.run(
        [sys.executable, "-m", "gncli", *words], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr == f"gn: error: out.h5::/{name}: cannot be written: filter returned failure\n"
    assert sorted(os.listdir(folder)) == before


def test_other_inputs_are_done_after_a_close_that_failed(folder: Path, tmp_path: Path) -> None:
    for name in ("main.h5", "other.h5"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    words = ["normalize", "main.h5::/small", "other.h5::/x", "-g", "2", "-q"]
    done = subprocess.run(
        [sys.executable, "-m", "gncli", *words], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert sorted(os.listdir(tmp_path)) == ["main.h5", "other.gn.h5", "other.h5"]
    with h5py.File(tmp_path / "other.gn.h5") as file:
        assert file["x"].shape == X.shape


@pytest.mark.parametrize("words", REFUSALS, ids=" ".join)
def test_nothing_is_left_open(folder: Path, gn: Gn, words: Sequence[str]) -> None:
    os.chdir(folder)
    before = h5py.h5f.get_obj_count()
    gn(*words, code=1)
    assert h5py.h5f.get_obj_count() == before


# The end of a process


def end(code: str) -> subprocess.CompletedProcess[str]:
    script = f"import atexit, os, sys, threading, time\nfrom gncli import cli\n{code}\ncli.main()"
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)


def test_exit_callbacks_run() -> None:
    done = end("atexit.register(print, 'called'); sys.argv = ['gn', '--version']")
    assert (done.returncode, done.stdout.splitlines()[1:]) == (0, ["called"])


def test_threads_are_waited_for() -> None:
    work = "lambda: (threading.main_thread().join(), print('worked'))"
    done = end(f"threading.Thread(target={work}).start(); sys.argv = ['gn', '--version']")
    assert (done.returncode, done.stdout.splitlines()[1:]) == (0, ["worked"])


@pytest.mark.parametrize(
    ("raised", "code", "stderr"),
    [
        ("SystemExit", 0, ""),
        ("SystemExit(7)", 7, ""),
        ("SystemExit('in words')", 1, "in words\n"),
        ("KeyboardInterrupt", 128 + signal.SIGINT, ""),
        ("ZeroDivisionError", 1, None),
    ],
)
def test_the_exit_status_is_kept(raised: str, code: int, stderr: str | None) -> None:
    done = end(f"def gn(): raise {raised}\ncli.gn = gn")
    assert done.returncode == code
    if stderr is None:
        assert done.stderr.splitlines()[-1] == "ZeroDivisionError"
    else:
        assert done.stderr == stderr


@pytest.mark.parametrize("name", ["lzf", "gzip"])
def test_filters_have_room_on_the_stack(name: str, tmp_path: Path) -> None:
    """Of the thread that encodes, in the child that HDF5 runs in: lzf needs more than 1 MiB."""
    with h5py.File(tmp_path / "f.h5", "w") as file:
        file.create_dataset("x", data=X, chunks=(1, 4, 5, 6), compression=name)
    command = [sys.executable, "-m", "gncli", "normalize", "f.h5::/x", "-g", "2", "-q"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    with h5py.File(tmp_path / "f.gn.h5") as file:
        np.testing.assert_array_equal(file["x"][()], group_norm(X, 2))
