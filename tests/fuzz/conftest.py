"""Options and processes of the fuzzers."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from queue import SimpleQueue

import pytest

from fuzz import mutants
from fuzz.harness import Harness

Trial = Callable[[Harness, int], Iterable[str]]
Each = Callable[[Trial, Sequence[int]], list[str]]
BLOCK = 25  # files that are one test


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give a test that asks for `numbers` those of the files that the command line asks for."""
    if "numbers" not in metafunc.fixturenames:
        return
    option = metafunc.module.OPTION
    count, only = metafunc.config.getoption(option), metafunc.config.getoption("only")
    blocks = [range(first, min(first + BLOCK, count)) for first in range(0, count, BLOCK)]
    if only is not None:
        blocks = [range(only, only + 1)]
    metafunc.parametrize("numbers", blocks, ids=[f"{block.start}-{block.stop - 1}" for block in blocks])


@pytest.fixture(scope="session")
def harnesses() -> Iterator[list[Harness]]:
    """One for each core."""
    started = [Harness() for _ in range(len(os.sched_getaffinity(0)))]
    yield started
    for harness in started:
        harness.close()


@pytest.fixture(scope="session")
def seeds(harnesses: list[Harness], tmp_path_factory: pytest.TempPathFactory) -> list[mutants.Seed]:
    """The sound files that mutants are made of."""
    folder = tmp_path_factory.mktemp("seeds")
    made: list[mutants.Seed] = harnesses[0].call(str(folder), partial(mutants.make, folder))
    return made


@pytest.fixture
def each(harnesses: list[Harness]) -> Each:
    """`each(trial, numbers)`: all faults that `trial(harness, number)` yields, with all harnesses at work."""
    free: SimpleQueue[Harness] = SimpleQueue()
    for harness in harnesses:
        free.put(harness)

    def run(trial: Trial, numbers: Sequence[int]) -> list[str]:
        def with_one(number: int) -> list[str]:
            harness = free.get()
            try:
                return [*trial(harness, number)]
            finally:
                free.put(harness)

        with ThreadPoolExecutor(len(harnesses)) as threads:
            return [fault for found in threads.map(with_one, numbers) for fault in found]

    return run
