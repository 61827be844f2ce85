"""`gn info`: what each input is, by its header."""

from __future__ import annotations

import click

from gncli.cli import attempts, options
from gncli.report import reporting


@click.command()
@options.inputs_arg
@options.words_opts
def info(inputs: tuple[str, ...], format: str, quiet: bool) -> None:
    """Print the header of each INPUT, and the groups it may have.

    Reads no data, so that it is quick for any size. An HDF5 file without ::/path is every numeric
    dataset in it; a glob, as in 'f.h5::/layer*/**', names some of them.
    """
    from gncli.info import info_file

    with attempts() as attempt, reporting(format, quiet=quiet) as show:
        for given in inputs:
            with attempt(given):
                for record in info_file(given):
                    show(record)
