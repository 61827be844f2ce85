"""Small files that were made to take long: the work is bounded by what is stored."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import h5py
import numpy as np
import pytest
from arrays import normal
from conftest import Gn

from gncli.tensors.hdf5_links import NEVER, SoftLinks


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def chain(file: h5py.File, length: int) -> None:
    for number in range(length):
        file[f"s{number:03}"] = h5py.SoftLink(f"/s{number + 1:03}")
    file[f"s{length:03}"] = normal(2, 4)


def ends(file: h5py.File) -> Callable[[str], tuple[bytes, int]]:
    links: dict[bytes, int] = {}
    file.id.links.visit(lambda path, link: links.update({path: link.type}), info=True)
    found = SoftLinks(file, links)
    return lambda path: found.end_of(path.encode())


def test_the_ends_of_soft_links() -> None:
    with h5py.File("f.h5", "w") as file:
        chain(file, 40)
        file["a/b/x"] = normal(2, 4)
        file["a/beside"] = h5py.SoftLink("b/./x")
        file["a/absolute"] = h5py.SoftLink("/a/b//x")
        file["a/alias"] = h5py.SoftLink("/a/b")
        file["through"] = h5py.SoftLink("/a/alias/x")
        file["round"] = h5py.SoftLink("/around")
        file["around"] = h5py.SoftLink("/round")
        file["into"] = h5py.SoftLink("/round")
        file["dangling"] = h5py.SoftLink("/nowhere")
        end_of = ends(file)
        assert [end_of(f"s{number:03}") for number in (0, 39, 40, 20)] == [
            (b"s040", 40), (b"s040", 1), (b"s040", 0), (b"s040", 20)
        ]  # fmt: skip
        assert end_of("a/beside") == end_of("a/absolute") == (b"a/b/x", 1)
        assert end_of("a/alias") == (b"a/b", 1)
        assert end_of("through") == (b"through", 0)  # by whoever opens it
        assert end_of("dangling") == (b"dangling", 0)
        assert {end_of(name)[1] for name in ("round", "around", "into")} == {NEVER}


def test_links_are_found_as_far_as_hdf5_follows_them(gn: Gn) -> None:
    with h5py.File("f.h5", "w") as file:
        chain(file, 40)
        file["round"] = h5py.SoftLink("/round")
    found = [line.split("\t")[1] for line in gn("stats", "f.h5", "--format", "tsv").stdout.splitlines()]
    assert found == ["input", "f.h5::/s040"]
    readable = []
    with h5py.File("f.h5") as file:
        for name in file:
            with suppress(RuntimeError):  # too many links
                assert file[name].shape == (2, 4)
                readable.append(name)
    done = gn("diff", "f.h5", "f.h5", "--format", "tsv")
    assert len(done.stdout.splitlines()) == 2
    assert readable == [f"s{number:03}" for number in range(24, 41)]
    for name in readable:
        gn("stats", f"f.h5::/{name}")
    links = gn("info", "f.h5").stdout
    assert "/s024 (soft)" in links
    assert "/s023" not in links


def test_chunks_that_are_not_there(gn: Gn) -> None:
    with h5py.File("f.h5", "w") as file:
        x = file.create_dataset("x", (1 << 18, 16, 1), "f4", chunks=(1, 1, 1), compression="gzip")
        x[5] = 1
    message = "f.h5::/x: declares 4194304 chunks, stores 16; if you believe it, --force reads it"
    assert message in gn("stats", "f.h5", code=1).stderr
    assert message in gn("normalize", "f.h5", "-g", "1", "-n", code=1).stderr
    assert message in gn("diff", "f.h5", "f.h5", code=2).stderr
    gn("info", "f.h5")


def test_a_read_of_many_chunks_goes_in_parts(gn: Gn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gncli.tensors.hdf5_grid.MOST", 10)
    x = normal(5, 4, 7, 3)
    with h5py.File("f.h5", "w") as file:
        file.create_dataset("x", data=x, chunks=(2, 1, 3, 1), compression="lzf")
    np.save("x.npy", x)
    gn("diff", "f.h5", "x.npy")
    gn("normalize", "f.h5", "-g", "2", "-q", "-o", "y.npy")
    gn("normalize", "x.npy", "-g", "2", "-q", "-o", "z.npy")
    assert Path("y.npy").read_bytes() == Path("z.npy").read_bytes()


def test_virtual_datasets_of_one_another_are_read_once(gn: Gn) -> None:
    """Each level of them is made of the one below, twice."""
    x = normal(4, 8, 2)
    with h5py.File("f.h5", "w", libver="latest") as file:
        file["d00"] = x
        for level in range(1, 14):
            source = file[f"d{level - 1:02}"]
            layout = h5py.VirtualLayout((8, 8, 2), "f4")
            layout[:4] = layout[4:] = h5py.VirtualSource(".", source.name, shape=source.shape)[:4]
            file.create_virtual_dataset(f"d{level:02}", layout)
    np.save("x.npy", np.concatenate([x, x]))
    gn("diff", "f.h5::/d13", "x.npy")
