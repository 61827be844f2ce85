"""Who may read an output: whoever may read the file that it replaces, or else the input."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest
from arrays import normal
from conftest import Gn, Shell

from gncli.tensors.permissions import permit
from gncli.tensors.staging import Staged

X = normal(2, 4, 5)


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    before = os.umask(0o022)
    yield
    os.umask(before)


def mode(path: str) -> int:
    return stat.S_IMODE(os.stat(path).st_mode)


def make(path: str, bits: int) -> str:
    """A tensor file at `path` with the permissions `bits`; its address."""
    if path.endswith(".npy"):
        np.save(path, X)
    else:
        with h5py.File(path, "w") as file:
            file["x"] = X
    os.chmod(path, bits)
    return path


@pytest.mark.parametrize("output", ["out.npy", "out.h5", "out.h5::/y"])
@pytest.mark.parametrize("given", ["in.npy", "in.h5"])
@pytest.mark.parametrize("bits", [0o600, 0o640, 0o400, 0o644, 0o666, 0o755])
@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_a_new_output_gets_the_mode_of_the_input(
    gn: Gn, given: str, output: str, bits: int, umask: int
) -> None:
    os.umask(umask)
    gn("normalize", make(given, bits), "-g", "2", "-q", "-o", output)
    assert mode(output.split(":")[0]) == bits & ~umask


@pytest.mark.parametrize("output", ["out.npy", "out.h5", "out.h5::/y"])
@pytest.mark.parametrize("bits", [0o600, 0o640, 0o444, 0o666, 0o777])
def test_an_output_keeps_the_mode_of_what_it_replaces(gn: Gn, output: str, bits: int) -> None:
    make("in.npy", 0o604)
    path = make(output.split(":")[0], bits)
    gn("normalize", "in.npy", "-g", "2", "-qf", "-o", output)
    assert mode(path) == bits


def test_the_input_itself_keeps_its_mode(gn: Gn) -> None:
    gn("normalize", make("in.npy", 0o626), "-g", "2", "-qf", "-o", "in.npy")
    assert mode("in.npy") == 0o626


def test_a_link_s_target_keeps_its_mode(gn: Gn) -> None:
    make("in.npy", 0o644)
    os.symlink(make("real.npy", 0o600), "link.npy")
    gn("normalize", "in.npy", "-g", "2", "-qf", "-o", "link.npy")
    assert (os.path.islink("link.npy"), mode("real.npy")) == (True, 0o600)


def test_several_inputs_give_what_they_all_allow(gn: Gn) -> None:
    with h5py.File("a.h5", "w") as file:
        file["x"] = file["y"] = X
    os.chmod("a.h5", 0o640)
    gn("normalize", "a.h5::/x", "a.h5::/y", "-g", "2", "-q", "-o", "out.h5")
    assert mode("out.h5") == 0o640


def test_standard_input(shell: Shell, tmp_path: Path) -> None:
    """A pipe has no mode of its own; a file that is redirected has."""
    make("in.npy", 0o600)
    shell("umask 022; cat in.npy | $gn normalize - -g 2 -q -o pipe.npy")
    shell("umask 022; $gn normalize - -g 2 -q -o file.npy < in.npy")
    assert (mode("pipe.npy"), mode("file.npy")) == (0o644, 0o600)


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("bits", [0o600, 0o640, 0o606])
def test_the_temporary_is_never_more_readable(bits: int, force: bool) -> None:
    if force:
        Path("out").write_bytes(b"old")
        os.chmod("out", bits)
    staged = Staged("out", force=force, mode=0o666 if force else bits)
    assert mode(staged.path) & ~bits == 0
    staged.commit()
    assert mode("out") == (bits if force else bits & ~0o022)


def test_the_temporary_is_created_with_the_mode(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not changed to it afterwards: the first look at it is as late as any."""
    created = []
    real = os.open

    def opened(path: str, flags: int, bits: int = 0o777, **how: int) -> int:
        if flags & os.O_CREAT:
            created.append(bits)
        return real(path, flags, bits, **how)

    monkeypatch.setattr(os, "open", opened)
    Staged("out", force=False, mode=0o600).commit()
    assert created == [0o600]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_owner_and_group_are_kept(gn: Gn) -> None:
    make("in.npy", 0o644)
    os.chown(make("out.npy", 0o640), 12345, 23456)
    gn("normalize", "in.npy", "-g", "2", "-qf", "-o", "out.npy")
    status = os.stat("out.npy")
    assert (status.st_uid, status.st_gid, mode("out.npy")) == (12345, 23456, 0o640)


def test_another_group_gains_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the group cannot be kept, the file's own group may do what others may."""

    def refused(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "fchown", refused)
    status = list(os.stat(make("old.npy", 0o2664)))
    status[5] += 1  # the group
    with open("new", "wb") as file:
        permit(file.fileno(), 0o600, os.stat_result(status))
    assert mode("new") == 0o644
