"""What a library does to a helper process of a worker is an error of the task that it did."""

from __future__ import annotations

import os
import pickle
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import misbehave
import pytest

from gncli import helpers
from gncli.containment import Child
from gncli.errors import BudgetError, CrashError, GnError
from gncli.helpers import Limits, perform_safely

LIMITS = Limits(memory=1 << 20, seconds=1.0)

pytestmark = pytest.mark.skipif(not Child.can_be_spawned(), reason="there are no helpers without posix_spawn")


@pytest.fixture(autouse=True)
def _dismissed() -> Iterator[None]:
    yield
    helpers.dismiss_all()


def perform(way: str, mark: str = "gncli.tensors.hdf5") -> list[object]:
    """What comes of that misbehaviour in a task that has to do with HDF5."""
    found: list[object] = perform_safely(pickle.dumps(partial(misbehave.outcome, way, mark)), LIMITS)
    return found


def test_only_what_touches_hdf5_is_done_by_a_helper() -> None:
    assert perform("behave", "gncli.tensors.npy") == [os.getpid()]
    assert perform("behave") != [os.getpid()]


def test_a_helper_is_kept_and_one_that_died_is_replaced() -> None:
    first = perform("behave")
    assert perform("behave") == first
    for way in ("crash", "leave", "abort"):
        with pytest.raises(CrashError, match=r"^the HDF5 library crashed on this file$"):
            perform(way)
        assert perform("behave") != first


def test_a_helper_that_died_idle_is_replaced() -> None:
    (pid,) = perform("behave")
    os.kill(int(str(pid)), 9)
    while helpers._idle[0].is_alive():
        time.sleep(0.01)
    assert perform("behave") != [pid]


def test_limits_and_errors() -> None:
    with pytest.raises(BudgetError, match="needs more memory than --memory 1048576 allows"):
        perform("gorge")
    with pytest.raises(CrashError, match="comes to no end"):
        perform("loop")
    with pytest.raises(GnError, match=r"^f\.h5: is refused$"):
        perform("refuse")


def test_helpers_at_the_same_time() -> None:
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(perform, ["behave", "babble", "behave"]))
    assert found[1] == ["done"]
    helpers.release_all(os.getpid)
    assert len(helpers._idle) <= 3


def test_the_environment_of_a_helper(monkeypatch: pytest.MonkeyPatch) -> None:
    """HDF5 loads no libraries by it, whoever started the worker."""
    monkeypatch.setenv("HDF5_PLUGIN_PATH", "/somewhere")
    assert perform("environment") == [None, "1"]
