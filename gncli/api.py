"""Group norm and statistics of arrays in memory: the command's numbers, from Python."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from gncli.dtypes import output_dtype
from gncli.engine import measure_all, normalize_tensor
from gncli.errors import LayoutError
from gncli.executors import threads, usable_cores
from gncli.layout import Layout, channel_axis, flat_geometry, geometry, group_count, is_interleaved
from gncli.norm import Norm
from gncli.plan import plan
from gncli.tensors.address import require_numeric
from gncli.tensors.memory import ArraySink, ArraySource

DEFAULT_MEMORY = 64 << 20  # bytes


def group_norm(
    x: ArrayLike,
    groups: int | None = 32,
    eps: float = 1e-5,
    layout: str | None = None,
    *,
    channels_per_group: int | None = None,
    grouping: str = "contiguous",
    gamma: ArrayLike | None = None,
    beta: ArrayLike | None = None,
    divide_by: str = "std",
    dtype: DTypeLike | None = None,
    nan: str = "propagate",
    jobs: int | None = None,
    memory: int = DEFAULT_MEMORY,
) -> NDArray[Any]:
    """Group normalization (Wu & He 2018), every element rounded once from the exact value.

    `x`: real numbers on the axes that `layout` names (channels first by default). Returns the same
    shape, of `dtype` or else the input's, integers as floats. `gamma`, `beta`: a number, or (C,).
    `memory`: bytes of buffers. Warns of NaN and infinity, and of constant groups where `eps` is 0.
    Raises LayoutError, FormatError, UsageError, NonFiniteError.
    """
    array = np.asarray(x)
    require_numeric(array.dtype, "array")
    word = Layout.parse(layout or "channels_first").on(array.shape).word
    channels = array.shape[channel_axis(word, array.ndim)]
    count = group_count(channels, groups, channels_per_group)
    if not array.flags.forc:
        array = np.ascontiguousarray(array)
    source = ArraySource(array)
    result = np.empty(array.shape, output_dtype(array.dtype, dtype), order="F" if source.fortran else "C")
    sink = ArraySink(result)
    view = geometry(array.shape, word, count, interleaved=is_interleaved(grouping), fortran=source.fortran)
    norm = Norm(
        view,
        eps,
        divide_by,
        nan,
        per_channel(gamma, channels),
        per_channel(beta, channels),
        Norm.needs_twofold(array.dtype, result.dtype),
    )
    cut = plan(view, array.dtype.itemsize, result.dtype.itemsize, memory, jobs or usable_cores())
    with threads(cut.jobs) as executor:
        outcome = normalize_tensor(source, sink, cut, norm, result.dtype, executor, statistics=False)
    for words in outcome.warnings(nan):
        warnings.warn(words, RuntimeWarning, stacklevel=2)
    return result


def describe(
    x: ArrayLike, *, jobs: int | None = None, memory: int = DEFAULT_MEMORY
) -> dict[str, int | float]:
    """count, mean, std (population), min, max, nan, inf of a real array; but for counts, over the finite."""
    array = np.asarray(x)
    require_numeric(array.dtype, "array")
    source = ArraySource(array)
    cut = plan(flat_geometry(array.size), array.dtype.itemsize, 0, memory, jobs or usable_cores())
    with threads(cut.jobs) as executor:
        return measure_all(source, cut, executor).row(whole=array.dtype.kind in "iu")


def per_channel(values: ArrayLike | None, channels: int) -> NDArray[np.float64] | None:
    """`values` as (C,) float64: a number is the same for all. Raises LayoutError for another length."""
    if values is None:
        return None
    array = np.squeeze(np.asarray(values, dtype=np.float64))
    if array.ndim and array.shape != (channels,):
        raise LayoutError(f"shape {np.shape(values)} is not ({channels},), one value a channel")
    return np.array(np.broadcast_to(array, (channels,)))
