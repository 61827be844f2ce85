"""Recipes of one structure, on every element: what each is off by, and the scale and shift that suit it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from itertools import product
from math import inf, prod
from typing import Any

import numpy as np

from gncli.difference import ulps
from gncli.engine import measure_groups
from gncli.executors import in_order
from gncli.layout import Box
from gncli.missing import count_missing
from gncli.moments import Moments
from gncli.plan import Plan, plan
from gncli.recipes import Floats, Places, Recipe, Structure
from gncli.screen import Affine, Fit, inverse, label_of
from gncli.tensors import Source

PIECE = 1 << 15  # elements that are worked on at once: dozens of arrays of them go through the caches
ROOM = 2 << 20  # bytes of a worker's block


@dataclass(frozen=True)
class Errors:
    """Over elements that are finite in both; `odd` counts those that are finite, or NaN, in one only.

    `reach`: the largest value that the arithmetic goes through, by which it is rounded.
    """

    count: int = 0
    squares: float = 0.0
    max_abs: float = 0.0
    max_ulp: float = 0.0
    reach: float = 0.0
    odd: int = 0
    missing_x: int = 0
    missing_y: int = 0

    def __add__(self, other: Errors) -> Errors:
        return Errors(
            self.count + other.count,
            self.squares + other.squares,
            max(self.max_abs, other.max_abs),
            max(self.max_ulp, other.max_ulp),
            max(self.reach, other.reach),
            self.odd + other.odd,
            self.missing_x + other.missing_x,
            self.missing_y + other.missing_y,
        )

    @property
    def rms(self) -> float:
        return float((self.squares / self.count) ** 0.5) if self.count else inf


class Confirmation:
    """Input and output, in C order, cut by the groups of one structure."""

    def __init__(
        self, x: Source, y: Source, structure: Structure, executor: Executor, jobs: int,
        advance: Callable[[int], None],
    ) -> None:  # fmt: skip
        self.x, self.y, self.structure = x, y, structure
        self._executor, self._jobs, self._advance = executor, jobs, advance
        self._plan: Plan = plan(structure.geometry, x.dtype.itemsize, 0, jobs * ROOM, jobs)
        dims = structure.geometry.dims
        self._strides = [prod(dims[axis + 1 :]) for axis in range(5)]

    def solve(self, recipe: Recipe) -> tuple[Floats, Floats]:
        """Scale and shift of every channel, by least squares."""
        channels = np.arange(self.structure.channels)
        labels, classes = label_of(recipe, channels)

        def sums(x: Floats, y: Any, places: Places, mean: Any, var: Any) -> Floats:
            z = recipe.normalized(x, mean, var)
            channel = np.broadcast_to(self.structure.channel(places), z.shape).ravel()
            w, sound = inverse(recipe.activation, y.astype(np.float64).ravel())
            return Fit.of(z.ravel(), w, sound, labels[channel], classes).sums

        total = np.zeros((5, classes))
        for part in self._each(sums, sum):
            total += part
        gamma, beta = Fit(total).solve()
        return gamma[labels], beta[labels]

    def errors(self, recipes: Sequence[Recipe], affines: Sequence[Affine]) -> list[Errors]:
        """Of each recipe, with the scale and shift in its place."""

        def off(x: Floats, y: Any, places: Places, mean: Any, var: Any) -> list[Errors]:
            channel = self.structure.channel(places) if any(a.known for a in affines) else places
            missing = Errors(missing_x=count_missing(self.x, x), missing_y=count_missing(self.y, y))
            return [
                _errors(recipe, x, y, mean, var, *affine.given(self.structure, channel)) + missing
                for recipe, affine in zip(recipes, affines, strict=True)
            ]

        total = [Errors() for _ in recipes]
        for part in self._each(off):
            total = [one + other for one, other in zip(total, part, strict=True)]
        return total

    def _each(
        self, work: Callable[..., Any], together: Callable[[Iterator[Any]], Any] | None = None
    ) -> Iterator[Any]:
        """`work(x, y, places, mean, var)` of every piece of a block, on five axes that broadcast.

        `together` makes one result of those of a block.
        """
        cut = self._plan

        def task(given: tuple[Box, Moments]) -> Any:
            block, moments = given
            box = cut.box(block)
            runs = cut.runs(box)
            size = sum(count for _, count in runs)
            shape = [stop - start for start, stop in box]
            x, y = (s.read(runs, np.empty(size, s.dtype)).reshape(shape) for s in (self.x, self.y))
            with np.errstate(all="ignore"):
                sound = np.where(moments.finite == moments.size, 1.0, np.nan)
                mean = (moments.mean[0] + moments.mean[1]) / moments.unit * sound
                var = moments.m2[0] / moments.finite / moments.unit / moments.unit * sound
                found = (
                    work(
                        x[at].astype(np.float64),
                        y[at],
                        self._places([span[0] for span in box], at),
                        mean[None, at[1], None, at[3], None],
                        var[None, at[1], None, at[3], None],
                    )
                    for at in _pieces(x.shape)
                )
                return list(found) if together is None else [together(found)]

        for window, moments in measure_groups(self.x, cut, self._executor):
            tasks = ((block, moments) for block in window.blocks)
            for results in in_order(self._executor, task, tasks, 2 * self._jobs):
                yield from results
            first, second = (stop - start for start, stop in (cut.box(window.box)[axis] for axis in (1, 3)))
            self._advance(first * second * self.structure.group_size * self.x.dtype.itemsize)

    def _places(self, start: Sequence[int], at: tuple[slice, ...]) -> Places:
        """Where the elements of a piece of a box stand, on five axes."""
        spans = (
            np.arange(first + along.start, first + along.stop) * stride
            for first, along, stride in zip(start, at, self._strides, strict=True)
        )
        a, b, c, d, e = np.ix_(*spans)
        places: Places = a + b + c + d + e
        return places


def _pieces(shape: Sequence[int]) -> Iterator[tuple[slice, ...]]:
    """Boxes of up to `PIECE` elements that make up the shape."""
    steps = list(shape)
    for axis in range(len(shape)):
        steps[axis] = max(1, min(shape[axis], PIECE // prod(steps[axis + 1 :])))
    cuts = (
        [slice(i, min(i + step, length)) for i in range(0, length, step)]
        for length, step in zip(shape, steps, strict=True)
    )
    return product(*cuts)


def _errors(recipe: Recipe, x: Floats, y: Any, mean: Any, var: Any, scale: Any, shift: Any) -> Errors:
    z = recipe.normalized(x, mean, var)
    out = recipe.activated(z * scale + shift) if recipe.affine != "none" else recipe.activated(z)
    reach = np.abs(recipe.normalized(np.abs(mean), np.zeros_like(mean), var) * scale)
    known, finite = np.isfinite(y), np.isfinite(out)
    odd = 0
    if not (known.all() and finite.all()):
        odd = int(np.count_nonzero((known != finite) | (~known & (np.isnan(y) != np.isnan(out)))))
        out, y = out[known & finite], y[known & finite]
    if not out.size:
        return Errors(odd=odd)
    off = (out - y).ravel()
    ulp = inf  # of integers
    if y.dtype.kind == "f":
        near = out.astype(y.dtype)
        ulp = float(ulps(near, y, near, y).max())
    return Errors(
        out.size,
        float(np.vdot(off, off)),
        float(max(off.max(), -off.min())),
        ulp,
        float(max(y.max(), -float(y.min()))) + float(np.nanmax(reach, initial=0.0)),
        odd,
    )
