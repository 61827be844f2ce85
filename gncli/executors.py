"""Where tasks run: in processes forked from this one, or in threads.

numpy lets go of the interpreter's lock in its loops, but at some 20 µs a call two threads spend what they
gain on handing the lock to and fro; forked processes do not. What they need they have from the fork, and
what they write they write to files, so little goes between them. Threads serve where that is not so:
arrays in memory, HDF5, and systems where forking is not safe.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import TypeVar

_WORTH_FORKING = 64 << 20  # bytes, of which one process does some 500 MB a second; two cost 30 ms

Task = TypeVar("Task")
Result = TypeVar("Result")


def usable_cores() -> int:
    """Cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def threads(jobs: int) -> Executor:
    return ThreadPoolExecutor(jobs, thread_name_prefix="gn")


def workers(jobs: int, size: int, *, forkable: bool) -> Executor:
    """Processes where what the tasks use may be forked and `size`, in bytes, is worth it; else threads."""
    if jobs > 1 and size >= _WORTH_FORKING and forkable and _may_fork():
        return _processes(jobs)
    return threads(jobs)


def _processes(jobs: int) -> Executor:
    """Forked at the first task. Objects made before then are there in the workers."""
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import get_context

    return ProcessPoolExecutor(jobs, get_context("fork"), _be_worker, (os.getpid(),))


def _may_fork() -> bool:
    """Elsewhere than on Linux, and beside other threads, a forked process may hang."""
    return sys.platform == "linux" and threading.active_count() == 1


def _be_worker(parent: int) -> None:
    """Leave signals to the parent, and do not outlive it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_watch, args=(parent,), daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.2)
    os._exit(1)


def in_order(
    executor: Executor, function: Callable[[Task], Result], tasks: Iterable[Task], ahead: int
) -> Iterator[Result]:
    """The results in the order of the tasks, with at most `ahead` of them under way.

    An exception in a task surfaces here; what has not begun is then cancelled, what has is waited for.
    """
    under_way: deque[Future[Result]] = deque()
    try:
        for task in tasks:
            under_way.append(executor.submit(function, task))
            if len(under_way) >= ahead:
                yield under_way.popleft().result()
        while under_way:
            yield under_way.popleft().result()
    finally:
        for future in under_way:
            future.cancel()
        for future in under_way:
            if not future.cancelled():
                future.exception()
