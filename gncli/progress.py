"""How far a long run has come: a line on stderr, for a person who waits."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TextIO

from gncli.words import as_size, printable

PATIENCE = 1.0  # seconds before the first word, and between lines where none can be taken back
FLICKER = 0.1  # seconds between two states of a line on a terminal
BAR = 20  # characters


_UNDER_WAY: list[Progress] = []
_observer: Callable[[], object] | None = None


def on_advance(observer: Callable[[], object] | None) -> None:
    """Have `observer` called whenever some progress was made, in this process, shown or not."""
    global _observer
    _observer = observer


def alive() -> None:
    """Say that work goes on which has no line of progress."""
    if _observer:
        _observer()


def make_way() -> None:
    """Before anything else is said, on stderr or on a terminal's stdout."""
    for progress in _UNDER_WAY:
        progress.make_way()


class Progress:
    """Bytes done, speed and time left. `show`: always, never, or (None) on a terminal only.

    `bar`: draw one, on a terminal. A context manager: the line is gone at the end.
    """

    def __init__(
        self, label: str, total: int, show: bool | None, stream: TextIO | None = None, *, bar: bool = False
    ) -> None:
        self._stream = sys.stderr if stream is None else stream
        terminal = self._stream is not None and self._stream.isatty()
        self._shown = terminal if show is None else show and self._stream is not None
        self._start, self._end = ("\r", "\x1b[K") if terminal else ("", "\n")
        self._pause = FLICKER if terminal else PATIENCE
        self.label = label
        self._bar = bar and terminal
        self._total, self._done = total, 0
        self._began = time.monotonic()
        self._next = self._began + PATIENCE
        self._dirty = False

    def __enter__(self) -> Progress:
        _UNDER_WAY.append(self)
        return self

    def __exit__(self, *_: object) -> None:
        self.make_way()
        _UNDER_WAY.remove(self)

    def make_way(self) -> None:
        """Take the line back, if there is one, for other words to stand in its place."""
        if self._dirty and self._start:
            self._dirty = False
            self._write(self._start + self._end)

    def advance(self, count: int) -> None:
        """`count` more bytes are done."""
        self._done += count
        alive()
        now = time.monotonic()
        if not self._shown or now < self._next:
            return
        self._next = now + self._pause
        speed = self._done / (now - self._began)
        left = max(0, self._total - self._done) / speed if speed else 0.0
        done = f"{as_size(self._done)} of {as_size(self._total)}, {as_size(speed)}/s, {_time(left)} left"
        self._dirty = True
        full = BAR * min(self._done, self._total) // max(self._total, 1)
        bar = f"[{'#' * full:<{BAR}}] " if self._bar else ""
        self._write(f"{self._start}gn: {bar}{printable(self.label)}: {done}{self._end}")

    def _write(self, text: str) -> None:
        with suppress(OSError, ValueError):  # nobody watches any more
            self._stream.write(text)
            self._stream.flush()


def _time(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}" if minutes else f"{rest} s"
