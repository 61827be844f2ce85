"""Callbacks that run however the command ends: they remove temporary files, and stop what was started."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from contextlib import suppress

Observer = Callable[[str, Hashable], None]  # "temporary" or "released", and the key

_LEFT: dict[Hashable, Callable[[], object]] = {}
_observer: Observer | None = None


def clear_later(key: Hashable, action: Callable[[], object]) -> None:
    """Have `clear` call `action`, unless `is_cleared(key)` is called before."""
    if _observer:
        _observer("temporary", key)
    _LEFT[key] = action


def is_cleared(key: Hashable) -> None:
    """Forget what was registered as `key`: it has been done."""
    if _LEFT.pop(key, None) and _observer:
        _observer("released", key)


def start_over(observer: Observer) -> None:
    """Forget everything, which is now another process's to do, and tell `observer` of what is to come."""
    global _observer
    _LEFT.clear()
    _observer = observer


def clear() -> None:
    """Call all of them now. From any thread, also while others still write to what is removed."""
    while _LEFT:
        with suppress(KeyError, OSError):
            _LEFT.popitem()[1]()
