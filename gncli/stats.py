"""Statistics of one tensor in a file, whole or by sample, channel and group: behind `gn stats`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from dataclasses import dataclass
from math import prod

import numpy as np

from gncli.api import DEFAULT_MEMORY
from gncli.engine import measure_all, measure_groups
from gncli.errors import GnError
from gncli.executors import usable_cores, workers
from gncli.layout import Geometry, Layout, flat_geometry, geometry, group_count
from gncli.plan import Plan, plan
from gncli.progress import Progress
from gncli.tensors import Source, open_source


def stats_file(
    address: str,
    *,
    groups: int | None = 32,
    channels_per_group: int | None = None,
    layout: str | None = None,
    grouping: str = "contiguous",
    by: tuple[str, ...] = (),
    jobs: int | None = None,
    memory: int = DEFAULT_MEMORY,
    progress: bool | None = False,
) -> Iterator[dict[str, object]]:
    """Records of the whole tensor or, with `by`, one for each of its parts. Raises GnError."""
    source = open_source(address)
    head: dict[str, object] = {
        "schema": 1,
        "input": address,
        "shape": list(source.shape),
        "dtype": source.dtype.name,
    }
    try:
        if by:
            parts = _Parts.of(source.shape, groups, channels_per_group, layout, grouping, by)
            view = parts.view(source)
        else:
            view = flat_geometry(prod(source.shape))
        cut = plan(view, source.dtype.itemsize, 0, memory, jobs or usable_cores())
        size = view.size * source.dtype.itemsize
        with (
            workers(cut.jobs, size, forkable=source.forkable) as executor,
            Progress(address, size, progress) as watch,
        ):
            if by:
                for (sample, part), row in _rows(source, cut, executor, watch.advance):
                    yield head | parts.names(sample, part) | row
            else:
                yield head | measure_all(source, cut, executor, watch.advance).row()
    except GnError as error:
        raise error.at(address) from None
    finally:
        source.close()


@dataclass(frozen=True)
class _Parts:
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
    ) -> _Parts:
        word = Layout.parse(layout or "channels_first").on(shape).word
        channels = shape[word.index("C")]
        if "group" in by:
            count = group_count(channels, None if channels_per_group else groups, channels_per_group)
        else:
            count = 1
        return cls(by, word, channels, count, grouping == "interleaved")

    def view(self, source: Source) -> Geometry:
        single = "channel" in self.by
        keep = ("N" if "sample" in self.by else "") + ("G" if single or "group" in self.by else "")
        count = self.channels if single else self.groups
        interleaved = self.interleaved and not single
        return geometry(
            source.shape, self.word, count, interleaved=interleaved, fortran=source.fortran, keep=keep
        )

    def names(self, sample: int, part: int) -> dict[str, object]:
        """The indices that tell a row from others, in the order of the contract."""
        named: dict[str, object] = {"sample": sample} if "sample" in self.by else {}
        if "channel" not in self.by:
            return named | ({"group": part} if "group" in self.by else {})
        group = part % self.groups if self.interleaved else part // (self.channels // self.groups)
        return named | ({"group": group} if "group" in self.by else {}) | {"channel": part}


def _rows(
    source: Source, cut: Plan, executor: Executor, advance: Callable[[int], None]
) -> Iterator[tuple[tuple[int, int], dict[str, int | float]]]:
    """(sample, group or channel) and the statistics, sample by sample."""
    found = measure_groups(source, cut, executor, advance)
    if not cut.geometry.samples_first:
        # Groups come first in storage: all are needed before the first sample is known.
        found = iter(sorted(found, key=lambda pair: (pair[0].box[3], pair[0].box[1])))
    for window, moments in found:
        box = cut.box(window.box)
        ordered = moments if cut.geometry.samples_first else moments.map(np.transpose)
        spans = (box[1], box[3]) if cut.geometry.samples_first else (box[3], box[1])
        for i, sample in enumerate(range(*spans[0])):
            for j, part in enumerate(range(*spans[1])):
                yield (sample, part), ordered.row(i, j)
