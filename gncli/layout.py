"""Where N, C and space are: a layout word and a shape, turned into integers.

Whatever the layout, the storage order and the grouping, a group is a set of elements of one
five-axis view of the stored bytes, outer × first × middle × second × inner, in which `first` and
`second` are sample and group in either order, and the group runs over the other three:

    NCHW contiguous    1  · N · 1      · G · C/G·H·W
    NCHW interleaved   1  · N · C/G    · G · H·W
    NHWC contiguous    1  · N · H·W    · G · C/G
    NC                 1  · N · 1      · G · C/G
    NCHW Fortran       HW · G · C/G    · N · 1

All that follows (plan, moments, groupnorm) knows this view only. Plain integers, no numpy.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, product
from math import isqrt, prod
from typing import TypeAlias

from gncli.errors import LayoutError, UsageError

Run: TypeAlias = tuple[int, int]  # start and count in elements, in storage order
Box: TypeAlias = tuple[tuple[int, int], ...]  # start and stop on each axis of the five-axis view

MAX_RANK = 64  # numpy's limit
TRIED = 4096  # numbers that may divide a number of channels
SHOWN = 32  # divisors in a message
GENERIC = ("channels_first", "channels_last")
_SPACE = {0: "", 1: "L", 2: "HW", 3: "DHW", 4: "TDHW"}
_SPARE = "TDHWAEFGIJKLMOPQRSUVXYZ"  # all letters but C, and N and B for the sample


def _words(ends: tuple[str, str], space: int) -> list[str]:
    """The word with so many spatial axes between its ends; none where there are not enough letters."""
    if space > len(_SPARE):
        return []
    return [(_SPACE.get(space) or _SPARE[:space]).join(ends)]


def channel_axis(word: str, rank: int) -> int:
    """The axis of C, in a layout word that fits the rank."""
    return {"channels_first": 1, "channels_last": rank - 1}.get(word, word.find("C"))


def sample_axis(word: str) -> int | None:
    """The axis of N; None where the whole tensor is one sample."""
    if word in GENERIC:
        return 0
    return word.index("N") if "N" in word else None


@dataclass(frozen=True)
class Layout:
    """A word of distinct letters, one of them C, at most one N; or channels_first, channels_last."""

    word: str

    @classmethod
    def parse(cls, word: str) -> Layout:
        """`word` in either case, with N for B. Raises UsageError for a word that is no layout."""
        if word.lower() in GENERIC:
            return cls(word.lower())
        letters = word.upper()
        if not (letters.isascii() and letters.isalpha()):
            raise UsageError(
                f"{word!r} is no layout; use letters such as NCHW, NHWC, NCL, or {' or '.join(GENERIC)}"
            )
        if len(set(letters)) != len(letters):
            raise UsageError(f"layout {letters} has a letter twice; each axis needs a letter of its own")
        if "C" not in letters:
            raise UsageError(f"layout {letters} has no C; name the channel axis, as in NCHW or NHWC")
        if {"N", "B"} <= set(letters):
            raise UsageError(f"layout {letters} has N and B, which both name the sample; give one of them")
        return cls(letters.replace("B", "N"))

    @property
    def rank(self) -> int | None:
        """Axes that the word asks for; None where any rank from 2 fits."""
        return None if self.word in GENERIC else len(self.word)

    def fits(self, shape: Sequence[int]) -> bool:
        return 2 <= len(shape) <= MAX_RANK if self.rank is None else len(shape) == self.rank

    def on(self, shape: Sequence[int]) -> Layout:
        """The layout of this very shape: channels_first on 4 axes is NCHW. Raises LayoutError.

        It stays channels_first or channels_last where there are more axes than letters.
        """
        rank = len(shape)
        if rank > MAX_RANK:
            raise LayoutError(f"shape {tuple(shape)} has {rank} axes; gn takes {MAX_RANK} at most")
        if not self.fits(shape):
            needs = f"{self.rank} axes" if self.rank else "2 axes or more"
            fitting = ", ".join(layouts(rank))
            has = f"shape {tuple(shape)} has {rank} {'axis' if rank == 1 else 'axes'}"
            then = f"layouts that fit: {fitting}" if fitting else "a scalar has no channels"
            raise LayoutError(f"{has}, layout {self.word} needs {needs}; {then}")
        ends = {"channels_first": ("NC", ""), "channels_last": ("N", "C")}.get(self.word)
        return Layout(*_words(ends, rank - 2) or [self.word]) if ends else self


def layouts(rank: int) -> list[str]:
    """The words that fit so many axes, the likeliest first."""
    words = {1: ["C"], 2: ["NC", "CL", "LC"], 3: ["NCL", "NLC", "CHW", "HWC"]}
    if rank == 0 or rank > MAX_RANK:
        return []
    with_sample = [*_words(("NC", ""), rank - 2), *_words(("N", "C"), rank - 2)]
    return words.get(rank) or [*(with_sample or GENERIC), *_words(("C", ""), rank - 1)]


@dataclass(frozen=True)
class Geometry:
    """The five-axis view of a stored tensor, and how channels lie in it.

    `channel_axis` is the reduced axis (0, 2 or 4) that tells the channels of one group apart, and
    `channel_run` how many steps of that axis belong to one channel; `interleaved` says that channel
    c is in group c % G. `samples_first`: the sample is on axis 1 and the group on 3, else the reverse.
    """

    dims: tuple[int, int, int, int, int]
    samples_first: bool = True
    groups: int = 1
    channels_per_group: int = 1
    channel_axis: int = 4
    channel_run: int = 1
    interleaved: bool = False

    @property
    def size(self) -> int:
        return prod(self.dims)

    @property
    def group_size(self) -> int:
        return self.dims[0] * self.dims[2] * self.dims[4]

    @property
    def cells(self) -> tuple[int, int]:
        """Lengths of the two axes that are kept, in storage order."""
        return self.dims[1], self.dims[3]


def stretches(size: int, most: int) -> Iterator[Run]:
    """All of `size` elements in storage order, at most so many at a time."""
    return ((start, min(most, size - start)) for start in range(0, size, most))


def divisors(number: int) -> list[int]:
    """Return the divisors in order. Of a number above TRIED², those up to TRIED: a stranger may give any."""
    root = isqrt(number)
    low = [d for d in range(1, min(root, TRIED) + 1) if number % d == 0]
    return low if root > TRIED else low + [number // d for d in reversed(low) if d * d != number]


def widest(count: int, most: int) -> int:
    """The largest divisor of `count` up to `most`; 1 at least."""
    return next((r for r in range(min(count, most), 0, -1) if count % r == 0), 1)


def group_count(channels: int, groups: int | None, channels_per_group: int | None = None) -> int:
    """G for `channels`, from either option. Raises LayoutError where it does not divide."""
    if channels == 0:
        return groups if groups is not None else 1
    given = channels_per_group if channels_per_group is not None else groups
    if given is None:
        raise UsageError("either groups or channels per group must be given")
    if given < 1:
        raise UsageError(f"{given} is no number of groups or channels; use 1 or more")
    if channels % given:
        found = divisors(channels)
        valid = ", ".join(map(str, found[:SHOWN])) + (", ..." if len(found) > SHOWN else "")
        into = f"{given} groups" if channels_per_group is None else f"groups of {given}"
        they = "1 channel does" if channels == 1 else f"{channels} channels do"
        raise LayoutError(f"{they} not divide into {into}; valid: {valid}")
    return channels // given if channels_per_group is not None else given


def grouped_shape(shape: Sequence[int], word: str, groups: int, interleaved: bool = False) -> tuple[int, ...]:
    """The shape with C split in place: (64, 16, 112, 112) and 4 groups give (64, 4, 4, 112, 112)."""
    axis = channel_axis(word, len(shape))
    pair = (groups, shape[axis] // groups)
    return (*shape[:axis], *(reversed(pair) if interleaved else pair), *shape[axis + 1 :])


def is_interleaved(grouping: str) -> bool:
    """Raises UsageError for a word that is neither contiguous nor interleaved."""
    if grouping not in ("contiguous", "interleaved"):
        raise UsageError(f"{grouping!r} is none of contiguous, interleaved")
    return grouping == "interleaved"


def geometry(
    shape: Sequence[int],
    word: str,
    groups: int,
    *,
    interleaved: bool = False,
    fortran: bool = False,
    keep: str = "NG",
) -> Geometry:
    """The five-axis view of `shape` in storage order (`fortran`: first axis fastest).

    `keep` names the axes that are told apart, N (sample) and G (group); the others are summed over.
    """
    channel, sample = channel_axis(word, len(shape)), sample_axis(word)
    per_group = shape[channel] // groups
    axes: list[tuple[str, int]] = [("N", 1)] if sample is None else []
    for axis in reversed(range(len(shape))) if fortran else range(len(shape)):
        if axis == channel:
            split = [("G", groups), ("c", per_group)]
            axes += reversed(split) if interleaved else split
        else:
            axes.append(("N" if axis == sample else "space", shape[axis]))
    return _collapse(axes, keep, groups, per_group, interleaved)


def _collapse(
    axes: list[tuple[str, int]], keep: str, groups: int, per_group: int, interleaved: bool
) -> Geometry:
    """Merge neighbouring axes that are summed over; kept axes land on 1 and 3.

    `axes`: the role of each, which is N, G, c (a channel within its group) or space, and its length.
    """
    dims = [1, 1, 1, 1, 1]
    roles = ["", "", "", "", ""]
    slot = 0
    channel_axis, channel_run = 4, 1
    for is_kept, run in groupby(axes, key=lambda axis: axis[0] in tuple(keep)):
        for role, length in run:
            if is_kept:
                slot = slot + 1 if slot % 2 == 0 else slot + 2
                dims[slot], roles[slot] = length, role
                continue
            if slot % 2:
                slot += 1
            if role == "c":
                channel_axis, channel_run = slot, 1
            elif channel_axis == slot:
                channel_run *= length
            dims[slot] *= length
    if slot < 3 and dims[4] == 1:
        # Fewer than two kept axes: what stands behind the last of them is the innermost run.
        dims[4], dims[2] = dims[2], 1
        channel_axis = 4 if channel_axis == 2 else channel_axis
        if slot == 0:
            dims[4], dims[0] = dims[0], 1
            channel_axis = 4 if channel_axis == 0 else channel_axis
    samples_first = roles[1] == "N" or roles[3] == "G"
    return Geometry(
        (dims[0], dims[1], dims[2], dims[3], dims[4]),
        samples_first,
        groups,
        per_group,
        channel_axis,
        channel_run,
        interleaved,
    )


def flat_geometry(size: int) -> Geometry:
    """All elements as one set, in storage order."""
    return Geometry((1, 1, 1, 1, size))


def runs_of(dims: Sequence[int], box: Box) -> list[Run]:
    """A box of a tensor stored with `dims`, the last axis fastest, as runs of its elements, in order."""
    length, axis = 1, len(dims) - 1
    while axis >= 0:
        start, stop = box[axis]
        length *= stop - start
        if stop - start < dims[axis]:
            break
        axis -= 1
    if axis < 0:
        return [(0, length)]
    strides = [prod(dims[a + 1 :]) for a in range(len(dims))]
    offset = sum(box[a][0] * strides[a] for a in range(axis, len(dims)))
    ahead = product(*(range(*box[a]) for a in range(axis)))
    return [(offset + sum(i * strides[a] for a, i in enumerate(index)), length) for index in ahead]
