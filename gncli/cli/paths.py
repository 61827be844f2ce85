"""Paths that a command reads and writes: a file that it writes may have no other part in it."""

from __future__ import annotations

import os
import stat
from collections.abc import Hashable, Iterable
from typing import NamedTuple

from gncli.errors import UsageError


class NamedFile(NamedTuple):
    """An address, and what it is to the command."""

    role: str  # as "the input", "--gamma"
    address: str
    origin: str | None = None  # of an output, the input, which it may replace


def require_apart(reads: Iterable[NamedFile], writes: Iterable[NamedFile]) -> None:
    """Raise UsageError where a file that is written is one that is read, or written by another name.

    Symbolic and hard links name the file that they lead to. Of HDF5 files that are added to, datasets of
    different paths are apart.
    """
    from gncli.tensors.address import split

    names: dict[str, set[Hashable]] = {}

    def names_of(path: str) -> set[Hashable]:
        if path not in names:
            names[path] = _names(path)
        return names[path]

    used: dict[Hashable, dict[str | None, dict[str, NamedFile]]] = {}  # by the file, and the path in it

    def use(one: NamedFile, file: str, inside: str | None) -> None:
        for name in names_of(file):
            used.setdefault(name, {}).setdefault(inside, {}).setdefault(file, one)

    for read in reads:
        use(read, *split(read.address))
    for write in dict.fromkeys(writes):
        file, inside = split(write.address)
        own = names_of(split(write.origin)[0]) if write.origin is not None else set()
        for name in names_of(file) - own:
            held = used.get(name, {})
            paths = held if inside is None else [path for path in (None, inside) if path in held]
            for other, user in (one for path in paths for one in held[path].items()):
                same_output = user.role == write.role and os.path.realpath(other) == os.path.realpath(file)
                if not same_output:
                    hint = f"{write.role} would overwrite {user.role} {user.address}; name another file"
                    raise UsageError(hint, address=write.address)
        use(write, file, inside)


def _names(path: str) -> set[Hashable]:
    """Return what two paths have in common if they name one file; nothing for pipes and devices."""
    if path == "-":
        return set()
    try:
        held = os.stat(path)
    except (OSError, ValueError):  # it is yet to be made, or is an error elsewhere
        return {os.path.realpath(path)} if "\0" not in path else set()
    return {os.path.realpath(path), (held.st_dev, held.st_ino)} if stat.S_ISREG(held.st_mode) else set()
