"""Two tensors side by side, read once each: behind `gn diff`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import numpy as np

from gncli.abreast import Abreast
from gncli.api import DEFAULT_MEMORY
from gncli.boxes import place_at, places_of
from gncli.crew import Crew
from gncli.difference import Differences, Floats, Tolerance, differences, ulp_at
from gncli.equality import ValuePair
from gncli.errors import GnError
from gncli.explain import confirmed, likely, reordered_axes
from gncli.groupwise import Groups
from gncli.layout import Run
from gncli.matching import Match, read_alone
from gncli.missing import count_missing
from gncli.rows import side_by_side
from gncli.stats import Measuring, Parts, part_rows
from gncli.tensors import Source, decoded, require_decodable
from gncli.tensors.address import split, unchanged
from gncli.tensors.pipe import stream_at
from gncli.tensors.values import Values, open_any
from gncli.verdict import Guess, holds, per_group, same_up_to_rounding

Record: TypeAlias = dict[str, Any]

WORST = ("worst_index", "worst_a", "worst_b")
# The fields of every record, in order; None stands for what there is nothing to tell of.
FIELDS = (
    *("schema", "a", "b", "array", "equal", "compared", "shape_a", "shape_b", "dtype_a", "dtype_b"),
    *Differences().row(),
    *WORST,
    *("decoded_a", "decoded_b", "verdict"),
)
GROUP_FIELDS = ("layout", "groups", "grouping", "one_sample", "group_differences")


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
    force: bool = False
    raw: bool = False


def compare_files(a: str, b: str, options: Comparison) -> Record:
    """Return the record of two tensors. Raises GnError."""
    with opened(a, b, options) as pair:
        return record_of(a, b, pair.record(), options)


def record_of(
    a: str | None, b: str | None, found: Record, options: Comparison, array: int | None = None
) -> Record:
    """Return a whole record of what was `found`. `array`: which one of a pipe it is, from 0.

    Every record of a run has the same fields.
    """
    names = FIELDS if options.groups is None else (*FIELDS, *GROUP_FIELDS)
    fields = dict.fromkeys(names) | {"equal": False}
    return fields | {"schema": 1, "a": a, "b": b, "array": array} | found


def record_alone(match: Match, options: Comparison) -> Record:
    """Return the record of a tensor that has no counterpart. Raises GnError."""
    side, address = ("a", match.a) if match.b is None else ("b", match.b)
    found: Record = {"verdict": f"only in {side}"}
    if match.array is not None and address is not None:
        source = read_alone(address, external=options.allow_external, force=options.force)
        found |= {f"shape_{side}": list(source.shape), f"dtype_{side}": source.dtype.name}
    return record_of(match.a, match.b, found, options, match.array)


@contextmanager
def opened(a: str, b: str, options: Comparison) -> Iterator[Pair | ValuePair]:
    """Both tensors, for as long as the block lasts. Raises GnError, blamed on `a` if it names no other.

    At the end of the block it is an error if one of the files has changed.
    """
    with unchanged(a, b), ExitStack() as stack:
        sides = []
        for address in (a, b):
            how = {"external": options.allow_external, "force": options.force, "as_stored": options.raw}
            sides.append(open_any(address, **how))
            stack.callback(sides[-1].close)
        first, second = sides
        try:
            piped = any(stream_at(split(address)[0]) is not None for address in (a, b))
            Crew.refuse_pipes(options.dask, piped=piped)
            if isinstance(first, Values) or isinstance(second, Values):
                yield ValuePair(first, second, nan_differ=options.tolerance.nan_differ, memory=options.memory)
            else:
                yield Pair(first, second, options, stack)
        except GnError as error:
            raise error.at(a) from None


class Pair:
    """Two open tensors of numbers, read in one order: where theirs differ, `a` or `b` is a copy.

    One that has to be decoded chunk by chunk, and is small, is held in memory.
    """

    def __init__(self, a: Source, b: Source, options: Comparison, stack: ExitStack) -> None:
        self.options = options
        crew = Crew.of(options.jobs, options.memory, options.dask, [a.address, b.address])
        widest = max(a.dtype.itemsize, b.dtype.itemsize)
        for source in (a, b):
            crew = replace(crew, jobs=require_decodable(source, options.memory, crew.jobs, widest))
        self.both = Abreast(crew, options.progress, stack)
        self.given = self.a, self.b = a, b
        if a.shape == b.shape:  # else there may be nothing to read
            self.given = self.a, self.b = self.both.held(a), self.both.held(b)
        if a.shape != b.shape or a.fortran != b.fortran:
            self.a, self.b = (self.both.in_c_order(side) for side in self.given)

    def record(self) -> Record:
        """All that is told of the pair, but for its names."""
        a, b = self.a, self.b
        head: Record = {
            "compared": "by value",
            "shape_a": list(a.shape),
            "shape_b": list(b.shape),
            "dtype_a": a.dtype.name,
            "dtype_b": b.dtype.name,
        }
        if a.shape != b.shape:
            words = ["the shapes differ", reordered_axes(self.both, a, b)]
            return head | {"verdict": "; ".join(filter(None, words))}
        guesses = likely(a, b)
        found, right, missing = self._measured(guesses)
        groups = self.groups(self.options.groups) if self.options.groups is not None else None
        head |= found.row(ulp_at(max(found.largest_a, found.largest_b), a.dtype, b.dtype))
        head |= self._worst(found)
        for side, source, count in zip("ab", self.given, missing, strict=True):
            head |= decoded(source, count, f"decoded_{side}")
        head["verdict"] = self._verdict(found, right, groups)
        return head | (groups.record() if groups else {})

    def _measured(self, guesses: list[Guess]) -> tuple[Differences, list[Guess], list[int]]:
        """Return the differences, which guesses hold on every element, and how many values are missing."""
        tolerance, given = self.options.tolerance, self.given  # all that goes to a cluster

        def compare(x: Floats, y: Floats, runs: list[Run]) -> tuple[Differences, list[bool], list[int]]:
            found = differences(x, y, 0, tolerance)
            if found.worst >= 0:
                found = replace(found, worst=place_at(runs, found.worst))
            places = places_of(runs) if guesses else np.zeros(0, np.int64)
            missing = [count_missing(side, values) for side, values in zip(given, (x, y), strict=True)]
            return found, [holds(guess, x, y, places) for guess in guesses], missing

        total = Differences()
        sound = [True] * len(guesses)
        missing = [0, 0]
        for found, held, counts in self.both.each(self.a, self.b, compare):
            total += found
            sound = [one and other for one, other in zip(sound, held, strict=True)]
            missing = [count + more for count, more in zip(missing, counts, strict=True)]
        return total, [guess for guess, good in zip(guesses, sound, strict=True) if good], missing

    def _worst(self, found: Differences) -> Record:
        if found.worst < 0:
            return dict.fromkeys(WORST)
        order: Any = "F" if self.a.fortran else "C"
        index = [int(i) for i in np.unravel_index(found.worst, self.a.shape, order)]
        return dict(zip(WORST, (index, *map(_shown, (found.worst_a, found.worst_b))), strict=True))

    def _verdict(self, found: Differences, right: list[Guess], groups: Groups | None) -> str:
        a, b = self.a, self.b
        if found.differing:
            odd = f"{found.odd} differ in NaN or infinity" if found.odd else None
            words = ["different", self._why(found, right, groups) or odd]
        else:
            words = ["equal within the tolerance" if found.max_abs else "equal"]
        if a.dtype.kind != b.dtype.kind:
            words.append(f"of two kinds of dtype, {a.dtype.name} and {b.dtype.name}")
        if self.options.groups is not None and groups is None:
            words.append("the statistics of groups were not compared: complex numbers have none here")
        return "; ".join(filter(None, words))

    def _why(self, found: Differences, right: list[Guess], groups: Groups | None) -> str | None:
        """The first guess that holds, or None."""
        a, b = self.a, self.b
        if same_up_to_rounding(found, a.dtype, b.dtype):
            return "same up to rounding"
        if right:
            return right[0].words
        if groups and groups.held is not None:
            words = confirmed(self.both, a, b, per_group(groups.statistics(a)))
            if words:
                return words
        return reordered_axes(self.both, a, b)

    def groups(self, chosen: dict[str, Any]) -> Groups | None:
        """Their statistics, from a pass over each; None for complex numbers."""
        if any(source.dtype.kind == "c" for source in self.given):
            return None
        options = self.options
        parts = Parts.of(
            self.a.shape,
            chosen["groups"],
            chosen["channels_per_group"],
            chosen["layout"],
            chosen["grouping"],
            ("sample", "group"),
        )
        how = Measuring(options.jobs, options.memory, options.dask, options.progress, at_once=2)
        a, b = (part_rows(source, source.address, parts, how) for source in self.given)
        return Groups.of(side_by_side(a, b), parts, self.a.shape)


def _shown(value: Any) -> Any:
    """A value as JSON has it: a complex number as its two parts."""
    return [value.real, value.imag] if isinstance(value, complex) else value
