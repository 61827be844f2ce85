"""Datasets made in the image of others: what stays when one takes the place of another."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from functools import lru_cache
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from gncli.errors import BudgetError, OutputError
from gncli.report import say
from gncli.tensors.hdf5_bounded import TooLargeError, attribute_names, bounded
from gncli.tensors.hdf5_errors import H5PY_ERRORS
from gncli.tensors.hdf5_filters import settings_like
from gncli.tensors.hdf5_names import encoded
from gncli.tensors.hdf5_opened import Dataset
from gncli.tensors.hdf5_references import has_scales, holds_references

# Of HDF5's dimension scales and of netCDF: they number or name dimensions of the file that they are in.
AT_HOME = ("CLASS", "NAME", "REFERENCE_LIST", "_Netcdf4Dimid", "_Netcdf4Coordinates", "_nc3_strict")

# Classes of types whose values refer to others, which a copy of the bytes would not bring along.
REFERRING = (h5py.h5t.VLEN, h5py.h5t.REFERENCE, h5py.h5t.STRING)

# Filters that round values: scale-offset, zfp, sz, fcidecomp, sz3, sperr.
LOSSY = (h5py.h5z.FILTER_SCALEOFFSET, 32013, 32017, 32019, 32024, 32028)


COPIED = 128 << 20  # bytes of memory that it may take to copy an attribute


def space_of(shape: tuple[int, ...]) -> Any:
    return h5py.h5s.create_simple(shape) if shape else h5py.h5s.create(h5py.h5s.SCALAR)


def contiguous() -> Any:
    settings = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    settings.set_layout(h5py.h5d.CONTIGUOUS)
    settings.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    settings.set_fill_time(h5py.h5d.FILL_TIME_NEVER)  # every element is written, once
    return settings


def create(file: h5py.File, space: Any, dtype: np.dtype[Any], settings: Any) -> Dataset:
    """A dataset that no link leads to yet."""
    return Dataset(h5py.h5d.create(file.id, None, h5py.h5t.py_create(dtype), space, settings))


def can_hold(dataset: Dataset, dtype: np.dtype[Any]) -> bool:
    """Whether values of `dtype` written to it stay in its file, and stay as they are."""
    if dataset.dtype.newbyteorder("=") != dtype or not dataset.is_numpys:
        return False
    elsewhere = dataset.storage.layout == h5py.h5d.VIRTUAL or dataset.storage.files
    return not elsewhere and not _lossy(dataset)


def _lossy(dataset: Dataset) -> list[int]:
    return [each.code for each in dataset.storage.filters if each.code in LOSSY]


def like(file: h5py.File, old: Dataset, dtype: np.dtype[Any]) -> Dataset:
    """A dataset of `dtype` in `file`, unlinked, and else as `old`: chunks, filters, attributes, scales.

    What leads to objects of the file of `old` does not go into another file.
    """
    at_home = file.id == old.file.id
    settings, space = settings_like(old), old.id.get_space()
    has_fill = old.storage.fill == h5py.h5d.FILL_VALUE_USER_DEFINED
    if not old.chunks:  # virtual and external become plain
        settings, space = contiguous(), space_of(old.shape)
    else:
        settings.set_chunk(settings.get_chunk())  # the copy remembers the size of the old elements
        for code in _lossy(old):
            settings.remove_filter(code)
    if has_fill:
        with np.errstate(over="ignore"):
            settings.set_fill_value(np.asarray(old.fillvalue).astype(dtype))
    new = create(file, space, dtype, settings)
    scaled = has_scales(old)
    for key in attribute_names(old, COPIED):
        if scaled and key == "DIMENSION_LIST":  # references, which attach_scale makes on both sides
            continue
        if at_home or not (key in AT_HOME or holds_references(h5py.h5a.open(old.id, encoded(key)))):
            _copy_attribute(old, new, key)
    if at_home and scaled:
        for ours, theirs in zip(new.dims, old.dims, strict=True):
            for scale in theirs.values():
                ours.attach_scale(scale)
    return new


def _copy_attribute(old: Dataset, new: Dataset, key: str | bytes) -> None:
    name = encoded(key)
    try:
        with bounded(COPIED):
            _copy_attribute_of_any_size(old, new, name)
    except TooLargeError as error:
        shown = name.decode("utf-8", "surrogateescape")
        raise BudgetError(f"attribute {shown}, which is to be copied, {error.message}; remove it") from None


def _copy_attribute_of_any_size(old: Dataset, new: Dataset, name: bytes) -> None:
    # At the low level, where its type stays as it is: fixed strings, enumerations, references.
    attribute = h5py.h5a.open(old.id, name)
    kind, space = attribute.get_type(), attribute.get_space()
    stored = kind.copy() if kind.committed() and new.file.id != old.file.id else kind
    dtype = _dtype_of(attribute)
    if dtype is None and any(map(kind.detect_class, REFERRING)):
        shown = name.decode("utf-8", "surrogateescape")
        say("warning", f"attribute {shown} is left out: h5py cannot read its type")
        return
    copy = h5py.h5a.create(new.id, name, stored, space)
    if space.get_simple_extent_type() == h5py.h5s.NULL:
        return
    if dtype is not None and dtype.hasobject:
        value, of = np.empty(attribute.shape, dtype), None
    else:  # as bytes: numpy knows no string that need not end in NUL, but has room for it
        value, of = np.empty(attribute.shape, f"V{kind.get_size()}"), kind
    attribute.read(value, of)
    copy.write(value, of)


def _dtype_of(attribute: Any) -> np.dtype[Any] | None:
    """The attribute's dtype; None for a type that numpy lacks, such as HDF5's time."""
    try:
        dtype: np.dtype[Any] = attribute.dtype
    except H5PY_ERRORS:
        return None
    return dtype


def write_attributes(dataset: Dataset, values: Mapping[str, Hashable]) -> None:
    """Add scalar attributes that are not there yet, as h5py does, at a third of its cost."""
    scalar = space_of(())
    for key, value in values.items():
        held, stored, kind = _held(value)
        h5py.h5a.create(dataset.id, encoded(key), stored, scalar).write(held, kind)


@lru_cache(maxsize=64, typed=True)
def _held(value: Hashable) -> tuple[NDArray[Any], Any, Any]:
    """A value as numpy and HDF5 take it, with its types in the file and in memory.

    The values of one run are mostly those of the dataset before.
    """
    if isinstance(value, str):
        text = h5py.string_dtype()
        return (
            np.array(_storable(value), text),
            h5py.h5t.py_create(text, logical=True),
            h5py.h5t.py_create(text),
        )
    held = np.array(value)
    kind = h5py.h5t.py_create(held.dtype)
    return held, kind, kind


def _storable(value: object) -> object:
    """Return text as UTF-8 can hold it: the name of a file need not be UTF-8."""
    if isinstance(value, str):
        return value.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return value


def standing(file: h5py.File, name: str, address: str) -> Dataset | bool:
    """What the file has at `name`: a dataset, True for another link, False for nothing.

    Raises OutputError where a dataset cannot be put there.
    """
    *parents, last = [b"/", *(encoded(part) for part in name.split("/") if part)]
    at = h5py.h5o.open(file.id, b"/")
    for depth, part in enumerate(parents[1:], 2):
        path = "/".join(name.split("/")[:depth])
        if not at.links.exists(part):  # made on the way
            return False
        if at.links.get_info(part).type != h5py.h5l.TYPE_HARD:  # it may lead into another file
            raise OutputError(f"{path} is a link; give the path that it leads to", address=address)
        at = h5py.h5o.open(at, part)
        if not isinstance(at, h5py.h5g.GroupID):
            raise OutputError(f"{path} is a dataset, not a group; give another path", address=address)
    found = parents and at.links.exists(last)
    held = h5py.h5o.open(at, last) if found and at.links.get_info(last).type == h5py.h5l.TYPE_HARD else None
    if not parents or isinstance(held, h5py.h5g.GroupID):
        hint = "is a group; give a dataset's path, or end it with / to keep the inputs' names"
        raise OutputError(hint, address=address)
    return Dataset(held) if isinstance(held, h5py.h5d.DatasetID) else bool(found)
