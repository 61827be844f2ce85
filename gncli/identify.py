"""Which convention turns an input into an output: behind `gn identify`."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import groupby
from math import inf, prod
from typing import Any

import numpy as np

from gncli.abreast import keep
from gncli.api import DEFAULT_MEMORY
from gncli.confirm import Confirmation, Errors
from gncli.difference import narrower
from gncli.dtypes import output_dtype
from gncli.errors import FormatError, GnError, LayoutError
from gncli.executors import threads, usable_cores
from gncli.layout import Layout, layouts, sample_axis
from gncli.progress import Progress
from gncli.recipes import Floats, Recipe, structures
from gncli.sampling import Sample, samples_within
from gncli.screen import APART, Affine, Screen, count_tied
from gncli.tensors import (
    Source,
    decoded,
    more,
    open_seekable,
    open_source,
    read_whole,
    require_decodable,
)
from gncli.tensors.address import unchanged
from gncli.tensors.reordered import reordered

ROUNDINGS = 64  # of the largest value: what a framework's arithmetic may be off by
CONFIRMED, SOLVED = 8, 4  # candidates that are tried on every element; those whose scale is solved for
# Bytes that a channel of a sample takes, with what it takes to compute with: and with scale and shift.
MEASURING, SOLVING = 72, 240
CRITERION = (
    f"yes: rounding explains max abs, and rms is at most {APART:g} times the least of such rows; "
    "max ulp, which is large near 0, does not count"
)
EXPLAINED = 1e-3  # of a residual: what is left once its cause is taken from it


@dataclass(frozen=True)
class Question:
    """What the options of `gn identify` say. `affine` is known (`gamma` and `beta`, 1 and 0) or unknown."""

    layout: str | None = None
    gamma: float | str | None = None
    beta: float | str | None = None
    affine: str = "known"
    jobs: int | None = None
    memory: int = DEFAULT_MEMORY
    progress: bool | None = False
    allow_external: bool = False
    force: bool = False
    raw: bool = False

    @property
    def reading(self) -> dict[str, bool]:
        """How `open_source` is to read HDF5."""
        return {"external": self.allow_external, "force": self.force, "as_stored": self.raw}


@dataclass(frozen=True)
class Candidate:
    recipe: Recipe
    errors: Errors
    affine: Affine
    match: bool = False

    @property
    def error(self) -> float:
        return inf if self.errors.odd else self.errors.rms

    @property
    def precision(self) -> str | None:
        """The widest float type whose rounding is as large as the errors."""
        names = ("float64", "float32", "float16")
        reach = self.errors.reach
        fits = (n for n in names if self.errors.max_abs <= ROUNDINGS * float(np.finfo(n).eps) * reach)
        return None if self.errors.odd else next(fits, None)

    def within(self, limit: float) -> bool:
        """Whether rounding to `limit`, the eps of a float type, explains the errors."""
        return self.precision is not None and float(np.finfo(self.precision).eps) <= limit


def judged(candidates: Sequence[Candidate], limit: float) -> list[Candidate]:
    """The candidates with their verdicts by `CRITERION`: those that match first, the likeliest ahead.

    If none matches, the likeliest of those that are about as close as the closest comes first.
    """
    ordered = sorted(candidates, key=lambda one: one.error)
    fitting = [one for one in ordered if one.within(limit)]
    matches = fitting[: count_tied([one.error for one in fitting])]
    head = matches or ordered[: count_tied([one.error for one in ordered])]
    first = {one.recipe for one in head}
    return [
        *(replace(one, match=bool(matches)) for one in sorted(head, key=lambda one: one.recipe.oddity)),
        *(one for one in ordered if one.recipe not in first),
    ]


def identify_files(x: str, y: str, question: Question) -> dict[str, object]:
    """The record: candidates, best first, and what there is to say of them. Raises GnError."""
    files = [given for given in (x, y, question.gamma, question.beta) if isinstance(given, str)]
    # Of the recipes that are tried, most make no sense, and numpy would warn.
    with unchanged(*files), ExitStack() as stack, np.errstate(all="ignore"):

        def opened(address: str) -> Source:
            source = open_seekable(address, **question.reading)
            stack.callback(source.close)
            if source.fortran:
                source = reordered(source, range(len(source.shape)))
                stack.callback(source.close)
            return source

        sources = opened(x), opened(y)
        for address in (x, y):
            if more(address):
                message = "holds more than one array; gn identify takes one of each"
                raise FormatError(message, address=address)
        try:
            found, screen = _search(*sources, _words(*sources, y, question), question, stack)
        except GnError as error:
            raise error.at(x) from None
        return {"schema": 1, "x": x, "y": y} | _record(
            judged(found, _limit(*sources)), screen, sources, x, question
        )


def _words(x: Source, y: Source, address: str, question: Question) -> list[str]:
    """The layouts to try. Raises LayoutError where there are none."""
    if x.shape != y.shape:
        raise LayoutError(
            f"has shape {y.shape}, the input {x.shape}; gn diff tells whether it is transposed",
            address=address,
        )
    if not prod(x.shape):
        raise LayoutError(f"shape {x.shape} has no elements; nothing can be told from it")
    if question.layout is None:
        words = layouts(len(x.shape))
        if not words:
            raise LayoutError("is a scalar, which has no channels")
        return words
    word = Layout.parse(question.layout).on(x.shape).word
    if sample_axis(word):
        raise LayoutError(f"layout {word} has N behind other axes; transpose it to have N in front")
    return [word]


def _search(
    x: Source, y: Source, words: Sequence[str], question: Question, stack: ExitStack
) -> tuple[list[Candidate], Screen]:
    """The best candidates, measured on every element."""
    jobs = question.jobs or usable_cores()
    for source in (x, y):
        jobs = require_decodable(source, question.memory, jobs)
        keep(source, question.memory // 8)
    executor = stack.enter_context(threads(jobs))
    unknown = question.affine == "unknown"
    affine = Affine(_parameter(question.gamma, question), _parameter(question.beta, question), unknown)
    tried = structures(x.shape, words)
    channels = max(structure.channels for structure in tried)
    most = samples_within(question.memory, channels, SOLVING if unknown else MEASURING)
    sample = Sample(x, y, executor, jobs, question.memory, most=most)
    if not np.isfinite(sample.y).any():
        raise FormatError("has no finite value where it was looked at", address=y.address)
    screen = Screen(sample, affine)
    found = screen.candidates(tried)
    if not found:
        lengths = " and ".join(str(v.shape) for v in (affine.gamma, affine.beta) if isinstance(v, np.ndarray))
        raise LayoutError(f"shape {x.shape} has no axis of channels for a gamma or beta of {lengths}")
    distinct = list(dict.fromkeys(recipe for error, recipe in found if error < inf))
    best = distinct[: SOLVED if affine.unknown else CONFIRMED]
    best.sort(key=lambda recipe: repr(recipe.structure))
    size = x.dtype.itemsize * prod(x.shape)
    rounds = len({recipe.structure for recipe in best}) + (len(best) if affine.unknown else 0)
    watch = stack.enter_context(Progress(x.address, size * rounds, question.progress))
    candidates = []
    for structure, group in groupby(best, key=lambda recipe: recipe.structure):
        recipes = list(group)
        confirmation = Confirmation(x, y, structure, executor, jobs, watch.advance)
        affines = [Affine(*confirmation.solve(recipe)) if affine.unknown else affine for recipe in recipes]
        errors = confirmation.errors(recipes, affines)
        candidates += [Candidate(*one) for one in zip(recipes, errors, affines, strict=True)]
    return candidates, screen


def _parameter(given: float | str | None, question: Question) -> Floats | float | None:
    """A number, or one a channel or a group."""
    if not isinstance(given, str):
        return given
    source = open_source(given, **question.reading)
    try:
        size = prod(source.shape)
        if size != max(source.shape, default=1):
            raise LayoutError(f"has shape {source.shape}; give one value a channel or a group", address=given)
        values = read_whole(source, question.memory).astype(np.float64)
    finally:
        source.close()
    return values if size != 1 else float(values[0])


def _limit(x: Source, y: Source) -> float:
    """The eps of the float type that the output is rounded to, by all that is known; 0 for integers."""
    kind = narrower(x.dtype, y.dtype)
    if kind is None:
        return 0.0
    # Values of float64 may have been computed in float32.
    return float(np.finfo(np.float32 if kind.itemsize == 8 else kind).eps)


def _record(
    found: list[Candidate], screen: Screen, sources: tuple[Source, Source], x: str, question: Question
) -> dict[str, object]:
    matches = [candidate.recipe for candidate in found if candidate.match]
    record: dict[str, object] = {
        "shape": list(sources[0].shape),
        "dtype_x": sources[0].dtype.name,
        "dtype_y": sources[1].dtype.name,
        "match": bool(matches),
        "tied": len(matches),
        "verdict": _verdict(found, matches, screen),
        "criterion": CRITERION,
        "candidates": [_row(candidate, sources, x, question) for candidate in found],
    }
    for name, source in zip("xy", sources, strict=True):
        count = getattr(found[0].errors, f"missing_{name}") if found else None
        record |= decoded(source, count, f"decoded_{name}")
    return record


def _row(candidate: Candidate, sources: tuple[Source, Source], x: str, question: Question) -> dict[str, Any]:
    recipe, errors = candidate.recipe, candidate.errors
    stored, wanted = (source.dtype for source in sources)
    dtype = wanted.name if wanted.kind == "f" and wanted.name != output_dtype(stored).name else None
    texts = [None if given is None else str(given) for given in (question.gamma, question.beta)]
    lengths = {v.size for v in (candidate.affine.gamma, candidate.affine.beta) if isinstance(v, np.ndarray)}
    by_channel = not lengths - {recipe.structure.channels}
    command = recipe.command(x, texts[0], texts[1], dtype) if by_channel else None
    if command is not None:
        command += "".join(f" --{name}" for name in ("force", "raw") if getattr(question, name))
    solved = {}
    if recipe.affine.startswith("per "):
        solved = {"gamma": candidate.affine.gamma, "beta": candidate.affine.beta}
    return {
        **recipe.facts(),
        "fitted": recipe.fitted,
        "max_abs": errors.max_abs,
        "rms": errors.rms,
        "max_ulp": int(errors.max_ulp) if errors.max_ulp < inf else None,
        "passing_atol": None if errors.odd else errors.max_abs,
        "nonfinite_differing": errors.odd,
        "precision": candidate.precision,
        "match": candidate.match,
        "command": command,
        **solved,
    }


def _verdict(found: list[Candidate], matches: list[Recipe], screen: Screen) -> str:
    if not found:
        return "nothing matches: no convention gives finite values where the output has them"
    if not matches:
        return f"nothing matches; {_residual(found[0].recipe, screen)}"
    if len(matches) == 1:
        return "one convention matches"
    facts = [recipe.facts() for recipe in matches]
    differing = [name for name in facts[0] if len({str(one[name]) for one in facts}) > 1]
    return f"{len(matches)} conventions cannot be told apart on this data; they differ in {_and(differing)}"


def _and(words: list[str]) -> str:
    return " and ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))


def _residual(recipe: Recipe, screen: Screen) -> str:
    """What is left of the output once the nearest recipe is taken from it."""
    sample, structure = screen.sample, recipe.structure
    if np.array_equal(sample.x, sample.y):
        return "the output is the input"
    left = screen.predicted(recipe) - sample.y
    sound = np.isfinite(left) & np.isfinite(sample.x)
    left, x, places = left[sound], sample.x[sound], sample.places[sound]
    if not left.size:
        return "no finite value can be compared"
    size = float(np.sqrt(np.mean(left**2)))
    share = size / max(float(np.sqrt(np.mean(sample.y[sound] ** 2))), 1e-300)
    words = f"the nearest leaves a residual of {share:.2g} of the output"
    channel = structure.channel(places)
    group = structure.group_of(structure.counted(places))
    batch = places // prod(sample.shape[1:]) if structure.batched else np.zeros_like(places)
    if not screen.affine.unknown:
        free = Screen(sample, Affine(unknown=True)).candidates([structure, *screen.structures])
        if free and free[0][0] < EXPLAINED * size:
            return f"{words}: a scale and shift for each channel would do, try --affine unknown"
    for label, part in (
        (batch * structure.groups + group, "group: another statistic"),
        (batch * structure.channels + channel, "sample and channel"),
    ):
        if _unexplained(left, x, label) < EXPLAINED * size:
            return f"{words}, which is an affine map of the input for each {part}"
    return f"{words}, which is no affine map of the input: another operation before or behind"


def _unexplained(left: Floats, x: Floats, label: Any) -> float:
    """Root mean square of `left` less its best affine map of `x` within every class."""
    _, label = np.unique(label, return_inverse=True)
    count = np.bincount(label)
    mean_x, mean_left = (np.bincount(label, v) / count for v in (x, left))
    x, left = x - mean_x[label], left - mean_left[label]
    spread = np.bincount(label, x * x)
    slope = np.bincount(label, x * left) / np.where(spread > 0, spread, 1.0)
    rest = left - slope[label] * x
    free = left.size - 2 * count.size
    return float(np.sqrt(np.vdot(rest, rest) / free)) if free > left.size // 4 else inf
