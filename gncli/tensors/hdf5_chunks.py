"""Filtered chunks, read and written raw: HDF5 says where they are, and what is done to them is done here.

h5py holds one lock whatever it does, so that it inflates one chunk at a time; see hdf5_filters.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from itertools import product
from typing import Any, NamedTuple

import h5py
import numpy as np
from numpy.typing import NDArray

from gncli.errors import FormatError
from gncli.layout import Box, Run
from gncli.tensors.hdf5_batches import BatchReader
from gncli.tensors.hdf5_filters import Pipeline, UndecodableError, scratch
from gncli.tensors.hdf5_grid import Grid, Piece, Place, hyperslabs
from gncli.tensors.hdf5_opened import Dataset
from gncli.tensors.hdf5_places import is_plain, read_at, user_block
from gncli.tensors.hdf5_table import Coding, Raw, Table

_SMALLEST = 1 << 14  # bytes of a chunk to write: for less, Python takes longer than HDF5
_MOST_CHUNKS = 1 << 20


def raw(dataset: Dataset, *, new: bool = False) -> Raw | None:
    """What there is to know of the dataset's chunks; None where HDF5 is to read and write them.

    `new`: nothing is written yet.
    """
    if not dataset.chunks or not dataset.size or not is_plain(dataset):
        return None
    pipeline = Pipeline.of(dataset)
    grid = Grid(dataset.shape, dataset.chunks)
    nbytes = grid.size * dataset.dtype.itemsize
    if pipeline is None or (new and nbytes < _SMALLEST) or math.prod(grid.counts) > _MOST_CHUNKS:
        return None
    if user_block(dataset.file) or dataset.storage.fill == h5py.h5d.FILL_VALUE_UNDEFINED:
        return None
    table = Table(dataset, grid)
    if not table.sound:
        return None
    if not new and pipeline.filters and table.has_edge_of(nbytes, grid):  # perhaps an unfiltered one
        return None
    return Raw(grid, pipeline, dataset.dtype, dataset.fillvalue, table)


class ChunkReader:
    """Reads a dataset's chunks by position, and decodes each in the thread that needs it first.

    Chunks that one block has whole are not kept; of others the latest, as many as `most` bytes hold. Small
    chunks that one block has whole are decoded many at a time.
    """

    def __init__(self, raw: Raw, descriptor: int, address: str) -> None:
        self._raw, self._grid = raw, raw.grid
        self._descriptor, self._address = descriptor, address
        self._lock = threading.Lock()
        self._kept: dict[Place, Future[NDArray[Any]]] = {}
        self._batches = BatchReader(raw, descriptor, address)
        self.most = 0

    def read(self, runs: Sequence[Run], buffer: NDArray[Any]) -> NDArray[Any]:
        done = 0
        for run in runs:
            for offset, extent in hyperslabs(run, self._grid.shape):
                size = math.prod(extent)
                self.read_box(offset, extent, buffer[done : done + size])
                done += size
        return buffer[:done]

    def read_box(self, offset: Place, extent: Place, buffer: NDArray[Any]) -> None:
        """The elements of a box in C order, in the front of `buffer`."""
        box = tuple((start, start + length) for start, length in zip(offset, extent, strict=True))
        numbers = self._grid.numbers(box)
        whole = self._batches.takes(self._grid.whole_numbers(box))
        if whole:
            values = buffer[: math.prod(extent)].reshape(extent)
            for batch in self._batches.split(whole):
                if not self._batches.read(batch, box, values):
                    self._fill(batch, box, buffer)
        if whole != numbers:
            self._fill(numbers, box, buffer, whole)

    def _fill(self, numbers: Box, box: Box, buffer: NDArray[Any], done: Box | None = None) -> None:
        """Read those of the chunks `numbers`, one by one, that are not `done`."""
        for index in product(*(range(*span) for span in numbers)):
            if done and all(low <= i < high for i, (low, high) in zip(index, done, strict=True)):
                continue
            piece = self._grid.piece(index, box)
            chunk = self._decoded(piece) if piece.whole else self._shared(piece)
            piece.of(buffer)[...] = chunk[piece.in_chunk]

    def _shared(self, piece: Piece) -> NDArray[Any]:
        with self._lock:
            chunk = self._kept.get(piece.number)
            first = chunk is None
            if chunk is None:
                chunk = self._kept[piece.number] = Future()
                while len(self._kept) > max(1, self.most // self._raw.nbytes):
                    del self._kept[next(iter(self._kept))]
        if first:
            try:
                chunk.set_result(self._decoded(piece).copy())
            except BaseException as error:
                chunk.set_exception(error)
                raise
        return chunk.result()

    def _decoded(self, piece: Piece) -> NDArray[Any]:
        """The chunk, whole or as far as it is within the shape; perhaps in the thread's scratch."""
        offset, size = int(self._raw.table.offsets[piece.number]), int(self._raw.table.sizes[piece.number])
        if size == 0:
            return np.full(self._grid.chunks, self._raw.fill, self._raw.dtype)
        try:
            if size > self._raw.most_stored:
                raise UndecodableError
            stored = scratch("stored", size)
            read_at(self._descriptor, stored, offset, self._address)
            mask = int(self._raw.table.masks[piece.number])
            data = self._raw.pipeline.decode(stored, mask, self._raw.nbytes)
        except UndecodableError:
            # HDF5 is not asked: of a chunk that is too short, it gives whatever lies behind it in memory.
            message = f"cannot be read: the chunk at {piece.start} does not decode to a whole chunk"
            raise FormatError(f"{message}; the file is damaged", address=self._address) from None
        return data.view(self._raw.dtype).reshape(self._grid.chunks)


class Packed(NamedTuple):
    """Of a block: chunks to be written whole, in order, and pieces for which there was no room."""

    chunks: list[tuple[Place, bytes | None]]  # by their start; None: put together here
    pieces: list[tuple[Place, NDArray[Any]]]


class ChunkPacker:
    """Encodes chunks in the threads that have their values. Parts of chunks are left as they are."""

    def __init__(self, coding: Coding) -> None:
        self.coding, self._grid = coding, coding.grid

    def pack(self, runs: Sequence[Run], values: NDArray[Any]) -> Packed:
        """What `ChunkWriter.write` takes of the runs' values. From any thread."""
        packed = Packed([], [])
        values = np.ascontiguousarray(values, self.coding.dtype)
        for piece in self._grid.pieces(runs):
            part = piece.of(values)
            if piece.whole:
                packed.chunks.append((piece.start, self._encode(self._framed(piece, part))))
            elif self._join(piece, part):
                if piece.last:  # the blocks before this one have all the rest
                    packed.chunks.append((piece.start, None))
            else:
                offset = [s + at.start for s, at in zip(piece.start, piece.in_chunk, strict=True)]
                packed.pieces.append((tuple(offset), part.copy()))
        return packed

    def _join(self, piece: Piece, part: NDArray[Any]) -> bool:
        """Put a part of a chunk to the others, if there is room for it."""
        return False

    def _framed(self, piece: Piece, part: NDArray[Any]) -> NDArray[Any]:
        """A whole chunk of values; at an edge, with fill values behind them, as HDF5 has them."""
        if piece.valid == self._grid.chunks:
            return np.ascontiguousarray(part)
        chunk = self._blank()
        chunk[piece.in_chunk] = part
        return chunk

    def _blank(self) -> NDArray[Any]:
        return np.full(self._grid.chunks, self.coding.fill, self.coding.dtype)

    def _encode(self, chunk: NDArray[Any]) -> bytes:
        # What is no bytes yet is the values themselves, or scratch: both are used again.
        return bytes(self.coding.pipeline.encode(chunk.reshape(-1).view(np.uint8)))


class ChunkWriter(ChunkPacker):
    """And one thread writes them, in order.

    Chunks that several blocks have parts of are put together in `most` bytes. What has no room there goes
    through HDF5, by `by_library(offset, values)`.
    """

    def __init__(
        self,
        coding: Coding,
        dataset: h5py.Dataset,
        by_library: Callable[[Place, NDArray[Any]], None],
        most: int,
    ) -> None:
        super().__init__(coding)
        self._dataset, self._by_library = dataset, by_library
        self._room = max(1, most // coding.nbytes)
        self._lock = threading.Lock()
        self._open: dict[Place, list[Any]] = {}  # start: [the chunk, elements that are missing]
        self._refused: set[Place] = set()
        self._whole: dict[Place, bytes] = {}

    def write(self, packed: Packed) -> None:
        """From one thread, block after block."""
        for start, stored in packed.chunks:
            if stored is None:
                with self._lock:
                    stored = self._whole.pop(start)
            self._dataset.id.write_direct_chunk(start, stored)
        for offset, values in packed.pieces:
            self._by_library(offset, values)

    def _join(self, piece: Piece, part: NDArray[Any]) -> bool:
        with self._lock:
            chunk = self._open.get(piece.start)
            if chunk is None:
                if piece.start in self._refused or len(self._open) >= self._room:
                    self._refused.add(piece.start)
                    return False
                chunk = self._open[piece.start] = [self._blank(), math.prod(piece.valid)]
        chunk[0][piece.in_chunk] = part
        with self._lock:
            chunk[1] -= part.size
            complete = chunk[1] == 0
        if complete:
            stored = self._encode(chunk[0])
            with self._lock:
                self._whole[piece.start] = stored
                del self._open[piece.start]
        return True
