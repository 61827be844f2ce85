"""Records out: a table, JSON Lines or TSV on stdout; and what is said to people, on stderr.

A record is what a tool returns for a tensor: names to values, statistics perhaps nested under
`before` and `after`.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Protocol, TextIO

from gncli.progress import make_way
from gncli.table import STATISTICS, Table, write
from gncli.words import DECODED, printable

Record = Mapping[str, object]

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

    Each record is written as soon as it can be: only a table waits for a page of rows, or for the last.
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
        write(self.stream, _json(_plain(shown)))

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
            write(self.stream, "\t".join(self.header))
        write(self.stream, "\t".join(row.get(name, "") for name in self.header))

    def close(self) -> None:
        pass


REPORTERS: dict[str, Callable[[TextIO], Reporter]] = {"table": Table, "json": Json, "tsv": Tsv}


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
