"""The headers of HDF5 datasets: how they are stored, what is written about them, by what names they go."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import h5py
import numpy as np

from gncli.errors import FormatError, GnError
from gncli.tensors.hdf5_cf import find_decoding
from gncli.tensors.hdf5_errors import translated
from gncli.tensors.hdf5_find import find, numeric_dtype, walk
from gncli.tensors.hdf5_safety import lookup, open_file, require_own
from gncli.tensors.header import TensorHeader

STORAGE = {
    h5py.h5d.COMPACT: "compact",
    h5py.h5d.CONTIGUOUS: "contiguous",
    h5py.h5d.CHUNKED: "chunked",
    h5py.h5d.VIRTUAL: "virtual",
}
# The library's own; others bring a name: https://github.com/HDFGroup/hdf5_plugins
FILTERS = {1: "gzip", 2: "shuffle", 3: "fletcher32", 4: "szip", 5: "nbit", 6: "scaleoffset", 32000: "lzf"}


def inspect_datasets(path: str, pattern: str | None, *, external: bool = False) -> Iterator[TensorHeader]:
    """Of the numeric datasets that `pattern` names, as `find` does. Raises AddressError, FormatError.

    One that is damaged, or may not be read, is told after the others.
    """
    found = find(path, pattern, external=external)
    wrong: GnError | None = None
    with open_file(path) as file:
        with translated(FormatError, path):
            names: dict[h5py.Dataset, list[str]] = defaultdict(list)
            for name, dataset in walk(file, external=external):
                if dataset is not None:
                    names[dataset].append(name)
        for name, _ in found:
            address = f"{path}::{name}"
            try:
                with translated(FormatError, address):
                    dataset = lookup(file, name, external=external)
                    numeric_dtype(dataset, address)
                    require_own(dataset, address, external=external)
                    others = [other for other in names[dataset] if other != name]
                    links = [{"path": other, "kind": _kind(file, other)} for other in others]
                    header = _header(address, dataset, links)
            except GnError as error:
                wrong = wrong or error
            else:
                yield header
    if wrong is not None:
        raise wrong


def _header(address: str, dataset: h5py.Dataset, links: list[dict[str, str]]) -> TensorHeader:
    settings = dataset.id.get_create_plist()
    storage = STORAGE.get(settings.get_layout(), "unknown")
    return TensorHeader(
        address,
        dataset.shape,
        dataset.dtype,
        False,
        "external" if settings.get_external_count() else storage,
        dataset.id.get_storage_size(),
        dataset.chunks,
        dataset.maxshape,
        [_filter(*settings.get_filter(index)) for index in range(settings.get_nfilters())],
        {name: _attribute(dataset, name) for name in dataset.attrs},
        links,
        find_decoding(dataset),
    )


def _filter(code: int, flags: int, options: tuple[int, ...], name: bytes) -> dict[str, object]:
    known = FILTERS.get(code) or name.decode("utf-8", "replace") or str(code)
    return {"name": known, "id": code, "options": list(options)}


def _attribute(dataset: h5py.Dataset, name: str) -> object:
    """As JSON has it; in words what JSON has not."""
    try:
        value = dataset.attrs[name]
    except (OSError, RuntimeError, TypeError, ValueError) as error:
        return f"cannot be read: {error}"
    return _plain(value.tolist() if isinstance(value, np.ndarray | np.generic) else value)


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
    return "soft" if isinstance(file.get(name, getlink=True), h5py.SoftLink) else "hard"
