"""`gn normalize`: group norm of each input, into a file of its own."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any, TypeGuard

import click

from gncli.cli import attempts, options
from gncli.cli.command import Command
from gncli.cli.paths import NamedFile, require_apart
from gncli.errors import GnError, UsageError
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
    one file, as FILE::/conv*, go into one output. --output FILE.h5::/path adds a dataset to a file, and
    FILE.h5::/path/ all inputs to a group in it, under their names. An INPUT of - is .npy from a pipe, one
    after another, and goes to standard output as such.
    """
    from gncli.batch import Batch
    from gncli.containment import run
    from gncli.normalize import Settings
    from gncli.tensors.kept import keep_open

    inputs = options.all_inputs(ctx, inputs, from_file, null)
    options.check_pictures(hist, plot, *inputs, output)
    options.check_one(plot, len(inputs))
    options.check_clash(ctx, ["format", "hist"], "quiet")
    settings = Settings(**chosen | options.chosen_groups(ctx))
    word = settings.layout if options.was_said(ctx, "layout") else None
    began = time.monotonic()
    tally = Tally()
    addresses: list[str] = []
    wrong: dict[str, Exception] = {}
    choose = partial(chosen_addresses, word=word, external=settings.allow_external)
    with keep_open():
        for given in inputs:
            try:
                addresses += run(choose, given, files=[given], memory=settings.memory)
            except UsageError:
                raise
            except Exception as error:  # noqa: BLE001 - told in its turn, with what it keeps from being done
                addresses.append(given)
                wrong[given] = error
    with attempts() as attempt:
        options.check_one(plot, len(addresses))
        targets = plan_targets(addresses, output, wrong)
        done = [(address, target) for address, target in targets if address not in wrong]
        outputs = [NamedFile("the output", target, address) for address, target in done]
        require_apart(options.reads(ctx, addresses), [*outputs, *options.pictures(plot)])
        if done and not dry_run:
            from gncli.tensors import involves_hdf5

            to_files = any(target != "-" for _, target in done)
            needed = "an output that is a file, as --output FILE"
            options.check_needs(ctx, ["skip_existing"], to_files, needed)
            options.check_needs(ctx, ["force"], to_files or involves_hdf5(*addresses), needed)
        batch = Batch(settings, force, skip_existing, dry_run, ctx.obj, wrong)
        _check_parameters(settings.gamma, settings.beta, targets)
        if (hist or plot) and not dry_run:
            _require_kept(done)
        if done and _is_folder(output) and not dry_run:
            os.makedirs(output, exist_ok=True)
        piped = not dry_run and any(target == "-" and address not in wrong for address, target in targets)
        with reporting(format, quiet=quiet, stream=sys.stderr if piped else None) as show:
            for address, outcome in batch.run(targets):
                with attempt(address):
                    if isinstance(outcome, Exception):
                        raise outcome
                    tally.count(outcome)
                    for warning in outcome.warnings if outcome else ():
                        say("warning", f"{address}: {warning}")
                    if outcome and (hist or plot):
                        work = partial(pictured, outcome.record, settings, hist, plot)
                        files = [address, outcome.record["output"]]
                        for record in run(work, files=files, memory=settings.memory):
                            show(record)
                    elif outcome:
                        show(outcome.record)
        if not quiet and (len(inputs) != 1 or from_file is not None):
            say("summary", tally.words(attempt.failed, time.monotonic() - began))


def chosen_addresses(given: str, word: str | None, external: bool) -> Iterator[str]:
    """Yield the addresses of the tensors that `given` names, as `choose` takes them. Raises GnError."""
    from gncli.tensors import choose

    yield from choose(given, of_several=_leave_out(word), external=external, **_which_dataset(word))


def pictured(
    record: dict[str, object], settings: Settings, hist: bool, plot: str | None
) -> Iterator[dict[str, object]]:
    """Yield the record, with histograms if `hist`, and draw the picture. Raises GnError."""
    from gncli.normalize import with_histograms

    yield with_histograms(record, settings) if hist else record
    if plot:
        plot_normalized(plot, record, settings)


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


def plan_targets(
    addresses: Sequence[str], output: str | None, wrong: Collection[str] = ()
) -> list[tuple[str, str]]:
    """Each address with its target. Raises UsageError where two would write one file, or one dataset.

    Datasets of one HDF5 file may go into one file, and so may all inputs where the output is a group in an
    HDF5 file. What goes to standard output goes there one after another. `wrong` are addresses that cannot be
    taken: they are planned, too, since nothing else is to be written where they would be.
    """
    from gncli.tensors.address import kind_of, require_written, split

    real = lru_cache(os.path.realpath)  # many datasets are of one file
    grouped = _group(output) is not None
    sources = {address: real(split(address)[0]) for address in addresses}
    readers = {source: address for address, source in sources.items()}
    firsts: dict[str, tuple[str, str]] = {}  # of each file that is written: the first input, and its target
    written: dict[tuple[str, str | None], tuple[str, str]] = {}  # the same, of each dataset
    targets = []
    for address in addresses:
        try:
            target = _target(address, output)
        except GnError:
            if address not in wrong:
                raise
            targets.append((address, address))  # it is never written
            continue
        if target == "-":
            targets.append((address, target))
            continue
        path, inside = split(target)
        if address not in wrong:
            require_written(path)
        file, dataset = real(path), inside or split(address)[1]
        if file in firsts:
            first, first_target = firsts[file]
            alike = grouped or (inside is None and sources[address] == sources[first])
            taken = dataset is None or (file, dataset) in written
            if kind_of(path) == "npy" or not alike or (taken and address not in wrong):
                first, first_target = written.get((file, dataset), firsts[file])
                raise _collision(first, address, first_target, output, len(addresses))
            target = target if grouped else first_target
        if file in readers and file != sources[address] and inside is None:
            raise UsageError(
                f"{address} would write {target}, which is an input too; give it its own --output"
            )
        firsts.setdefault(file, (address, target))
        written.setdefault((file, dataset), (address, target))
        targets.append((address, target))
    return targets


def _collision(first: str, second: str, target: str, output: str | None, count: int) -> UsageError:
    """The error for two inputs that would write one file, or one dataset."""
    from gncli.tensors.address import kind_of, split

    if output is None or _is_folder(output) or _group(output):
        return UsageError(f"{first} and {second} would both write {target}; give each its own --output")
    path, name = split(output)
    if name is not None and kind_of(path) != "npy":
        hint = f"give a group, {output}/"
        return UsageError(f"--output {output} is one dataset for {count} inputs; {hint}")
    return UsageError(f"--output {output} is one file for {count} inputs; give a folder, DIR/")


def _target(address: str, output: str | None) -> str:
    """Return the target: beside the input, in a folder or a group, or the one file that is named."""
    from gncli.tensors import default_output
    from gncli.tensors.address import name_in_hdf5, split

    path, name = split(address)
    if output is None:
        return default_output(address)
    group = _group(output)
    if group is None and not _is_folder(output):
        return output
    if path == "-" and name is None:
        raise UsageError(f"- has no name to keep in {output}; give --output a file's name")
    return os.path.join(output, os.path.basename(path)) if group is None else group + name_in_hdf5(address)


def _group(output: str | None) -> str | None:
    """FILE::/path, without a / at the end, where the output is a group in an HDF5 file."""
    from gncli.tensors.address import split

    if output is None or not output.endswith(("/", "::")):
        return None
    path, name = split(output)
    return None if name is None else f"{path}::{name.rstrip('/')}"


def _is_folder(output: str | None) -> TypeGuard[str]:
    return output is not None and not _group(output) and (output.endswith("/") or os.path.isdir(output))


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
