"""`gn stats`: what is in each input, in numbers."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import click

from gncli.cli import attempts, options
from gncli.cli.command import Command
from gncli.cli.paths import require_apart
from gncli.errors import UsageError
from gncli.report import reporting

SPLITTING = ("groups", "channels_per_group", "grouping")  # options that say what a group is


@click.command(cls=Command)
@options.inputs_opts
@options.by_opt
@options.grouping_opts
@options.compute_opts
@options.trusting_opts
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
    from gncli.containment import run
    from gncli.tensors.kept import keep_open

    inputs = options.all_inputs(ctx, inputs, from_file, null)
    hist, plot, chosen["by"] = _whole_or_parts(ctx, hist, plot, chosen["by"])
    _check_effects(ctx, chosen["by"], plot)
    options.check_pictures(hist, plot, *inputs)
    options.check_one(plot, len(inputs))
    require_apart(options.reads(ctx, inputs), options.pictures(plot))
    chosen |= options.chosen_groups(ctx)
    asked = any(options.on_command_line(ctx, name) for name in SPLITTING)
    if asked and "channel" in chosen["by"]:
        chosen["by"] += ("group",)  # the group that each channel is in
    with attempts() as attempt, reporting(format, quiet=quiet) as show, keep_open():
        for given in inputs:
            with attempt(given):
                work = partial(statistics, given, chosen, hist=hist, plot=plot, asked=asked)
                for address, found in run(work, files=[given], memory=chosen["memory"]):
                    with attempt(address):
                        if isinstance(found, Exception):
                            raise found
                        show(found)


def statistics(
    given: str, chosen: dict[str, Any], *, hist: bool, plot: str | None, asked: bool
) -> Iterator[tuple[str, dict[str, object] | Exception]]:
    """Yield the address and the record of each tensor that `given` names, or what went wrong with it.

    Draws the picture that is asked for. Raises GnError where `given` names no tensor.
    """
    from gncli.stats import stats_file, with_histogram
    from gncli.tensors import expand, more

    addresses = expand(given, external=chosen["allow_external"])
    options.check_one(plot, len(addresses))
    for address in addresses:
        try:
            again = True
            while again:
                for record in stats_file(address, **chosen):
                    yield address, with_histogram(record, **chosen) if hist else record
                    if plot:
                        plot_stats(plot, record, chosen, asked=asked)
                again = more(address)
        except (BrokenPipeError, UsageError):
            raise
        except Exception as error:  # noqa: BLE001 - for the caller to tell, and to go on to the next
            yield address, error


def _whole_or_parts(
    ctx: click.Context, hist: bool, plot: str | None, by: tuple[str, ...]
) -> tuple[bool, str | None, tuple[str, ...]]:
    """--hist and --plot, or --by: what the command line says goes before the environment.

    Raises click.UsageError where both are on the command line.
    """
    if not by or not (hist or plot):
        return hist, plot, by
    shown = any(options.on_command_line(ctx, name) for name in ("hist", "plot"))
    if shown and options.on_command_line(ctx, "by"):
        raise click.UsageError("--hist and --plot are of whole tensors; drop --by")
    return (hist, plot, ()) if shown else (False, None, by)


def _check_effects(ctx: click.Context, by: tuple[str, ...], plot: str | None) -> None:
    """Raise click.UsageError for an option that has no effect."""
    split = plot or {"group", "channel"} & {*by}
    options.check_needs(ctx, SPLITTING, split, "--by group, --by channel or --plot")
    options.check_needs(ctx, ["layout"], by or plot, "--by or --plot")
    options.check_clash(ctx, ["format", "hist"], "quiet")


def plot_stats(path: str, record: dict[str, object], chosen: dict[str, Any], *, asked: bool) -> None:
    """Draw the picture of a whole tensor, by the groups that are `asked` for or, where they divide, 32."""
    from gncli.pictures import BINS, plot_tensor
    from gncli.stats import with_histogram

    plot_tensor(path, with_histogram(record, bins=BINS, **chosen), chosen, asked=asked)
