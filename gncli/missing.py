"""Moments of tiles in which elements are missing.

A missing element of a decoded dataset is the positive NaN, any other NaN has its sign set (see
`tensors.decoding`). The elements that are there are moved together and measured as one run.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gncli.masks import Flags
from gncli.measure import Left, measure, measure_any
from gncli.moments import NOTHING, Moments, join, merge, stack
from gncli.scratch import Scratch
from gncli.tensors import Source, decoding_of
from gncli.tile import Form, Row

_LARGE_CELL = 2048  # elements: of smaller ones there may be many, which are measured all at once
_SPLIT = 16384  # elements: longer runs are worth a second call, so that the first takes compiled passes


def find_missing(values: NDArray[Any]) -> Flags | None:
    """Which elements are missing; None if none is."""
    if values.dtype.kind != "f":
        return None
    missing: Flags = np.isnan(values)
    if not missing.any():
        return None
    missing &= ~np.signbit(values)
    return missing if missing.any() else None


def may_miss(source: Source) -> bool:
    """Whether values of `source` may be missing."""
    decoding = decoding_of(source)
    return decoding is not None and decoding.masks


def count_missing(source: Source, values: NDArray[Any]) -> int:
    """The number of missing ones among values of `source`."""
    missing = find_missing(values) if may_miss(source) else None
    return 0 if missing is None else int(np.count_nonzero(missing))


def measure_present(
    form: Form, tile: NDArray[Any], missing: Flags | None, scratch: Scratch, twofold: bool = False
) -> tuple[Moments, Left]:
    """As `measure`, of the elements of a tile that are not `missing` (five axes each)."""
    if missing is None:
        return measure(form, tile, scratch, twofold)
    if form.each < _LARGE_CELL and form.cells != (1, 1):
        moments, _ = measure_any(form, tile, scratch, twofold)
        absent = moments.nan
        if np.count_nonzero(missing) < absent.sum():  # there is another NaN
            absent = form.reduce(np.add, form.load(missing, scratch.work))
        return moments._replace(size=moments.size - absent, nan=moments.nan - absent), Left.NOTHING
    there = ~_by_cells(form, missing)
    # By index: with a mask, numpy takes four times as long where missing values are here and there.
    values = _by_cells(form, tile).take(np.flatnonzero(there))
    stops = np.cumsum(np.count_nonzero(there, axis=1)).tolist()
    runs = pairwise([0, *stops])
    cells = [_measure_run(values[start:stop], scratch, twofold) for start, stop in runs]
    return _merge_each(cells).map(lambda values: form.pick(values.reshape(form.cells))), Left.NOTHING


def _by_cells(form: Form, array: NDArray[Any]) -> NDArray[Any]:
    """The elements of a tile, a row for each of its cells."""
    dtype, width = array.dtype, array.shape[4] * array.itemsize
    if width in (2, 4, 8) and array.strides[4] == array.itemsize:  # a short line is moved as one number
        array = array.view(f"u{width}")
    rows = np.ascontiguousarray(array.transpose(1, 3, 0, 2, 4)).view(dtype)
    return rows.reshape(form.cells[0] * form.cells[1], form.each)


def _measure_run(values: NDArray[Any], scratch: Scratch, twofold: bool) -> list[Moments]:
    """Moments of values of one cell, 1-D: of one part or of two."""
    whole = values.size - values.size % Run.CHUNK if values.size >= _SPLIT else 0
    runs = [run for run in (values[:whole], values[whole:]) if run.size]
    parts = [measure(_form(run.size), run.reshape(1, 1, 1, 1, -1), scratch, twofold)[0] for run in runs]
    return parts or [NOTHING]


def _merge_each(cells: list[list[Moments]]) -> Moments:
    """Merge the parts of each cell; of all cells at once, since a merge takes as long for one."""
    one = [at for at, parts in enumerate(cells) if len(parts) == 1]
    two = [at for at, parts in enumerate(cells) if len(parts) == 2]
    found = [stack([cells[at][0] for at in one])] if one else []
    if two:
        found.append(merge(stack([stack([cells[at][part] for at in two]) for part in (0, 1)])))
    order = np.argsort(one + two)
    return join(found, axis=0).map(lambda values: values[order])


class Run(Row):
    """Any number of elements of one cell, in chunks if they make up whole ones.

    Unlike that of other forms, its chunks are not fitted to the number, which would take longer than the sum.
    """

    CHUNK = 512

    def __init__(self, size: int) -> None:
        Form.__init__(self, (1, 1, 1, 1, size))
        self.step = size
        self._split = (1, 1, 1, 1, 1, size)
        self.chunks = (1, 1, 1, 1, size // self.CHUNK, self.CHUNK) if size % self.CHUNK == 0 else None
        self.lines = self.chunks is not None
        self._ones = np.ones(self.CHUNK)
        self.count, self.none, self.one = self.each, 0.0, 1.0


@lru_cache(maxsize=1024)
def _form(size: int) -> Run:
    return Run(size)
