"""Exact histograms of tensors of any size: bins from the exact range, which an earlier pass found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isfinite, prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gncli.executors import in_order, threads, usable_cores
from gncli.layout import Run, stretches
from gncli.progress import Progress
from gncli.tensors import open_source
from gncli.tensors.address import unchanged
from gncli.tensors.null import NullSink

BINS = 20
CHUNK = 1 << 17  # elements


class Histogram:
    """Counts of finite values in `bins` equal bins from `least` to `most`, the last bin closed.

    A range of one value is widened by a half to either side, as numpy does.
    """

    def __init__(self, least: float, most: float, bins: int = BINS) -> None:
        # Of a range that float64 cannot hold, in halves.
        self._by = 1.0 if isfinite(most - least) else 0.5
        self._range = least * self._by, most * self._by
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


class HistogramSink(NullSink):
    """Counts what would be written."""

    positioned = False  # so that values come to this process

    def __init__(self, address: str, histogram: Histogram) -> None:
        super().__init__(address)
        self._histogram = histogram

    def write(self, runs: Sequence[Run], values: NDArray[Any]) -> None:
        self._histogram.add(self._histogram.count(values))


def of_statistics(statistics: Mapping[str, Any], bins: int = BINS) -> Histogram | None:
    """An empty histogram of the range in a record's statistics; None where nothing is finite."""
    if statistics["count"] == statistics["nan"] + statistics["inf"]:
        return None
    return Histogram(statistics["min"], statistics["max"], bins)


def fill(
    histogram: Histogram | None,
    address: str,
    jobs: int | None,
    progress: bool | None,
    *,
    external: bool = False,
) -> dict[str, list[Any]] | None:
    """The row of `histogram` with what stands at `address`, read once. Raises GnError."""
    if histogram is None:
        return None
    source = open_source(address, external=external)
    try:
        size = prod(source.shape)
        workers = jobs or usable_cores()

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
