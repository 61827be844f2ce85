"""What a worker does with a block to be measured: read it, and take the moments of its tiles."""

from __future__ import annotations

import os
import pickle
import threading
from collections.abc import Callable
from functools import cached_property, lru_cache, partial
from itertools import pairwise, product
from typing import Any, NamedTuple
from weakref import WeakValueDictionary

import numpy as np
from numpy.typing import NDArray

from gncli import kernel
from gncli.layout import Box, Geometry
from gncli.masks import Flags
from gncli.measure import measure_lines
from gncli.missing import find_missing, may_miss, measure_present
from gncli.moments import Moments, join, stack
from gncli.plan import Plan
from gncli.scratch import Scratch, arithmetic
from gncli.tensors import Source
from gncli.tile import Form, form_of
from gncli.tile import form as form_for


class _Desk(threading.local):
    """What one worker reuses from block to block."""

    def __init__(self, tile: int) -> None:
        self.scratch = Scratch(tile)
        self._buffers: dict[str, NDArray[Any]] = {}

    def buffer(self, name: str, size: int, dtype: np.dtype[Any]) -> NDArray[Any]:
        held = self._buffers.get(name)
        if held is None or len(held) < size or held.dtype != dtype:
            held = self._buffers[name] = np.empty(size, dtype)
        return held


@lru_cache(maxsize=4)
def _desk(tile: int) -> _Desk:
    """Kept for the tensor after this: to touch memory for the first time takes as long as a small file."""
    return _Desk(tile)


_FLOAT32 = np.dtype(np.float32)
_HERE: WeakValueDictionary[str, Reader] = WeakValueDictionary()  # by their keys
_OPENING = threading.Lock()


def _recall(key: str, recipe: bytes) -> Reader:
    """The reader of that key: inherited from the process that forked this one, or made here, once."""
    with _OPENING:
        return _HERE.get(key) or prepared(recipe)


@lru_cache(maxsize=2)
def prepared(recipe: bytes) -> Reader:
    """A reader as `Reader.recipe` says. Raises what opening its files raises."""
    key, kind, parts = pickle.loads(recipe)
    reader: Reader = kind(*parts)
    reader.key = key
    _HERE[key] = reader
    return reader


def release() -> None:
    """Close what was opened for `prepared`, once no task is at it."""
    prepared.cache_clear()


class Reader:
    """A source under a plan: blocks in, moments out. Tasks that are its methods go to other processes."""

    def __init__(self, source: Source, plan: Plan, twofold: bool = False) -> None:
        self.source, self.plan = source, plan
        self.key = os.urandom(8).hex()
        self.travels = False  # to where nothing was inherited
        _HERE[self.key] = self
        self.desk = _desk(plan.tile)
        self.twofold = twofold
        self.masks = may_miss(source)

    @cached_property
    def recipe(self) -> bytes:
        """What another process makes the same of, from files that it opens itself."""
        return pickle.dumps((self.key, type(self), self._parts()))

    def _parts(self) -> tuple[Any, ...]:
        return self.source, self.plan, self.twofold

    def __reduce__(self) -> tuple[Callable[[str, bytes], Reader], tuple[str, bytes]]:
        return _recall, (self.key, self.recipe if self.travels else b"")

    def read(self, box: Box) -> NDArray[Any]:
        """The box's elements, on five axes."""
        runs = self.plan.runs(box)
        size = sum(count for _, count in runs)
        data = self.source.read(runs, self.desk.buffer("in", size, self.source.dtype))
        return plain(data).reshape([stop - start for start, stop in box])

    def records(self, block: Box) -> Moments:
        """(steps, first, second): moments of the block's groups, for each step of the axes summed over."""
        return self._records(block, self.read(self.plan.box(block)))

    def _records(self, block: Box, data: NDArray[Any]) -> Moments:
        wide = block[3][1] - block[3][0]
        with arithmetic():
            steps = pieces_of(self.plan.geometry, self.plan.edges(block))
            records = self._in_line(steps, data)
            if records is None:
                records = stack([self._step(step, data, wide) for step in steps])
        groups = [stop - start for start, stop in self.plan.box(block)[1::2]]
        return records.map(lambda values: values.reshape(len(steps), *groups))

    def _in_line(self, steps: list[list[Piece]], data: NDArray[Any]) -> Moments | None:
        """All steps through one group in one call of a compiled pass, if there is one that takes them."""
        count, size = len(steps), steps[0][0].form.size
        if self.twofold or count == 1 or data.shape[4] != count * size or data.size != count * size:
            return None
        shape = (1, 1, 1, count, size)  # as so many groups
        return measure_lines(form_for(shape, True, False, size), data.reshape(shape))

    def _step(self, step: list[Piece], data: NDArray[Any], wide: int) -> Moments:
        """Of tiles side by side, `wide` of them in a row of groups."""
        cells = []
        for form, place in step:
            tile = self._widened(data[place])
            moments, _ = measure_present(form, tile, self._missing(tile), self.desk.scratch, self.twofold)
            cells.append(moments.map(partial(_to_cells, form)))  # numbers, too, where others are arrays
        return join([join(cells[i : i + wide], axis=1) for i in range(0, len(cells), wide)], axis=0)

    def _missing(self, tile: NDArray[Any]) -> Flags | None:
        """Which elements are missing; None if none is."""
        return find_missing(tile) if self.masks else None

    def _widened(self, tile: NDArray[Any]) -> NDArray[Any]:
        """The tile, or what compiled passes take in its place."""
        return kernel.widened(tile, lambda: self.desk.buffer("wide", tile.size, _FLOAT32)[: tile.size])


class Piece(NamedTuple):
    """A tile within its block."""

    form: Form
    place: tuple[slice, ...]


@lru_cache(maxsize=64)
def pieces_of(geometry: Geometry, edges: tuple[tuple[int, ...], ...]) -> list[list[Piece]]:
    """The tiles of a block that is cut at `edges`: for each step of the summed axes, all of its cells."""
    slices = [[slice(a, b) for a, b in pairwise(cuts)] for cuts in edges]
    return [
        [
            Piece(form_of(geometry, _extent((o, a, m, b, i))), (o, a, m, b, i))
            for a, b in product(slices[1], slices[3])
        ]
        for o, m, i in product(slices[0], slices[2], slices[4])
    ]


def plain(array: NDArray[Any]) -> NDArray[Any]:
    """With numpy's own object for its dtype: given an equal one, unpickled say, ufuncs work on copies."""
    return array.view(np.dtype(array.dtype.str))


def _to_cells(form: Form, values: Any) -> NDArray[Any]:
    return np.reshape(values, form.cells)


def _extent(place: tuple[slice, ...]) -> tuple[int, int, int, int, int]:
    a, b, c, d, e = (along.stop - along.start for along in place)
    return a, b, c, d, e
