"""Normalize one tensor in a file: the tool behind `gn normalize`, without click."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from math import prod
from typing import Any, NamedTuple

import numpy as np

from gncli import __version__, kernel
from gncli.api import DEFAULT_MEMORY, per_channel
from gncli.crew import Crew
from gncli.dtypes import output_dtype
from gncli.engine import Advance, bytes_to_read, normalize_tensor
from gncli.errors import FormatError, GnError, LayoutError
from gncli.executors import NORMALIZING
from gncli.histogram import BINS, HistogramSink, fill, of_statistics
from gncli.layout import (
    Layout,
    channel_axis,
    geometry,
    group_count,
    grouped_shape,
    is_interleaved,
    sample_axis,
)
from gncli.moments import Floats
from gncli.norm import Norm
from gncli.plan import plan
from gncli.progress import Progress
from gncli.tensors import (
    Sink,
    Source,
    decoded,
    default_output,
    left_for_blocks,
    mark_missing,
    more,
    open_output,
    open_sink,
    open_source,
    read_whole,
)
from gncli.tensors.address import change_check, split
from gncli.tensors.kept import keep_open
from gncli.tensors.null import NullSink
from gncli.tensors.stream import StreamSource
from gncli.words import shortened

# A command line may name thousands of files, and each of the outputs holds it.
_COMMAND_BYTES = 1000
_TOLD_ABOVE = ("groups", "eps", "grouping", "layout")  # in a record, before the statistics


@dataclass(frozen=True)
class Settings:
    """What the options of `gn normalize` say. `layout` None: channels first, at any rank."""

    groups: int | None = 32
    channels_per_group: int | None = None
    eps: float = 1e-5
    layout: str | None = None
    grouping: str = "contiguous"
    divide_by: str = "std"
    dtype: str | None = None
    nan: str = "propagate"
    gamma: float | str | None = None
    beta: float | str | None = None
    like: str | None = None
    jobs: int | None = None
    memory: int = DEFAULT_MEMORY
    dask: str | None = None
    progress: bool | None = False  # None: on a terminal
    allow_external: bool = False
    raw: bool = False  # the stored numbers, not decoded

    @property
    def reading(self) -> dict[str, bool]:
        """How `open_source` is to read HDF5."""
        return {"external": self.allow_external, "as_stored": self.raw}


@dataclass(frozen=True)
class Normalized:
    """What came of it: the contract's JSON record, warnings for people, and how much was read."""

    record: dict[str, object]
    warnings: list[str]
    nbytes: int


def normalize_together(
    targets: Sequence[tuple[str, str]],
    settings: Settings,
    *,
    force: bool = False,
    dry_run: bool = False,
    command: str = "",
    watch: Advance | None = None,
) -> list[Normalized]:
    """As `normalize_file` for addresses with targets in one HDF5 file: all of them are written, or none."""
    run = _Run(settings, force=force, dry_run=dry_run, command=command, watch=watch)
    address = ""
    try:
        with ExitStack() as stack:
            stack.enter_context(keep_open())
            check = change_check(*{split(address)[0] for address, _ in targets})
            wanted: list[tuple[str, Source]] = []
            still_open: list[Source | None] = []
            for address, target in targets:
                source = open_source(address, force=force, **settings.reading)
                stack.callback(source.close)
                run.request(source)  # or raise, before anything is written
                wanted.append((target, source))
                still_open.append(source if _can_stay_open(source) else None)
                if still_open[-1] is None:
                    source.close()
            path = split(targets[0][1])[0]
            opener = open_sink if dry_run else stack.enter_context(open_output(path, wanted, force=force))
            done = []
            for (address, target), held in zip(targets, still_open, strict=True):
                source = held or open_source(address, force=force, **settings.reading)
                done.append(run.normalize(source, address, target, opener=opener))
            check()  # before the output takes its name, at the end of the block
            return done
    except GnError as error:
        error.message += f"; so none of the {len(targets)} datasets is written"
        raise error.at(address) from None


def _can_stay_open(source: Source) -> bool:
    """Return whether it can stay open beside many others: it takes no descriptor and no memory of its own."""
    return split(source.address)[1] is not None and source.forkable


def normalize_file(
    address: str,
    output: str | None,
    settings: Settings,
    *,
    force: bool = False,
    dry_run: bool = False,
    into: Sink | None = None,
    command: str = "",
    watch: Advance | None = None,
) -> Normalized:
    """Write the normalized tensor of `address` to `output`, by default beside it. Raises GnError.

    On any failure no output stands that did not stand before. A dry run computes all and writes nothing,
    but `into` a sink that is given.
    `watch` is told of the tensor's bytes as they are done, in place of a line of progress of its own.
    """
    run = _Run(settings, force=force, dry_run=dry_run, command=command, watch=watch)
    try:
        check = change_check(address)
        source = open_source(address, force=force, **settings.reading)
        return run.normalize(source, address, output or default_output(address), into=into, check=check)
    except GnError as error:
        raise error.at(address) from None


class _Run:
    """How tensors are normalized, one after another, and what those of one shape share."""

    def __init__(
        self, settings: Settings, *, force: bool, dry_run: bool, command: str, watch: Advance | None
    ) -> None:
        self._settings, self._force, self._dry_run, self._watch = settings, force, dry_run, watch
        self._made_by = {"command": shortened(command, _COMMAND_BYTES), "version": __version__}
        self._requests: dict[Hashable, _Request] = {}

    def request(self, source: Source) -> _Request:
        """Return what the settings ask for of this tensor. Raises GnError where that cannot be done."""
        key = source.shape, source.dtype, source.fortran
        if key not in self._requests:
            self._requests[key] = _request(source, self._settings, force=self._force)
        return self._requests[key]

    def normalize(
        self,
        source: Source,
        address: str,
        target: str,
        *,
        into: Sink | None = None,
        opener: Callable[..., Sink] = open_sink,
        check: Callable[[], None] = lambda: None,
    ) -> Normalized:
        """Write the normalized `source`, which is at `address` and is closed in the end. Raises GnError.

        `check` raises where the input has changed; it is called before the output takes its name.
        """
        began = time.monotonic()
        settings = self._settings
        try:
            word, groups, norm, dtype = self.request(source)
            done = _describe_request(settings, word, groups)
            streams = target == "-" or isinstance(source, StreamSource)
            Crew.refuse_pipes(settings.dask, piped=streams)
            crew = Crew.of(settings.jobs, settings.memory, settings.dask, [address])
            memory, jobs = left_for_blocks(source, crew.memory, crew.jobs, dtype.itemsize)
            cut = plan(norm.geometry, source.dtype.itemsize, dtype.itemsize, memory, jobs, crew.together)
            in_order = streams and cut.one_pass and cut.in_order
            if isinstance(source, StreamSource) and not in_order:
                source = source.spooled()
            attributes = {**self._made_by, **done}
            sink = (
                into or NullSink(target)
                if self._dry_run
                else opener(
                    target, source, dtype, force=self._force, attributes=attributes, in_order=in_order
                )
            )
            try:
                size = prod(source.shape) * source.dtype.itemsize
                forkable = source.forkable and sink.positioned
                pace = NORMALIZING if kernel.takes(source.dtype) and not norm.twofold else 1
                with crew.at_work(cut.jobs, size, forkable=forkable, pace=pace) as executor:
                    total = bytes_to_read(source, cut)
                    with Progress(address, total, settings.progress) as progress:
                        watch = self._watch
                        advance = progress.advance if watch is None else _scaled(watch, size, total)
                        outcome = normalize_tensor(source, sink, cut, norm, dtype, executor, advance=advance)
                check()
                if not self._dry_run and target != "-" and more(address):
                    hint = "holds several tensors; write them back to back, with -o -"
                    raise FormatError(hint, address=address)
                missing = prod(source.shape) - int(outcome.before.size)
                if missing:
                    mark_missing(sink)
                sink.commit()
            finally:
                sink.discard()
        except GnError as error:
            raise error.at(address) from None
        finally:
            source.close()
        record: dict[str, object] = {
            "schema": 1,
            "input": address,
            "output": None if self._dry_run else sink.address,
            "shape": list(source.shape),
            "dtype": source.dtype.name,
            "layout": word,
            "groups": groups,
            "grouped_shape": list(grouped_shape(source.shape, word, groups, norm.geometry.interleaved)),
            "eps": settings.eps,
            "grouping": settings.grouping,
            "before": outcome.before.row(whole=source.dtype.kind in "iu"),
            "after": outcome.after.row(),
            "output_dtype": dtype.name,
            **decoded(source, missing),
            **{key: value for key, value in done.items() if key not in _TOLD_ABOVE and value is not None},
            "one_sample": sample_axis(word) is None,
            "bytes": size,
            "seconds": round(time.monotonic() - began, 6),
        }
        return Normalized(record, outcome.warnings(settings.nan), size)


def _scaled(watch: Advance, size: int, total: int) -> Advance:
    """Tells `watch` of a tensor's bytes once, of which `total` are read in one pass or two."""
    return lambda count: watch(count * size // total)


def with_histograms(record: Mapping[str, Any], settings: Settings, bins: int = BINS) -> dict[str, object]:
    """The record of `normalize_file` with histograms of the input and of the output, each read once more.

    Of a dry run, the output is computed again. Raises GnError.
    """
    address, output = record["input"], record["output"]
    before, after = (of_statistics(record[name], bins) for name in ("before", "after"))
    how = settings.jobs, settings.progress
    filled = fill(before, address, *how, memory=settings.memory, **settings.reading)
    done: dict[str, object] = {"before": filled, "after": None}
    if output is not None:
        done["after"] = fill(after, output, *how, memory=settings.memory)
    elif after is not None:
        sink = HistogramSink(address, after)
        normalize_file(address, None, settings, force=True, dry_run=True, into=sink)
        done["after"] = after.row()
    return {**record, "histogram": done}


class _Request(NamedTuple):
    word: str  # of the layout
    groups: int
    norm: Norm
    dtype: np.dtype[Any]


def _request(source: Source, settings: Settings, *, force: bool) -> _Request:
    """Work out what the settings ask for of a tensor. Raises GnError where that cannot be done."""
    word = Layout.parse(settings.layout or "channels_first").on(source.shape).word
    channels = source.shape[channel_axis(word, len(source.shape))]
    groups = group_count(channels, settings.groups, settings.channels_per_group)
    view = geometry(
        source.shape, word, groups, interleaved=is_interleaved(settings.grouping), fortran=source.fortran
    )
    dtype = output_dtype(source.dtype, settings.dtype)
    twofold = Norm.needs_twofold(source.dtype, dtype)
    gamma = _parameter(settings.gamma, "gamma", channels, settings, force=force)
    beta = _parameter(settings.beta, "beta", channels, settings, force=force)
    norm = Norm(view, settings.eps, settings.divide_by, settings.nan, gamma, beta, twofold)
    return _Request(word, groups, norm, dtype)


def _parameter(
    given: float | str | None, name: str, channels: int, settings: Settings, *, force: bool
) -> Floats | None:
    """Return (C,) float64 from a number or an address; one value is for all channels.

    Raises GnError, at the address of a file.
    """
    if not isinstance(given, str):
        return per_channel(given, channels)
    source = open_source(given, force=force, **settings.reading)
    try:
        squeezed = [length for length in source.shape if length != 1]
        if squeezed not in ([], [channels]):
            has = f"{name} has shape {source.shape}, the tensor has {channels} channels"
            raise LayoutError(f"{has}; give ({channels},)", address=given)
        values = read_whole(source, settings.memory)
    finally:
        source.close()
    return per_channel(values, channels)


def _describe_request(settings: Settings, word: str, groups: int) -> Mapping[str, object]:
    """What is applied, for the record and for attributes; None for what was not asked for."""
    return {
        "groups": groups,
        "eps": settings.eps,
        "layout": word,
        "grouping": settings.grouping,
        "divide_by": settings.divide_by,
        "nan_policy": settings.nan,
        "gamma": settings.gamma,
        "beta": settings.beta,
        "like": settings.like,
    }
