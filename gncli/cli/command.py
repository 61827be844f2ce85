"""The click command of gn: it takes `-::/path`, a dataset of HDF5 on standard input, for an address."""

from __future__ import annotations

import click

DATASET = "-::"
# To click, a word that begins with a dash is an option. While click parses, the address has another name of
# the same file, which nobody writes.
STANDARD_INPUT = "//dev/stdin::"


class Command(click.Command):
    """A click command that takes `-::/path` for an argument, as click does `-`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        hidden = [STANDARD_INPUT + arg[len(DATASET) :] if arg.startswith(DATASET) else arg for arg in args]
        try:
            rest = super().parse_args(ctx, hidden)
        except click.UsageError as error:
            message = error.format_message()
            if STANDARD_INPUT not in message:
                raise
            raise click.UsageError(message.replace(STANDARD_INPUT, DATASET), error.ctx) from None
        ctx.params = {name: _shown(value) for name, value in ctx.params.items()}
        return rest


def _shown(value: object) -> object:
    """Return a parameter's value as it was written."""
    if isinstance(value, tuple):
        return tuple(map(_shown, value))
    if isinstance(value, str) and value.startswith(STANDARD_INPUT):
        return DATASET + value[len(STANDARD_INPUT) :]
    return value
