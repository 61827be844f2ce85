"""Tensors on pipes: the same bytes as from files, in a bounded amount of memory, and nothing left hanging."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pty
import stat
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from arrays import Array, normal, rng
from click.testing import CliRunner
from conftest import Gn, Shell
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import ulp_distance

from gncli import group_norm
from gncli.cli import gn as group
from gncli.layout import geometry
from gncli.plan import plan
from gncli.tensors.stream import SpooledSink

GN = [sys.executable, "-m", "gncli"]


def saved(*arrays: Array) -> bytes:
    """As np.save in a loop writes them."""
    stream = io.BytesIO()
    for array in arrays:
        np.save(stream, array)
    return stream.getvalue()


def loaded(content: bytes) -> list[Array]:
    stream = io.BytesIO(content)
    arrays = []
    while stream.tell() < len(content):
        arrays.append(np.load(stream))
    return arrays


def reference(x: Array, groups: int) -> Array:
    """NCHW, contiguous, in extended precision."""
    view = x.astype(np.longdouble).reshape(x.shape[0], groups, -1)
    centred = view - view.mean(-1, keepdims=True)
    result: Array = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5)
    return result.reshape(x.shape).astype(x.dtype)


def piped(
    words: str, content: bytes, folder: Path, code: int = 0, **environment: str
) -> subprocess.CompletedProcess[bytes]:
    """`gn words` with `content` on a real pipe, its standard output another."""
    done = subprocess.run(
        [*GN, *words.split()], input=content, capture_output=True, cwd=folder, timeout=60, check=False,
        env={**os.environ, **environment},
    )  # fmt: skip
    assert done.returncode == code, (done.returncode, done.stderr)
    return done


# The same bytes


@pytest.mark.parametrize(
    ("words", "order", "dtype"),
    [
        pytest.param("-g 4", "C", "<f4", id="one pass"),
        pytest.param("-g 4", "C", ">f4", id="another byte order"),
        pytest.param("-g 4 --dtype float64", "C", "<f2", id="a wider output"),
        pytest.param("-g 4", "C", "|u1", id="integers"),
        pytest.param("-g 4", "F", "<f4", id="Fortran order"),
        pytest.param("-g 1 --memory 1M", "C", "<f4", id="groups that exceed the budget"),
        pytest.param("-g 4 --layout NHWC --memory 1M", "C", "<f4", id="channels last, two passes"),
        pytest.param("-g 4 --layout HWCN", "C", "<f4", id="samples last"),
        pytest.param("-g 4 --grouping interleaved", "C", "<f4", id="interleaved"),
    ],
)
def test_the_same_bytes_from_a_file_and_from_a_pipe(
    tmp_path: Path, words: str, order: str, dtype: str
) -> None:
    x = np.asarray(rng().normal(100, 20, (4, 96, 64, 96)).astype(dtype), order=order)  # type: ignore[call-overload]
    np.save(tmp_path / "x.npy", x)
    piped(f"normalize x.npy -q -o y.npy {words}", b"", tmp_path)
    expected = (tmp_path / "y.npy").read_bytes()
    content = (tmp_path / "x.npy").read_bytes()
    assert piped(f"normalize - -q {words}", content, tmp_path).stdout == expected
    assert piped(f"normalize x.npy -q -o - {words}", b"", tmp_path).stdout == expected
    piped(f"normalize - -q -o z.npy {words}", content, tmp_path)
    assert (tmp_path / "z.npy").read_bytes() == expected


@pytest.mark.parametrize("words", ["", "--by sample", "--by group -g 4 --by sample", "--by channel"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_the_same_statistics(tmp_path: Path, words: str, order: str) -> None:
    x = np.asarray(normal(3, 8, 50, 40), order=order)  # type: ignore[call-overload]
    np.save(tmp_path / "x.npy", x)
    from_file = piped(f"stats x.npy --format json {words}", b"", tmp_path).stdout
    from_pipe = piped(f"stats - --format json {words}", saved(x), tmp_path).stdout
    assert from_pipe == from_file.replace(b'"x.npy"', b'"-"')
    record = json.loads(from_pipe.splitlines()[0])
    if not words:
        assert record["mean"] == pytest.approx(x.mean(dtype="f8"), rel=1e-12)


@pytest.mark.parametrize("shape", [(2, 0, 3), (0, 4), (2, 4)])
def test_empty_and_small_tensors(tmp_path: Path, shape: tuple[int, ...]) -> None:
    x = np.ones(shape, "f4")
    assert piped("normalize - -q -g 1", saved(x), tmp_path).stdout == saved(np.zeros_like(x))


@settings(deadline=None, max_examples=300)
@given(
    shape=st.lists(st.integers(1, 14), min_size=2, max_size=4),
    letters=st.permutations("NCHW"),
    interleaved=st.booleans(),
    fortran=st.booleans(),
    keep=st.sampled_from(["NG", "N", "G", ""]),
    tile=st.sampled_from([64, 128, 512]),
    budget=st.integers(1, 30),
)
def test_blocks_are_in_storage_order_when_the_plan_says_so(
    shape: list[int], letters: list[str], interleaved: bool, fortran: bool, keep: str, tile: int, budget: int
) -> None:
    word = "".join(sorted(letters, key="CNHW".index)[: len(shape)])
    word = "".join(letter for letter in letters if letter in word)
    channels = shape[word.index("C")]
    groups = next(g for g in (4, 3, 2, 1) if channels % g == 0)
    view = geometry(shape, word, groups, interleaved=interleaved, fortran=fortran, keep=keep)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gncli.plan.TILE", tile * 4)
        cut = plan(view, 4, 4, budget * tile * 4, 2)
        blocks = [block for window in cut.windows() for block in window.blocks]
        runs = [run for block in blocks for run in cut.runs(cut.box(block))]
        ends = [0, *(start + count for start, count in runs)]
        assert cut.in_order == all(start == end for (start, _), end in zip(runs, ends, strict=False))
        assert cut.one_pass == all(len(window.blocks) == 1 for window in cut.windows())


def test_within_a_process_that_has_its_own_streams() -> None:
    """As click's test runner: standard input and output are what Python says that they are."""
    x = normal(2, 4, 3)
    runner = CliRunner()
    for _ in range(2):  # the second does not find the first one's stream
        done = runner.invoke(group, ["normalize", "-", "-g", "4", "-q"], input=saved(x, x))
        assert (done.exit_code, done.stderr) == (0, "")
        assert [ulp_distance(y, reference(x, 4)).max() <= 1 for y in loaded(done.stdout_bytes)] == [True] * 2
    done = runner.invoke(group, ["stats", "--from-file", "-"], input="none.npy")
    assert done.stderr.startswith("gn: error: none.npy: no such file")


# Several tensors


def test_arrays_back_to_back(tmp_path: Path) -> None:
    arrays = [normal(2, 8, 5, 4, mean=1), normal(1, 4, 7, dtype="f8"), normal(3, 4, 2, 2, 2, std=3)]
    done = piped("normalize - -g 4 --format json", saved(*arrays), tmp_path)
    for x, y in zip(arrays, loaded(done.stdout), strict=True):
        assert (x.shape, x.dtype) == (y.shape, y.dtype)
        assert ulp_distance(y, reference(x, 4)).max() <= 1
    records = [json.loads(line) for line in done.stderr.splitlines()]
    assert [record["shape"] for record in records] == [list(x.shape) for x in arrays]
    assert {(record["input"], record["output"]) for record in records} == {("-", "-")}
    assert done.stdout == b"".join(piped("normalize - -q -g 4", saved(x), tmp_path).stdout for x in arrays)


def test_a_line_of_statistics_for_each(tmp_path: Path) -> None:
    arrays = [np.full((2, 3), k, "f4") for k in range(4)]
    done = piped("stats - --format json", saved(*arrays), tmp_path)
    assert [json.loads(line)["mean"] for line in done.stdout.splitlines()] == [0, 1, 2, 3]


def test_the_header_of_each(tmp_path: Path) -> None:
    arrays = [np.zeros((2, 4, 3), "f4"), np.zeros(5), np.zeros((0, 2), "f2")]
    np.save(tmp_path / "a.npy", arrays[0])
    (tmp_path / "list").write_text("a.npy\n")
    done = piped("info - --from-file list --format json", saved(*arrays), tmp_path)
    records = [json.loads(line) for line in done.stdout.splitlines()]
    assert [record["input"] for record in records] == ["-", "-", "-", "a.npy"]
    described = [(x.shape, x.dtype) for x in (*arrays, arrays[0])]
    assert [(tuple(r["shape"]), np.dtype(r["dtype"])) for r in records] == described


def test_several_files_onto_one_pipe(tmp_path: Path) -> None:
    arrays = [normal(1, 4, 3), normal(2, 4, 6)]
    for name, x in zip("ab", arrays, strict=True):
        np.save(tmp_path / f"{name}.npy", x)
    done = piped("normalize a.npy b.npy -q -g 2 -o -", b"", tmp_path)
    assert [y.shape for y in loaded(done.stdout)] == [x.shape for x in arrays]


def test_nothing_follows_a_tensor_that_broke_off(tmp_path: Path) -> None:
    """It would be taken for the rest of it. What fails before its first byte is left out, and no more."""
    x = normal(8, 64, 3000)
    for name, spoiled in (("a", None), ("b", 0), ("c", None), ("d", -1), ("e", None)):
        y = x.copy()
        if spoiled is not None:
            y[spoiled, 0, 0] = np.nan
        np.save(tmp_path / f"{name}.npy", y)
    words = "normalize a.npy b.npy c.npy d.npy e.npy -q -o - --nan fail -j 1 --memory 1M"
    done = piped(words, b"", tmp_path, code=1)
    assert [line.split(b":")[2] for line in done.stderr.splitlines()] == [
        b" b.npy",
        b" d.npy",
        b" standard output",
    ]
    whole = piped("normalize a.npy -q -o -", b"", tmp_path).stdout
    assert done.stdout.startswith(2 * whole)
    assert 2 * len(whole) < len(done.stdout) < 3 * len(whole)


def test_several_tensors_do_not_go_into_one_file(tmp_path: Path) -> None:
    content = saved(normal(2, 4, 3), normal(2, 4, 3))
    done = piped("normalize - -g 4 -o y.npy", content, tmp_path, code=1)
    assert done.stderr == b"gn: error: -: holds several tensors; write them back to back, with -o -\n"
    assert os.listdir(tmp_path) == []


def test_a_dry_run_writes_no_tensor(tmp_path: Path) -> None:
    done = piped("normalize - -g 4 -n --format tsv", saved(normal(2, 4, 3), normal(2, 4, 3)), tmp_path)
    assert (len(done.stdout.splitlines()), done.stderr) == (3, b"")


# HDF5


def test_hdf5_goes_by_a_temporary_file(tmp_path: Path) -> None:
    spool = tmp_path / "spool"
    spool.mkdir()
    x = normal(2, 8, 5, 5)
    with h5py.File(tmp_path / "f.h5", "w") as file:
        file["conv"], file["gamma"] = x, np.full(8, 2.0)
    content = (tmp_path / "f.h5").read_bytes()
    done = piped("stats - --format json", content, tmp_path, TMPDIR=str(spool))
    assert [json.loads(line)["input"] for line in done.stdout.splitlines()] == ["-::/conv", "-::/gamma"]
    done = piped("normalize - -q -g 4 -o y.npy", content, tmp_path, TMPDIR=str(spool))
    assert ulp_distance(np.load(tmp_path / "y.npy"), reference(x, 4)).max() <= 1
    done = piped("normalize /dev/stdin::/conv -q -g 4", content, tmp_path, TMPDIR=str(spool))
    assert done.stdout == (tmp_path / "y.npy").read_bytes()
    done = piped("normalize - --layout NH -g 4", content, tmp_path, code=2, TMPDIR=str(spool))
    done = piped("normalize - --layout NCHWD -g 4", content, tmp_path, code=1, TMPDIR=str(spool))
    assert b"'-::/conv' (2, 8, 5, 5)" in done.stderr
    assert os.listdir(spool) == []


def pair_of_datasets(folder: Path) -> bytes:
    """A file of /a and /b, of one gamma, and of /z, whose second chunk is damaged."""
    with h5py.File(folder / "f.h5", "w") as file:
        file["a"], file["b"], file["gamma"] = normal(2, 4, 3), normal(3, 4, 5), np.full(4, 2.0)
        z = file.create_dataset("z", data=normal(2, 4, 64, 64), chunks=(1, 4, 64, 64), compression="gzip")
        chunk = z.id.get_chunk_info(1)
    content = bytearray((folder / "f.h5").read_bytes())
    content[chunk.byte_offset : chunk.byte_offset + 9] = b"\xff" * 9
    return bytes(content)


@pytest.mark.parametrize("before", ["", "-- "])
def test_a_dataset_on_standard_input(before: str, tmp_path: Path) -> None:
    content = pair_of_datasets(tmp_path)
    for command in ("stats", "info"):
        done = piped(f"{command} --format json {before}-::/a -::/b", content, tmp_path)
        assert [json.loads(line)["input"] for line in done.stdout.splitlines()] == ["-::/a", "-::/b"]
        done = piped(f"{command} --format tsv {before}-::/?", content, tmp_path, code=command == "stats")
        assert b"-::/a" in done.stdout
    expected = group_norm(normal(2, 4, 3), groups=2, gamma=2.0)
    done = piped(f"normalize -g 2 --gamma -::/gamma {before}-::/a", content, tmp_path)
    np.testing.assert_array_equal(loaded(done.stdout)[0], expected)
    assert b"\nwrote -\n" in done.stderr
    piped(f"normalize -g 2 -q -o out.h5 {before}-::/a -::/b", content, tmp_path)
    with h5py.File(tmp_path / "out.h5") as file:
        np.testing.assert_array_equal(file["b"], group_norm(normal(3, 4, 5), groups=2))
    done = piped(f"diff {before}-::/a f.h5::/a", content, tmp_path)
    assert b"-::/a: float32" in done.stdout
    done = piped(f"identify {before}-::/a -::/a", content, tmp_path, code=1)
    assert b"-::/a -> -::/a" in done.stdout


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (
            "stats -::/q",
            1,
            "gn: error: -: no dataset '/q'; it holds '-::/a', '-::/b', '-::/gamma', '-::/z'\n",
        ),
        ("stats -::/z", 1, "gn: error: -::/z: cannot be read: "),
        ("normalize -::/z -g 2 -o y.npy", 1, "gn: error: -::/z: cannot be read: "),
        ("normalize - -g 2", 1, "gn: error: -: 3 datasets fit; name one: '-::/a' (2, 4, 3), '-::/b' "),
        ("normalize -::/a -g 3", 1, "gn: error: -::/a: 4 channels do not divide into 3 groups"),
        ("diff -::/z -::/a", 1, ""),  # the shapes differ, and nothing is read
        ("diff -::/z -::/z", 2, "gn: error: -::/z: cannot be read: "),
        ("info -::/q", 1, "gn: error: -: no dataset '/q'"),
        ("stats - -::/a", 2, "standard input (-) can be read once, and is named twice"),
        ("stats -::/a --from-file -", 2, "standard input (-) can be read once, and is named twice"),
        ("stats -g -::/a", 2, "'-::/a' is not a valid integer"),
        ("stats -::/a --hist", 2, "give a file in place of -::/a"),
        ("stats -:/a", 2, "No such option"),
    ],
)
def test_errors_name_standard_input_and_no_temporary_file(
    words: str, code: int, message: str, tmp_path: Path
) -> None:
    spool = tmp_path / "spool"
    spool.mkdir()
    done = piped(words, pair_of_datasets(tmp_path), tmp_path, code=code, TMPDIR=str(spool))
    assert message in done.stderr.decode()
    assert str(spool).encode() not in done.stderr + done.stdout
    assert b"/dev/" not in done.stderr + done.stdout
    assert os.listdir(spool) == []


def test_what_is_no_hdf5_on_standard_input(tmp_path: Path) -> None:
    done = piped("stats -::/a", b"", tmp_path, code=1)
    assert done.stderr == b"gn: error: -: is empty (0 bytes); write it again\n"
    done = piped("stats -::/a", saved(normal(2, 4, 3)), tmp_path, code=1)
    assert done.stderr == b"gn: error: -: is an .npy, which holds one tensor; drop '::/a'\n"
    broken = pair_of_datasets(tmp_path)[:700]
    done = piped("info -", broken, tmp_path, code=1)
    assert done.stderr.startswith(b"gn: error: -: cannot be opened as HDF5: ")


# What is said, and where


def test_the_report_leaves_stdout_to_the_tensor(tmp_path: Path) -> None:
    x = normal(2, 4, 3)
    x[0, 0, 0] = np.nan
    done = piped("normalize - -g 4", saved(x), tmp_path)
    assert [y.shape for y in loaded(done.stdout)] == [x.shape]
    assert b"gn: warning: -: 1 NaN" in done.stderr
    assert b"\nbefore " in done.stderr


TOLD = """
import sys
from gncli.tensors import pipe, stream
from gncli.cli import main

pipe.LARGE = stream.LARGE = 1000
main()
"""


@pytest.mark.parametrize(
    ("words", "x"),
    [
        ("normalize - -q -n -g 4", np.asfortranarray(normal(9, 8, 9000))),
        ("normalize x.npy -q -g 4 -o -", np.asfortranarray(normal(9, 8, 9000))),
        ("stats - -q --by sample --by channel --layout NLC", normal(1, 125, 6000)),
    ],
)
def test_a_large_spool_is_told(tmp_path: Path, words: str, x: Array) -> None:
    """And a small one is not."""
    for array, said in ((x, True), (x[:1, :8, :9], False)):
        np.save(tmp_path / "x.npy", array)
        done = subprocess.run(
            [sys.executable, "-c", TOLD, *words.split(), "--memory", "1M"], cwd=tmp_path, capture_output=True,
            input=(tmp_path / "x.npy").read_bytes(), timeout=60, check=True,
            env={**os.environ, "TMPDIR": str(tmp_path)},
        )  # fmt: skip
        note = f"gn: note: -: more than 0 MB go through a temporary file in {tmp_path}\n" if said else ""
        assert done.stderr.decode() == note
        if done.stdout:
            assert ulp_distance(loaded(done.stdout)[0], reference(array, 4)).max() <= 1


def test_a_spool_is_for_its_owner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a folder that is everybody's."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    sink = SpooledSink((2, 4), np.dtype("f4"), False)
    (name,) = os.listdir(tmp_path)
    assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600
    sink.discard()
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "-: is empty (0 bytes)"),
        (b"hello, world", "-: is neither .npy nor HDF5 (it begins with b'hello, w')"),
        (b"\x1f\x8b\x08\0\0\0\0\0\0\0", "-: is compressed by gzip"),
        (saved(normal(2, 4, 3))[:70], "-: is cut off in its header, at 70 of 128 bytes"),
        (saved(normal(2, 4, 3))[:-1], "-: is truncated: its header declares 96 bytes of data"),
        (saved(np.asfortranarray(normal(4, 4)))[:-9], "declares 64 bytes of data, the stream holds 55"),
        (saved(normal(2, 4, 3)) + b"???", "(it begins with b'???') after array 1, whose header may declare"),
        (saved(np.zeros((2, 4), bool)), "-: has dtype bool"),
    ],
)  # fmt: skip
def test_a_stream_that_is_not_as_it_should_be(tmp_path: Path, content: bytes, message: str) -> None:
    for words in ("stats - --by sample --by channel -q", "normalize - -q -g 4 -o y.npy"):
        done = piped(words, content, tmp_path, code=1)
        if "normalize" in words and content.endswith(b"???"):
            message = "-: holds several tensors"
        assert message in done.stderr.decode()
        assert done.stderr.count(b"\n") == 1
        assert os.listdir(tmp_path) == []


def test_a_terminal_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", normal(2, 4, 3))
    ours, theirs = pty.openpty()
    for words, address in (("normalize x.npy -g 4 -o -", "standard output"), ("stats -", "-")):
        done = subprocess.run(
            [*GN, *words.split()], stdin=theirs, stdout=theirs, stderr=subprocess.PIPE, cwd=tmp_path,
            timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == 1
        assert done.stderr.startswith(f"gn: error: {address}: is a terminal".encode())
    os.close(theirs)
    assert os.read(ours, 100) == b"" if sys.platform == "darwin" else True
    os.close(ours)


def test_standard_streams_that_are_closed(shell: Shell, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", normal(2, 4, 3))
    assert "standard input is closed" in shell("$gn stats - <&-", code=1).stderr
    assert "standard output: is closed" in shell("$gn normalize x.npy -g 4 -o - >&-", code=1).stderr
    shell("$gn normalize x.npy -g 4 <&- >&- 2>&-")
    assert ulp_distance(np.load(tmp_path / "x.gn.npy"), reference(np.load(tmp_path / "x.npy"), 4)).max() <= 1


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="wants /dev/full")
def test_a_full_disk_under_stdout(shell: Shell, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", normal(2, 4, 3))
    done = shell("$gn normalize x.npy -g 4 -q -o - > /dev/full", code=1)
    assert done.stderr == "gn: error: standard output: cannot be written: no space left on device\n"


def test_standard_input_is_read_once(gn: Gn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for words in ("stats - -", "normalize - --gamma -", "stats - --from-file -"):
        assert "is named twice" in gn(*words.split(), code=2).stderr


def test_gamma_from_a_pipe(shell: Shell, tmp_path: Path) -> None:
    x = normal(2, 4, 6)
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "gamma.npy", np.full(4, 2.0))
    shell("$gn normalize x.npy -q -g 2 --gamma <(cat gamma.npy) --beta - < gamma.npy")
    y = np.load(tmp_path / "x.gn.npy")
    assert y == pytest.approx(2 * reference(x, 2) + 2, rel=1e-6)
    np.save(tmp_path / "z.npy", x)
    done = shell("cat gamma.npy | $gn normalize x.npy z.npy -f -g 2 --gamma -", code=2)
    assert "-: is a pipe, which can be read once, and there are 2 inputs" in done.stderr


def test_a_named_pipe(shell: Shell, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.arange(24, dtype="f4").reshape(2, 4, 3))
    shell("mkfifo fifo.npy; cat x.npy > fifo.npy & $gn stats fifo.npy --format json > a; wait")
    shell("$gn stats <(cat x.npy) --format json > b; $gn stats /dev/stdin --format json < x.npy > c")
    assert [json.loads((tmp_path / name).read_text())["mean"] for name in "abc"] == [11.5] * 3


# Nothing is left hanging


def test_a_reader_that_leaves(shell: Shell, tmp_path: Path) -> None:
    """Its writer is told so, and gn with it."""
    np.save(tmp_path / "x.npy", normal(64, 32, 300))
    done = shell("cat x.npy | $gn normalize - -q | head -c 200 | wc -c; echo ${PIPESTATUS[@]}")
    assert done.stdout.split()[:1] == ["200"]
    assert done.stderr == ""
    done = shell("cat x.npy | { $gn normalize - -q; echo $? >&2; } | head -c 200 > /dev/null")
    assert done.stderr == "141\n"


@pytest.mark.parametrize("end", ["reader leaves", "a worker fails"])
def test_it_ends_at_once_though_its_writer_stalls(tmp_path: Path, end: str) -> None:
    """A writer that neither writes nor leaves: gn's read of the pipe would not return."""
    x = normal(64, 64, 3000)
    x[0, 0, 0] = np.nan
    content = memoryview(saved(x))[:-100]
    ours, upstream = os.pipe()
    down, theirs = os.pipe()
    words = ["--memory", "4M", *(["--nan", "fail"] if end == "a worker fails" else [])]
    process = subprocess.Popen(
        [*GN, "normalize", "-", "-q", *words], cwd=tmp_path, stdin=ours, stdout=theirs, stderr=subprocess.PIPE
    )
    os.close(ours)
    os.close(theirs)
    if end == "reader leaves":
        os.close(down)
    with contextlib.suppress(BrokenPipeError):
        while content:
            content = content[os.write(upstream, content) :]
    _, said = process.communicate(timeout=30)
    with pytest.raises(BrokenPipeError):
        os.write(upstream, b"x")
    os.close(upstream)
    if end == "reader leaves":
        assert (process.returncode, said) == (141, b"")
    else:
        os.close(down)
        assert (process.returncode, said.count(b"\n")) == (1, 1)
        assert said.startswith(b"gn: error: -: holds NaN or infinity")


# Memory


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss in kilobytes")
@pytest.mark.parametrize("words", ["stats -", "normalize - -q -g 4"])
def test_bounded_memory(tmp_path: Path, words: str) -> None:
    """500 MB of zeros, that never are in one place."""
    shape = (625, 8, 25_000)
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": shape})
    launcher = (
        "import os, sys; pid = os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ)\n"
        "_, status, usage = os.wait4(pid, 0); print(usage.ru_maxrss, file=sys.stderr)\n"
        "sys.exit(os.waitstatus_to_exitcode(status))"
    )
    with subprocess.Popen(
        [sys.executable, "-SEc", launcher, *GN, *words.split()], cwd=tmp_path,
        stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        assert process.stdin is not None
        assert process.stderr is not None
        process.stdin.write(header.getvalue())
        for _ in range(500):
            process.stdin.write(bytes(1_000_000))
        process.stdin.close()
        process.stdin = None
        peak = int(process.stderr.read().split()[-1])
        assert process.wait(timeout=60) == 0
    assert peak < 150_000
