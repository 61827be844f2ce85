"""Reads of HDF5 whose size no header tells: attributes, strings and lists of any length.

Many elements may refer to one stored string, so that 400 kB in a file become gigabytes in memory.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from gncli.errors import BudgetError
from gncli.tensors.hdf5_errors import H5PY_ERRORS
from gncli.tensors.hdf5_names import encoded
from gncli.words import as_size

UNKNOWN = 64 << 20  # bytes of memory that attributes of a dataset may take while one is read


class TooLargeError(BudgetError):
    """A value that takes more memory than it may."""


@contextmanager
def bounded(nbytes: int) -> Iterator[None]:
    """Raise TooLargeError where what is read within takes more than about so many bytes of memory.

    On Linux, where the system refuses memory beyond a limit. Elsewhere nothing is limited.
    """
    try:
        with _limited(nbytes):
            yield
    except (MemoryError, *H5PY_ERRORS) as error:
        if isinstance(error, MemoryError) or "alloc" in str(error):
            raise TooLargeError(f"takes more than {as_size(nbytes)} of memory") from None
        raise


@contextmanager
def _limited(nbytes: int) -> Iterator[None]:
    if sys.platform != "linux":
        yield
        return
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + nbytes
    if soft != resource.RLIM_INFINITY:
        limit = min(limit, soft)
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def attribute_names(thing: Any, nbytes: int = UNKNOWN) -> list[str | bytes]:
    """Return the names of its attributes, for which HDF5 may read all of these, with their values.

    Raises TooLargeError where that takes more than so many bytes of memory.
    """
    with bounded(nbytes):
        return list(thing.attrs)


def present(thing: Any, names: Iterable[str]) -> set[str]:
    """Return those of the names that it has an attribute of. No attribute is read, however large it is."""
    if not h5py.h5a.get_num_attrs(thing.id):  # which is quick, and of most
        return set()
    return {name for name in names if h5py.h5a.exists(thing.id, encoded(name))}


def read_attribute(thing: Any, name: str | bytes, most: int) -> Any:
    """Return the attribute's value. Raises TooLargeError where it has more than `most` bytes."""
    with bounded(UNKNOWN):
        attribute = h5py.h5a.open(thing.id, encoded(name))
    kind = attribute.get_type()
    size = prod(attribute.shape or ()) * kind.get_size()
    if size <= most and not any(map(kind.detect_class, (h5py.h5t.VLEN, h5py.h5t.STRING))):
        return thing.attrs[name]
    if size > most:
        raise TooLargeError(_words(attribute, size))
    try:
        with bounded(UNKNOWN):
            value = thing.attrs[name]
    except TooLargeError:
        raise TooLargeError(_words(attribute, UNKNOWN)) from None
    if (size := size_of(value)) > most:
        raise TooLargeError(_words(attribute, size))
    return value


def size_of(value: Any) -> int:
    """Return about how many bytes an attribute's value has, that of its strings and lists included."""
    if isinstance(value, np.ndarray) and value.dtype.kind == "O":
        return sum(map(size_of, value.reshape(-1)))
    if isinstance(value, np.ndarray | np.generic):
        return int(value.nbytes)
    return len(value) if isinstance(value, str | bytes) else 8


def _words(attribute: Any, size: int) -> str:
    count = prod(attribute.shape or ())
    return f"{count} element{'s' * (count != 1)}, {as_size(size)} or more: too large to be shown"
