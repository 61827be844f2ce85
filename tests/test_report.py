"""Records in every format, and messages, as text."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from gncli.errors import ReportError
from gncli.report import reporting, say
from gncli.words import printable

NUMBERS: dict[str, Any] = {
    "count": 802816, "mean": 0.12345678901234566, "std": 1.5, "min": -3.0, "max": 4.25, "nan": 0, "inf": 0,
}  # fmt: skip
STATS: dict[str, Any] = {
    "schema": 1, "input": "f.h5::/conv1", "shape": [4, 16, 112, 112], "dtype": "float32", **NUMBERS,
}  # fmt: skip
NORMALIZED: dict[str, Any] = {
    "schema": 1, "input": "x.npy", "output": "x.gn.npy", "shape": [64, 16, 112, 112], "dtype": "float32",
    "layout": "NCHW", "groups": 4, "grouped_shape": [64, 4, 4, 112, 112], "eps": 1e-05,
    "grouping": "contiguous", "before": NUMBERS, "after": {**NUMBERS, "mean": 1e-10, "std": 0.9999951234},
    "output_dtype": "float32", "divide_by": "std", "nan_policy": "propagate",
}  # fmt: skip


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def shown(format: str, records: Sequence[dict[str, Any]], stream: io.StringIO | None = None) -> str:
    stream = stream or io.StringIO()
    with reporting(format, stream=stream) as show:
        for record in records:
            show(record)
    return stream.getvalue()


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "100")
    return Terminal()


def test_json_is_an_object_a_line_in_the_order_of_the_record() -> None:
    lines = shown("json", [STATS, NORMALIZED]).splitlines()
    assert [json.loads(line) for line in lines] == [STATS, NORMALIZED]
    assert [list(json.loads(line)) for line in lines] == [list(STATS), list(NORMALIZED)]


def test_json_is_strict() -> None:
    record = {
        "mean": float("nan"), "before": {"max": np.float32("inf"), "count": np.int64(3)},
        "eps": np.float64(1e-5), "shape": (np.int64(2), 3), "list": [float("-inf")], "match": np.bool_(True),
    }  # fmt: skip
    assert shown("json", [record]) == (
        '{"mean": null, "before": {"max": null, "count": 3}, "eps": 1e-05, "shape": [2, 3], '
        '"list": [null], "match": true}\n'
    )


def test_json_keeps_any_name_on_its_line() -> None:
    line = shown("json", [{"input": "a\nb\udcff.npy"}])
    assert line == '{"input": "a\\nb\\udcff.npy"}\n'


def test_tsv_is_a_header_then_rows() -> None:
    nan = {**STATS, "input": "other.npy", "mean": float("nan")}
    assert shown("tsv", [STATS, nan]) == (
        "schema\tinput\tshape\tdtype\tcount\tmean\tstd\tmin\tmax\tnan\tinf\n"
        "1\tf.h5::/conv1\t[4,16,112,112]\tfloat32\t802816\t0.12345678901234566\t1.5\t-3.0\t4.25\t0\t0\n"
        "1\tother.npy\t[4,16,112,112]\tfloat32\t802816\t\t1.5\t-3.0\t4.25\t0\t0\n"
    )


def test_tsv_joins_nested_names_and_escapes() -> None:
    record = {"input": "a\tb\\c\n.npy", "before": {"mean": 1.0}, "after": {"mean": None}}
    assert shown("tsv", [record]) == "input\tbefore.mean\tafter.mean\na\\tb\\\\c\\n.npy\t1.0\t\n"


@pytest.mark.parametrize("format", ["json", "tsv"])
def test_lines_are_written_as_records_come(format: str) -> None:
    stream = io.StringIO()
    with reporting(format, stream=stream) as show:
        show(STATS)
        assert "f.h5::/conv1" in stream.getvalue()


def test_table_of_normalize_into_a_pipe() -> None:
    assert shown("table", [NORMALIZED]) == (
        "x.npy: float32 NCHW (64, 16, 112, 112) -> (64, 4, 4, 112, 112)\n"
        "groups 4, eps 1e-05, grouping contiguous, divided by std\n"
        "\n"
        "         count      mean       std  min   max  nan  inf\n"
        "before  802816  0.123457       1.5   -3  4.25    0    0\n"
        "after   802816     1e-10  0.999995   -3  4.25    0    0\n"
        "\n"
        "wrote x.gn.npy\n"
    )


def test_table_says_all_that_was_applied() -> None:
    given = {"gamma": 2.0, "beta": "b.npy", "like": "keras", "nan_policy": "omit", "divide_by": "variance"}
    applied = shown("table", [{**NORMALIZED, **given}]).splitlines()[1]
    assert applied == (
        "groups 4, eps 1e-05, grouping contiguous, divided by variance, nan omit, "
        "gamma 2.0, beta b.npy, like keras"
    )


@pytest.mark.parametrize(
    ("change", "ending"),
    [
        ({"output": None}, "dry run: nothing written"),
        ({"output_dtype": "float64"}, "wrote x.gn.npy as float64"),
    ],
)
def test_table_says_what_was_written(change: dict[str, Any], ending: str) -> None:
    assert shown("table", [{**NORMALIZED, **change}]).splitlines()[-1] == ending


def test_tables_of_several_inputs_are_apart() -> None:
    assert shown("table", [NORMALIZED, NORMALIZED]).count("wrote x.gn.npy\n\nx.npy: float32") == 1


def test_table_of_stats_into_a_pipe() -> None:
    records = [STATS, {**STATS, "input": "x.npy", "shape": [5], "min": 0, "max": 255, "mean": None}]
    assert shown("table", records) == (
        "input         shape              dtype     count      mean  std  min   max  nan  inf\n"
        "f.h5::/conv1  (4, 16, 112, 112)  float32  802816  0.123457  1.5   -3  4.25    0    0\n"
        "x.npy         (5,)               float32  802816         -  1.5    0   255    0    0\n"
    )


def test_table_of_stats_has_a_column_for_each_cell() -> None:
    record = {**STATS, "sample": 0, "group": 3}
    header, row = shown("table", [record]).splitlines()
    assert header.split()[:6] == ["input", "shape", "dtype", "sample", "group", "count"]
    assert row.split()[-9:-6] == ["0", "3", "802816"]


def test_no_records_no_table() -> None:
    assert shown("table", []) == ""


def test_into_a_pipe_nothing_is_shortened_or_taken_as_markup() -> None:
    name = f"[bold]{'long' * 100}[/bold]:smile:.npy"
    text = shown("table", [{**STATS, "input": name}, {**NORMALIZED, "input": name, "output": name}])
    assert text.count(name) == 3
    assert "\x1b" not in text
    assert "…" not in text


def test_control_characters_do_not_reach_the_reader(terminal: Terminal) -> None:
    records = [{**STATS, "input": "a\x1b[31m\nb"}, {**NORMALIZED, "input": "a\x1b[31m\nb"}]
    for stream in (io.StringIO(), terminal):
        text = shown("table", records, stream)
        assert text.count("a\\x1b[31m\\nb") == 2
        assert "\x1b[31m" not in text


def test_a_terminal_gets_style(terminal: Terminal) -> None:
    text = shown("table", [NORMALIZED], terminal)
    assert "\x1b[1m" in text
    assert "0.123457" in text
    assert "─" in text


def test_a_terminal_gets_names_as_they_are(terminal: Terminal) -> None:
    assert "[bold]x[/bold]" in shown("table", [{**STATS, "input": "[bold]x[/bold]"}], terminal)


def test_no_color(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b" not in shown("table", [NORMALIZED, STATS], terminal)


@pytest.mark.parametrize("columns", [100, 80, 60, 40])
def test_a_narrow_terminal_breaks_names_and_no_number(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch, columns: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("NO_COLOR", "1")
    wide = {**NUMBERS, "mean": -1.23456e-10, "std": 1.23457e-10, "min": -9.87654e20, "max": 9.87654e20}
    record = {**STATS, **wide, "input": "a/rather/long/folder/and/file.h5::/with/a/long/path/in/it"}
    text = shown("table", [record, {**NORMALIZED, "before": wide}], terminal)
    for number in ("-1.23456e-10", "1.23457e-10", "-9.87654e+20", "9.87654e+20"):
        assert text.count(number) >= 2
    assert "…" not in text
    with_numbers = [line for line in text.splitlines() if "e-10" in line or "e+20" in line]
    assert all(len(line) <= columns for line in with_numbers)


def test_a_row_too_wide_for_the_terminal_comes_apart_at_its_name(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "80")
    records = [{**STATS, "sample": 0}, {**STATS, "sample": 1}, {**STATS, "input": "x.npy", "sample": 0}]
    assert shown("table", records, terminal) == (
        "f.h5::/conv1  (4, 16, 112, 112)  float32\n"
        "sample   count      mean  std  min   max  nan  inf\n"
        "──────────────────────────────────────────────────\n"
        "     0  802816  0.123457  1.5   -3  4.25    0    0\n"
        "     1  802816  0.123457  1.5   -3  4.25    0    0\n"
        "\n"
        "x.npy  (4, 16, 112, 112)  float32\n"
        "sample   count      mean  std  min   max  nan  inf\n"
        "──────────────────────────────────────────────────\n"
        "     0  802816  0.123457  1.5   -3  4.25    0    0\n"
    )


@pytest.mark.parametrize("columns", [*range(1, 40), 60, 66, 67, 80])
@pytest.mark.parametrize("several", [False, True])
def test_histograms_on_a_narrow_terminal(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch, columns: int, several: bool
) -> None:
    """Every bin with its number is on a line of its own; bars are left out where there is no room."""
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("NO_COLOR", "1")
    one = {"edges": [-1.23456e-10, 0.5, 1.0, 1.5], "counts": [123456, 61728, 0]}
    histogram = {"before": one, "after": {**one, "counts": [7, 7, 7]}} if several else one
    text = shown("table", [{**(NORMALIZED if several else STATS), "histogram": histogram}], terminal)
    lines = [line.split() for line in text.splitlines()]
    for edge, count in (("-1.23456e-10", "123456"), ("0.5", "61728"), ("1", "0")):
        assert any(line[:2] == [edge, count] for line in lines)
    if several:
        assert any(line[-3:-1] == ["-1.23456e-10", "7"] or line == ["-1.23456e-10", "7"] for line in lines)
    else:
        assert ("█" * 16 in text) == (columns >= 12 + 2 + 6 + 2 + 16)


def test_quiet_prints_nothing() -> None:
    stream = io.StringIO()
    with reporting("table", quiet=True, stream=stream) as show:
        show(NORMALIZED)
    assert stream.getvalue() == ""


def test_a_full_disk_is_an_error_of_the_report() -> None:
    class Full(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError(28, "No space left on device")

    with pytest.raises(ReportError, match=r"^standard output: cannot be written: No space left on device$"):
        shown("json", [STATS], Full())


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("plain é 漢.npy", "plain é 漢.npy"),
        ("two\nlines\r\ttab", "two\\nlines\\r\\ttab"),
        ("\x1b]0;title\x07", "\\x1b]0;title\\x07"),
        ("right\u202eleft", "right\\u202eleft"),
        ("\udcff", "\\udcff"),
    ],
)
def test_printable(text: str, line: str) -> None:
    assert printable(text) == line


def test_say_is_one_line_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    say("warning", "a\nb.npy: 3 NaN")
    assert capsys.readouterr() == ("", "gn: warning: a\\nb.npy: 3 NaN\n")
