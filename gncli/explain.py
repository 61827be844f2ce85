"""Why two tensors differ: guesses that hold on some elements are checked on all of them.

Guesses that need no other order of axes are checked in the same pass that measures the differences.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from math import prod

import numpy as np

from gncli.abreast import Abreast, Places, Values, some_places, take
from gncli.boxes import places_of
from gncli.layout import Run
from gncli.tensors import Source
from gncli.verdict import Guess, affine, alike, byte_swapped, holds, transposed

STAGES = (4, 64)  # of a sample: most guesses fail on the first few elements, and the rest is not read
CORNER = 64  # elements at the front of every axis, which are of few chunks in any order of axes


def likely(a: Source, b: Source) -> list[Guess]:
    """Return the guesses, of two tensors of one shape and order, that hold on some elements."""
    places = some_places(b)
    x, y = take(a, places), take(b, places)
    with np.errstate(all="ignore"):
        if ((x == y) | ((x != x) & (y != y))).all():
            return []  # the difference is elsewhere
    guesses = [*byte_swapped(a.dtype, b.dtype), *affine(x, y)]
    return [guess for guess in guesses if holds(guess, x, y, places)]


def confirmed(both: Abreast, a: Source, b: Source, guesses: Iterable[Guess]) -> str | None:
    """Return the words of the first guess that holds on every element, from a pass for each that may."""
    for guess in guesses:

        def check(x: Values, y: Values, runs: list[Run], guess: Guess = guess) -> bool:
            return holds(guess, x, y, places_of(runs))

        if all(both.each(a, b, check)):
            return guess.words
    return None


def reordered_axes(both: Abreast, a: Source, b: Source) -> str | None:
    """Return the words for the order of axes in which a is b, or None."""
    if prod(a.shape) != prod(b.shape):
        return None
    places = some_places(b)
    sample = take(b, places)
    if not sample.size or alike(sample):
        return None
    with np.errstate(all="ignore"):
        top = float(np.abs(sample[np.isfinite(sample)].astype(np.complex128)).max(initial=0.0))
    stages = [(corner := _corner(b), take(b, corner))]
    shuffled = np.random.default_rng(0).permutation(len(places))
    for start, stop in pairwise([0, *(stage for stage in STAGES if stage < len(places)), len(places)]):
        chosen = np.sort(shuffled[start:stop])
        stages.append((places[chosen], sample[chosen]))
    for guess in transposed(a.shape, b.shape):
        axes = guess.axes or ()
        if all(holds(guess, _transposed(a, axes, b, at), values, at, top) for at, values in stages):
            words = confirmed(both, both.copy(a, axes), both.in_c_order(b), [guess])
            if words:
                return words
    return None


def _corner(b: Source) -> Places:
    """Where some elements stand whose indices are all small."""
    side = max(1, int(CORNER ** (1 / max(1, len(b.shape)))))
    index = np.indices([min(side, length) for length in b.shape]).reshape(len(b.shape), -1)
    return np.sort(np.ravel_multi_index(tuple(index), b.shape, order="F" if b.fortran else "C").reshape(-1))


def _transposed(a: Source, axes: tuple[int, ...], b: Source, places: Places) -> Values:
    """The elements of a, its axes in that order, that stand where b has those at `places`."""
    if b.fortran:
        places = np.ravel_multi_index(np.unravel_index(places, b.shape, order="F"), b.shape)
    indices = np.unravel_index(places, [a.shape[axis] for axis in axes])
    index = [indices[axes.index(axis)] for axis in range(len(axes))]
    return take(a, np.ravel_multi_index(index, a.shape, order="F" if a.fortran else "C"))
