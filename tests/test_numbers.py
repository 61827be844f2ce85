"""Every element against an oracle that shares no code with gn; the bounds are those of the contract."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from arrays import Array, normal, rng, with_outliers
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import EXTENDED, group_norm_exact, group_norm_gold, rounded, score_gold, to_rows, ulp_distance

from gncli import group_norm

pytestmark = pytest.mark.usefixtures("passes")

OUTPUT = {"float16": "f2", "int32": "f8", "uint32": "f8", "int64": "f8", "uint64": "f8"}  # else float32
GOLD_LIMIT = 30_000  # elements: the rational oracle takes about 10 µs for each
needs_extended = pytest.mark.skipif(not EXTENDED, reason="np.longdouble is a double on this platform")


def truth(x: Array, groups: int, eps: float, layout: str | None, **how: Any) -> Array:
    oracle = group_norm_gold if x.size <= GOLD_LIMIT else group_norm_exact
    return oracle(x, groups, eps, layout, **how)


def assert_rounded(x: Array, groups: int, eps: float = 1e-5, layout: str | None = None, **how: Any) -> Array:
    """gn's answer is the rounded exact one: at most 1 ulp off anywhere, bit-equal in at least 99.9 %."""
    y: Array = group_norm(x, groups, eps, layout, **how)
    dtype = how.pop("dtype", None) or OUTPUT.get(x.dtype.newbyteorder("=").name, "f4")
    assert (y.shape, y.dtype) == (x.shape, np.dtype(dtype))
    off = ulp_distance(y, rounded(truth(x, groups, eps, layout, **how), dtype))
    assert off.max(initial=0) <= 1, f"{off.max()} ulp at {np.unravel_index(off.argmax(), off.shape)}"
    assert np.count_nonzero(off) <= 0.001 * off.size, f"{np.count_nonzero(off)} of {off.size} differ"
    return y


CENTRED: dict[str, Callable[[], Array]] = {
    "N(0,1)": lambda: normal(2, 8, 31, 33),
    "mean/std 1": lambda: normal(2, 8, 31, 33, mean=1),
    "mean/std 1e2: half the digits of a float32 variance are gone": lambda: normal(2, 8, 31, 33, mean=1e2),
    "mean/std 1e3": lambda: normal(2, 8, 31, 33, mean=1e3),
    "mean/std 1e4: E[x²]-E[x]² is negative in float32": lambda: normal(2, 8, 31, 33, mean=1e4),
    "mean/std 1e5": lambda: normal(2, 8, 31, 33, mean=1e5),
    "mean/std -1e5, std 0.1": lambda: normal(2, 8, 31, 33, mean=-1e4, std=0.1),
    "scale 1e20: the squares overflow float32": lambda: normal(2, 8, 31, 33, std=1e20),
    "scale 1e-20: the squares underflow float32": lambda: normal(2, 8, 31, 33, std=1e-20),
    "near the largest float32": lambda: (rng().uniform(-3.4e38, 3.4e38, (2, 8, 9, 9))).astype("f4"),
    "denormals": lambda: normal(2, 8, 31, 33, std=1e-42),
    "smallest denormal and zero": lambda: (rng().integers(-1, 2, (2, 8, 9, 9)) * 1e-45).astype("f4"),
    "float16": lambda: normal(2, 8, 31, 33, dtype="f2"),
    "float16 beyond 256: its squares overflow": lambda: normal(2, 8, 31, 33, mean=1e3, std=400, dtype="f2"),
    "float16 near its largest": lambda: rng().uniform(-65504, 65504, (2, 8, 31, 33)).astype("f2"),
    "float16 denormals": lambda: normal(2, 8, 31, 33, std=1e-6, dtype="f2"),
    "int8": lambda: rng().integers(-128, 128, (2, 8, 31, 33)).astype("i1"),
    "uint8": lambda: rng().integers(0, 256, (2, 8, 31, 33)).astype("u1"),
    "int16": lambda: rng().integers(-(2**15), 2**15, (2, 8, 31, 33)).astype("i2"),
    "uint16 far from zero": lambda: rng().integers(65000, 65536, (2, 8, 31, 33)).astype("u2"),
    "int32": lambda: rng().integers(-(2**31), 2**31, (2, 8, 31, 33), "i4"),
    "uint32 far from zero": lambda: rng().integers(2**32 - 1000, 2**32, (2, 8, 31, 33)).astype("u4"),
    "int64": lambda: rng().integers(-(2**63), 2**63 - 1, (2, 8, 31, 33), "i8"),
    "int64 about 2**60": lambda: 2**60 + rng().integers(-(2**40), 2**40, (2, 8, 31, 33), "i8"),
    "int64 whose last 8 bits a float64 cannot tell": lambda: 2**60 + rng().integers(0, 2**30, (2, 8, 9, 9)),
    "uint64 to the last": lambda: ~rng().integers(0, 2**50, (2, 8, 31, 33)).astype("u8"),
    "big-endian float32": lambda: normal(2, 8, 31, 33, mean=10, dtype=">f4"),
    "big-endian float16": lambda: normal(2, 8, 31, 33, mean=10, dtype=">f2"),
    "big-endian int16": lambda: rng().integers(-(2**15), 2**15, (2, 8, 31, 33)).astype(">i2"),
    "Fortran order": lambda: np.asfortranarray(normal(2, 8, 31, 33, mean=10)),
    "a strided view": lambda: normal(4, 16, 31, 33)[::2, ::-2],
}


@pytest.mark.parametrize("eps", [1e-5, 0.0], ids="eps {}".format)
@pytest.mark.parametrize("make", CENTRED.values(), ids=CENTRED.keys())
def test_every_element_is_the_rounded_exact_value(make: Callable[[], Array], eps: float) -> None:
    assert_rounded(make(), 4, eps)


GROUPINGS = [
    pytest.param((2, 8, 7, 9), 1, id="G = 1, layer norm"),
    pytest.param((2, 8, 7, 9), 8, id="G = C, instance norm"),
    pytest.param((3, 15, 5, 5), 5, id="C/G = 3, not a power of two, H·W odd"),
    pytest.param((2, 14, 3, 11), 2, id="C/G = 7"),
    pytest.param((1, 1, 13, 17), 1, id="one channel"),
    pytest.param((2, 6, 1, 1), 3, id="a group of two elements: y is +1 and -1"),
    pytest.param((5, 1000), 10, id="rank 2"),
    pytest.param((2, 12, 1), 4, id="space of one"),
]


@pytest.mark.parametrize("grouping", ["contiguous", "interleaved"])
@pytest.mark.parametrize(("shape", "groups"), GROUPINGS)
def test_groups(shape: tuple[int, ...], groups: int, grouping: str) -> None:
    x = normal(*shape, mean=3)
    y = assert_rounded(x, groups, grouping=grouping)
    per_group = shape[1] // groups
    same = group_norm(x, None, channels_per_group=per_group, grouping=grouping)
    assert same.tobytes() == y.tobytes()


LAYOUTS = [
    ("NCHW", (2, 6, 5, 7)), ("NHWC", (2, 5, 7, 6)), ("NCL", (3, 6, 11)), ("NLC", (3, 11, 6)),
    ("NC", (9, 6)), ("CN", (6, 5)), ("C", (6,)), ("CHW", (6, 9, 5)), ("HWC", (9, 5, 6)), ("WNC", (5, 3, 6)),
    ("NCDHW", (2, 6, 3, 5, 4)), ("NDHWC", (2, 3, 5, 4, 6)), ("nhwc", (2, 5, 7, 6)),
    ("HWCN", (5, 7, 6, 3)), ("CHWN", (6, 5, 7, 3)), ("NHCW", (2, 5, 6, 7)),
]  # fmt: skip


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("grouping", ["contiguous", "interleaved"])
@pytest.mark.parametrize(("layout", "shape"), LAYOUTS, ids=[word for word, _ in LAYOUTS])
def test_layouts(layout: str, shape: tuple[int, ...], grouping: str, order: Any) -> None:
    x = np.asarray(normal(*shape, mean=5, std=2), order=order)
    gamma, beta = normal(6, mean=1), normal(6)
    assert_rounded(x, 3, layout=layout, grouping=grouping, gamma=gamma, beta=beta)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("grouping", ["contiguous", "interleaved"])
@pytest.mark.parametrize("layout", ["NCHW", "NHWC", "HWCN", "CHWN", "NHCW"])
def test_layouts_of_one_tensor_agree(layout: str, grouping: str, order: Any) -> None:
    """The same tensor, transposed: the same values to the rounding, so 99.9 % of the bits."""
    x = normal(3, 12, 10, 11, mean=7)
    axes = ["NCHW".index(letter) for letter in layout]
    turned = np.asarray(x.transpose(axes), order=order)
    want = rounded(group_norm_exact(x, 4, grouping=grouping), "f4").transpose(axes)
    y = group_norm(turned, 4, layout=layout, grouping=grouping)
    off = ulp_distance(y, want)
    assert off.max() <= 1
    assert np.count_nonzero(off) <= 0.001 * off.size


@pytest.mark.parametrize("mean", [0.0, 1e5])
def test_gamma_and_beta(mean: float) -> None:
    gamma, beta = normal(8, mean=1, std=0.3), normal(8, std=2)
    x = normal(2, 8, 31, 33, mean=mean)
    assert_rounded(x, 4, gamma=gamma, beta=beta)
    assert_rounded(x, 4, gamma=gamma.astype("f8"), beta=beta.astype("f8"), grouping="interleaved")
    assert_rounded(x, 2, gamma=0.1, beta=-3.25)


@pytest.mark.parametrize("eps", [1e-5, 0.0])
@pytest.mark.parametrize("mean", [0.0, 1e5])
def test_divide_by_variance(mean: float, eps: float) -> None:
    assert_rounded(normal(2, 8, 31, 33, mean=mean, std=0.3), 4, eps, divide_by="variance")


@pytest.mark.parametrize("dtype", ["f2", "f4"])
@pytest.mark.parametrize("source", ["f2", "f4", "f8", "i4", "u1"])
def test_another_dtype_is_rounded_once(source: str, dtype: str) -> None:
    """float64 to float16 by way of float32 would round twice."""
    assert_rounded(normal(2, 8, 31, 33, mean=50, std=20).astype(source), 4, dtype=dtype)


def test_beyond_the_output_dtype_is_infinite() -> None:
    x = normal(1, 2, 50, 50)
    y = group_norm(x, 1, dtype="f2", gamma=6e4)
    want = rounded(group_norm_gold(x, 1, gamma=6e4), "f2")
    assert np.isinf(want).any()
    assert np.array_equal(y, want)


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", "i2", "i8", "u8"])
@pytest.mark.parametrize("value", [0, 1, 0.1, 7, 12345, 1e30], ids=str)
def test_constant_group_gives_exactly_beta(value: float, dtype: str) -> None:
    if value > 65504 and dtype not in ("f4", "f8"):
        pytest.skip("does not fit the dtype")
    beta = normal(6)
    x = np.full((2, 6, 7, 11), value, dtype)
    y = group_norm(x, 3, gamma=normal(6, mean=1), beta=beta)
    assert np.array_equal(y, np.broadcast_to(beta.astype(y.dtype)[:, None, None], x.shape))
    assert not group_norm(x, 3).any()


@pytest.mark.parametrize("value", [1e200, -1.7e308, 5e-324, 0.1])
def test_constant_float64_group_gives_exactly_beta(value: float) -> None:
    x = np.full((1, 2, 333), value)
    assert np.array_equal(group_norm(x, 1, beta=0.25), np.full_like(x, 0.25))


@pytest.mark.parametrize("dtype", ["i8", "u8", "i4", ">u8"])
def test_constant_integers_at_the_ends_of_their_range(dtype: str) -> None:
    """2**63 - 1 as a float64 is 2**63: rounding before the mean is taken would show."""
    for value in (np.iinfo(dtype).min, np.iinfo(dtype).max, np.iinfo(dtype).max - 1):
        assert not group_norm(np.full((1, 2, 7), value, dtype), 1).any()


def test_one_constant_group_beside_others() -> None:
    x = normal(2, 4, 9, 9, mean=3)
    x[1, 2:] = 0.1
    y = assert_rounded(x, 2)
    assert not y[1, 2:].any()


def test_group_of_one_element_gives_beta() -> None:
    beta = normal(5)
    y = group_norm(normal(7, 5, std=1e6), 5, layout="NC", gamma=2.0, beta=beta)
    assert np.array_equal(y, np.broadcast_to(beta, (7, 5)))


def test_zeros_of_symmetric_data_stay_zero() -> None:
    """The mean is exactly 0: a mean that is off by one rounding shows in the zeros at once."""
    half = normal(1, 4, 50, 7, std=3)
    x = np.concatenate([half, np.zeros((1, 4, 50, 1), "f4"), -half], axis=3)
    rng().shuffle(x, axis=3)
    y = assert_rounded(x, 2)
    assert not y[x == 0].any()


def test_zeros_of_shifted_symmetric_data_stay_zero() -> None:
    """As above about 1e5, where every value is a multiple of 1/128: the mean is 1e5 exactly."""
    half = np.round(normal(1, 4, 50, 7, std=3) * 128) / 128
    x = (1e5 + np.concatenate([half, np.zeros((1, 4, 50, 1), "f4"), -half], axis=3)).astype("f4")
    y = assert_rounded(x, 2)
    assert not y[x == 1e5].any()


@pytest.mark.parametrize("shape", [(0, 4, 3), (2, 4, 0), (0, 4, 0, 5), (2, 0, 3)])
@pytest.mark.parametrize("dtype", ["f4", "f8", "u1"])
def test_empty_in_empty_out(shape: tuple[int, ...], dtype: str) -> None:
    y = group_norm(np.empty(shape, dtype), 2)
    assert (y.shape, y.dtype) == (shape, np.dtype("f8" if dtype == "f8" else "f4"))


def test_constant_group_without_eps_is_nan_and_warns() -> None:
    x = normal(2, 4, 3, 3)
    x[0, :2] = 7
    with pytest.warns(RuntimeWarning, match="constant"):
        y = group_norm(x, 2, 0.0)
    assert np.isnan(y[0, :2]).all()
    assert np.isfinite(y[0, 2:]).all()
    assert np.isfinite(y[1]).all()


@pytest.mark.parametrize("size", [1e4, 1e8])
def test_outliers_that_cancel_leave_the_small_values_right(size: float) -> None:
    """A sum in double keeps 1e8 * 2**-53 of the small values; their own mean is 1e-6 and less."""
    assert_rounded(with_outliers(size), 1)
    assert_rounded(with_outliers(size), 1, 0.0)


def test_outliers_in_float16() -> None:
    x = with_outliers(6e4).astype("f2")
    assert_rounded(x, 1)


def test_two_elements_that_beta_cancels() -> None:
    """Without eps y is exactly ±1, so that beta ∓1 leaves exactly 0."""
    x = normal(500, 2, 1, std=10)
    y = assert_rounded(x, 1, 0.0, beta=1.0)
    assert np.array_equal(np.unique(y), [0, 2])


@pytest.mark.parametrize("spoil", [0.5, np.nan])
@pytest.mark.parametrize(("dtype", "channels"), [("f8", 12), ("f4", 24), ("f2", 48)])
def test_a_last_tile_of_one_channel(dtype: str, channels: int, spoil: float) -> None:
    """Tiles of a group that are laid out in two ways: several channels, and the one that is left."""
    x = normal(1, channels, 11021, mean=3).astype(dtype)
    x[0, 5, 7] = spoil
    with warnings.catch_warnings(action="ignore"):
        y = group_norm(x, 1, grouping="interleaved")
        assert y.tobytes() == group_norm(x, 1).tobytes()  # of one group, it is the same
        assert y.tobytes() == group_norm(x.reshape(1, 1, -1), 1).tobytes()


@pytest.mark.parametrize("bits", [26, 30, 36, 44])
@pytest.mark.parametrize(
    ("layout", "shape", "groups"),
    [
        ("NCL", (2, 8, 4096), 4),  # a tile of several cells, each mended on its own
        ("NLC", (2, 4096, 8), 4),
        ("CLN", (8, 2048, 4), 2),
        ("NCL", (1, 2, 100_000), 1),
        ("NLC", (1, 100_000, 2), 1),
        ("NC", (1, 200_000), 1),
        ("NCL", (1, 3, 150_000), 1),  # a group of several tiles
    ],
)
def test_what_beta_cancels_in_large_groups(
    layout: str, shape: tuple[int, ...], groups: int, bits: int
) -> None:
    """The first value of the first sample's last group, but for what so many bits leave of it."""
    x = normal(*shape, mean=3)
    rows = to_rows(x, groups, layout, "contiguous")
    value = float(rows[0, -1, 0, 0])
    score = score_gold(rows[0, -1], value, 1e-5)
    beta = -float(score) * (1 + 2.0**-bits)
    y = to_rows(group_norm(x, groups, layout=layout, beta=beta), groups, layout, "contiguous")
    exact = rounded(np.array([score + Fraction(beta)], object), "f4")
    assert ulp_distance(y[0, -1, 0, :1], exact).max() <= 1


def test_a_beta_of_nan_is_for_its_own_channel() -> None:
    """Also where the beta of another cancels a value."""
    x = normal(1, 8, 4096)
    beta = np.full(8, -float(score_gold(x[0, 4:], float(x[0, 5, 0]), 1e-5)) * (1 + 2.0**-40))
    for other in (np.nan, np.inf):
        y = group_norm(x, 2, beta=np.where(np.arange(8) == 0, other, beta))
        assert np.array_equal(y[:, 1:], group_norm(x, 2, beta=beta)[:, 1:])
        assert np.array_equal(y[0, 0], np.full(4096, other, "f4"), equal_nan=True)


@pytest.mark.parametrize("gamma", [None, np.nan])
def test_large_groups_that_have_no_answer(gamma: float | None) -> None:
    """Of more elements than a tile, without statistics."""
    x = np.ones((4, 8, 65536), "f4")
    x[1] = normal(8, 65536)
    with warnings.catch_warnings(action="ignore"):
        y = group_norm(x, 2, 0.0, gamma=gamma)
    assert np.isnan(y[[0, 2, 3]]).all()
    if gamma is None:
        assert np.array_equal(y[1], group_norm(x[1:2], 2, 0.0)[0])
    else:
        assert np.isnan(y).all()


@needs_extended
@pytest.mark.parametrize("mean", [0.0, 1e5])
@pytest.mark.parametrize(
    ("layout", "shape"), [("NCHW", (1, 4, 411, 403)), ("NHWC", (1, 411, 403, 4)), ("CHWN", (4, 411, 203, 2))]
)
def test_groups_larger_than_a_leaf(layout: str, shape: tuple[int, ...], mean: float) -> None:
    assert_rounded(normal(*shape, mean=mean), 2, layout=layout)


@needs_extended
@pytest.mark.parametrize("layout", ["NC", "NCL", "NLC"])
def test_a_million_tiny_groups(layout: str) -> None:
    shape = {"NC": (500_000, 4), "NCL": (250_000, 4, 2), "NLC": (250_000, 2, 4)}[layout]
    assert_rounded(normal(*shape, mean=1), 2, layout=layout)


@st.composite
def tensors(draw: st.DrawFn) -> tuple[Array, int, str]:
    """A tensor of 1 to 4 axes in some order, with values on a grid about some centre, and its groups."""
    word = "".join(draw(st.permutations(draw(st.sampled_from(["C", "NC", "CW", "NCW", "NCHW", "CHW"])))))
    groups, per_group = draw(st.integers(1, 3)), draw(st.integers(1, 5))
    shape = tuple(groups * per_group if letter == "C" else draw(st.integers(0, 4)) for letter in word)
    dtype = draw(st.sampled_from(["f2", "f4", ">f4", "i1", "u1", "i2", "u2"]))
    grid = np.random.default_rng(draw(st.integers(0, 2**32))).integers(
        -draw(st.integers(0, 60)), draw(st.integers(1, 60)), shape
    )
    x: Array = grid
    if dtype.endswith("f4"):
        x = (grid + draw(st.integers(-(2**20), 2**20))) * 2.0 ** draw(st.integers(-120, 100))
    elif dtype.startswith("u"):
        x = grid + draw(st.integers(60, 66))
    return np.asarray(x.astype(dtype), order=draw(st.sampled_from("CF"))), groups, word


@settings(deadline=None, max_examples=300, derandomize=True)
@given(
    tensors(),
    st.sampled_from([1e-5, 1e-3, 1e-12, 1.0]),
    st.sampled_from(["contiguous", "interleaved"]),
    st.sampled_from(["std", "variance"]),
    st.none() | st.floats(-10, 10, width=32),
)
def test_any_small_tensor(
    tensor: tuple[Array, int, str], eps: float, grouping: str, divide_by: str, beta: float | None
) -> None:
    x, groups, layout = tensor
    assert_rounded(x, groups, eps, layout, grouping=grouping, divide_by=divide_by, beta=beta)
