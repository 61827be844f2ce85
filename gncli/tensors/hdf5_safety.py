"""HDF5 files from strangers: none makes gn read another file, load a library, or believe in terabytes."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import closing
from math import prod
from typing import Any, NamedTuple

import h5py

from gncli.errors import AddressError, FormatError
from gncli.tensors import kept
from gncli.tensors.address import identity
from gncli.tensors.hdf5_errors import H5PY_ERRORS, h5py_reason, translated
from gncli.tensors.hdf5_names import encoded
from gncli.tensors.hdf5_opened import Dataset, ReadFile
from gncli.words import as_size

MOST_LEVELS = 32  # of virtual datasets that are made of virtual datasets
MOST_LINKS = 16  # soft links on the way to one object; HDF5's own limit
# Deflate makes at most 1032 bytes of one; what is said to be more than this and a gigabyte is not there.
LIKELY = 1100
WORTH_A_DOUBT = 1 << 30
MANY_CHUNKS, SPARSE = 1 << 20, 16  # times as many as are stored
SMALL = 1 << 16  # bytes of a dataset that is believed without a look
PERMIT = "--allow-external permits it"

while h5py.h5pl.size():  # HDF5 would load filters, as machine code, from wherever the environment says
    h5py.h5pl.remove(0)


def open_file(path: str, shown: str | None = None) -> ReadFile:
    """Open the HDF5 file at `path`, which messages call `shown`.

    Raises AddressError where it is locked, FormatError where it is broken.
    """
    file: ReadFile | None = kept.borrow(path)
    if file is None:
        before = identity(path)
        file = _open(path, shown or path)
        kept.keep(path, before, file)
    return file


def _open(path: str, shown: str) -> ReadFile:
    unlocked = "or set HDF5_USE_FILE_LOCKING=FALSE to read it all the same"
    try:
        return ReadFile(path)
    except BlockingIOError:
        message = f"is open for writing elsewhere; close it there first, {unlocked}"
        raise AddressError(message, address=shown) from None
    except H5PY_ERRORS as error:
        reason = h5py_reason(error)
        if "unable to lock file" in str(error):
            message = f"cannot be locked: {reason}; copy it to another disk, {unlocked}"
            raise AddressError(message, address=shown) from None
        raise FormatError(f"cannot be opened as HDF5: {reason}", address=shown) from None


def is_sound(kind: Any) -> bool:
    """Whether a number's bits are all within it: HDF5 converts others too, and crashes."""
    if not isinstance(kind, h5py.h5t.TypeIntegerID | h5py.h5t.TypeFloatID):
        return True
    bits = kind.get_precision()
    fields = [(kind.get_offset(), bits, 8 * kind.get_size())]
    if isinstance(kind, h5py.h5t.TypeFloatID):
        sign, exponent, exponent_size, mantissa, mantissa_size = kind.get_fields()
        fields += [(sign, 1, bits), (exponent, exponent_size, bits), (mantissa, mantissa_size, bits)]
    return all(start + length <= room for start, length, room in fields)


class ForeignLinkError(AddressError):
    """A link leads into another file, which was not permitted."""


def lookup(file: h5py.File, name: str, *, external: bool = False, shown: str | None = None) -> Any:
    """The object at `name`, or None where there is none, or a link that leads nowhere.

    `shown` is what messages call the file. Links are followed one by one: h5py itself would open the other
    file to see whether it is there. Raises ForeignLinkError unless `external` links may be followed,
    FormatError for what is damaged.
    """
    address = f"{shown or file.filename}::{name}"
    with translated(FormatError, address):
        at = _lookup(file, name, address, external)
        kinds = {h5py.h5g.GroupID: h5py.Group, h5py.h5d.DatasetID: Dataset}
        return at and kinds.get(type(at), h5py.Datatype)(at)


def _lookup(file: h5py.File, name: str, address: str, external: bool) -> Any:
    at = h5py.h5g.open(file.id, b"/")
    todo = _parts(encoded(name))
    followed, foreign = 0, False
    while todo:
        part = todo.pop(0)
        if not isinstance(at, h5py.h5g.GroupID) or not at.links.exists(part):
            return None
        kind = at.links.get_info(part).type
        if kind == h5py.h5l.TYPE_HARD:
            at = h5py.h5o.open(at, part)
            continue
        followed += 1
        if followed > MOST_LINKS:
            return None
        target = at.links.get_val(part)
        if kind == h5py.h5l.TYPE_SOFT:
            todo = _parts(target) + todo
            if target.startswith(b"/"):
                at = h5py.h5g.open(file.id, b"/")
        elif external:
            at = h5py.h5o.open(at, part)
            foreign = True
        else:
            where = os.fsdecode(target[0]) if kind == h5py.h5l.TYPE_EXTERNAL else "a place of its own"
            raise ForeignLinkError(f"leads into another file, {where!r}; {PERMIT}", address=address)
    if foreign and isinstance(file, ReadFile):
        file.foreign.append(at)
    return at


def _parts(path: bytes) -> list[bytes]:
    return [part for part in path.split(b"/") if part not in (b"", b".")]


def require_own(dataset: h5py.Dataset, address: str, *, external: bool = False) -> None:
    """Raise AddressError where values lie in other files, unless `external`; or where they are missing.

    HDF5 reads fill values for a source that is missing, without a word.
    """
    with translated(FormatError, address):
        _require_own(dataset, address, external, [], set())


def _require_own(
    dataset: h5py.Dataset, address: str, external: bool, within: list[Any], seen: set[tuple[int, int]]
) -> None:
    """As `require_own`, of a source of the datasets `within`. Those in `seen` have been looked at."""
    for name, offset, size in dataset.storage.files:
        where = os.fsdecode(name)
        if not external:
            raise AddressError(f"keeps its values in another file, {where!r}; {PERMIT}", address=address)
        path = _beside(dataset, where)
        if path is None or (size < 2**63 and os.path.getsize(path) < offset + size):
            raise AddressError(f"keeps its values in {where!r}, which is missing or short", address=address)
    if dataset.storage.layout != h5py.h5d.VIRTUAL:
        return
    if dataset in within:
        raise FormatError("is a virtual dataset made of itself", address=address)
    if len(within) > MOST_LEVELS:
        message = f"is a virtual dataset of virtual ones, on more than {MOST_LEVELS} levels"
        raise FormatError(message, address=address)
    if object_of(dataset) in seen:
        return
    seen.add(object_of(dataset))
    for source in _sources(dataset):
        if source.file == ".":
            _require_source(dataset.file, source, address, external, [*within, dataset], seen)
            continue
        if not external:
            message = f"is a virtual dataset of values in another file, {source.file!r}; {PERMIT}"
            raise AddressError(message, address=address)
        path = _beside(dataset, source.file)
        if path is None:
            raise AddressError(f"is a virtual dataset of {source.file!r}, which is missing", address=address)
        with open_file(path) as file:
            _require_source(file, source, address, external, [*within, dataset], seen)


class _VirtualSource(NamedTuple):
    file: str
    name: str


def _sources(dataset: Dataset) -> list[_VirtualSource]:
    """Return each file and dataset that a virtual dataset names, the first of those that are numbered."""
    with closing(dataset.id.get_create_plist()) as settings:
        pairs = dict.fromkeys(
            (_text(settings.get_virtual_filename, index), _text(settings.get_virtual_dsetname, index))
            for index in range(settings.get_virtual_count())
        )
    return [_VirtualSource(*(text.replace("%b", "0").replace("%%", "%") for text in pair)) for pair in pairs]


def _text(get: Callable[[int], str], index: int) -> str:
    """Return a name that need not be UTF-8, though h5py takes it for that."""
    try:
        return get(index)
    except UnicodeDecodeError as error:
        return error.object.decode("utf-8", "surrogateescape")


def _require_source(
    file: h5py.File,
    source: _VirtualSource,
    address: str,
    external: bool,
    within: list[Any],
    seen: set[tuple[int, int]],
) -> None:
    try:
        found = lookup(file, source.name, external=external)
    except ForeignLinkError as error:
        raise AddressError(error.message, address=address) from None
    if not isinstance(found, h5py.Dataset):
        what = source.name if source.file == "." else f"{source.file}::{source.name}"
        raise AddressError(f"is a virtual dataset of {what!r}, which is missing", address=address)
    _require_own(found, address, external, within, seen)


def _beside(dataset: h5py.Dataset, path: str) -> str | None:
    """Where HDF5 finds that file: as said, or beside the one that names it."""
    for place in (path, os.path.join(os.path.dirname(dataset.file.filename), path)):
        if os.path.isfile(place):
            return place
    return None


def require_stored(dataset: Dataset, file: ReadFile, address: str) -> None:
    """Raise FormatError where too little is stored for what the dataset declares to hold.

    The same holds for the datasets of `file` that are read one after another: what they declare beyond what
    they store is counted together.
    """
    declared = dataset.declared_bytes
    if declared <= SMALL:
        return
    stored = _stored(dataset, set())
    if declared > LIKELY * stored:
        file.blank[object_of(dataset)] = declared - LIKELY * stored
        blank = sum(file.blank.values())
        if max(declared, blank) > WORTH_A_DOUBT:
            message = f"declares {_binary(declared)}, stores {as_size(stored)}"
            if declared <= WORTH_A_DOUBT:
                message += f", and with others that were read, {_binary(blank)} more than there is"
            raise FormatError(f"{message}; if you believe it, --force reads it", address=address)
    _require_chunks(dataset, address)


def _require_chunks(dataset: Dataset, address: str) -> None:
    """Raise FormatError where the dataset declares a great many chunks more than it stores.

    HDF5 takes a microsecond and more for each, whether it is there or not.
    """
    if not dataset.chunks:
        return
    declared = prod(-(-n // chunk) for n, chunk in zip(dataset.shape, dataset.chunks, strict=True))
    if declared > MANY_CHUNKS and declared > SPARSE * (stored := dataset.id.get_num_chunks()):
        message = f"declares {declared} chunks, stores {stored}; if you believe it, --force reads it"
        raise FormatError(message, address=address)


def object_of(dataset: h5py.Dataset) -> tuple[int, int]:
    """Return what tells the object from all others that are open: its file and its address there."""
    info = h5py.h5o.get_info(dataset.id)
    return info.fileno, info.addr


def _stored(dataset: h5py.Dataset, seen: set[tuple[int, int]]) -> int:
    """Return how many bytes the file has of the dataset's values, or at most has: they may overlap.

    What is in `seen` has been counted.
    """
    if object_of(dataset) in seen:
        return 0
    seen.add(object_of(dataset))
    if dataset.storage.files:
        declared: int = dataset.declared_bytes  # require_own has looked
        return declared
    if dataset.storage.layout != h5py.h5d.VIRTUAL:
        size: int = dataset.id.get_storage_size()
        return min(size, os.path.getsize(dataset.file.filename))
    total = 0
    for source in _sources(dataset):
        if source.file == ".":
            total += _stored(lookup(dataset.file, source.name, external=True), seen)
        elif path := _beside(dataset, source.file):
            total += os.path.getsize(path)
    return total


def _binary(count: float) -> str:
    for unit in ("B", "kiB", "MiB", "GiB", "TiB", "PiB"):
        if count < 1024:
            return f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} EiB"
