"""What pictures show, gathered in passes of their own: behind --plot."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from gncli.compare import Pair
from gncli.difference import Floats, widened
from gncli.histogram import Histogram
from gncli.layout import Layout, Run, channel_axis, group_count, sample_axis
from gncli.plot import Map, draw_difference, draw_tensor
from gncli.stats import Measuring, file_rows

Exponents: TypeAlias = Counter[tuple[int | None, int]]

BINS = 100
CHANNELS = {"groups": None, "channels_per_group": 1, "layout": None, "grouping": "contiguous"}
CELLS = 1 << 20  # of a heat map: the first samples are shown where there are more


def plot_tensor(
    path: str, record: Mapping[str, Any], chosen: Mapping[str, Any], *, asked: bool = True
) -> None:
    """Histograms of a record that has them, and the statistics of every group of its input. Raises GnError.

    `chosen`: options of `tensor_stats`. Where the groups do not divide and nobody `asked` for them, each
    channel is one.
    """
    held = record.get("histogram") or {}
    rows = {"value": held} if "counts" in held else {name: row for name, row in held.items() if row}
    shape = tuple(record["shape"])
    title = f"{record['input']}: {record['dtype']} {shape}"
    maps = []
    if len(shape) > 1 and 0 not in shape:
        word = Layout.parse(chosen["layout"] or "channels_first").on(shape).word
        channels = shape[channel_axis(word, len(shape))]
        given = chosen["channels_per_group"] or chosen["groups"]
        by = "group" if asked or channels % given == 0 else "channel"
        title += f" {word}" + (f", {channels} channels by {by}" if by == "channel" else "")
        parts = channels if by == "channel" else group_count(channels, *_groups(chosen))
        means, stds = _cells(record["input"], by, shape, word, parts, chosen)
        part = by if parts <= CELLS else f"{by}, the first {CELLS} of {parts}"
        when = " before" if "before" in rows else ""
        both = bool(np.nanmin(means, initial=0.0) < 0 < np.nanmax(means, initial=0.0))
        maps = [Map(f"mean{when}", means, part, both), Map(f"standard deviation{when}", stds, part, False)]
    draw_tensor(path, title, rows, maps)


def _cells(
    address: str, by: str, shape: tuple[int, ...], word: str, parts: int, chosen: Mapping[str, Any]
) -> tuple[Floats, Floats]:
    """Return means and standard deviations, (samples, parts): the first `CELLS` of them. Raises GnError."""
    axis = sample_axis(word)
    cells = min(1 if axis is None else shape[axis], max(1, CELLS // parts)), min(parts, CELLS)
    means, stds = np.full(cells, np.nan), np.full(cells, np.nan)
    how = Measuring(
        **{name: chosen[name] for name in ("jobs", "memory", "dask", "progress") if name in chosen}
    )
    names = ("groups", "channels_per_group", "layout", "grouping", "allow_external", "raw")
    options = {name: chosen[name] for name in names if name in chosen}
    with closing(file_rows(address, ("sample", by), how, **options)) as pieces:
        for rows in pieces:
            shown = rows[(rows["sample"] < cells[0]) & (rows["part"] < cells[1])]
            for array, name in ((means, "mean"), (stds, "std")):
                array[shown["sample"], shown["part"]] = shown[name]
            if rows["sample"][-1] >= cells[0] or (cells[0] == 1 and rows["part"][-1] >= cells[1]):
                break
    return means, stds


def _groups(chosen: Mapping[str, Any]) -> tuple[int | None, int | None]:
    return chosen["groups"], chosen["channels_per_group"]


@dataclass(frozen=True)
class DifferencePicture:
    """What a picture of two tensors shows; gathered while they are open, drawn once all was read."""

    histogram: Histogram
    exponents: Exponents
    maps: list[Map]

    def draw(self, path: str, title: str) -> None:
        """Raises GnError."""
        draw_difference(path, title, self.histogram.row(), self.exponents, self.maps)


def difference_picture(pair: Pair, record: Mapping[str, Any]) -> DifferencePicture:
    """Return the picture of a pair that has one shape, and this record. Raises GnError."""
    most = record["max_abs"] or 0.0
    histogram = Histogram(-most, most, BINS + 1)
    exponents = _exponents(pair, histogram)
    maps = []
    if len(pair.a.shape) > 1 and record["count"]:
        groups = pair.groups(pair.options.groups or CHANNELS)
        if groups is not None and groups.held is not None:
            mean_a, mean_b, std_a, std_b = groups.held
            part = "group" if pair.options.groups is not None else "channel"
            maps = [
                Map("mean of a - mean of b", mean_a - mean_b, part, True),
                Map("std of a - std of b", std_a - std_b, part, True),
            ]
    return DifferencePicture(histogram, exponents, maps)


def _exponents(pair: Pair, histogram: Histogram) -> Exponents:
    """Fill the histogram of a - b; return the powers of two below |b| and |a - b|, where these differ.

    None stands for that of a b that is 0. Of complex numbers, the histogram is of |a - b|.
    """

    def work(a: Floats, b: Floats, runs: list[Run]) -> tuple[Any, Exponents]:
        with np.errstate(all="ignore"):
            x, y = widened(a, b)
            error = np.asarray(np.abs(x - y) if x.dtype.kind == "c" else x - y, np.float64)
            sound = np.isfinite(error) & (error != 0)
            off, size = error[sound], np.asarray(np.abs(y), np.float64)[sound]
            across, up = (np.frexp(v)[1] - 1 for v in (size, off))
        pairs, counts = np.unique(np.stack([size == 0, across, up]), axis=1, return_counts=True)
        found = {
            (None if zero else int(i), int(j)): int(n)
            for (zero, i, j), n in zip(pairs.T, counts, strict=True)
        }
        return histogram.count(error), Counter(found)

    total: Exponents = Counter()
    for counts, exponents in pair.both.each(pair.a, pair.b, work):
        histogram.add(counts)
        total += exponents
    return total
