"""Datasets of any type, for a comparison: numbers as tensors, all else as values that are equal or not."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any, Protocol, runtime_checkable

from numpy.typing import NDArray

from gncli.layout import Box
from gncli.tensors import Source, _locate, _stored, open_seekable
from gncli.tensors.address import open_file, require_number, split
from gncli.tensors.npy import NpySource
from gncli.tensors.pipe import stream_at
from gncli.tensors.stream import StreamSource


@runtime_checkable
class Values(Protocol):
    """A dataset whose elements are no numbers, or not of a type that gn computes with."""

    address: str
    shape: tuple[int, ...] | None  # None where there is a type and no elements at all
    kind: str  # two datasets can be compared if theirs are the same
    type_name: str  # as shown to people
    unfit: str | None  # why it cannot be compared with anything
    chunks: tuple[int, ...] | None
    itemsize: int  # of an element in bytes, in which strings and lists of any length do not count

    def require_room(self, memory: int) -> None:
        """Raise BudgetError where what is read as a whole takes too much of `memory` bytes."""
        ...

    def read_values(self, box: Box, memory: int) -> NDArray[Any]:
        """The elements of a box, in its shape; behind it the axes of an element that is an array.

        Raises BudgetError where they take more than about `memory` bytes.
        """
        ...

    def close(self) -> None: ...


def open_any(
    address: str, *, external: bool = False, force: bool = False, as_stored: bool = False
) -> Source | Values:
    """Return the one tensor or dataset at `address`, to be read in any order. Raises as `open_source`."""
    path, name, kind = _locate(address)
    if kind == "npy":
        stream = stream_at(path)
        if stream is not None:
            return StreamSource(stream, require_number).spooled()
        return NpySource(address, open_file(path), check=require_number)
    if name is not None:
        from gncli.tensors.hdf5_values import open_values

        found = open_values(_stored(path), name, external=external, force=force, address=address)
        if found is not None:
            return found
    return open_seekable(address, external=external, force=force, as_stored=as_stored)


def datasets(address: str, *, external: bool = False) -> dict[str, Hashable] | None:
    """Return the paths of all datasets, of any type, that `address` names in an HDF5 file.

    Of each, what tells whether another path leads to the same one. None where `address` names one tensor:
    an .npy, a pipe of such, or a dataset by its path. Raises AddressError.
    """
    path, name, kind = _locate(address)
    if kind == "npy":
        return None
    from gncli.tensors.hdf5_values import datasets_of_any_type

    return datasets_of_any_type(_stored(path), name, external=external, shown=path)


def named(address: str, dataset: str) -> str:
    """Return the address of a dataset in the file that `address` names."""
    return f"{split(address)[0]}::{dataset}"
