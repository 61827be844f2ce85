"""`gn diff`: whether two tensors are equal, and if not, how far apart they are, and why."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from gncli.cli import options, tell, trouble
from gncli.cli.command import Command
from gncli.cli.paths import require_apart
from gncli.errors import GnError
from gncli.report import reporting, say

if TYPE_CHECKING:
    from gncli.compare import Comparison
    from gncli.matching import Match


@click.command(cls=Command)
@options.a_arg
@options.b_arg
@options.tolerance_opts
@options.grouping_opts
@options.compute_opts
@options.trusting_opts
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

    Two HDF5 files are compared dataset by dataset, and two pipes array by array. What holds no numbers is
    compared for equality. With --groups or --layout, the mean and the standard deviation of each group
    are compared too. Exits with 0 if all are equal, 1 if not, or if something cannot be compared, and 2
    in trouble.
    """
    from gncli.compare import Comparison
    from gncli.containment import run
    from gncli.difference import Tolerance
    from gncli.tensors.kept import keep_open

    said = any(options.was_said(ctx, name) for name in ("channels_per_group", *options.GROUPING))
    groups = {name: chosen[name] for name in options.GROUPING} | options.chosen_groups(ctx) if said else None
    rest = {
        name: chosen[name]
        for name in ("jobs", "memory", "dask", "progress", "allow_external", "force", "raw")
    }
    settings = Comparison(Tolerance(rtol, atol, max_ulp, nan_differ), groups, **rest)
    codes = {0}
    options.check_clash(ctx, ["format"], "quiet")
    options.check_pictures(False, plot, a, b)
    require_apart(options.reads(ctx, (a, b)), options.pictures(plot))
    with trouble(), reporting(format, quiet=quiet) as show, keep_open():
        for found in run(comparisons, a, b, settings, plot, files=(a, b), memory=settings.memory):
            if isinstance(found, GnError):
                tell(found)
                codes.add(2)
            else:
                show(found)
                codes.add(0 if found["equal"] else 1)
    raise click.exceptions.Exit(max(codes))


def comparisons(a: str, b: str, settings: Comparison, plot: str | None) -> Iterator[dict[str, Any] | GnError]:
    """Yield the record of each pair of tensors, or what went wrong with it. Raises GnError."""
    from gncli.compare import record_of
    from gncli.matching import matches
    from gncli.tensors import is_piped

    found = matches(a, b, external=settings.allow_external)
    # The arrays of a pipe are known one at a time.
    listed = [] if is_piped(a, b) else list(found)
    if plot:
        options.check_one(plot, len(listed))
    for match in listed or found:
        try:
            yield compared(match, settings, plot)
        except GnError as error:
            yield error
            if match.array is not None:
                return  # what comes next on the pipe is not known
            if len(listed) > 1:
                yield record_of(match.a, match.b, {"verdict": f"not compared: {error.message}"}, settings)


def compared(match: Match, settings: Comparison, plot: str | None) -> dict[str, Any]:
    """Return the record of a match, and draw the picture that is asked for. Raises GnError."""
    from gncli.compare import Pair, opened, record_alone, record_of

    if match.a is None or match.b is None:
        return record_alone(match, settings)
    picture = None
    with opened(match.a, match.b, settings) as pair:
        record = record_of(match.a, match.b, pair.record(), settings, match.array)
        if plot and not isinstance(pair, Pair):
            say("warning", f"{plot}: not drawn, for one side holds no numbers")
        elif plot and isinstance(pair, Pair) and drawable(plot, record):
            from gncli.pictures import difference_picture

            picture = difference_picture(pair, record)
    if plot and picture:
        picture.draw(plot, f"a: {match.a}, b: {match.b}")
    return record


def drawable(path: str, record: dict[str, Any]) -> bool:
    """Return whether there is a picture of the differences; if not, say why."""
    from gncli.plot import HUGE

    if record["shape_a"] != record["shape_b"]:
        say("warning", f"{path}: not drawn, for the shapes differ")
    elif record["max_abs"] == math.inf:
        say("warning", f"{path}: not drawn, for float64 cannot hold the errors")
    elif (record["max_abs"] or 0.0) > HUGE:
        say("warning", f"{path}: not drawn, for errors are beyond {HUGE:g}")
    else:
        return True
    return False
