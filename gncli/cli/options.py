"""Every option that commands share, and what they make of several together. Commands pick from here."""

from __future__ import annotations

import codecs
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import TypeVar

import click
from click.core import ParameterSource

from gncli.cli import values
from gncli.cli.command import DATASET
from gncli.cli.paths import NamedFile
from gncli.conventions import CONVENTIONS
from gncli.errors import UsageError

Decorated = TypeVar("Decorated", bound=Callable[..., object])
Option = Callable[[Decorated], Decorated]

GROUPING = ("groups", "layout", "grouping")
READ = ("gamma", "beta", "from_file", "dask")  # options that may name a file
SAID = (ParameterSource.COMMANDLINE, ParameterSource.ENVIRONMENT)  # nearest first; the rest is a default


def together(*options: Option[Decorated]) -> Option[Decorated]:
    """Options that travel together, as one decorator."""

    def decorate(command: Decorated) -> Decorated:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


def chosen_groups(ctx: click.Context) -> dict[str, int | None]:
    """--groups or --channels-per-group, whichever is said closer by: in the shell, in the environment.

    Raises click.UsageError where both are said in one place.
    """
    groups: int | None = ctx.params["groups"]
    per_group: int | None = ctx.params["channels_per_group"]
    for place in SAID:
        said = [ctx.get_parameter_source(name) is place for name in ("groups", "channels_per_group")]
        if all(said):
            raise click.UsageError("--groups and --channels-per-group exclude each other; give one")
        if said[1]:
            return {"groups": None, "channels_per_group": per_group}
        if said[0]:
            break
    return {"groups": groups, "channels_per_group": None}


def was_said(ctx: click.Context, name: str) -> bool:
    """Whether the option `name` comes from the shell or the environment, not from a default."""
    return ctx.get_parameter_source(name) in SAID


def on_command_line(ctx: click.Context, name: str) -> bool:
    return ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE


def check_needs(ctx: click.Context, names: Sequence[str], met: object, needed: str) -> None:
    """Raise click.UsageError where one of the options has no effect for want of another.

    Only on the command line: the environment sets options for all runs, whether or not they matter to each.
    """
    for name in names:
        if not met and on_command_line(ctx, name):
            raise click.UsageError(f"{_flag(ctx, name)} has no effect without {needed}; give that, too")


def check_clash(ctx: click.Context, names: Sequence[str], other: str) -> None:
    """Raise click.UsageError where one of the options has no effect beside `other`.

    Only where both are on the command line, as for `check_needs`.
    """
    for name in names:
        if on_command_line(ctx, name) and on_command_line(ctx, other):
            raise click.UsageError(
                f"{_flag(ctx, name)} has no effect with {_flag(ctx, other)}; drop one of them"
            )


def _flag(ctx: click.Context, name: str) -> str:
    """The option as people write it: its longest name."""
    return max(next(param.opts for param in ctx.command.params if param.name == name), key=len)


def check_pictures(hist: bool, plot: str | None, *addresses: str | None) -> None:
    """Raise click.UsageError where what reads a tensor twice meets a pipe."""
    if not (hist or plot):
        return
    from gncli.tensors.address import split
    from gncli.tensors.pipe import stream_at

    name = "--hist" if hist else "--plot"
    for address in filter(None, addresses):
        if stream_at(split(address)[0]) is not None:
            raise click.UsageError(f"{name} reads a tensor twice; give a file in place of {address}")


def reads(ctx: click.Context, inputs: Sequence[str]) -> list[NamedFile]:
    """Return the files that the command's options name to be read, and its inputs."""
    options = [("--" + name.replace("_", "-"), ctx.params.get(name)) for name in READ]
    named = [NamedFile(option, given) for option, given in options if isinstance(given, str)]
    return [*(NamedFile("the input", given) for given in inputs), *named]


def pictures(plot: str | None) -> list[NamedFile]:
    """Return the file that --plot writes."""
    return [NamedFile("--plot", plot)] if plot else []


def check_one(plot: str | None, count: int) -> None:
    """Raise click.UsageError where one picture would show several tensors."""
    if plot and count != 1:
        raise click.UsageError(f"--plot {plot} is a picture of one tensor, not of {count}; name one")


def all_inputs(
    ctx: click.Context, inputs: tuple[str, ...], from_file: str | None, null: bool
) -> tuple[str, ...]:
    """The addresses on the command line, and those of --from-file after them.

    Raises click.UsageError where there is neither, or where standard input would be read twice, and
    UsageError where the list cannot be read.
    """
    if from_file is None:
        if on_command_line(ctx, "null"):
            raise click.UsageError("-0 says how --from-file is read; give that, too")
        if not inputs:
            argument = next(param for param in ctx.command.params if param.name == "inputs")
            raise click.MissingParameter(ctx=ctx, param=argument)
    else:
        inputs += tuple(listed(from_file, "\0" if null else "\n"))
    require_one_reader(from_file, *inputs, ctx.params.get("gamma"), ctx.params.get("beta"))
    return inputs


def require_one_reader(*addresses: object) -> None:
    """Raise click.UsageError where standard input would be read twice.

    Several datasets of one HDF5 file on it, as `-::/a` and `-::/b`, are one reading.
    """
    given = [address for address in addresses if isinstance(address, str)]
    if given.count("-") + any(address.startswith(DATASET) for address in given) > 1:
        raise click.UsageError("standard input (-) can be read once, and is named twice")


def listed(path: str, end: str) -> list[str]:
    """Return the names in the list at `path` (`-`: standard input), each ended by `end`.

    A list of lines may have a byte order mark and CRLF, as editors on Windows write them; of names
    separated by NUL every byte counts. Raises UsageError.
    """
    if path == "-" and sys.stdin is None:
        raise UsageError("standard input is closed", address=path)
    try:
        with nullcontext(sys.stdin.buffer) if path == "-" else open(path, "rb") as file:
            content: bytes = file.read()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UsageError(f"cannot be read: {reason}", address=path or "--from-file ''") from None
    if end == "\0":
        names = os.fsdecode(content).split("\0")
    else:
        names = [line.removesuffix("\r") for line in _text(content, path).split("\n")]
    return [name for name in names if name]


def _text(content: bytes, path: str) -> str:
    """Decode a list of lines, from UTF-16 where it is that. Raises UsageError."""
    # A name may begin with the bytes of that mark, but no name holds a NUL.
    if b"\0" in content and content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        try:
            return content.decode("utf-16")
        except UnicodeDecodeError:
            raise UsageError("is damaged UTF-16; write the list in UTF-8", address=path) from None
    return os.fsdecode(content.removeprefix(codecs.BOM_UTF8))


inputs_arg = click.argument("inputs", metavar="INPUT...", nargs=-1, shell_complete=values.files)
from_file_opt = click.option(
    "--from-file", metavar="LIST|-", shell_complete=values.files,
    help="A file that lists more inputs, one a line.",
)  # fmt: skip
null_opt = click.option(
    "-0", "--null", is_flag=True, help="The list is separated by NUL, as by find -print0."
)

groups_opt = click.option(
    "-g", "--groups", type=click.IntRange(min=1), default=32, show_default=True,
    help="G, the number of groups that the channels are split into.",
)  # fmt: skip
channels_per_group_opt = click.option(
    "--channels-per-group", metavar="INTEGER", type=click.IntRange(min=1),
    help="C/G, in place of --groups.",
)  # fmt: skip
layout_opt = click.option(
    "--layout", metavar="WORD", callback=values.layout_word,
    help="A letter an axis, as NCHW, NHWC, NLC, CHW (N or B is the sample); or channels_first, "
    "channels_last.  [default: channels first]",
)  # fmt: skip
only_layout_opt = click.option(
    "--layout",
    metavar="WORD",
    callback=values.layout_word,
    help="Try this layout only.  [default: all that fit]",
)
grouping_opt = click.option(
    "--grouping", type=click.Choice(["contiguous", "interleaved"]), default="contiguous", show_default=True,
    help="Channel c is in group c // (C/G), or in group c % G.",
)  # fmt: skip
eps_opt = click.option(
    "--eps", type=float, default=1e-5, show_default=True, callback=values.finite_eps,
    help="What is added to the variance; 0 or more.",
)  # fmt: skip
like_opt = click.option(
    "--like", type=click.Choice(list(CONVENTIONS)), is_eager=True, callback=values.framework,
    help="A framework's defaults for eps, layout, groups and grouping; options that are given win.",
)  # fmt: skip
gamma_opt = click.option(
    "--gamma", metavar="NUMBER|ADDRESS", shell_complete=values.files, callback=values.number_or_address,
    help="What the normalized values are multiplied by, for each channel or all.",
)  # fmt: skip
beta_opt = click.option(
    "--beta", metavar="NUMBER|ADDRESS", shell_complete=values.files, callback=values.number_or_address,
    help="What is added then, for each channel or all.",
)  # fmt: skip
divide_by_opt = click.option(
    "--divide-by", type=click.Choice(["std", "variance"]), default="std", show_default=True,
    help="sqrt(var + eps), which is group norm, or var + eps, which some walkthroughs print.",
)  # fmt: skip
dtype_opt = click.option(
    "--dtype", type=click.Choice(["float16", "float32", "float64"]),
    help="Of the output.  [default: the input's; float32 or float64 for integers]",
)  # fmt: skip
nan_opt = click.option(
    "--nan", type=click.Choice(["propagate", "omit", "fail"]), default="propagate", show_default=True,
    help="NaN and infinity make their group NaN, are left out of its statistics, or are an error.",
)  # fmt: skip
output_opt = click.option(
    "-o", "--output", metavar="PATH|DIR/|-", shell_complete=values.files, callback=values.output_path,
    help="Where to write; - is standard output.  [default: beside the input, x.npy to x.gn.npy]",
)  # fmt: skip
force_opt = click.option(
    "-f", "--force", is_flag=True, help="Overwrite an output that exists; read HDF5 that may do harm."
)
trust_opt = click.option(
    "-f", "--force", is_flag=True,
    help="Read HDF5 that declares far more than it stores, and filters that damaged data can crash.",
)  # fmt: skip
skip_existing_opt = click.option(
    "--skip-existing", is_flag=True, help="Leave out inputs of which the output exists; it is whole."
)
dry_run_opt = click.option("-n", "--dry-run", is_flag=True, help="Compute and report, and write nothing.")
by_opt = click.option(
    "--by", type=click.Choice(["sample", "channel", "group"]), multiple=True,
    help="A row for each sample, channel or group; repeat it for a row for each of both.",
)  # fmt: skip
jobs_opt = click.option(
    "-j", "--jobs", metavar="N", type=click.IntRange(min=1), help="Workers.  [default: usable cores]"
)
memory_opt = click.option(
    "--memory", metavar="SIZE", default="64M", show_default=True, callback=values.memory_size,
    help="At most this much in buffers, as 8M, 1G, 1.5GiB.",
)  # fmt: skip
dask_opt = click.option(
    "--dask", metavar="ADDRESS", callback=values.dask_address,
    help="Compute on a Dask cluster: tcp://host:port, a scheduler file, or local.",
)  # fmt: skip
allow_external_opt = click.option(
    "--allow-external", is_flag=True, help="Read other files that an HDF5 file names, too."
)
raw_opt = click.option(
    "--raw", is_flag=True,
    help="Read the stored numbers of HDF5: no netCDF scale, offset, fill value or valid range applies.",
)  # fmt: skip
format_opt = click.option(
    "--format", type=click.Choice(["table", "json", "tsv"]), default="table", show_default=True,
    help="Of the report; json is an object a line.",
)  # fmt: skip
quiet_opt = click.option("-q", "--quiet", is_flag=True, help="Print no report.")
progress_opt = click.option(
    "--progress/--no-progress",
    default=None,
    help="Say on stderr how far a long run has come.  [default: on a terminal]",
)
plot_opt = click.option(
    "--plot", metavar="FILE", callback=values.picture,
    help="Draw a picture into FILE.png, .svg or .pdf, which is replaced if it exists.",
)  # fmt: skip
hist_opt = click.option(
    "--hist", is_flag=True, help="Show a histogram too, for which the tensor is read once more."
)
rtol_opt = click.option(
    "--rtol", metavar="FLOAT", type=float, default=0.0, show_default=True, callback=values.finite_eps,
    help="Equal are a and b with |a - b| <= atol + rtol * |b|.",
)  # fmt: skip
atol_opt = click.option(
    "--atol", metavar="FLOAT", type=float, default=0.0, show_default=True, callback=values.finite_eps,
    help="See --rtol.",
)  # fmt: skip
max_ulp_opt = click.option(
    "--max-ulp", metavar="N", type=click.IntRange(min=0),
    help="Equal too are those that are at most N values of the narrower float type apart.",
)  # fmt: skip
nan_differ_opt = click.option("--nan-differ", is_flag=True, help="NaN is not equal to NaN, as in IEEE 754.")
affine_opt = click.option(
    "--affine", type=click.Choice(["known", "unknown"]), default="known", show_default=True,
    help="Scale and shift are as --gamma and --beta say, or are solved for.",
)  # fmt: skip
a_arg, b_arg, x_arg, y_arg = (click.argument(name, metavar=name.upper()) for name in "abxy")

inputs_opts: Option[Callable[..., object]] = together(inputs_arg, from_file_opt, null_opt)
grouping_opts: Option[Callable[..., object]] = together(
    groups_opt, channels_per_group_opt, layout_opt, grouping_opt
)
affine_opts: Option[Callable[..., object]] = together(gamma_opt, beta_opt)
output_opts: Option[Callable[..., object]] = together(output_opt, force_opt, skip_existing_opt, dry_run_opt)
local_opts: Option[Callable[..., object]] = together(jobs_opt, memory_opt)
compute_opts: Option[Callable[..., object]] = together(local_opts, dask_opt)
trusting_opts: Option[Callable[..., object]] = together(allow_external_opt, trust_opt, raw_opt)
hdf5_opts: Option[Callable[..., object]] = together(allow_external_opt, raw_opt)
words_opts: Option[Callable[..., object]] = together(format_opt, quiet_opt)
report_opts: Option[Callable[..., object]] = together(words_opts, progress_opt)
tolerance_opts: Option[Callable[..., object]] = together(rtol_opt, atol_opt, max_ulp_opt, nan_differ_opt)
picture_opts: Option[Callable[..., object]] = together(hist_opt, plot_opt)
