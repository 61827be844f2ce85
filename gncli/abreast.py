"""Two tensors of one shape, read abreast: each piece of both at once, and each chunk of a file once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, nullcontext
from itertools import repeat
from math import prod
from typing import Any, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from gncli.boxes import Boxes, along_chunks, in_line, split
from gncli.crew import Crew
from gncli.executors import in_order, workers
from gncli.layout import Box, Run
from gncli.progress import Progress
from gncli.tensors import Source, decoding_of
from gncli.tensors.reordered import reordered

Values: TypeAlias = NDArray[Any]
Places: TypeAlias = NDArray[np.int64]
Result = TypeVar("Result")

CHUNK = 1 << 17  # elements that are read at once, at least
PIECE = 1 << 15  # elements that are worked on at once: a few arrays of float64 of it stay in the caches
TOGETHER = 256  # pieces of a task on a cluster
POINTS = 2048  # elements of a sample
SAMPLED = 8  # chunks that a sample is taken from, at most one in `SAMPLED_OF`
SAMPLED_OF = 16


class Held:
    """A tensor in memory, which was decoded once, and is read from there as often as it is needed."""

    fortran = False
    forkable = False

    def __init__(self, source: Source, values: Values) -> None:
        self.address, self.shape, self.dtype = source.address, source.shape, source.dtype
        self.decoding = decoding_of(source)
        self._source, self._values = source, values

    def read(self, runs: Sequence[Run], buffer: Values) -> Values:
        if len(runs) == 1:
            start, count = runs[0]
            return self._values[start : start + count]
        done = 0
        for start, count in runs:
            buffer[done : done + count] = self._values[start : start + count]
            done += count
        return buffer[:done]

    def abandon(self) -> None:
        """No reader of memory waits."""

    def close(self) -> None:
        """The source is closed by whoever opened it."""


class Abreast:
    """Reads two tensors side by side, with the jobs and the memory of `crew`.

    `stack` closes copies of tensors, which are made where the orders of their axes differ.
    """

    def __init__(self, crew: Crew, progress: bool | None, stack: ExitStack) -> None:
        self._crew, self._progress, self._stack = crew, progress, stack
        self._local: list[Source] = []  # what workers on other machines cannot open

    def held(self, source: Source) -> Source:
        """Return the source with its values in memory, if it is small and cannot be read in place."""
        nbytes = prod(source.shape) * source.dtype.itemsize
        quick = not chunks_of(source) and source.forkable
        if quick or self._crew.cluster is not None or nbytes > self._crew.memory // 4:
            return source
        values = np.empty(prod(source.shape), source.dtype)
        boxes = self._boxes([source])

        def fill(box: Box) -> int:
            read, done = _read(source, boxes, box), 0
            for start, count in boxes.runs(box):
                values[start : start + count] = read[done : done + count]
                done += count
            return done

        with (
            Progress(source.address, nbytes, self._progress) as watch,
            workers(self._crew.jobs, nbytes, forkable=False) as executor,
        ):
            for size in in_order(executor, fill, boxes, 2 * self._crew.jobs):
                watch.advance(size * source.dtype.itemsize)
        return self._here(Held(source, values))

    def copy(self, source: Source, axes: tuple[int, ...]) -> Source:
        """Return the source with its axes in that order, in C order."""
        if not source.fortran and axes == tuple(range(len(axes))):
            return source
        keep(source, self._crew.memory // 4)
        copy = reordered(source, axes)
        self._stack.callback(copy.close)
        return self._here(copy)

    def in_c_order(self, source: Source) -> Source:
        return self.copy(source, tuple(range(len(source.shape))))

    def _here(self, source: Source) -> Source:
        self._local.append(source)
        return source

    def each(
        self, a: Source, b: Source, work: Callable[[Values, Values, list[Run]], Result]
    ) -> Iterator[Result]:
        """Yield what `work` makes of some elements of both, and where these stand, until all are done."""
        boxes = self._boxes([a, b])
        for source in (a, b):
            keep(source, self._crew.memory // 8)  # where its chunks are not those of the other

        def task(box: Box) -> list[Result]:
            x, y = (_read(source, boxes, box) for source in (a, b))
            parts = zip(range(0, len(x), PIECE), split(boxes.runs(box), PIECE), strict=True)
            return [work(x[i : i + PIECE], y[i : i + PIECE], runs) for i, runs in parts]

        local = any(source is one for one in self._local for source in (a, b))
        cluster = None if local else self._crew.cluster
        jobs, each = self._crew.jobs, a.dtype.itemsize + b.dtype.itemsize
        with (
            Progress(f"{a.address} and {b.address}", prod(a.shape) * each, self._progress) as watch,
            workers(jobs, prod(a.shape) * each, forkable=False)
            if cluster is None
            else nullcontext(cluster) as executor,
        ):
            lots = repeat(1 if cluster is None else TOGETHER)
            for results in in_order(executor, task, boxes, 2 * jobs, lots):
                watch.advance(len(results) * PIECE * each)
                yield from results

    def _boxes(self, sources: Sequence[Source]) -> Boxes:
        chunks = [chunks for source in sources if (chunks := chunks_of(source))]
        shape = sources[0].shape
        if not chunks or self._crew.cluster is not None:
            return in_line(prod(shape), CHUNK)
        each = sum(source.dtype.itemsize for source in sources)
        return along_chunks(shape, chunks, max(CHUNK, self._crew.memory // (4 * self._crew.jobs * each)))


def _read(source: Source, boxes: Boxes, box: Box) -> Values:
    size = prod(stop - start for start, stop in box)
    buffer = np.empty(size, source.dtype)
    if chunks_of(source) and len(box) == len(source.shape):
        values: Values = source.read_box(box, buffer)  # type: ignore[attr-defined]
        return values
    return source.read(boxes.runs(box), buffer)


def chunks_of(source: Source) -> tuple[int, ...] | None:
    """The shape of the chunks that a source decodes as a whole, or None."""
    chunks: tuple[int, ...] | None = getattr(source, "chunks", None)
    return chunks


def keep(source: Source, nbytes: int) -> None:
    """Have a source of chunks keep so many bytes of those that it has decoded."""
    if chunks_of(source):
        source.keep(nbytes)  # type: ignore[attr-defined]


def some_places(source: Source) -> Places:
    """Return where some elements stand in storage order: in order, and the same each time.

    Of a source of chunks they are from few of these, since each is decoded as a whole.
    """
    size = prod(source.shape)
    random = np.random.default_rng(0)
    chunks = chunks_of(source)
    if size <= POINTS:
        return np.arange(size, dtype=np.int64)
    if not chunks:
        return np.unique(random.integers(0, size, POINTS))
    boxes = Boxes(source.shape, tuple(map(min, source.shape, chunks)))
    count = max(1, min(SAMPLED, len(boxes) // SAMPLED_OF))
    each = POINTS // count
    found = []
    for number in np.linspace(0, len(boxes) - 1, count).astype(int).tolist():
        index = [random.integers(start, stop, each) for start, stop in boxes[number]]
        found.append(np.ravel_multi_index(index, source.shape))
    return np.unique(np.concatenate(found)).astype(np.int64)


def take(source: Source, places: Places) -> Values:
    """Return the elements at these places of the storage order."""
    if chunks := chunks_of(source):
        return _take_from_chunks(source, chunks, places)
    out = np.empty(len(places), source.dtype)
    one = np.empty(1, source.dtype)
    for i, place in enumerate(places.tolist()):
        out[i] = source.read([(place, 1)], one)[0]
    return out


def _take_from_chunks(source: Source, chunks: tuple[int, ...], places: Places) -> Values:
    """Read the elements as `take` does, with one read for each chunk: the box around its elements."""
    out = np.empty(len(places), source.dtype)
    index = np.array(np.unravel_index(places, source.shape))
    numbers = index // np.array(chunks)[:, None]
    _, which = np.unique(numbers, axis=1, return_inverse=True)
    for number in range(int(which.max(initial=-1)) + 1):
        chosen = np.flatnonzero(which == number)
        inside = index[:, chosen]
        low, high = inside.min(1), inside.max(1) + 1
        box = tuple(zip(low.tolist(), high.tolist(), strict=True))
        values = source.read_box(box, np.empty(int(np.prod(high - low)), source.dtype))  # type: ignore[attr-defined]
        out[chosen] = values[np.ravel_multi_index(tuple(inside - low[:, None]), tuple(high - low))]
    return out
