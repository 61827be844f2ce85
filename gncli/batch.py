"""Normalize many tensors, small ones side by side: the tool behind `gn normalize`, without click."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, groupby
from typing import Any, TypeVar

from gncli.engine import Advance
from gncli.errors import WorkerError
from gncli.executors import in_order, usable_cores, workers
from gncli.normalize import Normalized, Settings, normalize_datasets, normalize_file
from gncli.plan import TILE
from gncli.progress import Progress
from gncli.tensors import more
from gncli.tensors.address import kind_of, split
from gncli.tensors.staging import remove_left

SMALL = 64 << 20  # bytes: less is done by one worker, so that others can do other files
BUNDLE = 8 << 20  # bytes of files, overhead included, that a worker is given at once
OVERHEAD = 1 << 20  # bytes that could be done in the time that it takes to open files and close them

Result = TypeVar("Result")
Outcome = Normalized | Exception | None  # None: skipped, since the output stands
Outcomes = list[tuple[str, Outcome]]  # with the address of each


@dataclass(frozen=True)
class Job:
    addresses: tuple[str, ...]  # of datasets of one HDF5 file, where there are several
    target: str
    size: int  # of the file, in bytes; 0 for a pipe

    @classmethod
    def of(cls, addresses: Iterable[str], target: str) -> Job:
        addresses = tuple(addresses)
        try:
            return cls(addresses, target, os.path.getsize(split(addresses[0])[0]))
        except (OSError, ValueError):  # what is wrong is said when it is opened
            return cls(addresses, target, 0)

    @property
    def small(self) -> bool:
        """Whether it may be done beside others. HDF5 has one lock, and standard output has an order."""
        path, name = split(self.addresses[0])
        apart = self.target == "-" or name is not None or kind_of(self.target) == "hdf5"
        return not apart and self.size < SMALL and os.path.isfile(path)


@dataclass(frozen=True)
class Batch:
    """How each of many tensors is normalized."""

    settings: Settings
    force: bool = False
    skip_existing: bool = False
    dry_run: bool = False
    command: str = ""

    def run(self, targets: Sequence[tuple[str, str]]) -> Iterator[tuple[str, Outcome]]:
        """Each tensor's address and what came of it, in order: what it raised is given, not raised.

        `targets`: addresses of inputs and outputs. What goes to one file is done when its first is.
        """
        jobs = [*_jobs(targets)]
        if len(jobs) == 1:
            yield from self._in_turn(jobs[0], self.settings.progress, None)
            return
        total, ended = sum(job.size for job in jobs), 0
        with Progress("", total, self.settings.progress, bar=True) as progress:

            def label() -> None:
                progress.label = f"{ended} of {len(jobs)} files"

            label()
            apart = self.settings.dask is not None  # a cluster is for what is large
            for small, group in groupby(jobs, key=lambda job: job.small and not apart):
                if small:
                    for job, outcomes in self._side_by_side([*group]):
                        ended += 1
                        label()
                        progress.advance(job.size)
                        yield from outcomes
                    continue
                for job in group:
                    yield from self._in_turn(job, False, progress.advance)
                    ended += 1
                    label()
                    progress.advance(0)

    def _in_turn(
        self, job: Job, progress: bool | None, watch: Advance | None
    ) -> Iterator[tuple[str, Outcome]]:
        """With all cores for one tensor; a pipe may hold several."""
        settings = replace(self.settings, progress=progress)
        last = job.addresses[-1]
        again: bool | Exception = True
        while again is True:
            outcomes = self._do(job, settings, watch)
            yield from outcomes
            if isinstance(outcomes[-1][1], Exception):
                return
            again = _caught(partial(more, last))
        if isinstance(again, Exception):
            yield last, again

    def _side_by_side(self, jobs: Sequence[Job]) -> Iterator[tuple[Job, Outcomes]]:
        """With a core for each."""
        size = sum(job.size for job in jobs) + OVERHEAD * len(jobs)
        count = max(1, min(self.settings.jobs or usable_cores(), self.settings.memory // TILE, len(jobs)))
        share = replace(self.settings, jobs=1, memory=self.settings.memory // count, progress=False)
        bundles = [*_bundles(jobs)]
        done = 0
        try:
            with workers(count, size, forkable=True) as executor:
                for outcomes in in_order(executor, partial(self._several, share), bundles, 2 * count):
                    yield from zip(bundles[done], outcomes, strict=True)
                    done += 1
        except WorkerError as error:
            for job in chain.from_iterable(bundles[done:]):
                remove_left(job.target, look_again=True)
                yield job, [(job.addresses[0], WorkerError(error.message))]

    def _several(self, settings: Settings, bundle: Sequence[Job]) -> list[Outcomes]:
        return [self._do(job, settings, None) for job in bundle]

    def _do(self, job: Job, settings: Settings, watch: Advance | None) -> Outcomes:
        """Of each address; or, where one fails and none is written, of the first alone."""
        if self.skip_existing and os.path.isfile(split(job.target)[0]):
            return [(address, None) for address in job.addresses]
        done = _caught(partial(self._normalize, job, settings, watch))
        if isinstance(done, Exception):
            return [(job.addresses[0], done)]
        return [*zip(job.addresses, done, strict=True)]

    def _normalize(self, job: Job, settings: Settings, watch: Advance | None) -> list[Normalized]:
        how: dict[str, Any] = {"force": self.force, "dry_run": self.dry_run, "command": self.command}
        if len(job.addresses) > 1:
            return normalize_datasets(job.addresses, job.target, settings, watch=watch, **how)
        return [normalize_file(job.addresses[0], job.target, settings, watch=watch, **how)]


def _jobs(targets: Iterable[tuple[str, str]]) -> Iterator[Job]:
    """One for each file to be written; on standard output, one tensor comes after another."""
    together: dict[tuple[str, int], list[str]] = {}
    for number, (address, target) in enumerate(targets):
        together.setdefault((target, number if target == "-" else 0), []).append(address)
    for (target, _), addresses in together.items():
        yield Job.of(addresses, target)


def _caught(work: Callable[[], Result]) -> Result | Exception:
    try:
        return work()
    except Exception as error:  # noqa: BLE001 - for the caller to tell, and to go on to the next
        return error


def _bundles(jobs: Iterable[Job]) -> Iterator[list[Job]]:
    bundle: list[Job] = []
    size = 0
    for job in jobs:
        if bundle and size + job.size + OVERHEAD > BUNDLE:
            yield bundle
            bundle, size = [], 0
        bundle.append(job)
        size += job.size + OVERHEAD
    if bundle:
        yield bundle
