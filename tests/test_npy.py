"""gncli.tensors.npy: np.save and np.load are the oracle, strangers' headers the trial."""

from __future__ import annotations

import io
import os
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray

from gncli.errors import AddressError, FormatError, GnError, OutputError, UsageError
from gncli.tensors import Source, choose, default_output, expand, npy, open_sink, open_source
from gncli.tensors.address import NPY_MAGIC

Array = NDArray[Any]
DTYPES = [order + kind for kind in ("f2", "f4", "f8", "i2", "i4", "i8", "u2", "u4", "u8") for order in "<>"]


@pytest.fixture(params=[True, False], ids=["preadv", "seek"])
def positioned(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways to read and write: where the system has preadv, and where it has not."""
    monkeypatch.setattr(npy, "POSITIONED", request.param)


def storage(x: Array) -> Array:
    """The elements in the order that the file holds them."""
    return x.ravel("F" if x.flags.f_contiguous and not x.flags.c_contiguous else "C")


def read_all(source: Source, step: int = 7) -> Array:
    size = int(np.prod(source.shape))
    values = np.empty(size, source.dtype)
    for start in range(0, size, step):
        part = source.read([(start, min(step, size - start))], np.empty(step, source.dtype))
        values[start : start + step] = part
    return values


def header(text: str, version: tuple[int, int] = (1, 0), length: int | None = None) -> bytes:
    body = text.encode("utf-8") + b"\n"
    size = len(body) if length is None else length
    return NPY_MAGIC + bytes(version) + size.to_bytes(2 if version[0] == 1 else 4, "little") + body


def plain(descr: str = "'<f4'", shape: str = "(2, 3)", order: str = "False") -> str:
    return f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}"


@pytest.mark.usefixtures("positioned")
@pytest.mark.parametrize("dtype", [*DTYPES, "i1", "u1"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_it_reads_what_numpy_saves(tmp_path: Path, dtype: str, order: Any) -> None:
    x = np.arange(2 * 3 * 5).astype(dtype).reshape(2, 3, 5).copy(order)
    np.save(tmp_path / "x.npy", x)
    source = open_source(str(tmp_path / "x.npy"))
    assert (source.shape, source.dtype, source.fortran) == (x.shape, x.dtype, order == "F")
    np.testing.assert_array_equal(read_all(source), storage(x), strict=True)
    source.close()


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
def test_it_reads_every_version(tmp_path: Path, version: tuple[int, int]) -> None:
    x = np.arange(6, dtype="f4").reshape(2, 3)
    with open(tmp_path / "x.npy", "wb") as file:
        np.lib.format.write_array(file, x, version)
    source = open_source(str(tmp_path / "x.npy"))
    np.testing.assert_array_equal(read_all(source), x.ravel())
    source.close()


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("{'shape': (2, 3), 'fortran_order': False, 'descr': '<f4'}", "any order of keys, no last comma"),
        ('{"descr": "<f4", "fortran_order": False, "shape": (2, 3)}', "double quotes"),
        ("{'descr':'<f4','fortran_order':False,'shape':(2,3,),}", "no blanks"),
        ("{'descr': '<f4', 'fortran_order': False, 'shape': (2L, 3L), }", "Python 2"),
        (plain() + " " * 60_000, "64 KiB of padding"),
        (plain() + "\r", "CRLF at the end"),
        (plain().replace(", ", ",\r\n"), "CRLF between entries"),
        (plain("'float32'"), "a name"),
        (plain("'<f'"), "a letter without a size"),
        (plain("'single'"), "a name of C's"),
        (plain("'f'"), "a letter alone"),
        (plain("u'<f4'").replace("'descr'", "u'descr'"), "Python 2's unicode strings"),
    ],
)
def test_it_reads_headers_of_other_writers(tmp_path: Path, text: str, why: str) -> None:
    x = np.arange(6, dtype="f4").reshape(2, 3)
    (tmp_path / "x.npy").write_bytes(header(text) + x.tobytes())
    if len(text) < 10_000 and "L" not in text:  # as far as numpy goes
        np.testing.assert_array_equal(np.load(tmp_path / "x.npy"), x, err_msg=why)
    source = open_source(str(tmp_path / "x.npy"))
    np.testing.assert_array_equal(read_all(source), x.ravel(), err_msg=why)
    source.close()


NAMES = sorted(word for word in np.sctypeDict if isinstance(word, str) and word != "a")
LETTERS = [order + kind for order in ("", *"<>=|") for kind in "bBhHiIlLqQefd"]


@pytest.mark.parametrize("word", [*NAMES, *LETTERS])
def test_it_takes_every_word_for_a_number_that_numpy_takes(tmp_path: Path, word: str) -> None:
    dtype = np.dtype(word)
    x = np.arange(6).reshape(2, 3)
    values = x.astype(dtype if dtype.kind in "iuf" else "f8")
    (tmp_path / "x.npy").write_bytes(header(plain(f"'{word}'")) + values.tobytes())
    if dtype.kind not in "iuf" or dtype.itemsize > 8:
        with pytest.raises(FormatError, match=r"has dtype|holds objects"):
            open_source(str(tmp_path / "x.npy"))
        return
    source = open_source(str(tmp_path / "x.npy"))
    assert source.dtype == np.load(tmp_path / "x.npy").dtype
    np.testing.assert_array_equal(read_all(source), x.ravel())
    source.close()


@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 2), (1,), (5,), (1, 1, 4)])
def test_it_reads_and_writes_small_shapes(tmp_path: Path, shape: tuple[int, ...]) -> None:
    x = np.ones(shape, "f4")
    np.save(tmp_path / "x.npy", x)
    source = open_source(str(tmp_path / "x.npy"))
    sink = open_sink(str(tmp_path / "y.npy"), source, x.dtype, force=False, attributes={})
    sink.write([(0, x.size)], read_all(source))
    sink.commit()
    source.close()
    assert (tmp_path / "y.npy").read_bytes() == (tmp_path / "x.npy").read_bytes()


@pytest.mark.usefixtures("positioned")
def test_it_reads_several_runs_from_several_threads(tmp_path: Path) -> None:
    x = np.random.default_rng(0).standard_normal(10_000)
    np.save(tmp_path / "x.npy", x)
    source = open_source(str(tmp_path / "x.npy"))

    def read(start: int) -> Array:
        return source.read([(start, 100), (9_000 - start, 50)], np.empty(200))

    with ThreadPoolExecutor(4) as executor:
        for start, got in zip(range(0, 9_000, 9), executor.map(read, range(0, 9_000, 9)), strict=True):
            expected = np.concatenate([x[start : start + 100], x[9_000 - start : 9_050 - start]])
            np.testing.assert_array_equal(got, expected)
    source.close()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty (0 bytes)"),
        (b"\x93NU", "neither .npy nor HDF5"),
        (b"hello, world", "neither .npy nor HDF5 (it begins with b'hello, w')"),
        (b"PK\x03\x04" + b"\0" * 30, "is a zip archive; if it is an .npz"),
        (b"CDF\x01" + b"\0" * 30, "is classic netCDF"),
        (NPY_MAGIC, "version 0.0"),
        (NPY_MAGIC + b"\x01\x00", "cut off in its header, at 8 of 10 bytes"),
        (NPY_MAGIC + b"\x01\x00\x76", "cut off in its header"),
        (header(plain(), (4, 0)), "has .npy version 4.0; gn reads 1.0, 2.0 and 3.0"),
        (header(plain(), (1, 7)), "has .npy version 1.7"),
        (header(plain(), length=500), "is cut off in its header, at"),
        (header(plain(), (2, 0), length=2**32 - 1), "a header of 4294967295 bytes"),
        (header(plain(), (3, 0), length=65537), "a header of 65537 bytes"),
        (header(plain()) + b"\0" * 23, "its header declares 24 bytes of data, the file holds 23"),
        (header(plain()), "its header declares 24 bytes of data, the file holds 0"),
        (header(plain()) + b"\0" * 29, "has 5 bytes after its data (24 bytes)"),
        (header(plain(shape=f"({2**40}, {2**22})")), "absurd shape"),
        (header(plain(shape="(9999999999, 3)")), "declares 119999999988 bytes of data, the file holds 0"),
        (header(plain(shape=f"(0, {2**62}, 4)")), "absurd shape"),
        (header(plain(shape="(" + "1, " * 65 + ")")) + b"\0" * 4, "declares 65 axes"),
        (header(plain(shape="(-2, 3)")), "header that is not of an .npy"),
        (header(plain(shape="(True, 3)")), "header that is not of an .npy"),
        (header(plain(shape="(2.0, 3)")), "header that is not of an .npy"),
        (header(plain(shape="(02, 3)")), "header that is not of an .npy"),
        (header(plain(shape="(6)")), "header that is not of an .npy"),
        (header(plain(shape="[2, 3]")), "header that is not of an .npy"),
        (header(plain(shape="(" * 5000)), "header that is not of an .npy"),
        (header(plain(shape="(" + "9" * 5000 + ",)")), "header that is not of an .npy"),
        (header(plain(order="1")), "header that is not of an .npy"),
        (header(plain(order="'True'")), "header that is not of an .npy"),
        (header("-" * 60_000), "header that is not of an .npy"),
        (header("{'descr': '<f4', 'shape': (2, 3)}"), "header that is not of an .npy"),
        (header(plain()[:-1] + "'shape': (2, 3)}"), "header that is not of an .npy"),
        (header(plain()[:-1] + "'extra': 1}"), "header that is not of an .npy"),
        (header("\x1b[31m{}"), r"not of an .npy: '\x1b[31m{}'"),
        (NPY_MAGIC + b"\x03\x00\x04\x00\x00\x00\xff\xff\xff\xff", "header that is not of an .npy"),
        (header(plain("'|O'")), "holds objects, which gn never unpickles"),
        (header(plain("[('a', '<f4'), ('b', '<i2')]")), "structured or sub-array dtype"),
        (header(plain("('<f4', (2,))")), "structured or sub-array dtype"),
        (header(plain("'<f4,<f4'")), "a dtype that gn does not know: '<f4,<f4'"),
        (header(plain("'float33'")), "a dtype that gn does not know"),
        (header(plain("'4f4'")), "a dtype that gn does not know"),
        (header(plain("'f4;f4'")), "a dtype that gn does not know"),
        (header(plain("'<f3'")), "a dtype that gn does not know"),
        (header(plain("'a5'")), "a dtype that gn does not know"),
        (header(plain("'<M8[zz]'")), "a dtype that gn does not know"),
        (header(plain("'<c8'")), "has dtype complex64; gn takes float16"),
        (header(plain("'|b1'")), "has dtype bool"),
        (header(plain("'<U7'")), "has dtype str"),
        (header(plain("'|S7'")), "has dtype bytes"),
        (header(plain("'<U999999999'")), "dtype"),
        (header(plain("'|V4'")), "has dtype void"),
        (header(plain("'<M8[ns]'")), "has dtype datetime64[ns]"),
        (header(plain("'<f16'")), "has dtype float128"),
    ],
)
def test_a_file_that_is_not_as_it_should_be(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "x.npy"
    path.write_bytes(content)
    tracemalloc.start()
    with pytest.raises(FormatError) as caught:
        open_source(str(path))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert message in caught.value.message
    assert caught.value.address == str(path)
    assert "\n" not in str(caught.value)
    assert peak < 2**20, "nothing is allocated on a header's word"


def test_several_arrays_in_one_file(tmp_path: Path) -> None:
    path = tmp_path / "two of them.npy"
    with path.open("wb") as file:
        for shape in ((2, 4), (0, 3), (5,)):
            np.save(file, np.ones(shape, "f4"))
    with pytest.raises(FormatError) as caught:
        open_source(str(path))
    assert caught.value.message == (
        f"holds several arrays, one after another; give it as a pipe, `gn ... - < '{path}'`, "
        "or save each in its own file"
    )


@pytest.mark.parametrize(
    ("shape", "declared", "order"),
    [((4, 6), (2, 6), "C"), ((4, 6), (4, 3), "F"), ((7,), (5,), "C"), ((15,), (2, 4), "C"), ((6,), (), "C")],
)
def test_a_shape_that_is_too_small_for_the_file(
    tmp_path: Path, shape: tuple[int, ...], declared: tuple[int, ...], order: Any
) -> None:
    """The error holds the numpy expression that reads all of the elements."""
    x = np.arange(np.prod(shape), dtype="f4").reshape(shape, order=order)
    path = tmp_path / "x.npy"
    path.write_bytes(header(plain(shape=str(declared), order=str(order == "F"))) + x.tobytes("A"))
    with pytest.raises(FormatError) as caught:
        open_source(str(path))
    message, _, read = caught.value.message.partition("; if all are wanted, save this with np.save: ")
    held = x.nbytes - 4 * int(np.prod(declared))
    looks = f"the shape in its header, {declared}, looks too small for {x.size} elements"
    assert message == f"has {held} bytes after its data ({x.nbytes - held} bytes): {looks}"
    np.testing.assert_array_equal(eval(read, {"np": np}), x, strict=True)


def test_bytes_that_are_neither(tmp_path: Path) -> None:
    path = tmp_path / "x.npy"
    path.write_bytes(header(plain()) + b"\0" * 29)
    with pytest.raises(FormatError, match=r"5 bytes after its data .*, neither another array nor whole"):
        open_source(str(path))


def test_an_object_array_is_not_unpickled(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(tmp_path / "sprung"),)

    array = np.empty(1, object)
    array[0] = Trap()
    np.save(tmp_path / "x.npy", array, allow_pickle=True)
    with pytest.raises(FormatError, match="never unpickles"):
        open_source(str(tmp_path / "x.npy"))
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("number", range(200))
def test_a_damaged_header_is_read_as_numpy_would_or_refused(tmp_path: Path, number: int) -> None:
    x = np.arange(6, dtype="f4").reshape(2, 3)
    stream = io.BytesIO()
    np.save(stream, x)
    content = bytearray(stream.getvalue())
    rng = np.random.default_rng(number)
    content[rng.integers(128)] = rng.integers(256)
    (tmp_path / "x.npy").write_bytes(content)
    try:
        source = open_source(str(tmp_path / "x.npy"))
    except GnError:
        return
    np.testing.assert_array_equal(read_all(source), storage(np.load(tmp_path / "x.npy")))
    source.close()


def test_a_file_that_shrinks_while_it_is_read(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros(1000))
    source = open_source(str(tmp_path / "x.npy"))
    os.truncate(tmp_path / "x.npy", 500)
    with pytest.raises(FormatError, match="shrank while it was read"):
        source.read([(0, 1000)], np.empty(1000))
    source.close()


def test_a_read_that_comes_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    x = np.arange(1000.0)
    np.save(tmp_path / "x.npy", x)
    whole = os.preadv
    monkeypatch.setattr(os, "preadv", lambda fd, views, at: whole(fd, [views[0][:333]], at))
    source = open_source(str(tmp_path / "x.npy"))
    np.testing.assert_array_equal(source.read([(0, 1000)], np.empty(1000)), x)
    source.close()


def test_nothing_at_the_address(tmp_path: Path) -> None:
    np.save(tmp_path / "activations.npy", np.zeros(3))
    rows = {
        "activation.npy": f"no such file; did you mean {tmp_path / 'activations.npy'}?",
        "zzz": "no such file",
        "no/folder": "no such file",
        ".": "is a directory; give the files in it",
        "activations.npy/conv1": "a dataset in a file is written FILE::/path",
        "activations.npy::/conv1": "which holds one tensor; drop '::/conv1'",
        "a\0b": "not a file name",
    }
    for name, message in rows.items():
        with pytest.raises(AddressError) as caught:
            open_source(str(tmp_path / name))
        assert caught.value.message.endswith(message) or message in caught.value.message


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_no_permission(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros(3))
    (tmp_path / "x.npy").chmod(0)
    with pytest.raises(AddressError, match="permission denied"):
        open_source(str(tmp_path / "x.npy"))


@pytest.mark.usefixtures("positioned")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("order", ["C", "F"])
def test_it_writes_what_numpy_saves_byte_for_byte(tmp_path: Path, dtype: str, order: Any) -> None:
    x = np.arange(2 * 3 * 5).astype(dtype).reshape(2, 3, 5).copy(order)
    np.save(tmp_path / "x.npy", x)
    source = open_source(str(tmp_path / "x.npy"))
    sink = open_sink(str(tmp_path / "y.npy"), source, x.dtype, force=False, attributes={})
    values = storage(x).astype(x.dtype.newbyteorder("="))
    buffer = np.empty(30, values.dtype)
    for runs in ([(12, 18)], [(6, 6), (0, 6)]):  # in any order
        block = sink.target(runs, buffer)
        block[:] = np.concatenate([values[start : start + count] for start, count in runs])
        sink.write(runs, block)
    sink.commit()
    source.close()
    expected = io.BytesIO()
    np.save(expected, x.astype(x.dtype.newbyteorder("=")))
    assert (tmp_path / "y.npy").read_bytes() == expected.getvalue()


def test_a_failed_write_is_an_output_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.save(tmp_path / "x.npy", np.zeros(10))
    source = open_source(str(tmp_path / "x.npy"))
    sink = open_sink(str(tmp_path / "y.npy"), source, source.dtype, force=False, attributes={})

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(OutputError, match=r"y\.npy: cannot write the output: no space left on device \(\d+"):
        sink.write([(0, 10)], np.zeros(10))
    sink.discard()
    source.close()
    assert os.listdir(tmp_path) == ["x.npy"]


def test_names(tmp_path: Path) -> None:
    path = str(tmp_path / "odd::name.npy")
    np.save(path, np.zeros(3))
    assert expand(path) == [path]
    assert choose(path, lambda shape: False) == [path]
    assert default_output(path) == str(tmp_path / "odd::name.gn.npy")
    assert default_output("a/f.h5::/conv1") == "a/f.gn.h5"
    np.save(tmp_path / "dump.npy", np.zeros(3))
    with h5py.File(tmp_path / "f.v2", "w") as file:
        file["x"] = np.zeros(3)
    for name in ("dump", "x.bin", "dump.1"):  # the format is known from the content
        (tmp_path / name).write_bytes((tmp_path / "dump.npy").read_bytes())
        assert default_output(f"{tmp_path}/{name}") == f"{tmp_path}/{name}.gn.npy"
    assert default_output(f"{tmp_path}/f.v2::/x") == f"{tmp_path}/f.v2.gn.h5"
    assert default_output("nothing") == "nothing.gn"
    source = open_source(path)
    with pytest.raises(UsageError, match="an \\.npy holds one tensor; drop '::/a'"):
        open_sink(str(tmp_path / "y.npy::a"), source, source.dtype, force=False, attributes={})
    sink = open_sink(str(tmp_path / "no suffix"), source, source.dtype, force=False, attributes={})
    sink.write([(0, 3)], np.ones(3))
    sink.commit()
    source.close()
    np.testing.assert_array_equal(np.load(tmp_path / "no suffix"), np.ones(3))
