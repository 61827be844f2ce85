"""How the statistics of each group differ between two tensors."""

from __future__ import annotations

from collections.abc import Iterable
from math import prod
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from gncli.layout import channel_axis, sample_axis
from gncli.rows import Rows
from gncli.stats import Parts
from gncli.tensors import Source
from gncli.verdict import GroupStatistics, Places

Floats: TypeAlias = NDArray[np.float64]

FIELDS = ("sample", "group", "mean_a", "mean_b", "std_a", "std_b", "mean_diff", "std_diff")
RANKED = 100  # groups of a record
HELD = 1 << 20  # groups whose statistics may be held for a verdict


class Groups:
    """Means and standard deviations of every group on both sides: the most different ones, ranked."""

    def __init__(self, word: str, shape: tuple[int, ...], groups: int, interleaved: bool) -> None:
        self.word, self.shape, self.groups, self.interleaved = word, shape, groups, interleaved
        self._ranked: list[tuple[float, tuple[Any, ...]]] = []
        self.channel_axis, self.sample_axis = channel_axis(word, len(shape)), sample_axis(word)
        samples = 1 if self.sample_axis is None else shape[self.sample_axis]
        self.cells = samples, groups
        self.held = np.full((4, *self.cells), np.nan) if 0 < samples * groups <= HELD else None

    @classmethod
    def of(cls, pairs: Iterable[tuple[Rows, Rows]], parts: Parts, shape: tuple[int, ...]) -> Groups:
        """Return what pairs of rows, of all groups of both sides, tell of tensors of this shape."""
        groups = cls(parts.word, shape, parts.groups, parts.interleaved)
        for a, b in pairs:
            groups._add(a, b)
        return groups

    def _add(self, a: Rows, b: Rows) -> None:
        values = np.stack([a["mean"], b["mean"], a["std"], b["std"]])
        if self.held is not None:
            self.held[:, a["sample"], a["part"]] = values
        with np.errstate(invalid="ignore"):
            off = np.stack([values[0] - values[1], values[2] - values[3]])
        apart = _apart(values, off)
        most = np.argsort(-apart, kind="stable")[:RANKED]  # of equals the first is ranked higher
        columns = a["sample"], a["part"], *values, *off
        rows = zip(*(column[most].tolist() for column in columns), strict=True)
        found = [*self._ranked, *zip(apart[most].tolist(), rows, strict=True)]
        self._ranked = sorted(found, key=lambda pair: -pair[0])[:RANKED]

    @property
    def ranked(self) -> list[dict[str, Any]]:
        """The most different groups, as in a record."""
        return [dict(zip(FIELDS, row, strict=True)) for _, row in self._ranked]

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


def _apart(values: Floats, off: Floats) -> Floats:
    """How far each group's statistics are apart; one that has them on one side only is the farthest."""
    apart: Floats = np.abs(off).max(0)  # NaN where one is
    apart[np.isnan(apart)] = np.inf
    apart[np.isnan(values[:2]).all(0)] = 0.0
    return apart
