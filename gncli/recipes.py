"""The ways in which people compute group norm: which elements make a group, and what is done with them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod, sqrt
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from gncli.layout import Geometry, channel_axis, divisors, geometry, sample_axis
from gncli.words import quoted

Floats: TypeAlias = NDArray[np.float64]
Places: TypeAlias = NDArray[np.int64]

EPS = (1e-5, 1e-3, 1e-6, 1e-8, 0.0)  # the likeliest first
PLACES = ("inside", "outside", "variance")  # / sqrt(var + eps), / (sqrt(var) + eps), / (var + eps)
STATISTICS = ("exact", "float32", "float16")
VIEW = "NLCW"  # the layout of samples as `Structure.view` has them
SILU_LEAST = -0.2784645427610738  # the minimum of z·sigmoid(z)


@dataclass(frozen=True)
class Structure:
    """Which elements make a group, in a tensor in C order.

    `reshaped`: the memory was taken for a tensor of the other layout, channels first for last or last for
    first, by a reshape where a transpose was wanted. Scale and shift still go by the real channels.
    """

    shape: tuple[int, ...]
    word: str
    groups: int
    interleaved: bool = False
    reshaped: bool = False

    @property
    def batched(self) -> bool:
        """Whether the first axis is N. Without N, the whole tensor is one sample."""
        return sample_axis(self.word) == 0

    @property
    def batch(self) -> int:
        return self.shape[0] if self.batched else 1

    @property
    def channel_axis(self) -> int:
        return channel_axis(self.word, len(self.shape))

    @property
    def channels(self) -> int:
        return self.shape[self.channel_axis]

    @property
    def group_size(self) -> int:
        return prod(self.shape) // max(1, self.batch * self.groups)

    @property
    def view(self) -> tuple[int, int, int]:
        """One sample as (space, C, space), in which its groups are groups of channels."""
        before = prod(self.shape[1 if self.batched else 0 : self.channel_axis])
        after = prod(self.shape[self.channel_axis + 1 :])
        if not self.reshaped:
            return before, self.channels, after
        return (1, self.channels, before) if after == 1 else (before * after, self.channels, 1)

    @property
    def geometry(self) -> Geometry:
        return geometry((self.batch, *self.view), VIEW, self.groups, interleaved=self.interleaved)

    def counted(self, places: Places) -> Places:
        """The channel by which elements are grouped, from their places in storage order."""
        _, channels, after = self.view
        return places // after % channels

    def channel(self, places: Places) -> Places:
        """The channel by which they are scaled and shifted."""
        return places // prod(self.shape[self.channel_axis + 1 :]) % self.channels

    def group_of(self, channel: Places) -> Places:
        return channel % self.groups if self.interleaved else channel // (self.channels // self.groups)

    @property
    def oddity(self) -> int:
        return 4 * self.reshaped + self.interleaved + (not self.batched) + 2 * (self.word not in USUAL)


USUAL = ("NC", "NCL", "NLC", "NCHW", "NHWC", "NCDHW", "NDHWC")


@dataclass(frozen=True)
class Recipe:
    """A structure and all else that makes an output of an input. `fitted`: eps was found from the data."""

    structure: Structure
    eps: float = 1e-5
    place: str = "inside"
    unbiased: bool = False
    statistics: str = "exact"
    activation: str = "none"
    affine: str = "none"  # none, given; or solved for: per group, per channel
    fitted: bool = False

    def normalized(self, x: Any, mean: Any, var: Any) -> Any:
        """Before scale, shift and activation; `var` is the population's, both of the group of each x."""
        if self.unbiased:
            size = self.structure.group_size
            var = var * (size / (size - 1)) if size > 1 else var * np.nan
        if self.statistics != "exact":
            mean, var = (v.astype(self.statistics).astype(np.float64) for v in (mean, var))
        match self.place:
            case "inside":
                return (x - mean) / np.sqrt(var + self.eps)
            case "outside":
                return (x - mean) / (np.sqrt(var) + self.eps)
            case _:
                return (x - mean) / (var + self.eps)

    def activated(self, z: Any) -> Any:
        match self.activation:
            case "relu":
                return np.maximum(z, 0)
            case "silu":
                return z / (1 + np.exp(-z))
            case _:
                return z

    @property
    def oddity(self) -> tuple[int, int]:
        """How far from the usual it is: of recipes that give the same, the least odd is the likeliest."""
        odd = self.structure.oddity + 2 * self.unbiased + 2 * (self.place != "inside")
        odd += 2 * STATISTICS.index(self.statistics) + 3 * self.fitted
        odd += {"per channel": 1}.get(self.affine, 0) + 2 * (self.activation != "none")
        return odd, EPS.index(self.eps) if self.eps in EPS else len(EPS)

    def facts(self) -> dict[str, object]:
        """By the names of a record."""
        return {
            "groups": self.structure.groups,
            "eps": self.eps,
            "layout": self.structure.word,
            "one_sample": not self.structure.batched,
            "grouping": "interleaved" if self.structure.interleaved else "contiguous",
            "divide_by": "variance" if self.place == "variance" else "std",
            "eps_place": "outside" if self.place == "outside" else "inside",
            "variance": "unbiased" if self.unbiased else "population",
            "statistics": self.statistics,
            "affine": self.affine,
            "activation": self.activation,
            "reshaped": self.structure.reshaped,
        }

    def command(self, x: str, gamma: str | None, beta: str | None, dtype: str | None) -> str | None:
        """The line that gives the same, where there is one. `gamma`, `beta`: as they were given."""
        odd = self.structure.reshaped or self.activation != "none" or self.statistics != "exact"
        if odd or self.affine.startswith("per ") or (self.place == "outside" and self.eps):
            return None
        eps = self.eps
        if self.unbiased:
            # var·n/(n - 1) + eps is n/(n - 1) times var + eps·(n - 1)/n.
            if gamma is not None or self.structure.group_size < 2:
                return None
            factor = 1 - 1 / self.structure.group_size
            eps *= factor
            gamma = repr(factor if self.place == "variance" else sqrt(factor))
        words = ["gn", "normalize", x, "--groups", str(self.structure.groups), "--eps", f"{eps!r}"]
        words += ["--layout", self.structure.word]
        words += ["--grouping", "interleaved"] if self.structure.interleaved else []
        words += ["--divide-by", "variance"] if self.place == "variance" else []
        for name, value in (("--gamma", gamma), ("--beta", beta), ("--dtype", dtype)):
            words += [name, value] if value is not None else []
        return " ".join(map(quoted, words))


def structures(shape: tuple[int, ...], words: Sequence[str]) -> list[Structure]:
    """Every number of groups in every layout, contiguous, interleaved, and by the wrong reshape."""
    found = []
    for word in words:
        channels = shape[channel_axis(word, len(shape))]
        for groups in divisors(channels):
            plain = Structure(shape, word, groups)
            space = plain.view[0] * plain.view[2]
            several = 1 < groups < channels
            found += [plain, replace(plain, interleaved=True)] if several else [plain]
            if space > 1 and groups > 1:
                wrong = replace(plain, reshaped=True)
                found += [wrong, replace(wrong, interleaved=True)] if several else [wrong]
    return sorted(found, key=lambda one: one.oddity)
