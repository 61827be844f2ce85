"""Datasets that replace others: references in an HDF5 file are addresses, and have to be rewritten."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from functools import partial
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from gncli.tensors.hdf5_errors import H5PY_ERRORS
from gncli.tensors.hdf5_find import walk
from gncli.tensors.hdf5_names import encoded
from gncli.tensors.hdf5_opened import Storage


class Replacements:
    """Datasets of a file that others take the place of, under every name and in every reference.

    The file's links and references are looked up once for all of them. References are rewritten, and links
    are put back in their order of creation, once by `finish`.
    """

    def __init__(self, file: h5py.File) -> None:
        self._file = file
        self._paths: dict[int, list[str]] = {}  # of hard links, by the address of the dataset
        for path, dataset in walk(file, hard=True):
            if dataset is not None:
                self._paths.setdefault(_address(dataset), []).append(path)
        self._holders: list[str | bytes] = []  # of references, among their attributes or values
        self._targets: set[int] = set()  # addresses that references lead to
        self._note("/", file)
        file.visititems(self._note)
        self._replaced: dict[int, tuple[h5py.Dataset, h5py.Dataset]] = {}
        self._orders: dict[bytes, tuple[Any, list[bytes]]] = {}  # groups, and their links in the first order

    def leads_to(self, dataset: h5py.Dataset) -> bool:
        """Whether anything but one hard link leads to the dataset."""
        address = _address(dataset)
        return len(self._paths.get(address, ())) > 1 or address in self._targets

    def replace(self, old: h5py.Dataset, new: h5py.Dataset) -> None:
        """Put `new` under each of the names of `old`, so that two names of one dataset stay that."""
        if has_scales(old):
            for dim in old.dims:
                for scale in dim.values():
                    dim.detach_scale(scale)
        address = _address(old)
        paths = self._paths.pop(address)
        self._paths[_address(new)] = paths
        for path in paths:
            self._relink(path, new)
        if address in self._targets:
            self._replaced[address] = old, new  # open, so that its address is given to no other object

    def finish(self) -> None:
        """Restore the order of links, and make all references to old datasets lead to the new ones."""
        for group, order in self._orders.values():
            _restore(group, order)
        self._orders.clear()
        if self._replaced:
            for name in self._holders:
                self._rewrite(self._file[name])
        self._replaced.clear()

    def _relink(self, path: str, new: h5py.Dataset) -> None:
        parent, _, last = encoded(path).rpartition(b"/")
        if parent not in self._orders:
            group = h5py.h5o.open(self._file.id, parent or b"/")
            order: list[bytes] = []
            if group.get_create_plist().get_link_creation_order() & h5py.h5p.CRT_ORDER_TRACKED:
                group.links.iterate(order.append, idx_type=h5py.h5.INDEX_CRT_ORDER)
            self._orders[parent] = group, order
        group, _ = self._orders[parent]
        group.unlink(last)
        h5py.h5o.link(new.id, group, last)

    def _note(self, name: str | bytes, thing: Any) -> None:
        found = [*_stored_references(thing)]
        if found:
            self._holders.append(name)
        for _, values in found:
            for _, reference in _references(values):
                if (address := _leads_to(reference, self._file)) is not None:
                    self._targets.add(address)

    def _rewrite(self, thing: Any) -> None:
        for holder, values in _stored_references(thing):
            changed = False
            for put, reference in _references(values):
                address = _leads_to(reference, self._file)
                if address in self._replaced:
                    put(_anew(reference, self._file, self._replaced[address][1]))
                    changed = True
            if changed and isinstance(holder, h5py.h5a.AttrID):
                holder.write(values)
            elif changed:
                holder.write(h5py.h5s.ALL, h5py.h5s.ALL, values)
                holder.flush()  # a finalizer would not raise what goes wrong


def _restore(group: Any, order: list[bytes]) -> None:
    """Put the group's links in `order`, by moving each to the end from the first that is out of place."""
    now: list[bytes] = []
    if order:
        group.links.iterate(now.append, idx_type=h5py.h5.INDEX_CRT_ORDER)
    order = [*order, *(name for name in now if name not in set(order))]  # others were made in the meantime
    start = next((place for place, (a, b) in enumerate(zip(order, now, strict=True)) if a != b), len(order))
    for name in order[start:]:
        group.links.move(name, group, b".gn-moving")
        group.links.move(b".gn-moving", group, name)


def _address(dataset: h5py.Dataset) -> int:
    address: int = h5py.h5o.get_info(dataset.id).addr
    return address


def _stored_references(thing: Any) -> Iterator[tuple[Any, NDArray[Any]]]:
    """Each attribute that holds references, and the dataset if it does, with the values."""
    for key in thing.attrs:
        if key == "REFERENCE_LIST":  # HDF5 keeps it, where scales are attached and detached
            continue
        attribute = h5py.h5a.open(thing.id, encoded(key))
        if holds_references(attribute) and attribute.get_space().get_simple_extent_npoints():
            values = np.empty(attribute.shape, attribute.dtype)
            attribute.read(values)
            yield attribute, values
    if isinstance(thing, h5py.Dataset) and _is_here(thing) and holds_references(thing.id) and thing.size:
        values = np.empty(thing.shape, thing.dtype)
        thing.id.read(h5py.h5s.ALL, h5py.h5s.ALL, values)
        yield thing.id, values


def _is_here(dataset: h5py.Dataset) -> bool:
    with closing(dataset.id.get_create_plist()) as settings:
        stored = Storage.of(settings)
    return stored.layout != h5py.h5d.VIRTUAL and not stored.files


def has_scales(dataset: h5py.Dataset) -> bool:
    """Whether it has a list of scales. Its type is looked at first: HDF5 crashes on another one."""
    if "DIMENSION_LIST" not in dataset.attrs:
        return False
    attribute = h5py.h5a.open(dataset.id, b"DIMENSION_LIST")
    kind = attribute.get_type()
    listed = isinstance(kind, h5py.h5t.TypeVlenID) and kind.get_super().equal(h5py.h5t.STD_REF_OBJ)
    return bool(listed and attribute.shape == (dataset.ndim,))


def holds_references(thing: Any) -> bool:
    """Whether a dataset's or an attribute's type, or a part of it, is a reference."""
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


def _references(values: NDArray[Any]) -> Iterator[tuple[Callable[[Any], None], Any]]:
    """Each reference among `values`, at any depth, and what puts another in its place."""
    if values.dtype.names is not None:
        for name in values.dtype.names:
            yield from _references(values[name])
    elif values.dtype == object:
        for place, value in np.ndenumerate(values):
            if isinstance(value, np.ndarray):
                yield from _references(value)
            elif isinstance(value, h5py.h5r.Reference) and value:
                yield partial(values.__setitem__, place), value


def _leads_to(reference: Any, file: h5py.File) -> int | None:
    """The address of the object that the reference leads to; None if there is none."""
    with suppress(KeyError, OSError, RuntimeError, ValueError):
        address: int = h5py.h5o.get_info(h5py.h5r.dereference(reference, file.id)).addr
        return address
    return None


def _anew(reference: Any, file: h5py.File, new: h5py.Dataset) -> Any:
    if isinstance(reference, h5py.h5r.RegionReference):
        region = h5py.h5r.get_region(reference, file.id)
        return h5py.h5r.create(new.id, b".", h5py.h5r.DATASET_REGION, region)
    return new.ref
