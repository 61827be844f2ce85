"""Datasets of an output file that an earlier run has made."""

from __future__ import annotations

import os
from typing import Any

import h5py

from gncli.errors import FormatError
from gncli.tensors.address import name_in_hdf5, split
from gncli.tensors.hdf5_errors import translated
from gncli.tensors.hdf5_safety import lookup, open_file
from gncli.tensors.hdf5_sink import PREFIX


def dataset_stands(path: str, name: str | None, address: str) -> bool:
    """Whether the file at `path` holds the output of the input at `address`, as `name` or the input's name.

    A file that gn writes is a copy of the input's file, with datasets that it has not normalized. Such a one
    has the same gn attributes as the input's dataset of that name, or none. Raises AddressError where another
    process writes the file.
    """
    source, inside = split(address)
    name = name or name_in_hdf5(address)
    try:
        with open_file(path) as file:
            stands = lookup(file, name)
            marks = _marks(stands) if isinstance(stands, h5py.Dataset) else None
    except FormatError:
        return False
    if marks is None or inside is None or not os.path.isfile(source):
        return marks is not None
    if os.path.samefile(path, source):  # nothing in it is a copy
        return True
    with translated(FormatError, address), open_file(source) as file:
        original = lookup(file, name)
        return not isinstance(original, h5py.Dataset) or marks != _marks(original)


def _marks(dataset: h5py.Dataset) -> dict[str, Any]:
    return {
        key: repr(value)
        for key, value in dataset.attrs.items()
        if isinstance(key, str) and key.startswith(PREFIX)
    }
