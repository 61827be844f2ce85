"""gncli.kernel: the compiled passes against exact sums, and against numpy's passes, to the bit."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import warnings
from fractions import Fraction
from math import prod
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from arrays import Array, normal, rng, spoiled
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import rounded, score_gold, ulp_distance

import gncli
from gncli import group_norm
from gncli import kernel as room
from gncli.groupnorm import normalize
from gncli.layout import geometry
from gncli.measure import measure, measure_lines
from gncli.norm import Norm
from gncli.normalize import Settings, normalize_file
from gncli.scratch import Scratch, arithmetic
from gncli.tile import Columns, Form, Row, Rows, Short, form_of

EXAMPLES = settings(deadline=None, max_examples=300, derandomize=True)


@pytest.fixture(autouse=True)
def _installed(kernel: ModuleType) -> Any:
    """The kernel of this tree, whether or not one is installed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(room, "passes", kernel)
        yield


def both(function: Any) -> tuple[Any, Any]:
    """What the function gives with the compiled passes, and without."""
    with_kernel = function()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(room, "passes", None)
        return with_kernel, function()


# Values whose sums are of few bits and of many, up to where a pair does not hold them.
VALUES: dict[str, Any] = {
    "N(0,1)": lambda n, r: r.standard_normal(n),
    "mean/std 1e5": lambda n, r: r.standard_normal(n) + 1e5,
    "a wide range": lambda n, r: r.standard_normal(n) * 2.0 ** r.integers(-30, 20, n),
    "a range too wide": lambda n, r: r.standard_normal(n) * 2.0 ** r.integers(-120, 120, n),
    "one tiny value": lambda n, r: np.where(np.arange(n) == n // 2, 1e-12, r.standard_normal(n)),
    "denormals": lambda n, r: r.standard_normal(n) * 1e-42,
    "integers": lambda n, r: r.integers(-3, 3, n),
    "zeros of both signs": lambda n, r: np.copysign(0.0, r.standard_normal(n)),
    "constant 0.1": lambda n, r: np.full(n, 0.1),
    "the largest": lambda n, r: np.copysign(3.4e38, r.standard_normal(n)),
    "NaN and infinity": lambda n, r: np.where(r.random(n) < 0.05, np.resize([np.nan, np.inf], n), 1.0),
}


@st.composite
def tiles(draw: st.DrawFn) -> tuple[Form, Array]:
    """A form of each kind and a float32 tile for it, cut out of a larger block or not."""
    few = st.sampled_from([1, 1, 2, 3])
    kind = draw(st.sampled_from(["row", "rows", "columns", "short"]))
    made: Form
    if kind in ("row", "rows"):
        inner = draw(st.sampled_from([64, 97, 255, 256, 512, 1031, 3000]))
        run = draw(st.sampled_from([d for d in range(1, inner + 1) if inner % d == 0] + [inner + 5]))
        shape = (1, 1, 1, 1, inner) if kind == "row" else (draw(few), draw(few), draw(few), draw(few), inner)
        made = Row(shape, run) if kind == "row" else Rows(shape, run)
    elif kind == "columns":
        shape = (draw(few), draw(few), draw(st.integers(1, 90)), draw(few), draw(st.integers(1, 63)))
        made = Columns(shape)
    else:
        outer, middle = (1, 1) if draw(st.booleans()) else (draw(few), 2)
        shape = (outer, draw(st.integers(1, 4000)), middle, draw(few), draw(st.integers(1, 9)))
        made = Short(shape)
    seed, make = draw(st.integers(0, 10**6)), VALUES[draw(st.sampled_from(sorted(VALUES)))]
    within = draw(st.booleans())
    block = tuple(n + 2 for n in shape) if within else shape
    with np.errstate(over="ignore"):
        x = make(prod(block), np.random.default_rng(seed)).astype("f4").reshape(block)
    return made, x[tuple(slice(1, 1 + n) for n in shape)] if within else x


def bits(values: Any) -> Any:
    """Nested tuples of bytes, in which 0 has no sign: nothing comes of it."""
    if isinstance(values, tuple):
        return tuple(bits(each) for each in values)
    return (np.asarray(values, dtype=np.float64) + 0.0).tobytes()


@EXAMPLES
@given(tiles(), st.sampled_from(["f4", "f8", ">f8"]), st.booleans())
def test_moments_are_those_of_numpy(case: tuple[Form, Array], dtype: str, twofold: bool) -> None:
    form, tile = case[0], case[1].astype(dtype, copy=dtype != "f4")

    def moments() -> Any:
        with arithmetic():
            return bits(measure(form, tile, Scratch(form.size), twofold)[0])

    compiled, plain = both(moments)
    assert compiled == plain


@EXAMPLES
@given(tiles(), st.sampled_from(["f4", "f8"]), st.booleans())
def test_moments_of_lines_are_those_of_numpy(case: tuple[Form, Array], dtype: str, twofold: bool) -> None:
    form, tile = case[0], case[1].astype(dtype, copy=dtype != "f4")
    with arithmetic():
        found = measure_lines(form, tile, twofold=twofold)
    if found is None:
        assert not form.lines or (dtype == "f4" and twofold) or spread_out(tile)
        return
    with pytest.MonkeyPatch.context() as patch, arithmetic():
        patch.setattr(room, "passes", None)
        assert bits(found) == bits(measure(form, tile, Scratch(form.size), twofold)[0])


def spread_out(tile: Array) -> bool:
    """Whether some sum may not be exact: of values that float64's range holds, but not so its digits."""
    magnitudes = np.abs(tile[tile != 0].astype("f8"))
    if not np.isfinite(magnitudes).all():
        return True
    return bool(magnitudes.size and magnitudes.max() / magnitudes.min() > 2.0**30)


@EXAMPLES
@given(
    tiles(),
    st.sampled_from(["", "gamma", "beta", "gamma, beta", "beta that cancels"]),
    st.sampled_from(["in place", "float32", "float16", "float64", "float64 in place"]),
    st.booleans(),
)
def test_values_are_those_of_numpy(case: tuple[Form, Array], affine: str, out: str, fresh: bool) -> None:
    """From moments just measured or known before, to another tile or to the same, whatever its dtype."""
    form, tile = case
    if out == "float64 in place":
        tile = tile.astype("f8")
    box = tuple((0, n) for n in form.shape)
    channels = form.shape[1] * form.shape[3] * 3
    view = geometry((form.shape[0], channels, 5), "NCL", channels // 3)
    gamma, beta = (rng().standard_normal(channels) if word in affine else None for word in ("gamma", "beta"))
    if affine == "beta that cancels":  # some value of the first group, but for a few bits
        group = tile[:, 0, :, 0].astype("f8").ravel()
        with np.errstate(all="ignore"):
            beta = np.full(channels, (np.mean(group) - group[-1]) / np.sqrt(np.var(group) + 1e-5))
        if not np.isfinite(beta[0]):
            beta = np.zeros(channels)
    norm = Norm(view, gamma=gamma, beta=beta, twofold="float64" in out)

    def values() -> bytes:
        source = tile.copy()
        sink = source if "in place" in out else np.full_like(source, 7, np.dtype(out))
        scratch = Scratch(form.size)
        for each in (scratch.work, scratch.part, scratch.spare):
            each[:] = 12345  # what another tile may have left
        with arithmetic():
            moments, left = measure(form, source, scratch, norm.twofold)
            normalize(norm, form, box, source, sink, moments, scratch, left=left if fresh else None)
        return sink.tobytes()

    compiled, plain = both(values)
    assert compiled == plain


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("affine", [False, True])
@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize(
    ("layout", "shape", "groups"),
    [
        ("NCHW", (3, 32, 61, 63), 8),
        ("NCHW", (40, 64, 7, 7), 32),
        ("NHWC", (3, 61, 63, 32), 8),
        ("NHWC", (50, 7, 7, 64), 32),
        ("CHWN", (32, 15, 17, 40), 8),
        ("NC", (20_001, 8), 4),
        ("NC", (20_001, 8), 1),
        ("NC", (3001, 90), 2),
        ("NLC", (3, 20_001, 8), 4),
    ],
)
def test_whole_tensors(
    layout: str, shape: tuple[int, ...], groups: int, dtype: str, affine: bool, order: Any
) -> None:
    x = np.asarray(normal(*shape, mean=0.1, std=3), dtype, order=order)
    channels = shape[layout.index("C")]
    chosen = dict(zip(("gamma", "beta"), rng().standard_normal((2, channels)), strict=True)) if affine else {}
    compiled, plain = both(lambda: group_norm(x, groups, layout=layout, **chosen).tobytes())
    assert compiled == plain


@pytest.mark.parametrize("values", VALUES)
@pytest.mark.parametrize("jobs", [1, 2])
@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_several_tiles(values: str, jobs: int, dtype: str) -> None:
    """Taken at once, or tile by tile where a sum is not exact: these are two blocks of several tiles."""
    x = normal(12, 32, 100, 100).astype(dtype)
    with np.errstate(over="ignore"):
        x[1, 5] = VALUES[values](10_000, rng()).reshape(100, 100)
    with warnings.catch_warnings(action="ignore"):  # of NaN
        compiled, plain = both(lambda: group_norm(x, 8, jobs=jobs).tobytes())
    assert compiled == plain


def cancelling(x: Array, groups: int) -> float:
    """A beta that leaves next to nothing of the first sample's last value."""
    group = x[0].reshape(groups, -1)[-1].astype("f8")
    return float((group.mean() - group[-1]) / np.sqrt(group.var() + 1e-5) * (1 + 2.0**-40))


@pytest.mark.parametrize("values", ["N(0,1)", "a range too wide", "NaN and infinity"])
@pytest.mark.parametrize("affine", ["", "gamma, beta", "beta that cancels"])
@pytest.mark.parametrize("shape", [(12, 32, 100, 100), (300, 32, 14, 14)])
@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_blocks_of_files(
    dtype: str, shape: tuple[int, ...], affine: str, values: str, tmp_path: Path
) -> None:
    """The same bytes and the same statistics, whether a block is taken at once or tile by tile."""
    x = normal(*shape, mean=3).astype(dtype)
    with np.errstate(over="ignore"):
        x[1, 5] = VALUES[values](x[1, 5].size, rng()).reshape(x.shape[2:])
    np.save(tmp_path / "x.npy", x)
    chosen: dict[str, Any] = {"gamma": 1.5, "beta": -0.25} if affine == "gamma, beta" else {}
    if affine == "beta that cancels":
        chosen = {"beta": cancelling(x, 8)}

    def made() -> Any:
        settings = Settings(groups=8, jobs=2, **chosen)
        done = normalize_file(f"{tmp_path}/x.npy", f"{tmp_path}/y.npy", settings, force=True)
        return (tmp_path / "y.npy").read_bytes(), done.record["before"], repr(done.record["after"])

    compiled, plain = both(made)
    assert compiled == plain


def test_what_beta_cancels_in_every_group(tmp_path: Path) -> None:
    """In a block that is taken at once, for a few there is room to be mended."""
    x = np.broadcast_to(normal(1, 1, 4, 100, 100), (12, 8, 4, 100, 100)).reshape(12, 32, 100, 100)
    beta = cancelling(x, 8)
    compiled, plain = both(lambda: group_norm(x, 8, beta=beta))
    assert compiled.tobytes() == plain.tobytes()
    score = score_gold(x[0, :4], float(x[0, 3, -1, -1]), 1e-5)
    assert ulp_distance(compiled[:, 3::4, -1, -1], rounded(np.array(score + Fraction(beta)), "f4")).max() <= 1


@pytest.mark.parametrize("affine", [False, True])
@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_blocks_are_taken_at_once(
    dtype: str, affine: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Or else the tests of them would say nothing. What beta cancels is mended in the group that holds it."""
    x = normal(12, 32, 100, 100).astype(dtype)
    expected = group_norm(x, 8, beta=cancelling(x, 8) if affine else None)
    np.save(tmp_path / "x.npy", x)
    monkeypatch.setattr("gncli.worker.normalize", None)
    settings = Settings(groups=8, beta=cancelling(x, 8) if affine else None)
    normalize_file(f"{tmp_path}/x.npy", f"{tmp_path}/y.npy", settings)
    assert (np.load(tmp_path / "y.npy") == expected).all()


@pytest.mark.parametrize("dtype", ["f2", "i2", "f4", "f8"])
@pytest.mark.parametrize("nan", ["propagate", "omit"])
def test_nan_is_of_one_kind(dtype: str, nan: str) -> None:
    """Not of one sign or the other, as the order of two operands has it."""
    x = normal(3, 4, 8195).astype(dtype)
    x[0] = 3  # without spread
    if x.dtype.kind == "f":
        x[1, :, 5], x[2, :, 9] = -np.nan, np.inf
    for beta in (None, 0.5):
        with warnings.catch_warnings(action="ignore"):
            compiled, plain = both(lambda beta=beta: group_norm(x, 4, eps=0, beta=beta, nan=nan))
        assert compiled.tobytes() == plain.tobytes()
        gone = compiled[np.isnan(compiled)]
        assert gone.size
        assert gone.tobytes() == np.full_like(gone, np.nan).tobytes()


def test_statistics() -> None:
    for x in (normal(3, 1_000_003, mean=0.1), spoiled(), np.zeros((2, 5), "f4"), -np.zeros((2, 5), "f4")):
        compiled, plain = both(lambda x=x: repr(gncli.describe(x)))
        assert compiled == plain


def test_the_passes_are_used() -> None:
    """Of tiles of each form, and of those in bigger blocks: or else the other tests would say nothing."""
    for layout, shape, interleaved, kind in (
        ("NCHW", (4, 32, 16, 16), False, room.Lines),
        ("NCHW", (4, 32, 16, 16), True, room.Runs),
        ("NHWC", (4, 16, 16, 32), False, room.Planes),
        ("NC", (5000, 32), False, room.Sets),
    ):
        view = geometry(shape, layout, 8, interleaved=interleaved)
        form = form_of(view, view.dims)
        block = np.zeros([n + 1 for n in view.dims], "f4")
        tile = block[tuple(slice(n) for n in view.dims)]
        assert type(room.swift(form, tile)) is kind
        assert room.swift(form, tile.astype("f8")) is None
        assert room.swift(form, tile.astype(">f4")) is None
        assert room.swift(form, np.zeros((*view.dims, 2), "f4")[..., 0]) is None


@pytest.mark.parametrize("values", ["N(0,1)", "mean/std 1e5", "a wide range", "one tiny value", "denormals"])
@pytest.mark.parametrize("shape", [(1, 1), (3, 31), (2, 32), (3, 300), (2, 5000), (300, 3), (9, 513)])
def test_a_survey(kernel: ModuleType, shape: tuple[int, int], values: str) -> None:
    """Least, most, least magnitude but 0, and the sum to the last bit: of rows, and of columns."""
    x = VALUES[values](prod(shape), rng()).astype("f4").reshape(shape)
    x[0, 0] = 0
    for found, lines in ((kernel.survey(x), x), (kernel.survey_columns(x), x.T)):
        for least, most, bits, high, low, line in zip(*found, lines, strict=True):
            assert (least, most) == (line.min(), line.max())
            magnitudes = np.abs(line[line != 0])
            expected = magnitudes.min().view(np.uint32) * 2 - 1 if magnitudes.size else 2**32 - 1
            assert bits == expected
            assert Fraction(float(high)) + Fraction(float(low)) == sum(map(Fraction, line.tolist()))


def test_lines_that_lie_apart_are_refused(kernel: ModuleType) -> None:
    x = np.zeros((4, 6), "f4")[:, ::2]
    for function in (kernel.survey, kernel.survey_columns):
        with pytest.raises(ValueError, match="not contiguous"):
            function(x)


@pytest.mark.parametrize("values", ["N(0,1)", "mean/std 1e5", "a wide range", "one tiny value", "denormals"])
@pytest.mark.parametrize("shape", [(1, 64), (7, 512), (3, 8192), (40, 1000)])
def test_moments_of_rows(kernel: ModuleType, shape: tuple[int, int], values: str) -> None:
    """Extremes, the mean, and of each chunk the squares about its upper part, as numpy adds them up."""
    x = VALUES[values](2 * prod(shape), rng()).astype("f4").reshape(2, *shape)
    x[1] = x[1, 0, 0]  # a constant is its own mean
    for least, most, bits, high, low, squares, row in zip(*kernel.moments_rows(x), x, strict=True):
        assert (least, most) == (row.min(), row.max())
        assert bits == (np.abs(row).view(np.uint32) * 2 - 1).min()
        mean = sum(map(Fraction, row.ravel().tolist())) / row.size
        assert abs(Fraction(float(high)) + Fraction(float(low)) - mean) <= abs(mean) * Fraction(1, 2**80)
        off = row.astype("f8") - high
        assert squares.tobytes() == np.vecdot(off, off).tobytes()


def test_rows_that_do_not_fit_are_refused(kernel: ModuleType) -> None:
    with pytest.raises(ValueError, match="too long"):
        kernel.moments_rows(np.zeros((1, 8193), "f4"))
    for x in (np.zeros((4, 70), "f4")[:, ::2], np.zeros((4, 70), "f4")[:, 2:]):
        with pytest.raises(ValueError, match="not contiguous"):
            kernel.moments_rows(x)


@pytest.mark.parametrize(
    ("name", "shape"),
    [("survey", (1, 0)), ("survey_columns", (1, 0, 5)), ("moments", (1, 0)), ("moments_rows", (2, 0, 5))],
)
def test_empty_axes_are_refused(kernel: ModuleType, name: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="empty"):
        getattr(kernel, name)(np.zeros(shape, "f4"))


SECOND = """
import sys, numpy as np, gncli_kernel as kernel
x = np.ones((1000, 64), "f4")
try:
    import _interpreters as interpreters
except ImportError:
    import _xxsubinterpreters as interpreters
interpreters.create()
kernel.survey(x)
kernel.survey(x.reshape(2, -1))
"""


def test_beside_a_second_interpreter(kernel: ModuleType) -> None:
    """In which threads cannot tell by PyGILState_Check whether they have the lock."""
    folder = str(Path(str(kernel.__file__)).parent)
    subprocess.run([sys.executable, "-c", SECOND], env={**os.environ, "PYTHONPATH": folder}, check=True)


def test_another_thread_runs_meanwhile(kernel: ModuleType) -> None:
    """numpy keeps the interpreter's lock for so few rows, however long they are."""
    x = np.ones((1, 500, 8192), "f4")

    def meanwhile() -> bool:
        seen: list[int] = []
        gate = threading.Lock()
        gate.acquire()
        other = threading.Thread(target=lambda: seen.append(gate.acquire()))
        other.start()
        gate.release()  # from here on only the pass may let it in
        kernel.moments_rows(x)
        found = bool(seen)
        other.join()
        return found

    before = sys.getswitchinterval()
    sys.setswitchinterval(1000)  # seconds until a thread that waits for the lock asks for it
    try:
        assert any(meanwhile() for _ in range(50))  # a thread may take longer to wake up than this pass
    finally:
        sys.setswitchinterval(before)


NEAR = {
    "values": [3, -2, np.nan, 5],
    "zero": [-0.0, 1],
    "infinite": [np.inf, -np.inf],
    "none": [np.nan],
    "denormal": [-1e-45, 1e-44],
    "many": range(-99, 0),
}


@pytest.mark.parametrize("values", NEAR.values(), ids=NEAR)
@pytest.mark.parametrize("bound", [0.0, 1e-310, 1e-45, 1e-40, 1.0, 1.5, 2.5, 1e300, np.inf])
def test_values_near_0(kernel: ModuleType, values: Any, bound: float) -> None:
    """Of values that are what they were: at the bound itself, there may be one or not."""
    x, one, zero = np.array(values, "f4"), np.ones(1), np.zeros(1)
    with arithmetic():
        found, magnitudes = kernel.near(x, zero, one, zero, bound), np.abs(x.astype("f8"))
    if bound not in magnitudes:
        assert found == (magnitudes < bound).any()


@pytest.mark.parametrize("own", ["", "mean", "shift", "scale shift", "mean scale shift", "apart"])
@pytest.mark.parametrize("size", [1e-30, 1.0, 1e30])
def test_values_near_0_of_what_is_applied(kernel: ModuleType, own: str, size: float) -> None:
    x = np.float32(size) * normal(200, 1001)
    each = {name: rng().standard_normal((200, 1001)) for name in ("mean", "scale", "shift")}
    each["mean"] *= size
    each["scale"] /= size
    each = {name: value if name in own else value[:, :1] for name, value in each.items()}
    if own == "apart":
        each = {name: np.repeat(value, 2, axis=1)[:, ::2] for name, value in each.items()}
    least = np.abs((x.astype("f8") - each["mean"]) * each["scale"] + each["shift"]).min(axis=1)
    assert kernel.near(x, *each.values(), np.nextafter(least, np.inf)).all()
    assert not kernel.near(x, *each.values(), least * (1 - 1e-6)).any()
    with pytest.raises(ValueError, match="neither 1 nor that of x"):
        kernel.near(x, np.ones(2), np.ones(1), np.ones(1), 1.0)


@pytest.mark.parametrize("scale", [0.0, 1e-320, -1e-300, 1e300])
@pytest.mark.parametrize("shift", [0.0, 1e-320, 1.0, 1e300])
def test_values_near_0_at_the_ends_of_the_range(kernel: ModuleType, scale: float, shift: float) -> None:
    x = np.array([[0, 1], [-1, 3e38], [1e-45, -1e-45]], "f4")
    for bound in (1e-323, 1e-305, 1e-10, 1e290):
        with arithmetic():
            near = np.abs((x.astype("f8") - 1.0) * scale + shift) < bound
            found = kernel.near(x, [1.0], [scale], [shift], bound)
        assert (found >= near.any(axis=1)).all()  # of values that cancel, float64 may hold too few digits


EVERY_HALF = np.arange(2**16, dtype=np.uint16).view(np.float16)


@pytest.mark.parametrize("step", [1, -1, 3])
def test_every_float16_as_float32(kernel: ModuleType, step: int) -> None:
    halves = EVERY_HALF[::step]
    assert kernel.widen(halves).tobytes() == halves.astype("f4").tobytes()


@pytest.mark.parametrize("apart", [False, True])
def test_float64_as_float16(kernel: ModuleType, apart: bool) -> None:
    """Rounded as numpy does, at each value, half way between two, and right beside that."""
    each = np.sort(EVERY_HALF[np.isfinite(EVERY_HALF)].astype("f8"))
    ties = np.concatenate([(each[1:] + each[:-1]) / 2, [65520.0, -65520.0]])  # the last two are beyond
    tiny = [5e-324, -5e-324, 2.0**-25, 2.0**-1022]
    values = np.concatenate([each, ties, tiny, [1e5, -1e300, np.inf, -np.inf, np.nan, -np.nan]])
    values = np.concatenate([values, np.nextafter(values, np.inf), np.nextafter(values, -np.inf)])
    values = values[values != 0]  # 0 · 0 + -0 is 0
    x = np.zeros((3, len(values)), "f4")
    mean, scale, shift = np.zeros(len(values)), np.zeros(len(values)), values
    if apart:
        shift = np.repeat(values, 2)[::2]
    with np.errstate(all="ignore"):
        right = values.astype("f2")
        for row in kernel.apply_half(x, mean, scale, shift):
            assert row.tobytes() == right.tobytes()
        for value, half in zip(values[::97], right[::97], strict=True):
            assert kernel.apply_half(x[:, :3], 0.0, 0.0, value).tobytes() == 9 * half.tobytes()


@pytest.mark.parametrize("dtype", ["f2", ">f2", "u1", "i1", "i2", ">u2", ">f4"])
@pytest.mark.parametrize("out", [None, "f2", "f8"])
@pytest.mark.parametrize("affine", [False, True])
@pytest.mark.parametrize(
    ("layout", "shape"), [("NCHW", (3, 32, 61, 63)), ("NHWC", (3, 61, 63, 32)), ("NC", (20_001, 8))]
)
def test_dtypes_that_float32_holds(
    layout: str, shape: tuple[int, ...], affine: bool, out: str | None, dtype: str
) -> None:
    x = normal(*shape, mean=50, std=9).astype(dtype)
    channels = shape[layout.index("C")]
    chosen = dict(zip(("gamma", "beta"), rng().standard_normal((2, channels)), strict=True)) if affine else {}
    compiled, plain = both(lambda: group_norm(x, 4, layout=layout, dtype=out, **chosen).tobytes())
    assert compiled == plain
    compiled, plain = both(lambda: repr(gncli.describe(x)))
    assert compiled == plain


@pytest.mark.parametrize("dtype", ["?", "i1", "u1", "<i2", ">u2", "f2", ">f4", "i4", "u4", "i8", "f8"])
def test_what_the_passes_take(dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert room.takes(np.dtype(dtype)) == np.can_cast(dtype, "f4")
    monkeypatch.setattr(room, "passes", None)
    assert not room.takes(np.dtype(dtype))


def test_a_sum_of_pairs(kernel: ModuleType) -> None:
    high = rng().standard_normal((5, 70)) * 2.0**30
    low = high * 2.0**-54
    for sums in zip(*kernel.total(high, low), high, low, strict=True):
        sum_, rest, *terms = sums
        right = sum((Fraction(float(value)) for each in terms for value in each), Fraction(0))
        assert abs(Fraction(float(sum_)) + Fraction(float(rest)) - right) <= abs(right) * Fraction(1, 2**90)


def test_elements_that_lie_apart(kernel: ModuleType) -> None:
    """The general loops, for strides that no tile has."""
    x, (mean, scale, shift) = normal(4, 6, 3), rng().standard_normal((3, 4, 6, 3))
    x, mean, scale, shift = (values[:, ::2, ::-1] for values in (x, mean, scale, shift))
    assert np.array_equal(kernel.deviate(x, mean), x.astype("f8") - mean)
    expected = ((x.astype("f8") - mean) * scale + shift).astype("f4")
    assert np.array_equal(kernel.apply(x, mean, scale, shift), expected)
    middle = mean[..., :1]
    expected = ((x.astype("f8") - middle) * scale + shift).astype("f4")
    assert np.array_equal(kernel.apply_sets(x, middle[..., 0], scale, shift), expected)


def test_another_version_is_not_used(kernel: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GNCLI_KERNEL", raising=False)
    monkeypatch.setitem(__import__("sys").modules, "gncli_kernel", kernel)
    assert room._load() is kernel
    monkeypatch.setattr(kernel, "VERSION", kernel.VERSION + 1)
    assert room._load() is None
    monkeypatch.undo()
    monkeypatch.setenv("GNCLI_KERNEL", "0")
    assert room._load() is None
