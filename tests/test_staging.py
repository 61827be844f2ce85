"""gncli.tensors.staging: nothing stands under the output's name until it is whole."""

from __future__ import annotations

import ctypes
import os
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gncli.errors import OutputError
from gncli.tensors import staging
from gncli.tensors.staging import Staged


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "out.npy"


def put(target: Path, content: bytes = b"new", *, force: bool = False) -> Staged:
    staged = Staged(str(target), force=force)
    staged.file.write(content)
    return staged


def test_it_stands_when_committed_and_not_before(target: Path) -> None:
    staged = put(target)
    (name,) = os.listdir(target.parent)
    assert name.startswith(".out.npy.gn-")
    assert name.endswith(".tmp")
    staged.commit()
    staged.discard()  # after commit: nothing
    assert os.listdir(target.parent) == ["out.npy"]
    assert target.read_bytes() == b"new"


def test_discard_leaves_nothing(target: Path) -> None:
    staged = put(target)
    staged.discard()
    staged.discard()
    assert os.listdir(target.parent) == []


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
@pytest.mark.parametrize("force", [False, True])
def test_the_umask_gives_the_mode(target: Path, umask: int, force: bool) -> None:
    before = os.umask(umask)
    try:
        put(target, force=force).commit()
    finally:
        os.umask(before)
    assert stat.S_IMODE(target.stat().st_mode) == 0o666 & ~umask


def test_it_refuses_to_overwrite(target: Path) -> None:
    target.write_bytes(b"old")
    with pytest.raises(OutputError, match=r"out\.npy: exists; use --force to overwrite it"):
        Staged(str(target), force=False)
    assert os.listdir(target.parent) == ["out.npy"]
    staged = put(target, force=True)
    assert target.read_bytes() == b"old"
    staged.commit()
    assert target.read_bytes() == b"new"


def test_what_appears_in_the_meantime_is_kept(target: Path) -> None:
    staged = put(target)
    target.write_bytes(b"of another program")
    with pytest.raises(OutputError, match="has appeared in the meantime"):
        staged.commit()
    assert target.read_bytes() == b"of another program"
    assert os.listdir(target.parent) == ["out.npy"]


@pytest.mark.parametrize("appears", [False, True])
def test_a_file_system_without_hard_links(
    target: Path, monkeypatch: pytest.MonkeyPatch, appears: bool
) -> None:
    def link(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", link)
    staged = put(target)
    if appears:
        target.write_bytes(b"of another program")
        with pytest.raises(OutputError, match="exists"):
            staged.commit()
        staged.discard()
    else:
        staged.commit()
    assert target.read_bytes() == (b"of another program" if appears else b"new")
    assert os.listdir(target.parent) == ["out.npy"]


def test_a_symlink_is_written_through(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    real, link = tmp_path / "folder" / "real.npy", tmp_path / "link.npy"
    link.symlink_to(real)
    put(link).commit()  # to nothing yet
    assert (link.is_symlink(), real.read_bytes()) == (True, b"new")
    with pytest.raises(OutputError, match=r"link\.npy: exists"):
        Staged(str(link), force=False)
    put(link, b"newer", force=True).commit()
    assert (link.is_symlink(), real.read_bytes()) == (True, b"newer")
    assert os.listdir(tmp_path / "folder") == ["real.npy"]


@pytest.mark.parametrize("force", [False, True])
def test_targets_that_cannot_be(tmp_path: Path, force: bool) -> None:
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "folder").mkdir()
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "lost").symlink_to("nowhere/x.npy")
    os.mkfifo(tmp_path / "fifo")
    rows = {
        "no/x.npy": f"there is no folder '{tmp_path}/no'; make it first",
        "lost": f"there is no folder '{tmp_path}/nowhere'; make it first",
        "file/x.npy": "cannot write there: not a directory",
        "folder": "is a directory; give a file in it",
        "folder/": "is a directory; give a file in it",
        "new/": "is a folder's name; give a file's",
        "fifo": "is not a regular file",
        "loop": "is not a regular file",
        "n" * 300: "cannot write there: file name too long",
        "a\0b": "not a file name",
    }
    before = sorted(os.listdir(tmp_path))
    for name, message in rows.items():
        with pytest.raises(OutputError) as caught:
            Staged(os.path.join(tmp_path, name), force=force)
        assert caught.value.message.startswith(message), name
    assert sorted(os.listdir(tmp_path)) == before


def test_a_device_is_not_replaced() -> None:
    with pytest.raises(OutputError, match="is not a regular file"):
        Staged("/dev/null", force=True)


def test_the_longest_name(tmp_path: Path) -> None:
    target = tmp_path / ("é" * 125 + ".npy")  # 254 bytes
    put(target).commit()
    assert target.read_bytes() == b"new"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written(tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    with pytest.raises(OutputError, match="cannot write there: permission denied"):
        Staged(str(tmp_path / "x.npy"), force=False)
    tmp_path.chmod(0o755)


def failing(code: int, words: str) -> Callable[..., None]:
    def fail(*_: object) -> None:
        raise OSError(code, words)

    return fail


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_commit_that_fails_leaves_nothing(target: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    target.write_bytes(b"old")
    staged = put(target, force=True)
    monkeypatch.setattr(os, call, failing(5, "Input/output error"))
    with pytest.raises(OutputError, match=r"out\.npy: cannot write the output: input/output error"):
        staged.commit()
    assert os.listdir(target.parent) == ["out.npy"]
    assert target.read_bytes() == b"old"


def test_a_full_disk_is_told_before_the_work(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    staged = put(target)
    monkeypatch.setattr(staging, "_allocate", failing(28, "No space left on device"))
    with pytest.raises(OutputError, match=r"cannot write 1000 bytes: no space left .* \(\d+ bytes are"):
        staged.reserve(1000)
    staged.discard()


def test_space_is_reserved_and_what_is_written_stays(target: Path) -> None:
    """Unlike glibc's emulation of posix_fallocate, which would write zeros of its own."""
    staged = put(target)
    staged.extend(100_000)
    os.pwrite(staged.file.fileno(), b"\xff" * 100_000, 0)
    staged.reserve(100_000)
    assert Path(staged.path).read_bytes() == b"\xff" * 100_000
    staged.reserve(10)  # never cuts off
    assert os.stat(staged.path).st_size == 100_000
    staged.discard()


@pytest.mark.parametrize(
    ("kind", "stretches"), [(0xEF53, [(0, 16 << 20), (16 << 20, 16 << 20), (32 << 20, 5)]), (0x01021994, [])]
)
def test_where_space_is_reserved(
    target: Path, monkeypatch: pytest.MonkeyPatch, kind: int, stretches: list[tuple[int, int]]
) -> None:
    """Not on tmpfs, which would fill it with zeros; ext4 only notes it."""
    asked = []

    class Libc:
        @staticmethod
        def fstatfs(_: int, answer: Any) -> int:
            answer[0] = kind
            return 0

        @staticmethod
        def fallocate(_: int, mode: int, start: Any, count: Any) -> int:
            assert mode == 0
            asked.append((start.value, count.value))
            return 0

    monkeypatch.setattr(staging, "_libc", lambda: Libc)
    staged = put(target)
    staged.reserve((32 << 20) + 5)
    staged.discard()
    assert asked == stretches


def test_the_type_of_a_file_system() -> None:
    shm = [line for line in Path("/proc/mounts").read_text().splitlines() if " /dev/shm tmpfs " in line]
    if not shm:
        pytest.skip("no tmpfs here")
    with tempfile.TemporaryFile(dir="/dev/shm") as file:
        assert staging._type_of_file_system(file.fileno()) == 0x01021994
    with open("/proc/mounts", "rb") as file:
        assert staging._type_of_file_system(file.fileno()) == 0x9FA0


def test_a_file_system_that_cannot_promise_space_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    staged = put(tmp_path / "out.npy")

    class Libc:
        @staticmethod
        def fstatfs(*_: object) -> int:
            return -1

        @staticmethod
        def fallocate(*_: object) -> int:
            ctypes.set_errno(95)  # EOPNOTSUPP
            return -1

    monkeypatch.setattr(staging, "_libc", lambda: Libc)
    staged.reserve(1000)
    staged.discard()


def test_more_than_the_disk_has_is_refused_at_once(target: Path) -> None:
    staged = put(target)
    with pytest.raises(OutputError, match=r"cannot write \d+ bytes: no space left .* \(\d+ bytes are free"):
        staged.extend(1 << 60)
    staged.discard()


def test_the_folder_is_synced(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced = []
    real = os.fsync

    def fsync(descriptor: int) -> None:
        synced.append(stat.S_ISDIR(os.fstat(descriptor).st_mode))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    put(target).commit()
    assert synced == [False, True]


@pytest.mark.parametrize("suffix", [".npy", ".h5"])
@pytest.mark.parametrize("limit", [1_000, 60_000])
def test_a_limit_on_file_size_ends_cleanly(tmp_path: Path, suffix: str, limit: int) -> None:
    # In a process of its own: the limit stays, and HDF5 may not crash on it.
    program = f"""
import resource, numpy as np
from gncli.errors import OutputError
from gncli.tensors import open_sink, open_source
np.save("x.npy", np.zeros(10_000))
resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))
source = open_source("x.npy")
try:
    open_sink("y{suffix}", source, source.dtype, force=False, attributes={{}})
except OutputError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"y{suffix}: cannot write")
    assert "file too large" in done.stdout
    assert os.listdir(tmp_path) == ["x.npy"]
