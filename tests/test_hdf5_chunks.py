"""Raw chunks and values in place: h5py writes what is read here, and reads what is written here."""

from __future__ import annotations

import ctypes
import math
import random
import subprocess
import sys
import zlib
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np
import pytest
from arrays import Array, normal
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import gncli.tensors.hdf5_chunks as chunks_room
from gncli.errors import BudgetError, FormatError
from gncli.normalize import Settings, normalize_file
from gncli.stats import stats_file
from gncli.tensors import hdf5_filters
from gncli.tensors.hdf5 import Hdf5Source
from gncli.tensors.hdf5_filters import Pipeline, fletcher32, shuffled, unshuffled
from gncli.tensors.hdf5_grid import Grid
from gncli.tensors.hdf5_sink import sink_alone

Way = Literal["in place", "raw", "library"]
GZIP: dict[str, Any] = {"compression": "gzip", "compression_opts": 4}


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture(params=["isal", "zlib"])
def library(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    if request.param == "zlib":
        monkeypatch.setattr(hdf5_filters, "LIBRARY", zlib)
    else:
        monkeypatch.setattr(hdf5_filters, "LIBRARY", pytest.importorskip("isal.isal_zlib"))
    return hdf5_filters.LIBRARY


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """Even the smallest chunks are taken raw."""
    monkeypatch.setattr(chunks_room, "_SMALLEST", 1)


def make(x: Array, path: str = "f.h5", libver: Any = None, **how: Any) -> None:
    with h5py.File(path, "w", libver=libver) as file:
        file.create_dataset("x", data=x, **how)


def way(source: Hdf5Source) -> Way:
    return "in place" if source.places else "raw" if source._chunks else "library"


def read(source: Hdf5Source, step: int) -> Array:
    size = math.prod(source.shape)
    got = np.empty(size, source.dtype)
    for start in range(0, size, step):
        count = min(step, size - start)
        got[start : start + count] = source.read([(start, count)], np.empty(count, source.dtype))
    return got.reshape(source.shape)


def rewrite(x: Array, step: int = 10_000, dtype: Any = None, share: int | None = None, seed: int = 0) -> Way:
    """f.h5 to out.h5 with the values of `x`, packed out of order and written in order."""
    native = np.dtype(dtype or x.dtype).newbyteorder("=")
    with closing(Hdf5Source("f.h5", "/x")) as source:
        if share is not None:
            source.sink_share = share
        sink = sink_alone("out.h5", None, source, native, force=True, attributes={})
        try:
            flat = x.reshape(-1).astype(native)
            runs = [[(start, min(step, x.size - start))] for start in range(0, x.size, step)]
            if sink.positioned:
                for run in runs:
                    sink.write(run, flat[run[0][0] :][: run[0][1]].copy())
            else:
                order = list(range(len(runs)))
                random.Random(seed).shuffle(order)
                packed = {i: sink.pack(runs[i], flat[runs[i][0][0] :][: runs[i][0][1]]) for i in order}
                for i, run in enumerate(runs):
                    sink.write(run, packed[i])
            used: Way = "in place" if sink.positioned else "raw" if sink._chunks else "library"
            sink.commit()
        finally:
            sink.discard()
    return used


def stored() -> Array:
    with h5py.File("out.h5") as file:
        values: Array = file["x"][()]
    return values


X = normal(5, 8, 24, 25, mean=1)


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ({}, "in place"),
        ({"chunks": (1, 8, 24, 25)}, "in place"),
        ({"chunks": (2, 8, 24, 25)}, "in place"),
        ({"chunks": (1, 7, 24, 25)}, "in place"),
        ({"chunks": (2, 8, 24, 13)}, "raw"),
        ({"chunks": (2, 3, 4, 5)}, "raw"),  # small ones, too: HDF5 would not notice a short one
        ({"chunks": (1, 8, 24, 25), "compression": "gzip", "compression_opts": 9}, "raw"),
        ({"chunks": (1, 8, 24, 25), "shuffle": True, **GZIP}, "raw"),
        ({"chunks": (3, 8, 24, 25), "shuffle": True, **GZIP}, "raw"),
        ({"chunks": (2, 5, 24, 25), "shuffle": True, "fletcher32": True, **GZIP}, "raw"),
        ({"chunks": (5, 8, 24, 25), "fletcher32": True}, "raw"),
        ({"chunks": (2, 8, 12, 20), "shuffle": True}, "library"),  # edges the size of a plain chunk
        ({"chunks": (1, 8, 24, 25), "maxshape": (None, 8, 24, 25), **GZIP}, "raw"),
        ({"chunks": (1, 8, 24, 25), "compression": "lzf"}, "library"),
        ({"chunks": (1, 8, 24, 25), "scaleoffset": 2}, "library"),
    ],
)
@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f8"])
def test_each_way_reads_and_writes_what_h5py_does(how: dict[str, Any], expected: Way, dtype: str) -> None:
    make(X.astype(dtype), **how)
    with h5py.File("f.h5") as file:
        truth = file["x"][()]
    source = Hdf5Source("f.h5", "/x")
    assert way(source) == expected
    for step in (X.size, 4800, 7001):
        np.testing.assert_array_equal(read(source, step), truth, strict=True)
    source.close()
    if how.get("scaleoffset") is None:
        y = (-X).astype(dtype)
        small = how.get("chunks") == (2, 3, 4, 5)  # to write these, HDF5 is quicker
        assert rewrite(y, 7001) == ("library" if small else expected)
        np.testing.assert_array_equal(stored(), y, strict=True)


@pytest.mark.parametrize("filtered", [False, True])
@pytest.mark.parametrize(
    "maxshape",
    [None, (None, 8, 24, 25), (None, 8, None, 25), "one chunk"],
    ids=["fixed array or none", "extensible array", "B-tree 2", "single chunk"],
)
@pytest.mark.parametrize("libver", ["earliest", "latest"])
def test_every_index_of_chunks(libver: str, maxshape: Any, filtered: bool) -> None:
    """HDF5 notes in five ways where chunks are, according to what may grow."""
    how: dict[str, Any] = {"chunks": (2, 8, 24, 25), "maxshape": maxshape, **(GZIP if filtered else {})}
    if maxshape == "one chunk":
        how |= {"chunks": X.shape, "maxshape": None}
    make(X, libver=libver, **how)
    source = Hdf5Source("f.h5", "/x")
    assert way(source) == ("raw" if filtered else "in place")
    np.testing.assert_array_equal(read(source, 7001), X)
    source.close()
    assert rewrite(-X, 7001) == ("raw" if filtered else "in place")
    np.testing.assert_array_equal(stored(), -X)
    with h5py.File("out.h5", "r+") as file:
        assert file["x"].id.get_num_chunks() == math.prod(Grid(X.shape, how["chunks"]).counts)
        file["x"][1:4] = 5  # and it is one that HDF5 goes on with


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_whatever_the_chunks(tiny: None, data: st.DataObject) -> None:
    """Shapes, chunks, filters, steps and room, all at random; some chunks are never written."""
    shape = tuple(data.draw(st.lists(st.integers(1, 9), min_size=1, max_size=4)))
    cut = tuple(data.draw(st.integers(1, length)) for length in shape)
    how: dict[str, Any] = {"chunks": cut, "shuffle": data.draw(st.booleans()), **GZIP}
    how["fletcher32"] = data.draw(st.booleans())
    dtype = data.draw(st.sampled_from(["u1", "f2", ">i2", "f4", "f8"]))
    x = np.arange(math.prod(shape)).reshape(shape).astype(dtype)
    how["maxshape"] = tuple(data.draw(st.sampled_from([None, length])) for length in shape)
    with h5py.File("f.h5", "w", libver=data.draw(st.sampled_from(["earliest", "latest"]))) as file:
        dataset = file.create_dataset("x", shape, dtype, fillvalue=7, **how)
        start = [data.draw(st.integers(0, length)) for length in shape]
        dataset[tuple(slice(a, None) for a in start)] = x[tuple(slice(a, None) for a in start)]
        truth = dataset[()]
    step = data.draw(st.integers(1, x.size + 1))
    with closing(Hdf5Source("f.h5", "/x")) as source:
        np.testing.assert_array_equal(read(source, step), truth, strict=True)
    share, seed = data.draw(st.sampled_from([0, 100, 10**6])), data.draw(st.integers(0, 99))
    rewrite(x, data.draw(st.integers(1, x.size + 1)), share=share, seed=seed)
    np.testing.assert_array_equal(stored(), x, strict=True)


def test_filters_that_a_chunk_has_not_gone_through() -> None:
    make(X, chunks=(1, 8, 24, 25), shuffle=True, **GZIP)
    with h5py.File("f.h5", "r+") as file:
        file["x"].id.write_direct_chunk((1, 0, 0, 0), X[3].tobytes(), filter_mask=3)
        file["x"].id.write_direct_chunk((2, 0, 0, 0), zlib.compress(X[4].tobytes()), filter_mask=1)
        truth = file["x"][()]
    source = Hdf5Source("f.h5", "/x")
    assert way(source) == "raw"
    np.testing.assert_array_equal(read(source, 5000), truth)
    np.testing.assert_array_equal(truth[1:3], X[3:])
    source.close()


def test_edges_that_are_not_filtered() -> None:
    """H5Pset_chunk_opts, which h5py does not know: HDF5 would not inflate what was deflated there."""
    maps = Path("/proc/self/maps").read_text().splitlines()
    loaded = {line.split()[-1] for line in maps if "libhdf5-" in line}  # netCDF4 may have brought its own
    how = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    how.set_chunk((2, 8, 24, 25))
    how.set_deflate(4)
    done = [ctypes.CDLL(library).H5Pset_chunk_opts(ctypes.c_int64(how.id), 2) for library in loaded]
    assert 0 in done
    with h5py.File("f.h5", "w", libver="latest") as file:
        space = h5py.h5s.create_simple(X.shape)
        h5py.h5d.create(file.id, b"x", h5py.h5t.IEEE_F32LE, space, how).write(space, space, X)
    source = Hdf5Source("f.h5", "/x")
    assert way(source) == "library"
    np.testing.assert_array_equal(read(source, 5000), X)
    source.close()
    for dtype in ("f4", "f8"):  # written over, and replaced by another dataset
        assert rewrite(-X, dtype=dtype) == "library"
        np.testing.assert_array_equal(stored(), (-X).astype(dtype), strict=True)


@pytest.mark.parametrize("damage", [b"\xff" * 9, b""])
def test_a_damaged_chunk_is_told_in_the_words_of_hdf5(damage: bytes) -> None:
    make(X, chunks=(1, 8, 24, 25), fletcher32=True, **GZIP)
    with h5py.File("f.h5") as file:
        chunk = file["x"].id.get_chunk_info(2)
    with open("f.h5", "r+b") as raw:
        raw.seek(chunk.byte_offset + 200)
        raw.write(damage)
    source = Hdf5Source("f.h5", "/x")
    if damage:
        with pytest.raises(FormatError, match=r"f\.h5::/x: cannot be read: "):
            read(source, 3000)
    else:
        np.testing.assert_array_equal(read(source, 3000), X)
    source.close()


def test_a_chunk_that_inflates_to_more_than_it_may() -> None:
    make(X, chunks=(1, 8, 24, 25), **GZIP)
    with h5py.File("f.h5", "r+") as file:
        file["x"].id.write_direct_chunk((2, 0, 0, 0), zlib.compress(b"\0" * 50_000_000))
    source = Hdf5Source("f.h5", "/x")
    try:
        got = read(source, X.size)  # HDF5 takes the first bytes
        np.testing.assert_array_equal(got[2], 0)
    except FormatError as error:
        assert "cannot be read" in str(error)
    source.close()


def test_a_user_block_moves_everything() -> None:
    with h5py.File("f.h5", "w", userblock_size=1024) as file:
        file["x"] = X
        file.create_dataset("z", data=X, chunks=(1, 8, 24, 25), **GZIP)
        file.create_dataset("never", X.shape, "f4")
    for name, expected, values in (("x", "in place", X), ("z", "library", X), ("never", "library", 0 * X)):
        source = Hdf5Source("f.h5", f"/{name}")
        assert way(source) == expected
        np.testing.assert_array_equal(read(source, 5000), values)
        source.close()
    assert rewrite(-X) == "in place"
    np.testing.assert_array_equal(stored(), -X)


def test_types_that_are_not_as_in_memory() -> None:
    """24-bit integers, which numpy has in 32: HDF5 is to convert them."""
    kind = h5py.h5t.STD_I32LE.copy()
    kind.set_precision(24)
    numbers = np.arange(-5000, 5000, dtype="i4")
    with h5py.File("f.h5", "w") as file:
        space = h5py.h5s.create_simple(numbers.shape)
        h5py.h5d.create(file.id, b"x", kind, space).write(space, space, numbers)
    source = Hdf5Source("f.h5", "/x")
    assert way(source) == "library"
    np.testing.assert_array_equal(read(source, 333), numbers)
    source.close()


def test_threads_share_what_they_inflate(monkeypatch: pytest.MonkeyPatch) -> None:
    make(X, chunks=(3, 8, 24, 25), **GZIP)
    count = 0
    decode = Pipeline.decode

    def counted(self: Pipeline, *arguments: Any) -> Any:
        nonlocal count
        count += 1
        return decode(self, *arguments)

    monkeypatch.setattr(Pipeline, "decode", counted)
    source = Hdf5Source("f.h5", "/x")
    source.hold(64 << 20, 8)
    flat = X.reshape(-1)
    with ThreadPoolExecutor(8) as executor:
        starts = range(0, X.size, 600)
        runs = [[(start, 600)] for start in starts]
        for start, got in zip(
            starts, executor.map(lambda run: source.read(run, np.empty(600, "f4")), runs), strict=True
        ):
            np.testing.assert_array_equal(got, flat[start : start + 600])
    source.close()
    assert count == 2


@pytest.mark.parametrize(
    "cut", [(1, 64, 40, 40), (3, 64, 40, 40), (8, 8, 40, 40), (2, 64, 13, 40), (16, 64, 10, 40)]
)
@pytest.mark.parametrize("command", ["stats", "normalize"])
def test_no_chunk_is_inflated_or_deflated_twice_in_a_pass(
    cut: tuple[int, ...], command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = normal(24, 64, 40, 40)
    make(x, chunks=cut, compression="gzip", compression_opts=1)
    counts = {"decode": 0, "encode": 0}

    def count(name: str, work: Any) -> Any:
        def counted(self: Pipeline, *arguments: Any) -> Any:
            counts[name] += 1
            return work(self, *arguments)

        return counted

    for name in counts:
        monkeypatch.setattr(Pipeline, name, count(name, getattr(Pipeline, name)))
    if command == "stats":
        (record,) = stats_file("f.h5::/x", jobs=2)
        assert record["count"] == x.size
    else:
        normalize_file("f.h5::/x", "out.h5", Settings(jobs=2))
    chunks = math.prod(Grid(x.shape, cut).counts)
    assert counts == {"decode": chunks, "encode": chunks if command == "normalize" else 0}


@pytest.mark.parametrize("memory", [1 << 20, 8 << 20, 64 << 20])
@pytest.mark.parametrize("cut", [(1, 8, 60, 61), (4, 2, 61, 61), (9, 8, 61, 61)])
@pytest.mark.parametrize(("layout", "groups"), [("NCHW", 4), ("NHWC", 16), ("CHWN", 3)])
def test_the_budget_and_the_chunks_do_not_change_the_numbers(
    memory: int, cut: tuple[int, ...], layout: str, groups: int
) -> None:
    x = normal(9, 8, 61, 64, mean=5)
    np.save("x.npy", x)
    normalize_file("x.npy", "y.npy", Settings(groups=groups, layout=layout))
    make(x, chunks=cut, shuffle=True, **GZIP)
    if math.prod(cut) * 4 > max(memory // 4, 1 << 20):
        with pytest.raises(
            BudgetError, match=rf"a chunk takes \d+ bytes, and --memory {memory} is too little"
        ):
            normalize_file("f.h5", "out.h5", Settings(groups=groups, layout=layout, memory=memory))
        return
    normalize_file("f.h5", "out.h5", Settings(groups=groups, layout=layout, memory=memory, jobs=3))
    np.testing.assert_array_equal(stored(), np.load("y.npy"))
    with h5py.File("out.h5") as file:
        assert (file["x"].chunks, file["x"].compression, file["x"].shuffle) == (cut, "gzip", True)


def test_what_chunks_leave_of_the_budget() -> None:
    """A million bytes a chunk, and bands of one."""
    make(np.zeros((4, 250, 1000), "f4"), chunks=(1, 250, 1000), compression="gzip")
    with closing(Hdf5Source("f.h5", "/x")) as source:
        assert source.hold(64_000_000, 64, 4) == (64_000_000 - 2 * (13_000_000 - (1 << 20)), 12)
        assert source.hold(64_000_000, 2) == (64_000_000 - (3_000_000 - (1 << 20)), 2)
        assert source.hold(8_000_000, 64, 4) == (8_000_000 - 2 * (2_000_000 - (1 << 20)), 1)
        assert source.hold(1 << 20, 2, 4) == (1 << 20, 1)
        with pytest.raises(BudgetError, match="2000000 bytes, and --memory 7000000 is too little"):
            source.hold(7_000_000, 2, 8)


@pytest.mark.usefixtures("library")
def test_the_file_is_the_same_whatever_the_jobs() -> None:
    x = normal(12, 16, 50, 50)
    make(x, chunks=(5, 16, 50, 50), shuffle=True, **GZIP)
    for jobs in (1, 2, 4):
        normalize_file("f.h5", f"out{jobs}.h5", Settings(groups=4, jobs=jobs))
    assert Path("out1.h5").read_bytes() == Path("out2.h5").read_bytes() == Path("out4.h5").read_bytes()


@pytest.mark.usefixtures("library")
def test_the_output_takes_hardly_more_space() -> None:
    x = np.load(Path(__file__).parents[1] / "sample_data/activations.npy")
    make(x, chunks=(1, 16, 112, 112), shuffle=True, **GZIP)
    normalize_file("f.h5", "out.h5", Settings(groups=4))
    assert Path("out.h5").stat().st_size <= 1.1 * Path("f.h5").stat().st_size
    normalize_file("f.h5", "half.h5", Settings(groups=4, dtype="float16"))
    assert Path("half.h5").stat().st_size <= Path("f.h5").stat().st_size


FORKS = """
import os
from gncli import executors
from gncli.normalize import Settings, normalize_file

executors._WORTH_FORKING, fork, forks = 1, os.fork, []
os.fork = lambda: (forks.append(1), fork())[1]
normalize_file("f.h5", "out.h5", Settings(groups=4, jobs=2))
print(len(forks))
"""


def test_large_contiguous_datasets_are_done_by_processes() -> None:
    """In place, as .npy: what a forked worker writes is in the file."""
    x = normal(6, 8, 40, 41)
    make(x)
    np.save("x.npy", x)
    normalize_file("x.npy", "y.npy", Settings(groups=4))
    done = subprocess.run([sys.executable, "-c", FORKS], capture_output=True, text=True, check=True)
    assert int(done.stdout) == 2
    np.testing.assert_array_equal(stored(), np.load("y.npy"))


@pytest.mark.parametrize("size", [1, 2, 4, 8])
@pytest.mark.parametrize("length", [0, 1, 7, 8, 4096, 4099, 300_001])
def test_shuffle(size: int, length: int) -> None:
    data = np.random.default_rng(0).integers(0, 256, length, np.uint8)
    count = length // size
    planes = data[: count * size].reshape(count, size).T.ravel() if size > 1 else data[: count * size]
    expected = np.concatenate([planes, data[count * size :]])
    np.testing.assert_array_equal(shuffled(data, size), expected)
    np.testing.assert_array_equal(unshuffled(expected.tobytes(), size), data)


@pytest.mark.parametrize("length", [1, 2, 3, 719, 720, 721, 65535 * 2, 100_001])
@pytest.mark.parametrize("kind", ["random", "zeros", "ones"])
def test_fletcher32_is_that_of_hdf5(length: int, kind: str) -> None:
    rng = np.random.default_rng(length)
    data = {
        "random": rng.integers(0, 256, length, np.uint8),
        "zeros": np.zeros(length, np.uint8),
        "ones": np.full(length, 255, np.uint8),
    }[kind]
    with h5py.File("f.h5", "w") as file:
        dataset = file.create_dataset("x", data=data, chunks=(length,), fletcher32=True)
        file.flush()
        _, chunk = dataset.id.read_direct_chunk((0,))
    assert fletcher32(data) == chunk[-4:]
