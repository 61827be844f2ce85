"""Records in the words of a table: what a person reads of a header, a comparison, a list of conventions.

One record is a page, several are a row each: a list of lines and grids, which `report` lays out.
"""

from __future__ import annotations

import math
import shlex
from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import accumulate
from typing import Any, NamedTuple, TypeAlias

SHOWN = 5  # groups of a comparison
MEASURES = ("max_abs", "mean_abs", "max_rel", "max_ulp")
BAR = 16  # characters of the longest bar
# What a record says of decoding: attributes, and netCDF's own fill value.
PACKING = ("scale_factor", "add_offset", "_Unsigned", "dtype")
MASKING = ("_FillValue", "missing_value", "valid_range", "valid_min", "valid_max", "default_fill")
DECODED = (*PACKING, *MASKING)
OMITTED = " [... {} bytes cut ...] "
CUT = 60  # characters of attributes, in a row and in a line
ONE_SAMPLE = "the whole tensor is one sample"  # where a layout has no N


class Grid(NamedTuple):
    """Columns: the first `texts` flush left, the numbers flush right."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    texts: int


Part: TypeAlias = str | Grid
Record: TypeAlias = Mapping[str, Any]


def as_size(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.4g} TB"


def printable(text: str) -> str:
    """`text` on one line: what no terminal shows, or acts upon, is escaped as Python would."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def quoted(word: str) -> str:
    """Return `word` as a shell takes it; in $'...' where it is not all printable."""
    if word.isprintable():
        return shlex.quote(word)
    return "$'" + "".join(map(_escaped, word)) + "'"


def _escaped(sign: str) -> str:
    if sign in "\\'":
        return "\\" + sign
    if sign.isprintable():
        return sign
    return "".join(f"\\x{byte:02x}" for byte in sign.encode("utf-8", "surrogateescape"))


def shortened(text: str, most: int) -> str:
    """`text` in at most `most` bytes of UTF-8. The middle of a longer one is cut out, and marked."""
    sizes = [len(sign.encode("utf-8", "surrogateescape")) for sign in text]
    if sum(sizes) <= most:
        return text
    half = (most - len(OMITTED.format(sum(sizes)))) // 2
    head = bisect_right(list(accumulate(sizes)), half)
    tail = bisect_right(list(accumulate(sizes[::-1])), half)
    mark = OMITTED.format(sum(sizes[head : len(sizes) - tail]))
    return text[:head] + mark + text[len(text) - tail :]


def cell(value: object) -> str:
    """As a person reads it: six digits that count, a shape as Python writes it."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    match value:
        case None:
            return "-"
        case float():
            return f"{value:.6g}"
        case list() | tuple():
            return str(tuple(value))
        case _:
            return printable(str(value))


def decoding(record: Record, name: str = "decoded") -> list[str]:
    """A line that says how the tensor was decoded, if it was.

    As in `decoded: scale_factor 0.01, add_offset 273.15; 3 missing (_FillValue -1)`.
    """
    held = record.get(name)
    if not held:
        return []
    texts = {"dtype": "bool", "default_fill": f"default fill value {cell(held['default_fill'])}"}
    done, masks = (
        ", ".join(texts.get(key) or f"{key} {cell(held[key])}" for key in keys if held[key] is not None)
        for keys in (PACKING, MASKING)
    )
    count = "" if held["missing"] is None else f"{held['missing']} "
    absent = f"{count}missing{masks and f' ({masks})'}" if masks or count else ""
    ignored = f"ignored {', '.join(held['ignored'])}" if held["ignored"] else ""
    parts = [part for part in (done, absent, ignored) if part]
    return [printable(f"{name.replace('_', ' ')}: {'; '.join(parts)}")]


class Columns(NamedTuple):
    """The columns of a table of several records: names, how many are text, and what makes a row."""

    header: Sequence[str]
    texts: int
    row: Callable[[Record], list[str]]


def columns_of(record: Record) -> Columns | None:
    """The columns of a table of records of that command; None where they are statistics."""
    if "filters" in record:
        return Columns(HEADERS, 8, _header_row)
    if "equal" in record:
        return Columns(COMPARED, 3, _comparison_row)
    return None


def in_full(record: Record) -> list[Part] | None:
    """The parts of a record that is the only one; None where it is a row of statistics."""
    if "filters" in record:
        return [_upright(_header_lines(record))]
    if "candidates" in record:
        return _conventions(record)
    if "equal" in record:
        return _comparison(record)
    return None


class Summary:
    """What there is to say of all records together, however many there are."""

    def __init__(self) -> None:
        self._count = self._unknown = self._different = 0
        self._layouts: dict[str, None] = {}  # that have no N

    def add(self, record: Record) -> None:
        self._count += 1
        if record.get("one_sample"):
            self._layouts[record["layout"]] = None
        if "equal" in record:
            unknown = record["verdict"].startswith("not compared")
            self._unknown += unknown
            self._different += not record["equal"] and not unknown

    def lines(self) -> list[str]:
        lines = [f"layout {word} has no N: {ONE_SAMPLE}" for word in self._layouts]
        if self._unknown:
            rest = f"{self._different} different" if self._different else "the others are equal"
            lines.append(f"{self._unknown} of {self._count} not compared, {rest}")
        return lines


def one_sample_notes(records: Iterable[Record]) -> list[str]:
    """A sentence for each layout in the records that has no N."""
    words = dict.fromkeys(record["layout"] for record in records if record.get("one_sample"))
    return [f"layout {word} has no N: {ONE_SAMPLE}" for word in words]


def _upright(lines: Mapping[str, str]) -> str:
    width = max(map(len, lines))
    return "\n".join(f"{name.ljust(width)}  {value}" for name, value in lines.items())


# Of `gn info`


def _header_lines(record: Record) -> dict[str, str]:
    groups = {f"{word} groups": _numbers(counts) for word, counts in record["groups"].items()}
    lines = {name: cell(record[name]) for name in ("input", "shape", "dtype")}
    lines |= {"byte order": record["byte_order"], "order": f"{record['order']}, {record['storage']}"}
    if record["chunks"] is not None:
        lines |= {"chunks": cell(record["chunks"]), "maximum": cell(record["max_shape"])}
    lines["bytes"] = f"{record['bytes']}, stored in {cell(record['stored_bytes'])}{_ratio(record)}"
    if record["filters"]:
        lines["filters"] = _filters(record)
    for text in decoding(record):
        lines["decoded"] = text.partition(": ")[2]
    if record["links"]:
        lines["links"] = ", ".join(f"{cell(link['path'])} ({link['kind']})" for link in record["links"])
    return lines | groups | {f"@{cell(name)}": _cut(value) for name, value in record["attributes"].items()}


HEADERS = (
    *("input", "shape", "dtype", "order", "chunks"),
    *("filters", "groups", "attributes", "bytes", "ratio"),
)


def _header_row(record: Record) -> list[str]:
    return [
        *(cell(record[name]) for name in HEADERS[:5]),
        _filters(record) or "-",
        next((f"{word}: {_numbers(counts)}" for word, counts in record["groups"].items()), "-"),
        _cut(record["attributes"]) if record["attributes"] else "-",
        cell(record["bytes"]),
        "-" if record["ratio"] is None else f"{record['ratio']:.2f}",
    ]


def _numbers(counts: Sequence[int]) -> str:
    return " ".join(map(str, counts)) or "none"


def _ratio(record: Record) -> str:
    return "" if record["ratio"] is None else f", {record['ratio']:.2f} to 1"


def _filters(record: Record) -> str:
    return ", ".join(" ".join([cell(one["name"]), *map(str, one["options"])]) for one in record["filters"])


def _cut(value: object) -> str:
    text = ", ".join(f"{k}={v}" for k, v in value.items()) if isinstance(value, Mapping) else str(value)
    text = printable(text[: CUT + 1])
    return text if len(text) <= CUT else text[: CUT - 3] + "..."


# Of `gn diff`


def _comparison(record: Record) -> list[Part]:
    lines = {name: _side(record, name) for name in "ab"}
    for name in lines:
        if record[f"dtype_{name}"] is not None:
            lines[name] += f": {cell(record[f'dtype_{name}'])} {cell(record[f'shape_{name}'])}"
    if record["count"] is not None:
        share = f"{100 * record['share']:.3g} %"
        lines["differing"] = f"{record['differing']} of {record['count']}, {share}"
    if record["max_abs"] is not None:
        lines |= {name.replace("_", " "): cell(record[name]) for name in MEASURES}
        lines["max rel"] = _relative(record)
        lines["99.9 % ulp"] = f"{cell(record['ulp_q999'])} or less"
        lines["scaled ulp"] = f"{cell(record['scaled_ulp'])}, of the largest magnitude"
    if record["worst_index"] is not None:
        values = " and ".join(cell(record[f"worst_{name}"]) for name in "ab")
        lines["worst"] = f"{cell(record['worst_index'])}: {values}"
    if record["differing"] and record["compared"] == "by value":
        lines["would pass"] = _passing(record)
    parts: list[Part] = [_upright(lines), *decoding(record, "decoded_a"), *decoding(record, "decoded_b")]
    if record.get("group_differences"):
        names = ("sample", "group", "mean_a", "mean_b", "mean_diff", "std_a", "std_b", "std_diff")
        rows = [[cell(row[name]) for name in names] for row in record["group_differences"][:SHOWN]]
        view = [record["layout"], f"groups {record['groups']}", record["grouping"]]
        view += [ONE_SAMPLE] if record["one_sample"] else []
        parts += [f"{', '.join(view)}: the most different"]
        parts += [Grid([name.replace("_", " ") for name in names], rows, 0)]
    return [*parts, printable(record["verdict"])]


def _side(record: Record, name: str) -> str:
    """The address on one side, and which array of a pipe it is, behind the first."""
    array = f", array {record['array']}" if record["array"] and record[name] is not None else ""
    return cell(record[name]) + array


def _relative(record: Record) -> str:
    zeros = record["differing_where_b_is_0"]
    if not zeros:
        return cell(record["max_rel"])
    return f"inf ({zeros} where b is 0), {cell(record['max_rel_elsewhere'])} elsewhere"


def _passing(record: Record) -> str:
    if record["nonfinite_differing"]:
        return f"nothing; {record['nonfinite_differing']} pairs differ of which one is not finite"
    options = [
        f"{option} {record[name]!r}"
        for option, name in (("--atol", "passing_atol"), ("--max-ulp", "passing_max_ulp"))
        if record[name] is not None
    ]
    return " or ".join(options) or "nothing; the differences are beyond float64"


COMPARED = ("a", "b", "verdict", "count", "differing", "max_abs", "max_rel", "max_ulp", "scaled_ulp")


def _comparison_row(record: Record) -> list[str]:
    cells = {name: cell(record[name]) for name in COMPARED}
    cells |= {"a": _side(record, "a"), "b": _side(record, "b")}
    if record["differing_where_b_is_0"]:
        cells["max_rel"] = f"inf ({record['differing_where_b_is_0']} where b is 0)"
    return [cells[name] for name in COMPARED]


# Of `gn identify`


def _conventions(record: Record) -> list[Part]:
    head = f"{cell(record['x'])} -> {cell(record['y'])}: {record['dtype_x']} to {record['dtype_y']}"
    parts: list[Part] = [f"{head} {cell(record['shape'])}"]
    parts += [*decoding(record, "decoded_x"), *decoding(record, "decoded_y"), printable(record["verdict"])]
    rows = [
        [
            "yes" if row["match"] else "no",
            row["layout"] + (" reshaped" if row["reshaped"] else ""),
            f"{row['groups']} {row['grouping']}",
            FORMULAS[row["eps_place"], row["divide_by"]],
            row["variance"],
            row["affine"],
            row["activation"],
            row["statistics"],
            f"{row['eps']:g}" + (" fitted" if row["fitted"] else ""),
            cell(row["rms"]),
            cell(row["max_abs"]),
            cell(row["max_ulp"]),
        ]
        for row in record["candidates"]
    ]
    header = ["match", "layout", "groups", "divided by", "variance", "affine", "activation", "statistics"]
    if rows:
        parts.append(Grid([*header, "eps", "rms", "max abs", "max ulp"], rows, len(header)))
        parts.append(record["criterion"])
    parts += one_sample_notes(record["candidates"])
    commands = [row["command"] for row in record["candidates"] if row["match"] and row["command"]]
    return [*parts, printable(commands[0])] if commands else parts


FORMULAS = {
    ("inside", "std"): "sqrt(var + eps)",
    ("outside", "std"): "sqrt(var) + eps",
    ("inside", "variance"): "var + eps",
}


# Histograms


def histograms(record: Record) -> list[Part]:
    """Of a record that has any: one, or one before and one after, side by side."""
    held = record.get("histogram")
    if not held:
        return []
    several = held if "counts" not in held else {"value": held}
    columns = [column for name, one in several.items() if one for column in _bars(name, one)]
    header, rows = [column[0] for column in columns], zip(*(column[1:] for column in columns), strict=True)
    return [Grid(header, [list(row) for row in rows], len(header))] if columns else []


def _bars(name: str, histogram: Mapping[str, Sequence[float]]) -> tuple[list[str], ...]:
    """Three columns: where a bin begins, how many it holds, and a bar of that length."""
    edges = [cell(edge) for edge in histogram["edges"]]
    counts = [str(count) for count in histogram["counts"]]
    most = max(*histogram["counts"], 1)
    bars = [_bar(count / most) for count in histogram["counts"]]
    return _right([name, *edges[:-1]]), _right(["count", *counts]), ["", *bars]


def _right(texts: list[str]) -> list[str]:
    width = max(map(len, texts))
    return [text.rjust(width) for text in texts]


def _bar(share: float) -> str:
    whole, part = divmod(math.ceil(share * BAR * 8), 8)
    return "█" * whole + " ▏▎▍▌▋▊▉"[part].strip()


def reason_of(error: BaseException) -> str:
    """Return the kind of an error of another library, and the first line of its text."""
    return f"{type(error).__name__}: {error}".partition("\n")[0].rstrip(": ")
