"""`gn normalize`: group norm of each input, into a file of its own."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import click

from gncli.cli import attempts, options
from gncli.errors import UsageError
from gncli.layout import Layout
from gncli.report import reporting, say

if TYPE_CHECKING:
    from gncli.normalize import Settings


@click.command()
@options.inputs_arg
@options.grouping_opts
@options.eps_opt
@options.like_opt
@options.affine_opts
@options.divide_by_opt
@options.dtype_opt
@options.nan_opt
@options.output_opts
@options.compute_opts
@options.report_opts
@options.picture_opts
@click.pass_context
def normalize(
    ctx: click.Context,
    /,
    inputs: tuple[str, ...],
    output: str | None,
    force: bool,
    dry_run: bool,
    format: str,
    quiet: bool,
    hist: bool,
    plot: str | None,
    **chosen: Any,
) -> None:
    """Normalize each INPUT by groups of its channels.

    Writes x.gn.npy beside x.npy (or to --output) and prints the statistics before and after. An HDF5
    file without ::/path is searched for the one dataset that has the layout's rank.
    """
    from gncli.normalize import Settings, normalize_file, with_histograms
    from gncli.tensors import choose

    options.check_pictures(hist, plot, *inputs, output)
    settings = Settings(**chosen | options.chosen_groups(ctx))
    fits = _rank_rule(settings.layout if options.was_said(ctx, "layout") else None)
    addresses: list[str] = []
    with attempts() as attempt, reporting(format, quiet=quiet) as show:
        for given in inputs:
            with attempt(given):
                addresses += choose(given, fits)
        options.check_one(plot, len(addresses))
        for address, target in plan_targets(addresses, output):
            with attempt(address):
                done = normalize_file(
                    address, target, settings, force=force, dry_run=dry_run, command=ctx.obj
                )
                for warning in done.warnings:
                    say("warning", f"{address}: {warning}")
                show(with_histograms(done.record, settings) if hist else done.record)
                if plot:
                    plot_normalized(plot, done.record, settings)


def plot_normalized(path: str, record: dict[str, object], settings: Settings) -> None:
    from gncli.normalize import with_histograms
    from gncli.pictures import BINS, plot_tensor

    names = ("layout", "grouping", "groups", "channels_per_group", "jobs", "memory", "progress")
    chosen = {name: getattr(settings, name) for name in names}
    plot_tensor(path, with_histograms(record, settings, BINS), chosen)


def _rank_rule(word: str | None) -> Callable[[tuple[int, ...]], bool]:
    """Which dataset of an HDF5 file is meant. Two axes are enough only if asked for: weights have two."""
    return Layout.parse(word).fits if word else lambda shape: len(shape) >= 3


def plan_targets(addresses: Sequence[str], output: str | None) -> list[tuple[str, str]]:
    """Each address with the target of its own. Raises UsageError where two would write one file."""
    from gncli.tensors import default_output
    from gncli.tensors.address import split

    into_folder = output is not None and (output.endswith("/") or os.path.isdir(output))
    if output is not None and not into_folder and len(addresses) > 1:
        raise UsageError(f"--output {output} is one file for {len(addresses)} inputs; give a folder, DIR/")
    readers = {os.path.realpath(split(address)[0]): address for address in addresses}
    writers: dict[str, str] = {}
    targets = []
    for address in addresses:
        if output is None:
            target = default_output(address)
        elif into_folder:
            target = os.path.join(output, os.path.basename(split(address)[0]))
        else:
            target = output
        file = os.path.realpath(split(target)[0])
        if file in writers:
            raise UsageError(
                f"{writers[file]} and {address} would both write {target}; give each its own --output"
            )
        if file in readers and file != os.path.realpath(split(address)[0]):
            raise UsageError(
                f"{address} would write {target}, which is an input too; give it its own --output"
            )
        writers[file] = address
        targets.append((address, target))
    return targets
