"""Whether an output that is a copy of a damaged file holds what was written to it.

In a damaged file, values may lie over headers, or over other values. What is written to them then destroys
the headers, or is lost itself.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from gncli.errors import FormatError
from gncli.tensors.hdf5_errors import H5PY_ERRORS, h5py_reason
from gncli.tensors.hdf5_names import encoded

SUPERBLOCK = 48  # bytes at the front of a file, or after its user block, that hold no values


def require_apart(file: h5py.File, names: Iterable[str], path: str) -> None:
    """Raise FormatError unless each of the datasets can be found, with values that lie apart.

    `file` is the output, closed once and opened again; messages call it `path`.
    """
    for name in names:
        address = f"{path}::{name}"
        try:
            ranges = _ranges(h5py.h5d.open(file.id, encoded(name)))
        except H5PY_ERRORS as error:
            message = f"cannot be written: {h5py_reason(error)}; the file that it is a copy of is damaged"
            raise FormatError(message, address=address) from None
        starts, sizes = ranges[ranges[:, 0].argsort()].T
        if (starts < SUPERBLOCK).any() or (starts[1:] < starts[:-1] + sizes[:-1]).any():
            message = "cannot be written: its values lie over one another, or over the header of the file"
            raise FormatError(f"{message}; the file is damaged", address=address)


def _ranges(dataset: Any) -> NDArray[np.int64]:
    """Return the first byte and the size of what holds values, a row each."""
    found: list[tuple[int, int]] = []
    settings = dataset.get_create_plist()
    if settings.get_layout() == h5py.h5d.CHUNKED and hasattr(dataset, "chunk_iter"):
        dataset.chunk_iter(lambda chunk: found.append((chunk.byte_offset, chunk.size)))
    elif settings.get_layout() == h5py.h5d.CONTIGUOUS and (start := dataset.get_offset()) is not None:
        found.append((start, dataset.get_storage_size()))
    return np.array([row for row in found if row[1]], np.int64).reshape(-1, 2)
