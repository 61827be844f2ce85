"""A tile as float64 values, and as deviations from its mean. 64-bit integers need care for both."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from gncli import doubledouble as dd
from gncli import pairs
from gncli.doubledouble import Number, Pair
from gncli.moments import Floats, Moments
from gncli.pairs import Grid
from gncli.scratch import Scratch
from gncli.tile import Form, Row

EXACT = 2**53  # float64 holds all integers up to it
_LOW_BITS = 2047


def is_long(dtype: np.dtype[Any]) -> bool:
    """Return whether these are integers that float64 may not hold."""
    return dtype.kind in "iu" and dtype.itemsize == 8


def exact_extremes(form: Form, tile: NDArray[Any], moments: Moments) -> tuple[Number, Number]:
    """Min and max of each group in the tile's dtype: all tiles of a tensor must give one dtype.

    Mixed dtypes would become float64 when the moments of several tiles are joined.
    """
    kind = tile.dtype.newbyteorder("=").type
    top, _ = form.span(form.larger(moments.most, -moments.least))
    if top < EXACT:
        return kind(moments.least), kind(moments.most)
    least, most = (function.reduce(tile, axis=(0, 2, 4)) for function in (np.minimum, np.maximum))
    return (least[0, 0], most[0, 0]) if isinstance(form, Row) else (least, most)


def load(form: Form, tile: NDArray[Any], scratch: Scratch) -> tuple[Floats, Floats | None, Pair | None]:
    """The tile as float64; of 64-bit integers that this cannot hold, less their least, `base`.

    If these still are too large, their lower bits come apart.
    """
    if is_long(tile.dtype):
        least, most = int(tile.min()), int(tile.max())
        if max(-least, most) > EXACT:
            above = tile.astype(np.uint64) - np.uint64(least % 2**64)  # modulo 2**64 all along, so exact
            base = (float(least), float(least - int(float(least))))
            low = None
            if most - least > EXACT:
                low = form.load(above & np.uint64(_LOW_BITS), np.empty(form.size))
                above &= ~np.uint64(_LOW_BITS)
            return form.load(above, scratch.work), low, base
    return values_of(form, tile, scratch), None, None


def values_of(form: Form, tile: NDArray[Any], scratch: Scratch) -> Floats:
    """The tile as float64: itself, or in `scratch.work`."""
    own = form.own(tile)
    return form.load(tile, scratch.work) if own is None else own


def deviations(
    form: Form, tile: NDArray[Any], scratch: Scratch, moments: Moments, values: Floats | None = None
) -> tuple[Floats, Floats, Grid]:
    """x - mean as lower part and upper part, which is exact and of few bits, and where they were cut.

    `values`: the tile as float64, where it is there already.
    """
    low, base = None, None
    if values is None:
        values, low, base = load(form, tile, scratch)
    work, part = form.view(scratch.work), form.view(scratch.part)
    mean, unit = moments.mean, moments.unit
    if form.any(unit != 1.0):
        values = np.multiply(values, form.lay_cells(unit), out=work)
    least, most = moments.least * unit, moments.most * unit
    if base is not None:
        mean = dd.subtract(mean, base)
        least, most = form.extremes(values, values)
    grid = pairs.grid(form, mean, least, most)
    anchor, pivot, rest = map(form.lay_cells, grid[:3])
    pairs.center(values, anchor, pivot, rest, part, work)
    if low is not None:
        np.add(work, low, out=work)
    return work, part, grid
