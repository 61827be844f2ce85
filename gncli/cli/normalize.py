"""`gn normalize`: group norm of each input, into a file of its own."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import click

from gncli.cli import attempts, options
from gncli.errors import UsageError
from gncli.layout import Layout
from gncli.report import reporting, say


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
@options.allow_external_opt
@options.report_opts
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
    **chosen: Any,
) -> None:
    """Normalize each INPUT by groups of its channels.

    Writes x.gn.npy beside x.npy (or to --output) and prints the statistics before and after. An HDF5
    file without ::/path is searched for the one dataset that has the layout's rank; several datasets of
    one file, as FILE::/conv*, go into one output.
    """
    from gncli.normalize import Settings, normalize_datasets, normalize_file
    from gncli.tensors import choose

    settings = Settings(**chosen | options.chosen_groups(ctx))
    word = settings.layout if options.was_said(ctx, "layout") else None
    external = settings.allow_external
    how = {"force": force, "dry_run": dry_run, "command": ctx.obj}
    addresses: list[str] = []
    with attempts() as attempt, reporting(format, quiet=quiet) as show:
        for given in inputs:
            with attempt(given):
                addresses += choose(given, _rank_rule(word), of_several=_leave_out(word), external=external)
        for target, together in by_target(plan_targets(addresses, output)):
            with attempt(together[0]):
                if len(together) == 1:
                    results = [normalize_file(together[0], target, settings, **how)]
                else:
                    results = normalize_datasets(together, target, settings, **how)
                for done in results:
                    for warning in done.warnings:
                        say("warning", f"{done.record['input']}: {warning}")
                    show(done.record)


def _rank_rule(word: str | None) -> Callable[[tuple[int, ...]], bool]:
    """Which dataset of an HDF5 file is meant. Two axes are enough only if asked for: weights have two."""
    return Layout.parse(word).fits if word else lambda shape: len(shape) >= 3


def _leave_out(word: str | None) -> Callable[[str, tuple[int, ...]], bool]:
    """Which of the datasets that a glob stands for are meant; of others it is said that they are not."""
    layout = Layout.parse(word or "channels_first")

    def fits(address: str, shape: tuple[int, ...]) -> bool:
        if not layout.fits(shape):
            say("warning", f"{address}: left out: shape {shape} does not fit layout {layout.word}")
        return layout.fits(shape)

    return fits


def by_target(pairs: Sequence[tuple[str, str]]) -> Iterable[tuple[str, list[str]]]:
    """Each target once, with the addresses that go there."""
    together: dict[str, list[str]] = {}
    for address, target in pairs:
        together.setdefault(target, []).append(address)
    return together.items()


def plan_targets(addresses: Sequence[str], output: str | None) -> list[tuple[str, str]]:
    """Each address with the target of its own. Raises UsageError where two would write one file.

    Datasets of one HDF5 file may.
    """
    from gncli.tensors import default_output
    from gncli.tensors.address import kind_of, split

    into_folder = output is not None and (output.endswith("/") or os.path.isdir(output))
    readers = {os.path.realpath(split(address)[0]): address for address in addresses}
    firsts: dict[str, tuple[str, str]] = {}  # of each file that is written: the first input, and its target
    named: set[tuple[str, str | None]] = set()
    targets = []
    for address in addresses:
        if output is None:
            target = default_output(address)
        elif into_folder:
            target = os.path.join(output, os.path.basename(split(address)[0]))
        else:
            target = output
        path, inside = split(target)
        source, name = os.path.realpath(split(address)[0]), split(address)[1]
        file = os.path.realpath(path)
        if file in firsts:
            first, target = firsts[file]
            alike = name is not None and source == os.path.realpath(split(first)[0])
            if not alike or (source, name) in named or inside is not None or kind_of(path) == "npy":
                if output is not None and not into_folder:
                    count = len(addresses)
                    raise UsageError(f"--output {output} is one file for {count} inputs; give a folder, DIR/")
                raise UsageError(
                    f"{first} and {address} would both write {target}; give each its own --output"
                )
        if file in readers and file != source:
            raise UsageError(
                f"{address} would write {target}, which is an input too; give it its own --output"
            )
        firsts.setdefault(file, (address, target))
        named.add((source, name))
        targets.append((address, target))
    return targets
