"""Open HDF5 files and datasets that remember what their headers say.

Each question to HDF5 makes an object, and takes as long as to read a small tensor. Nothing that gn does
changes the header of a dataset that is open, but for its attributes.
"""

from __future__ import annotations

import math
import os
from contextlib import closing
from functools import cached_property
from typing import Any, NamedTuple

import h5py
import numpy as np

from gncli.tensors import kept
from gncli.tensors.hdf5_bounded import present

METADATA = 4 << 20  # bytes of headers that HDF5 keeps of a file
NETCDF_ROOT = ("_NCProperties", "_nc3_strict")  # attributes of the root group
MOST_FOUND = 2048  # datasets that a search leaves open; each takes some 16 kB


class Filter(NamedTuple):
    """A filter of a dataset: HDF5's number of it, its flags and settings, and what the file calls it."""

    code: int
    flags: int
    values: tuple[int, ...]
    name: bytes


class Storage(NamedTuple):
    """How the values of a dataset are stored, from its creation properties."""

    layout: int  # h5py.h5d.CONTIGUOUS, and so on
    chunks: tuple[int, ...] | None  # the shape of a chunk, where the layout is CHUNKED
    filters: tuple[Filter, ...]  # in the order of writing
    files: tuple[tuple[bytes, int, int], ...]  # (name, offset, bytes) of the parts that lie in other files
    fill: int  # h5py.h5d.FILL_VALUE_DEFAULT, and so on

    @classmethod
    def of(cls, settings: Any) -> Storage:
        """Read it from a dataset's creation properties."""
        layout = settings.get_layout()
        return cls(
            layout,
            settings.get_chunk() if layout == h5py.h5d.CHUNKED else None,
            filters_of(settings),
            tuple(settings.get_external(index) for index in range(settings.get_external_count())),
            settings.fill_value_defined(),
        )


def filters_of(settings: Any) -> tuple[Filter, ...]:
    """The filters in a dataset's creation properties."""
    return tuple(Filter(*settings.get_filter(index)) for index in range(settings.get_nfilters()))


class Dataset(h5py.Dataset):  # type: ignore[misc]  # h5py has no types
    """A dataset that remembers what its header says, and keeps no property list open.

    h5py's own keeps one as long as it lives, and libhdf5 crashes at exit where that of a virtual dataset is
    open.
    """

    is_numeric = False  # whether gn has found its type to be one that it takes

    @classmethod
    def of_copy(cls, thing: Any, original: Dataset) -> Dataset:
        """The dataset `thing` of a copy of a file, whose header says what that of `original` does."""
        made = cls(thing)
        for name in ("storage", "dtype", "shape", "size", "is_numpys"):
            setattr(made, name, getattr(original, name))
        return made

    @cached_property
    def storage(self) -> Storage:
        """How the values are stored."""
        with closing(self.id.get_create_plist()) as settings:
            return Storage.of(settings)

    @cached_property
    def dtype(self) -> np.dtype[Any]:
        """The dtype that numpy reads the values as."""
        dtype: np.dtype[Any] = self.id.dtype
        return dtype

    @cached_property
    def shape(self) -> Any:
        """The lengths of the axes; None of a dataset that has a type and no shape."""
        return self.id.shape

    @cached_property
    def size(self) -> Any:
        """The number of elements; None of a dataset that has a type and no shape."""
        return None if self.shape is None else math.prod(self.shape)

    @cached_property
    def declared_bytes(self) -> int:
        """The bytes that all elements take, whether they are stored or not."""
        with closing(self.id.get_type()) as kind:
            nbytes: int = self.size * kind.get_size()
        return nbytes

    @property
    def chunks(self) -> Any:
        """The shape of a chunk; None where the layout is another."""
        return self.storage.chunks

    @property
    def fillvalue(self) -> Any:
        """What stands for elements that were never written; 0 by default."""
        value = np.zeros(1, self.dtype)
        with closing(self.id.get_create_plist()) as settings:
            settings.get_fill_value(value)
        return value[0]

    @cached_property
    def is_numpys(self) -> bool:
        """Whether elements are stored as numpy has them, bit by bit.

        A bfloat16 is not, which h5py reads as float32.
        """
        with closing(self.id.get_type()) as kind:
            same: bool = kind.equal(h5py.h5t.py_create(kind.dtype))
        return same


class FileHeader(NamedTuple):
    """What a file says of itself."""

    path: str
    descriptor: int
    superblock: int  # its version
    is_netcdf: bool  # netCDF wrote it

    @classmethod
    def of(cls, file: h5py.File) -> FileHeader:
        with closing(file.id.get_create_plist()) as settings:
            superblock = settings.get_version()[0]
        return cls(file.filename, file.id.get_vfd_handle(), superblock, bool(present(file, NETCDF_ROOT)))


class ReadFile(h5py.File):  # type: ignore[misc]  # h5py has no types
    """An HDF5 file that is open for reading, perhaps for several readers one after another.

    Closing it closes what a search opened in it, and what `lookup` opened in other files.
    """

    def __init__(self, path: str) -> None:
        super().__init__(path, "r")
        self.foreign: list[Any] = []
        self.blank: dict[tuple[int, int], int] = {}  # bytes that datasets declare, and that are not stored
        self.found: dict[str, Dataset] = {}  # by a search, for the reader to come
        if os.path.getsize(path) > METADATA:
            _limit_metadata(self.id)

    @cached_property
    def header(self) -> FileHeader:
        """What the file says of itself."""
        return FileHeader.of(self)

    def header_of(self, dataset: Dataset, *, external: bool) -> FileHeader:
        """Return the header of the dataset's file: perhaps another one, if `external` links are followed."""
        return FileHeader.of(dataset.file) if external else self.header

    def note_found(self, name: str, dataset: Dataset) -> None:
        """Keep a dataset open for whoever reads it next, unless there are many of these."""
        if len(self.found) < MOST_FOUND:
            self.found[name] = dataset

    def close(self) -> None:
        """Close the file, unless it is kept open for others, and then every object of it.

        An exception that still holds one of them does no harm then.
        """
        for thing in self.foreign:
            thing.close()
        self.foreign.clear()
        if not kept.give_back(self):
            self.found.clear()
            super().close()


def _limit_metadata(file: Any) -> None:
    """Have HDF5 keep fewer headers: of what is 32 MiB in the file, its default, it makes 500 MB in memory."""
    settings = file.get_mdc_config()
    settings.set_initial_size = True
    settings.initial_size = settings.max_size = METADATA
    settings.min_size = min(settings.min_size, METADATA)
    settings.incr_mode = settings.flash_incr_mode = settings.decr_mode = 0  # off: the size is fixed
    file.set_mdc_config(settings)
