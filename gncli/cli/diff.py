"""`gn diff`: whether two tensors are equal, and if not, how far apart they are, and why."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import click

from gncli.cli import options, tell, trouble
from gncli.errors import GnError
from gncli.report import reporting, say

if TYPE_CHECKING:
    from gncli.compare import Comparison


@click.command()
@options.a_arg
@options.b_arg
@options.tolerance_opts
@options.grouping_opts
@options.compute_opts
@options.allow_external_opt
@options.report_opts
@options.plot_opt
@click.pass_context
def diff(
    ctx: click.Context,
    /,
    a: str,
    b: str,
    rtol: float,
    atol: float,
    max_ulp: int | None,
    nan_differ: bool,
    format: str,
    quiet: bool,
    plot: str | None,
    **chosen: Any,
) -> None:
    """Compare A with B, element by element.

    Two HDF5 files are compared dataset by dataset. With --groups or --layout, the mean and the
    standard deviation of each group are compared too. Exits with 0 if all are equal, 1 if not, 2 in
    trouble.
    """
    from gncli.compare import Comparison, compare_files, pairs
    from gncli.difference import Tolerance
    from gncli.tensors.kept import keep_open

    said = any(options.was_said(ctx, name) for name in ("channels_per_group", *options.GROUPING))
    groups = {name: chosen[name] for name in options.GROUPING} | options.chosen_groups(ctx) if said else None
    rest = {name: chosen[name] for name in ("jobs", "memory", "dask", "progress", "allow_external")}
    settings = Comparison(Tolerance(rtol, atol, max_ulp, nan_differ), groups, **rest)
    codes = {0}
    options.check_pictures(False, plot, a, b)
    with trouble(), reporting(format, quiet=quiet) as show, keep_open():
        both = pairs(a, b, allow_external=settings.allow_external)
        options.check_one(plot, len(both))
        for first, second in both:
            try:
                record = compare_files(first, second, settings)
                if plot and first and second:
                    plot_pair(plot, first, second, record, settings)
            except GnError as error:
                tell(error)
                codes.add(2)
                continue
            show(record)
            codes.add(0 if record["equal"] else 1)
    raise click.exceptions.Exit(max(codes))


def plot_pair(path: str, a: str, b: str, record: dict[str, object], settings: Comparison) -> None:
    from gncli.pictures import plot_difference

    if record["shape_a"] != record["shape_b"]:
        say("warning", f"{path}: not drawn, for the shapes differ")
        return
    if record["max_abs"] == math.inf:
        say("warning", f"{path}: not drawn, for float64 cannot hold the errors")
        return
    plot_difference(path, a, b, record, settings)
