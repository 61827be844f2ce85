"""Recipes of one structure, on every element: what each is off by, and the scale and shift that suit it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from math import inf, prod
from typing import Any

import numpy as np

from gncli.difference import ulps
from gncli.engine import measure_groups
from gncli.executors import in_order
from gncli.layout import Box
from gncli.moments import Moments
from gncli.plan import Plan, plan
from gncli.recipes import Floats, Places, Recipe, Structure
from gncli.screen import Affine, Fit, inverse, label_of
from gncli.tensors import Source

ROOM = 2 << 20  # bytes of a worker's block: its arithmetic is in float64, in arrays of its own


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

    def __add__(self, other: Errors) -> Errors:
        return Errors(
            self.count + other.count,
            self.squares + other.squares,
            max(self.max_abs, other.max_abs),
            max(self.max_ulp, other.max_ulp),
            max(self.reach, other.reach),
            self.odd + other.odd,
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
        for part in self._each(sums):
            total += part
        gamma, beta = Fit(total).solve()
        return gamma[labels], beta[labels]

    def errors(self, recipes: Sequence[Recipe], affines: Sequence[Affine]) -> list[Errors]:
        """Of each recipe, with the scale and shift in its place."""

        def off(x: Floats, y: Any, places: Places, mean: Any, var: Any) -> list[Errors]:
            channel = self.structure.channel(places) if any(a.known for a in affines) else places
            return [
                _errors(recipe, x, y, mean, var, *affine.given(self.structure, channel))
                for recipe, affine in zip(recipes, affines, strict=True)
            ]

        total = [Errors() for _ in recipes]
        for part in self._each(off):
            total = [one + other for one, other in zip(total, part, strict=True)]
        return total

    def _each(self, work: Callable[..., Any]) -> Iterator[Any]:
        """`work(x, y, places, mean, var)` of every block, on five axes that broadcast."""
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
                cells = [v[None, :, None, :, None] for v in (mean, var)]
                return work(x.astype(np.float64), y, self._places(box), *cells)

        for window, moments in measure_groups(self.x, cut, self._executor):
            tasks = ((block, moments) for block in window.blocks)
            yield from in_order(self._executor, task, tasks, 2 * self._jobs)
            first, second = (stop - start for start, stop in (cut.box(window.box)[axis] for axis in (1, 3)))
            self._advance(first * second * self.structure.group_size * self.x.dtype.itemsize)

    def _places(self, box: Box) -> Places:
        spans = (np.arange(*span) * stride for span, stride in zip(box, self._strides, strict=True))
        a, b, c, d, e = np.ix_(*spans)
        places: Places = a + b + c + d + e
        return places


def _errors(recipe: Recipe, x: Floats, y: Any, mean: Any, var: Any, scale: Any, shift: Any) -> Errors:
    z = recipe.normalized(x, mean, var)
    out = recipe.activated(z * scale + shift) if recipe.affine != "none" else recipe.activated(z)
    wanted = y.astype(np.float64)
    known = np.isfinite(wanted)
    both = known & np.isfinite(out)
    odd = (known != np.isfinite(out)) | (~known & (np.isnan(wanted) != np.isnan(out)))
    off = np.where(both, out - wanted, 0.0)
    kind = y.dtype.newbyteorder("=") if y.dtype.kind == "f" else np.dtype(np.float64)
    near, given = out[both].astype(kind), y[both]
    top = np.abs(recipe.normalized(np.abs(mean), np.zeros_like(mean), var) * scale)
    return Errors(
        int(np.count_nonzero(both)),
        float(np.vdot(off, off)),
        float(np.abs(off).max(initial=0.0)),
        float(ulps(near, given, near, given).max(initial=0.0)),
        float(np.nanmax(np.abs(given.astype(np.float64)), initial=0.0)) + float(np.nanmax(top, initial=0.0)),
        int(np.count_nonzero(odd)),
    )
