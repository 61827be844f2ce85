"""References in an HDF5 file are addresses: where a dataset is replaced, they are made anew."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray


def mend_references(file: h5py.File, old: h5py.Dataset, new: h5py.Dataset) -> None:
    """Make all references of the file that lead to `old`, or to a region of it, lead to `new`."""

    def visit(name: str, thing: Any) -> None:
        for key in thing.attrs:
            attribute = h5py.h5a.open(thing.id, key.encode("utf-8", "surrogateescape"))
            if _holds_references(attribute) and attribute.get_space().get_simple_extent_npoints():
                values = np.empty(attribute.shape, attribute.dtype)
                attribute.read(values)
                if _mend(values, file, old, new):
                    attribute.write(values)
        if isinstance(thing, h5py.Dataset) and _is_here(thing) and _holds_references(thing.id) and thing.size:
            values = np.empty(thing.shape, thing.dtype)
            thing.id.read(h5py.h5s.ALL, h5py.h5s.ALL, values)
            if _mend(values, file, old, new):
                thing.id.write(h5py.h5s.ALL, h5py.h5s.ALL, values)

    visit("/", file)
    file.visititems(visit)


def _is_here(dataset: h5py.Dataset) -> bool:
    settings = dataset.id.get_create_plist()
    return bool(settings.get_layout() != h5py.h5d.VIRTUAL and settings.get_external_count() == 0)


def _holds_references(thing: Any) -> bool:
    with suppress(TypeError):  # a type that numpy lacks
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
