"""Tensors into HDF5 files: a copy of the input file with datasets exchanged, or a new file."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
from numpy.typing import NDArray

from gncli.errors import AddressError, OutputError
from gncli.layout import Run
from gncli.tensors.hdf5 import Hdf5Source, open_dataset, select
from gncli.tensors.hdf5_chunks import ChunkPacker, ChunkWriter, Coding, raw
from gncli.tensors.hdf5_datasets import can_hold, contiguous, create, like, make_way, replace, space_of
from gncli.tensors.hdf5_grid import hyperslabs
from gncli.tensors.hdf5_output import Hdf5Output
from gncli.tensors.hdf5_places import Places, places, write_places
from gncli.tensors.hdf5_rewrite import Released, release
from gncli.tensors.hdf5_safety import lookup
from gncli.tensors.staging import Joined

if TYPE_CHECKING:
    from gncli.tensors import Source

PREFIX = "gn_"  # of the attributes that tell what was done


class Hdf5Part:
    """An Hdf5Sink in another process: what writes in place, or packs for the one that writes."""

    def __init__(
        self,
        address: str,
        staged: Joined | None,
        stored: np.dtype[Any],
        places: Places | None,
        coding: Coding | None,
    ) -> None:
        self.address = address
        self.positioned = places is not None
        self._staged, self._stored, self._places = staged, stored, places
        self._packer: ChunkPacker | None = ChunkPacker(coding) if coding else None

    def reserve(self) -> None:
        """Take the space of values that are written by position; that of chunks is not known before."""
        if self._staged:
            self._staged.reserve(os.fstat(self._staged.file.fileno()).st_size)

    def target(self, runs: Sequence[Run], buffer: NDArray[Any]) -> NDArray[Any]:
        """Where the runs' values are to be put for `write`."""
        return buffer[: sum(count for _, count in runs)]

    def pack(self, runs: Sequence[Run], values: NDArray[Any]) -> Any:
        """What `write` takes, where the caller is to write."""
        return self._packer.pack(runs, values) if self._packer else values.copy()

    def write(self, runs: Sequence[Run], values: Any) -> None:
        """Write the runs' elements, one after another, where they belong."""
        if self._staged is None or self._places is None:
            raise OutputError("is written elsewhere", address=self.address)
        try:
            write_places(
                self._staged.file.fileno(), self._places, runs, np.ascontiguousarray(values, self._stored)
            )
        except OSError as error:
            raise self._staged.failure(error) from None


class Hdf5Sink(Hdf5Part):
    """The dataset `name` of an output; without `name`, as `source` is called. Raises OutputError.

    From an HDF5 source the file is a copy of its file, all else kept. `alone`: no other dataset of the
    output will be written; committed and discarded as one.
    """

    def __init__(
        self,
        output: Hdf5Output,
        name: str | None,
        source: Source,
        dtype: np.dtype[Any],
        *,
        force: bool,
        attributes: Mapping[str, object],
        alone: bool = True,
    ) -> None:
        self._output, self._alone = output, alone
        self._dtype = dtype.newbyteorder("=")
        self._fortran = source.fortran
        self._shape = source.shape
        name = name or _own_name(source)
        self.address = f"{output.path}::{name}"
        self._do(self._open, name, source, force, attributes)
        staged = output.staged if self._places else None
        super().__init__(self.address, staged, self._stored, self._places, None)
        self._packer = self._chunks

    def __reduce__(self) -> tuple[type[Hdf5Part], tuple[Any, ...]]:
        coding = self._chunks.coding if self._chunks else None
        return Hdf5Part, (self.address, self._staged, self._stored, self._places, coding)

    def write(self, runs: Sequence[Run], values: Any) -> None:
        """Write `values`, the runs' elements one after another, or what `pack` made of them."""
        if self._places:
            super().write(runs, values)
        elif self._chunks:
            self._do(self._chunks.write, values)
        else:
            self._do(self._write, runs, np.ascontiguousarray(values, self._dtype))

    def commit(self) -> None:
        self._do(self._close)
        if self._alone:
            self._output.commit()

    def discard(self) -> None:
        if self._alone:
            self._output.discard()

    def _do(self, work: Callable[..., None], *arguments: object) -> None:
        self._output.do(self.address, work, *arguments)

    def _open(self, name: str, source: Source, force: bool, attributes: Mapping[str, object]) -> None:
        file = self._output.open()
        self._released: Released | None = None
        dataset = self._create(file, name, source, force)
        _describe(dataset, attributes)
        file.flush()
        self._stored = dataset.dtype
        self._chunks: ChunkWriter | None = None
        self._dataset: Any = None
        self._places = None
        if not self._fortran:  # HDF5 knows only C order
            self._places = places(dataset, os.fstat(self._output.descriptor).st_size)
        if self._places or not dataset.chunks or not isinstance(source, Hdf5Source):
            self._dataset = dataset
        elif source.raw and (found := raw(dataset, new=True)):
            self._dataset = dataset
            self._chunks = ChunkWriter(found.coding, dataset, self._write_box, source.sink_share)
        else:
            chunk_bytes = math.prod(dataset.chunks) * dataset.dtype.itemsize
            path = h5py.h5i.get_name(dataset.id)
            del dataset  # an object that is open already would keep its first cache
            self._dataset = open_dataset(file, path, source.sink_share, chunk_bytes)
        if self._places:
            self._close()

    def _close(self) -> None:
        self._dataset = self._chunks = self._released = None
        self._output.close()

    def _write(self, runs: Sequence[Run], values: NDArray[Any]) -> None:
        done = 0
        for run in runs:
            for offset, extent in hyperslabs(run, self._shape[::-1] if self._fortran else self._shape):
                block = values[done : done + math.prod(extent)].reshape(extent)
                done += block.size
                if self._fortran:
                    offset, block = offset[::-1], block.T
                self._write_box(offset, block)

    def _write_box(self, offset: tuple[int, ...], values: NDArray[Any]) -> None:
        if self._released:
            self._released.prepare(self._dataset, offset, values.shape)
        in_memory, in_file = select(self._dataset, offset, values.shape)
        self._dataset.id.write(in_memory, in_file, np.ascontiguousarray(values).reshape(-1))

    def _create(self, file: h5py.File, name: str, source: Source, force: bool) -> h5py.Dataset:
        if not isinstance(source, Hdf5Source):
            dataset = create(file, space_of(source.shape), self._dtype, contiguous())
            file[name] = dataset
            return dataset
        old = lookup(file, source.name)
        if name != source.name:
            make_way(file, name, force, self.address)
            file[name] = dataset = like(old, self._dtype)
        elif can_hold(old, self._dtype):
            dataset = old
            self._released = release(old)
        else:
            release(old)  # before the new one takes space behind it
            dataset = like(old, self._dtype)
            replace(file, old, dataset, self._output.bonds)
        return dataset


def sink_alone(
    path: str,
    name: str | None,
    source: Source,
    dtype: np.dtype[Any],
    *,
    force: bool,
    attributes: Mapping[str, object],
) -> Hdf5Sink:
    """The one sink of a new file at `path`."""
    own = name in (None, _own_name(source))
    left_out = _replaced(source) if own else []
    output = Hdf5Output(path, _origin(source), left_out, force=force, oldest=_oldest_version([source]))
    try:
        return Hdf5Sink(output, name, source, dtype, force=force, attributes=attributes)
    except BaseException:
        output.discard()
        raise


@contextmanager
def joint_output(path: str, sources: Sequence[Source], *, force: bool) -> Iterator[Callable[..., Hdf5Sink]]:
    """Gives an `open_sink` whose sinks are datasets of one new file, which stands if all goes well."""
    (origin,) = {_origin(source) for source in sources}
    left_out = [place for source in sources for place in _replaced(source)]
    output = Hdf5Output(path, origin, left_out, force=force, oldest=_oldest_version(sources))

    def open_sink(
        target: str,
        source: Source,
        dtype: np.dtype[Any],
        *,
        force: bool,
        attributes: Mapping[str, object],
        in_order: bool,
    ) -> Hdf5Sink:
        return Hdf5Sink(output, None, source, dtype, force=force, attributes=attributes, alone=False)

    try:
        yield open_sink
        output.commit()
    finally:
        output.discard()


def _origin(source: Source) -> str | None:
    """The file that the output is to be a copy of. Raises AddressError for one by an external link."""
    if not isinstance(source, Hdf5Source):
        return None
    if source.home != source.path:
        message = f"lies in another file, by an external link; normalize it in {source.home}"
        raise AddressError(message, address=source.address)
    return source.path


def _replaced(source: Source) -> list[tuple[int, int]]:
    """The ranges of the file that hold the source's values, which nobody will read from the copy."""
    if not isinstance(source, Hdf5Source):
        return []
    if source.places:
        return source.places.ranges(math.prod(source.shape))
    return source.raw.table.ranges() if source.raw else []


def _oldest_version(sources: Sequence[Source]) -> str:
    """The first version of HDF5 that can read all of `sources`, as h5py's `libver` has it.

    A dataset made like an old one needs it: only since 1.8 can an attribute have more than 64 kB, only since
    1.10 can chunks at the edges be unfiltered. A newer version than that would shut out readers.
    """
    versions = ["earliest"]
    for source in sources:
        if isinstance(source, Hdf5Source):
            dataset = source.dataset
            if dataset.file.id.get_create_plist().get_version()[0] >= 3:  # of the superblock
                versions.append("v110")
            elif h5py.h5o.get_info(dataset.id).hdr.version >= 2:
                versions.append("v108")
    return max(versions)


def _own_name(source: Source) -> str:
    if isinstance(source, Hdf5Source):
        return source.name
    stem = os.path.splitext(os.path.basename(source.address))[0]
    return "/" + (stem.strip("-.") or "tensor")


def _describe(dataset: h5py.Dataset, attributes: Mapping[str, object]) -> None:
    """Set these attributes, with `PREFIX` before each name. None removes one that an earlier run left."""
    for key, value in attributes.items():
        name = key if key.startswith(PREFIX) else PREFIX + key
        if value is None:
            if name in dataset.attrs:
                del dataset.attrs[name]
        elif not _has(dataset, name, value):  # each new string would leave a gap of 4 kB where it was
            dataset.attrs[name] = value


def _has(dataset: h5py.Dataset, name: str, value: object) -> bool:
    """Whether the dataset has that attribute, with that value."""
    with suppress(TypeError, OSError):  # of a type that h5py cannot read
        return name in dataset.attrs and np.array_equal(dataset.attrs[name], np.asarray(value))
    return False
