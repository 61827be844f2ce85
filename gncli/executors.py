"""Where tasks run: in processes forked from this one, or in threads.

numpy lets go of the interpreter's lock in its loops, but at some 20 µs a call two threads spend what they
gain on handing the lock to and fro; forked processes do not. What they need they have from the fork, and
what they write they write to files, so little goes between them. Threads serve where that is not so:
arrays in memory, HDF5, and systems where forking is not safe; and where they are done before it pays.
"""

from __future__ import annotations

import gc
import os
import pickle
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import BrokenExecutor, Executor, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from functools import partial
from itertools import islice, repeat
from typing import Any, TypeVar

from gncli.errors import WorkerError
from gncli.leavings import clear
from gncli.progress import note_advance
from gncli.stopping import STOPPING

_WORTH_FORKING = 64 << 20  # bytes, of which one process does some 500 MB a second; two cost 30 ms
_WORTH_THREADS = 1 << 20  # bytes: one block, which one thread does alone
# Up to so many times as much, threads are as quick where compiled passes do the work, and let go of the lock.
NORMALIZING, MEASURING = 8, 32

Task = TypeVar("Task")
Result = TypeVar("Result")


def usable_cores() -> int:
    """Cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class AtOnce(Executor):
    """Runs each task as it is submitted, in the thread that submits it."""

    def submit(self, fn: Callable[..., Result], /, *args: Any, **kwargs: Any) -> Future[Result]:
        future: Future[Result] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:  # noqa: BLE001 - as executors do
            future.set_exception(error)
        return future


class Remote(Executor):
    """Workers of other processes or machines, who open for themselves what a task names."""

    jobs: int

    def check(self, recipe: bytes) -> None:
        """Raise WorkerError unless each of them can open what `recipe`, a pickled Reader's, names."""
        raise NotImplementedError

    def forget(self) -> None:
        """Have them close it."""
        raise NotImplementedError


def threads(jobs: int) -> Executor:
    return AtOnce() if jobs == 1 else ThreadPoolExecutor(jobs, thread_name_prefix="gn")


@contextmanager
def workers(jobs: int, size: int, *, forkable: bool, pace: int = 1) -> Iterator[Executor]:
    """Processes where what the tasks use may be forked and `size`, in bytes, is worth it; else threads.

    `pace`: NORMALIZING or MEASURING where that is all done by compiled passes. Raises WorkerError where a
    worker was killed.
    """
    apart = jobs > 1 and size >= _WORTH_FORKING * pace and forkable and _may_fork()
    try:
        with (apart and _processes(jobs)) or threads(jobs if size > _WORTH_THREADS else 1) as executor:
            yield executor
    except BrokenExecutor:
        hint = "try --jobs 1 or a smaller --memory"
        raise WorkerError(f"a worker was killed, for want of memory perhaps; {hint}") from None
    finally:
        if apart:
            gc.unfreeze()  # see _processes


def _processes(jobs: int) -> Executor | None:
    """Forked at the first task: what was made before is there in the workers. None where that can't be."""
    import gc
    import resource
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import get_context

    class Forked(ProcessPoolExecutor):
        def submit(self, fn: Callable[..., Result], /, *args: Any, **kwargs: Any) -> Future[Result]:
            with _undisturbed():
                try:
                    return super().submit(fn, *args, **kwargs)
                except OSError:  # no more processes: those that were made would wait for ever
                    for process in self._processes.values():
                        process.kill()
                    raise

    open_files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if open_files != resource.RLIM_INFINITY:
        jobs = min(jobs, max(2, open_files // 4))  # each takes one or two, and to have none left is an error
    gc.freeze()  # a worker that collected garbage among what it has from here would have it copied
    begin = partial(_be_worker, os.getpid(), signal.pthread_sigmask(signal.SIG_BLOCK, ()))
    try:
        return Forked(jobs, get_context("fork"), begin)
    except OSError:  # no semaphores: /dev/shm is not there, or may not be written
        return None


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Signals wait: a pool half made, or half told of a task, can neither be used nor ended."""
    held = signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, held)


def _may_fork() -> bool:
    """Elsewhere than on Linux, and beside other threads, a forked process may hang."""
    return sys.platform == "linux" and threading.active_count() == 1


def _be_worker(parent: int, mask: Iterable[int]) -> None:
    """Leave signals to the parent, in a process group of its own, and do not outlive it."""
    os.setpgid(0, 0)
    for number in STOPPING:
        if signal.getsignal(number) not in (signal.SIG_IGN, None):
            signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    threading.Thread(target=_watch, args=(parent,), daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.2)
    clear()  # of the files that this process writes, and of those that the parent cannot remove any more
    os._exit(1)


def in_order(
    executor: Executor,
    function: Callable[[Task], Result],
    tasks: Iterable[Task],
    ahead: int,
    lots: Iterable[int] = repeat(1),
    abandon: Callable[[], None] = lambda: None,
) -> Iterator[Result]:
    """The results in the order of the tasks: handed over in `lots` of so many, at most `ahead` lots at once.

    An exception in a task surfaces here, once those that run have ended; `abandon` has them end at once.
    """
    if isinstance(executor, AtOnce):
        yield from map(function, tasks)
        return
    waiting, sizes = iter(tasks), iter(lots)
    under_way: deque[Future[list[Result]]] = deque()
    try:
        while lot := list(islice(waiting, next(sizes))):
            under_way.append(executor.submit(_each, function, lot))
            if len(under_way) >= ahead:
                yield from under_way.popleft().result()
        while under_way:
            yield from under_way.popleft().result()
    except BaseException:
        abandon()
        raise
    finally:
        # A pool of processes that breaks can't bear cancelled tasks, and they are short.
        cancel = isinstance(executor, ThreadPoolExecutor | Remote)
        wait([future for future in under_way if not (cancel and future.cancel())])


def _each(function: Callable[[Task], Result], lot: list[Task]) -> list[Result]:
    results = []
    for task in lot:
        results.append(function(task))
        note_advance()
    return results


def perform(work: bytes) -> Any:
    """On a Remote's worker. In bytes, since a scheduler unpickles what it is given and has no such files."""
    return pickle.loads(work)()
