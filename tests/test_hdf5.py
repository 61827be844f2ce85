"""gncli.tensors.hdf5*: h5py is the oracle, for values and for all that is to stay."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from gncli.errors import AddressError, FormatError, OutputError
from gncli.tensors import choose, expand, open_sink, open_source
from gncli.tensors.hdf5_grid import hyperslabs

Array = NDArray[Any]
SHAPE = (4, 6, 10, 11)
X = np.random.default_rng(0).standard_normal(SHAPE).astype("f4")


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def network() -> str:
    """A file with what files hold."""
    with h5py.File("f.h5", "w") as file:
        file.attrs["title"] = "a network"
        chunked = file.create_dataset(
            "conv1", data=X, chunks=(2, 3, 4, 5), maxshape=(None, *SHAPE[1:]), fillvalue=3,
            compression="gzip", compression_opts=7, shuffle=True, fletcher32=True,
        )  # fmt: skip
        chunked.attrs["unit"] = "mV"
        chunked.attrs["names"] = ["a", "bcd"]
        chunked.attrs["none"] = h5py.Empty("f4")
        chunked.attrs.create("fixed", np.array([b"ab", b"c"], "S2"))
        chunked.attrs["gn_groups"] = 99
        file["time"] = np.arange(4.0)
        file["time"].make_scale("time")
        chunked.dims[0].attach_scale(file["time"])
        chunked.dims[0].label = "N"
        file["deep/er/conv9"] = X[:2] * 3
        file["deep/alias"] = chunked
        file["soft"] = h5py.SoftLink("/conv1")
        file["lost"] = h5py.SoftLink("/nowhere")
        file["photos"] = np.arange(24, dtype="u1").reshape(2, 3, 4)
        file["big"] = X.astype(">f4")
        file["scalar"] = 1.5
        file["words"] = ["a", "b"]
        file["flag"] = True
        file["complex"] = np.zeros(3, "c8")
        file["table"] = np.zeros(3, [("a", "f4"), ("b", "i2")])
        file.create_dataset("triples", (3,), "(3,)f4")
        file["nothing"] = h5py.Empty("f4")
        file.create_dataset("enum", data=[0, 1], dtype=h5py.enum_dtype({"off": 0, "on": 1}))
    return "f.h5"


def copy(
    address: str,
    target: str,
    dtype: str = "f4",
    *,
    force: bool = False,
    step: int = 97,
    external: bool = False,
) -> None:
    """What normalize does, with the values doubled."""
    source = open_source(address, external=external)
    try:
        attributes = {"command": "gn normalize", "groups": 4, "gn_eps": 1e-5, "gamma": None}
        sink = open_sink(target, source, np.dtype(dtype), force=force, attributes=attributes)
        try:
            buffer, size = np.empty(step, source.dtype), math.prod(source.shape)
            out = np.empty(step, dtype)
            for start in range(0, size, step):
                runs = [(start, min(step, size - start))]
                values = sink.target(runs, out)
                values[:] = source.read(runs, buffer) * 2
                sink.write(runs, values if sink.positioned else sink.pack(runs, values))
            sink.commit()
        finally:
            sink.discard()
    finally:
        source.close()


def run(program: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)


@given(st.data())
def test_hyperslabs_cover_a_run_exactly_once_in_order(data: st.DataObject) -> None:
    shape = tuple(data.draw(st.lists(st.integers(1, 5), max_size=5)))
    size = math.prod(shape)
    start = data.draw(st.integers(0, size))
    count = data.draw(st.integers(0, size - start))
    numbers = np.arange(size).reshape(shape)
    boxes = list(hyperslabs((start, count), shape))
    parts = [
        numbers[tuple(slice(at, at + length) for at, length in zip(offset, extent, strict=True))].ravel()
        for offset, extent in boxes
    ]
    np.testing.assert_array_equal(np.concatenate([[], *parts]), np.arange(start, start + count))
    assert len(boxes) <= max(1, 2 * len(shape) - 1)


@pytest.mark.parametrize("name", ["conv1", "deep/er/conv9", "photos", "big", "scalar", "time", "soft"])
@pytest.mark.parametrize("step", [1_000_000, 97])
def test_it_reads_what_h5py_reads(network: str, name: str, step: int) -> None:
    source = open_source(f"{network}::{name}")
    with h5py.File(network) as file:
        expected = file[name][()]
        assert (source.shape, source.dtype, source.fortran) == (file[name].shape, file[name].dtype, False)
    got = np.empty(math.prod(source.shape), source.dtype)
    for start in range(0, got.size, step):
        count = min(step, got.size - start)
        got[start : start + count] = source.read([(start, count)], np.empty(step, source.dtype))
    source.close()
    np.testing.assert_array_equal(got.reshape(source.shape), expected)


def test_it_reads_from_several_threads(network: str) -> None:
    source = open_source(f"{network}::/conv1")
    runs = [[(start, 60), (start + 100, 40)] for start in range(0, 2500, 50)]
    with ThreadPoolExecutor(4) as executor:
        for (first, second), got in zip(
            runs, executor.map(lambda run: source.read(run, np.empty(100, "f4")), runs), strict=True
        ):
            parts = [X.ravel()[start : start + count] for start, count in (first, second)]
            np.testing.assert_array_equal(got, np.concatenate(parts))
    source.close()


def test_a_user_block_before_the_signature() -> None:
    with h5py.File("block.dat", "w", userblock_size=2048) as file:
        file["x"] = X
    assert expand("block.dat") == ["block.dat::/x"]
    copy("block.dat", "out.h5")
    with h5py.File("out.h5") as file:
        assert file.userblock_size == 2048
        np.testing.assert_array_equal(file["x"], X * 2)


@pytest.mark.parametrize(
    ("address", "names"),
    [
        ("f.h5", ["/big", "/conv1", "/deep/er/conv9", "/photos", "/scalar", "/time"]),
        ("f.h5::/conv1", ["/conv1"]),
        ("f.h5::conv1/", ["/conv1"]),
        ("f.h5::/soft", ["/soft"]),
        ("f.h5::/conv?", ["/conv1"]),
        ("f.h5::/*", ["/big", "/conv1", "/photos", "/scalar", "/time"]),
        ("f.h5::/deep/*", ["/deep/alias"]),
        ("f.h5::/*/*/conv[0-9]", ["/deep/er/conv9"]),
        ("f.h5::/**/conv*", ["/conv1", "/deep/er/conv9"]),
    ],
)
def test_what_an_address_names(network: str, address: str, names: list[str]) -> None:
    assert expand(address) == [f"{network}::{name}" for name in names]


def test_a_name_with_a_glob_in_it() -> None:
    with h5py.File("f.h5", "w") as file:
        file["a*"], file["ab"] = X, X
    assert expand("f.h5::/a*") == ["f.h5::/a*"]


@pytest.mark.parametrize(
    ("address", "kind", "message"),
    [
        ("f.h5", AddressError, "6 datasets; name one: 'f.h5::/big' (4, 6, 10, 11), 'f.h5::/conv1' (4,"),
        ("f.h5::/conv2", AddressError, "no dataset '/conv2'; did you mean 'f.h5::/conv1'"),
        ("f.h5::/deep/conv9", AddressError, "did you mean 'f.h5::/deep/er/conv9'"),
        ("f.h5::/zzz", AddressError, "no dataset '/zzz'; it holds 'f.h5::/big', 'f.h5::/complex'"),
        ("f.h5::/z*", AddressError, "no dataset '/z*'; it holds"),
        ("f.h5::/w*", AddressError, "no numeric dataset there"),
        ("f.h5::/lost", AddressError, "no dataset '/lost'"),
        ("f.h5::/deep", AddressError, "is a group; name a dataset: 'f.h5::/deep/alias' (4, 6, 10, 11), 'f"),
        ("f.h5::", AddressError, "is a group; name a dataset: "),
        ("f.h5::/words", FormatError, "holds strings, references or lists"),
        ("f.h5::/flag", FormatError, "has dtype bool"),
        ("f.h5::/enum", FormatError, "holds an enumeration"),
        ("f.h5::/complex", FormatError, "has dtype complex64"),
        ("f.h5::/table", FormatError, "has a structured dtype ('a', 'b')"),
        ("f.h5::/triples", FormatError, "has dtype"),
        ("f.h5::/nothing", FormatError, "is empty: it has a type and no shape"),
    ],
)
def test_what_is_not_one_tensor(network: str, address: str, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind) as caught:
        open_source(address)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_choose_takes_the_one_that_fits(network: str) -> None:
    assert choose(network, lambda shape: len(shape) == 3) == ["f.h5::/photos"]
    assert choose("f.h5::/scalar", lambda shape: False) == ["f.h5::/scalar"]
    with pytest.raises(AddressError, match=r"3 datasets fit; name one: 'f.h5::/big' \(4, 6, 10, 11\), 'f"):
        choose(network, lambda shape: len(shape) == 4)
    with pytest.raises(AddressError, match=r"no dataset has a shape that fits; it holds 'f.h5::/big' \(4,"):
        choose(network, lambda shape: False)
    assert choose(network, lambda shape: False, or_else=lambda shape: len(shape) == 3) == ["f.h5::/photos"]
    with pytest.raises(AddressError, match="3 datasets fit; name one: "):
        choose(network, lambda shape: False, or_else=lambda shape: len(shape) == 4)


@pytest.mark.parametrize(
    ("cut", "message"), [(3000, "truncated file"), (20, "cannot be opened as HDF5"), (8, "cannot be opened")]
)
def test_a_truncated_file(network: str, cut: int, message: str) -> None:
    os.truncate(network, cut)
    with pytest.raises(FormatError, match=message) as caught:
        open_source(network)
    assert "\n" not in str(caught.value)


def test_a_damaged_chunk(network: str) -> None:
    with h5py.File(network) as file:
        chunk = file["conv1"].id.get_chunk_info(5)
    with open(network, "r+b") as raw:
        raw.seek(chunk.byte_offset + 20)
        raw.write(b"\xff" * 9)
    source = open_source(f"{network}::/conv1")
    with pytest.raises(FormatError, match=r"f\.h5::/conv1: cannot be read: "):
        source.read([(0, X.size)], np.empty(X.size, "f4"))
    source.close()


def test_a_file_that_another_program_writes(network: str) -> None:
    program = f"import h5py, sys; f = h5py.File({network!r}, 'r+'); print(flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as writer:
        assert writer.stdout is not None
        writer.stdout.readline()
        with pytest.raises(AddressError, match="is open for writing elsewhere"):
            open_source(network)
        writer.communicate()


def facts(file: h5py.File) -> dict[str, Any]:
    """Every link, and what each dataset holds, to compare two files by."""
    found: dict[str, Any] = {}

    def visit(name: str, link: Any) -> None:
        value: Any = None
        if isinstance(link, h5py.HardLink) and isinstance(file[name], h5py.Dataset):
            dataset = file[name]
            value = (dataset.dtype, dataset.shape, repr(dataset[()]), sorted(dataset.attrs))
        found[name] = (type(link).__name__, getattr(link, "path", None), value)

    file.visititems_links(visit)
    return found


@pytest.mark.parametrize("dtype", ["f4", "f2", "f8"])
def test_the_rest_of_the_file_is_kept(network: str, dtype: str) -> None:
    before = Path(network).read_bytes()
    copy(f"{network}::/conv1", "out.h5", dtype)
    assert Path(network).read_bytes() == before
    assert sorted(os.listdir()) == ["f.h5", "out.h5"]
    with h5py.File(network) as old, h5py.File("out.h5") as new:
        was, now = facts(old), facts(new)
        assert was.keys() == now.keys()
        changed = {name for name in was if was[name] != now[name]}
        assert changed == {"conv1", "deep/alias"}
        assert new.attrs["title"] == "a network"
        a, b = old["conv1"], new["conv1"]
        np.testing.assert_array_equal(b[()], (X * 2).astype(dtype), strict=True)
        for setting in (
            "chunks", "maxshape", "compression", "compression_opts", "shuffle", "fletcher32", "fillvalue"
        ):  # fmt: skip
            assert getattr(b, setting) == getattr(a, setting), setting
        assert b == new["deep/alias"] == new["soft"], "all names lead to the new one"
        assert set(b.attrs) == {*a.attrs, "gn_command", "gn_eps"}
        assert (b.attrs["gn_command"], b.attrs["gn_groups"], b.attrs["gn_eps"]) == ("gn normalize", 4, 1e-5)
        assert b.attrs["unit"] == "mV"
        assert list(b.attrs["names"]) == ["a", "bcd"]
        assert b.attrs["fixed"].dtype == "S2"
        assert isinstance(b.attrs["none"], h5py.Empty)
        assert (b.dims[0].label, b.dims[0][0]) == ("N", new["time"])
        assert [new[reference] for reference, _ in new["time"].attrs["REFERENCE_LIST"]] == [b]


@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize("name", ["big", "deep/er/conv9", "photos", "scalar"])
def test_contiguous_datasets(network: str, name: str, dtype: str) -> None:
    copy(f"{network}::{name}", "out.h5", dtype)
    with h5py.File(network) as old, h5py.File("out.h5") as new:
        np.testing.assert_array_equal(new[name][()], old[name][()] * 2.0)
        assert new[name].dtype.newbyteorder("=") == dtype
        assert new[name].chunks is None


def test_into_another_dataset(network: str) -> None:
    copy(f"{network}::/conv1", "out.h5::/made/here", "f8")
    copy(f"{network}::/conv1", "out.h5::/photos", force=True)
    with h5py.File(network) as old, h5py.File("out.h5") as new:
        np.testing.assert_array_equal(new["made/here"], X * 2)
        assert new["made/here"].dtype == "f8"
        np.testing.assert_array_equal(new["conv1"], X)
        np.testing.assert_array_equal(new["photos"], X * 2)
        assert new["photos"].chunks == old["conv1"].chunks
        assert "gn_command" not in new["conv1"].attrs


def test_into_the_input_itself(network: str) -> None:
    with pytest.raises(OutputError, match=r"f\.h5: exists; use --force"):
        copy(f"{network}::/conv1", network)
    copy(f"{network}::/conv1", network, force=True)
    with h5py.File(network) as file:
        np.testing.assert_array_equal(file["conv1"], X * 2)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("q.h5::", "is a group; give a dataset's path"),
        ("q.h5::/deep", "is a group; give a dataset's path"),
        ("q.h5::/photos", "is in the input file already; use --force"),
        ("q.h5::/photos/x", "/photos is a dataset, not a group"),
        ("q.h5::/lost/x", "/lost is a link; give the path that it leads to"),
        ("no/q.h5", "there is no folder 'no'"),
    ],
)
def test_targets_that_cannot_be(network: str, target: str, message: str) -> None:
    with pytest.raises(OutputError) as caught:
        copy(f"{network}::/conv1", target)
    assert message in caught.value.message
    assert os.listdir() == [network]


def test_nothing_is_written_into_other_files(network: str) -> None:
    # A copy of the file still leads there: by external links, raw external data, virtual datasets.
    with h5py.File("other.h5", "w") as file:
        file["x"] = X
    layout = h5py.VirtualLayout(SHAPE, "f4")
    layout[...] = h5py.VirtualSource("other.h5", "x", SHAPE)
    with h5py.File("main.h5", "w") as file:
        file["linked"] = h5py.ExternalLink("other.h5", "/x")
        file["group"] = h5py.ExternalLink("other.h5", "/")
        file.create_virtual_dataset("virtual", layout)
        file.create_dataset("raw", data=X, external=[("raw.bin", 0, X.nbytes)])
    before = {name: Path(name).read_bytes() for name in os.listdir()}
    for name in ("virtual", "raw"):
        copy(f"main.h5::/{name}", f"{name}.h5", external=True)
        with h5py.File(f"{name}.h5") as file:
            np.testing.assert_array_equal(file[name], X * 2)
            assert not file[name].is_virtual
            assert file[name].external is None
    with pytest.raises(AddressError, match=r"lies in another file, by an external link; .* in .*other\.h5"):
        copy("main.h5::/linked", "out.h5", external=True)
    with pytest.raises(AddressError, match="lies in another file"):
        copy("main.h5::/group/x", "out.h5", external=True)
    with pytest.raises(OutputError, match="/group is a link"):
        copy("main.h5::/raw", "out.h5::/group/y", external=True)
    copy("main.h5::/linked", "out.npy", external=True)
    np.testing.assert_array_equal(np.load("out.npy"), X * 2)
    assert {name: Path(name).read_bytes() for name in before} == before


def test_a_lossy_filter_is_left_out() -> None:
    with h5py.File("f.h5", "w") as file:
        file.create_dataset("x", data=X, chunks=(2, 3, 4, 5), scaleoffset=3, shuffle=True)
        stored = file["x"][()]
    copy("f.h5", "out.h5")
    with h5py.File("out.h5") as file:
        np.testing.assert_array_equal(file["x"], stored * 2)
        assert (file["x"].scaleoffset, file["x"].shuffle, file["x"].chunks) == (None, True, (2, 3, 4, 5))


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize(("target", "name"), [("o.h5", "x"), ("o.hdf5::/a/b", "a/b"), ("o.nc", "x")])
def test_npy_to_hdf5(order: Any, dtype: str, target: str, name: str) -> None:
    np.save("x.npy", X.copy(order))
    copy("x.npy", target, dtype)
    with h5py.File(target.split("::")[0]) as file:
        np.testing.assert_array_equal(file[name][()], (X * 2).astype(dtype), strict=True)
        assert file[name].attrs["gn_command"] == "gn normalize"


@pytest.mark.parametrize("shape", [(), (0, 3), (1,)])
def test_small_shapes_to_hdf5_and_back(shape: tuple[int, ...]) -> None:
    np.save("x.npy", np.ones(shape, "f4"))
    copy("x.npy", "o.h5")
    copy("o.h5", "y.npy")
    np.testing.assert_array_equal(np.load("y.npy"), np.full(shape, 4, "f4"), strict=True)


def test_hdf5_to_npy(network: str) -> None:
    copy(f"{network}::/big", "out.npy")
    np.testing.assert_array_equal(np.load("out.npy"), X * 2, strict=True)


@pytest.mark.parametrize("part", [0.001, 0.5, 0.7, 0.9, 0.9999])
def test_a_full_disk_at_any_point_ends_cleanly(part: float) -> None:
    # HDF5 itself would crash at closing where it could not write: hence a process of its own.
    program = f"""
import os, resource, h5py, numpy as np
from gncli.errors import OutputError
from gncli.tensors import open_sink, open_source
x = np.random.default_rng(0).standard_normal((40, 100, 100)).astype("f4")
with h5py.File("f.h5", "w") as file:
    file.create_dataset("x", data=x, chunks=(1, 100, 100), compression="gzip")

def normalize():
    source, sink = open_source("f.h5"), None
    try:
        sink = open_sink("out.h5", source, np.dtype("f8"), force=False, attributes={{}})
        for start in range(0, x.size, 5000):
            values = source.read([(start, 5000)], np.empty(5000, "f4"))
            runs = [(start, 5000)]
            sink.write(runs, sink.pack(runs, values.astype("f8") / np.pi))
        sink.commit()
    except OutputError as error:
        print(error)
    finally:
        if sink:
            sink.discard()
        source.close()

normalize()
limit = int(os.path.getsize("out.h5") * {part})
os.unlink("out.h5")
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
normalize()
"""
    done = run(program)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("out.h5: cannot write ")
    assert done.stdout.endswith("file too large\n")
    assert os.listdir() == ["f.h5"]


def test_an_interrupt_while_hdf5_writes_ends_cleanly() -> None:
    program = """
import os, signal, threading, numpy as np, h5py
from gncli.tensors import open_sink, open_source
x = np.random.default_rng(0).standard_normal((40, 100, 100))
with h5py.File("f.h5", "w") as file:
    file.create_dataset("x", data=x, chunks=(1, 100, 100), compression="gzip")
source = open_source("f.h5")
sink = open_sink("out.h5", source, np.dtype("f4"), force=False, attributes={})
try:
    threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGINT)).start()
    while True:
        runs = [(0, x.size)]
        sink.write(runs, sink.pack(runs, np.random.standard_normal(x.size).astype("f4")))
except KeyboardInterrupt:
    print("interrupted")
finally:
    sink.discard()
    source.close()
"""
    done = run(program)
    assert (done.returncode, done.stdout, done.stderr) == (0, "interrupted\n", "")
    assert os.listdir() == ["f.h5"]


def test_h5py_is_not_loaded_for_npy() -> None:
    np.save("x.npy", X)
    program = "import sys, gncli.tensors as t; t.open_source('x.npy').close(); print('h5py' in sys.modules)"
    done = run(program)
    assert (done.stdout, done.stderr) == ("False\n", "")
