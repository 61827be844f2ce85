"""Records in the words of a table: what a person reads of a header, a comparison, a list of conventions.

One record is a page, several are a row each: a list of lines and grids, which `report` lays out.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any, NamedTuple, TypeAlias

SHOWN = 5  # groups of a comparison
MEASURES = ("max_abs", "mean_abs", "max_rel", "max_ulp")
BAR = 16  # characters of the longest bar
OMITTED = " [... {} bytes cut ...] "
CUT = 60  # characters of attributes, in a row and in a line


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
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


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


def listing(records: Sequence[Record]) -> list[Part] | None:
    """The parts of records of one command; None where they are rows of statistics."""
    one = records[0] if len(records) == 1 else None
    if "filters" in records[0]:
        return [_upright(_header_lines(one))] if one else [_headers(records)]
    if "candidates" in records[0]:
        return _conventions(records[0])
    if "equal" in records[0]:
        return _comparison(one) if one else [_comparisons(records)]
    return None


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
    if record["links"]:
        lines["links"] = ", ".join(f"{cell(link['path'])} ({link['kind']})" for link in record["links"])
    return lines | groups | {f"@{cell(name)}": _cut(value) for name, value in record["attributes"].items()}


def _headers(records: Sequence[Record]) -> Grid:
    header = [
        "input",
        "shape",
        "dtype",
        "order",
        "chunks",
        "filters",
        "groups",
        "attributes",
        "bytes",
        "ratio",
    ]
    rows = [
        [
            *(cell(record[name]) for name in header[:5]),
            _filters(record) or "-",
            next((f"{word}: {_numbers(counts)}" for word, counts in record["groups"].items()), "-"),
            _cut(record["attributes"]) if record["attributes"] else "-",
            cell(record["bytes"]),
            "-" if record["ratio"] is None else f"{record['ratio']:.2f}",
        ]
        for record in records
    ]
    return Grid(header, rows, 8)


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
    lines = {name: cell(record[name]) for name in ("a", "b")}
    for name in lines:
        if f"shape_{name}" in record:
            lines[name] += f": {record[f'dtype_{name}']} {cell(record[f'shape_{name}'])}"
    if record["count"] is not None:
        share = f"{100 * record['share']:.3g} %"
        lines["differing"] = f"{record['differing']} of {record['count']}, {share}"
        lines |= {name.replace("_", " "): cell(record[name]) for name in MEASURES}
    if record["worst_index"] is not None:
        values = " and ".join(cell(record[f"worst_{name}"]) for name in "ab")
        lines["worst"] = f"{cell(record['worst_index'])}: {values}"
    if record["differing"]:
        lines["would pass"] = _passing(record)
    parts: list[Part] = [_upright(lines)]
    if record.get("group_differences"):
        names = ("sample", "group", "mean_a", "mean_b", "mean_diff", "std_a", "std_b", "std_diff")
        rows = [[cell(row[name]) for name in names] for row in record["group_differences"][:SHOWN]]
        parts += [f"{record['layout']}, groups {record['groups']}, {record['grouping']}: the most different"]
        parts += [Grid([name.replace("_", " ") for name in names], rows, 0)]
    return [*parts, printable(record["verdict"])]


def _passing(record: Record) -> str:
    if record["passing_atol"] is None:
        return f"nothing; {record['nonfinite_differing']} pairs differ of which one is not finite"
    return f"--atol {record['passing_atol']!r} or --max-ulp {cell(record['passing_max_ulp'])}"


def _comparisons(records: Sequence[Record]) -> Grid:
    header = ["a", "b", "verdict", "count", "differing", "max_abs", "max_rel", "max_ulp"]
    return Grid(header, [[cell(record[name]) for name in header] for record in records], 3)


# Of `gn identify`


def _conventions(record: Record) -> list[Part]:
    head = f"{cell(record['x'])} -> {cell(record['y'])}: {record['dtype_x']} to {record['dtype_y']}"
    parts: list[Part] = [f"{head} {cell(record['shape'])}", printable(record["verdict"])]
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
            cell(row["max_abs"]),
            cell(row["max_ulp"]),
        ]
        for row in record["candidates"]
    ]
    header = ["match", "layout", "groups", "divided by", "variance", "affine", "activation", "statistics"]
    if rows:
        parts.append(Grid([*header, "eps", "max abs", "max ulp"], rows, len(header)))
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
    edges = [cell(float(edge)) for edge in histogram["edges"]]
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
