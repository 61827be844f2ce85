"""The steps of float64 results: what is done to each value of a tile in two parts, upper and lower.

An upper part has so few bits that its sums or products are exact; a lower part is what is left, rounded.
Each step is one compiled pass where there is one, and several of numpy, which give the same to the bit.
Arrays have the shape of the tile's form; what is laid broadcasts against it.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from gncli import doubledouble as dd
from gncli import kernel
from gncli.doubledouble import Number, Pair
from gncli.moments import Floats
from gncli.tile import Form

# Anchors, as in doubledouble.py:
_PART = 1.5 * 2.0**27  # of the largest deviation: 26 bits, whose products with as many are exact
_SQUARE = 1.5 * 2.0**35  # of the same: 17 bits, so that the squares of a tile add up exactly


class Grid(NamedTuple):
    """Of each cell: what `center` takes, and the anchor of `square`."""

    anchor: Number
    pivot: Number
    rest: Number
    square: Number


def grid(form: Form, mean: Pair, least: Number, most: Number) -> Grid:
    """For cells of this mean and these extremes."""
    reach = form.larger(most - mean[0], mean[0] - least)
    anchor = form.larger(reach * _PART, 4.0 * form.larger(most, -least))
    pivot = (mean[0] + anchor) - anchor
    return Grid(anchor, pivot, (mean[0] - pivot) + mean[1], reach * _SQUARE)


def cut(x: Floats, anchor: Any, upper: Floats, lower: Floats) -> None:
    """x = upper + lower: the upper part cut at 2**-53 of the anchor. `lower` may be x."""
    if kernel.passes is not None:
        kernel.passes.cut(x, anchor, out=(upper, lower))
        return
    np.add(x, anchor, out=upper)
    np.subtract(upper, anchor, out=upper)
    np.subtract(x, upper, out=lower)


def center(x: Floats, anchor: Any, pivot: Any, rest: Any, upper: Floats, lower: Floats) -> None:
    """x - (pivot + rest) = upper + lower; the upper part is exact. `lower` may be x."""
    if kernel.passes is not None:
        kernel.passes.center(x, anchor, pivot, rest, out=(upper, lower))
        return
    cut(x, anchor, upper, lower)
    np.subtract(upper, pivot, out=upper)
    np.subtract(lower, rest, out=lower)


def square(upper: Floats, lower: Floats, anchor: Any, head: Floats, terms: Floats) -> None:
    """(upper + lower)² = head² + terms, where head is the upper part cut once more."""
    if kernel.passes is not None:
        kernel.passes.square(upper, lower, anchor, out=(head, terms))
        return
    cut(upper, anchor, head, terms)
    np.add(terms, lower, out=terms)  # the square less head² is (2·head + terms)·terms
    twice = head + head
    np.add(twice, terms, out=twice)
    np.multiply(twice, terms, out=terms)


def scale(
    upper: Floats, lower: Floats, by: Any, head: Any, rest: Any, shift: Any | None, out: Floats
) -> None:
    """(upper + lower)·(head + rest) + shift: upper·head is exact, and of the rest `by` is the float64.

    upper and lower are used up; `out` is neither.
    """
    if kernel.passes is not None:
        if shift is None:
            kernel.passes.scale(upper, lower, by, head, rest, out=out)
        else:
            kernel.passes.shift(upper, lower, by, head, rest, shift, out=out)
        return
    np.multiply(upper, rest, out=out)
    np.multiply(lower, by, out=lower)
    np.add(lower, out, out=lower)
    np.multiply(upper, head, out=upper)
    if shift is not None:
        upper, lost = dd.two_sum(upper, shift)
        np.add(lower, lost, out=lower)
    np.add(lower, upper, out=out)
