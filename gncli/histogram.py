"""Exact histograms of tensors of any size: bins from the exact range, which an earlier pass found.

Integers beyond 2**53 are counted as integers, since float64 would move them from bin to bin.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from math import ceil, isfinite, prod, ulp
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gncli.api import DEFAULT_MEMORY
from gncli.deviations import EXACT
from gncli.executors import in_order, threads, usable_cores
from gncli.layout import Run, stretches
from gncli.progress import Progress
from gncli.tensors import left_for_blocks, open_source
from gncli.tensors.address import unchanged
from gncli.tensors.null import NullSink

BINS = 20
CHUNK = 1 << 17  # elements
NARROWEST = 1e-300  # numpy divides by the width of the range


class Histogram:
    """Counts of finite values in `bins` equal bins from `least` to `most`, the last bin closed.

    A range of one value is widened by a half to either side, as numpy does; one that has fewer float64
    than bins, until it has as many.
    """

    def __init__(self, least: float, most: float, bins: int = BINS) -> None:
        # Of a range that float64 cannot hold, in halves.
        self._by = 1.0 if isfinite(most - least) else 0.5
        self._range = widened(least * self._by, most * self._by, bins)
        self._edges = np.histogram_bin_edges(np.empty(0), bins, self._range)
        self.counts: NDArray[np.int64] = np.zeros(bins, np.int64)

    def count(self, values: NDArray[Any]) -> NDArray[np.int64]:
        """The counts of these values alone."""
        finite = values[np.isfinite(values)].astype(np.float64) * self._by
        counts, _ = np.histogram(finite, len(self.counts), self._range)
        return counts.astype(np.int64)

    def add(self, counts: NDArray[np.int64]) -> None:
        self.counts += counts

    def row(self) -> dict[str, list[Any]]:
        """As in a record: the edges of the bins, one more than there are counts."""
        return {"edges": (self._edges / self._by).tolist(), "counts": self.counts.tolist()}


def widened(low: float, high: float, bins: int) -> tuple[float, float]:
    """The range, or a wider one that can be cut into so many bins of float64 edges."""
    if low == high:
        low, high = low - 0.5, high + 0.5
    room = max(bins * ulp(max(-low, high)), NARROWEST)
    if high - low >= room:
        return low, high
    return (high - room, high) if high > -low else (low, low + room)


class HistogramSink(NullSink):
    """Counts what would be written."""

    positioned = False  # so that values come to this process

    def __init__(self, address: str, histogram: Histogram) -> None:
        super().__init__(address)
        self._histogram = histogram

    def write(self, runs: Sequence[Run], values: NDArray[Any]) -> None:
        self._histogram.add(self._histogram.count(values))


class IntegerHistogram(Histogram):
    """Counts of integers of which float64 cannot hold some.

    The edges are those of equal bins, rounded up to integers; this moves no integer from bin to bin.
    """

    _edges: list[int]  # type: ignore[assignment]  # exact, where float64 is not

    def __init__(self, least: int, most: int, bins: int = BINS) -> None:
        self._least = least
        low, high = Fraction(least), Fraction(most)
        if low == high:
            low, high = low - Fraction(1, 2), high + Fraction(1, 2)
        self._integers = [ceil(low + (high - low) * index / bins) for index in range(bins + 1)]
        # The first edge is the least element, and the last bin is closed.
        self._starts = np.array([edge - least for edge in self._integers[1:-1]], np.uint64)
        self.counts = np.zeros(bins, np.int64)

    def count(self, values: NDArray[Any]) -> NDArray[np.int64]:
        # Modulo 2**64, as the difference of any two 64-bit integers fits uint64.
        above = values.astype(np.uint64) - np.uint64(self._least % 2**64)
        place = np.searchsorted(self._starts, above, side="right")
        return np.bincount(place, minlength=len(self.counts)).astype(np.int64)

    def row(self) -> dict[str, list[Any]]:
        return {"edges": self._integers, "counts": self.counts.tolist()}


def of_statistics(statistics: Mapping[str, Any], bins: int = BINS) -> Histogram | None:
    """An empty histogram of the range in a record's statistics; None where nothing is finite."""
    if statistics["count"] == statistics["nan"] + statistics["inf"]:
        return None
    least, most = statistics["min"], statistics["max"]
    if isinstance(least, int) and max(-least, most) > EXACT:
        return IntegerHistogram(least, most, bins)
    return Histogram(least, most, bins)


def fill(
    histogram: Histogram | None,
    address: str,
    jobs: int | None,
    progress: bool | None,
    *,
    memory: int = DEFAULT_MEMORY,
    external: bool = False,
    as_stored: bool = False,
) -> dict[str, list[Any]] | None:
    """The row of `histogram` with what stands at `address`, read once. Raises GnError.

    It has been read, or written, before: what it declares to hold was believed then.
    """
    if histogram is None:
        return None
    source = open_source(address, external=external, force=True, as_stored=as_stored)
    try:
        size = prod(source.shape)
        _, workers = left_for_blocks(source, memory, jobs or usable_cores())

        def task(run: Run) -> tuple[int, NDArray[np.int64]]:
            return run[1], histogram.count(source.read([run], np.empty(run[1], source.dtype)))

        nbytes = size * source.dtype.itemsize
        watching = Progress(f"{address}: histogram", nbytes, progress)
        with unchanged(address), watching as watch, threads(workers) as executor:
            for done, counts in in_order(executor, task, stretches(size, CHUNK), 2 * workers):
                histogram.add(counts)
                watch.advance(done * source.dtype.itemsize)
    finally:
        source.close()
    return histogram.row()
