"""Who computes, as the options say: cores of this machine, or a cluster's workers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import dataclass

from gncli.containment import seconds_for
from gncli.errors import UsageError
from gncli.executors import Remote, usable_cores, workers
from gncli.plan import LOT


@dataclass(frozen=True)
class Crew:
    """Who computes: so many jobs, with so many bytes of blocks in all, on this machine or on a cluster."""

    jobs: int
    memory: int
    cluster: Remote | None = None

    @property
    def together(self) -> int:
        """Blocks to a task: on a cluster one costs some milliseconds."""
        return LOT if self.cluster is None else 8 * LOT

    @classmethod
    def of(cls, jobs: int | None, memory: int, dask: str | None, files: Iterable[str] = ()) -> Crew:
        """Return who computes on the `files`.

        `memory`: of all jobs on this machine, or of each on a cluster. Raises UsageError, WorkerError.
        """
        if dask is None:
            return cls(jobs or usable_cores(), memory)
        from gncli.cluster import connect
        from gncli.helpers import Limits

        cluster = connect(dask, jobs)
        cluster.limits = Limits(memory, seconds_for(files))
        return cls(cluster.jobs, memory * cluster.jobs, cluster)

    @staticmethod
    def refuse_pipes(dask: str | None, *, piped: bool) -> None:
        """Raise UsageError where a cluster is to compute on what its workers cannot open."""
        if dask is not None and piped:
            raise UsageError("--dask needs files that its workers can open; a pipe is none of them")

    @contextmanager
    def at_work(self, jobs: int, size: int, *, forkable: bool, pace: int) -> Iterator[Executor]:
        """An executor for `size` bytes: the cluster's, or `workers`."""
        if self.cluster is not None:
            yield self.cluster
            return
        with workers(jobs, size, forkable=forkable, pace=pace) as executor:
            yield executor
