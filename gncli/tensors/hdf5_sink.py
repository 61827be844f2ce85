"""Tensors into HDF5 files: a copy of the input file with datasets exchanged, or a new file."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
from numpy.typing import NDArray

from gncli.errors import AddressError, OutputError
from gncli.layout import Run
from gncli.tensors.address import name_in_hdf5, split
from gncli.tensors.hdf5 import Hdf5Source, open_dataset, select
from gncli.tensors.hdf5_bounded import present
from gncli.tensors.hdf5_cf import mark_missing, remove_outdated
from gncli.tensors.hdf5_chunks import ChunkWriter, raw
from gncli.tensors.hdf5_datasets import (
    can_hold,
    contiguous,
    create,
    like,
    space_of,
    standing,
    write_attributes,
)
from gncli.tensors.hdf5_filters import changes_size
from gncli.tensors.hdf5_grid import hyperslabs
from gncli.tensors.hdf5_matlab import is_matlab, mark_variable
from gncli.tensors.hdf5_names import encoded, link_name
from gncli.tensors.hdf5_opened import Dataset
from gncli.tensors.hdf5_output import Hdf5Output
from gncli.tensors.hdf5_part import Hdf5Part
from gncli.tensors.hdf5_places import places
from gncli.tensors.hdf5_rewrite import Released, free, release
from gncli.tensors.permissions import mode_for

if TYPE_CHECKING:
    from gncli.tensors import Source

PREFIX = "gn_"  # of the attributes that tell what was done
MAX = sys.maxsize
LARGE = 16 << 20  # bytes of a dataset that other processes may write: HDF5 lets go of the file before


class Hdf5Sink(Hdf5Part):
    """The dataset `name` of an output; without `name`, as `source` is called. Raises OutputError.

    Where the output is a copy of a file, all else of it is kept. `alone`: no other dataset of the output
    will be written; it is committed and discarded with this one.
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
        self._released: Released | None = None
        self._dtype = dtype.newbyteorder("=")
        self._large = alone or math.prod(source.shape) * dtype.itemsize >= LARGE
        self._fortran = source.fortran
        self._shape = source.shape
        self._name = name = name or _own_name(source)
        self.address = f"{output.path}::{name}"
        self._do(self._open, name, source, force, attributes)
        output.written.append(name)
        staged = output.staged if self._places else None
        super().__init__(self.address, staged, self._stored, self._places, None)
        self._packer = self._chunks

    def __reduce__(self) -> tuple[type[Hdf5Part], tuple[Any, ...]]:
        coding = self._chunks.coding if self._chunks else None
        return Hdf5Part, (self.address, self._staged, self._stored, self._places, coding)

    def reserve(self) -> None:
        """Take the space of a large dataset."""
        if self._large:
            super().reserve()

    def write(self, runs: Sequence[Run], values: Any) -> None:
        """Write `values`, the runs' elements one after another, or what `pack` made of them."""
        if self._places:
            super().write(runs, values)
        elif self._chunks:
            self._do(self._chunks.write, values)
        else:
            self._do(self._write, runs, np.ascontiguousarray(values, self._dtype))

    def mark_missing(self) -> None:
        """Let the dataset say that NaN stands for missing values."""
        self._do(lambda: mark_missing(self._output.open()[self._name]))

    def commit(self) -> None:
        if self._dataset is not None or self._large:
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
        dataset, made = self._create(file, name, source, force)
        remove_outdated(dataset)
        _describe(dataset, attributes)
        if self._released:
            file.flush()  # or the space of the old chunks is not free yet
        self._stored = dataset.dtype
        self._chunks: ChunkWriter | None = None
        self._dataset: Any = None
        self._places = None
        if not self._fortran:  # HDF5 knows only C order
            # HDF5 makes the file as long as it has to be when it is flushed.
            self._places = places(dataset, MAX if made else os.fstat(self._output.descriptor).st_size)
        if self._places:
            if self._large:
                self._close()
        elif not dataset.chunks or not isinstance(source, Hdf5Source):
            self._dataset = dataset
        elif source.raw and source.raw.filters_edges and (found := raw(dataset, new=True)):
            self._dataset = dataset
            self._chunks = ChunkWriter(found.coding, dataset, self._write_box, source.sink_share)
        else:
            chunk_bytes = math.prod(dataset.chunks) * dataset.dtype.itemsize
            path = h5py.h5i.get_name(dataset.id)
            del dataset  # an object that is open already would keep its first cache
            self._dataset = open_dataset(file, path, source.sink_share, chunk_bytes)

    def _close(self) -> None:
        if self._large:
            self._output.close()  # before the dataset is freed: a finalizer would only print that it failed
        self._dataset = self._chunks = self._released = None

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

    def _create(self, file: h5py.File, name: str, source: Source, force: bool) -> tuple[Dataset, bool]:
        """The dataset to be written, and whether it is a new one."""
        old = None
        if isinstance(source, Hdf5Source):
            at_home = source.home == source.path and self._output.is_copy_of(source.path)
            # A copy has the same links, which were followed one by one in the source.
            old = source.dataset
            if at_home:
                old = Dataset.of_copy(h5py.h5d.open(file.id, encoded(source.name)), old)
            if at_home and name == source.name:
                self._require_force(force or not self._output.adding)
                return self._in_place(file, old)
        stands = standing(file, name, self.address)
        self._require_force(force or not stands)
        if isinstance(stands, Dataset) and self._output.replacements.leads_to(stands):
            dataset = self._make(file, old)
            self._output.replacements.replace(stands, dataset)
            return dataset, True
        if stands:
            del file[link_name(name)]
        if isinstance(stands, Dataset):
            stands.id.close()  # HDF5 frees its space now, which is used again
        file[link_name(name)] = dataset = self._make(file, old)
        return dataset, True

    def _require_force(self, allowed: bool) -> None:
        if not allowed:
            where = "exists" if self._output.adding else "is in the input file already"
            raise OutputError(f"{where}; use --force to overwrite it", address=self.address)

    def _make(self, file: h5py.File, old: Dataset | None) -> Dataset:
        if old is None:
            dataset = create(file, space_of(self._shape), self._dtype, contiguous())
            if is_matlab(self._output.path):
                mark_variable(dataset)
            return dataset
        return like(file, old, self._dtype)

    def _in_place(self, file: h5py.File, old: Dataset) -> tuple[Dataset, bool]:
        """The dataset of the copy that the source is of the input, or one that replaces it."""
        if can_hold(old, self._dtype):
            self._released = release(old)
            if self._released:
                name = h5py.h5i.get_name(old.id)
                old.id.close()  # see `release`
                old = Dataset(h5py.h5d.open(file.id, name))
            return old, False
        free(old)  # before a new one takes space behind it
        dataset = self._make(file, old)
        self._output.replacements.replace(old, dataset)
        return dataset, True


def sink_alone(
    path: str,
    name: str | None,
    source: Source,
    dtype: np.dtype[Any],
    *,
    force: bool,
    attributes: Mapping[str, object],
) -> Hdf5Sink:
    """The one sink of a new file at `path`, or of one that stands there if `name` is given."""
    output = _output(path, [(name, source)], force)
    try:
        return Hdf5Sink(output, name, source, dtype, force=force, attributes=attributes)
    except BaseException:
        output.discard()
        raise


@contextmanager
def joint_output(
    path: str, wanted: Sequence[tuple[str | None, Source]], *, force: bool
) -> Iterator[Callable[..., Hdf5Sink]]:
    """Gives an `open_sink` whose sinks are datasets of one file, which stands if all goes well.

    `wanted`: the name of each dataset in the file, or None, and the source that it is made of.
    """
    output = _output(path, wanted, force)

    def open_sink(
        target: str,
        source: Source,
        dtype: np.dtype[Any],
        *,
        force: bool,
        attributes: Mapping[str, object],
        in_order: bool,
    ) -> Hdf5Sink:
        name = split(target)[1]
        return Hdf5Sink(output, name, source, dtype, force=force, attributes=attributes, alone=False)

    try:
        yield open_sink
        output.commit()
    finally:
        output.discard()


def _output(path: str, wanted: Sequence[tuple[str | None, Source]], force: bool) -> Hdf5Output:
    """The output that holds all `wanted` datasets, and what else the file holds that it is a copy of.

    That is the file at `path`, if names are given and it exists; else the sources' file, if they have one.
    """
    mode = mode_for(source.address for _, source in wanted)
    adding = os.path.exists(path) and all(name is not None for name, _ in wanted)
    origins = {path} if adding else {_origin(source) for _, source in wanted}
    origin = origins.pop() if len(origins) == 1 else None
    left_out = []
    for name, source in wanted:
        at_home = isinstance(source, Hdf5Source) and origin and os.path.samefile(origin, source.path)
        if at_home and name in (None, _own_name(source)):
            left_out += _replaced(source)
    oldest = max(
        (source.version for _, source in wanted if isinstance(source, Hdf5Source)), default="earliest"
    )
    return Hdf5Output(path, origin, left_out, force=force, mode=mode, adding=adding, oldest=oldest)


def _origin(source: Source) -> str | None:
    """The file that a new output is to be a copy of. Raises AddressError for one by an external link."""
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
    return source.raw.table.ranges() if source.raw and changes_size(source.dataset) else []


def _own_name(source: Source) -> str:
    """The path in an HDF5 file of what becomes of the source."""
    return source.name if isinstance(source, Hdf5Source) else name_in_hdf5(source.address)


def _describe(dataset: h5py.Dataset, attributes: Mapping[str, object]) -> None:
    """Set these attributes, with `PREFIX` before each name. None removes one that an earlier run left."""
    named = {key if key.startswith(PREFIX) else PREFIX + key: value for key, value in attributes.items()}
    for name in present(dataset, named):
        if named[name] is not None and _has(dataset, name, named[name]):
            del named[name]  # each new string would leave a gap of 4 kB where it was
        else:
            del dataset.attrs[name]
    write_attributes(dataset, {name: value for name, value in named.items() if value is not None})


def _has(dataset: h5py.Dataset, name: str, value: object) -> bool:
    """Whether the dataset has that attribute, with that value."""
    with suppress(TypeError, OSError):  # of a type that h5py cannot read
        held: Any = dataset.attrs[name]
        return np.shape(held) == () and bool(held == value)
    return False
