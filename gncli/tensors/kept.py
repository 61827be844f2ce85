"""Input files that stay open from one tensor of theirs to the next. Knows no format, and loads no library."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import RLock
from typing import Any

from gncli.tensors.address import identity

MOST = 8  # files that are open for nobody


@dataclass
class _Kept:
    path: str
    identity: tuple[int, ...]
    file: Any  # with a method `close`, which asks `give_back` first
    users: int = 1


_kept: list[_Kept] = []  # the latest last
_lent: list[_Kept] = []  # to users that were left when the file was not kept any more
_scopes = 0
_lock = RLock()


@contextmanager
def keep_open() -> Iterator[None]:
    """Within, files that were opened by `borrow` and `keep` stay open when they are given back."""
    global _scopes
    with _lock:
        _scopes += 1
    try:
        yield
    finally:
        with _lock:
            _scopes -= 1
            if not _scopes:
                _drop(list(_kept))


def is_kept(path: str) -> bool:
    """Whether a file that was opened at `path` is open still. Another one may be there by now."""
    return any(kept.path == path for kept in _kept)


def borrow(path: str) -> Any:
    """The open file at `path`, to be given back; None where it is to be opened, and `keep` to be told."""
    if not _scopes:
        return None
    with _lock:
        found = next((kept for kept in _kept if kept.path == path), None)
        if found is None:
            return None
        if found.identity != identity(path):
            _drop([found])
            return None
        found.users += 1
        return found.file


def keep(path: str, before: tuple[int, ...] | None, file: Any) -> None:
    """Have others borrow `file`, which was just opened at `path`; `before` is its identity then."""
    with _lock:
        if _scopes and before is not None:
            unused = [kept for kept in _kept if not kept.users]
            _drop(unused[: max(0, len(_kept) + 1 - MOST)])
            _kept.append(_Kept(path, before, file))


def give_back(file: Any) -> bool:
    """Whether `file`, which a user closes, stays open for others."""
    with _lock:
        for files in (_kept, _lent):
            for kept in files:
                if kept.file is file:
                    kept.users -= 1
                    if files is _lent and not kept.users:
                        _lent.remove(kept)
                        return False
                    return True
    return False


def _drop(files: list[_Kept]) -> None:
    """Close the files, those that are in use once they are given back."""
    for kept in files:
        _kept.remove(kept)
        if kept.users:
            _lent.append(kept)
        else:
            kept.file.close()
