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
@options.picture_opts
@click.pass_context
def stats(
    ctx: click.Context,
    /,
    inputs: tuple[str, ...],
    from_file: str | None,
    null: bool,
    format: str,
    quiet: bool,
    hist: bool,
    plot: str | None,
    **chosen: Any,
) -> None:
    """Print the statistics of each INPUT.

    Mean, std, min and max are over the finite elements; nan and inf count the others. An
    HDF5 file without ::/path is every numeric dataset in it; - is every .npy that a pipe gives.
    """
    from gncli.stats import stats_file, with_histogram
    from gncli.tensors import expand, more
    from gncli.tensors.kept import keep_open

    inputs = options.all_inputs(ctx, inputs, from_file, null)
    options.check_pictures(hist, plot, *inputs)
    if (hist or plot) and chosen["by"]:
        raise click.UsageError("--hist and --plot are of whole tensors; drop --by")
    options.check_one(plot, len(inputs))
    chosen |= options.chosen_groups(ctx)
    with attempts() as attempt, reporting(format, quiet=quiet) as show, keep_open():
        for given in inputs:
            with attempt(given):
                addresses = expand(given, external=chosen["allow_external"])
                options.check_one(plot, len(addresses))
                for address in addresses:
                    with attempt(address):
                        again = True
                        while again:
                            for record in stats_file(address, **chosen):
                                show(with_histogram(record, **chosen) if hist else record)
                                if plot:
                                    plot_stats(plot, record, chosen)
                            again = more(address)


def plot_stats(path: str, record: dict[str, object], chosen: dict[str, Any]) -> None:
    from gncli.pictures import BINS, plot_tensor
    from gncli.stats import with_histogram

    plot_tensor(path, with_histogram(record, bins=BINS, **chosen), chosen)
