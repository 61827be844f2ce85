"""References in an HDF5 file are addresses: where a dataset is replaced, they are made anew."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, suppress
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from gncli.tensors.hdf5_errors import H5PY_ERRORS
from gncli.tensors.hdf5_find import walk
from gncli.tensors.hdf5_safety import encoded


class Bonds:
    """What leads to the datasets of a file: looked up once, for all that are to be replaced."""

    def __init__(self, file: h5py.File) -> None:
        self._paths: dict[int, list[str]] = {}
        self._holders: list[str | bytes] = []  # of references, among their attributes or values
        for path, dataset in walk(file, hard=True):
            if dataset is not None:
                self._paths.setdefault(_address(dataset), []).append(path)
        self._note("/", file)
        file.visititems(self._note)

    def moved(self, old: h5py.Dataset, new: h5py.Dataset) -> list[str]:
        """The paths of hard links alone to `old`, which are to be those of `new`."""
        paths = self._paths.pop(_address(old))
        self._paths[_address(new)] = paths
        return paths

    def mend(self, file: h5py.File, old: h5py.Dataset, new: h5py.Dataset) -> None:
        """Make all references that lead to `old`, or to a region of it, lead to `new`."""
        for name in self._holders:
            thing = file[name]
            for attribute in _attributes(thing):
                values = np.empty(attribute.shape, attribute.dtype)
                attribute.read(values)
                if _mend(values, file, old, new):
                    attribute.write(values)
            if _has_values(thing):
                values = np.empty(thing.shape, thing.dtype)
                thing.id.read(h5py.h5s.ALL, h5py.h5s.ALL, values)
                if _mend(values, file, old, new):
                    thing.id.write(h5py.h5s.ALL, h5py.h5s.ALL, values)
                    thing.flush()  # or raise, which a finalizer would not

    def _note(self, name: str | bytes, thing: Any) -> None:
        if _has_values(thing) or any(True for _ in _attributes(thing)):
            self._holders.append(name)


def _address(dataset: h5py.Dataset) -> int:
    address: int = h5py.h5o.get_info(dataset.id).addr
    return address


def _attributes(thing: Any) -> Iterator[Any]:
    """Those that hold references."""
    for key in thing.attrs:
        attribute = h5py.h5a.open(thing.id, encoded(key))
        if _holds_references(attribute) and attribute.get_space().get_simple_extent_npoints():
            yield attribute


def _has_values(thing: Any) -> bool:
    """Whether it is a dataset of references."""
    return isinstance(thing, h5py.Dataset) and bool(
        _is_here(thing) and _holds_references(thing.id) and thing.size
    )


def _is_here(dataset: h5py.Dataset) -> bool:
    with closing(dataset.id.get_create_plist()) as settings:
        return bool(settings.get_layout() != h5py.h5d.VIRTUAL and settings.get_external_count() == 0)


def _holds_references(thing: Any) -> bool:
    with suppress(*H5PY_ERRORS):  # a type that numpy lacks
        return _has_reference(thing.dtype)
    return False


def _has_reference(dtype: np.dtype[Any] | None) -> bool:
    if dtype is None or not dtype.hasobject:
        return False
    if dtype.names is not None:
        return any(_has_reference(dtype[name]) for name in dtype.names)
    if dtype.subdtype is not None:
        return _has_reference(dtype.subdtype[0])
    inner = h5py.check_vlen_dtype(dtype)
    return h5py.check_ref_dtype(dtype) is not None or (isinstance(inner, np.dtype) and _has_reference(inner))


def _mend(values: NDArray[Any], file: h5py.File, old: h5py.Dataset, new: h5py.Dataset) -> bool:
    """In place; whether anything was changed."""
    if values.dtype.names is not None:
        fields = [_mend(values[name], file, old, new) for name in values.dtype.names]
        return any(fields)
    changed = False
    if values.dtype == object:
        for place, value in np.ndenumerate(values):
            if isinstance(value, np.ndarray):
                changed |= _mend(value, file, old, new)
            elif isinstance(value, h5py.h5r.Reference) and value and _leads_to(value, file, old):
                values[place] = _anew(value, file, new)
                changed = True
    return changed


def _leads_to(reference: Any, file: h5py.File, old: h5py.Dataset) -> bool:
    with suppress(KeyError, OSError, RuntimeError, ValueError):  # it dangles
        return bool(h5py.h5r.dereference(reference, file.id) == old.id)
    return False


def _anew(reference: Any, file: h5py.File, new: h5py.Dataset) -> Any:
    if isinstance(reference, h5py.h5r.RegionReference):
        region = h5py.h5r.get_region(reference, file.id)
        return h5py.h5r.create(new.id, b".", h5py.h5r.DATASET_REGION, region)
    return new.ref
