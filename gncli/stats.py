"""Statistics of one tensor in a file, whole or by sample, channel and group: behind `gn stats`."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping
from concurrent.futures import Executor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from math import prod
from typing import Any, NamedTuple

from gncli import kernel
from gncli.api import DEFAULT_MEMORY
from gncli.crew import Crew
from gncli.engine import measure_all
from gncli.errors import GnError
from gncli.executors import MEASURING
from gncli.histogram import BINS, fill, of_statistics
from gncli.layout import (
    Geometry,
    Layout,
    channel_axis,
    flat_geometry,
    geometry,
    group_count,
    is_interleaved,
    sample_axis,
)
from gncli.plan import Plan, plan
from gncli.progress import Progress
from gncli.rows import Rows, as_dicts, rows_of_groups
from gncli.tensors import Source, decoded, left_for_blocks, open_source
from gncli.tensors.address import change_check
from gncli.tensors.stream import StreamSource


def stats_file(
    address: str, *, allow_external: bool = False, force: bool = False, raw: bool = False, **chosen: Any
) -> Iterator[dict[str, object]]:
    """The records of `tensor_stats` of what stands at `address`. Raises GnError.

    `force`: read it, too, where an HDF5 file declares far more than it stores.
    """
    source = open_source(address, external=allow_external, force=force, as_stored=raw)
    try:
        yield from tensor_stats(source, address, **chosen)
    except GnError as error:
        raise error.at(address) from None
    finally:
        source.close()


def tensor_stats(
    source: Source,
    address: str,
    *,
    groups: int | None = 32,
    channels_per_group: int | None = None,
    layout: str | None = None,
    grouping: str = "contiguous",
    by: tuple[str, ...] = (),
    jobs: int | None = None,
    memory: int = DEFAULT_MEMORY,
    dask: str | None = None,
    progress: bool | None = False,
) -> Iterator[dict[str, object]]:
    """Records of the whole tensor or, with `by`, one for each of its parts. Raises GnError."""
    head: dict[str, object] = {
        "schema": 1,
        "input": address,
        "shape": list(source.shape),
        "dtype": source.dtype.name,
    }
    how = Measuring(jobs, memory, dask, progress)
    if not by:
        view = flat_geometry(prod(source.shape))
        with how.at_work(source, address, view) as work:
            found = measure_all(work.source, work.cut, work.executor, work.advance)
        row = found.row(whole=source.dtype.kind in "iu")
        yield head | row | _decoded(source, row, view.size)
        return
    parts = Parts.of(source.shape, groups, channels_per_group, layout, grouping, by)
    size = parts.view(source).group_size
    for rows in part_rows(source, address, parts, how):
        for sample, part, row in as_dicts(rows):
            decoding = _decoded(source, row, size)
            yield head | parts.names(sample, part) | row | parts.view_facts | decoding


def part_rows(source: Source, address: str, parts: Parts, how: Measuring) -> Iterator[Rows]:
    """Yield the statistics of every part in arrays, sample by sample. Raises GnError."""
    with how.at_work(source, address, parts.view(source)) as work:
        yield from rows_of_groups(work.source, work.cut, work.executor, work.advance, how.memory // 4)


def file_rows(
    address: str,
    by: tuple[str, ...],
    how: Measuring,
    *,
    groups: int | None,
    channels_per_group: int | None,
    layout: str | None,
    grouping: str,
    allow_external: bool = False,
    raw: bool = False,
) -> Generator[Rows]:
    """Yield what `part_rows` does, of a tensor at `address` that may declare far more than it stores."""
    source = open_source(address, external=allow_external, force=True, as_stored=raw)
    try:
        parts = Parts.of(source.shape, groups, channels_per_group, layout, grouping, by)
        yield from part_rows(source, address, parts, how)
    except GnError as error:
        raise error.at(address) from None
    finally:
        source.close()


class _Work(NamedTuple):
    source: Source
    cut: Plan
    executor: Executor
    advance: Callable[[int], None]


@dataclass(frozen=True)
class Measuring:
    """With how many jobs a tensor is measured, in how much memory, where, and whether progress is shown.

    `at_once`: how many tensors are measured at the same time, which share the memory.
    """

    jobs: int | None = None
    memory: int = DEFAULT_MEMORY
    dask: str | None = None
    progress: bool | None = False
    at_once: int = 1

    @contextmanager
    def at_work(self, source: Source, address: str, view: Geometry) -> Iterator[_Work]:
        """Give `engine` what it needs to measure the source. Raises GnError, also where the file changes."""
        check = change_check(address)
        Crew.refuse_pipes(self.dask, piped=isinstance(source, StreamSource))
        crew = Crew.of(self.jobs, self.memory, self.dask, [address])
        memory, jobs = left_for_blocks(source, crew.memory, crew.jobs)
        cut = plan(view, source.dtype.itemsize, 0, memory // self.at_once, jobs, crew.together)
        with ExitStack() as stack:
            if isinstance(source, StreamSource) and not cut.in_order:
                source = stack.enter_context(closing(source.spooled()))
            size = view.size * source.dtype.itemsize
            pace = MEASURING if kernel.takes(source.dtype) else 1
            executor = stack.enter_context(crew.at_work(cut.jobs, size, forkable=source.forkable, pace=pace))
            watch = stack.enter_context(Progress(address, size, self.progress))
            yield _Work(source, cut, executor, watch.advance)
            check()


def _decoded(source: Source, row: Mapping[str, int | float], size: int) -> dict[str, object]:
    """What the record of `size` elements says of how they were decoded."""
    return decoded(source, size - int(row["count"]))


def with_histogram(
    record: Mapping[str, Any],
    *,
    bins: int = BINS,
    jobs: int | None = None,
    memory: int = DEFAULT_MEMORY,
    progress: bool | None = False,
    allow_external: bool = False,
    raw: bool = False,
    **_: object,
) -> dict[str, object]:
    """The record of a whole tensor with its histogram, for which it is read once more. Raises GnError."""
    empty = of_statistics(record, bins)
    address = record["input"]
    histogram = fill(empty, address, jobs, progress, memory=memory, external=allow_external, as_stored=raw)
    return {**record, "histogram": histogram}


@dataclass(frozen=True)
class Parts:
    """Which parts are told apart: samples, and either groups or channels with the group they are in."""

    by: tuple[str, ...]
    word: str
    channels: int
    groups: int
    interleaved: bool

    @classmethod
    def of(
        cls,
        shape: tuple[int, ...],
        groups: int | None,
        channels_per_group: int | None,
        layout: str | None,
        grouping: str,
        by: tuple[str, ...],
    ) -> Parts:
        word = Layout.parse(layout or "channels_first").on(shape).word
        channels = shape[channel_axis(word, len(shape))]
        count = group_count(channels, groups, channels_per_group) if "group" in by else 1
        return cls(by, word, channels, count, is_interleaved(grouping))

    def view(self, source: Source) -> Geometry:
        single = "channel" in self.by
        keep = ("N" if "sample" in self.by else "") + ("G" if single or "group" in self.by else "")
        count = self.channels if single else self.groups
        interleaved = self.interleaved and not single
        return geometry(
            source.shape, self.word, count, interleaved=interleaved, fortran=source.fortran, keep=keep
        )

    @property
    def view_facts(self) -> dict[str, object]:
        """How the tensor was taken apart, by the names of a record."""
        return {"layout": self.word, "one_sample": sample_axis(self.word) is None}

    def names(self, sample: int, part: int) -> dict[str, object]:
        """The indices that tell a row from others, in the order of the contract."""
        named: dict[str, object] = {"sample": sample} if "sample" in self.by else {}
        if "channel" not in self.by:
            return named | ({"group": part} if "group" in self.by else {})
        group = part % self.groups if self.interleaved else part // (self.channels // self.groups)
        return named | ({"group": group} if "group" in self.by else {}) | {"channel": part}
