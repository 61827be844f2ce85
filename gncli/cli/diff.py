"""`gn diff`: whether two tensors are equal, and if not, how far apart they are, and why."""

from __future__ import annotations

from typing import Any

import click

from gncli.cli import options, tell, trouble
from gncli.errors import GnError
from gncli.report import reporting


@click.command()
@options.a_arg
@options.b_arg
@options.tolerance_opts
@options.grouping_opts
@options.compute_opts
@options.report_opts
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
    **chosen: Any,
) -> None:
    """Compare A with B, element by element.

    Two HDF5 files are compared dataset by dataset. With --groups or --layout, the mean and the
    standard deviation of each group are compared too. Exits with 0 if all are equal, 1 if not, 2 in
    trouble.
    """
    from gncli.compare import Comparison, compare_files, pairs
    from gncli.difference import Tolerance

    said = any(options.was_said(ctx, name) for name in ("channels_per_group", *options.GROUPING))
    groups = {name: chosen[name] for name in options.GROUPING} | options.chosen_groups(ctx) if said else None
    settings = Comparison(
        Tolerance(rtol, atol, max_ulp, nan_differ),
        groups,
        chosen["jobs"],
        chosen["memory"],
        chosen["progress"],
    )
    codes = {0}
    with trouble(), reporting(format, quiet=quiet) as show:
        for first, second in pairs(a, b):
            try:
                record = compare_files(first, second, settings)
            except GnError as error:
                tell(error)
                codes.add(2)
                continue
            show(record)
            codes.add(0 if record["equal"] else 1)
    raise click.exceptions.Exit(max(codes))
