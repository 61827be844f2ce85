"""`gn stats`: what is in each input, in numbers."""

from __future__ import annotations

from typing import Any

import click

from gncli.cli import attempts, options
from gncli.report import reporting


@click.command()
@options.inputs_arg
@options.by_opt
@options.grouping_opts
@options.compute_opts
@options.report_opts
@options.hist_opt
@click.pass_context
def stats(
    ctx: click.Context, /, inputs: tuple[str, ...], format: str, quiet: bool, hist: bool, **chosen: Any
) -> None:
    """Print the statistics of each INPUT.

    Mean, std, min and max are over the finite elements; nan and inf count the others. An
    HDF5 file without ::/path is every numeric dataset in it.
    """
    from gncli.stats import stats_file, with_histogram
    from gncli.tensors import expand

    if hist:
        options.not_piped("--hist", *inputs)
        if chosen["by"]:
            raise click.UsageError("--hist is of whole tensors; drop --by")
    chosen |= options.chosen_groups(ctx)
    with attempts() as attempt, reporting(format, quiet=quiet) as show:
        for given in inputs:
            with attempt(given):
                for address in expand(given):
                    with attempt(address):
                        for record in stats_file(address, **chosen):
                            show(with_histogram(record, **chosen) if hist else record)
