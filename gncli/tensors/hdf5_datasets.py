"""Datasets made in the image of others: what stays when one takes the place of another."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import h5py
import numpy as np

from gncli.errors import OutputError
from gncli.tensors.hdf5_places import is_numpys
from gncli.tensors.hdf5_references import Bonds
from gncli.tensors.hdf5_safety import encoded

# Of netCDF, which opens no variable where these have another type than its values.
SAME_TYPE = ("_FillValue", "missing_value", "valid_min", "valid_max", "valid_range")


# Filters that round values: scale-offset, zfp, sz, fcidecomp, sz3, sperr.
LOSSY = (h5py.h5z.FILTER_SCALEOFFSET, 32013, 32017, 32019, 32024, 32028)


def space_of(shape: tuple[int, ...]) -> Any:
    return h5py.h5s.create_simple(shape) if shape else h5py.h5s.create(h5py.h5s.SCALAR)


def contiguous() -> Any:
    settings = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    settings.set_layout(h5py.h5d.CONTIGUOUS)
    settings.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    settings.set_fill_time(h5py.h5d.FILL_TIME_NEVER)  # every element is written, once
    return settings


def create(file: h5py.File, space: Any, dtype: np.dtype[Any], settings: Any) -> h5py.Dataset:
    """A dataset that no link leads to yet."""
    return h5py.Dataset(h5py.h5d.create(file.id, None, h5py.h5t.py_create(dtype), space, settings))


def can_hold(dataset: h5py.Dataset, dtype: np.dtype[Any]) -> bool:
    """Whether values of `dtype` written to it stay in its file, and stay as they are."""
    if dataset.dtype.newbyteorder("=") != dtype or not is_numpys(dataset.id.get_type()):
        return False
    settings = dataset.id.get_create_plist()
    elsewhere = settings.get_layout() == h5py.h5d.VIRTUAL or settings.get_external_count() > 0
    return not elsewhere and not _lossy(settings)


def _lossy(settings: Any) -> list[int]:
    filters = [settings.get_filter(index)[0] for index in range(settings.get_nfilters())]
    return [code for code in filters if code in LOSSY]


def like(old: h5py.Dataset, dtype: np.dtype[Any]) -> h5py.Dataset:
    """A dataset of `dtype`, unlinked, and else as `old`: chunks, filters, attributes, scales."""
    settings, space = old.id.get_create_plist(), old.id.get_space()
    has_fill = settings.fill_value_defined() == h5py.h5d.FILL_VALUE_USER_DEFINED
    if settings.get_layout() != h5py.h5d.CHUNKED:  # virtual and external become plain
        settings, space = contiguous(), space_of(old.shape)
    else:
        settings.set_chunk(settings.get_chunk())  # the copy remembers the size of the old elements
        for code in _lossy(settings):
            settings.remove_filter(code)
    if has_fill:
        with np.errstate(over="ignore"):
            settings.set_fill_value(np.asarray(old.fillvalue).astype(dtype))
    new = create(old.file, space, dtype, settings)
    scaled = has_scales(old)
    for key in old.attrs:
        if not (scaled and key == "DIMENSION_LIST"):  # references, which attach_scale makes on both sides
            _copy_attribute(old, new, key)
    if scaled:
        for ours, theirs in zip(new.dims, old.dims, strict=True):
            for scale in theirs.values():
                ours.attach_scale(scale)
    return new


def has_scales(dataset: h5py.Dataset) -> bool:
    """Whether it has a list of scales. Its type is looked at first: HDF5 crashes on another one."""
    if "DIMENSION_LIST" not in dataset.attrs:
        return False
    attribute = h5py.h5a.open(dataset.id, b"DIMENSION_LIST")
    kind = attribute.get_type()
    listed = isinstance(kind, h5py.h5t.TypeVlenID) and kind.get_super().equal(h5py.h5t.STD_REF_OBJ)
    return bool(listed and attribute.shape == (dataset.ndim,))


def _copy_attribute(old: h5py.Dataset, new: h5py.Dataset, key: str | bytes) -> None:
    # At the low level, where its type stays as it is: fixed strings, enumerations, references.
    name = encoded(key)
    attribute = h5py.h5a.open(old.id, name)
    kind, space = attribute.get_type(), attribute.get_space()
    dtype = _dtype_of(attribute)
    converted = key in SAME_TYPE and dtype == old.dtype
    copy = h5py.h5a.create(new.id, name, new.id.get_type() if converted else kind, space)
    if space.get_simple_extent_type() == h5py.h5s.NULL:
        return
    if dtype is not None and (dtype.hasobject or converted):
        value, of = np.empty(attribute.shape, dtype), None
    else:  # as bytes: numpy knows no string that need not end in NUL, but has room for it
        value, of = np.empty(attribute.shape, f"V{kind.get_size()}"), kind
    attribute.read(value, of)
    copy.write(value, of)


def _dtype_of(attribute: Any) -> np.dtype[Any] | None:
    with suppress(TypeError):  # numpy has no such type
        dtype: np.dtype[Any] = attribute.dtype
        return dtype
    return None


def replace(file: h5py.File, old: h5py.Dataset, new: h5py.Dataset, bonds: Bonds) -> None:
    """Put `new` under each of the names of `old`, so that two names of one dataset stay that."""
    if has_scales(old):
        for dim in old.dims:
            for scale in dim.values():
                dim.detach_scale(scale)
    for path in bonds.moved(old, new):
        _relink(file, path, new)
    bonds.mend(file, old, new)


def _relink(file: h5py.File, path: str, new: h5py.Dataset) -> None:
    """Make the link at `path` lead to `new`, at its place in the group's order of creation."""
    parent, _, last = encoded(path).rpartition(b"/")
    group = h5py.h5o.open(file.id, parent or b"/")
    after: list[bytes] = []
    if group.get_create_plist().get_link_creation_order() & h5py.h5p.CRT_ORDER_TRACKED:
        group.links.iterate(after.append, idx_type=h5py.h5.INDEX_CRT_ORDER)
        after = after[after.index(last) + 1 :]
    group.unlink(last)
    h5py.h5o.link(new.id, group, last)
    for name in after:  # one by one to the end
        group.links.move(name, group, b".gn-moving")
        group.links.move(b".gn-moving", group, name)


def make_way(file: h5py.File, name: str, force: bool, address: str) -> None:
    """Unlink what stands at `name`, if that is allowed. Raises OutputError."""
    *parents, last = [b"/", *(encoded(part) for part in name.split("/") if part)]
    at = h5py.h5o.open(file.id, b"/")
    for depth, part in enumerate(parents[1:], 2):
        path = "/".join(name.split("/")[:depth])
        if not at.links.exists(part):  # made on the way
            return
        if at.links.get_info(part).type != h5py.h5l.TYPE_HARD:  # it may lead into another file
            raise OutputError(f"{path} is a link; give the path that it leads to", address=address)
        at = h5py.h5o.open(at, part)
        if not isinstance(at, h5py.h5g.GroupID):
            raise OutputError(f"{path} is a dataset, not a group; give another path", address=address)
    if not parents or (at.links.exists(last) and _is_group(at, last)):
        raise OutputError("is a group; give a dataset's path", address=address)
    if at.links.exists(last):
        if not force:
            raise OutputError("is in the input file already; use --force to overwrite it", address=address)
        at.unlink(last)


def _is_group(at: Any, part: bytes) -> bool:
    if at.links.get_info(part).type != h5py.h5l.TYPE_HARD:
        return False
    return isinstance(h5py.h5o.open(at, part), h5py.h5g.GroupID)
