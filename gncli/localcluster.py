"""The scheduler and the workers of `--dask local`: processes on this machine, for this command alone."""

from __future__ import annotations

import logging
import shutil
import tempfile
import threading
from contextlib import suppress
from functools import partial
from importlib import import_module
from multiprocessing import active_children
from typing import Any

from gncli import leavings
from gncli.errors import UsageError, WorkerError
from gncli.words import reason_of

START = 120.0  # seconds that the processes may take to start
# Nobody sees the profiles of the workers, and HTTP would be open to all users.
PRIVATE = {
    "distributed.worker.profile.enabled": False,
    "distributed.scheduler.http.routes": [],
    "distributed.worker.http.routes": [],
}


class LocalProcesses:
    """A LocalCluster that other users of this machine cannot use.

    Whoever reaches a scheduler can have its workers run code. This one wants TLS with a key that is made for
    this run and stays in memory. Raises UsageError where there is none, WorkerError where it does not start.
    """

    def __init__(self, jobs: int) -> None:
        self.cluster: Any = None
        distributed: Any = import_module("distributed")
        try:
            security = distributed.Security.temporary()
        except ImportError as error:
            raise UsageError(f"--dask local cannot use TLS: {reason_of(error)}") from None
        # The usual folder in /tmp may be another user's, and workers import modules from it.
        self._folder = tempfile.mkdtemp(prefix="gn-dask-")
        leavings.clear_later(self._folder, partial(_remove, self._folder))
        late = threading.Timer(START, _kill_processes)  # it would wait for them for ever
        late.daemon = True
        late.start()
        try:
            with import_module("dask.config").set(PRIVATE):
                self.cluster = distributed.LocalCluster(
                    n_workers=jobs,
                    threads_per_worker=1,
                    security=security,
                    dashboard_address="127.0.0.1:0",  # none at all is not to be had
                    scheduler_kwargs={"dashboard": False},
                    local_directory=self._folder,
                    silence_logs=logging.CRITICAL,
                )
        except Exception as error:  # noqa: BLE001 - of whatever kind
            self.end()
            raise WorkerError(f"--dask local does not start: {reason_of(error)}; try again") from None
        finally:
            late.cancel()

    def end(self) -> None:
        """End the processes, by force where they do not end by themselves, and remove their folder."""
        if self.cluster is not None:
            with suppress(Exception):
                self.cluster.close(timeout=2)
        _kill_processes()
        _remove(self._folder)
        leavings.is_cleared(self._folder)


def _kill_processes() -> None:
    """Kill the workers, which may be stopped."""
    for process in active_children():
        process.kill()


def _remove(folder: str) -> None:
    shutil.rmtree(folder, ignore_errors=True)
