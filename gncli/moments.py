"""Count, mean and sum of squared deviations, by two passes within a tile and Chan's merge beyond."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from gncli import doubledouble as dd
from gncli.doubledouble import Number, Pair

Floats: TypeAlias = NDArray[np.float64]


class Moments(NamedTuple):
    """Of one or more sets of elements; every field is a number, or an array with an entry a set.

    `mean` and `m2` (the sum of squared deviations) are pairs, over the finite elements times `unit`, a
    power of two that is not 1 only where squares would leave float64's range. `least` and `most` are
    +inf and -inf where there is no finite element, and integers where the elements are 64-bit integers.
    `size` counts all elements that are not missing.
    """

    size: Number
    mean: Pair
    m2: Pair
    least: Number
    most: Number
    nan: Number
    inf: Number
    unit: Number

    @property
    def finite(self) -> Number:
        return self.size - self.nan - self.inf

    def map(self, function: Callable[[Any], Any]) -> Moments:
        """The same function on every array, to reshape, slice or pick."""
        size, mean, m2, least, most, nan, inf, unit = self
        means, squares = (function(mean[0]), function(mean[1])), (function(m2[0]), function(m2[1]))
        rest = function(least), function(most), function(nan), function(inf), function(unit)
        return Moments(function(size), means, squares, *rest)

    def columns(self) -> dict[str, NDArray[Any]]:
        """The statistics of all sets, an array each; of sets that have no finite element, no numbers.

        The numbers are those of `row`.
        """
        finite = self.finite
        with np.errstate(all="ignore"):
            mean = np.where(finite > 0, (self.mean[0] + self.mean[1]) / self.unit, np.nan)
            std = np.where(finite > 0, np.sqrt(self.m2[0] / finite) / self.unit, np.nan)
        extremes = {"min": self.least, "max": self.most}
        return {"count": self.size, "mean": mean, "std": std, **extremes, "nan": self.nan, "inf": self.inf}

    def row(self, *index: int, whole: bool = False) -> dict[str, int | float]:
        """One set as plain numbers; std is the population's; NaN where there is no finite element.

        `whole`: the elements are integers, and so are min and max.
        """
        one = self.map(lambda array: array[index]) if index else self
        finite = int(one.finite)
        nothing = float("nan")
        number = int if whole else float
        return {
            "count": int(one.size),
            "mean": float((one.mean[0] + one.mean[1]) / one.unit) if finite else nothing,
            "std": float(np.sqrt(one.m2[0] / finite) / one.unit) if finite else nothing,
            "min": number(one.least) if finite else nothing,
            "max": number(one.most) if finite else nothing,
            "nan": int(one.nan),
            "inf": int(one.inf),
        }


def _gather(parts: Sequence[Moments], function: Callable[[Any], Any]) -> Moments:
    """The function on the values of each field."""
    size, mean, m2, *rest = zip(*parts, strict=True)
    high, low = zip(*mean, strict=True)
    high2, low2 = zip(*m2, strict=True)
    return Moments(size, (high, low), (high2, low2), *rest).map(function)


def stack(parts: list[Moments]) -> Moments:
    """The parts along a new first axis."""
    return _gather(parts, np.array)


def join(parts: list[Moments], axis: int) -> Moments:
    """The parts side by side along an axis that they have."""
    return parts[0] if len(parts) == 1 else _gather(parts, lambda arrays: np.concatenate(arrays, axis=axis))


def pool(parts: list[Moments]) -> Moments:
    """All sets of all parts along one axis."""
    if len(parts) == 1:
        return parts[0].map(_flat)

    def pooled(values: Sequence[Any]) -> Any:
        if any(isinstance(value, np.ndarray) for value in values):
            return np.concatenate([np.ravel(value) for value in values])
        return np.array(values)

    return _gather(parts, pooled)


def _flat(values: Any) -> Any:
    return values.reshape(-1) if isinstance(values, np.ndarray) else np.ravel(values)


def merge(parts: Moments) -> Moments:
    """Chan's merge, in pairs, of all sets along the first axis."""
    if len(parts.size) == 1:
        return parts.map(lambda array: array[0])
    # Sets of nothing but zeros fit any unit.
    votes = np.where((parts.least == 0) & (parts.most == 0) | (parts.finite == 0), np.inf, parts.unit)
    unit = np.minimum.reduce(votes, axis=0)
    unit = np.where(unit == np.inf, 1.0, unit)
    by = unit / parts.unit
    means, squares = _times(parts.mean, by), _times(_times(parts.m2, by), by)
    weights = parts.finite.astype(np.float64)
    mean = dd.divide(
        dd.total(dd.multiply(means, (weights, 0.0))), np.maximum(np.add.reduce(weights, axis=0), 1.0)
    )
    off = dd.subtract(means, mean)
    between = dd.total(dd.multiply(dd.multiply(off, off), (weights, 0.0)))
    return Moments(
        np.add.reduce(parts.size, axis=0),
        mean,
        dd.add(dd.total(squares), between),
        np.minimum.reduce(parts.least, axis=0),
        np.maximum.reduce(parts.most, axis=0),
        np.add.reduce(parts.nan, axis=0),
        np.add.reduce(parts.inf, axis=0),
        unit,
    )


def _times(pair: Pair, power_of_two: Number) -> Pair:
    return pair[0] * power_of_two, pair[1] * power_of_two


class Cascade:
    """Merges a stream of records by `fan_in`, in a tree that only their order and number determine.

    So the outcome does not depend on how many of them a block brought, and no more than `fan_in`
    records a level are held.
    """

    def __init__(self, fan_in: int) -> None:
        self._fan_in = fan_in
        self._levels: list[list[Moments]] = []

    def push(self, records: Moments, level: int = 0) -> Cascade:
        """`records`: along a first axis."""
        if level == len(self._levels):
            self._levels.append([])
        while count := len(records.size):
            waiting = self._levels[level]
            held = sum(len(part.size) for part in waiting)
            taken = min(count, self._fan_in - held)
            waiting.append(_cut(records, slice(0, taken)))
            records = _cut(records, slice(taken, count))
            if held + taken == self._fan_in:
                self._levels[level] = []
                self.push(alone(merge(join(waiting, axis=0))), level + 1)
        return self

    def result(self) -> Moments:
        """All that was pushed as one record. Raises IndexError where nothing was."""
        rest: list[Moments] = []
        for level in self._levels:
            if parts := level + rest:
                rest = [alone(merge(join(parts, axis=0)))]
        return _cut(rest[0], 0)


def _cut(records: Moments, at: slice | int) -> Moments:
    return records if at == slice(0, len(records.size)) else records.map(lambda array: array[at])


def alone(record: Moments) -> Moments:
    """One set, along a first axis."""
    return record.map(lambda values: values[None])


NOTHING = Moments(0, (0.0, 0.0), (0.0, 0.0), float("inf"), float("-inf"), 0, 0, 1.0)


class Pool:
    """Merges a stream of sets into one: as they come, but some thousands at a time."""

    MANY = 4096

    def __init__(self) -> None:
        self._waiting: list[Moments] = []
        self._sets = 0

    def push(self, sets: Moments) -> None:
        """`sets`: arrays of one axis."""
        self._waiting.append(sets)
        self._sets += len(sets.size)
        if self._sets > self.MANY:
            self._waiting, self._sets = [alone(self.result())], 1

    def result(self) -> Moments:
        """Of all that was pushed."""
        return merge(pool(self._waiting)) if self._waiting else NOTHING
