"""Options and processes of the fuzzers."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import pytest

from fuzz import mutants
from fuzz.harness import Harness

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
def harness() -> Iterator[Harness]:
    started = Harness()
    yield started
    started.close()


@pytest.fixture(scope="session")
def seeds(harness: Harness, tmp_path_factory: pytest.TempPathFactory) -> list[mutants.Seed]:
    """The sound files that mutants are made of."""
    folder = tmp_path_factory.mktemp("seeds")
    made: list[mutants.Seed] = harness.call(str(folder), partial(mutants.make, folder))
    return made
