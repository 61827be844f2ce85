"""`gn diff` of datasets that are no real numbers, of several arrays on a pipe, and of files that change."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from arrays import normal
from conftest import Gn, Shell

from gncli.compare import Comparison, opened
from gncli.errors import FormatError
from gncli.identify import Question, identify_files

X = normal(2, 4, 3)


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def write(name: str, **datasets: Any) -> None:
    """A file of datasets; what can be called makes its own."""
    with h5py.File(name, "w") as file:
        for path, values in datasets.items():
            if callable(values):
                values(file, path)
            else:
                file[path] = values


def diff(gn: Gn, *words: object, code: int) -> list[dict[str, Any]]:
    done = gn("diff", *words, "--format", "json", code=code)
    return [json.loads(line) for line in done.stdout.splitlines()]


def of_type(dtype: Any, values: Any) -> Callable[[h5py.File, str], None]:
    def make(file: h5py.File, path: str) -> None:
        file.create_dataset(path, np.shape(values)[:1], dtype=dtype)[...] = values

    return make


def bitfield(*values: int) -> Callable[[h5py.File, str], None]:
    def make(file: h5py.File, path: str) -> None:
        space = h5py.h5s.create_simple((len(values),))
        made = h5py.h5d.create(file.id, path.encode(), h5py.h5t.STD_B8LE, space)
        made.write(h5py.h5s.ALL, h5py.h5s.ALL, np.array(values, "u1"), h5py.h5t.STD_B8LE)

    return make


def lists(*values: list[float]) -> Callable[[h5py.File, str], None]:
    def make(file: h5py.File, path: str) -> None:
        made = file.create_dataset(path, (len(values),), dtype=h5py.vlen_dtype("f4"))
        for i, value in enumerate(values):
            made[i] = value

    return make


def reference(to: str) -> Callable[[h5py.File, str], None]:
    def make(file: h5py.File, path: str) -> None:
        file.create_dataset(path, (2,), dtype=h5py.ref_dtype)[0] = file[to].ref

    return make


COMPOUND = np.dtype([("time", "f8"), ("name", "S4"), ("box", "i2", (2,))])
ROWS = np.array([(1.5, b"one", (1, 2)), (np.nan, b"two", (3, 4)), (2.5, b"", (5, 6))], COMPOUND)
OTHER_ROWS = ROWS.copy()
OTHER_ROWS["box"][2, 1] = 7
MIXED = np.dtype([("name", h5py.string_dtype()), ("x", "f4")])
COLOURS = h5py.enum_dtype({"RED": 0, "GREEN": 1}, basetype="i1")
NAT = np.array(["2020-01-01", "NaT"], "M8[s]")

# What differs in one element of several, and which that is.
DIFFERENT: dict[str, tuple[Any, Any, list[int]]] = {
    "fixed strings": (np.array([b"a", b"b"]), np.array([b"a", b"bc"]), [1]),
    "strings of any length": (["a", "b", "ü"], ["a", "b", "u"], [2]),
    "fixed and any length": (np.array([b"a", b"b"]), ["a", "c"], [1]),
    "one string": (np.bytes_("run0"), np.bytes_("run1"), []),
    "compound": (ROWS, OTHER_ROWS, [2]),
    "compound with strings": (
        of_type(MIXED, np.array([("a", 1), ("b", 2)], MIXED)),
        of_type(MIXED, np.array([("a", 1), ("c", 2)], MIXED)),
        [1],
    ),
    "enumeration": (of_type(COLOURS, [0, 1, 1]), of_type(COLOURS, [0, 1, 0]), [2]),
    "opaque": (np.array([b"ab", b"cd"], "V2"), np.array([b"ab", b"ce"], "V2"), [1]),
    "time": (NAT.astype(h5py.opaque_dtype(NAT.dtype)), NAT[[0, 0]].astype(h5py.opaque_dtype(NAT.dtype)), [1]),
    "bitfield": (bitfield(1, 2, 3), bitfield(1, 2, 7), [2]),
    "lists": (lists([1, 2], [3]), lists([1, 2], [3, 4]), [1]),
    "arrays": (
        of_type(np.dtype(("f4", (3,))), np.zeros((2, 3), "f4")),
        of_type(np.dtype(("f4", (3,))), np.array([[0, 0, 0], [0, 0, 1]], "f4")),
        [1],
    ),
    "longdouble": (np.array([1, 2], np.longdouble), np.array([1, 3], np.longdouble), [1]),
    "reference": (reference("x"), reference("y"), [0]),
}  # fmt: skip


@pytest.mark.parametrize("name", DIFFERENT)
def test_values_that_are_no_numbers_are_compared_for_equality(gn: Gn, name: str) -> None:
    first, second, index = DIFFERENT[name]
    write("a.h5", x=X, y=X, v=first)
    write("b.h5", x=X, y=X, v=second)
    records = diff(gn, "a.h5", "b.h5", code=1)
    assert [(record["a"], record["equal"]) for record in records] == [
        ("a.h5::/v", False), ("a.h5::/x", True), ("a.h5::/y", True),
    ]  # fmt: skip
    found = records[0]
    assert (found["compared"], found["verdict"]) == ("for equality", "different")
    assert (found["differing"], found["worst_index"]) == (1, index)
    assert found["max_abs"] is None
    assert found["worst_a"] != found["worst_b"]
    assert diff(gn, "a.h5::/v", "b.h5::/v", code=1)[0] == found
    same = diff(gn, "a.h5", "a.h5", code=0)
    assert [record["verdict"] for record in same] == ["equal"] * 3
    gn("diff", "a.h5::/v", "b.h5::/v", code=1)  # as a table, too


def test_bool_is_0_and_1(gn: Gn) -> None:
    rng = np.random.default_rng(0)
    a, b = rng.random((2, 40, 50)) > 0.5
    np.save("a.npy", a)
    np.save("b.npy", b)
    for options in ({}, {"chunks": (7, 9), "compression": "gzip"}):
        write("a.h5", v=lambda file, path, o=options: file.create_dataset(path, data=a, **o))
        write("b.h5", v=lambda file, path, o=options: file.create_dataset(path, data=b, **o))
        for pair in (("a.h5", "b.h5"), ("a.npy", "b.npy"), ("a.npy", "b.h5::/v")):
            [record] = diff(gn, *pair, code=1)
            assert (record["dtype_a"], record["max_abs"], record["max_ulp"]) == ("bool", 1, 1)
            assert record["differing"] == np.count_nonzero(a != b)
            assert record["mean_abs"] == np.mean(a != b)
            assert record["differing_where_b_is_0"] == np.count_nonzero(a & ~b)
            assert record["worst_index"] == list(np.argwhere(a != b)[0])
        gn("diff", "a.h5", "a.h5", "-g", "2", "--layout", "NC", code=0)
    [record] = diff(gn, "a.npy", "b.npy", "--atol", 1, code=0)
    assert record["verdict"] == "equal within the tolerance"


@pytest.mark.parametrize("dtype", ["c8", "c16", ">c8"])
def test_complex_by_absolute_difference(gn: Gn, dtype: str) -> None:
    rng = np.random.default_rng(0)
    a = (rng.standard_normal((30, 40)) + 1j * rng.standard_normal((30, 40))).astype(dtype)
    b = a.copy()
    b[3, 4] += 3 + 4j
    b[5, 6] = 0
    off = np.abs(a.astype("c16") - b.astype("c16"))
    np.save("a.npy", a)
    np.save("b.npy", b)
    write("a.h5", v=lambda file, path: file.create_dataset(path, data=a, chunks=(7, 9), compression="gzip"))
    write("b.h5", v=b)
    for pair in (("a.h5", "b.h5"), ("a.npy", "b.npy"), ("a.h5::/v", "b.npy")):
        [record] = diff(gn, *pair, code=1)
        assert (record["differing"], record["max_abs"]) == (2, off.max())
        assert (record["differing_where_b_is_0"], record["max_rel"]) == (1, None)
        assert record["max_rel_elsewhere"] == off[3, 4] / np.abs(b[3, 4].astype("c16"))
        assert record["worst_index"] == [3, 4]
        assert record["worst_a"] == [a[3, 4].real, a[3, 4].imag]
        diff(gn, *pair, "--atol", repr(record["passing_atol"]), code=0)
        diff(gn, *pair, "--max-ulp", record["passing_max_ulp"], code=0)
    assert "(3, 4): " in gn("diff", "a.h5", "b.h5", "-g", 4, "--layout", "NC", code=1).stdout


def test_complex_nan_and_order_of_axes(gn: Gn) -> None:
    a = np.array([[1, complex(np.nan, 2)], [3j, np.inf], [5, 6]])
    np.save("a.npy", a)
    np.save("t.npy", a.T.copy())
    np.save("f.npy", np.asfortranarray(a))
    diff(gn, "a.npy", "f.npy", code=0)
    assert diff(gn, "a.npy", "f.npy", "--nan-differ", code=1)[0]["nonfinite_differing"] == 1
    assert "transposed: " in diff(gn, "a.npy", "t.npy", code=1)[0]["verdict"]


def test_types_that_differ_are_different(gn: Gn) -> None:
    values: dict[str, Any] = {
        "number": np.arange(3.0),
        "string": ["a", "b", "c"],
        "compound": ROWS,
        "other": ROWS[["time", "name"]],
        "enum": of_type(COLOURS, [0, 1, 1]),
        "bits": bitfield(1, 2, 3),
    }
    for first in values:
        for second in values:
            write("a.h5", v=values[first])
            write("b.h5", v=values[second])
            [record] = diff(gn, "a.h5::/v", "b.h5::/v", code=int(first != second))
            assert record["verdict"].startswith("equal" if first == second else "the types differ")


def test_shapes_of_values(gn: Gn) -> None:
    for name, values in (("a", ["a", "b"]), ("b", ["a", "b", "c"])):
        write(f"{name}.h5", v=values, e=h5py.Empty("f4"), z=np.zeros((0, 3), "S2"))
    assert [record["verdict"] for record in diff(gn, "a.h5", "b.h5", code=1)] == [
        "equal", "the shapes differ", "equal",
    ]  # fmt: skip
    write("c.h5", e=np.zeros(3, "f4"))
    assert diff(gn, "a.h5::/e", "c.h5::/e", code=1)[0]["equal"] is False


def test_nan_in_a_compound(gn: Gn) -> None:
    write("a.h5", v=ROWS)
    diff(gn, "a.h5", "a.h5", code=0)
    assert diff(gn, "a.h5", "a.h5", "--nan-differ", code=1)[0]["differing"] == 1


def test_chunks_of_values_that_do_not_agree(gn: Gn) -> None:
    """More elements than are read at once, in chunks of two shapes."""
    a = np.char.add("v", np.arange(200 * 300).astype(str)).astype("S8").reshape(200, 300)
    b = a.copy()
    b[17, 250] = b"other"
    b[180, 3] = b"other"
    write("a.h5", v=lambda file, path: file.create_dataset(path, data=a, chunks=(70, 90), compression="gzip"))
    write("b.h5", v=lambda file, path: file.create_dataset(path, data=b, chunks=(33, 300)))
    [record] = diff(gn, "a.h5", "b.h5", code=1)
    assert (record["count"], record["differing"], record["worst_index"]) == (60_000, 2, [17, 250])
    assert (record["worst_a"], record["worst_b"]) == ("'v5350'", "'other'")


def region(file: h5py.File, path: str) -> None:
    file.create_dataset(path, (1,), dtype=h5py.regionref_dtype)[0] = file["x"].regionref[:1]


def test_what_cannot_be_compared_is_named(gn: Gn) -> None:
    write("a.h5", x=X, r=region)
    write("b.h5", x=X, r=region)
    found = {record["a"]: record for record in diff(gn, "a.h5", "b.h5", code=1)}
    assert found["a.h5::/x"]["equal"] is True
    assert (found["a.h5::/r"]["equal"], found["a.h5::/r"]["compared"]) == (False, None)
    assert found["a.h5::/r"]["verdict"] == "not compared: it holds references to regions"
    lines = gn("diff", "a.h5", "b.h5", code=1).stdout.splitlines()
    assert lines[-1] == "1 of 2 not compared, the others are equal"
    write("c.h5", x=X + 1, r=region)
    lines = gn("diff", "a.h5", "c.h5", code=1).stdout.splitlines()
    assert lines[-1] == "1 of 2 not compared, 1 different"


def test_what_cannot_be_read_is_named_and_is_trouble(gn: Gn) -> None:
    for name in "ab":
        write(f"{name}.h5", x=X)
        with h5py.File(f"{name}.h5", "r+") as file:
            file["far"] = h5py.ExternalLink("other.h5", "/x")
    write("other.h5", x=X)
    done = gn("diff", "a.h5", "b.h5", code=2)
    assert done.stderr.startswith("gn: error: ")
    assert "--allow-external permits it" in done.stderr
    assert done.stdout.splitlines()[-1] == "1 of 2 not compared, the others are equal"
    gn("diff", "a.h5", "b.h5", "--allow-external", code=0)


def test_one_side_only(gn: Gn) -> None:
    """Of any type; another path to what is on both sides is no dataset of its own."""
    write("a.h5", x=X, mask=X > 0)
    write("b.h5", x=X, note=["run 1"])
    with h5py.File("a.h5", "r+") as file:
        file["alias"] = h5py.SoftLink("/x")
    records = diff(gn, "a.h5", "b.h5", code=1)
    assert [(record["a"], record["b"], record["verdict"]) for record in records] == [
        ("a.h5::/mask", None, "only in a"),
        (None, "b.h5::/note", "only in b"),
        ("a.h5::/x", "b.h5::/x", "equal"),
    ]
    write("c.h5")
    assert [record["verdict"] for record in diff(gn, "c.h5", "b.h5", code=1)] == ["only in b"] * 2
    gn("diff", "c.h5", "c.h5", code=2)


def test_no_picture_of_what_is_no_number(gn: Gn) -> None:
    write("a.h5", v=["a", "b"])
    done = gn("diff", "a.h5", "a.h5", "--plot", "p.svg", code=0)
    assert done.stderr == "gn: warning: p.svg: not drawn, for one side holds no numbers\n"
    assert not Path("p.svg").exists()


# Pipes


def arrays(*values: Any) -> None:
    for i, value in enumerate(values):
        np.save(f"{i}.npy", value)


def test_arrays_of_pipes_are_compared_pairwise(shell: Shell) -> None:
    arrays(X, X + 1, X[0])
    assert shell("$gn diff <(cat 0.npy 1.npy 2.npy) <(cat 0.npy 1.npy 2.npy)").returncode == 0
    done = shell("$gn diff <(cat 0.npy 1.npy 2.npy) <(cat 0.npy 0.npy 2.npy) --format json", code=1)
    records = list(map(json.loads, done.stdout.splitlines()))
    assert [(record["array"], record["equal"]) for record in records] == [(0, True), (1, False), (2, True)]
    assert [record["shape_a"] for record in records] == [[2, 4, 3], [2, 4, 3], [4, 3]]
    lines = shell("cat 0.npy 1.npy | $gn diff - <(cat 0.npy 1.npy)").stdout.splitlines()
    assert lines[1].startswith("-           /dev/fd/")
    assert lines[2].startswith("-, array 1  /dev/fd/")


@pytest.mark.parametrize("side", ["a", "b"])
def test_another_number_of_arrays_is_a_difference(shell: Shell, side: str) -> None:
    arrays(X, X + 1)
    words = "- 0.npy" if side == "a" else "0.npy -"
    done = shell(f"cat 0.npy 1.npy 1.npy | $gn diff {words} --format json", code=1)
    records = list(map(json.loads, done.stdout.splitlines()))
    assert [record["verdict"] for record in records] == ["equal", f"only in {side}", f"only in {side}"]
    assert [(record[side], record["array"]) for record in records] == [("-", 0), ("-", 1), ("-", 2)]
    assert records[1][f"shape_{side}"] == [2, 4, 3]


@pytest.mark.parametrize(
    ("tail", "message"),
    [
        ("printf x", "has bytes after array 1 that are no array"),
        ("printf '\\n'", "has bytes after array 1 that are no array"),
        ("head -c 100 0.npy", "is cut off in its header"),
        ("head -c 150 0.npy", "is truncated"),
        ("cat a.h5", "has an HDF5 file after array 1"),
    ],
)
def test_trailing_bytes_are_trouble(shell: Shell, tail: str, message: str) -> None:
    arrays(X)
    write("a.h5", x=X)
    for other in ("0.npy", "<(cat 0.npy)", "<(cat 0.npy 0.npy)"):
        done = shell(f"(cat 0.npy; {tail}) | $gn diff - {other}", code=2)
        assert done.stderr.startswith("gn: error: -: ")
        assert message in done.stderr
        assert done.stderr.count("\n") == 1
    assert message in shell(f"(cat 0.npy; {tail}) | $gn diff 0.npy -", code=2).stderr


def test_a_pipe_can_be_read_once(shell: Shell) -> None:
    arrays(X, X)
    assert "named twice" in shell("cat 0.npy 1.npy | $gn diff - -", code=2).stderr
    done = shell("cat 0.npy 1.npy | $gn identify 0.npy -", code=2)
    assert done.stderr == "gn: error: -: holds more than one array; gn identify takes one of each\n"


def test_datasets_of_a_file_on_a_pipe(shell: Shell) -> None:
    write("a.h5", x=X, mask=X > 0)
    write("b.h5", x=X, mask=X > 1)
    done = shell("cat a.h5 | $gn diff - b.h5 --format json", code=1)
    assert [json.loads(line)["equal"] for line in done.stdout.splitlines()] == [False, True]


# Files that change


def in_place(path: Path) -> None:
    """Write other values, and set the time of change back."""
    held = path.stat()
    with path.open("r+b") as file:
        file.seek(-4, os.SEEK_END)
        file.write(b"\x00\x00\x80\x3f")
    os.utime(path, ns=(held.st_atime_ns, held.st_mtime_ns))


def replaced(path: Path) -> None:
    path.with_name("new").write_bytes(path.read_bytes())
    os.replace(path.with_name("new"), path)


CHANGED = "was changed or replaced while it was read; try again"


@pytest.mark.parametrize("change", [in_place, replaced])
@pytest.mark.parametrize("which", ["a.npy", "b.npy"])
def test_diff_notices_a_change(change: Callable[[Path], None], which: str) -> None:
    for name in ("a.npy", "b.npy"):
        np.save(name, X)
    with (
        pytest.raises(FormatError, match=CHANGED) as caught,
        opened("a.npy", "b.npy", Comparison()) as pair,
    ):
        pair.record()
        change(Path(which))
    assert caught.value.address == which


@pytest.mark.parametrize("which", ["x.npy", "y.npy", "gamma.npy"])
def test_identify_notices_a_change(monkeypatch: pytest.MonkeyPatch, which: str) -> None:
    for name, array in (("x.npy", X), ("y.npy", X), ("gamma.npy", np.ones(4, "f4"))):
        np.save(name, array)
    question = Question(gamma="gamma.npy", beta=0.0)
    identify_files("x.npy", "y.npy", question)

    def search(*given: Any) -> Any:
        in_place(Path(which))
        return found(*given)

    import gncli.identify

    found = gncli.identify._search
    monkeypatch.setattr(gncli.identify, "_search", search)
    with pytest.raises(FormatError, match=CHANGED) as caught:
        identify_files("x.npy", "y.npy", question)
    assert caught.value.address == which


def test_an_hdf5_file_that_is_written_in_place() -> None:
    write("a.h5", x=X, y=X)
    with (
        pytest.raises(FormatError, match=r"changed while it was read|was changed or replaced"),
        opened("a.h5::/x", "a.h5::/y", Comparison()) as pair,
    ):
        in_place(Path("a.h5"))
        pair.record()


@pytest.mark.parametrize("dtype", ["f2", "f4", ">f4", "f8", "i1", "u2", "i8", "u8", "c8", "c16"])
@pytest.mark.parametrize("limits", [{}, {"rtol": 0.01}, {"atol": 0.5}, {"max_ulp": 3}])
def test_equal_pairs_only_count(dtype: str, limits: dict[str, Any]) -> None:
    """They change no measure of the others, however many there are."""
    from gncli.difference import Tolerance, differences

    random = np.random.default_rng(0)
    a = random.integers(0, 100, 400).astype(dtype)
    b = a.copy()
    b[::2] += random.integers(1, 20, 200).astype(dtype)
    b[:10:2] = 0
    common = random.integers(0, 1000 if a.itemsize > 1 else 100, 4000).astype(dtype)
    mixed = np.append(a, common), np.append(b, common)
    alone, among = (differences(x, y, 0, Tolerance(**limits)) for x, y in ((a[::2], b[::2]), mixed))
    assert among.count == among.finite == 4400
    assert among.sizes.counts.sum() == 4400
    assert (among.sizes.counts[1:] == alone.sizes.counts[1:]).all()
    assert among.worst == 2 * alone.worst
    names = {"count", "finite", "sizes", "worst", "largest_a", "largest_b"}
    for name, value in vars(alone).items():
        assert name in names or getattr(among, name) == value, name
    assert among.largest_a == np.abs(mixed[0].astype("c16")).max()
    assert among.largest_b == np.abs(mixed[1].astype("c16")).max()


def test_numbers_that_numpy_compares_as_float64() -> None:
    from gncli.difference import Tolerance, differences

    a = np.array([2**64 - 1, 2**63 + 1025, 5], np.uint64)
    found = differences(a, a.astype(np.float64), 0, Tolerance())
    assert (found.differing, found.max_abs, found.worst) == (2, 1023.0, 1)
