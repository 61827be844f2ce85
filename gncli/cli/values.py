"""What makes an option's value valid, and what it becomes: click's callbacks, and completion in the shell."""

from __future__ import annotations

import math
import re
from importlib import import_module

import click
from click.shell_completion import CompletionItem

from gncli.conventions import CONVENTIONS
from gncli.errors import UsageError
from gncli.extras import require_dask
from gncli.layout import Layout

SIZE = re.compile(r"(?P<number>\d+(\.\d*)?|\.\d+)\s*(?P<unit>[KMGT]?)(?P<kind>I?B)?", re.IGNORECASE)
PICTURES = (".png", ".svg", ".pdf")


def finite_eps(ctx: click.Context, param: click.Parameter, value: float) -> float:
    if not 0 <= value < math.inf:
        raise click.BadParameter(f"{value:g} is not a finite number of 0 or more")
    return value


def layout_word(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    try:
        return None if value is None else Layout.parse(value).word
    except UsageError as error:
        raise click.BadParameter(error.message) from None


def number_or_address(ctx: click.Context, param: click.Parameter, value: str | None) -> float | str | None:
    try:
        number = float(value or "")
    except ValueError:
        return value
    if not math.isfinite(number):
        raise click.BadParameter(f"{value} is not finite; a file of that name is ./{value}")
    return number


def memory_size(ctx: click.Context, param: click.Parameter, value: str) -> int:
    """Bytes, with units as GNU tools have them: 64M and 64MiB are powers of 1024, 64MB of 1000."""
    match = SIZE.fullmatch(value.strip())
    if match is None:
        raise click.BadParameter(f"{value!r} is not a size; use bytes or 8M, 1G, 1.5GiB")
    base = 1000 if (match["kind"] or "").upper() == "B" else 1024
    size = int(float(match["number"]) * base ** " KMGT".index(match["unit"].upper() or " "))
    if size < 1:
        raise click.BadParameter(f"{value!r} is no memory at all; use bytes or 8M, 1G, 1.5GiB")
    return size


def dask_address(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    if value is not None:
        require_dask(value)
    return value


def framework(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    """Makes that framework's defaults the command's, below what the shell and the environment say."""
    if value is not None:
        ctx.default_map = {**(ctx.default_map or {}), **CONVENTIONS[value].defaults}
    return value


def output_path(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    """Refuse what names no file, and a group in what has none."""
    if value is None:
        return None
    from gncli.tensors.address import kind_of, split

    file, name = split(value)
    if not file:
        raise click.BadParameter(f"{value!r} names no file; give a path, DIR/ or -")
    if name == "/" and kind_of(file) == "npy":
        raise click.BadParameter(f"{value!r} names no dataset; give {file}::/path, or {file} alone")
    return value


def picture(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    if value is not None and not value.lower().endswith(PICTURES):
        raise click.BadParameter(f"{value!r} is none of .png, .svg, .pdf")
    if value is not None:
        import_module("gncli.plot")  # whether it can be drawn is known before the work begins
    return value


def files(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """For the shell to complete."""
    return [CompletionItem(incomplete, type="file")]
