"""What became of b, that it is not a: guesses, checked on some elements and then on all of them.

A guess says what a would be, by the place of an element and the value of b there. It holds where a is
within a few roundings of that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import permutations
from math import prod
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from gncli.difference import Differences, Floats, epsilon, widened
from gncli.layout import layouts

ROUNDINGS = 8  # of the largest value: what two sound computations are apart at most
MAX_RANK = 5  # of which all orders of axes are tried

Places: TypeAlias = NDArray[np.int64]
Guessed: TypeAlias = Callable[[Floats, Places], tuple[Floats, float]]


@dataclass(frozen=True)
class Guess:
    """`guessed(b, places)` is a, and the largest value that went into it. `axes`: b is a transposed so."""

    words: str
    guessed: Guessed
    axes: tuple[int, ...] | None = None


@dataclass(frozen=True)
class GroupStatistics:
    """Mean and standard deviation of a and of b, (N, G) each, and where each element belongs."""

    mean_a: Floats
    std_a: Floats
    mean_b: Floats
    std_b: Floats
    cell: Callable[[Places], tuple[Any, Any]]
    words: str


def holds(guess: Guess, a: Floats, b: Floats, places: Places, top: float = 0.0) -> bool:
    """Whether the guess is right for these elements, of a tensor with values up to `top` at least."""
    with np.errstate(all="ignore"):
        value, largest = guess.guessed(b, places)
        x, y = widened(a, value)
        both = np.isfinite(x) & np.isfinite(y)
        like = (x == y) | (np.isnan(x) & np.isnan(y))
        top = max(top, largest, float(np.abs(x[both]).max(initial=0.0)))
        near = np.abs(x - y) <= ROUNDINGS * epsilon(a.dtype, b.dtype) * top
        return bool(np.where(both, near, like).all())


def same_up_to_rounding(found: Differences, a: np.dtype[Any], b: np.dtype[Any]) -> bool:
    bound = ROUNDINGS * epsilon(a, b) * max(found.largest_a, found.largest_b)
    return not found.odd and 0 < found.max_abs <= bound


def alike(values: Floats) -> bool:
    """Whether all values are one, or all are NaN: no order of axes can be told from such."""
    with np.errstate(all="ignore"):
        return bool((values == values[:1]).all() or np.isnan(values).all())


def byte_swapped(a: np.dtype[Any], b: np.dtype[Any]) -> Iterator[Guess]:
    if a.newbyteorder("=") == b.newbyteorder("=") and a.itemsize > 1:

        def swapped(values: Floats, places: Places) -> tuple[Floats, float]:
            return values.byteswap(), 0.0

        yield Guess("byte-swapped: b holds the bytes of a's elements in reverse", swapped)


def transposed(a: Sequence[int], b: Sequence[int]) -> Iterator[Guess]:
    """b is a with its axes in another order, under its own shape or another of the same size.

    Or with its axes in the same order, where the shapes differ.
    """
    if prod(a) != prod(b):
        return
    if tuple(a) != tuple(b):
        words = f"reshaped: b has the elements of a in the same order, as {tuple(b)} for {tuple(a)}"
        yield Guess(words, same, tuple(range(len(a))))
    if len(a) > MAX_RANK:
        return
    for axes in permutations(range(len(a))):
        shape = tuple(a[axis] for axis in axes)
        if [axis for axis in axes if a[axis] != 1] == [axis for axis in range(len(a)) if a[axis] != 1]:
            continue  # nothing moves
        words = f"transposed: b is a in the order {axes} of axes{_layouts(axes)}"
        words += "" if shape == tuple(b) else f", reshaped from {shape} to {tuple(b)}"
        yield Guess(words, same, axes)


def same(values: Floats, places: Places) -> tuple[Floats, float]:
    return values, 0.0


def _layouts(axes: tuple[int, ...]) -> str:
    """As NHWC to NCHW, where that is what it does."""
    for word in layouts(len(axes))[:2] if len(axes) > 2 else ():
        other = "".join(word[axis] for axis in axes)
        if other in layouts(len(axes)):
            return f", as {word} to {other}"
    return ""


def affine(a: Floats, b: Floats) -> Iterator[Guess]:
    """A constant added, a factor, or both, by least squares over some elements."""
    if "c" in (a.dtype.kind, b.dtype.kind):
        return
    with np.errstate(all="ignore"):
        x, y = (np.asarray(v, np.float64) for v in widened(a, b))
        finite = np.isfinite(x) & np.isfinite(y)
        x, y = x[finite], y[finite]
        if not x.size or not (y != y[0]).any():
            return
        constant = float(np.mean(x - y))
        yield _map(f"off by a constant: a = b {_signed(constant)}", 1.0, constant)
        factor = float(np.vdot(x, y) / np.vdot(y, y))
        yield _map(f"off by a factor: a = {factor:.6g}·b", factor, 0.0)
        off = y - y.mean()
        slope = float(np.vdot(x, off) / np.vdot(off, off))
        shift = float(x.mean() - slope * y.mean())
        yield _map(f"off by an affine map: a = {slope:.6g}·b {_signed(shift)}", slope, shift)


def _signed(value: float) -> str:
    return f"{'-' if value < 0 else '+'} {abs(value):.6g}"


def _map(words: str, slope: float, shift: float) -> Guess:
    def mapped(values: Floats, places: Places) -> tuple[Floats, float]:
        wide = values.astype(np.float64)
        top = max(float(np.abs(wide[np.isfinite(wide)]).max(initial=0.0)) * abs(slope), abs(shift))
        return wide * slope + shift, top

    return Guess(words, mapped)


def per_group(groups: GroupStatistics) -> Iterator[Guess]:
    """Each group of b scaled and shifted to the mean and standard deviation that it has in a."""
    with np.errstate(all="ignore"):
        slope = np.where(groups.std_b > 0, groups.std_a / groups.std_b, 0.0)
        shift = groups.mean_a - slope * groups.mean_b
    if not (np.isfinite(slope).all() and np.isfinite(shift).all()):
        return

    def mapped(values: Floats, places: Places) -> tuple[Floats, float]:
        cell = groups.cell(places)
        wide = values.astype(np.float64)
        top = np.abs(wide[np.isfinite(wide)]).max(initial=0.0)
        return wide * slope[cell] + shift[cell], float(max(top * slope.max(), np.abs(shift).max()))

    words = f"{_span(slope)}·b {_span(shift, signed=True)}"
    yield Guess(
        f"off per group by an affine map, so a statistic differs: a = {words} ({groups.words})", mapped
    )


def _span(values: Floats, *, signed: bool = False) -> str:
    low, high = float(values.min()), float(values.max())
    text = f"{low:.6g}" if f"{low:.6g}" == f"{high:.6g}" else f"({low:.6g} to {high:.6g})"
    return f"+ {text}" if signed else text
