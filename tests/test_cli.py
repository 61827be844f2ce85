"""The command line: words in, messages and exit codes out."""

from __future__ import annotations

import errno
import json
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import h5py
import numpy as np
import pytest
from conftest import Gn, Shell
from numpy.typing import NDArray

import gncli
from gncli.cli import COMMANDS, attempts, edge, values
from gncli.cli import gn as group
from gncli.cli.normalize import plan_targets
from gncli.errors import FormatError, UsageError

PARAM = click.Option(["--some"])
INVALID = "Invalid value for {}: {}"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def x(here: Path) -> NDArray[np.float32]:
    """(2, 8, 6, 5), saved as x.npy."""
    values = np.random.default_rng(0).normal(3, 2, (2, 8, 6, 5)).astype(np.float32)
    np.save(here / "x.npy", values)
    return values


def reference(x: NDArray[Any], groups: int, eps: float = 1e-5) -> NDArray[Any]:
    """NCHW, contiguous, in extended precision."""
    view = x.astype(np.longdouble).reshape(x.shape[0], groups, -1)
    centred = view - view.mean(-1, keepdims=True)
    result: NDArray[Any] = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + eps)
    return result.reshape(x.shape)


# Words


def leaves(command: click.Command, path: str = "gn") -> list[tuple[str, click.Option]]:
    found = [(path, param) for param in command.params if isinstance(param, click.Option)]
    if isinstance(command, click.Group):
        with click.Context(command) as ctx:
            for name in command.list_commands(ctx):
                child = command.get_command(ctx, name)
                assert child is not None
                found += leaves(child, f"{path} {name}")
    return found


@pytest.mark.parametrize(("path", "option"), leaves(group), ids=lambda value: getattr(value, "name", value))
def test_every_option_has_help_and_an_environment_variable(path: str, option: click.Option) -> None:
    assert option.help
    assert option.help[-1] in ".]"
    assert option.name == max(option.opts, key=len).lstrip("-").replace("-", "_")


def test_help_names_every_command(gn: Gn) -> None:
    words = gn("-h").stdout
    for name, short in COMMANDS.items():
        command = group.get_command(click.Context(group), name)
        assert command is not None
        assert short == command.get_short_help_str(80)
        assert f"  {name:9}  {short}\n" in words
    assert words == gn("--help").stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_have_help(gn: Gn, command: str) -> None:
    words = {"diff": "A B", "identify": "X Y"}.get(command, "INPUT...")
    assert f"Usage: gn {command} [OPTIONS] {words}\n" in gn(command, "-h").stdout


def test_version(gn: Gn, monkeypatch: pytest.MonkeyPatch) -> None:
    assert gn("--version").stdout == f"gn, version {gncli.__version__}\n"
    monkeypatch.setenv("GN_VERSION", "1.2")
    gn("stats", code=2)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("stats", "Missing argument 'INPUT...'."),
        ("frobnicate", "No such command 'frobnicate'."),
        ("normalize x.npy -g 0", INVALID.format("'-g' / '--groups'", "0 is not in the range x>=1.")),
        ("normalize x.npy -g -4", INVALID.format("'-g' / '--groups'", "-4 is not in the range x>=1.")),
        ("normalize x.npy --eps=-1", INVALID.format("'--eps'", "-1 is not a finite number of 0 or more")),
        ("normalize x.npy --eps nan", INVALID.format("'--eps'", "nan is not a finite number of 0 or more")),
        ("normalize x.npy --eps inf", INVALID.format("'--eps'", "inf is not a finite number of 0 or more")),
        (
            "normalize x.npy --layout NHW",
            INVALID.format("'--layout'", "layout NHW has no C; name the channel axis, as in NCHW or NHWC"),
        ),
        (
            "stats x.npy --memory lots",
            INVALID.format("'--memory'", "'lots' is not a size; use bytes or 8M, 1G, 1.5GiB"),
        ),
        (
            "normalize x.npy --gamma inf",
            INVALID.format("'--gamma'", "inf is not finite; a file of that name is ./inf"),
        ),
        (
            "normalize x.npy -g 4 --channels-per-group 2",
            "--groups and --channels-per-group exclude each other; give one",
        ),
    ],
)
def test_usage_errors(gn: Gn, x: NDArray[np.float32], words: str, message: str) -> None:
    result = gn(*words.split(), code=2)
    assert result.stderr.splitlines()[-1] == f"Error: {message}"
    assert result.stderr.startswith("Usage: gn")
    assert result.stdout == ""
    assert os.listdir() == ["x.npy"]


# Values of options, alone

CONTEXT = click.Context(click.Command("some"))


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("1", 1),
        ("1000000", 1_000_000),
        ("512k", 512 << 10),
        ("64M", 64 << 20),
        ("64m", 64 << 20),
        ("64MiB", 64 << 20),
        ("64 MB", 64_000_000),
        ("1G", 1 << 30),
        ("1.5GiB", 3 << 29),
        (".5K", 512),
        ("2T", 2 << 40),
        ("100B", 100),
    ],
)
def test_memory_size(text: str, size: int) -> None:
    assert values.memory_size(CONTEXT, PARAM, text) == size


@pytest.mark.parametrize("text", ["", "M", "-1", "1e9", "nan", "64X", "0", "0.0001", "1 2", "6_4", "64MM"])
def test_memory_that_is_no_size(text: str) -> None:
    with pytest.raises(click.BadParameter, match=r"use bytes or 8M, 1G, 1\.5GiB"):
        values.memory_size(CONTEXT, PARAM, text)


@pytest.mark.parametrize(
    ("text", "value"),
    [(None, None), ("2", 2.0), ("-1.5e-3", -0.0015), ("f.h5::/g", "f.h5::/g"), ("./2", "./2")],
)  # fmt: skip
def test_number_or_address(text: str | None, value: float | str | None) -> None:
    assert values.number_or_address(CONTEXT, PARAM, text) == value


@pytest.mark.parametrize("eps", [0.0, 1e-300, 1e-5, 3.0])
def test_finite_eps(eps: float) -> None:
    assert values.finite_eps(CONTEXT, PARAM, eps) == eps


@pytest.mark.parametrize("eps", [-1e-300, float("nan"), float("inf"), float("-inf")])
def test_eps_that_is_not_finite(eps: float) -> None:
    with pytest.raises(click.BadParameter, match="is not a finite number of 0 or more"):
        values.finite_eps(CONTEXT, PARAM, eps)


def test_layout_word() -> None:
    assert values.layout_word(CONTEXT, PARAM, None) is None
    assert values.layout_word(CONTEXT, PARAM, "nhwc") == "NHWC"
    with pytest.raises(click.BadParameter, match="twice"):
        values.layout_word(CONTEXT, PARAM, "NCHH")


def applied(gn: Gn, *words: object) -> dict[str, Any]:
    """What a dry run says that it would do to x.npy."""
    record: dict[str, Any] = json.loads(gn("normalize", "x.npy", "-n", "--format", "json", *words).stdout)
    return record


@pytest.mark.parametrize(
    ("environment", "words", "groups"),
    [
        ({}, ["-g", "2"], 2),
        ({}, ["--channels-per-group", "2"], 4),
        ({"GROUPS": "2"}, [], 2),
        ({"GROUPS": "2"}, ["-g", "8"], 8),
        ({"GROUPS": "2"}, ["--channels-per-group", "2"], 4),
        ({"CHANNELS_PER_GROUP": "2"}, [], 4),
        ({"CHANNELS_PER_GROUP": "2"}, ["-g", "8"], 8),
        ({"CHANNELS_PER_GROUP": "1"}, ["--like", "keras", "--layout", "NCHW"], 8),
    ],
)
def test_what_is_said_nearer_wins(
    gn: Gn, x: NDArray[np.float32], monkeypatch: pytest.MonkeyPatch,
    environment: dict[str, str], words: list[str], groups: int,
) -> None:  # fmt: skip
    for name, value in environment.items():
        monkeypatch.setenv(f"GN_NORMALIZE_{name}", value)
    assert applied(gn, *words)["groups"] == groups


def test_both_in_the_environment_exclude_each_other(gn: Gn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GN_STATS_GROUPS", "2")
    monkeypatch.setenv("GN_STATS_CHANNELS_PER_GROUP", "2")
    assert "exclude each other" in gn("stats", "x.npy", code=2).stderr


# The edge


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (FormatError("is empty", address="x.npy"), 1, "gn: error: x.npy: is empty\n"),
        (UsageError("would write twice"), 2, "gn: error: would write twice\n"),
        (FormatError("two\nlines", address="\x1b[1mx"), 1, "gn: error: \\x1b[1mx: two\\nlines\n"),
        (OSError(errno.ENOSPC, "Disk full", "y.npy"), 1, "gn: error: y.npy: Disk full\n"),
        (OSError(errno.EIO, "Input/output error"), 1, "gn: error: Input/output error\n"),
        (MemoryError(), 1, "gn: error: out of memory; try a smaller --memory or fewer --jobs\n"),
        (KeyError("oh"), 1, "gn: error: KeyError: 'oh'; this is a bug in gn, GN_DEBUG=1 shows where\n"),
        (KeyboardInterrupt(), 130, ""),
        (BrokenPipeError(), 141, ""),
    ],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_errors_become_a_line_and_a_code(
    error: BaseException, code: int, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(click.exceptions.Exit) as exit, edge():
        raise error
    assert exit.value.exit_code == code
    assert capsys.readouterr() == ("", line)


def test_a_bug_shows_its_traceback_when_asked(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GN_DEBUG", "1")
    with pytest.raises(click.exceptions.Exit), edge():
        raise ZeroDivisionError
    assert capsys.readouterr().err.startswith("Traceback (most recent call last):\n")


def test_a_failed_attempt_does_not_stop_the_others(capsys: pytest.CaptureFixture[str]) -> None:
    done = []
    with pytest.raises(click.exceptions.Exit) as exit, attempts() as attempt:
        for address in ("a", "b", "c"):
            with attempt(address):
                if address == "b":
                    raise MemoryError
                done.append(address)
    assert done == ["a", "c"]
    assert exit.value.exit_code == 1
    assert capsys.readouterr().err.startswith("gn: error: b: out of memory")


def test_no_failed_attempt_no_exit() -> None:
    with attempts() as attempt, attempt("a"):
        pass


# gn normalize


def test_normalize(gn: Gn, x: NDArray[np.float32]) -> None:
    shown = gn("normalize", "x.npy", "--groups", "4")
    y = np.load("x.gn.npy")
    assert np.array_equal(y, reference(x, 4).astype(np.float32))
    lines = shown.stdout.splitlines()
    assert lines[0] == "x.npy: float32 NCHW (2, 8, 6, 5) -> (2, 4, 2, 6, 5)"
    assert lines[1] == "groups 4, eps 1e-05, grouping contiguous, divided by std"
    assert lines[3].split() == ["count", "mean", "std", "min", "max", "nan", "inf"]
    assert lines[4].split()[:3] == ["before", "480", f"{np.mean(x, dtype=np.float64):.6g}"]
    assert lines[5].split()[3:] == [f"{v:.6g}" for v in (np.std(y, dtype=np.float64), y.min(), y.max())] + [
        "0",
        "0",
    ]
    assert lines[-1] == "wrote x.gn.npy"
    assert shown.stderr == ""


def test_normalize_json_has_the_fields_of_the_contract(gn: Gn, x: NDArray[np.float32]) -> None:
    record = json.loads(gn("normalize", "x.npy", "-g", "4", "--format", "json").stdout)
    assert list(record)[:11] == [
        "schema", "input", "output", "shape", "dtype", "layout", "groups", "grouped_shape", "eps", "grouping",
        "before",
    ]  # fmt: skip
    assert (
        list(record["before"])
        == list(record["after"])
        == ["count", "mean", "std", "min", "max", "nan", "inf"]
    )
    assert (record["schema"], record["input"], record["output"]) == (1, "x.npy", "x.gn.npy")
    assert record["output_dtype"] == record["dtype"] == "float32"


def test_normalize_quietly(gn: Gn, x: NDArray[np.float32]) -> None:
    shown = gn("normalize", "x.npy", "-g", "4", "-q")
    assert (shown.stdout, shown.stderr) == ("", "")
    assert Path("x.gn.npy").exists()


def test_dry_run_writes_nothing(gn: Gn, x: NDArray[np.float32]) -> None:
    assert gn("normalize", "x.npy", "-g", "4", "-n").stdout.splitlines()[-1] == "dry run: nothing written"
    assert applied(gn, "-g", "4")["output"] is None
    assert os.listdir() == ["x.npy"]


def test_output_is_not_overwritten_without_force(gn: Gn, x: NDArray[np.float32]) -> None:
    Path("x.gn.npy").write_text("mine")
    shown = gn("normalize", "x.npy", "-g", "4", code=1)
    assert shown.stderr.startswith("gn: error: x.gn.npy: ")
    assert "--force" in shown.stderr
    assert shown.stderr.count("\n") == 1
    assert Path("x.gn.npy").read_text() == "mine"
    gn("normalize", "x.npy", "-g", "4", "--force")
    assert np.load("x.gn.npy").shape == x.shape


def test_groups_that_do_not_divide(gn: Gn, x: NDArray[np.float32]) -> None:
    shown = gn("normalize", "x.npy", "--groups", "5", code=1)
    assert shown.stderr == "gn: error: x.npy: 8 channels do not divide into 5 groups; valid: 1, 2, 4, 8\n"
    assert os.listdir() == ["x.npy"]


def test_a_warning_names_its_tensor(gn: Gn, x: NDArray[np.float32]) -> None:
    x[0, 0, 0, 0] = np.nan
    np.save("x.npy", x)
    shown = gn("normalize", "x.npy", "-g", "4")
    assert shown.stderr.startswith("gn: warning: x.npy: ")
    assert shown.stderr.count("\n") == 1


def test_one_failed_input_does_not_stop_the_others(gn: Gn, x: NDArray[np.float32]) -> None:
    np.save("z.npy", x)
    shown = gn("normalize", "x.npy", "missing.npy", "z.npy", "-g", "4", "--format", "json", code=1)
    assert [json.loads(line)["output"] for line in shown.stdout.splitlines()] == ["x.gn.npy", "z.gn.npy"]
    error, summary = shown.stderr.splitlines()
    assert error.startswith("gn: error: missing.npy: no such file")
    assert summary.startswith("gn: summary: 2 done, 1 failed, 3.84 kB in ")


@pytest.mark.parametrize("output", ["into/", "into"])
def test_a_folder_keeps_names(gn: Gn, x: NDArray[np.float32], output: str) -> None:
    os.mkdir("into")
    np.save("z.npy", x)
    gn("normalize", "x.npy", "z.npy", "-g", "4", "-o", output)
    assert sorted(os.listdir("into")) == ["x.npy", "z.npy"]


def test_two_inputs_into_one_output(gn: Gn, x: NDArray[np.float32]) -> None:
    os.mkdir("sub")
    os.mkdir("into")
    np.save("sub/x.npy", x)
    shown = gn("normalize", "x.npy", "sub/x.npy", "-g", "4", "-o", "into/", code=2)
    assert shown.stderr == (
        "gn: error: x.npy and sub/x.npy would both write into/x.npy; give each its own --output\n"
    )
    assert os.listdir("into") == []


def test_one_input_twice(gn: Gn, x: NDArray[np.float32]) -> None:
    gn("normalize", "x.npy", "./x.npy", "-g", "4", code=2)
    gn("normalize", "x.npy", "x.npy", "-g", "4", code=2)
    assert os.listdir() == ["x.npy"]


def test_several_inputs_into_a_file(here: Path) -> None:
    with pytest.raises(UsageError, match=r"^--output y.npy is one file for 2 inputs; give a folder, DIR/$"):
        plan_targets(["a.npy", "b.npy"], "y.npy")


def test_targets(here: Path) -> None:
    assert plan_targets(["a/x.npy", "f.h5::/g/conv"], None) == [
        ("a/x.npy", "a/x.gn.npy"), ("f.h5::/g/conv", "f.gn.h5"),
    ]  # fmt: skip
    assert plan_targets(["a/x.npy", "f.h5::/g/conv"], "d/") == [
        ("a/x.npy", "d/x.npy"), ("f.h5::/g/conv", "d/f.h5"),
    ]  # fmt: skip
    assert plan_targets(["x.npy"], "out.h5::/y") == [("x.npy", "out.h5::/y")]
    assert plan_targets([], "y.npy") == []


@pytest.fixture
def network(here: Path, x: NDArray[np.float32]) -> Path:
    with h5py.File("network.h5", "w") as file:
        file["conv"] = x
        file["gamma"] = np.full(8, 2, np.float32)
        file["weights"] = np.ones((8, 8), np.float32)
    return here / "network.h5"


def test_the_one_dataset_that_fits(gn: Gn, network: Path, x: NDArray[np.float32]) -> None:
    shown = gn("normalize", "network.h5", "-g", "4", "--gamma", "network.h5::/gamma", "--format", "json")
    assert json.loads(shown.stdout)["input"] == "network.h5::/conv"
    with h5py.File("network.gn.h5") as file:
        assert np.array_equal(file["conv"], (2 * reference(x, 4)).astype(np.float32))
        command = file["conv"].attrs["gn_command"]
    assert command == "gn normalize network.h5 -g 4 --gamma network.h5::/gamma --format json"
    record = json.loads(
        gn("normalize", "network.h5", "-g", "4", "--layout", "NC", "-n", "--format", "json").stdout
    )
    assert record["input"] == "network.h5::/weights"


def test_several_datasets_that_fit(gn: Gn, network: Path) -> None:
    shown = gn("normalize", "network.h5", "-g", "4", "--layout", "channels_first", code=1)
    assert "'network.h5::/conv' (2, 8, 6, 5), 'network.h5::/weights' (8, 8)" in shown.stderr


def test_the_command_is_quoted_for_a_shell(gn: Gn, network: Path) -> None:
    os.rename("network.h5", "a b.h5")
    gn("normalize", "a b.h5", "-g", "4", "-q")
    with h5py.File("a b.gn.h5") as file:
        assert shlex.split(file["conv"].attrs["gn_command"])[:3] == ["gn", "normalize", "a b.h5"]


# gn stats


def test_stats(gn: Gn, x: NDArray[np.float32]) -> None:
    header, row = gn("stats", "x.npy").stdout.splitlines()
    assert header.split() == ["input", "shape", "dtype", "count", "mean", "std", "min", "max", "nan", "inf"]
    assert row.startswith("x.npy  (2, 8, 6, 5)  float32    480  ")


def test_stats_json_is_that_of_the_contract(gn: Gn, x: NDArray[np.float32]) -> None:
    record = json.loads(gn("stats", "x.npy", "--format", "json").stdout)
    exact = x.astype(np.float64)
    assert list(record) == [
        "schema", "input", "shape", "dtype", "count", "mean", "std", "min", "max", "nan", "inf",
    ]  # fmt: skip
    assert record == {
        "schema": 1, "input": "x.npy", "shape": [2, 8, 6, 5], "dtype": "float32", "count": 480,
        "mean": pytest.approx(exact.mean(), rel=1e-12), "std": pytest.approx(exact.std(), rel=1e-12),
        "min": float(x.min()), "max": float(x.max()), "nan": 0, "inf": 0,
    }  # fmt: skip


def test_stats_by_sample_and_group(gn: Gn, x: NDArray[np.float32]) -> None:
    words = ("stats", "x.npy", "-g", "4", "--by", "sample", "--by", "group", "--format", "json")
    records = [json.loads(line) for line in gn(*words).stdout.splitlines()]
    assert [(record["sample"], record["group"]) for record in records] == [
        (n, g) for n in (0, 1) for g in range(4)
    ]
    means = x.reshape(2, 4, -1).mean(-1, dtype=np.float64).ravel()
    assert [record["mean"] for record in records] == pytest.approx(list(means), rel=1e-12)


def test_stats_of_every_dataset_and_of_what_can_be_read(gn: Gn, network: Path) -> None:
    Path("bad.npy").write_bytes(b"")
    shown = gn("stats", "bad.npy", "network.h5", "--format", "tsv", code=1)
    header, *rows = (line.split("\t") for line in shown.stdout.splitlines())
    assert header[:4] == ["schema", "input", "shape", "dtype"]
    assert [row[1] for row in rows] == [f"network.h5::/{name}" for name in ("conv", "gamma", "weights")]
    assert shown.stderr.startswith("gn: error: bad.npy: is empty (0 bytes)")


@pytest.mark.parametrize("shape", [(), (1,), (1, 1), (1, 1, 1, 1)])
def test_one_value_in_a_file_is_for_every_channel(
    gn: Gn, x: NDArray[np.float32], shape: tuple[int, ...]
) -> None:
    np.save("gamma.npy", np.full(shape, 1.5))
    with h5py.File("beta.h5", "w") as file:
        file["beta"] = np.full(shape, 0.25, np.float32)
    gn("normalize", "x.npy", "-g", 4, "-o", "y.npy", "--gamma", "gamma.npy", "--beta", "beta.h5")
    gn("normalize", "x.npy", "-g", 4, "-o", "z.npy", "--gamma", "1.5", "--beta", "0.25")
    assert Path("y.npy").read_bytes() == Path("z.npy").read_bytes()
    gn("normalize", "x.npy", "-g", 4, "-f", "-q", "--gamma", "gamma.npy")
    found = gn("identify", "x.npy", "x.gn.npy", "--gamma", "gamma.npy", "--format", "json").stdout
    assert "--gamma gamma.npy" in json.loads(found)["candidates"][0]["command"]


@pytest.mark.parametrize(
    ("shapes", "words", "chosen"),
    [
        ({"X": (20, 8), "v": (20,)}, "", "X"),
        ({"deep/X": (20, 8)}, "", "deep/X"),
        ({"w": (8, 8), "x": (2, 8, 3)}, "", "x"),
        ({"w": (8, 8), "b": (4, 8), "x": (2, 8, 3)}, "", "x"),
        ({"w": (8, 8), "x": (2, 8, 3)}, "--layout NC", "w"),
        ({"X": (20, 8), "x": (2, 8, 3), "y": (2, 8, 3)}, "", None),  # not X, though it is alone of its rank
        ({"X": (20, 8), "Y": (20, 8)}, "", None),
        ({"X": (20, 8)}, "--layout NCL", None),
        ({"v": (8,), "s": ()}, "", None),
    ],
)
def test_normalize_takes_a_matrix_where_nothing_of_a_higher_rank_is(
    gn: Gn, here: Path, shapes: dict[str, tuple[int, ...]], words: str, chosen: str | None
) -> None:
    with h5py.File("n.h5", "w") as file:
        for name, shape in shapes.items():
            file[name] = np.ones(shape)
    done = gn("normalize", "n.h5", "-g", 2, "--format", "json", *words.split(), code=int(chosen is None))
    if chosen is None:
        assert "fit" in done.stderr
        assert "'n.h5::/" in done.stderr
    else:
        assert json.loads(done.stdout)["input"] == f"n.h5::/{chosen}"


HDF5_SUFFIXES = (".h5", ".hdf5", ".hdf", ".he5", ".nc", ".nc4", ".h5ad", ".mat")


@pytest.mark.parametrize("suffix", [*HDF5_SUFFIXES, ".NC4"])
def test_suffixes_of_hdf5(gn: Gn, x: NDArray[np.float32], suffix: str) -> None:
    gn("normalize", "x.npy", "-g", 4, "-q", "-o", "want.npy")
    with h5py.File("in.h5", "w") as file:
        file["x"], file["other"] = x, 1
    for given, others in (("x.npy", set()), ("in.h5", {"other"})):
        output = f"from {given}{suffix}"
        gn("normalize", given, "-g", 4, "-q", "-o", output)
        with h5py.File(output) as file:
            assert set(file) == {"x"} | others
            np.testing.assert_array_equal(file["x"], np.load("want.npy"), strict=True)


@pytest.mark.parametrize(
    "output",
    [
        "y.npz", "y.csv", "y.zarr", "y.pt", "y.npy.gz", "y.safetensors", "y.gn", "y.tmp", "y.1", "y.npy~",
        "y.h5.bak", "a.d/y.npz", "y.npz::/x", "y.NPZ",
    ],
)  # fmt: skip
@pytest.mark.parametrize("words", ["", "-f", "-n", "--skip-existing"])
def test_a_suffix_that_gn_does_not_write(gn: Gn, x: NDArray[np.float32], output: str, words: str) -> None:
    with h5py.File("in.h5", "w") as file:
        file["a"] = file["b"] = x
    path = output.partition("::")[0]
    suffix = os.path.splitext(path.lower())[1]
    for inputs in (["x.npy"], ["in.h5::/a"], ["in.h5::/a", "in.h5::/b"]):
        done = gn("normalize", *inputs, "-g", 4, "-o", output, *words.split(), code=2)
        assert done.stderr == (
            f"gn: error: {path}: gn does not write {suffix} files; "
            f"it writes .npy, {', '.join(HDF5_SUFFIXES)}, and without a suffix the format of the input\n"
        )
        assert sorted(os.listdir()) == ["in.h5", "x.npy"]


def test_suffixes_where_gn_chooses_the_name(gn: Gn, x: NDArray[np.float32]) -> None:
    """A name that it gives has a suffix that it writes; a name that it is to keep must have one."""
    gn("normalize", "x.npy", "-g", 4, "-q", "-o", "want.npy")
    os.rename("x.npy", "x.bin")
    gn("normalize", "x.bin", "-g", 4, "-q")
    assert Path("x.bin.gn.npy").read_bytes() == Path("want.npy").read_bytes()
    assert "gn does not write .bin files" in gn("normalize", "x.bin", "-g", 4, "-o", "out/", code=2).stderr
    assert not Path("out").exists()
    os.rename("x.bin", "x")
    gn("normalize", "x", "-g", 4, "-q", "-o", "out/")
    assert Path("out/x").read_bytes() == Path("want.npy").read_bytes()


@pytest.mark.parametrize(
    "words",
    [
        ["stats", "--{}"], ["stats", "-\x1b"], ["{}"], ["--{}"], ["stats", "x.npy", "--format", "{}"],
        ["stats", "x.npy", "--by", "{}"], ["normalize", "x.npy", "-g", "{}"],
        ["normalize", "x.npy", "--like", "{}"], ["normalize", "x.npy", "--eps", "{}"],
        ["stats", "x.npy", "--memory", "{}"], ["stats", "x.npy", "--layout", "{}"],
        ["stats", "x.npy", "--plot", "{}"], ["stats", "x.npy", "x.npy", "--plot", "{}.png"],
        ["normalize", "x.npy", "-o", "{}.npy::/"], ["normalize", "x.npy", "-o", "{}.npz"],
        ["diff", "x.npy", "x.npy", "{}"], ["identify", "x.npy"], ["stats", "--from-file", "{}"],
        ["normalize", "{}", "--gamma", "inf"], ["stats", "x.npy", "--dask", "{}"],
    ],
)  # fmt: skip
def test_usage_errors_send_nothing_to_the_terminal_that_it_obeys(
    gn: Gn, x: NDArray[np.float32], words: list[str]
) -> None:
    raw = "\x1b[31mred\x1b]0;title\x07\r\x9b2J\nsecond line\u202e"
    done = gn(*(word.format(raw) for word in words), code=2)
    assert done.stderr.replace("\n", "").isprintable()
    assert "second line" not in [line[: len("second line")] for line in done.stderr.splitlines()]


def test_a_made_up_name_of_the_program(shell: Shell) -> None:
    done = shell(f"exec -a $'\\e[31m' {sys.executable} -m gncli normalize", code=2)
    assert done.stderr.startswith("Usage: gn normalize [OPTIONS] INPUT...\n")


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("", "'' names no file; give a path, DIR/ or -"),
        ("::", "'::' names no file; give a path, DIR/ or -"),
        ("::/a", "'::/a' names no file; give a path, DIR/ or -"),
        ("q.npy::/", "'q.npy::/' names no dataset; give q.npy::/path, or q.npy alone"),
    ],
)
def test_outputs_that_name_nothing(gn: Gn, x: NDArray[np.float32], output: str, message: str) -> None:
    for more in ((), ("-f",), ("-n",)):
        done = gn("normalize", "x.npy", "-g", 4, "-o", output, *more, code=2)
        assert done.stderr.splitlines()[-1] == "Error: " + INVALID.format("'-o' / '--output'", message)
    assert os.listdir() == ["x.npy"]


def test_inputs_that_name_nothing(gn: Gn, x: NDArray[np.float32]) -> None:
    line = "gn: error: '' names no file; give a path, or - for standard input\n"
    for command in (["stats"], ["info"], ["normalize"], ["normalize", "x.npy", "-g", "4", "--gamma"]):
        assert gn(*command, "", code=1).stderr.endswith(line)
    for command in (["diff"], ["identify"]):
        assert gn(*command, "", "x.npy", code=2).stderr == line
    assert os.listdir() == ["x.npy"]


# In a shell


def test_every_door(shell: Shell) -> None:
    words = shell("$gn --version").stdout
    assert words == f"gn, version {gncli.__version__}\n"
    scripts = Path(sys.executable).parent
    for name in ("gn", "gncli"):
        if (scripts / name).exists():  # not installed: the tests run on the checkout
            assert shell('"$1" --version', scripts / name).stdout == words


def test_a_reader_that_leaves_is_no_error(shell: Shell, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros((64, 32, 2), np.float32))
    words = "--by sample --by channel --format json"
    done = shell(f"$gn stats x.npy {words} | head -n 1; echo ${{PIPESTATUS[0]}}")
    first, code = done.stdout.splitlines()
    assert json.loads(first)["sample"] == 0
    assert code == "141"
    assert done.stderr == ""


def test_a_pipe_closed_from_the_start(shell: Shell, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros((2, 4), np.float32))
    for words in ("stats x.npy", "stats --help", "--help"):
        done = shell(f"(sleep 1; $gn {words}; echo $? >&2) | true")
        assert done.stderr == "141\n"


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="wants /dev/full")
def test_a_full_disk_under_stdout(shell: Shell, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros((2, 4), np.float32))
    done = shell("$gn stats x.npy > /dev/full", code=1)
    assert done.stderr == "gn: error: standard output: cannot be written: No space left on device\n"
    assert shell("$gn stats --help > /dev/full", code=1).stderr == "gn: error: No space left on device\n"


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="wants /dev/full")
@pytest.mark.parametrize("format", ["json", "tsv", "table"])
@pytest.mark.parametrize(
    ("words", "code"),
    [
        ("stats x.npy --by sample", 1),
        ("stats x.npy x.npy x.npy", 1),
        ("info x.npy x.npy", 1),
        ("normalize x.npy y.npy -n -g 2", 1),
        ("diff x.npy y.npy", 2),
    ],
)
def test_a_report_that_cannot_be_written_is_told_once(
    shell: Shell, tmp_path: Path, words: str, code: int, format: str
) -> None:
    """Nothing that comes after it can be written, either: the command ends there."""
    for name in ("x.npy", "y.npy"):
        np.save(tmp_path / name, np.zeros((3000, 4), np.float32))
    done = shell(f"$gn {words} --format {format} > /dev/full", code=code)
    assert done.stderr == "gn: error: standard output: cannot be written: No space left on device\n"


def test_closed_stdout_is_no_error(shell: Shell, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros((2, 4), np.float32))
    assert shell("$gn stats x.npy >&-").stderr == ""


def test_a_name_that_is_no_text(shell: Shell, tmp_path: Path) -> None:
    name = os.fsdecode(b"\xff\xfe.npy")
    try:
        np.save(tmp_path / name, np.zeros((2, 4), np.float32))
    except OSError:
        pytest.skip("the file system takes text only")
    assert "\\udcff\\udcfe.npy" in shell("$gn stats *.npy").stdout


SLOW = """
import sys, time
import gncli.normalize
from gncli.cli import main

def slow(*args, **kwargs):
    try:
        print("ready", flush=True)
        time.sleep(60)
    finally:
        print("cleaned", flush=True)

gncli.normalize.normalize_file = slow
sys.argv = ["gn", "normalize", "x.npy"]
main()
"""


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_signals_clean_up_and_say_nothing(number: signal.Signals, code: int, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros((2, 4), np.float32))
    with subprocess.Popen(
        [sys.executable, "-c", SLOW], cwd=tmp_path, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (code, "cleaned\n", "")


FINALIZER = """
import os, signal, sys, time
import gncli.normalize
from gncli.cli import main

class Last:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.01)

def slow(*args, **kwargs):
    Last()
    time.sleep(60)

gncli.normalize.normalize_tensor = slow
sys.argv = ["gn", "normalize", "x.npy", "-g", "4"]
main()
"""


def test_a_signal_within_a_finalizer(tmp_path: Path) -> None:
    """Python drops what is raised there, and goes on."""
    np.save(tmp_path / "x.npy", np.zeros((2, 4), np.float32))
    done = subprocess.run(
        [sys.executable, "-c", FINALIZER],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (143, "", "")
    assert os.listdir(tmp_path) == ["x.npy"]


def test_nohup_is_heeded(tmp_path: Path) -> None:
    code = (
        "import signal, gncli.cli as c; signal.signal(signal.SIGHUP, signal.SIG_IGN); c.gn = lambda: None; "
    )
    code += "c.main(); assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)


def test_blas_has_one_thread(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    code = (
        "import os, gncli.cli as c, gncli.containment as k\n"
        "c.gn = lambda: print(*(os.environ[n] for n in k.BLAS_THREADS)); c.main()"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "8"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout == "1 1 1\n"


# From Python


def test_lazy_names() -> None:
    assert {"group_norm", "describe", "__version__"} <= set(dir(gncli))
    assert callable(gncli.group_norm)
    with pytest.raises(AttributeError, match=r"^module 'gncli' has no attribute 'nothing'$"):
        _ = gncli.nothing


def test_an_output_that_is_another_input_is_refused(tmp_path: Path) -> None:
    """x.npy's default output is x.gn.npy: with --force, the second input would be gone before its turn."""
    names = ["x.npy", "x.gn.npy"]
    for name in names:
        np.save(tmp_path / name, np.zeros((1, 4, 2, 2), np.float32))
    with pytest.raises(UsageError, match=r"x\.npy would write .*x\.gn\.npy, which is an input too"):
        plan_targets([str(tmp_path / name) for name in names], None)
