"""How the statistics of each group differ between two tensors."""

from __future__ import annotations

from collections.abc import Iterator
from heapq import nlargest
from math import inf, isnan, prod
from typing import Any

import numpy as np

from gncli.layout import Layout, channel_axis, group_count, is_interleaved, sample_axis
from gncli.tensors import Source
from gncli.verdict import GroupStatistics, Places

RANKED = 100  # groups of a record
HELD = 1 << 20  # groups whose statistics may be held for a verdict


class Groups:
    """Means and standard deviations of every group on both sides: the most different ones, ranked."""

    def __init__(self, word: str, shape: tuple[int, ...], groups: int, interleaved: bool) -> None:
        self.word, self.shape, self.groups, self.interleaved = word, shape, groups, interleaved
        self.ranked: list[dict[str, Any]] = []
        self.channel_axis, self.sample_axis = channel_axis(word, len(shape)), sample_axis(word)
        samples = 1 if self.sample_axis is None else shape[self.sample_axis]
        self.cells = samples, groups
        self.held = np.full((4, *self.cells), np.nan) if 0 < samples * groups <= HELD else None

    @classmethod
    def of(
        cls, rows: Iterator[tuple[dict[str, Any], ...]], shape: tuple[int, ...], chosen: dict[str, Any]
    ) -> Groups:
        word = Layout.parse(chosen["layout"] or "channels_first").on(shape).word
        channels = shape[channel_axis(word, len(shape))]
        count = group_count(channels, chosen["groups"], chosen["channels_per_group"])
        groups = cls(word, shape, count, is_interleaved(chosen["grouping"]))
        groups.ranked = nlargest(RANKED, map(groups._row, rows), key=_apart)
        return groups

    def _row(self, sides: tuple[dict[str, Any], ...]) -> dict[str, Any]:
        a, b = sides
        values = a["mean"], b["mean"], a["std"], b["std"]
        cell = a["sample"], a["group"]
        if self.held is not None:
            self.held[:, *cell] = values
        row = dict(zip(("sample", "group", "mean_a", "mean_b", "std_a", "std_b"), cell + values, strict=True))
        return row | {"mean_diff": values[0] - values[1], "std_diff": values[2] - values[3]}

    def record(self) -> dict[str, object]:
        grouping = "interleaved" if self.interleaved else "contiguous"
        head = {"layout": self.word, "groups": self.groups, "grouping": grouping}
        return head | {"one_sample": self.sample_axis is None, "group_differences": self.ranked}

    def statistics(self, source: Source) -> GroupStatistics:
        assert self.held is not None

        def cell(places: Places) -> tuple[Any, Any]:
            channel = self._along(self.channel_axis, source.fortran, places)
            group = channel % self.groups if self.interleaved else channel // self._per_group
            sample = self.sample_axis
            return 0 if sample is None else self._along(sample, source.fortran, places), group

        mean_a, mean_b, std_a, std_b = self.held
        return GroupStatistics(mean_a, std_a, mean_b, std_b, cell, f"{self.word}, {self.groups} groups")

    @property
    def _per_group(self) -> int:
        return max(1, self.shape[self.channel_axis] // self.groups)

    def _along(self, axis: int, fortran: bool, places: Places) -> Places:
        """The index on that axis of places in storage order."""
        run = prod(self.shape[:axis] if fortran else self.shape[axis + 1 :])
        return places // run % self.shape[axis]


def _apart(row: dict[str, Any]) -> float:
    """How far a group's statistics are apart; one that has them on one side only is the farthest."""
    if isnan(row["mean_a"]) and isnan(row["mean_b"]):
        return 0.0
    apart = max(abs(row["mean_diff"]), abs(row["std_diff"]))
    return inf if isnan(apart) else apart
