"""An independent reading of an HDF5 file, by h5py: what each object is, and what it holds."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from typing import Any

import h5py
import numpy as np

MOST = 1 << 22  # elements of a dataset that are read
MOST_CHUNKS = 1000
Entry = dict[str, Any]
_names: dict[object, str] = {}  # of each object, the path that comes first


def entries(path: str) -> Iterator[tuple[str, Entry]]:
    """Yield the path of each link, depth first, and what it leads to; an "error" where h5py cannot tell."""
    try:
        file = h5py.File(path, "r")
    except Exception as error:  # noqa: BLE001 - h5py raises many kinds
        yield "/", {"error": str(error)}
        return
    with file:
        _names[_identity(file.id)] = "/"
        for _ in _below(file.id, "", {}):
            pass
        yield "/", {"kind": "group", **_of_group(file["/"])}
        yield from _below(file.id, "", {_identity(file.id): "/"})


def entry(path: str, name: str) -> tuple[str, Entry]:
    """Return the name and what it is of one dataset, by h5py's own way to it."""
    with h5py.File(path, "r") as file:
        return name, {"kind": "dataset", **_of_dataset(file[name])}


def _below(group: Any, path: str, seen: dict[Any, str]) -> Iterator[tuple[str, Entry]]:
    try:
        names = [*group]
    except Exception as error:  # noqa: BLE001
        yield f"{path}/", {"error": str(error)}
        return
    for name in names:
        here = f"{path}/{name.decode('utf-8', 'surrogateescape')}"
        try:
            kind = group.links.get_info(name).type
            if kind != h5py.h5l.TYPE_HARD:
                yield here, {"kind": f"link {kind}", "to": group.links.get_val(name)}
                continue
            thing = h5py.h5o.open(group, name)
            first = seen.setdefault(_identity(thing), here)
            if first != here:
                yield here, {"kind": "hard link", "to": first}
            elif isinstance(thing, h5py.h5d.DatasetID):
                yield here, {"kind": "dataset", **_of_dataset(h5py.Dataset(thing))}
            elif isinstance(thing, h5py.h5g.GroupID):
                yield here, {"kind": "group", **_of_group(h5py.Group(thing))}
                yield from _below(thing, here, seen)
            else:
                yield here, {"kind": "type", "type": _type(thing), "attributes": _attributes(thing)}
        except Exception as error:  # noqa: BLE001
            yield here, {"error": str(error)}


def _identity(thing: Any) -> object:
    info = h5py.h5o.get_info(thing)
    return info.fileno, info.addr


def _of_group(group: h5py.Group) -> Entry:
    settings = group.id.get_create_plist()
    order = settings.get_link_creation_order()
    # In order of creation if that is known, else by name.
    names = [name.encode("utf-8", "surrogateescape") for name in group] if order else sorted(group.id)
    return {"order": order, "names": names, "attributes": _attributes(group.id)}


def _of_dataset(dataset: h5py.Dataset) -> Entry:
    settings = dataset.id.get_create_plist()
    dtype: np.dtype[Any] | None
    try:
        dtype = dataset.dtype
    except TypeError:  # numpy has no such type
        dtype = None
    entry: Entry = {
        "type": _type(dataset.id.get_type()),
        "dtype": dtype if dtype is not None and not dtype.hasobject else None,
        "shape": dataset.shape,
        "maxshape": dataset.maxshape,
        "layout": settings.get_layout(),
        "chunks": dataset.chunks,
        "filters": [settings.get_filter(index)[:3] for index in range(settings.get_nfilters())],
        "fill": settings.fill_value_defined(),
        "attributes": _attributes(dataset.id),
    }
    if dtype is not None and not dtype.hasobject and dataset.shape is not None:
        fill = np.zeros(1, dtype)
        settings.get_fill_value(fill)
        entry["fill value"] = fill.tobytes()
    if entry["filters"]:
        entry["stored"] = _stored(dataset)
    if dataset.shape is not None and dtype is not None and math.prod(dataset.shape) <= MOST:
        try:
            entry["values"] = _values(dataset[()], dtype, dataset)
        except Exception as error:  # noqa: BLE001
            entry["unreadable"] = str(error)
    return entry


def _stored(dataset: h5py.Dataset) -> str | None:
    """Return a digest of the chunks as they are stored; None where they cannot be read."""
    digest = hashlib.sha256()
    try:
        for number in range(min(dataset.id.get_num_chunks(), MOST_CHUNKS)):
            start = dataset.id.get_chunk_info(number).chunk_offset
            digest.update(repr((start, *dataset.id.read_direct_chunk(start))).encode())
    except Exception:  # noqa: BLE001
        return None
    return digest.hexdigest()


def _type(kind: Any) -> object:
    """Return all that tells two types apart, except where they are committed."""
    found: list[object] = [type(kind).__name__, kind.get_size()]
    if isinstance(kind, h5py.h5t.TypeAtomicID) and not isinstance(kind, h5py.h5t.TypeReferenceID):
        found += [kind.get_order(), kind.get_precision(), kind.get_offset()]
    if isinstance(kind, h5py.h5t.TypeIntegerID):
        found += [kind.get_sign()]
    elif isinstance(kind, h5py.h5t.TypeFloatID):
        found += [kind.get_fields(), kind.get_ebias(), kind.get_norm()]
    elif isinstance(kind, h5py.h5t.TypeStringID):
        found += [kind.get_cset(), kind.get_strpad(), kind.is_variable_str()]
    elif isinstance(kind, h5py.h5t.TypeEnumID | h5py.h5t.TypeCompoundID):
        members = range(kind.get_nmembers())
        found += [[kind.get_member_name(number) for number in members]]
        if isinstance(kind, h5py.h5t.TypeCompoundID):
            found += [[_type(kind.get_member_type(number)) for number in members]]
            found += [[kind.get_member_offset(number) for number in members]]
        else:
            found += [_type(kind.get_super()), [kind.get_member_value(number) for number in members]]
    elif isinstance(kind, h5py.h5t.TypeArrayID):
        found += [kind.get_array_dims(), _type(kind.get_super())]
    elif isinstance(kind, h5py.h5t.TypeVlenID):
        found += [_type(kind.get_super())]
    elif isinstance(kind, h5py.h5t.TypeOpaqueID):
        found += [kind.get_tag()]
    return found


def _attributes(thing: Any) -> dict[bytes, object]:
    found: dict[bytes, object] = {}
    for number in range(h5py.h5a.get_num_attrs(thing)):
        attribute = h5py.h5a.open(thing, index=number)
        name = attribute.name
        space = attribute.get_space()
        kind = attribute.get_type()
        try:
            dtype = attribute.dtype
            shape = None if space.get_simple_extent_type() == h5py.h5s.NULL else attribute.shape
            value = None
            if shape is not None:
                array = np.empty(shape, dtype)
                attribute.read(array, mtype=h5py.h5t.py_create(dtype))
                value = _values(array, dtype, thing)
        except Exception as error:  # noqa: BLE001
            shape, value = None, f"cannot be read: {error}"
        found[name] = (_type(kind), shape, value)
    return found


def _values(array: Any, dtype: np.dtype[Any], owner: Any) -> object:
    """Return numbers as an array, and other values as what they are: texts, lists, names of objects."""
    if not dtype.hasobject:
        return np.asarray(array, dtype) if dtype.kind in "iuf" else _digest(np.asarray(array, dtype))
    return [_plain(value, owner) for value in np.asarray(array, dtype).reshape(-1)]


def _digest(array: np.ndarray[Any, Any]) -> str:
    return hashlib.sha256(array.tobytes()).hexdigest()


def _plain(value: Any, owner: Any) -> object:
    identity = getattr(owner, "id", owner)
    if isinstance(value, h5py.h5r.RegionReference):
        if not value:
            return None
        region = h5py.h5r.get_region(value, identity)
        return _named(value, identity), region.get_select_npoints(), region.get_select_bounds()
    if isinstance(value, h5py.h5r.Reference):
        return _named(value, identity) if value else None
    if isinstance(value, np.void):
        return [_plain(value[name], owner) for name in value.dtype.names or ()] or value.tobytes()
    if isinstance(value, np.ndarray):
        return [_plain(item, owner) for item in value.reshape(-1)]
    return value.item() if isinstance(value, np.generic) else value


def _named(reference: Any, identity: Any) -> str:
    return _names[_identity(h5py.h5r.dereference(reference, identity))]
