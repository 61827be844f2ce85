"""gncli.doubledouble against exact rationals: what is exact is exact, the rest within a stated bound."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from math import isqrt
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from gncli import doubledouble as dd
from gncli.doubledouble import Pair

EXAMPLES = settings(deadline=None, max_examples=300, derandomize=True)
BOUND = Fraction(1, 2**100)


def exact(pair: Pair) -> Fraction:
    return Fraction(float(pair[0])) + Fraction(float(pair[1]))


def numbers(reach: int) -> st.SearchStrategy[float]:
    """Floats of few and of all bits, either sign, of magnitudes up to 2**±reach, and 0."""
    mantissas = st.integers(-(2**53) + 1, 2**53 - 1) | st.integers(-3, 3)
    return st.builds(lambda m, e: float(m) * 2.0 ** (e - 52), mantissas, st.integers(-reach, reach))


@st.composite
def pairs(draw: st.DrawFn, reach: int = 100) -> Pair:
    """A float and less than half an ulp of it."""
    high = draw(numbers(reach))
    low = draw(st.floats(-0.5, 0.5)) * float(np.spacing(high)) if high else 0.0
    return dd.two_sum(high, low)


nonzero = pairs().filter(lambda pair: pair[0] != 0)


def assert_normalized(pair: Pair) -> None:
    assert pair[0] + pair[1] == pair[0]


@EXAMPLES
@given(numbers(900) | st.floats(-1e300, 1e300), numbers(900) | st.floats(-1e300, 1e300))
def test_two_sum_is_exact(a: float, b: float) -> None:
    s = dd.two_sum(a, b)
    assert s[0] == a + b
    assert exact(s) == Fraction(a) + Fraction(b)
    big, small = (a, b) if abs(a) >= abs(b) else (b, a)
    assert dd.quick_two_sum(big, small) == s


@EXAMPLES
@given(numbers(900))
def test_halves(a: float) -> None:
    high, low = dd.halves(a)
    assert high + low == a
    for half in (high, low):
        whole = Fraction(half).numerator  # of a float: odd, or times a power of two
        assert (whole // (whole & -whole) if whole else 0).bit_length() <= 26


@EXAMPLES
@given(numbers(400), numbers(400))
def test_two_product_is_exact(a: float, b: float) -> None:
    p = dd.two_product(a, b)
    assert p[0] == a * b
    assert exact(p) == Fraction(a) * Fraction(b)


@EXAMPLES
@given(pairs(), pairs())
def test_add_and_subtract(x: Pair, y: Pair) -> None:
    """Relative to the operands: where they cancel, what their last bits leave."""
    scale = abs(exact(x)) + abs(exact(y))
    for result, right in ((dd.add(x, y), exact(x) + exact(y)), (dd.subtract(x, y), exact(x) - exact(y))):
        assert_normalized(result)
        assert abs(exact(result) - right) <= scale * BOUND


@EXAMPLES
@given(pairs(), pairs())
def test_multiply(x: Pair, y: Pair) -> None:
    right = exact(x) * exact(y)
    result = dd.multiply(x, y)
    assert_normalized(result)
    assert abs(exact(result) - right) <= abs(right) * BOUND


@EXAMPLES
@given(pairs(), numbers(100).filter(bool))
def test_divide(x: Pair, b: float) -> None:
    right = exact(x) / Fraction(b)
    result = dd.divide(x, b)
    assert_normalized(result)
    assert abs(exact(result) - right) <= abs(right) * BOUND


@EXAMPLES
@given(nonzero)
def test_reciprocal(x: Pair) -> None:
    right = 1 / exact(x)
    result = dd.reciprocal(x)
    assert_normalized(result)
    assert abs(exact(result) - right) <= abs(right) * BOUND


@EXAMPLES
@given(nonzero)
def test_reciprocal_root(x: Pair) -> None:
    """1/r² against x, so that no root is taken by the oracle; twice the relative error."""
    if x[0] < 0:
        x = (-x[0], -x[1])
    result = dd.reciprocal_root(x)
    assert_normalized(result)
    squared = exact(result) ** 2 * exact(x)
    assert abs(squared - 1) <= 2 * BOUND


@pytest.mark.parametrize("number", [1, 4, 9, 144, 2**40, 3**20])
def test_roots_and_quotients_that_are_exact(number: int) -> None:
    """Squares of powers of two come out exact; of others, the reciprocal is right to the pair's last bits."""
    high, low = dd.reciprocal_root((float(number), 0.0))
    root = isqrt(number)
    if root & (root - 1) == 0:
        assert (high, low) == (1 / root, 0)
    assert dd.divide((float(number), 0.0), float(root)) == (float(root), 0)


@pytest.mark.parametrize("function", [dd.two_sum, dd.two_product])
def test_arrays_as_numbers(function: Callable[[Any, Any], Pair]) -> None:
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((2, 50))
    found = function(a, b)
    assert all(
        function(p, q) == (found[0][i], found[1][i]) for i, (p, q) in enumerate(zip(a, b, strict=True))
    )


@pytest.mark.parametrize("function", [dd.add, dd.subtract, dd.multiply])
def test_arrays_of_pairs_as_numbers(function: Callable[[Pair, Pair], Pair]) -> None:
    rng = np.random.default_rng(1)
    a, b = rng.standard_normal((2, 50))
    x, y = dd.two_sum(a, b * 2.0**-54), dd.two_sum(b, a * 2.0**-54)
    found = function(x, y)
    for i in range(50):
        assert function((x[0][i], x[1][i]), (y[0][i], y[1][i])) == (found[0][i], found[1][i])


@EXAMPLES
@given(st.lists(pairs(30), min_size=1, max_size=60))
def test_total(parts: list[Pair]) -> None:
    """The remainders are cut off 2**-26 below the largest, and add up in float64: 2**-79 each."""
    arrays = tuple(np.array(column) for column in zip(*parts, strict=True))
    result = dd.total((arrays[0], arrays[1]))
    right = sum(map(exact, parts), Fraction(0))
    largest = max(abs(exact(part)) for part in parts)
    assert abs(exact(result) - right) <= largest * len(parts) ** 2 * Fraction(1, 2**79)


@EXAMPLES
@given(st.lists(numbers(8), min_size=2, max_size=400), st.randoms(use_true_random=False))
def test_total_of_what_cancels_is_zero_in_any_order(values: list[float], random: Any) -> None:
    """Every number and its negative: a float64 sum leaves what its roundings left."""
    values = values + [-value for value in values]
    random.shuffle(values)
    largest = max(map(abs, values))
    assume(largest)
    high = np.array(values)
    total = exact(dd.total((high, np.zeros_like(high))))
    assert abs(total) <= Fraction(largest) * len(values) ** 2 * Fraction(1, 2**79)


def test_total_is_over_the_first_axis() -> None:
    rng = np.random.default_rng(2)
    high = rng.standard_normal((9, 2, 3)) * 2.0 ** rng.integers(-20, 20, (9, 2, 3))
    low = high * 2.0**-55
    found = dd.total((high, low))
    assert found[0].shape == found[1].shape == (2, 3)
    for place in np.ndindex(2, 3):
        column = (slice(None), *place)
        one = dd.total((high[column], low[column]))
        # Each is right to its own bound; the remainders may be added in another order.
        bound = Fraction(float(np.abs(high[column]).max())) * 81 * Fraction(1, 2**79)
        assert abs(exact((found[0][place], found[1][place])) - exact(one)) <= 2 * bound


def test_total_of_nothing_and_of_zeros() -> None:
    assert exact(dd.total((np.empty(0), np.empty(0)))) == 0
    assert exact(dd.total((np.zeros(7), np.zeros(7)))) == 0
