"""What must not outlast the command, however it ends: temporary files, and the spool of a pipe."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from contextlib import suppress

_LEFT: dict[Hashable, Callable[[], object]] = {}


def clear_later(key: Hashable, action: Callable[[], object]) -> None:
    """Have `clear` do it, unless `is_cleared` is told before."""
    _LEFT[key] = action


def is_cleared(key: Hashable) -> None:
    _LEFT.pop(key, None)


def clear() -> None:
    """Do all of it now. From any thread, also while others still write to what is removed."""
    while _LEFT:
        with suppress(KeyError, OSError):
            _LEFT.popitem()[1]()
