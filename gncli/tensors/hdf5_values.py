"""Datasets of an HDF5 file that hold no plain numbers: bool, complex, and what can only be equal or not."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Hashable
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from gncli.errors import BudgetError, FormatError
from gncli.layout import Box
from gncli.tensors.address import require_number
from gncli.tensors.hdf5 import Hdf5Source, require_room, select
from gncli.tensors.hdf5_bounded import TooLargeError, bounded, size_of
from gncli.tensors.hdf5_errors import H5PY_ERRORS, translated
from gncli.tensors.hdf5_filters import require_filters
from gncli.tensors.hdf5_find import find, is_numeric, matches, walk
from gncli.tensors.hdf5_safety import (
    WORTH_A_DOUBT,
    is_sound,
    lookup,
    object_of,
    open_file,
    require_own,
    require_stored,
)
from gncli.words import as_size


class Hdf5Number(Hdf5Source):
    """A dataset of bool or complex numbers, as a tensor."""

    @staticmethod
    def _dtype_of(dataset: h5py.Dataset, address: str) -> np.dtype[Any]:
        return _number(dataset, address)


def _number(dataset: h5py.Dataset, address: str) -> np.dtype[Any]:
    """The dtype of a dataset of bool or complex numbers, else a FormatError."""
    dtype: np.dtype[Any] = dataset.dtype
    require_number(dtype, address)
    stored = dataset.id.get_type()
    parts = [stored.get_member_type(i) for i in range(2)] if dtype.kind == "c" else []
    if dtype.kind not in "bc" or dataset.shape is None or not all(map(is_sound, parts)):
        raise FormatError("holds neither bool nor complex numbers", address=address)
    return dtype


def _is_number(dataset: h5py.Dataset) -> bool:
    try:
        _number(dataset, "")
    except FormatError:
        return False
    return True


def _holds(what: Callable[[h5py.Dataset], bool], dataset: h5py.Dataset) -> bool:
    """Whether that is so; it is not of a type that h5py cannot make a dtype of."""
    try:
        return what(dataset)
    except H5PY_ERRORS:
        return False


def open_values(
    path: str, name: str, *, external: bool = False, force: bool = False, address: str
) -> Hdf5Number | Hdf5Values | None:
    """Return the dataset `name`; None where it is of plain numbers, or no dataset. Raises GnError.

    `force` is as of `Hdf5Source`; `address` is what messages call it.
    """
    shown = address.removesuffix(f"::{name}")
    with open_file(path, shown) as file:
        dataset = lookup(file, name, external=external, shown=shown)
        if not isinstance(dataset, h5py.Dataset):
            return None
        # h5py takes the bits of a bitfield for a number.
        if dataset.id.get_type().get_class() not in CLASSES:
            if _holds(is_numeric, dataset):
                return None
            if _holds(_is_number, dataset):
                return Hdf5Number(path, name, external=external, force=force, as_stored=True, address=address)
    return Hdf5Values(path, name, external=external, force=force, address=address)


def datasets_of_any_type(
    path: str, pattern: str | None, *, external: bool = False, shown: str
) -> dict[str, Hashable] | None:
    """Return every path in the file that `pattern` names, and which object is there.

    None where `pattern` is the path of a dataset. Messages call the file `shown`. Raises AddressError where
    the pattern names nothing.
    """
    with translated(FormatError, shown), open_file(path, shown) as file:
        thing = None if pattern is None else lookup(file, pattern, external=external, shown=shown)
        if isinstance(thing, h5py.Dataset):
            return None
        found: dict[str, Hashable] = {}
        if thing is None:
            for name, dataset in walk(file, external=external):
                if pattern is None or matches(name, pattern):
                    found[name] = name if dataset is None else object_of(dataset)
    if not found and pattern is not None:
        find(path, pattern, external=external, shown=shown)  # which says what is wrong
    return found


class Hdf5Values:
    """The dataset `name` of the HDF5 file at `path`, of any type. Raises GnError."""

    def __init__(
        self, path: str, name: str, *, external: bool = False, force: bool = False, address: str
    ) -> None:
        self.address = address
        shown = address.removesuffix(f"::{name}")
        self._file = open_file(path, shown)
        try:
            with translated(FormatError, self.address):
                self._open(name, external, shown, force)
        except BaseException:
            self._file.close()
            raise

    def _open(self, name: str, external: bool, shown: str, force: bool) -> None:
        dataset = lookup(self._file, name, external=external, shown=shown)
        self._dataset = dataset
        self._stored = dataset.id.get_type()
        self.dtype = _dtype(dataset)
        require_own(dataset, self.address, external=external)
        self.shape: tuple[int, ...] | None = dataset.shape
        self.chunks: tuple[int, ...] | None = dataset.chunks
        if self.shape is not None:
            if not force:
                require_stored(dataset, self._file, self.address)
            require_filters(dataset, self.address, force=force)
        self.itemsize: int = self._stored.get_size()
        self._total = 0  # bytes of strings and lists that were read
        self.unfit = _unfit(self._stored)
        self.kind, self.type_name = self._describe()

    def _describe(self) -> tuple[str, str]:
        dtype = self.dtype
        if isinstance(self._stored, h5py.h5t.TypeReferenceID):
            return "reference", "reference"
        if dtype is None:
            name = CLASSES.get(self._stored.get_class(), "type that numpy lacks")
            return f"{name} {self._stored.encode()!r}", f"{name} of {self._stored.get_size()} bytes"
        if h5py.check_string_dtype(dtype) or dtype.kind == "S":
            return "string", "string"
        if (members := h5py.check_enum_dtype(dtype)) is not None:
            return f"enumeration {sorted(members.items())}", f"enumeration of {dtype.name}"
        if (of := h5py.check_vlen_dtype(dtype)) is not None:
            return f"list of {_kind(of)}", f"list of {of}"
        return _kind(dtype), str(dtype) if dtype.names or dtype.subdtype else dtype.name

    def require_room(self, memory: int) -> None:
        """Raise BudgetError where an element or a chunk takes too much of `memory` bytes."""
        what = "an element" if self.chunks is None else "a chunk"
        require_room(what, math.prod(self.chunks or ()) * self.itemsize, memory, self.address)

    def read_values(self, box: Box, memory: int) -> NDArray[Any]:
        """The elements of a box, in its shape; behind it the axes of an element that is an array.

        Raises BudgetError where they take more than about `memory` bytes.
        """
        with translated(FormatError, self.address):
            if self.dtype is None or not self.dtype.hasobject:
                return self._read_as_stored(box)
            try:
                with bounded(memory):
                    values = self._read_objects(box)
            except TooLargeError as error:
                raise BudgetError(f"{error.message}; use a larger --memory", address=self.address) from None
            self._require_stored(size_of(values))
            return values

    def _require_stored(self, nbytes: int) -> None:
        """Raise FormatError where strings and lists are more bytes than the file has, and many."""
        self._total += nbytes
        stored = os.path.getsize(self._dataset.file.filename)
        if self._total > WORTH_A_DOUBT // 4 + 2 * stored:
            message = f"makes {as_size(self._total)} and more of the {as_size(stored)} that the file has"
            raise FormatError(f"{message}: its elements share what they refer to", address=self.address)

    def _read_as_stored(self, box: Box) -> NDArray[Any]:
        """Read without a conversion: HDF5 crashes in that of a damaged type."""
        extent = tuple(stop - start for start, stop in box)
        dtype = np.dtype(f"V{self._stored.get_size()}") if self.dtype is None else self.dtype
        buffer = np.empty(math.prod(extent), dtype)
        in_memory, in_file = select(self._dataset, tuple(start for start, _ in box), extent)
        self._dataset.id.read(in_memory, in_file, buffer, self._stored)
        return buffer.reshape(extent + buffer.shape[1:])

    def _read_objects(self, box: Box) -> NDArray[Any]:
        extent = tuple(stop - start for start, stop in box)
        values: NDArray[Any] = np.asarray(
            self._dataset[tuple(slice(start, stop) for start, stop in box)], dtype=object
        ).reshape(extent)
        return self._names(values) if self.kind == "reference" else values

    def _names(self, references: NDArray[Any]) -> NDArray[Any]:
        """The paths to what is referred to, since addresses are of one file only."""
        names = [h5py.h5r.get_name(one, self._file.id) if one else None for one in references.flat]
        out = np.empty(len(names), object)
        out[:] = names
        return out.reshape(references.shape)

    def close(self) -> None:
        with translated(FormatError, self.address, "cannot be closed"):
            self._dataset.id.close()
            self._file.close()


CLASSES = {h5py.h5t.BITFIELD: "bitfield", h5py.h5t.TIME: "time", h5py.h5t.OPAQUE: "opaque"}


def _dtype(dataset: h5py.Dataset) -> np.dtype[Any] | None:
    """numpy's dtype, if it stands for the type in the file as it is, or for what has no fixed size."""
    if dataset.id.get_type().get_class() in (h5py.h5t.BITFIELD, h5py.h5t.TIME):
        return None
    try:
        dtype: np.dtype[Any] = dataset.dtype
        if dtype.hasobject or dataset.id.get_type().equal(h5py.h5t.py_create(dtype, logical=True)):
            return dtype
    except H5PY_ERRORS:
        pass
    return None


def _unfit(stored: Any) -> str | None:
    """Why values of this type cannot be compared, or None."""
    if isinstance(stored, h5py.h5t.TypeReferenceID):
        return None if stored.equal(h5py.h5t.STD_REF_OBJ) else "it holds references to regions"
    return "it holds references among other things" if _has_references(stored) else None


def _has_references(stored: Any) -> bool:
    if isinstance(stored, h5py.h5t.TypeCompoundID):
        return any(_has_references(stored.get_member_type(i)) for i in range(stored.get_nmembers()))
    if isinstance(stored, h5py.h5t.TypeArrayID | h5py.h5t.TypeVlenID):
        return _has_references(stored.get_super())
    return isinstance(stored, h5py.h5t.TypeReferenceID)


def _kind(dtype: np.dtype[Any]) -> str:
    """What two dtypes share if their values can be compared."""
    if dtype.subdtype is not None:
        base, shape = dtype.subdtype
        return f"array {shape} of {_kind(base)}"
    if dtype.names is not None:
        return f"fields {[(name, _kind(dtype[name])) for name in dtype.names]}"
    if dtype.kind in "SUO":
        return "string"
    return "number" if dtype.kind in "biufc" else f"{dtype.kind}{dtype.itemsize}"
