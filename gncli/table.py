"""Tables, for people: of statistics, headers or comparisons, a row each, or of one tensor in full.

This is the only room that names rich, and it loads rich on a terminal only: into a pipe goes plain text.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any, TextIO, TypeAlias

from gncli.errors import ReportError
from gncli.progress import make_way
from gncli.words import (
    ONE_SAMPLE,
    Columns,
    Grid,
    Part,
    Summary,
    cell,
    columns_of,
    decoding,
    histograms,
    in_full,
    printable,
)

Record: TypeAlias = Mapping[str, Any]
Row: TypeAlias = Sequence[str]

STATISTICS = ("count", "mean", "std", "min", "max", "nan", "inf")
CELLS = ("sample", "group", "channel")
PAGE = 1000  # rows of a table that are held to be laid out
NUMBER_WIDTH = 12  # of a column of numbers, in a table of several pages
NAMES = 3  # columns that head a block where a table comes apart: input, shape, dtype
HISTOGRAM = 3  # columns: where a bin begins, its count, its bar
NAME_WIDTH = 16  # a tensor's name is folded to no less, and only on a terminal


class Table:
    """For people. A record with `before` and `after` is a block of its own; others make one table.

    A long table is written in pages of rows, so that none is held for long. A page's columns are at least as
    wide as those of the page before it.
    """

    def __init__(self, stream: TextIO, page: int = PAGE) -> None:
        self.stream, self.page = stream, page
        self.blocks = 0
        self.alone: Record | None = None  # the only one so far
        self.columns = _statistics_columns([])
        self.rows: list[list[str]] = []
        self.widths: list[int] = []
        self.goes_on = False  # the table, right below what was written last
        self.decodings = Decodings()
        self.histograms: list[list[Part]] = []
        self.summary = Summary()

    def add(self, record: Record) -> None:
        if "before" in record:
            rows = [[name, *_statistics(record[name])] for name in ("before", "after")]
            grid = Grid(["", *STATISTICS], rows, 1)
            self._block([_heading(record), grid, *decoding(record), *histograms(record), _ending(record)])
            return
        if self.alone is None and not self.rows:
            self.alone = record
            return
        self._settle()
        self._row(record)

    def close(self) -> None:
        if self.alone is not None and (parts := in_full(self.alone)):
            self._block(parts)
            return
        self._settle()
        if self.rows:
            self._page(last=True)

    def _settle(self) -> None:
        """Make a row of the record that was the only one so far."""
        if self.alone is not None:
            first, self.alone = self.alone, None
            cells = [name for name in CELLS if name in first]
            self.columns = columns_of(first) or _statistics_columns(cells)
            self._row(first)

    def _row(self, record: Record) -> None:
        if len(self.rows) == self.page:
            self._page()
        self.rows.append(self.columns.row(record))
        self.summary.add(record)
        self.decodings.add(record)
        if shown := histograms(record):
            self.histograms.append([cell(record["input"]), *shown])

    def _page(self, *, last: bool = False) -> None:
        """Write the rows, and what is known to belong to them."""
        header, texts, _ = self.columns
        if not last or self.widths:  # of several pages
            least = self.widths or [0] * texts + [NUMBER_WIDTH] * (len(header) - texts)
            self.widths = _widths(header, self.rows, least)
        notes = [*(self.summary.lines() if last else []), *self.decodings.lines(last=last)]
        grid = Grid(header, self.rows, texts)
        if self.goes_on:
            write(self.stream, "\n\n".join([_plain_grid(grid, self.widths, headed=False), *notes]))
        else:
            self._block([grid, *notes], self.widths)
        for parts in self.histograms:
            self._block(parts)
        self.goes_on = not (notes or self.histograms or self.stream.isatty())
        self.rows, self.histograms = [], []

    def _block(self, parts: Sequence[Part], least: Sequence[int] = ()) -> None:
        texts = [part if isinstance(part, str) else _grid(self.stream, part, least) for part in parts]
        write(self.stream, ("\n" if self.blocks else "") + "\n\n".join(texts))
        self.blocks += 1


class Decodings:
    """A line for each tensor that was decoded, whatever the number of its rows."""

    def __init__(self) -> None:
        self._held: dict[object, dict[str, Any]] = {}
        self._latest: object = None
        self._several = False

    def add(self, record: Record) -> None:
        name, decoded = record.get("input"), record.get("decoded")
        self._several |= self._latest not in (None, name)
        self._latest = name
        if "count" in record and isinstance(decoded, Mapping):
            known = self._held.setdefault(name, {**decoded, "missing": 0})
            known["missing"] += decoded["missing"]

    def lines(self, *, last: bool) -> list[str]:
        """The lines that were not given yet, together; unless it is the `last`, of complete tensors alone."""
        ready = [name for name in self._held if last or name != self._latest]
        lines = ((cell(name), *decoding({"decoded": self._held.pop(name)})) for name in ready)
        texts = [f"{name}: {line}" if self._several else line for name, line in lines]
        return ["\n".join(texts)] if texts else []


def write(stream: TextIO, text: str) -> None:
    """Write a line, or more, at once. Raises ReportError where that cannot be, BrokenPipeError."""
    make_way()
    try:
        stream.write(f"{text}\n")
        stream.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise ReportError(f"cannot be written: {error.strerror}", address="standard output") from error


def _statistics(moments: object) -> list[str]:
    return [cell(moments.get(name)) for name in STATISTICS] if isinstance(moments, Mapping) else []


def _heading(record: Record) -> str:
    """Two lines: the tensor and its grouped view; what was applied to it."""
    get = record.get
    shapes = f"{cell(get('shape'))} -> {cell(get('grouped_shape'))}"
    applied = [f"groups {get('groups')}", f"eps {get('eps')}", f"grouping {get('grouping')}"]
    applied += [f"divided by {get('divide_by')}"] if get("divide_by") else []
    applied += [f"nan {get('nan_policy')}"] if get("nan_policy") not in (None, "propagate") else []
    applied += [f"{name} {get(name)}" for name in ("gamma", "beta", "like") if get(name) is not None]
    applied += [ONE_SAMPLE] if get("one_sample") else []
    lines = f"{get('input')}: {get('dtype')} {get('layout')} {shapes}", ", ".join(applied)
    return "\n".join(map(printable, lines))


def _ending(record: Record) -> str:
    if record.get("output") is None:
        return "dry run: nothing written"
    dtype = record.get("output_dtype", record.get("dtype"))
    note = "" if dtype == record.get("dtype") else f" as {dtype}"
    return printable(f"wrote {record['output']}{note}")


def _statistics_columns(cells: Sequence[str]) -> Columns:
    """The columns of rows of statistics, of parts that are told apart by `cells`."""
    header = ["input", "shape", "dtype", *cells, *STATISTICS]
    return Columns(header, 3, lambda record: [cell(record.get(name)) for name in header])


def _grid(stream: TextIO, grid: Grid, least: Sequence[int]) -> str:
    """Header and rows in columns: texts flush left, the numbers flush right."""
    if stream.isatty():
        return _styled(stream, *grid, least)
    return _plain_grid(grid, _widths(grid.header, grid.rows, least))


def _plain_grid(grid: Grid, widths: Sequence[int], *, headed: bool = True) -> str:
    lines = (
        "  ".join(
            cell.ljust(width) if column < grid.texts else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in ([grid.header] if headed else []) + list(grid.rows)
    )
    return "\n".join(line.rstrip() for line in lines)


def _styled(stream: TextIO, header: Row, rows: Sequence[Row], texts: int, least: Sequence[int] = ()) -> str:
    """The grid by rich. Too wide for the terminal, it comes apart into blocks: no number is broken."""
    from rich import box
    from rich.console import Console
    from rich.table import Table as Grid
    from rich.text import Text

    console = Console(file=stream, color_system=None if os.environ.get("NO_COLOR") else "auto")
    widths = _widths(header, rows, least)
    widths[0] = min(widths[0], NAME_WIDTH)
    if sum(widths) + 2 * len(widths) > console.width:
        if texts == len(header):
            return _narrow_histograms(header, rows, console.width)
        if not texts:
            return "\n\n".join(_upright(header, row) for row in rows)
        texts = min(texts, NAMES)
        blocks = groupby(rows, key=lambda row: row[:texts])
        return "\n\n".join(
            "  ".join(names) + "\n" + _styled(stream, header[texts:], [row[texts:] for row in block], 0)
            for names, block in blocks
        )
    grid = Grid(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    for column, name in enumerate(header):
        text = column < texts
        grid.add_column(
            name,
            justify="left" if text else "right",
            no_wrap=column > 0,
            min_width=widths[column] if least else None,
            overflow="fold",
            style="cyan" if text and column == 0 else None,
        )
    for row in rows:
        grid.add_row(*map(Text, row))  # as Text, so that [brackets] in a name are no markup
    with console.capture() as capture:
        console.print(grid)
    return "\n".join(line.rstrip() for line in capture.get().splitlines())


def _narrow_histograms(header: Row, rows: Sequence[Row], width: int) -> str:
    """Lay out histograms one below the other; where even one is too wide, without its bars."""
    blocks = []
    for first in range(0, len(header), HISTOGRAM):
        columns = [row[first : first + HISTOGRAM] for row in (header, *rows)]
        if sum(_widths(columns[0], columns[1:])) + 2 * (HISTOGRAM - 1) > width:
            columns = [row[: HISTOGRAM - 1] for row in columns]
        blocks.append("\n".join("  ".join(row).rstrip() for row in columns))
    return "\n\n".join(blocks)


def _widths(header: Row, rows: Sequence[Row], least: Sequence[int] = ()) -> list[int]:
    found = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    return [max(width, room) for width, room in zip(found, least or [0] * len(found), strict=True)]


def _upright(header: Row, row: Row) -> str:
    width = max(map(len, header))
    return "\n".join(f"{name.ljust(width)}  {cell}" for name, cell in zip(header, row, strict=True))
