"""Two tensors side by side, read once each: behind `gn diff`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from heapq import nlargest
from itertools import chain, repeat
from math import inf, isnan, prod
from typing import Any, TypeAlias

import numpy as np

from gncli.api import DEFAULT_MEMORY
from gncli.crew import Crew
from gncli.difference import Differences, Floats, Tolerance, differences
from gncli.errors import AddressError, GnError
from gncli.executors import in_order, threads
from gncli.layout import Layout, Run, group_count, is_interleaved, stretches
from gncli.missing import count_missing
from gncli.progress import Progress
from gncli.stats import tensor_stats
from gncli.tensors import Source, decoded, expand, open_seekable
from gncli.tensors.address import split
from gncli.tensors.pipe import stream_at
from gncli.tensors.reordered import reordered
from gncli.verdict import (
    GroupStatistics,
    Guess,
    Places,
    affine,
    byte_swapped,
    holds,
    per_group,
    same_up_to_rounding,
    some_places,
    take,
    transposed,
)

Work: TypeAlias = Callable[[Floats, Floats, int], Any]  # a, b, and the place of their first elements

CHUNK = 1 << 17  # elements: a few arrays of float64 of it stay in the caches
TOGETHER = 256  # chunks of a task on a cluster
WORST = ("worst_index", "worst_a", "worst_b")
RANKED = 100  # groups of a record
HELD = 1 << 20  # groups whose statistics may be held for a verdict


@dataclass(frozen=True)
class Comparison:
    """What the options of `gn diff` say. `groups`: options of `stats` that split by group, or None."""

    tolerance: Tolerance = field(default_factory=Tolerance)
    groups: dict[str, Any] | None = None
    jobs: int | None = None
    memory: int = DEFAULT_MEMORY
    dask: str | None = None
    progress: bool | None = False
    allow_external: bool = False
    raw: bool = False


def pairs(a: str, b: str, *, allow_external: bool = False) -> list[tuple[str | None, str | None]]:
    """Which tensors are to be compared; None for what the other side lacks. Raises GnError.

    One tensor with one; but of two HDF5 files, or globs, dataset by dataset of the same path.
    """
    sides = [expand(given, external=allow_external) for given in (a, b)]
    files = [split(given)[1] is None and "::" in found[0] for given, found in zip((a, b), sides, strict=True)]
    if [len(found) for found in sides] == [1, 1] and not all(files):
        return [(sides[0][0], sides[1][0])]
    for given, found in zip((a, b), sides, strict=True):
        if "::" not in found[0]:
            raise AddressError("is one tensor, the other side several; name one there", address=given)
    first, second = ({address.rpartition("::")[2]: address for address in found} for found in sides)
    return [(first.get(name), second.get(name)) for name in sorted({*first, *second})]


def compare_files(a: str | None, b: str | None, options: Comparison) -> dict[str, object]:
    """The record of two tensors; of one that has no counterpart, that. Raises GnError."""
    head: dict[str, object] = {"schema": 1, "a": a, "b": b}
    if a is None or b is None:
        only = "a" if b is None else "b"
        return head | {"equal": False, **_nothing(), "verdict": f"only in {only}"}
    with opened(a, b, options) as pair:
        return head | pair.record()


@contextmanager
def opened(a: str, b: str, options: Comparison) -> Iterator[Pair]:
    """Both tensors, for as long as the context lasts. Raises GnError, blamed on `a` for want of another."""
    with ExitStack() as stack:
        sources = []
        for address in (a, b):
            sources.append(open_seekable(address, external=options.allow_external, as_stored=options.raw))
            stack.callback(sources[-1].close)
        try:
            piped = any(stream_at(split(address)[0]) is not None for address in (a, b))
            Crew.refuse_pipes(options.dask, piped=piped)
            yield Pair(sources[0], sources[1], options, stack)
        except GnError as error:
            raise error.at(a) from None


def _nothing() -> dict[str, object]:
    """What a comparison would tell, where there is none."""
    return dict.fromkeys((*Differences().row(), *WORST)) | {"equal": False}


class Pair:
    """Two open tensors. They are read in one order: where theirs differ, `a` or `b` is a copy."""

    def __init__(self, a: Source, b: Source, options: Comparison, stack: ExitStack) -> None:
        self.options, self.stack = options, stack
        self.crew = Crew.of(options.jobs, options.memory, options.dask)
        self.jobs = self.crew.jobs
        self.given = a, b
        together = a.shape == b.shape and a.fortran == b.fortran
        self.a, self.b = (a, b) if together else (self._in_c_order(a), self._in_c_order(b))

    def _in_c_order(self, source: Source) -> Source:
        return self._copy(source, tuple(range(len(source.shape)))) if source.fortran else source

    def _copy(self, source: Source, axes: tuple[int, ...]) -> Source:
        copy = reordered(source, axes)
        self.stack.callback(copy.close)
        return copy

    def record(self) -> dict[str, object]:
        """All that is told of the pair, but for its names."""
        a, b = self.a, self.b
        head: dict[str, object] = {
            "equal": False,
            "shape_a": list(a.shape),
            "shape_b": list(b.shape),
            "dtype_a": a.dtype.name,
            "dtype_b": b.dtype.name,
        }
        if a.shape != b.shape:
            words = self._first(transposed(a.shape, b.shape))
            return head | _nothing() | {"verdict": "; ".join(["the shapes differ", *words])}
        found, missing = self._differences()
        head |= found.row() | self._worst(found)
        for side, source, count in zip("ab", self.given, missing, strict=True):
            head |= decoded(source, count, f"decoded_{side}")
        groups = None if self.options.groups is None else self.groups(self.options.groups)
        verdict = ["equal within the tolerance" if found.max_abs else "equal"]
        if found.differing:
            verdict = ["different", *self._why(found, groups)]
        if a.dtype.kind != b.dtype.kind:
            head["equal"] = False
            verdict.insert(0, f"the kinds of dtype differ, {a.dtype.name} and {b.dtype.name}")
        return head | {"verdict": "; ".join(verdict)} | (groups.record() if groups else {})

    def _differences(self) -> tuple[Differences, tuple[int, int]]:
        """The differences, and how many values are missing in a and in b."""
        tolerance, (a, b) = self.options.tolerance, self.given

        def compare(x: Floats, y: Floats, start: int) -> tuple[Differences, int, int]:
            return differences(x, y, start, tolerance), count_missing(a, x), count_missing(b, y)

        total, missing_a, missing_b = Differences(), 0, 0
        for part, in_a, in_b in self.each(self.a, self.b, compare):
            total, missing_a, missing_b = total + part, missing_a + in_a, missing_b + in_b
        return total, (missing_a, missing_b)

    def _worst(self, found: Differences) -> dict[str, object]:
        if found.worst < 0:
            return dict.fromkeys(WORST)
        order: Any = "F" if self.a.fortran else "C"
        index = [int(i) for i in np.unravel_index(found.worst, self.a.shape, order)]
        return dict(zip(WORST, (index, found.worst_a, found.worst_b), strict=True))

    def each(self, a: Source, b: Source, work: Work) -> Iterator[Any]:
        """What `work` makes of each piece of both, in order."""

        def task(run: Run) -> Any:
            x, y = (source.read([run], np.empty(run[1], source.dtype)) for source in (a, b))
            return work(x, y, run[0])

        size, each = prod(a.shape), a.dtype.itemsize + b.dtype.itemsize
        label = f"{a.address} and {b.address}"
        cluster = self.crew.cluster if (a, b) == self.given else None  # copies are of this machine
        lots = repeat(1 if cluster is None else TOGETHER)
        with (
            Progress(label, size * each, self.options.progress) as watch,
            threads(self.jobs) if cluster is None else nullcontext(cluster) as executor,
        ):
            for result in in_order(executor, task, stretches(size, CHUNK), 2 * self.jobs, lots):
                watch.advance(CHUNK * each)
                yield result

    def _why(self, found: Differences, groups: Groups | None) -> list[str]:
        """The first guess that holds, in a list; none if none does."""
        a, b = self.a, self.b
        if same_up_to_rounding(found, a.dtype, b.dtype):
            return ["same up to rounding"]
        some = self._some(None)
        return self._first(
            chain(
                byte_swapped(a.dtype, b.dtype),
                affine(*some[:2]) if not found.odd else (),
                per_group(groups.statistics(a)) if groups and groups.held is not None else (),
                transposed(a.shape, b.shape),
            )
        )

    def _first(self, guesses: Iterable[Guess]) -> list[str]:
        for guess in guesses:
            if holds(guess, *self._some(guess.axes)) and self._confirmed(guess):
                return [guess.words]
        return []

    def _some(self, axes: tuple[int, ...] | None) -> tuple[Floats, Floats, Places]:
        """Some elements of both, and where they stand; of `a` transposed by `axes`, b in C order."""
        places = some_places(prod(self.b.shape))
        if axes is None:
            return take(self.a, places), take(self.b, places), places
        b = self.b
        indices = np.unravel_index(places, [self.a.shape[axis] for axis in axes])
        index = [indices[axes.index(axis)] for axis in range(len(axes))]
        there = np.ravel_multi_index(index, self.a.shape, order="F" if self.a.fortran else "C")
        here = places
        if b.fortran:
            here = np.ravel_multi_index(np.unravel_index(places, b.shape), b.shape, order="F")
        return take(self.a, there), take(b, here), places

    def _confirmed(self, guess: Guess) -> bool:
        a, b = self.a, self.b
        if guess.axes is not None:
            a, b = self._copy(a, guess.axes), self._in_c_order(b)

        def check(a: Floats, b: Floats, start: int) -> bool:
            return holds(guess, a, b, np.arange(start, start + a.size))

        return all(self.each(a, b, check))

    def groups(self, chosen: dict[str, Any]) -> Groups:
        """Their statistics, from a pass over each."""
        chosen = chosen | {"jobs": self.options.jobs, "memory": self.options.memory}
        chosen |= {"by": ("sample", "group"), "progress": self.options.progress, "dask": self.options.dask}
        sides = [tensor_stats(source, source.address, **chosen) for source in self.given]
        return Groups.of(zip(*sides, strict=True), self.a.shape, chosen)


class Groups:
    """Means and standard deviations of every group on both sides: the most different ones, ranked."""

    def __init__(self, word: str, shape: tuple[int, ...], groups: int, interleaved: bool) -> None:
        self.word, self.shape, self.groups, self.interleaved = word, shape, groups, interleaved
        self.ranked: list[dict[str, Any]] = []
        samples = shape[word.index("N")] if "N" in word else 1
        self.cells = samples, groups
        self.held = np.full((4, *self.cells), np.nan) if 0 < samples * groups <= HELD else None

    @classmethod
    def of(
        cls, rows: Iterator[tuple[dict[str, Any], ...]], shape: tuple[int, ...], chosen: dict[str, Any]
    ) -> Groups:
        word = Layout.parse(chosen["layout"] or "channels_first").on(shape).word
        count = group_count(shape[word.index("C")], chosen["groups"], chosen["channels_per_group"])
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
        return head | {"group_differences": self.ranked}

    def statistics(self, source: Source) -> GroupStatistics:
        assert self.held is not None

        def cell(places: Places) -> tuple[Any, Any]:
            channel = self._along("C", source.fortran, places)
            group = channel % self.groups if self.interleaved else channel // self._per_group
            return (self._along("N", source.fortran, places) if "N" in self.word else 0), group

        mean_a, mean_b, std_a, std_b = self.held
        return GroupStatistics(mean_a, std_a, mean_b, std_b, cell, f"{self.word}, {self.groups} groups")

    @property
    def _per_group(self) -> int:
        return max(1, self.shape[self.word.index("C")] // self.groups)

    def _along(self, letter: str, fortran: bool, places: Places) -> Places:
        """The index on the axis of that letter, of places in storage order."""
        axis = self.word.index(letter)
        run = prod(self.shape[:axis] if fortran else self.shape[axis + 1 :])
        return places // run % self.shape[axis]


def _apart(row: dict[str, Any]) -> float:
    """How far a group's statistics are apart; one that has them on one side only is the farthest."""
    if isnan(row["mean_a"]) and isnan(row["mean_b"]):
        return 0.0
    apart = max(abs(row["mean_diff"]), abs(row["std_diff"]))
    return inf if isnan(apart) else apart
