"""Normalize many tensors, small ones side by side: the tool behind `gn normalize`, without click."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain, groupby
from typing import Any, TypeVar

from gncli.containment import run
from gncli.engine import Advance
from gncli.errors import CrashError, GnError, OutputError, WorkerError
from gncli.executors import in_order, usable_cores, workers
from gncli.normalize import Normalized, Settings, normalize_file, normalize_together
from gncli.plan import TILE
from gncli.progress import Progress
from gncli.tensors import more, stands
from gncli.tensors.address import kind_of, split
from gncli.tensors.kept import keep_open
from gncli.tensors.staging import remove_left

SMALL = 64 << 20  # bytes: less is done by one worker, so that others can do other files
BUNDLE = 8 << 20  # bytes of files, overhead included, that a worker is given at once
OVERHEAD = 1 << 20  # bytes that could be done in the time that it takes to open files and close them

Result = TypeVar("Result")
Outcome = Normalized | Exception | None  # None: skipped, since the output stands
Outcomes = list[tuple[str, Outcome]]  # with the address of each


@dataclass(frozen=True)
class Job:
    """The work for one output file: one tensor, or all datasets that go into it."""

    targets: tuple[tuple[str, str], ...]  # addresses of inputs and outputs
    size: int  # of the first input's file, in bytes; 0 for a pipe

    @classmethod
    def of(cls, targets: Iterable[tuple[str, str]]) -> Job:
        targets = tuple(targets)
        try:
            return cls(targets, os.path.getsize(split(targets[0][0])[0]))
        except (OSError, ValueError):  # what is wrong is said when it is opened
            return cls(targets, 0)

    @property
    def target(self) -> str:
        return self.targets[0][1]

    @property
    def small(self) -> bool:
        """Whether it may be done beside others. HDF5 has one lock, and standard output has an order."""
        path, name = split(self.targets[0][0])
        apart = self.target == "-" or name is not None or kind_of(split(self.target)[0]) == "hdf5"
        return not apart and self.size < SMALL and os.path.isfile(path)


@dataclass(frozen=True)
class Batch:
    """How each of many tensors is normalized."""

    settings: Settings
    force: bool = False
    skip_existing: bool = False
    dry_run: bool = False
    command: str = ""
    wrong: Mapping[str, Exception] = field(default_factory=dict)  # inputs that cannot be taken, and why

    def run(self, targets: Sequence[tuple[str, str]]) -> Iterator[tuple[str, Outcome]]:
        """Each tensor's address and what came of it, in order: what it raised is given, not raised.

        `targets`: addresses of inputs and outputs. What goes to one file is done when its first is, all of
        it or nothing.
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
        """Do a job with all cores for one tensor; a pipe may hold several."""
        batch = replace(self, settings=replace(self.settings, progress=progress))
        inputs = [address for address, _ in job.targets]
        outputs = [target for _, target in job.targets]
        files = [*inputs, self.settings.gamma, self.settings.beta]
        try:
            yield from run(
                batch._all_of, job, files=files, memory=self.settings.memory, outputs=outputs, advance=watch
            )
        except CrashError as error:
            yield job.targets[0][0], _with_none(error, len(job.targets))

    def _all_of(self, job: Job, advance: Advance | None = None) -> Iterator[tuple[str, Outcome]]:
        last = job.targets[-1][0]
        again: bool | Exception = True
        while again is True:
            outcomes = self._do(job, self.settings, advance)
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
                yield job, [(job.targets[0][0], WorkerError(error.message))]

    def _several(self, settings: Settings, bundle: Sequence[Job]) -> list[Outcomes]:
        return [self._do(job, settings, None) for job in bundle]

    def _do(self, job: Job, settings: Settings, watch: Advance | None) -> Outcomes:
        """Return the outcome of each address, or of the one that failed if none is written."""
        for address, _ in job.targets:
            if address in self.wrong:
                return [(address, _with_none(self.wrong[address], len(job.targets)))]
        todo = _caught(partial(self._todo, job))
        if isinstance(todo, Exception):
            return [(job.targets[0][0], todo)]
        done = _caught(partial(self._normalize, todo, settings, watch)) if todo else []
        if isinstance(done, Exception):
            return [(todo[0][0], done)]
        outcomes = dict(zip(todo, done, strict=True))
        return [(address, outcomes.get((address, target))) for address, target in job.targets]

    def _todo(self, job: Job) -> list[tuple[str, str]]:
        """The targets that are not to be skipped. Raises OutputError where only a part of a file stands."""
        if not self.skip_existing:
            return [*job.targets]
        with keep_open():
            left = [(address, target) for address, target in job.targets if not stands(target, address)]
        path, name = split(job.target)
        if not left or name is not None or not os.path.isfile(path):
            return left
        if self.force:
            return [*job.targets]
        message = f"exists, but without the output of {left[0][0]}; use --force to write all of it again"
        raise OutputError(message, address=path)

    def _normalize(
        self, targets: Sequence[tuple[str, str]], settings: Settings, watch: Advance | None
    ) -> list[Normalized]:
        how: dict[str, Any] = {"force": self.force, "dry_run": self.dry_run, "command": self.command}
        if len(targets) > 1:
            return normalize_together(targets, settings, watch=watch, **how)
        address, target = targets[0]
        return [normalize_file(address, target, settings, watch=watch, **how)]


def _jobs(targets: Iterable[tuple[str, str]]) -> Iterator[Job]:
    """One for each file to be written; on standard output, one tensor comes after another."""
    together: dict[tuple[str, int], list[tuple[str, str]]] = {}
    for number, (address, target) in enumerate(targets):
        file = "-" if target == "-" else os.path.realpath(split(target)[0])
        together.setdefault((file, number if target == "-" else 0), []).append((address, target))
    yield from map(Job.of, together.values())


def _with_none(error: Exception, count: int) -> Exception:
    """The error, which says that it keeps `count` datasets from being written."""
    if count > 1 and isinstance(error, GnError):
        error.message += f"; so none of the {count} datasets is written"
    return error


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
