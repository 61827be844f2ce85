"""Records out: a table, JSON Lines or TSV on stdout; and what is said to people, on stderr.

A record is what a tool returns for a tensor: names to values, statistics perhaps nested under
`before` and `after`. This is the only room that names rich, and it loads rich for a table on a
terminal only: into a pipe goes plain text.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import groupby
from typing import Any, Protocol, TextIO

from gncli.errors import OutputError
from gncli.progress import make_way
from gncli.words import (
    DECODED,
    ONE_SAMPLE,
    Grid,
    Part,
    cell,
    decoding,
    histograms,
    listing,
    one_sample_notes,
    printable,
)

Record = Mapping[str, object]
Row = Sequence[str]

STATISTICS = ("count", "mean", "std", "min", "max", "nan", "inf")
BINS = ("edges", "counts")
DECODING = ("stored_dtype", *DECODED, "ignored", "missing")
# The fields that have columns of their own for what they hold, and what that is where they are null.
NESTED = {
    "before": STATISTICS,
    "after": STATISTICS,
    "histogram": BINS,
    "histogram.before": BINS,
    "histogram.after": BINS,
    **dict.fromkeys(("decoded", "decoded_a", "decoded_b", "decoded_x", "decoded_y"), DECODING),
}
CELLS = ("sample", "group", "channel")
NAMES = 3  # columns that head a block where a table comes apart: input, shape, dtype
HISTOGRAM = 3  # columns: where a bin begins, its count, its bar
NAME_WIDTH = 16  # a tensor's name is folded to no less, and only on a terminal


def say(level: str, text: str) -> None:
    """`gn: LEVEL: TEXT`, one line on stderr."""
    make_way()
    with suppress(OSError):  # nobody is left to be told that nobody listens
        print(printable(f"gn: {level}: {text}"), file=sys.stderr, flush=True)


class Reporter(Protocol):
    def add(self, record: Record) -> None: ...
    def close(self) -> None: ...


@contextmanager
def reporting(
    format: str, *, quiet: bool = False, stream: TextIO | None = None
) -> Iterator[Callable[[Record], None]]:
    """Gives a `show(record)` that writes as `format` says, to stdout if no `stream` is given.

    Each record is written as soon as it can be: only the table of many tensors waits for the last.
    """
    if quiet:
        yield lambda record: None
        return
    reporter = REPORTERS[format](sys.stdout if stream is None else stream)
    yield reporter.add
    reporter.close()


class Json:
    """An object a line, strict: what is not finite is null.

    Nothing is said of decoding where a tensor was not decoded.
    """

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def add(self, record: Record) -> None:
        shown = {name: value for name, value in record.items() if value is not None or not _decodes(name)}
        _write(self.stream, _json(_plain(shown)))

    def close(self) -> None:
        pass


class Tsv:
    """A line of names, then a line a record; nothing is empty but null.

    Statistics and histograms have a column for each field, such as before.mean. Other mappings, whose names
    come from the data, are JSON in one column. So all records of a command have the same columns.
    """

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self.header: list[str] = []

    def add(self, record: Record) -> None:
        row = _flat(record)
        if not self.header:
            self.header = list(row)
            _write(self.stream, "\t".join(self.header))
        _write(self.stream, "\t".join(row.get(name, "") for name in self.header))

    def close(self) -> None:
        pass


class Table:
    """For people. A record with `before` and `after` is a block of its own; others make one table."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self.blocks = 0
        self.records: list[Record] = []

    def add(self, record: Record) -> None:
        if "before" in record:
            rows = [[name, *_statistics(record[name])] for name in ("before", "after")]
            grid = Grid(["", *STATISTICS], rows, 1)
            self._block([_heading(record), grid, *decoding(record), *histograms(record), _ending(record)])
        else:
            self.records.append(record)

    def _block(self, parts: Sequence[Part]) -> None:
        texts = [part if isinstance(part, str) else _grid(self.stream, *part) for part in parts]
        _write(self.stream, ("\n" if self.blocks else "") + "\n\n".join(texts))
        self.blocks += 1

    def close(self) -> None:
        if not self.records:
            return
        if parts := listing(self.records):
            self._block(parts)
            return
        cells = [name for name in CELLS if name in self.records[0]]
        header = ["input", "shape", "dtype", *cells, *STATISTICS]
        rows = [[cell(record.get(name)) for name in header] for record in self.records]
        self._block([Grid(header, rows, 3), *one_sample_notes(self.records), *_decodings(self.records)])
        for record in self.records:
            if shown := histograms(record):
                self._block([cell(record["input"]), *shown])


REPORTERS: dict[str, Callable[[TextIO], Reporter]] = {"table": Table, "json": Json, "tsv": Tsv}


def _write(stream: TextIO, text: str) -> None:
    make_way()
    try:
        stream.write(f"{text}\n")
        stream.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OutputError(f"cannot be written: {error.strerror}", address="standard output") from error


def _plain(value: object) -> object:
    """`value` in the types that JSON has."""
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    if hasattr(value, "tolist"):  # numpy's scalars and arrays, without loading numpy to ask
        value = value.tolist()
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _json(plain: object, separators: tuple[str, str] | None = None) -> str:
    import json  # not for `gn --help`

    return json.dumps(plain, allow_nan=False, separators=separators)


def _decodes(name: str) -> bool:
    """Whether that part of a record says how a tensor was decoded."""
    return name.startswith("decoded")


def _flat(record: Record, prefix: str = "") -> dict[str, str]:
    row: dict[str, str] = {}
    for name, value in record.items():
        full = prefix + name
        if full not in NESTED:
            row[full] = _field(value)
        elif isinstance(value, Mapping):
            row |= _flat(value, f"{full}.")
        else:
            row |= dict.fromkeys([f"{full}.{inner}" for inner in NESTED[full]], "")
    return row


def _field(value: object) -> str:
    """Return the value as a field of TSV. Most are plain numbers, of which there may be millions."""
    kind = type(value)
    if kind is int:
        return str(value)
    if kind is float:
        return repr(value) if math.isfinite(value) else ""  # type: ignore[arg-type]
    if value is None:
        return ""
    if isinstance(value, str):
        return printable(value.replace("\\", "\\\\"))
    plain = _plain(value)
    return "" if plain is None else _json(plain, separators=(",", ":"))


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


def _decodings(records: Sequence[Record]) -> list[str]:
    """A line for each tensor that was decoded, whatever the number of its rows."""
    held: dict[object, dict[str, Any]] = {}
    for record in records:
        decoded = record.get("decoded")
        if isinstance(decoded, Mapping):
            known = held.setdefault(record["input"], {**decoded, "missing": 0})
            known["missing"] += decoded["missing"]
    several = len({record.get("input") for record in records}) > 1
    lines = ((cell(name), *decoding({"decoded": decoded})) for name, decoded in held.items())
    texts = [f"{name}: {line}" if several else line for name, line in lines]
    return ["\n".join(texts)] if texts else []


def _ending(record: Record) -> str:
    if record.get("output") is None:
        return "dry run: nothing written"
    dtype = record.get("output_dtype", record.get("dtype"))
    note = "" if dtype == record.get("dtype") else f" as {dtype}"
    return printable(f"wrote {record['output']}{note}")


def _grid(stream: TextIO, header: Row, rows: Sequence[Row], texts: int) -> str:
    """Header and rows in columns: the first `texts` flush left, the numbers flush right."""
    if stream.isatty():
        return _styled(stream, header, rows, texts)
    widths = _widths(header, rows)
    lines = (
        "  ".join(
            cell.ljust(width) if column < texts else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in (header, *rows)
    )
    return "\n".join(line.rstrip() for line in lines)


def _styled(stream: TextIO, header: Row, rows: Sequence[Row], texts: int) -> str:
    """The grid by rich. Too wide for the terminal, it comes apart into blocks: no number is broken."""
    from rich import box
    from rich.console import Console
    from rich.table import Table as Grid
    from rich.text import Text

    console = Console(file=stream, color_system=None if os.environ.get("NO_COLOR") else "auto")
    widths = _widths(header, rows)
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


def _widths(header: Row, rows: Sequence[Row]) -> list[int]:
    return [max(map(len, column)) for column in zip(header, *rows, strict=True)]


def _upright(header: Row, row: Row) -> str:
    width = max(map(len, header))
    return "\n".join(f"{name.ljust(width)}  {cell}" for name, cell in zip(header, row, strict=True))
