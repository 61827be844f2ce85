"""`gn info`: what each input is, by its header."""

from __future__ import annotations

from collections.abc import Iterator

import click

from gncli.cli import attempts, options
from gncli.cli.command import Command
from gncli.report import reporting

MEMORY = 64 << 20  # bytes; no option, since no data is read


@click.command(cls=Command)
@options.inputs_opts
@options.hdf5_opts
@options.words_opts
@click.pass_context
def info(
    ctx: click.Context,
    /,
    inputs: tuple[str, ...],
    from_file: str | None,
    null: bool,
    allow_external: bool,
    raw: bool,
    format: str,
    quiet: bool,
) -> None:
    """Print the header of each INPUT, and the groups it may have.

    Reads no data, so that it is quick for any size. An HDF5 file without ::/path is every numeric
    dataset in it; a glob, as in 'f.h5::/layer*/**', names some of them; - is every .npy on a pipe.
    """
    from gncli.containment import run

    options.check_clash(ctx, ["format"], "quiet")
    with attempts() as attempt, reporting(format, quiet=quiet) as show:
        for given in options.all_inputs(ctx, inputs, from_file, null):
            with attempt(given):
                for record in run(headers, given, allow_external, raw, files=[given], memory=MEMORY):
                    show(record)


def headers(given: str, allow_external: bool, raw: bool) -> Iterator[dict[str, object]]:
    """Yield the record of each tensor that `given` names. Raises GnError."""
    from gncli.info import info_file
    from gncli.tensors import more

    again = True
    while again:
        yield from info_file(given, allow_external=allow_external, raw=raw)
        again = more(given)
