"""Statistics of every group as rows of arrays: in the order of the samples, however the tensor is stored."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from gncli.engine import measure_groups
from gncli.errors import OutputError
from gncli.moments import NOTHING, Moments
from gncli.plan import Plan
from gncli.tensors import Source
from gncli.tensors.address import reason

Rows: TypeAlias = NDArray[np.void]  # 1-D, with the fields of `row_dtype`

STATISTICS = ("count", "mean", "std", "min", "max", "nan", "inf")
STRIP = 1 << 16  # rows of a temporary file that are turned at once


def row_dtype(dtype: np.dtype[Any]) -> np.dtype[np.void]:
    """Return the fields of a row: which sample and part (group or channel) it is of, and the statistics.

    Extremes of integers are integers, which float64 might round.
    """
    extreme = f"{dtype.kind}8" if dtype.kind in "iu" else "f8"
    kinds = ("i8", "i8", "i8", "f8", "f8", extreme, extreme, "i8", "i8")
    return np.dtype(list(zip(("sample", "part", *STATISTICS), kinds, strict=True)))


def rows_of_groups(
    source: Source, cut: Plan, executor: Executor, advance: Callable[[int], None], room: int
) -> Iterator[Rows]:
    """Yield the statistics of all groups, some thousands of rows at a time, sample by sample.

    Where groups come before samples in storage, all are needed before the first sample is known. They take
    `room` bytes of memory, and beyond that a temporary file. Raises OutputError where that has no room.
    """
    kind, samples_first = row_dtype(source.dtype), cut.geometry.samples_first
    first, second = cut.geometry.cells
    if cut.geometry.size == 0:
        yield from _empty(kind, *((first, second) if samples_first else (second, first)))
        return
    found = (
        _rows(kind, moments, *cut.box(window.box)[1::2], samples_first=samples_first)
        for window, moments in measure_groups(source, cut, executor, advance)
    )
    if samples_first:
        yield from (rows.reshape(-1) for rows in found)
    else:
        yield from _by_sample(found, (first, second), kind, room, source.address)


def _rows(
    kind: np.dtype[np.void],
    moments: Moments,
    firsts: tuple[int, int],
    seconds: tuple[int, int],
    *,
    samples_first: bool,
) -> Rows:
    """The rows of a window, (first, second), from moments of that shape."""
    shape = firsts[1] - firsts[0], seconds[1] - seconds[0]
    rows = np.zeros(shape, kind)
    names = ("sample", "part") if samples_first else ("part", "sample")
    rows[names[0]] = np.arange(*firsts)[:, None]
    rows[names[1]] = np.arange(*seconds)
    for name, values in moments.columns().items():
        rows[name] = values
    return rows


def _by_sample(
    found: Iterable[Rows], cells: tuple[int, int], kind: np.dtype[np.void], room: int, address: str
) -> Iterator[Rows]:
    """Yield rows that come as (parts, samples), part by part, in the order of the samples.

    `cells` is their shape in all.
    """
    parts, samples = cells
    wide = max(1, min(samples, STRIP // parts))  # samples that are read back at once, of so many parts:
    high = min(parts, STRIP)
    with tempfile.SpooledTemporaryFile(max_size=room, prefix="gn-") as file:
        try:
            for rows in found:  # which are in the order of storage
                file.write(rows.tobytes())
        except OSError as error:
            where = f"no room in {tempfile.gettempdir()} for the statistics of all groups"
            raise OutputError(f"{where}: {reason(error)}; set TMPDIR", address=address) from None
        for sample in range(0, samples, wide):
            for part in range(0, parts, high):
                strip = np.empty((min(high, parts - part), min(wide, samples - sample)), kind)
                for number, line in enumerate(strip, part):
                    file.seek((number * samples + sample) * kind.itemsize)
                    line[:] = np.frombuffer(file.read(line.nbytes), kind)
                yield strip.T.reshape(-1)


def _empty(kind: np.dtype[np.void], samples: int, parts: int) -> Iterator[Rows]:
    """Rows of groups that have no elements."""
    nothing = NOTHING.row()
    for start in range(0, samples * parts, STRIP):
        rows = np.zeros(min(STRIP, samples * parts - start), kind)
        place = np.arange(start, start + len(rows))
        rows["sample"], rows["part"] = place // parts, place % parts
        for name in ("mean", "std"):
            rows[name] = nothing[name]
        yield rows


def as_dicts(rows: Rows) -> Iterator[tuple[int, int, dict[str, int | float]]]:
    """Yield (sample, part, statistics by name) of each row; NaN where there is no finite element."""
    columns = [rows[name].tolist() for name in ("sample", "part", *STATISTICS)]
    for sample, part, *values in zip(*columns, strict=True):
        row = dict(zip(STATISTICS, values, strict=True))
        if row["count"] == row["nan"] + row["inf"]:
            row |= dict.fromkeys(("mean", "std", "min", "max"), float("nan"))
        yield sample, part, row


def side_by_side(some: Iterable[Rows], others: Iterable[Rows]) -> Iterator[tuple[Rows, Rows]]:
    """Yield the same rows of both, which come in pieces of different lengths and are as many."""
    rest = iter(others)
    theirs: Rows | None = None
    for ours in some:
        while len(ours):
            if theirs is None or not len(theirs):
                theirs = next(rest)
            count = min(len(ours), len(theirs))
            yield ours[:count], theirs[:count]
            ours, theirs = ours[count:], theirs[count:]
    for _ in rest:  # to its end, where it is seen whether the file has changed
        pass
