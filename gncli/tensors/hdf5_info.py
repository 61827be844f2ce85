"""The headers of HDF5 datasets: how they are stored, what is written about them, by what names they go."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import h5py
import numpy as np

from gncli.errors import FormatError, GnError
from gncli.tensors.hdf5_bounded import TooLargeError, attribute_names, read_attribute, size_of
from gncli.tensors.hdf5_cf import find_decoding
from gncli.tensors.hdf5_errors import H5PY_ERRORS, h5py_reason, translated
from gncli.tensors.hdf5_find import find, numeric_dtype, walk
from gncli.tensors.hdf5_names import encoded
from gncli.tensors.hdf5_opened import Dataset
from gncli.tensors.hdf5_safety import lookup, object_of, open_file, require_own
from gncli.tensors.header import TensorHeader

SHOWN = 4 << 20  # bytes of the attributes of a dataset, of which one may have a quarter
LEAST = 100  # bytes that an attribute takes in a record, besides its name and its value

STORAGE = {
    h5py.h5d.COMPACT: "compact",
    h5py.h5d.CONTIGUOUS: "contiguous",
    h5py.h5d.CHUNKED: "chunked",
    h5py.h5d.VIRTUAL: "virtual",
}
# The library's own; others bring a name: https://github.com/HDFGroup/hdf5_plugins
FILTERS = {1: "gzip", 2: "shuffle", 3: "fletcher32", 4: "szip", 5: "nbit", 6: "scaleoffset", 32000: "lzf"}


def inspect_datasets(
    path: str, pattern: str | None, *, external: bool = False, shown: str | None = None
) -> Iterator[TensorHeader]:
    """Headers of the numeric datasets that `pattern` names, as `find` does. Raises AddressError, FormatError.

    `shown` is what addresses and messages call the file. A dataset that is damaged, or may not be read, is
    told after the others.
    """
    shown = shown or path
    found = find(path, pattern, external=external, shown=shown)
    wrong: GnError | None = None
    with translated(FormatError, shown), open_file(path, shown) as file:
        with translated(FormatError, shown):
            names: dict[tuple[int, int], list[str]] = defaultdict(list)
            for name, dataset in walk(file, external=external):
                if dataset is not None:
                    names[object_of(dataset)].append(name)
        for name, _ in found:
            address = f"{shown}::{name}"
            try:
                with translated(FormatError, address):
                    dataset = lookup(file, name, external=external, shown=shown)
                    numeric_dtype(dataset, address)
                    require_own(dataset, address, external=external)
                    others = [other for other in names[object_of(dataset)] if other != name]
                    links = [{"path": other, "kind": _kind(file, other)} for other in others]
                    is_netcdf = file.header_of(dataset, external=external).is_netcdf
                    header = _header(address, dataset, links, is_netcdf=is_netcdf)
            except GnError as error:
                wrong = wrong or error
            else:
                yield header
    if wrong is not None:
        raise wrong


def _header(address: str, dataset: Dataset, links: list[dict[str, str]], *, is_netcdf: bool) -> TensorHeader:
    stored = dataset.storage
    storage = "external" if stored.files else STORAGE.get(stored.layout, "unknown")
    return TensorHeader(
        address,
        dataset.shape,
        dataset.dtype,
        False,
        storage,
        dataset.id.get_storage_size(),
        dataset.chunks,
        dataset.maxshape,
        [_filter(*each) for each in stored.filters],
        _attributes(dataset),
        links,
        find_decoding(dataset, is_netcdf),
    )


def _filter(code: int, flags: int, options: tuple[int, ...], name: bytes) -> dict[str, object]:
    known = FILTERS.get(code) or name.decode("utf-8", "replace") or str(code)
    return {"name": known, "id": code, "options": list(options)}


def _text(name: str | bytes) -> str:
    """Return a name as text; h5py gives bytes where it is not UTF-8."""
    return name if isinstance(name, str) else name.decode("utf-8", "surrogateescape")


def _attributes(dataset: h5py.Dataset) -> dict[str, object]:
    """The attributes as JSON has them, but for what is too large."""
    shown: dict[str, object] = {}
    room = SHOWN
    try:
        names = attribute_names(dataset)
    except TooLargeError as error:
        return {"...": f"{len(dataset.attrs)} attributes, not shown: to list them {error.message}"}
    for name in names:
        value, size = _attribute(dataset, name, min(room, SHOWN // 4))
        room -= size + len(name) + LEAST
        if room < 0:
            shown["..."] = f"{len(names) - len(shown)} more attributes, too many to be shown"
            break
        shown[_text(name)] = value
    return shown


def _attribute(dataset: h5py.Dataset, name: str | bytes, most: int) -> tuple[object, int]:
    """As JSON has it, in words what JSON has not or what is too large; and its size in bytes."""
    try:
        value = read_attribute(dataset, name, most)
    except TooLargeError as error:
        return error.message, 0
    except H5PY_ERRORS as error:
        return f"cannot be read: {h5py_reason(error)}", 0
    return _plain(value.tolist() if isinstance(value, np.ndarray | np.generic) else value), size_of(value)


def _plain(value: Any) -> object:
    match value:
        case list() | tuple():
            return [_plain(item) for item in value]
        case bytes():
            return value.decode("utf-8", "backslashreplace")
        case str() | bool() | int() | float() | None:
            return value
        case h5py.Empty():
            return None
        case _:
            return str(value)


def _kind(file: h5py.File, name: str) -> str:
    return "soft" if file.id.links.get_info(encoded(name)).type == h5py.h5l.TYPE_SOFT else "hard"
