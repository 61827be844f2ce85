"""`gn identify`: which convention an output was made by."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from gncli.cli import options, trouble
from gncli.cli.command import Command
from gncli.report import reporting

if TYPE_CHECKING:
    from gncli.identify import Question


@click.command(cls=Command)
@options.x_arg
@options.y_arg
@options.only_layout_opt
@options.affine_opts
@options.affine_opt
@options.local_opts
@options.trusting_opts
@options.report_opts
@click.pass_context
def identify(ctx: click.Context, /, x: str, y: str, format: str, quiet: bool, **chosen: Any) -> None:
    """Tell by which convention of group norm Y was made from X.

    Tries every number of groups, layout, grouping, eps and its place, variance, activation and precision
    of statistics, and prints the best, with the gn normalize line that gives the same. Exits with 0 if
    one matches, 1 if none does, 2 in trouble.
    """
    from gncli.containment import run
    from gncli.identify import Question

    options.check_clash(ctx, ["format"], "quiet")
    options.check_needs(ctx, ["gamma", "beta"], chosen["affine"] == "known", "--affine known")
    if chosen["affine"] == "unknown":  # then the environment's are of no use, either
        chosen |= {"gamma": None, "beta": None}
    with trouble(), reporting(format, quiet=quiet) as show:
        question = Question(**chosen)
        files = (x, y, question.gamma, question.beta)
        (record,) = run(identified, x, y, question, files=files, memory=question.memory)
        show(record)
    raise click.exceptions.Exit(0 if record["match"] else 1)


def identified(x: str, y: str, question: Question) -> Iterator[dict[str, object]]:
    """Yield the one record of `gn identify`. Raises GnError."""
    from gncli.identify import identify_files

    yield identify_files(x, y, question)
