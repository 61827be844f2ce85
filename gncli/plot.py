"""Pictures, by matplotlib: the only room that names it. Imported when --plot asks for one.

Blue and vermilion, and the maps cividis and PuOr, are told apart by the colour-blind too (Okabe & Ito, 2008).
"""

from __future__ import annotations

import logging
import math
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import BytesIO
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from gncli.errors import OutputError, UsageError
from gncli.extras import needs_extra
from gncli.histogram import widened
from gncli.tensors.staging import Staged
from gncli.words import printable


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Keep matplotlib from writing to stderr, and MPLBACKEND from it, which fails if it names no backend."""
    logger = logging.getLogger("matplotlib")
    level, backend = logger.level, os.environ.pop("MPLBACKEND", None)
    logger.setLevel(logging.CRITICAL + 1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
        if backend is not None:
            os.environ["MPLBACKEND"] = backend


try:
    with _undisturbed():
        from matplotlib import rc_context, rcdefaults, rcParams
        from matplotlib.axes import Axes
        from matplotlib.axis import Axis
        from matplotlib.colors import LogNorm
        from matplotlib.figure import Figure
        from matplotlib.ticker import MaxNLocator
except ImportError:
    raise needs_extra("plot", "--plot") from None
except (OSError, ValueError) as error:
    hint = "look at the file matplotlibrc in this folder, or in its own"
    raise UsageError(f"--plot cannot load matplotlib: {error}; {hint}") from None

Histogram: TypeAlias = Mapping[str, Sequence[float]]

COLOURS = {"before": "#0072B2", "after": "#D55E00"}
HUGE = 1e300  # beyond it matplotlib's limits of an axis overflow
CELLS = 128  # of a map of magnitudes, along each axis
FAR = 20.0  # times: ranges that differ by more share no linear axis


class Map(NamedTuple):
    """(samples, parts) of a statistic; `signed` if it is to be seen on which side of 0 it is."""

    title: str
    values: NDArray[np.float64]
    part: str  # what a column is: group, channel
    signed: bool


@contextmanager
def _own_settings() -> Iterator[None]:
    """Draw with matplotlib's defaults, whatever a matplotlibrc says."""
    with _undisturbed(), rc_context():
        rcdefaults()
        rcParams["svg.fonttype"] = "none"  # text stays text
        yield


@_own_settings()
def draw_tensor(path: str, title: str, histograms: Mapping[str, Histogram], maps: Sequence[Map]) -> None:
    """Histograms on one axis, and a heat map each of some statistics, into `path`. Raises GnError."""
    edges = [edge for one in histograms.values() for edge in one["edges"]]
    if max(map(abs, edges), default=0.0) > HUGE:
        raise OutputError(f"cannot be drawn: values beyond {HUGE:g}", address=path)
    figure, axes = _figure(title, 1 + len(maps))
    _histograms(axes[0], histograms)
    for ax, one in zip(axes[1:], maps, strict=True):
        _heat(figure, ax, one)
    _save(figure, path)


@_own_settings()
def draw_difference(
    path: str,
    title: str,
    histogram: Histogram,
    exponents: Mapping[tuple[int | None, int], int],
    maps: Sequence[Map],
) -> None:
    """The histogram of a - b; how large it is where b is how large; heat maps. Raises GnError.

    `exponents`: how many elements have a |b| and an |a - b| from such a power of two to the next; None is
    that of 0.
    """
    figure, axes = _figure(title, 2 + len(maps))
    ax = axes[0]
    ax.stairs(histogram["counts"], histogram["edges"], fill=True, color=COLOURS["before"])
    ax.set(title="error", xlabel="a - b", ylabel="elements, of each bin", yscale="symlog", ylim=(0, None))
    _magnitudes(figure, axes[1], exponents)
    for ax, one in zip(axes[2:], maps, strict=True):
        _heat(figure, ax, one)
    _save(figure, path)


def _figure(title: str, count: int) -> tuple[Figure, list[Axes]]:
    columns = min(count, 2) if count == 4 else count
    rows = -(-count // columns)
    figure = Figure(figsize=(4.8 * columns, 4.2 * rows), layout="constrained")
    figure.suptitle(printable(title), parse_math=False)  # a $ in a name begins no formula
    grid: Any = figure.subplots(rows, columns, squeeze=False)
    return figure, list(grid.flat)


def _histograms(ax: Axes, histograms: Mapping[str, Histogram]) -> None:
    widths = []
    for name, one in histograms.items():
        counts = np.asarray(one["counts"], float)
        # Integers may lie closer than float64, in which a picture is drawn, can tell apart.
        low, high = widened(float(one["edges"][0]), float(one["edges"][-1]), len(counts))
        edges = np.linspace(low, high, len(counts) + 1)
        widths.append(high - low)
        density = counts / counts.sum() / np.diff(edges)  # equal areas, whatever the bins
        ax.stairs(density, edges, label=name, color=COLOURS.get(name, COLOURS["before"]), linewidth=1.5)
    ax.set(title="histogram", xlabel="value", ylabel="density: share of the elements per unit of value")
    if len(histograms) > 1:
        ax.legend()
        if max(widths) > FAR * min(widths):
            ax.set_xscale("symlog", linthresh=min(widths) / 2, linscale=2)
            ax.set_yscale("log")
            ax.tick_params(axis="x", labelrotation=45)


def _heat(figure: Figure, ax: Axes, one: Map) -> None:
    limits: dict[str, Any] = {}
    if one.signed:
        most = float(np.nanmax(np.abs(one.values), initial=0.0)) or 1.0
        limits = {"vmin": -most, "vmax": most}
    image = ax.imshow(
        one.values, cmap="PuOr" if one.signed else "cividis", aspect="auto", interpolation="nearest", **limits
    )
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_locator(MaxNLocator(integer=True))
    ax.set(title=one.title, xlabel=one.part, ylabel="sample")
    figure.colorbar(image, ax=ax)


def _magnitudes(figure: Figure, ax: Axes, exponents: Mapping[tuple[int | None, int], int]) -> None:
    """A column for each power of two of |b|, and left of them one for 0 where it is needed.

    The axes are linear, of binary logarithms: powers of two at the ends of float64 would be 0 or infinite.
    """
    ax.set(title="error against magnitude", xlabel="|b|", ylabel="|a - b|, where it is not 0")
    if not exponents:
        ax.text(0.5, 0.5, "no error", ha="center", transform=ax.transAxes)
        return
    across = [column for column, _ in exponents if column is not None]
    up = [row for _, row in exponents]
    first, last = min(across, default=0), max(across, default=-1) + 1
    low, high = min(up), max(up) + 1
    wide, tall = (max(0, span - 1) // CELLS + 1 for span in (last - first, high - low))  # of a cell
    columns, rows = -(-(last - first) // wide), -(-(high - low) // tall)
    zero = max(1, columns // 12)  # columns for 0, and as many empty ones beside them
    grid = np.zeros((rows, 2 * zero + columns))
    for (column, row), count in exponents.items():
        at = slice(zero) if column is None else 2 * zero + (column - first) // wide
        grid[(row - low) // tall, at] += count
    with_zero = any(column is None for column, _ in exponents)
    unused = 0 if with_zero else 2 * zero
    left = first + wide * (np.arange(unused, grid.shape[1] + 1) - 2 * zero)
    bottom = low + tall * np.arange(rows + 1)
    shown = np.ma.masked_equal(grid[:, unused:], 0)
    mesh = ax.pcolormesh(left, bottom, shown, cmap="cividis", norm=LogNorm())
    _powers_of_ten(ax.xaxis, first, last, [(first - 1.5 * zero * wide, "0")] if with_zero else [])
    _powers_of_ten(ax.yaxis, low, high, [])
    figure.colorbar(mesh, ax=ax, label="elements")


def _powers_of_ten(axis: Axis, low: int, high: int, others: list[tuple[float, str]]) -> None:
    """Label an axis of binary logarithms from `low` to `high` by powers of ten, or of two if it is short."""
    name, step = ("10", math.log2(10)) if high - low > 7 else ("2", 1.0)
    powers = range(math.ceil(low / step), math.floor(high / step) + 1) if high > low else range(0)
    ticks = [(power * step, f"${name}^{{{power}}}$") for power in powers[:: len(powers) // 8 + 1]]
    axis.set_ticks([place for place, _ in others + ticks], labels=[label for _, label in others + ticks])


def _save(figure: Figure, path: str) -> None:
    """The file stands when it is whole; one that stood there is replaced."""
    picture = BytesIO()
    figure.savefig(picture, format=path.rpartition(".")[2].lower(), dpi=120)
    staged = Staged(path, force=True)
    try:
        try:
            staged.file.write(picture.getbuffer())
        except OSError as error:
            raise staged.failure(error, "the picture") from None
        staged.commit()
    finally:
        staged.discard()
