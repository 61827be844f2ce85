"""`gn stats`: what is in each input, in numbers."""

from __future__ import annotations

from typing import Any

import click

from gncli.cli import attempts, options
from gncli.report import reporting


@click.command()
@options.inputs_opts
@options.by_opt
@options.grouping_opts
@options.compute_opts
@options.allow_external_opt
@options.report_opts
@click.pass_context
def stats(
    ctx: click.Context,
    /,
    inputs: tuple[str, ...],
    from_file: str | None,
    null: bool,
    format: str,
    quiet: bool,
    **chosen: Any,
) -> None:
    """Print the statistics of each INPUT.

    Mean, std, min and max are over the finite elements; nan and inf count the others. An
    HDF5 file without ::/path is every numeric dataset in it; - is every .npy that a pipe gives.
    """
    from gncli.stats import stats_file
    from gncli.tensors import expand, more

    inputs = options.all_inputs(ctx, inputs, from_file, null)
    chosen |= options.chosen_groups(ctx)
    with attempts() as attempt, reporting(format, quiet=quiet) as show:
        for given in inputs:
            with attempt(given):
                for address in expand(given, external=chosen["allow_external"]):
                    with attempt(address):
                        again = True
                        while again:
                            for record in stats_file(address, **chosen):
                                show(record)
                            again = more(address)
