"""The line for a person who waits: when it appears, what it says, and that it is gone at the end."""

from __future__ import annotations

import io
import re
from collections.abc import Callable

import pytest

from gncli import progress, words
from gncli.progress import Progress
from gncli.report import reporting, say


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Sets the time that the line is told."""
    now = [0.0]
    monkeypatch.setattr("gncli.progress.time.monotonic", lambda: now[0])

    def at(seconds: float) -> None:
        now[0] = seconds

    return at


def test_nothing_is_said_within_the_first_second(clock: Callable[[float], None]) -> None:
    stream = Terminal()
    with Progress("x.npy", 1000, None, stream) as line:
        clock(0.9)
        line.advance(500)
    assert stream.getvalue() == ""


def test_bytes_speed_and_time_left_then_an_empty_line(clock: Callable[[float], None]) -> None:
    stream = Terminal()
    with Progress("x.npy", 4_000_000_000, None, stream) as line:
        clock(2.0)
        line.advance(1_000_000_000)
    assert stream.getvalue() == "\rgn: x.npy: 1 GB of 4 GB, 500 MB/s, 6 s left\x1b[K\r\x1b[K"


def test_a_bar_on_a_terminal(clock: Callable[[float], None]) -> None:
    terminal, log = Terminal(), io.StringIO()
    for stream in (terminal, log):
        clock(0.0)
        with Progress("1 of 4 files", 4000, True, stream, bar=True) as line:
            clock(2.0)
            line.advance(1000)
            line.label = "4 of 4 files"
            clock(4.0)
            line.advance(3500)  # more than was foreseen
    full = "gn: [####################] 4 of 4 files: 4.5 kB of 4 kB, 1.12 kB/s, 0 s left"
    assert terminal.getvalue().split("\r")[1:3] == [
        "gn: [#####               ] 1 of 4 files: 1 kB of 4 kB, 500 B/s, 6 s left\x1b[K",
        f"{full}\x1b[K",
    ]
    assert log.getvalue().splitlines()[1] == full.replace("[####################] ", "")


def test_it_makes_way_for_words(
    clock: Callable[[float], None], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stream = Terminal()
    monkeypatch.setattr("sys.stderr", stream)
    with Progress("x", 4000, None) as line:
        clock(2.0)
        line.advance(1000)
        say("warning", "first")
        say("warning", "second")
        with reporting("json") as show:
            show({"a": 1})
        clock(3.0)
        line.advance(1000)
        with reporting("json") as show:
            show({"a": 2})
    shown = re.sub(r"gn: x: [^\x1b]*", "LINE", stream.getvalue())
    assert shown == "\rLINE\x1b[K\r\x1b[Kgn: warning: first\ngn: warning: second\n\rLINE\x1b[K\r\x1b[K"
    assert capsys.readouterr().out == '{"a": 1}\n{"a": 2}\n'


def test_a_terminal_is_not_flooded(clock: Callable[[float], None]) -> None:
    stream = Terminal()
    with Progress("x.npy", 1000, None, stream) as line:
        for tick in range(200):
            clock(1.0 + tick / 1000)
            line.advance(1)
    assert stream.getvalue().count("gn: x.npy") == 2


def test_off_a_terminal_nothing_unless_asked_for(clock: Callable[[float], None]) -> None:
    quiet, asked = io.StringIO(), io.StringIO()
    for show, stream in ((None, quiet), (True, asked)):
        clock(0.0)
        with Progress("x.npy", 2000, show, stream) as line:
            clock(1.0)
            line.advance(1000)
    assert (quiet.getvalue(), asked.getvalue()) == ("", "gn: x.npy: 1 kB of 2 kB, 1 kB/s, 1 s left\n")


def test_never_where_it_is_refused(clock: Callable[[float], None]) -> None:
    stream = Terminal()
    with Progress("x.npy", 2000, False, stream) as line:
        clock(5.0)
        line.advance(1000)
    assert stream.getvalue() == ""


@pytest.mark.parametrize(("seconds", "shown"), [(0.4, "0 s"), (59.6, "1:00"), (61, "1:01"), (3600, "60:00")])
def test_time(seconds: float, shown: str) -> None:
    assert progress._time(seconds) == shown


@pytest.mark.parametrize(
    ("count", "shown"), [(0, "0 B"), (999, "999 B"), (1234, "1.23 kB"), (5e9, "5 GB"), (4.2e12, "4.2 TB")]
)
def test_size(count: float, shown: str) -> None:
    assert words.as_size(count) == shown
