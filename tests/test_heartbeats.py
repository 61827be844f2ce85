"""Workers are silent by what the scheduler heard of them, not by anybody's clock."""

from __future__ import annotations

from gncli.heartbeats import Heartbeats


def test_a_worker_of_which_nothing_is_heard_is_silent() -> None:
    beats = Heartbeats()
    for second in range(4):
        beats.note({"a": 7.0 + second, "b": 9.0}, 1.0)
        assert beats.silent(3.0) == ({"b"} if second == 3 else set())
    beats.note({"a": 10.5, "b": 9.5}, 1.0)
    assert beats.silent(1.0) == set()


def test_a_worker_that_left_and_one_that_is_new_are_not_silent() -> None:
    beats = Heartbeats()
    beats.note({"a": 1.0}, 1.0)
    beats.note({"b": 1.0}, 5.0)
    assert beats.silent(1.0) == set()
    beats.note({"a": 1.0, "b": 1.0}, 2.0)
    assert beats.silent(1.0) == {"b"}
