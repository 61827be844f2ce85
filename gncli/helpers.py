"""Helper processes of a Dask worker. They touch HDF5 for it, so that a crash in there is the task's error.

A worker has several threads, beside which no process must be forked. So a helper is an interpreter of its
own, which then lives as the children of `containment` do. A worker has one for each task at a time, and keeps
them until the command is done.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, NamedTuple

from gncli.containment import SECONDS, Child
from gncli.errors import CrashError
from gncli.executors import perform

_idle: list[Child] = []
_releases = 0  # a helper that was at work meanwhile is dismissed when it is done


class Limits(NamedTuple):
    """The limits of a task: bytes of buffers, and seconds of CPU time for each block."""

    memory: int
    seconds: float


def perform_safely(work: bytes, limits: Limits) -> Any:
    """Return what a pickled task returns. It runs in a helper if it touches HDF5.

    Raises CrashError if the helper died of it, and whatever the task raises.
    """
    return call_safely(perform, work, limits)


def call_safely(function: Callable[[bytes], Any], data: bytes, limits: Limits) -> Any:
    """Return `function(data)`, from a helper if the pickled `data` touch HDF5."""
    if not _touches_hdf5(data) or not Child.can_be_spawned():
        return function(data)
    releases = _releases
    helper = _take(limits.memory)
    try:
        return _ask(helper, function, data, limits.seconds)
    finally:
        if helper.busy or releases != _releases:
            helper.discard()
        else:
            _idle.append(helper)


def release_all(function: Callable[[], object]) -> None:
    """Call `function`, which closes files, in all helpers."""
    global _releases
    _releases += 1
    for helper in list(_taken()):
        with suppress(CrashError):
            _ask(helper, _without_data, function, SECONDS)
        if helper.busy:  # it has died
            helper.discard()
        else:
            _idle.append(helper)


def dismiss_all() -> None:
    """End the helpers."""
    global _releases
    _releases += 1
    for helper in _taken():
        helper.discard()


def _touches_hdf5(data: bytes) -> bool:
    """Return whether a pickled object has to do with HDF5: it names the modules that do."""
    return b"gncli.tensors.hdf5" in data


def _ask(helper: Child, function: Callable[[Any], Any], argument: object, seconds: float) -> Any:
    """Return `function(argument)`, from the helper, which is `busy` afterwards if it has died."""
    from gncli.contained import Call  # loads gncli.tensors, which a scheduler need not have

    helper.send(Call(_as_only_item, (function, argument), False, seconds))
    result = None
    while True:
        kind, value = helper.receive(None)
        if kind == "item":
            result = value
        elif kind == "error":
            raise value
        elif kind == "end":
            return result


def _as_only_item(function: Callable[[Any], Any], argument: object) -> Iterator[Any]:
    yield function(argument)


def _without_data(function: Callable[[], object]) -> None:
    function()


def _take(memory: int) -> Child:
    """Return a helper with that limit, an idle one if there is one."""
    for helper in _taken():
        if helper.memory == memory and helper.is_alive():
            return helper
        helper.discard()
    return Child.spawned(memory)


def _taken() -> Iterator[Child]:
    """Yield idle helpers, which are idle no more. Other threads may take some, too."""
    while True:
        try:
            helper = _idle.pop()
        except IndexError:
            return
        yield helper
