"""Every recipe tried on some elements: a few thousand recipes in a second, whatever the tensor's size."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import product
from math import inf, log10
from typing import Any

import numpy as np

from gncli.recipes import EPS, PLACES, SILU_LEAST, STATISTICS, Floats, Places, Recipe, Structure
from gncli.sampling import Sample

STRUCTURES, REFINED = 32, 8  # of these the best are tried with all else
ROUGH = [*product(("inside",), (1e-8, 1e-5, 1e-3, 0.1, 10.0)), *product(("variance",), (1e-5, 1e-3, 0.1))]
ROUNDED = 0.3  # of the last place of values of a common size: half of that is less than rounding leaves
GOLDEN = 0.6180339887
STEP = 0.5
GRID = np.arange(-12.0, 1.25, STEP)  # exponents of eps
POOR = 1e-4  # of the output: a fit by none of the usual eps
FITTED = 2  # times less error asks for an eps of its own: frameworks' roundings look like a little of it
APART = 1.5  # times the least error: recipes that are no worse cannot be told apart from it by roundings


@dataclass(frozen=True)
class Affine:
    """What is known of scale and shift: numbers, or an entry a channel or a group; or that they are not."""

    gamma: Floats | float | None = None
    beta: Floats | float | None = None
    unknown: bool = False

    @property
    def known(self) -> bool:
        return self.gamma is not None or self.beta is not None

    def modes(self, structure: Structure) -> tuple[str, ...]:
        """What `Recipe.affine` may be. None where an array has another length."""
        if self.unknown:
            return ("per group", "per channel") if structure.groups < structure.channels else ("per channel",)
        lengths = {v.size for v in (self.gamma, self.beta) if isinstance(v, np.ndarray)}
        if lengths - {structure.channels, structure.groups}:
            return ()
        return ("given",) if self.known else ("none",)

    def given(self, structure: Structure, channel: Places) -> tuple[Any, Any]:
        """Scale and shift of elements of these channels."""
        scale, shift = (
            self._at(v, structure, channel, neutral) for v, neutral in ((self.gamma, 1.0), (self.beta, 0.0))
        )
        return scale, shift

    @staticmethod
    def _at(value: Floats | float | None, structure: Structure, channel: Places, neutral: float) -> Any:
        if isinstance(value, np.ndarray):
            return value[channel if value.size == structure.channels else structure.group_of(channel)]
        return neutral if value is None else value


@dataclass
class Fit:
    """Sums by which scale and shift of every class, a channel or a group, follow by least squares."""

    sums: Floats  # (5, classes): count, z, w, z·z, z·w

    @classmethod
    def of(cls, z: Floats, w: Floats, sound: Any, label: Places, classes: int) -> Fit:
        """From elements with a normalized value of z, an `inverse` of w where `sound`, and their class."""
        sound = sound & np.isfinite(z) & np.isfinite(w)
        z, w, label = z[sound], w[sound], label[sound]
        weights = (np.ones_like(z), z, w, z * z, z * w)
        return cls(np.array([np.bincount(label, weight, classes) for weight in weights]))

    def solve(self) -> tuple[Floats, Floats]:
        count, z, w, zz, zw = self.sums
        with np.errstate(all="ignore"):
            spread = count * zz - z * z
            flat = ~(spread > 1e-12 * count * zz)
            gamma = np.where(flat, 0.0, (count * zw - z * w) / spread)
            beta = np.where(count > 0, (w - gamma * z) / count, 0.0)
        return gamma, beta


def inverse(activation: str, y: Floats) -> tuple[Floats, Any]:
    """What went into the activation, where it can be told: for all y, or for those that are positive."""
    if activation == "none":
        return y, np.ones(y.shape, bool)
    positive = y > 0
    if activation == "relu":
        return y, positive
    z = np.where(positive, y + 0.28, 1.0)
    for _ in range(30):  # Newton's method: SiLU is convex where it is positive, or nearly so
        sigmoid = 1 / (1 + np.exp(-z))
        z = np.maximum(z - (z * sigmoid - y) / (sigmoid * (1 + z * (1 - sigmoid))), y)
    return z, positive


def label_of(recipe: Recipe, channel: Places) -> tuple[Places, int]:
    """The class of scale and shift of elements of these channels, and how many classes there are."""
    structure = recipe.structure
    if recipe.affine == "per group":
        return structure.group_of(channel), structure.groups
    return channel, structure.channels


class Screen:
    """Root mean square errors of recipes on a sample."""

    def __init__(self, sample: Sample, affine: Affine) -> None:
        self.sample, self.affine = sample, affine
        self._held: dict[Structure, tuple[Floats, Floats]] = {}
        self.structures: list[Structure] = []  # those that were tried
        self._inverses: dict[str, tuple[Floats, Any]] = {}
        self._known = np.isfinite(sample.y)

    def activations(self) -> list[str]:
        """Those that give no such values as there are."""
        least = float(self.sample.y[self._known].min(initial=inf))
        found = ["none"]
        found += ["silu"] if SILU_LEAST * 1.01 <= least < inf else []
        return found + (["relu"] if 0 <= least < inf else [])

    def _inverse(self, activation: str) -> tuple[Floats, Any]:
        if activation not in self._inverses:
            self._inverses[activation] = inverse(activation, self.sample.y)
        return self._inverses[activation]

    def statistics(self, structure: Structure) -> tuple[Floats, Floats]:
        if structure not in self._held:
            self._held[structure] = self.sample.statistics(structure)
        return self._held[structure]

    def error(self, recipe: Recipe, *, scaled: bool = False) -> float:
        """inf where it gives no number and there is one. `scaled`: whatever factor is wanting."""
        with np.errstate(all="ignore"):
            y, found = self.sample.y[self._known], self.predicted(recipe)[self._known]
            off = (found * (np.vdot(found, y) / np.vdot(found, found)) if scaled else found) - y
            free = off.size
            if self.affine.unknown:
                label, _ = label_of(recipe, recipe.structure.channel(self.sample.places))
                free -= 2 * len(np.unique(label))
            if free <= 0:
                return inf
            error = float(np.sqrt(np.vdot(off, off) / free))
        return error if error >= 0 else inf

    def predicted(self, recipe: Recipe) -> Floats:
        """What it makes of the sample."""
        sample, structure = self.sample, recipe.structure
        z = recipe.normalized(sample.x, *self.statistics(structure))
        if recipe.affine != "none":
            channel = structure.channel(sample.places)
            if self.affine.unknown:
                label, classes = label_of(recipe, channel)
                gamma, beta = Fit.of(z, *self._inverse(recipe.activation), label, classes).solve()
                scale, shift = gamma[label], beta[label]
            else:
                scale, shift = self.affine.given(structure, channel)
            z = z * scale + shift
        out: Floats = recipe.activated(z)
        return out

    def candidates(self, structures: Iterable[Structure]) -> list[tuple[float, Recipe]]:
        """Recipes with their errors, by `ranked`."""
        self.structures = list(structures)
        best = self._structures(self.structures)
        found = self._tried(
            replace(recipe, eps=eps, place=place, unbiased=unbiased)
            for recipe in best
            for unbiased, place, eps in product((False, True), PLACES, EPS)
        )
        size = float(np.sqrt(np.mean(self.sample.y[self._known] ** 2)))
        if min((error for error, _ in found), default=inf) > POOR * size:
            found += self._tried(
                replace(recipe, eps=10.0**exponent, place=place, fitted=True)
                for recipe in best
                for place, exponent in product(PLACES, GRID)
                if 10.0**exponent not in EPS
            )
        found += self._fitted(found, found)
        heads = [recipe for _, recipe in ranked(found)[:REFINED]]
        rounded = self._tried(replace(recipe, statistics=name) for recipe in heads for name in STATISTICS[1:])
        found += rounded
        found += self._fitted(rounded, found)
        return ranked(found)

    def _tried(self, recipes: Iterable[Recipe]) -> list[tuple[float, Recipe]]:
        return [(self.error(recipe), recipe) for recipe in recipes]

    def _structures(self, structures: Iterable[Structure]) -> list[Recipe]:
        """The best of every structure, scale and activation, at some eps or other; equal groups once."""
        scored = []
        for structure in self._distinct(structures):
            for affine, activation in product(self.affine.modes(structure), self.activations()):
                plain = Recipe(structure, affine=affine, activation=activation)
                some = [replace(plain, place=place, eps=eps) for place, eps in ROUGH]
                scored.append((min(self.error(recipe, scaled=True) for recipe in some), plain))
        return [recipe for _, recipe in ranked(scored)[:STRUCTURES]]

    def _distinct(self, structures: Iterable[Structure]) -> Iterator[Structure]:
        seen = set()
        for structure in structures:
            channel = structure.channel(self.sample.places)
            marks = [(v.view(np.int64) >> 24).tobytes() for v in self.statistics(structure)]  # 28 bits
            if self.affine.known or self.affine.unknown:
                marks.append(channel.tobytes())
                marks.append(structure.group_of(channel).tobytes() if self.affine.unknown else b"")
            if (key := tuple(marks)) not in seen:
                seen.add(key)
                yield structure

    def _fitted(
        self, some: list[tuple[float, Recipe]], found: list[tuple[float, Recipe]]
    ) -> list[tuple[float, Recipe]]:
        """The best of `some` with the eps that suits them, where that is clearly better than all found."""
        least = min((error for error, _ in found), default=inf)
        if least < ROUNDED * self.sample.rounding:
            return []
        heads = dict.fromkeys(replace(recipe, eps=0.0, fitted=True) for _, recipe in ranked(some))
        fitted = map(self._fit, list(heads)[:REFINED])
        return [
            (error, recipe) for error, recipe in fitted if error * FITTED < least and recipe.eps not in EPS
        ]

    def _fit(self, recipe: Recipe) -> tuple[float, Recipe]:
        """The recipe with the eps that suits the data best, in as few digits as say so."""

        def error(exponent: float) -> float:
            return self.error(replace(recipe, eps=10.0**exponent))

        middle = float(min(GRID, key=error))
        low, high = middle - STEP, middle + STEP
        a, b = high - GOLDEN * (high - low), low + GOLDEN * (high - low)
        at_a, at_b = error(a), error(b)
        for _ in range(30):
            if at_a < at_b:
                high, b, at_b = b, a, at_a
                a = high - GOLDEN * (high - low)
                at_a = error(a)
            else:
                low, a, at_a = a, b, at_b
                b = low + GOLDEN * (high - low)
                at_b = error(b)
        eps = 10.0 ** ((low + high) / 2)
        least = error(log10(eps))
        for digits in range(7):
            short = replace(recipe, eps=float(f"{eps:.{digits}e}"))
            if (found := self.error(short)) <= 1.01 * least:
                return found, short
        return least, replace(recipe, eps=eps)


def ranked(found: Iterable[tuple[float, Recipe]]) -> list[tuple[float, Recipe]]:
    """Best first; of those that cannot be told apart from the best, the most usual first."""
    ordered = sorted(found, key=lambda pair: pair[0])
    tied = count_tied([error for error, _ in ordered])
    return sorted(ordered[:tied], key=lambda pair: pair[1].oddity) + ordered[tied:]


def count_tied(errors: list[float]) -> int:
    """How many of these, in order, are no worse than the first; 0 where that is not finite."""
    return sum(error <= errors[0] * APART for error in errors) if errors and errors[0] < inf else 0
