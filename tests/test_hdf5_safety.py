"""HDF5 files from strangers: what they name, declare, or pretend must not be believed."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from arrays import normal
from conftest import Gn, Shell

from gncli.errors import AddressError, FormatError, GnError
from gncli.tensors import expand, open_source
from gncli.tensors.hdf5_find import find

X = normal(2, 4, 5, 6)


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def outside() -> Iterator[Path]:
    """other.h5 and raw.bin, which main.h5 names in every way that there is."""
    os.mkdir("away")
    with h5py.File("away/other.h5", "w") as file:
        file["x"] = X
        file["g/x"] = X
    layout = h5py.VirtualLayout(X.shape, "f4")
    layout[...] = h5py.VirtualSource("away/other.h5", "x", X.shape)
    growing = h5py.VirtualLayout(X.shape, "f4", maxshape=(None, *X.shape[1:]))
    source = h5py.VirtualSource("away/other.h5", "x", X.shape, maxshape=(None, *X.shape[1:]))
    endless = slice(0, h5py.h5s.UNLIMITED)
    growing[endless, :, :, :] = source[endless, :, :, :]
    with h5py.File("main.h5", "w") as file:
        file["own"] = X
        file["linked"] = h5py.ExternalLink("away/other.h5", "/x")
        file["group"] = h5py.ExternalLink("away/other.h5", "/g")
        file["soft"] = h5py.SoftLink("/group/x")
        file["deep/relative"] = h5py.SoftLink("../linked")
        file["deep/here"] = h5py.SoftLink("/own")
        file["deep/beside"] = h5py.SoftLink("here")
        file.create_virtual_dataset("virtual", layout)
        file.create_virtual_dataset("growing", growing)
        file.create_dataset("raw", data=X, external=[("away/raw.bin", 0, X.nbytes)])
        inner = h5py.VirtualLayout(X.shape, "f4")
        inner[...] = h5py.VirtualSource(".", "/linked", X.shape)
        file.create_virtual_dataset("twice", inner)
        again = h5py.VirtualLayout(X.shape, "f4")
        again[...] = h5py.VirtualSource(".", "/virtual", X.shape)
        file.create_virtual_dataset("thrice", again)
    yield Path("away")


ELSEWHERE = ["linked", "group/x", "soft", "virtual", "growing", "raw", "twice", "thrice"]


@pytest.mark.parametrize("name", ELSEWHERE)
@pytest.mark.parametrize("command", ["stats", "normalize"])
def test_other_files_are_read_only_if_that_is_permitted(
    outside: Path, gn: Gn, name: str, command: str
) -> None:
    groups = ("-g", "2") if command == "normalize" else ()
    done = gn(command, f"main.h5::/{name}", *groups, code=1)
    assert f"gn: error: main.h5::/{name}: " in done.stderr
    assert "away/" in done.stderr
    assert "--allow-external permits it" in done.stderr
    assert sorted(os.listdir()) == ["away", "main.h5"]
    out = ("-o", "out.npy") if command == "normalize" else ()
    gn(command, f"main.h5::/{name}", *groups, *out, "--allow-external", "-q")


@pytest.mark.parametrize("name", ELSEWHERE)
def test_other_files_are_not_even_opened(outside: Path, name: str) -> None:
    # A FIFO would hold whoever opened it for ever.
    shutil.rmtree("away")
    os.mkdir("away")
    os.mkfifo("away/other.h5")
    os.mkfifo("away/raw.bin")
    program = f"""
import sys
from gncli.cli import gn
gn(['stats', 'main.h5::/{name}'])
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 1, done.stderr
    assert "--allow-external permits it" in done.stderr
    for command in (["stats", "main.h5"], ["normalize", "main.h5", "-g", "2", "-q"]):
        subprocess.run(
            [sys.executable, "-m", "gncli", *command], capture_output=True, timeout=30, check=False
        )


@pytest.mark.parametrize("name", ["deep/here", "deep/beside", "own"])
def test_links_within_the_file_are_followed(outside: Path, name: str) -> None:
    source = open_source(f"main.h5::/{name}")
    assert source.shape == X.shape
    source.close()


def test_a_whole_file_says_what_it_leaves_out(outside: Path, gn: Gn) -> None:
    done = gn("stats", "main.h5", "--format", "tsv", code=1)
    assert [line.split("\t")[1] for line in done.stdout.splitlines()[1:]] == ["main.h5::/own"]
    for name in ("linked", "group", "virtual", "raw", "twice"):
        assert f"main.h5::/{name}: " in done.stderr
    gn("normalize", "main.h5", "-g", "2", "-q")
    with h5py.File("main.gn.h5") as file:
        assert isinstance(file.get("linked", getlink=True), h5py.ExternalLink)


def test_a_virtual_dataset_of_its_own_file(gn: Gn) -> None:
    layout = h5py.VirtualLayout(X.shape, "f4")
    layout[0] = h5py.VirtualSource(".", "/a", X.shape[1:])
    layout[1] = h5py.VirtualSource(".", "/b", X.shape[1:])
    with h5py.File("f.h5", "w") as file:
        file["a"], file["b"] = X[0], X[1]
        file.create_virtual_dataset("virtual", layout)
    gn("normalize", "f.h5::/virtual", "-g", "2", "-q", "-o", "v.npy")
    np.save("x.npy", X)
    gn("normalize", "x.npy", "-g", "2", "-q", "-o", "y.npy")
    np.testing.assert_array_equal(np.load("v.npy"), np.load("y.npy"))


@pytest.mark.parametrize("how", ["file", "dataset", "same file"])
def test_a_virtual_source_that_is_missing_is_no_fill_value(how: str, gn: Gn) -> None:
    layout = h5py.VirtualLayout(
        X.shape,
        "f4",
    )
    layout[...] = h5py.VirtualSource("." if how == "same file" else "other.h5", "x", X.shape)
    with h5py.File("f.h5", "w") as file:
        file.create_virtual_dataset("virtual", layout, fillvalue=3)
    if how == "dataset":
        with h5py.File("other.h5", "w") as file:
            file["y"] = X
    done = gn("stats", "f.h5::/virtual", "--allow-external", code=1)
    assert "f.h5::/virtual: is a virtual dataset of " in done.stderr
    assert "which is missing" in done.stderr


def test_a_virtual_dataset_made_of_itself(gn: Gn) -> None:
    layout = h5py.VirtualLayout(X.shape, "f4")
    layout[...] = h5py.VirtualSource(".", "/virtual", X.shape)
    with h5py.File("f.h5", "w") as file:
        file.create_virtual_dataset("virtual", layout)
    done = gn("stats", "f.h5::/virtual", code=1)
    assert "is a virtual dataset made of itself" in done.stderr


def test_external_storage_that_is_short(gn: Gn) -> None:
    with h5py.File("f.h5", "w") as file:
        file.create_dataset("x", data=X, external=[("raw.bin", 0, X.nbytes)])
    os.truncate("raw.bin", X.nbytes - 1)
    done = gn("stats", "f.h5::/x", "--allow-external", code=1)
    assert "keeps its values in 'raw.bin', which is missing or short" in done.stderr


TEBI = 1 << 40


@pytest.mark.parametrize(
    ("how", "stores"),
    [
        ({"chunks": (1, 1024, 1024), "compression": "gzip"}, "stores 0 B"),
        ({"chunks": (1, 1024, 1024)}, "stores 0 B"),
        ({}, "stores 0 B"),
    ],
)
@pytest.mark.parametrize("command", ["stats", "normalize"])
def test_terabytes_that_are_not_there(how: dict[str, Any], stores: str, command: str, gn: Gn) -> None:
    with h5py.File("f.h5", "w") as file:
        file.create_dataset("x", (TEBI // (1024 * 1024), 1024, 1024), "f4", **how)
    done = gn(command, "f.h5::/x", code=1)
    assert f"f.h5::/x: declares 4.0 TiB, {stores}" in done.stderr
    assert os.listdir() == ["f.h5"]


def test_terabytes_with_a_chunk_of_them_there(gn: Gn) -> None:
    with h5py.File("f.h5", "w") as file:
        x = file.create_dataset(
            "x",
            (TEBI // (1024 * 1024), 1024, 1024),
            "f4",
            chunks=(1, 1024, 1024),
            shuffle=True,
            compression="gzip",
        )
        x[5] = 1
    done = gn("stats", "f.h5::/x", code=1)
    assert "declares 4.0 TiB, stores 4" in done.stderr


def test_a_contiguous_dataset_beyond_the_end_of_the_file(gn: Gn) -> None:
    """Its header says that it is stored, and where; only the file's size tells otherwise."""
    shape = (TEBI // 4 // 1024 // 1024, 1024, 1024)
    with h5py.File("f.h5", "w", libver="earliest") as file:  # without checksums
        file.create_dataset("x", data=np.zeros((3, 5, 7), "f4"))
    raw = Path("f.h5").read_bytes()
    old, new = (b"".join(n.to_bytes(8, "little") for n in dims) for dims in ((3, 5, 7), shape))
    assert raw.count(old) >= 1
    raw = raw.replace(old, new).replace((3 * 5 * 7 * 4).to_bytes(8, "little"), TEBI.to_bytes(8, "little"))
    Path("f.h5").write_bytes(raw)
    done = gn("normalize", "f.h5::/x", "-g", "4", code=1)
    assert "declares 1.0 TiB, stores 2." in done.stderr or "file corruption" in done.stderr
    assert os.listdir() == ["f.h5"]


def test_what_many_datasets_declare_is_counted_together(gn: Gn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gncli.tensors.hdf5_safety.WORTH_A_DOUBT", 1_000_000)
    with h5py.File("f.h5", "w") as file:
        for number in range(9):
            file.create_dataset(f"x{number}", (3, 25_000), "f4")
        file["y"] = normal(3, 4)
    refused = (
        "gn: error: f.h5::/x3: declares 293.0 kiB, stores 0 B, and with others that were read, 1.1 MiB "
        "more than there is; if you believe it, --force reads it"
    )
    done = gn("stats", "f.h5", "--format", "tsv", code=1)
    found = [line.split("\t")[1] for line in done.stdout.splitlines()[1:]]
    assert found == ["f.h5::/x0", "f.h5::/x1", "f.h5::/x2", "f.h5::/y"]
    assert done.stderr.splitlines()[0] == refused
    assert done.stderr.count("gn: error: ") == 6
    assert refused in gn("normalize", "f.h5::/*", "-g", "1", "-n", code=1).stderr
    done = gn("diff", "f.h5", "f.h5", "--format", "tsv", code=2)
    assert done.stderr.count("declares 293.0 kiB") == 6
    for words in (["stats", "f.h5"], ["diff", "f.h5", "f.h5"]):
        assert gn(*words, "--force", "--format", "tsv").stdout.count("\n") == 11


def test_a_sparse_one_is_taken_by_force(gn: Gn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gncli.tensors.hdf5_safety.WORTH_A_DOUBT", 1000)
    with h5py.File("f.h5", "w") as file:
        file.create_dataset("x", (4, 8, 50, 50), "f4", chunks=(1, 8, 50, 50), fillvalue=2, compression="gzip")
    assert "declares 312.5 kiB" in gn("normalize", "f.h5::/x", "-g", "4", code=1).stderr
    gn("normalize", "f.h5::/x", "-g", "4", "--force", "-q")
    with h5py.File("f.gn.h5") as file:
        np.testing.assert_array_equal(file["x"], np.zeros((4, 8, 50, 50)))


def test_what_compresses_well_is_not_doubted(gn: Gn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gncli.tensors.hdf5_safety.WORTH_A_DOUBT", 1000)
    with h5py.File("f.h5", "w") as file:
        file.create_dataset(
            "x", data=np.zeros((4, 64, 100, 100)), chunks=(1, 64, 100, 100), compression="gzip"
        )
    gn("stats", "f.h5::/x", "-q")


def test_links_in_circles(gn: Gn) -> None:
    with h5py.File("f.h5", "w") as file:
        file["a/x"] = X
        file["a/root"] = file["/"]
        file["a/self"] = file["a"]
        file["one"] = h5py.SoftLink("/two")
        file["two"] = h5py.SoftLink("/one")
        file["me"] = h5py.SoftLink("me")
        file["lost"] = h5py.SoftLink("/no/where")
    assert expand("f.h5") == ["f.h5::/a/x"]
    assert find("f.h5", "/a/root/a/self/x") == [("/a/root/a/self/x", X.shape)]
    for name in ("one", "me", "lost"):
        with pytest.raises(AddressError, match=f"no dataset '/{name}'"):
            open_source(f"f.h5::/{name}")
    gn("normalize", "f.h5", "-g", "2", "--dtype", "float64", "-q")
    with h5py.File("f.gn.h5") as file:
        assert file["a/root/a/self/x"] == file["a/x"]
        assert file["a/x"].dtype == "f8"


def test_a_file_that_is_open_for_writing_elsewhere(gn: Gn) -> None:
    program = "import h5py, sys; f = h5py.File('f.h5', 'w'); print(flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as writer:
        assert writer.stdout is not None
        writer.stdout.readline()
        done = gn("stats", "f.h5", code=1)
        assert "f.h5: is open for writing elsewhere; close it there first" in done.stderr
        assert "HDF5_USE_FILE_LOCKING=FALSE" in done.stderr
        writer.communicate()


@pytest.mark.parametrize(
    "how", [{}, {"chunks": (1, 4, 50, 60), "compression": "gzip"}, {"chunks": (1, 1, 9, 9)}]
)
def test_a_file_that_changes_while_it_is_read(how: dict[str, Any]) -> None:
    x = normal(4, 4, 50, 60)
    with h5py.File("f.h5", "w") as file:
        file.create_dataset("x", data=x, **how)
    source = open_source("f.h5::/x")
    source.read([(0, 100)], np.empty(100, "f4"))
    time.sleep(0.02)
    with open("f.h5", "r+b") as raw:
        raw.seek(-1, os.SEEK_END)
        raw.write(b"\x01")
    with pytest.raises(FormatError, match="changed while it was read"):
        source.read([(100, 100)], np.empty(100, "f4"))
    source.close()


@pytest.mark.parametrize("how", [{}, {"chunks": (1, 4, 50, 60), "compression": "gzip"}])
def test_truncated_at_any_byte(how: dict[str, Any]) -> None:
    with h5py.File("whole.h5", "w") as file:
        file.create_dataset("x", data=normal(1, 4, 50, 60), **how)
    whole = Path("whole.h5").read_bytes()
    for cut in [*range(0, 3000, 41), *range(3000, len(whole), 1999), len(whole) - 1]:
        Path("f.h5").write_bytes(whole[:cut])
        with pytest.raises(GnError) as caught:
            open_source("f.h5::/x")
        assert "\n" not in str(caught.value)


def test_filters_are_not_loaded_from_a_path(shell: Shell) -> None:
    code = "import gncli.tensors.hdf5, h5py; print(h5py.h5pl.size())"
    done = shell(f"mkdir plugins; HDF5_PLUGIN_PATH=$PWD/plugins {sys.executable} -c '{code}'")
    assert done.stdout == "0\n"


ZSTD = 32015


def with_unknown_filter(code: int) -> None:
    how = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    how.set_chunk((1, 4, 5, 6))
    how.set_filter(code, h5py.h5z.FLAG_OPTIONAL, (3,))
    with h5py.File("f.h5", "w") as file:
        space = h5py.h5s.create_simple(X.shape)
        h5py.h5d.create(file.id, b"x", h5py.h5t.IEEE_F32LE, space, how)


def test_a_filter_that_is_missing_is_named(gn: Gn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "hdf5plugin", None)
    monkeypatch.setattr("h5py.h5z.filter_avail", lambda code: False)
    with_unknown_filter(ZSTD)
    for command in (["stats"], ["normalize", "-g", "2"]):
        done = gn(*command, "f.h5::/x", code=1)
        assert "f.h5::/x: is filtered by zstd (HDF5 filter 32015)" in done.stderr
        assert "it needs the extra filters: at the root of a clone of gn, " in done.stderr
        assert done.stderr.endswith("-m pip install '.[filters]'\n")


def test_a_filter_that_nobody_knows(gn: Gn) -> None:
    with_unknown_filter(271)
    done = gn("stats", "f.h5::/x", code=1)
    assert "is filtered by unknown (HDF5 filter 271), which is not there" in done.stderr


def test_other_filters_with_the_extra(gn: Gn) -> None:
    plugin = pytest.importorskip("hdf5plugin")
    filters = {
        "zstd": plugin.Zstd(),
        "blosc": plugin.Blosc(),
        "lz4": plugin.LZ4(),
        "shuffled": plugin.Bitshuffle(),
    }
    x = normal(3, 8, 20, 20)
    with h5py.File("f.h5", "w") as file:
        for name, how in filters.items():
            file.create_dataset(name, data=x, chunks=(1, 8, 20, 20), **how)
    np.save("x.npy", x)
    gn("normalize", "x.npy", "-g", "4", "-q", "-o", "y.npy")
    gn("normalize", "f.h5::/*", "-g", "4", "-q")
    with h5py.File("f.h5") as old, h5py.File("f.gn.h5") as new:
        for name in filters:
            np.testing.assert_array_equal(new[name], np.load("y.npy"))
            assert new[name].id.get_create_plist().get_filter(0) == old[
                name
            ].id.get_create_plist().get_filter(0)


def test_a_filter_that_rounds_is_left_out(gn: Gn) -> None:
    plugin = pytest.importorskip("hdf5plugin")
    x = normal(3, 8, 20, 20)
    with h5py.File("f.h5", "w") as file:
        file.create_dataset("x", data=x, chunks=(1, 8, 20, 20), **plugin.Zfp(accuracy=0.5))
        np.save("x.npy", file["x"][()])
    gn("normalize", "x.npy", "-g", "4", "-q", "-o", "y.npy")
    gn("normalize", "f.h5", "-g", "4", "-q", "--force")
    with h5py.File("f.gn.h5") as file:
        np.testing.assert_array_equal(file["x"], np.load("y.npy"))
        assert file["x"].chunks == (1, 8, 20, 20)


@pytest.mark.parametrize("name", ["Zfp", "SZ", "SZ3", "Sperr"])
def test_filters_that_damaged_data_can_crash_are_used_only_by_force(gn: Gn, name: str) -> None:
    plugin = pytest.importorskip("hdf5plugin")
    how = getattr(plugin, name)()
    x = normal(3, 8, 20, 20)
    with h5py.File("f.h5", "w") as file:
        file.create_dataset("x", data=x, chunks=(1, 1, 20, 20), **how)
        file.create_dataset("g", data=np.ones((8, 20), "f4"), chunks=(8, 20), **how)
        np.save("x.npy", file["x"][()])
    refused = f"is filtered by {name.lower()} (HDF5 filter {how.filter_id}), which damaged data can crash; "
    refused += "if you trust the file, --force reads it"
    for words, code in (
        ("stats f.h5::/x", 1),
        ("normalize f.h5::/x -g 4 -o -", 1),
        ("normalize x.npy -g 4 -n --gamma f.h5::/g", 1),
        ("diff f.h5::/x x.npy", 2),
        ("identify f.h5::/x x.npy", 2),
    ):
        assert refused in gn(*words.split(), code=code).stderr
    gn("info", "f.h5")
    found, wanted = (
        gn("stats", *words, "--format", "tsv").stdout.splitlines()[1].split("\t")[2:]
        for words in (["f.h5::/x", "--force"], ["x.npy"])
    )
    assert found == wanted
    gn("diff", "f.h5::/x", "x.npy", "--force", "--rtol", "0")
    gn("identify", "f.h5::/x", "x.npy", "--force", code=1)
    gn("normalize", "f.h5::/x", "-g", "4", "-q", "-o", "y.npy", "--force")
    gn("normalize", "x.npy", "-g", "4", "-q", "-o", "z.npy")
    assert Path("y.npy").read_bytes() == Path("z.npy").read_bytes()


def test_the_copy_hears_an_interrupt() -> None:
    """Between two of its pieces, not after the last: by the parent of the process that copies."""
    with h5py.File("f.h5", "w") as file:
        file["x"] = X
        file["large"] = np.zeros(1_000_000, "u1")
    program = """
import os, signal, sys
import gncli.tensors.copying as copying
from gncli.cli import main
copying.PIECE, copy, calls = 1000, os.copy_file_range, []

def interrupted(*arguments):
    calls.append(1)
    if len(calls) == 3:
        os.kill(os.getppid(), signal.SIGINT)
    if len(calls) > 3:
        signal.pause()  # not before the parent has heard of it
    return copy(*arguments)

os.copy_file_range = interrupted
sys.argv = ["gn", "normalize", "f.h5::/x", "-g", "2"]
main()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")
    assert os.listdir() == ["f.h5"]


def test_a_file_system_that_cannot_copy_by_itself(gn: Gn, monkeypatch: pytest.MonkeyPatch) -> None:
    def unable(*arguments: int) -> int:
        raise OSError(errno.EXDEV, "on another disk")

    monkeypatch.setattr(os, "copy_file_range", unable)
    with h5py.File("f.h5", "w") as file:
        file["before"], file["x"], file["after"] = np.arange(3_000_000), X, np.arange(5)
    gn("normalize", "f.h5::/x", "-g", "2", "-q")
    with h5py.File("f.gn.h5") as file:
        np.testing.assert_array_equal(file["before"], np.arange(3_000_000))
        np.testing.assert_array_equal(file["after"], np.arange(5))


def test_a_number_whose_bits_lie_outside_its_bytes(gn: Gn) -> None:
    """HDF5 would convert it, and crash."""
    with h5py.File("f.h5", "w", libver="earliest") as file:
        file["x"] = X
    raw = Path("f.h5").read_bytes()
    described = bytes.fromhex("11201f00 04000000 0000 2000 17080017 7f000000")  # precision: 32 bits
    assert raw.count(described) == 1
    Path("f.h5").write_bytes(raw.replace(described, described[:10] + b"\x60" + described[11:]))
    done = gn("normalize", "f.h5::/x", "-g", "2", code=1)
    assert "has a type whose bits lie outside its bytes" in done.stderr


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_names_of_any_bytes(gn: Gn, dtype: str) -> None:
    with h5py.File("f.h5", "w") as file:
        group = file.create_group(b"\xff\xfe")
        for name in ("new\nline", "a b[2]", "\x1b[31m"):
            group[name] = X
        x = group.create_dataset("zipped", data=X, chunks=(1, 4, 5, 6), compression="gzip")
        for thing in (x, file):
            attribute = h5py.h5a.create(thing.id, b"\xfe", h5py.h5t.STD_I32LE, h5py.h5s.create_simple((2,)))
            attribute.write(np.array([1, 2], "i4"))
    done = gn("normalize", "f.h5::/*/*", "-g", "2", "--dtype", dtype, "--format", "tsv")
    assert len(done.stdout.splitlines()) == 5
    assert "\x1b" not in gn("stats", "f.gn.h5").stdout
    with h5py.File("f.gn.h5") as file:
        assert [x.dtype for x in file[b"\xff\xfe"].values()] == [dtype] * 4
        values = np.empty(2, "i4")
        h5py.h5a.open(file[b"\xff\xfe"]["zipped"].id, b"\xfe").read(values)
        assert list(values) == [1, 2]
