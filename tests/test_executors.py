"""gncli.executors: order, bounds, exceptions; and forked workers of the real command, killed and all."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gncli import executors
from gncli.errors import FormatError, GnError
from gncli.executors import in_order, usable_cores, workers

LARGE = 512 << 20  # bytes: a second's work or so, long enough to be disturbed

linux = pytest.mark.skipif(sys.platform != "linux", reason="workers are forked on Linux only")


class AtOnce(Executor):
    """Runs each task as it is submitted, and counts them."""

    submitted = 0

    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        self.submitted += 1
        future: Future[Any] = Future()
        try:
            future.set_result(function(*args, **kwargs))
        except Exception as error:  # noqa: BLE001 - as executors do
            future.set_exception(error)
        return future


def square(number: int) -> int:
    return number * number


# in_order


@pytest.mark.parametrize("ahead", [1, 2, 7, 100])
def test_results_come_in_order(ahead: int) -> None:
    """Also where the first take longest."""
    turn = threading.Semaphore(0)

    def late(number: int) -> int:
        if number % 3 == 0 and ahead > 1:
            turn.acquire(timeout=10)
        else:
            turn.release()
        return number

    with ThreadPoolExecutor(8) as executor:
        assert list(in_order(executor, late, range(31), ahead)) == list(range(31))


def test_no_tasks_no_results() -> None:
    assert list(in_order(AtOnce(), square, [], 4)) == []


@pytest.mark.parametrize("ahead", [1, 2, 5])
def test_no_more_are_under_way_than_is_said(ahead: int) -> None:
    """Tasks are drawn as they are needed, even from a source without end; results are not hoarded."""
    executor, drawn = AtOnce(), 0

    def tasks() -> Iterator[int]:
        nonlocal drawn
        for number in count():
            drawn += 1
            yield number

    results = in_order(executor, square, tasks(), ahead)
    for taken in range(50):
        assert next(results) == taken * taken
        assert executor.submitted == drawn == taken + ahead
    results.close()  # type: ignore[attr-defined]
    assert drawn == 49 + ahead


def test_an_exception_surfaces_before_further_tasks_are_drawn() -> None:
    def fails(number: int) -> int:
        if number == 3:
            raise FormatError("is cut off", address="x.npy")
        return number

    executor, seen = AtOnce(), []
    with pytest.raises(FormatError, match=r"^x\.npy: is cut off$"):
        for result in in_order(executor, fails, count(), 4):
            seen.append(result)  # noqa: PERF402 - what came before the exception
    assert seen == [0, 1, 2]
    assert executor.submitted == 3 + 4


@pytest.mark.parametrize("end", ["a task fails", "the consumer leaves"])
def test_what_is_under_way_is_waited_for(end: str) -> None:
    """When the generator is left, nothing that it began still reads or writes."""
    gate, begun, ended = threading.Event(), threading.Semaphore(0), []

    def four_begun() -> bool:
        """Whether tasks 1 to 4, or where 1 fails 2 to 5, run: one that only waits its turn is cancelled."""
        return all(begun.acquire(timeout=60) for _ in range(4))

    def task(number: int) -> int:
        if number == 1 and end == "a task fails":
            assert four_begun()
            raise ValueError("second")
        if number > 0:
            begun.release()
        if number > 1:
            assert gate.wait(60)
        ended.append(number)
        return number

    with ThreadPoolExecutor(8) as executor:
        results: Iterator[Any] = in_order(executor, task, count(), 5)
        assert next(results) == 0
        opener = threading.Timer(0.05, gate.set)
        if end == "a task fails":
            opener.start()
            with pytest.raises(ValueError, match="second"):
                next(results)
            assert sorted(ended) == [0, 2, 3, 4, 5]
        else:
            assert four_begun()
            opener.start()
            results.close()  # type: ignore[attr-defined]
            assert sorted(ended) == [0, 1, 2, 3, 4]
        opener.join()


# workers


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in the command: this process has one thread, whatever other tests have left."""
    monkeypatch.setattr(threading, "active_count", lambda: 1)


@linux
@pytest.mark.parametrize(
    ("jobs", "size", "forkable", "pace", "kind"),
    [
        (2, 1 << 30, True, 1, ProcessPoolExecutor),
        (2, executors._WORTH_FORKING, True, 1, ProcessPoolExecutor),
        (2, executors._WORTH_FORKING - 1, True, 1, ThreadPoolExecutor),
        (2, executors._WORTH_FORKING * 8, True, executors.NORMALIZING, ProcessPoolExecutor),
        (2, executors._WORTH_FORKING * 8 - 1, True, executors.NORMALIZING, ThreadPoolExecutor),
        (2, executors._WORTH_FORKING * 8, True, executors.MEASURING, ThreadPoolExecutor),
        (1, 1 << 30, True, 1, executors.AtOnce),
        (2, 1 << 30, False, 1, ThreadPoolExecutor),
    ],
)
def test_processes_where_they_are_worth_it(
    jobs: int, size: int, forkable: bool, pace: int, kind: type[Executor], alone: None
) -> None:
    with workers(jobs, size, forkable=forkable, pace=pace) as executor:
        assert isinstance(executor, kind)


def test_no_fork_beside_other_threads() -> None:
    with ThreadPoolExecutor(1) as busy:
        busy.submit(int)
        with workers(2, 1 << 30, forkable=True) as executor:
            assert type(executor) is ThreadPoolExecutor


def test_usable_cores() -> None:
    assert 1 <= usable_cores() <= (os.cpu_count() or 1)


FORKED = """
import os, pickle, sys
from gncli.errors import *
from gncli.executors import in_order, workers

def task(number):
    if number == 5:
        raise NonFiniteError("holds NaN", address="here.npy")
    return number, os.getpid()

seen = []
with workers(2, 1 << 30, forkable=True) as executor:
    try:
        for number, pid in in_order(executor, task, range(1000), 4):
            seen.append(number)
            assert pid != os.getpid()
    except GnError as error:
        print(seen, type(error).__name__, error, error.address, error.exit_code)
"""


@linux
def test_an_exception_of_a_forked_worker_is_whole() -> None:
    done = subprocess.run([sys.executable, "-c", FORKED], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "[0, 1, 2, 3, 4] NonFiniteError here.npy: holds NaN here.npy 1\n"


def test_errors_survive_pickling_with_their_address() -> None:
    error = pickle.loads(pickle.dumps(FormatError("is cut off", address="x.npy")))
    assert isinstance(error, GnError)
    assert str(error.at("y.npy")) == "x.npy: is cut off"


# The real command, on files that processes are used for


@pytest.fixture
def large(tmp_path: Path) -> Iterator[Path]:
    """(8, 64, …) float32 zeros, sparse, in a folder that is emptied again."""
    room = os.statvfs(tmp_path)
    if room.f_bavail * room.f_frsize < 2 * LARGE:
        pytest.skip(f"{tmp_path} has no room for {2 * LARGE} bytes")
    path = tmp_path / "x.npy"
    with path.open("wb") as file:
        shape = (8, 64, 1024, LARGE // (8 * 64 * 1024 * 4))
        np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})
        file.truncate(file.tell() + LARGE)
    yield path
    for left in tmp_path.iterdir():
        left.unlink()


def children(parent: int) -> list[int]:
    """Pids of the living processes whose parent it is."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:  # it is gone
            continue
        if int(fields[1]) == parent and fields[0] != "Z":
            found.append(int(stat.parent.name))
    return found


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def until(condition: Callable[[], Any], seconds: float) -> Any:
    """What `condition` gives as soon as it is true; its last value if it never is."""
    end = time.monotonic() + seconds
    while not (found := condition()) and time.monotonic() < end:
        time.sleep(0.005)
    return found


def start(path: Path) -> tuple[subprocess.Popen[str], list[int]]:
    """`gn normalize` under way, and its two workers."""
    process = subprocess.Popen(
        [sys.executable, "-m", "gncli", "normalize", path.name, "-j", "2", "-q"],
        cwd=path.parent, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip
    found: list[int] = until(lambda: len(pids := children(process.pid)) == 2 and pids, 120) or []
    assert len(found) == 2, process.communicate(timeout=60)
    return process, found


@linux
def test_a_killed_worker_is_an_error_of_one_line(large: Path) -> None:
    process, pids = start(large)
    os.kill(pids[1], signal.SIGKILL)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (1, "")
    assert err.startswith("gn: error: x.npy: a worker was killed")
    assert err.count("\n") == 1
    assert os.listdir(large.parent) == ["x.npy"]
    assert not any(map(alive, pids))


@linux
@pytest.mark.parametrize(
    ("number", "whole_group", "code"),
    [
        (signal.SIGINT, True, 130),  # Ctrl-C goes to every process of the terminal's group
        (signal.SIGINT, False, 130),
        (signal.SIGTERM, False, 143),
        (signal.SIGTERM, True, 143),  # as timeout(1) ends what it started
        (signal.SIGHUP, True, 129),
    ],
)
def test_signals_end_the_workers_too(large: Path, number: int, whole_group: bool, code: int) -> None:
    process, pids = start(large)
    (os.killpg if whole_group else os.kill)(process.pid, number)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (code, "", "")
    assert os.listdir(large.parent) == ["x.npy"]
    # A worker that is in the middle of a block sees soon that it is alone.
    assert until(lambda: not any(map(alive, pids)), 60)


INTERRUPTED_FORK = """
import os, sys
from gncli.cli import main

fork, forks, at, number = os.fork, 0, *map(int, sys.argv.pop().split())

def interrupted():
    global forks
    pid = fork()
    if pid:
        forks += 1
        if forks == at:
            os.kill(os.getpid(), number)
    return pid

os.fork = interrupted
main()
"""


@linux
@pytest.mark.parametrize("fork", [1, 2])
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_while_workers_are_forked(large: Path, number: int, code: int, fork: int) -> None:
    """Half a pool would wait for ever, or the signal be lost in a handler of the fork."""
    words = ["-c", INTERRUPTED_FORK, "normalize", large.name, "-j", "2", "-q", f"{fork} {int(number)}"]
    with subprocess.Popen(
        [sys.executable, *words], cwd=large.parent, text=True, stderr=subprocess.PIPE, start_new_session=True
    ) as process:
        try:
            _, err = process.communicate(timeout=120)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise
    assert (process.returncode, err) == (code, "")
    assert os.listdir(large.parent) == ["x.npy"]


@linux
def test_workers_do_not_outlive_a_killed_parent(large: Path) -> None:
    process, pids = start(large)
    process.kill()
    process.wait(timeout=60)
    assert until(lambda: not any(map(alive, pids)), 60), "they are still there"
    for pipe in (process.stdout, process.stderr):
        assert pipe is not None
        assert pipe.read() == ""
        pipe.close()
    left = [name for name in os.listdir(large.parent) if name != "x.npy"]
    assert all(name.startswith(".x.gn.npy.gn-") and name.endswith(".tmp") for name in left)
