"""Tensors into HDF5 files: a copy of the input file with one dataset exchanged, or a new file."""

from __future__ import annotations

import contextlib
import math
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from io import FileIO
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
from numpy.typing import NDArray

from gncli.errors import AddressError, OutputError
from gncli.layout import Run
from gncli.tensors.hdf5 import Hdf5Source, hyperslabs, open_dataset, select, translated
from gncli.tensors.hdf5_datasets import contiguous, create, like, make_way, replace, space_of, takes_values
from gncli.tensors.staging import Staged

if TYPE_CHECKING:
    from gncli.tensors import Source

PREFIX = "gn_"  # of the attributes that tell what was done


class _Numb:
    """A file that never tells of a failed write, but remembers it.

    Where HDF5 cannot write, be it at closing, it may crash.
    """

    def __init__(self, file: FileIO) -> None:
        self._file = file
        self.error: OSError | None = None
        self.seek, self.tell, self.read = file.seek, file.tell, file.read
        self.readinto, self.flush = file.readinto, file.flush

    def write(self, data: memoryview) -> int:
        view = memoryview(data).cast("B")
        try:
            done = 0
            while done < len(view):
                done += self._file.write(view[done:])
        except OSError as error:
            self.error = self.error or error
        return len(view)

    def truncate(self, size: int) -> int:
        try:
            return self._file.truncate(size)
        except OSError as error:
            self.error = self.error or error
            return size


class Hdf5Sink:
    """The dataset `name` of a new file at `path`; without `name`, as `source` is called.

    From an HDF5 source the file is a copy of its file, all else kept. Raises OutputError.
    """

    positioned = False  # HDF5 is one writer, and chunks are written best once and in order

    def __init__(
        self,
        path: str,
        name: str | None,
        source: Source,
        dtype: np.dtype[Any],
        *,
        force: bool,
        attributes: Mapping[str, object],
    ) -> None:
        self._dtype = dtype.newbyteorder("=")
        self._fortran = source.fortran
        self._over = False
        self._file: h5py.File | None = None
        if isinstance(source, Hdf5Source) and source.home != source.path:
            message = f"lies in another file, by an external link; normalize it in {source.home}"
            raise AddressError(message, address=source.address)
        self._staged = Staged(path, force=force)
        self._thread = ThreadPoolExecutor(1, "gn-hdf5")
        self._numb = _Numb(self._staged.file)
        self.address = f"{path}::{name or _own_name(source)}"
        try:
            self._do(self._open, name or _own_name(source), source, force, attributes)
        except BaseException:
            self.discard()
            raise

    def reserve(self) -> None:
        """Done before, where it can be."""

    def target(self, runs: Sequence[Run], buffer: NDArray[Any]) -> NDArray[Any]:
        """Where the runs' values are to be put for `write`."""
        return buffer[: sum(count for _, count in runs)]

    def write(self, runs: Sequence[Run], values: NDArray[Any]) -> None:
        """Write `values`, the runs' elements one after another."""
        self._do(self._write, runs, np.ascontiguousarray(values, self._dtype))

    def commit(self) -> None:
        """Flush and close, then take the target's name."""
        try:
            self._do(self._close)
            self._staged.commit()
        finally:
            self.discard()  # after a commit it only ends the thread

    def discard(self) -> None:
        if self._over:
            return
        self._over = True
        try:
            with contextlib.suppress(OutputError):  # it is thrown away anyway
                self._do(self._close)
        finally:
            self._thread.shutdown()
            self._staged.discard()

    def _do(self, work: Callable[..., None], *arguments: object) -> None:
        # Python handles signals in the main thread only. There, ^C would be raised inside _Numb,
        # inside HDF5, which may crash then.
        self._thread.submit(self._guarded, work, *arguments).result()

    def _guarded(self, work: Callable[..., None], *arguments: object) -> None:
        try:
            with translated(OutputError, self.address, "cannot be written"):
                work(*arguments)
        finally:
            if self._numb.error is not None:
                raise self._staged.failure(self._numb.error) from None

    def _open(self, name: str, source: Source, force: bool, attributes: Mapping[str, object]) -> None:
        self._dataset = self._create(name, source, force)
        offset = self._dataset.id.get_offset()
        if offset is not None:  # None: chunked, of a size that is not known before it is compressed
            self._staged.reserve(offset + self._dataset.size * self._dataset.dtype.itemsize)
        _describe(self._dataset, attributes)

    def _write(self, runs: Sequence[Run], values: NDArray[Any]) -> None:
        shape = self._dataset.shape
        done = 0
        for run in runs:
            for offset, extent in hyperslabs(run, shape[::-1] if self._fortran else shape):
                block = values[done : done + math.prod(extent)]
                done += block.size
                if self._fortran:  # HDF5 knows only C order
                    block = np.ascontiguousarray(block.reshape(extent).T)
                    offset, extent = offset[::-1], extent[::-1]
                in_memory, in_file = select(self._dataset, offset, extent)
                self._dataset.id.write(in_memory, in_file, block.reshape(-1))

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()

    def _create(self, name: str, source: Source, force: bool) -> h5py.Dataset:
        if not isinstance(source, Hdf5Source):
            self._file = h5py.File(self._numb, "w")
            dataset = create(self._file, space_of(source.shape), self._dtype, contiguous())
            self._file[name] = dataset
            return dataset
        try:
            shutil.copyfile(source.path, self._staged.path)
        except OSError as error:
            raise self._staged.failure(error, "a copy of the input file") from None
        self._file = h5py.File(self._numb, "r+")
        old = self._file[source.name]
        if name != source.name:
            make_way(self._file, name, force, self.address)
            self._file[name] = dataset = like(old, self._dtype)
        elif old.dtype.newbyteorder("=") == self._dtype and takes_values(old):
            del old  # open once, or the cache for its chunks is not taken up
            dataset = open_dataset(self._file, source.name)
        else:
            dataset = like(old, self._dtype)
            replace(self._file, old, dataset)
        return dataset


def _own_name(source: Source) -> str:
    if isinstance(source, Hdf5Source):
        return source.name
    stem = os.path.splitext(os.path.basename(source.address))[0]
    return "/" + (stem.strip("-.") or "tensor")


def _describe(dataset: h5py.Dataset, attributes: Mapping[str, object]) -> None:
    for key in [key for key in dataset.attrs if key.startswith(PREFIX)]:
        del dataset.attrs[key]  # of an earlier run, which this one's would be mixed with
    for key, value in attributes.items():
        if value is not None:
            dataset.attrs[key if key.startswith(PREFIX) else PREFIX + key] = value
