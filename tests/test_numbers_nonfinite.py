"""NaN and infinity in the input: propagate, omit, fail."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from arrays import normal, spoiled
from oracle import group_norm_gold, rounded

from gncli import group_norm
from gncli.errors import NonFiniteError

pytestmark = pytest.mark.usefixtures("passes")


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
def test_nan_propagates_through_its_group_only(dtype: str) -> None:
    x = spoiled().astype(dtype)
    with warnings.catch_warnings(record=True):
        warnings.simplefilter("always")
        y = group_norm(x, 2)
    assert np.isnan(y[0]).all()
    assert y[1].tobytes() == group_norm(x[1:], 2).tobytes()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_one_bad_value_spoils_its_group(bad: float) -> None:
    x = normal(1, 4, 5, 5)
    x[0, 1, 2, 3] = bad
    with warnings.catch_warnings(record=True):
        warnings.simplefilter("always")
        y = group_norm(x, 2)
    assert np.isnan(y[0, :2]).all()
    assert np.isfinite(y[0, 2:]).all()


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_omit_takes_statistics_over_the_finite(layout: str) -> None:
    x = spoiled()
    with warnings.catch_warnings(record=True):
        warnings.simplefilter("always")
        turned = x if layout == "NCHW" else np.ascontiguousarray(x.transpose(0, 2, 3, 1))
        y = group_norm(turned, 2, layout=layout, nan="omit", beta=0.5)
    y = y if layout == "NCHW" else y.transpose(0, 3, 1, 2)
    assert np.isnan(y[0, 0, 1, 1])
    assert y[0, 2, 3, 3] == np.inf
    assert y[0, 3, 0, 0] == -np.inf
    for n, g in np.ndindex(2, 2):
        part, have = x[n, 2 * g : 2 * g + 2], y[n, 2 * g : 2 * g + 2]
        finite = np.isfinite(part)
        want = rounded(group_norm_gold(part[finite][None, None], 1, beta=0.5), "f4")
        assert np.array_equal(have[finite], want[0, 0])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_fail_refuses(bad: float) -> None:
    x = normal(1, 4, 5, 5)
    x[0, 1, 2, 3] = bad
    with pytest.raises(NonFiniteError, match="1"):
        group_norm(x, 2, nan="fail")


@pytest.mark.parametrize(
    ("layout", "shape"), [("NCL", (2, 4, 100)), ("NLC", (2, 100, 4)), ("NC", (300, 16)), ("CLN", (4, 50, 3))]
)
@pytest.mark.parametrize("eps", [1e-5, 0.0])
def test_a_sound_group_does_not_mind_its_neighbours(layout: str, shape: tuple[int, ...], eps: float) -> None:
    """To the bit, also where beta all but cancels a value, which is then computed in more digits."""
    x = normal(*shape)
    at = [slice(None)] * x.ndim
    at[layout.index("C")] = slice(shape[layout.index("C")] // 2)  # the first of two groups
    sound = tuple(at)
    exact = group_norm(x, 2, layout=layout, dtype="float64", eps=eps)
    beta = -np.moveaxis(exact, layout.index("C"), -1).reshape(-1, shape[layout.index("C")])[7]
    alone = group_norm(x, 2, layout=layout, beta=beta, eps=eps)
    assert 0 < np.abs(alone[sound]).min() < 1e-15
    bad = np.ones(x.shape, bool)
    bad[sound] = False
    for value in (np.nan, np.inf, 5.0):  # 5: constant groups, which eps 0 makes NaN
        with warnings.catch_warnings(action="ignore"):
            beside = group_norm(np.where(bad, np.float32(value), x), 2, layout=layout, beta=beta, eps=eps)
        assert beside[sound].tobytes() == alone[sound].tobytes()


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
def test_a_nan_among_equal_values(dtype: str, layout: str) -> None:
    """Which extremes do not show, where a result is of float64 or a group has several tiles and beta."""
    for shape, chosen in (((1, 8, 64, 64), {"dtype": "f8"}), ((1, 8, 300, 300), {"beta": 0.5})):
        x = np.full(shape, 0.5, dtype)
        x[0, 3, 5, 1] = np.nan
        with pytest.raises(NonFiniteError):
            group_norm(x, 1, layout=layout, nan="fail", **chosen)
        with warnings.catch_warnings(action="ignore"):
            y = group_norm(x, 1, layout=layout, nan="omit", **chosen)
        assert np.isnan(y).sum() == 1
        assert (y[~np.isnan(y)] == chosen.get("beta", 0)).all()
