"""gncli.plan: every element in one block, once, within the budget, and in tiles that only the shape sets."""

from __future__ import annotations

from itertools import islice, pairwise, product
from math import prod

import numpy as np
import pytest
from arrays import Array
from hypothesis import given, settings
from hypothesis import strategies as st

from gncli.errors import BudgetError
from gncli.layout import Box, Geometry, flat_geometry, geometry
from gncli.plan import Axis, Plan, plan

EXAMPLES = settings(deadline=None, max_examples=200, derandomize=True)
ITEMSIZES = [1, 2, 4, 8]


@st.composite
def views(draw: st.DrawFn) -> Geometry:
    """Of some thousand elements, with short and with long axes in every place."""
    dims = [draw(st.sampled_from([1, 1, 2, 3, 5, 13])) for _ in range(5)]
    dims[draw(st.integers(0, 4))] = draw(st.sampled_from([1, 7, 64, 100, 333]))
    while prod(dims) > 30_000:
        dims[dims.index(max(dims))] //= 2
    axis = draw(st.sampled_from([0, 2, 4]))
    run = draw(st.sampled_from([d for d in range(1, dims[axis] + 1) if dims[axis] % d == 0]))
    o, a, m, b, i = dims
    return Geometry(
        (o, a, m, b, i), draw(st.booleans()), b, dims[axis] // run, axis, run, draw(st.booleans())
    )


@st.composite
def requests(draw: st.DrawFn) -> tuple[Geometry, int, int, int]:
    """A view, the itemsizes of source and sink (0: nothing is written), and the bytes of a tile."""
    sizes = st.sampled_from(ITEMSIZES)
    sink = draw(st.sampled_from([0, *ITEMSIZES]))
    return draw(views()), draw(sizes), sink, draw(st.sampled_from([256, 1024, 4096]))


def small_plan(request: tuple[Geometry, int, int, int], tiles: int, jobs: int) -> tuple[Plan, int, int]:
    """The plan for a budget of `tiles` tiles; the budget in bytes, and the bytes of an element in buffers."""
    view, source, sink, size = request
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gncli.plan.TILE", size)
        each = source if sink in (source, 0) else source + sink
        return plan(view, source, sink, size * tiles, jobs), size * tiles, each


def extent(box: Box) -> tuple[int, ...]:
    return tuple(stop - start for start, stop in box)


def place(box: Box) -> tuple[slice, ...]:
    return tuple(slice(*span) for span in box)


def tiles_of(cut: Plan, block: Box) -> list[Box]:
    """The boxes, in elements, of a block's tiles, in the order in which they are measured."""
    origin = [start for start, _ in cut.box(block)]
    spans = [
        [(start + a, start + b) for a, b in pairwise(cuts)]
        for start, cuts in zip(origin, cut.edges(block), strict=True)
    ]
    return list(product(*spans))


budgets = st.sampled_from([1, 2, 3, 5, 16, 1000])
jobs_given = st.integers(1, 5)


@EXAMPLES
@given(requests(), budgets, jobs_given)
def test_every_element_is_in_one_block_and_in_one_tile(
    request: tuple[Geometry, int, int, int], tiles: int, jobs: int
) -> None:
    cut, _, _ = small_plan(request, tiles, jobs)
    dims = request[0].dims
    windows, blocks, in_tiles = (np.zeros(dims, int) for _ in range(3))
    for window in cut.windows():
        box = cut.box(window.box)
        windows[place(box)] += 1
        assert [box[axis] for axis in (0, 2, 4)] == [(0, dims[axis]) for axis in (0, 2, 4)]  # whole groups
        within = np.zeros(dims, int)
        for block in window.blocks:
            within[place(cut.box(block))] += 1
            for tile in tiles_of(cut, block):
                in_tiles[place(tile)] += 1
        blocks += within
        assert within[place(box)].all()
    assert (windows == 1).all()
    assert (blocks == 1).all()
    assert (in_tiles == 1).all()


@EXAMPLES
@given(requests(), budgets, jobs_given)
def test_blocks_keep_to_the_budget(request: tuple[Geometry, int, int, int], tiles: int, jobs: int) -> None:
    cut, memory, each = small_plan(request, tiles, jobs)
    assert 1 <= cut.jobs <= jobs
    for window in cut.windows():
        for block in window.blocks:
            size = prod(extent(cut.box(block)))
            assert 1 <= size <= cut.most
            assert size * each * cut.jobs <= memory
            assert all(1 <= prod(extent(tile)) <= cut.tile for tile in tiles_of(cut, block))


def sequences(cut: Plan) -> dict[tuple[Box, ...], list[Box]]:
    """For each pair of tile spans on the kept axes, the tiles of its groups in the order of their merging."""
    found: dict[tuple[Box, ...], list[Box]] = {}
    for window in cut.windows():
        for block in window.blocks:
            for tile in tiles_of(cut, block):
                found.setdefault(((tile[1], tile[3]),), []).append(tile)
    return found


@EXAMPLES
@given(requests(), budgets, budgets, jobs_given, jobs_given)
def test_tiles_and_the_order_of_sums_do_not_depend_on_memory_or_jobs(
    request: tuple[Geometry, int, int, int], one: int, other: int, jobs: int, more: int
) -> None:
    """So every sum is over the same elements in the same order: the bytes of the output are the same."""
    first, second = small_plan(request, one, jobs)[0], small_plan(request, other, more)[0]
    assert (first.axes, first.tile) == (second.axes, second.tile)
    assert sequences(first) == sequences(second)


@EXAMPLES
@given(requests(), budgets, jobs_given)
def test_runs_are_the_elements_of_a_box_in_order(
    request: tuple[Geometry, int, int, int], tiles: int, jobs: int
) -> None:
    cut, _, _ = small_plan(request, tiles, jobs)
    stored = np.arange(request[0].size).reshape(request[0].dims)
    for window in islice(cut.windows(), 5):
        for block in window.blocks[:5]:
            box = cut.box(block)
            assert_runs(cut.runs(box), stored[place(box)])


@EXAMPLES
@given(views(), st.data())
def test_runs_of_any_box(view: Geometry, data: st.DataObject) -> None:
    lows = [data.draw(st.integers(0, d - 1)) for d in view.dims]
    spans = [(low, data.draw(st.integers(low + 1, d))) for low, d in zip(lows, view.dims, strict=True)]
    box = tuple(spans)
    stored = np.arange(view.size).reshape(view.dims)
    assert_runs(plan(view, 4, 4, 1 << 20, 1).runs(box), stored[place(box)])


def assert_runs(runs: list[tuple[int, int]], expected: Array) -> None:
    assert np.array_equal(np.concatenate([np.arange(s, s + n) for s, n in runs]), expected.ravel())
    ends = [start + count for start, count in runs]
    assert all(end < start for end, (start, _) in zip(ends, runs[1:], strict=False)), "runs that touch"


@EXAMPLES
@given(st.integers(1, 400), st.integers(1, 60), st.integers(1, 60))
def test_an_axis(length: int, step: int, run: int) -> None:
    """Tiles cover it in order; where a run is longer than a tile, none reaches over the end of one."""
    axis = Axis(length, step, run)
    edges = [axis.edge(tile) for tile in range(axis.tiles + 1)]
    assert (edges[0], edges[-1]) == (0, length)
    assert all(0 < b - a <= step for a, b in pairwise(edges))
    if step < run:
        assert all(a // run == (b - 1) // run for a, b in pairwise(edges))
    assert list(axis.spans(3)) == [(a, min(a + 3, axis.tiles)) for a in range(0, axis.tiles, 3)]


# Edges


@pytest.mark.parametrize(("source", "sink"), [(4, 4), (2, 4), (8, 4), (1, 0), (3, 3)])
def test_a_budget_that_is_too_small(source: int, sink: int) -> None:
    view = geometry((8, 64, 56, 56), "NCHW", 32)
    with pytest.raises(BudgetError) as caught:
        plan(view, source, sink, 4096, 2)
    message = str(caught.value)
    least = int(message.partition("takes ")[2].split()[0])
    assert message == f"--memory 4096 is too little: one tile takes {least} bytes; use --memory 1M or more"
    assert caught.value.exit_code == 1
    with pytest.raises(BudgetError, match=f"--memory {least - 1} is too little: one tile takes {least} "):
        plan(view, source, sink, least - 1, 2)
    assert plan(view, source, sink, least, 2).jobs == 1  # what is asked for is enough
    assert plan(view, source, sink, 1 << 20, 2).jobs >= 1  # so is what is advised


def test_a_small_budget_has_fewer_workers() -> None:
    view = geometry((8, 64, 56, 56), "NCHW", 32)
    assert [plan(view, 4, 4, memory << 20, 8).jobs for memory in (1, 2, 3, 8, 64)] == [1, 2, 3, 8, 8]
    assert plan(view, 4, 4, 64 << 20, 0).jobs == 1


@pytest.mark.parametrize("word", ["NCHW", "NHWC", "HWCN", "CNHW"])
@pytest.mark.parametrize("empty", ["N", "C", "H", "W", "NHW"])
def test_zero_size(word: str, empty: str) -> None:
    shape = tuple(0 if letter in empty else {"N": 3, "C": 8, "H": 5, "W": 7}[letter] for letter in word)
    for fortran, interleaved in product((False, True), repeat=2):
        view = geometry(shape, word, 4, fortran=fortran, interleaved=interleaved)
        assert list(plan(view, 4, 4, 1 << 20, 2).windows()) == []


def test_a_scalar_is_one_block() -> None:
    cut = plan(flat_geometry(1), 4, 0, 1 << 20, 2)
    (window,) = cut.windows()
    (block,) = window.blocks
    assert cut.runs(cut.box(block)) == [(0, 1)]


HUGE = [
    ("NCHW", (1000, 1000, 1000, 1000), 50),
    ("NHWC", (1000, 1000, 1000, 1000), 50),
    ("CHWN", (1000, 1000, 1000, 1000), 50),
    ("HWCN", (1000, 1000, 1000, 1000), 50),
    ("NHCW", (1000, 1000, 1000, 1000), 50),
    ("NC", (10**6, 10**6), 10),
    ("NC", (10**11, 10), 5),
    ("NC", (10, 10**11), 10**11),
    ("NCL", (10**10, 10, 10), 10),
    ("CHW", (10**4, 10**4, 10**4), 10**4),
    ("NLC", (2, 5 * 10**10, 10), 5),
]


@pytest.mark.parametrize("fortran", [False, True])
@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize(("word", "shape", "groups"), HUGE, ids=[f"{w} {s}" for w, s, _ in HUGE])
def test_a_huge_tensor_is_planned_as_it_is_read(
    word: str, shape: tuple[int, ...], groups: int, interleaved: bool, fortran: bool
) -> None:
    """10**12 elements: the first windows are there at once."""
    view = geometry(shape, word, groups, interleaved=interleaved, fortran=fortran)
    assert view.size == 10**12
    cut = plan(view, 4, 4, 64 << 20, 2)
    for window in islice(cut.windows(), 2):
        assert len(window.blocks) < 10**6
        for block in window.blocks[:3]:
            box = cut.box(block)
            size = prod(extent(box))
            assert size * 4 * cut.jobs <= 64 << 20
            assert sum(count for _, count in cut.runs(box)) == size


@pytest.mark.parametrize("jobs", [1, 2, 3, 100])
@pytest.mark.parametrize("together", [1, 4, 32])
@pytest.mark.parametrize("blocks", [0, 1, 5, 16, 639, 75_000])
def test_lots_become_smaller_towards_the_end(blocks: int, together: int, jobs: int) -> None:
    """Nobody has much more to do than another, and of many blocks most come in the largest lots."""
    cut = plan(geometry((2, 32, 10**9), "NCL", 4), 4, 4, 1 << 30, jobs, together)
    left, lots = blocks, []
    for lot in cut.lots(blocks, handed_back=False):
        lots.append(min(lot, left))
        left -= lot
        if left <= 0:
            break
    assert sum(lots) == blocks
    assert lots == sorted(lots, reverse=True)
    assert max(lots) <= min(together, max(1, blocks // (2 * jobs)))
    assert lots[-1] <= max(1, together // 8)
    if blocks > 100 * jobs * together:
        assert sum(lot for lot in lots if lot == together) > 0.9 * blocks


def test_moments_of_many_groups_come_one_block_at_a_time() -> None:
    cut = plan(geometry((10**7, 64), "NC", 32), 4, 4, 1 << 26, 2)
    assert list(islice(cut.lots(handed_back=True), 3)) == [1, 1, 1]
    assert list(islice(cut.lots(handed_back=False), 3)) == [4, 4, 4]


@pytest.mark.parametrize(
    ("shape", "groups"), [((16, 8, 2**19), 1), ((4096, 8, 1024), 1), ((500, 32, 784), 32)]
)
@pytest.mark.parametrize("megabytes", [8, 1024])
@pytest.mark.parametrize("together", [4, 32])
def test_lots_of_what_there_is_leave_nobody_idle(
    shape: tuple[int, ...], groups: int, megabytes: int, together: int
) -> None:
    """Whether a block is a tile or a group of many; and of little, little is under way."""
    cut = plan(geometry(shape, "NCL", groups), 4, 4, megabytes << 20, 8, together)
    blocks = sum(len(window.blocks) for window in cut.windows())
    first = next(iter(cut.lots(handed_back=False)))
    assert 1 <= first <= max(1, min(together, blocks // (2 * cut.jobs)))
    assert first == 1 or first * cut.jobs * (8 << 20) <= prod(shape) * 4 // 8


@pytest.mark.parametrize("shape", [(0, 4, 3), (2, 0, 3), (2, 4, 0)])
@pytest.mark.parametrize("handed_back", [False, True])
def test_lots_of_nothing(shape: tuple[int, ...], handed_back: bool) -> None:
    cut = plan(geometry(shape, "NCL", 2), 4, 4, 1 << 24, 2)
    assert next(iter(cut.lots(handed_back=handed_back))) == 1
