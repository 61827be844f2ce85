"""gncli.layout: words, messages, and the five-axis view against the plain definition, element by element."""

from __future__ import annotations

from math import prod

import numpy as np
import pytest
from arrays import Array
from hypothesis import given, settings
from hypothesis import strategies as st

from gncli.errors import LayoutError, UsageError
from gncli.layout import (
    Geometry,
    Layout,
    channel_axis,
    divisors,
    flat_geometry,
    geometry,
    group_count,
    grouped_shape,
    layouts,
    sample_axis,
)
from gncli.norm import channels
from gncli.plan import plan
from gncli.tile import form_of

# Words


@pytest.mark.parametrize(
    ("given", "word", "rank"),
    [
        ("NCHW", "NCHW", 4),
        ("nhwc", "NHWC", 4),
        ("NcL", "NCL", 3),
        ("c", "C", 1),
        ("HWC", "HWC", 3),
        ("XCYN", "XCYN", 4),
        ("channels_first", "channels_first", None),
        ("Channels_Last", "channels_last", None),
    ],
)
def test_words(given: str, word: str, rank: int | None) -> None:
    layout = Layout.parse(given)
    assert (layout.word, layout.rank) == (word, rank)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("", "'' is no layout; use letters such as NCHW, NHWC, NCL, or channels_first or channels_last"),
        (
            "N C",
            "'N C' is no layout; use letters such as NCHW, NHWC, NCL, or channels_first or channels_last",
        ),
        (
            "NC2",
            "'NC2' is no layout; use letters such as NCHW, NHWC, NCL, or channels_first or channels_last",
        ),
        (
            "NCÄ",
            "'NCÄ' is no layout; use letters such as NCHW, NHWC, NCL, or channels_first or channels_last",
        ),
        ("nchh", "layout NCHH has a letter twice; each axis needs a letter of its own"),
        ("NNC", "layout NNC has a letter twice; each axis needs a letter of its own"),
        ("BCN", "layout BCN has N and B, which both name the sample; give one of them"),
        ("nbchw", "layout NBCHW has N and B, which both name the sample; give one of them"),
        ("NHW", "layout NHW has no C; name the channel axis, as in NCHW or NHWC"),
    ],
)
def test_words_that_are_none(given: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        Layout.parse(given)
    assert str(caught.value) == message
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("given", "rank", "word"),
    [
        ("channels_first", 2, "NC"),
        ("channels_first", 3, "NCL"),
        ("channels_first", 4, "NCHW"),
        ("channels_first", 5, "NCDHW"),
        ("channels_last", 2, "NC"),
        ("channels_last", 3, "NLC"),
        ("channels_last", 4, "NHWC"),
        ("channels_last", 5, "NDHWC"),
        ("CHW", 3, "CHW"),
    ],
)
def test_the_word_for_a_shape(given: str, rank: int, word: str) -> None:
    assert Layout.parse(given).on((3,) * rank).word == word


@pytest.mark.parametrize("rank", range(2, 23))
@pytest.mark.parametrize("given", ["channels_first", "channels_last"])
def test_generic_words_fit_any_rank(given: str, rank: int) -> None:
    word = Layout.parse(given).on((1,) * rank).word
    assert Layout.parse(word).word == word  # distinct letters, with a C
    assert (len(word), word[0]) == (rank, "N")
    assert word.index("C") == (1 if given == "channels_first" else rank - 1)


@pytest.mark.parametrize(
    ("word", "shape", "message"),
    [
        (
            "NCHW",
            (64, 16, 112),
            "shape (64, 16, 112) has 3 axes, layout NCHW needs 4 axes; layouts that fit: NCL, NLC, CHW, HWC",
        ),
        (
            "NCL",
            (2, 3, 4, 5),
            "shape (2, 3, 4, 5) has 4 axes, layout NCL needs 3 axes; layouts that fit: NCHW, NHWC, CDHW",
        ),
        (
            "NCHW",
            (8, 6),
            "shape (8, 6) has 2 axes, layout NCHW needs 4 axes; layouts that fit: NC, CL, LC",
        ),
        (
            "channels_first",
            (7,),
            "shape (7,) has 1 axis, layout channels_first needs 2 axes or more; layouts that fit: C",
        ),
        (
            "NCHW",
            (),
            "shape () has 0 axes, layout NCHW needs 4 axes; a scalar has no channels",
        ),
    ],
)
def test_a_rank_that_does_not_fit(word: str, shape: tuple[int, ...], message: str) -> None:
    layout = Layout.parse(word)
    assert not layout.fits(shape)
    with pytest.raises(LayoutError) as caught:
        layout.on(shape)
    assert str(caught.value) == message


@pytest.mark.parametrize("rank", range(1, 8))
def test_layouts_that_are_said_to_fit_do(rank: int) -> None:
    shape = (1,) * rank
    with pytest.raises(LayoutError) as caught:
        Layout.parse("CABDEFGHIJ").on(shape)
    words = str(caught.value).rpartition(": ")[2].split(", ")
    assert words
    assert all(Layout.parse(word).on(shape).word == word for word in words)


# Groups


@given(st.integers(1, 5000))
@settings(deadline=None, derandomize=True)
def test_divisors(number: int) -> None:
    assert divisors(number) == [d for d in range(1, number + 1) if number % d == 0]


def test_divisors_of_a_large_number() -> None:
    found = divisors(2**24)
    assert found == [2**power for power in range(25)]


@pytest.mark.parametrize(
    ("channels", "groups", "per_group", "message"),
    [
        (16, 5, None, "16 channels do not divide into 5 groups; valid: 1, 2, 4, 8, 16"),
        (16, 32, None, "16 channels do not divide into 32 groups; valid: 1, 2, 4, 8, 16"),
        (16, None, 3, "16 channels do not divide into groups of 3; valid: 1, 2, 4, 8, 16"),
        (1, 32, None, "1 channel does not divide into 32 groups; valid: 1"),
        (7, 2, None, "7 channels do not divide into 2 groups; valid: 1, 7"),
    ],
)
def test_groups_that_do_not_divide(
    channels: int, groups: int | None, per_group: int | None, message: str
) -> None:
    with pytest.raises(LayoutError) as caught:
        group_count(channels, groups, per_group)
    assert str(caught.value) == message


@pytest.mark.parametrize("given", [0, -1, -32])
def test_groups_below_one(given: int) -> None:
    for words in ((16, given, None), (16, None, given)):
        with pytest.raises(UsageError, match=rf"^{given} is no number of groups or channels; use 1 or more$"):
            group_count(*words)


def test_groups_that_are_not_given() -> None:
    with pytest.raises(UsageError, match="must be given"):
        group_count(16, None)


@given(st.integers(1, 40), st.integers(1, 40))
@settings(deadline=None, derandomize=True)
def test_group_count_either_way(groups: int, per_group: int) -> None:
    channels = groups * per_group
    assert group_count(channels, groups) == group_count(channels, None, per_group) == groups


def test_no_channels_divide_into_any_groups() -> None:
    assert group_count(0, 32) == 32
    assert group_count(0, None, 4) == 1


@pytest.mark.parametrize(
    ("shape", "word", "groups", "interleaved", "grouped"),
    [
        ((64, 16, 112, 112), "NCHW", 4, False, (64, 4, 4, 112, 112)),
        ((64, 16, 112, 112), "NCHW", 2, False, (64, 2, 8, 112, 112)),
        ((64, 16, 112, 112), "NCHW", 2, True, (64, 8, 2, 112, 112)),
        ((2, 5, 7, 6), "NHWC", 3, False, (2, 5, 7, 3, 2)),
        ((6,), "C", 1, False, (1, 6)),
    ],
)
def test_grouped_shape(
    shape: tuple[int, ...], word: str, groups: int, interleaved: bool, grouped: tuple[int, ...]
) -> None:
    assert grouped_shape(shape, word, groups, interleaved) == grouped


# The five-axis view


def test_the_views_that_the_module_shows() -> None:
    shape = (3, 12, 5, 7)
    assert geometry(shape, "NCHW", 4).dims == (1, 3, 1, 4, 3 * 35)
    assert geometry(shape, "NCHW", 4, interleaved=True).dims == (1, 3, 3, 4, 35)
    assert geometry((3, 5, 7, 12), "NHWC", 4).dims == (1, 3, 35, 4, 3)
    assert geometry((3, 12), "NC", 4).dims == (1, 3, 1, 4, 3)
    assert geometry(shape, "NCHW", 4, fortran=True).dims == (35, 4, 3, 3, 1)
    assert flat_geometry(42).dims == (1, 1, 1, 1, 42)


@st.composite
def stored(draw: st.DrawFn) -> tuple[tuple[int, ...], str, int, bool, bool]:
    """Shape, word, G, interleaved, Fortran: any permutation of letters with C, maybe N."""
    word = "".join(draw(st.permutations(draw(st.sampled_from(["C", "NC", "CW", "NCW", "CHW", "NCHW"])))))
    groups, per_group = draw(st.integers(1, 4)), draw(st.integers(1, 5))
    longest = draw(st.sampled_from([4, 4, 70]))  # inner runs on either side of what is long
    space = st.integers(1, longest if len(word) < 4 else 5)
    shape = tuple(
        groups * per_group if letter == "C" else draw(st.integers(1, 4) if letter == "N" else space)
        for letter in word
    )
    return shape, word, groups, draw(st.booleans()), draw(st.booleans())


def in_storage_order(shape: tuple[int, ...], word: str, letter: str, fortran: bool) -> Array:
    """The index on the axis `letter` of every element, in storage order; 0 where there is no such axis."""
    if letter not in word:
        return np.zeros(prod(shape), int)
    index: Array = np.indices(shape)[word.index(letter)]
    return index.ravel(order="F" if fortran else "C")


def definition(
    shape: tuple[int, ...], word: str, groups: int, interleaved: bool, fortran: bool
) -> tuple[Array, Array, Array]:
    """Sample, group and channel of every element in storage order, as the contract defines them."""
    sample = in_storage_order(shape, word, "N", fortran)
    channel = in_storage_order(shape, word, "C", fortran)
    per_group = shape[word.index("C")] // groups
    return sample, channel % groups if interleaved else channel // per_group, channel


@settings(deadline=None, max_examples=400, derandomize=True)
@given(stored(), st.sampled_from(["NG", "N", "G"]))
def test_the_view_groups_the_same_elements(
    tensor: tuple[tuple[int, ...], str, int, bool, bool], keep: str
) -> None:
    shape, word, groups, interleaved, fortran = tensor
    view = geometry(shape, word, groups, interleaved=interleaved, fortran=fortran, keep=keep)
    sample, group, _ = definition(*tensor)
    kept = {"N": sample, "G": group}
    lengths = {"N": shape[word.index("N")] if "N" in word else 1, "G": groups}
    names = ("N", "G") if view.samples_first else ("G", "N")
    assert prod(view.dims) == view.size == prod(shape)
    assert view.cells == tuple(lengths[name] if name in keep else 1 for name in names)
    assert view.group_size * prod(view.cells) == view.size
    places = np.indices(view.dims)
    for name, axis in zip(names, (1, 3), strict=True):
        expected = kept[name] if name in keep else np.zeros_like(sample)
        assert np.array_equal(places[axis].ravel(), expected), name


def channels_by_tile(view: Geometry) -> Array:
    """What `_channels` says of every element, in storage order, gathered tile by tile."""
    found: Array = np.full(view.dims, -1)
    cut = plan(view, 4, 4, 1 << 20, 1)
    for window in cut.windows():
        for block in window.blocks:
            origin = cut.box(block)
            edges = [np.add(start, cuts) for (start, _), cuts in zip(origin, cut.edges(block), strict=True)]
            for index in np.ndindex(*(len(cuts) - 1 for cuts in edges)):
                box = tuple((int(c[i]), int(c[i + 1])) for c, i in zip(edges, index, strict=True))
                a, b, c, d, e = (stop - start for start, stop in box)
                form = form_of(view, (a, b, c, d, e))
                numbers = np.broadcast_to(channels(view, form, box), (a, b, c, d, e // form.step))
                found[tuple(slice(*span) for span in box)] = np.repeat(numbers, form.step, axis=4)
    return found.reshape(-1)


@settings(deadline=None, max_examples=300, derandomize=True)
@given(stored(), st.sampled_from([64, 256, 1024, 1 << 20]))
def test_channel_numbers(tensor: tuple[tuple[int, ...], str, int, bool, bool], tile: int) -> None:
    """Whatever the tiles, small ones included, that cut a channel's run anywhere."""
    shape, word, groups, interleaved, fortran = tensor
    view = geometry(shape, word, groups, interleaved=interleaved, fortran=fortran)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gncli.plan.TILE", tile)
        found = channels_by_tile(view)
    assert np.array_equal(found, definition(*tensor)[2])


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("word", ["CX", "XC", "NCX", "NXC", "CNX", "XNC"])
@pytest.mark.parametrize("interleaved", [False, True])
def test_channel_numbers_of_runs_longer_than_a_tile(word: str, interleaved: bool, order: str) -> None:
    """A channel of 70 to 1000 elements, in tiles of 256: cut within runs, at runs, and across them."""
    for length in (70, 128, 300, 999):
        shape = tuple({"N": 2, "C": 6, "X": length}[letter] for letter in word)
        tensor = (shape, word, 2, interleaved, order == "F")
        view = geometry(shape, word, 2, interleaved=interleaved, fortran=order == "F")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("gncli.plan.TILE", 1024)
            assert np.array_equal(channels_by_tile(view), definition(*tensor)[2])


@pytest.mark.parametrize("word", ["channels_first", "channels_last", "NCHW"])
def test_more_axes_than_numpy_takes(word: str) -> None:
    assert Layout.parse("channels_first").fits((1,) * 64)
    with pytest.raises(LayoutError, match=r"has 65 axes; gn takes 64 at most$"):
        Layout.parse(word).on((1,) * 65)


@pytest.mark.parametrize("rank", [25, 26, 32, 64])
@pytest.mark.parametrize(("given", "axis"), [("channels_first", 1), ("channels_last", -1)])
def test_more_axes_than_letters(given: str, axis: int, rank: int) -> None:
    """The generic word stays, and a message names no word that nobody can give."""
    shape = (2, *(1,) * (rank - 2), 6) if axis == -1 else (2, 6, *(1,) * (rank - 2))
    word = Layout.parse(given).on(shape).word
    assert Layout.parse(word).on(shape).word == word
    assert (len(word) == rank) == (rank == 25)
    assert channel_axis(word, rank) == axis % rank
    assert sample_axis(word) == 0
    assert geometry(shape, word, 3).cells == (2, 3)
    assert grouped_shape(shape, word, 3) == ((2, 3, 2, *shape[2:]) if axis == 1 else (*shape[:-1], 3, 2))
    assert all(Layout.parse(fitting).fits(shape) for fitting in layouts(rank))


@pytest.mark.parametrize(
    ("given", "word"), [("BCHW", "NCHW"), ("bhwc", "NHWC"), ("CB", "CN"), ("cbl", "CNL")]
)
def test_b_is_n(given: str, word: str) -> None:
    assert Layout.parse(given).word == word


@pytest.mark.parametrize("letter", [chr(number) for number in range(ord("A"), ord("Z") + 1)])
@pytest.mark.parametrize("fortran", [False, True])
@pytest.mark.parametrize("interleaved", [False, True])
def test_the_letters_of_space_do_not_matter(letter: str, fortran: bool, interleaved: bool) -> None:
    if letter in "BNC":
        return
    how = {"interleaved": interleaved, "fortran": fortran}
    for word in ("NCXW", "XNWC", "CXW", "WXC"):
        shape = (3, 4, 5, 6)[-len(word) :] if word[-1] == "C" else (3, 4, 5, 6)[: len(word)]
        shape = tuple(4 if name == "C" else length for name, length in zip(word, shape, strict=True))
        other = word.replace("W", "ß").replace("X", letter).replace("ß", "W" if letter != "W" else "X")
        for keep in ("NG", "N", "G", ""):
            assert geometry(shape, other, 2, keep=keep, **how) == geometry(shape, word, 2, keep=keep, **how)
