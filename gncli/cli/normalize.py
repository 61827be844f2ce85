"""`gn normalize`: group norm of each input, into a file of its own."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeGuard

import click

from gncli.cli import attempts, options
from gncli.cli.command import Command
from gncli.cli.paths import NamedFile, require_apart
from gncli.errors import UsageError
from gncli.layout import Layout
from gncli.report import reporting, say
from gncli.words import as_size

if TYPE_CHECKING:
    from gncli.normalize import Normalized, Settings


@click.command(cls=Command)
@options.inputs_opts
@options.grouping_opts
@options.eps_opt
@options.like_opt
@options.affine_opts
@options.divide_by_opt
@options.dtype_opt
@options.nan_opt
@options.output_opts
@options.compute_opts
@options.hdf5_opts
@options.report_opts
@options.picture_opts
@click.pass_context
def normalize(
    ctx: click.Context,
    /,
    inputs: tuple[str, ...],
    from_file: str | None,
    null: bool,
    output: str | None,
    force: bool,
    skip_existing: bool,
    dry_run: bool,
    format: str,
    quiet: bool,
    hist: bool,
    plot: str | None,
    **chosen: Any,
) -> None:
    """Normalize each INPUT by groups of its channels.

    Writes x.gn.npy beside x.npy (or to --output) and prints the statistics before and after. An HDF5
    file without ::/path is searched for the one dataset that has the layout's rank; several datasets of
    one file, as FILE::/conv*, go into one output. An INPUT of - is .npy from a pipe, one after another,
    and goes to standard output as such.
    """
    from gncli.batch import Batch
    from gncli.normalize import Settings, with_histograms
    from gncli.tensors import choose

    inputs = options.all_inputs(ctx, inputs, from_file, null)
    options.check_pictures(hist, plot, *inputs, output)
    options.check_one(plot, len(inputs))
    options.check_clash(ctx, ["format", "hist"], "quiet")
    settings = Settings(**chosen | options.chosen_groups(ctx))
    batch = Batch(settings, force, skip_existing, dry_run, ctx.obj)
    word = settings.layout if options.was_said(ctx, "layout") else None
    how: dict[str, Any] = {"of_several": _leave_out(word), "external": settings.allow_external}
    how |= _which_dataset(word)
    began = time.monotonic()
    tally = Tally()
    addresses: list[str] = []
    with attempts() as attempt:
        for given in inputs:
            with attempt(given):
                addresses += choose(given, **how)
        if addresses:
            options.check_one(plot, len(addresses))
        targets = plan_targets(addresses, output)
        outputs = [NamedFile("the output", target, address) for address, target in targets]
        require_apart(options.reads(ctx, addresses), [*outputs, *options.pictures(plot)])
        if targets and not dry_run:
            to_files = any(target != "-" for _, target in targets)
            needed = "an output that is a file, as --output FILE"
            options.check_needs(ctx, ["force", "skip_existing"], to_files, needed)
        _check_parameters(settings.gamma, settings.beta, targets)
        if (hist or plot) and not dry_run:
            _require_kept(targets)
        if addresses and _is_folder(output) and not dry_run:
            os.makedirs(output, exist_ok=True)
        piped = not dry_run and any(target == "-" for _, target in targets)
        with reporting(format, quiet=quiet, stream=sys.stderr if piped else None) as show:
            for address, outcome in batch.run(targets):
                with attempt(address):
                    if isinstance(outcome, Exception):
                        raise outcome
                    tally.count(outcome)
                    for warning in outcome.warnings if outcome else ():
                        say("warning", f"{address}: {warning}")
                    if outcome:
                        show(with_histograms(outcome.record, settings) if hist else outcome.record)
                    if outcome and plot:
                        plot_normalized(plot, outcome.record, settings)
        if not quiet and (len(inputs) != 1 or from_file is not None):
            say("summary", tally.words(attempt.failed, time.monotonic() - began))


def plot_normalized(path: str, record: dict[str, object], settings: Settings) -> None:
    from gncli.normalize import with_histograms
    from gncli.pictures import BINS, plot_tensor

    names = (*options.GROUPING, "channels_per_group", "jobs", "memory", "progress", "allow_external", "raw")
    chosen = {name: getattr(settings, name) for name in names}
    plot_tensor(path, with_histograms(record, settings, BINS), chosen)


def _which_dataset(word: str | None) -> dict[str, Callable[[tuple[int, ...]], bool]]:
    """Return the rules for the one dataset that is meant of an HDF5 file, as `choose` takes them.

    Matrices are mostly weights, so that without a layout they count only where nothing else is there.
    """
    if word:
        return {"fits": Layout.parse(word).fits}
    return {"fits": lambda shape: len(shape) >= 3, "or_else": lambda shape: len(shape) == 2}


def _leave_out(word: str | None) -> Callable[[str, tuple[int, ...]], bool]:
    """Which of the datasets that a glob stands for are meant; of others it is said that they are not."""
    layout = Layout.parse(word or "channels_first")

    def fits(address: str, shape: tuple[int, ...]) -> bool:
        if not layout.fits(shape):
            say("warning", f"{address}: left out: shape {shape} does not fit layout {layout.word}")
        return layout.fits(shape)

    return fits


def plan_targets(addresses: Sequence[str], output: str | None) -> list[tuple[str, str]]:
    """Each address with its target. Raises UsageError where two would write one file.

    Datasets of one HDF5 file may, and what goes to standard output goes there one after another.
    """
    from gncli.tensors.address import kind_of, require_written, split

    readers = {os.path.realpath(split(address)[0]): address for address in addresses}
    firsts: dict[str, tuple[str, str]] = {}  # of each file that is written: the first input, and its target
    named: set[tuple[str, str | None]] = set()
    targets = []
    for address in addresses:
        target = _target(address, output)
        if target == "-":
            targets.append((address, target))
            continue
        path, inside = split(target)
        require_written(path)
        source, name = os.path.realpath(split(address)[0]), split(address)[1]
        file = os.path.realpath(path)
        if file in firsts:
            first, target = firsts[file]
            alike = name is not None and source == os.path.realpath(split(first)[0])
            if not alike or (source, name) in named or inside is not None or kind_of(path) == "npy":
                if output is not None and not _is_folder(output):
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


def _target(address: str, output: str | None) -> str:
    """Where it goes: beside itself, into a folder, or to the one file that is named."""
    from gncli.tensors import default_output
    from gncli.tensors.address import split

    path = split(address)[0]
    if output is None:
        return default_output(address)
    if not _is_folder(output):
        return output
    if path == "-":
        raise UsageError(f"- has no name to keep in {output}; give --output a file's name")
    return os.path.join(output, os.path.basename(path))


def _is_folder(output: str | None) -> TypeGuard[str]:
    return output is not None and (output.endswith("/") or os.path.isdir(output))


def _check_parameters(gamma: object, beta: object, targets: Sequence[object]) -> None:
    """Raise UsageError where gamma or beta would be read again from a pipe."""
    from gncli.tensors.pipe import stream_at

    for given in (gamma, beta):
        if isinstance(given, str) and len(targets) > 1 and stream_at(given) is not None:
            hint = f"is a pipe, which can be read once, and there are {len(targets)} inputs; give a file"
            raise UsageError(hint, address=given)


def _require_kept(targets: Sequence[tuple[str, str]]) -> None:
    """Raise UsageError where an input, which a picture reads again, would have been replaced by then."""
    from gncli.tensors.address import split

    for address, target in targets:
        if target != "-" and os.path.realpath(split(target)[0]) == os.path.realpath(split(address)[0]):
            hint = "--hist and --plot read the input again, and it would be replaced; give another --output"
            raise UsageError(hint, address=address)


class Tally:
    """What a batch came to."""

    def __init__(self) -> None:
        self.done = self.skipped = self.nbytes = 0

    def count(self, outcome: Normalized | None) -> None:
        """A tensor that was normalized, or None for one that was skipped."""
        if outcome is None:
            self.skipped += 1
            return
        self.done += 1
        self.nbytes += outcome.nbytes

    def words(self, failed: int, seconds: float) -> str:
        skipped = f", {self.skipped} skipped" if self.skipped else ""
        return f"{self.done} done, {failed} failed{skipped}, {as_size(self.nbytes)} in {seconds:.2f} s"
