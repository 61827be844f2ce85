"""Which datasets of an HDF5 file an address names: a path, a glob, or all that are numbers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from fnmatch import fnmatchcase
from typing import Any

import h5py
import numpy as np

from gncli.errors import AddressError, FormatError, GnError
from gncli.progress import note_advance
from gncli.report import say
from gncli.tensors.address import LISTED, candidates, near, pasted, require_numeric
from gncli.tensors.hdf5_errors import H5PY_ERRORS, h5py_reason, translated
from gncli.tensors.hdf5_links import SoftLinks
from gncli.tensors.hdf5_opened import Dataset
from gncli.tensors.hdf5_safety import (
    MOST_LINKS,
    ForeignLinkError,
    is_sound,
    lookup,
    object_of,
    open_file,
    require_own,
)

Found = list[tuple[str, tuple[int, ...] | None]]

# Classes of HDF5's types that are no numbers, though h5py maps some of them to numpy's integers.
NOT_NUMBERS = {
    h5py.h5t.BITFIELD: "holds a bitfield; save it as integers",
    h5py.h5t.OPAQUE: "holds opaque bytes; gn takes numbers",
    h5py.h5t.TIME: "holds times; save them as numbers",
}


class OddTypeError(FormatError):
    """A dataset of a type that looks like numbers, but that gn cannot take: a search tells of it."""


def find(path: str, pattern: str | None, *, external: bool = False, shown: str | None = None) -> Found:
    """Path and shape of the numeric datasets that `pattern` names: a path, a glob, None for all.

    Each is listed once, under a hard link's path where one matches. What is damaged, or lies in another
    file and may not be read, is named too, without its shape: whoever opens it is told why not. A warning
    names a dataset of an unusual type, which is left out. Messages call the file `shown`. Raises
    AddressError where there is none.
    """
    shown = shown or path
    with translated(FormatError, shown), open_file(path, shown) as file:
        thing = None if pattern is None else lookup(file, pattern, external=external, shown=shown)
        if pattern is not None and thing is not None:
            return [(pattern, _shape_at(shown, pattern, thing, external))]
        found: Found = []
        odd: list[FormatError] = []
        names: list[str] = []
        matched = False
        seen = set()
        for name, dataset in walk(file, external=external):  # one at a time: an open dataset takes 10 kB
            names.append(name)
            if pattern is not None and not matches(name, pattern):
                continue
            matched = True
            if dataset is None:
                found.append((name, None))
            elif (which := object_of(dataset)) not in seen:
                seen.add(which)
                try:
                    numeric_dtype(dataset, f"{shown}::{name}")
                except OddTypeError as error:
                    odd.append(error)
                except FormatError:  # text, references, structures: nobody takes these for a tensor
                    continue
                else:
                    found.append((name, _shape(dataset, external)))
                    file.note_found(name, dataset)
        for reason in odd[:LISTED]:
            say("warning", f"{reason.address}: left out: {reason.message}")
        if len(odd) > LISTED:
            say("warning", f"{shown}: {len(odd) - LISTED} more datasets of such types are left out")
        if not found:
            raise AddressError(_nothing(shown, pattern, names, matched), address=shown)
        return found


def is_glob(path: str, pattern: str) -> bool:
    """Whether `pattern` stands for others: nothing in the file has that very name."""
    if not any(sign in pattern for sign in "*?["):
        return False
    try:
        with open_file(path) as file:
            return lookup(file, pattern) is None
    except ForeignLinkError:
        return False


def walk(
    file: h5py.File, *, hard: bool = False, external: bool = False
) -> Iterator[tuple[str, Dataset | None]]:
    """Every dataset by every path to it within the file; with `hard`, only those by hard links alone.

    Hard links come before others, so that a dataset's own path comes before an alias. None stands for what
    is damaged, or in another file, unless `external` links may be followed.
    """
    links: list[tuple[bytes, int]] = []
    # Not by visititems_links, which stumbles over names that are not UTF-8. It is one `link` for all calls.
    file.id.links.visit(lambda path, link: links.append((path, link.type)), info=True)
    groups = [(b"", file.id)]  # from the root to the last one met: links come depth first
    for number, (path, kind) in enumerate(links):
        if not number % 64:
            note_advance()
        if kind != h5py.h5l.TYPE_HARD:
            continue
        parent, _, last = path.rpartition(b"/")
        while groups[-1][0] != parent:
            groups.pop()
        try:
            thing = h5py.h5o.open(groups[-1][1], last)
        except H5PY_ERRORS:
            yield _name(path), None
            continue
        if isinstance(thing, h5py.h5g.GroupID):
            groups.append((path, thing))
        elif isinstance(thing, h5py.h5d.DatasetID):
            yield _name(path), Dataset(thing)
    chains = SoftLinks(file, dict(links))
    for number, (path, kind) in enumerate(links):
        if not number % 64:
            note_advance()
        if hard or kind == h5py.h5l.TYPE_HARD:
            continue
        end, followed = chains.end_of(path)
        if followed > MOST_LINKS:
            continue
        try:
            thing = lookup(file, _name(end), external=external)
        except GnError:
            yield _name(path), None
        else:
            if isinstance(thing, Dataset):
                yield _name(path), thing


def _name(path: bytes) -> str:
    return "/" + path.decode("utf-8", "surrogateescape")


def numeric_dtype(dataset: Dataset, address: str) -> np.dtype[Any]:
    """The dtype, if gn can take it; else a FormatError."""
    if not isinstance(dataset, Dataset):
        raise AddressError("is not a dataset", address=address)
    if dataset.is_numeric:
        return dataset.dtype
    with translated(OddTypeError, address):
        dtype = _numeric_dtype(dataset, address)
    dataset.is_numeric = True
    return dtype


def _numeric_dtype(dataset: Dataset, address: str) -> np.dtype[Any]:
    # A type of HDF5 is asked, not a value: to know its shape, a virtual dataset asks other files.
    with closing(dataset.id.get_type()) as kind:
        type_class, sound = kind.get_class(), is_sound(kind)
    if type_class in NOT_NUMBERS:
        raise OddTypeError(NOT_NUMBERS[type_class], address=address)
    try:
        dtype = dataset.dtype
    except H5PY_ERRORS as error:
        message = f"has a type that numpy lacks: {h5py_reason(error)}"
        number = type_class in (h5py.h5t.INTEGER, h5py.h5t.FLOAT, h5py.h5t.ENUM)
        raise (OddTypeError if number else FormatError)(message, address=address) from None
    if dataset.storage.layout != h5py.h5d.VIRTUAL and dataset.shape is None:
        raise FormatError("is empty: it has a type and no shape", address=address)
    if dtype.hasobject:  # h5py's way with what has no fixed size
        raise FormatError("holds strings, references or lists; gn takes numbers", address=address)
    if dtype.kind in "iu" and h5py.check_enum_dtype(dtype) is not None:
        raise OddTypeError("holds an enumeration; save its values as integers", address=address)
    try:
        require_numeric(dtype, address)
    except FormatError as error:
        if dtype.kind in "cf":  # complex numbers, and floats of more than 64 bits
            raise OddTypeError(error.message, address=address) from None
        raise
    if not sound:
        hint = "has a type whose bits lie outside its bytes; the file is damaged"
        raise OddTypeError(hint, address=address)
    return dtype


def is_numeric(dataset: Dataset) -> bool:
    try:
        numeric_dtype(dataset, "")
    except FormatError:
        return False
    return True


def _shape(dataset: Dataset, external: bool) -> tuple[int, ...] | None:
    try:
        require_own(dataset, "", external=external)
        with translated(FormatError, ""):
            shape: tuple[int, ...] = dataset.shape
    except GnError:
        return None
    return shape


def _shape_at(path: str, name: str, thing: Any, external: bool) -> tuple[int, ...] | None:
    address = f"{path}::{name}"
    if isinstance(thing, Dataset):
        numeric_dtype(thing, address)
        return _shape(thing, external)
    prefix = name.rstrip("/") + "/"
    inside = [
        (inner, _shape(dataset, external))
        for inner, dataset in walk(thing.file)
        if dataset is not None and inner.startswith(prefix) and is_numeric(dataset)
    ]
    if inside:
        message = f"is a group; name a dataset: {candidates(path, inside)}"
    else:
        message = "is not a dataset, and holds no numeric one"
    raise AddressError(message, address=address)


def matches(name: str, pattern: str) -> bool:
    """As in a shell: `*` stays within one part of the path, `**` stands for any number of them."""

    def match(parts: list[str], patterns: list[str]) -> bool:
        if not patterns:
            return not parts
        if patterns[0] == "**":
            return any(match(parts[skip:], patterns[1:]) for skip in range(len(parts) + 1))
        return bool(parts) and fnmatchcase(parts[0], patterns[0]) and match(parts[1:], patterns[1:])

    return match(name.split("/"), pattern.split("/"))


def _nothing(path: str, pattern: str | None, names: list[str], matched: bool) -> str:
    if matched or (pattern is None and names):
        return "no numeric dataset there; gn takes float16, float32, float64 and integers"
    if pattern is None:
        return "holds no dataset"
    close = near(pattern, names)
    shown = ", ".join(pasted(f"{path}::{name}") for name in (close or names)[:LISTED])
    return f"no dataset {pattern!a}; " + (
        f"did you mean {shown}?" if close else f"it holds {shown or 'none'}"
    )
