"""Tells which workers of a cluster have fallen silent: hung, or stopped by a signal."""

from __future__ import annotations

from collections.abc import Mapping


class Heartbeats:
    """How long each worker has been silent.

    A scheduler knows by its own clock when it last heard from a worker, so only a change of that counts. Time
    is given by the caller, who leaves out what this process did not run: after ^Z, no worker is blamed.
    """

    def __init__(self) -> None:
        self._last: dict[str, float] = {}
        self._silence: dict[str, float] = {}

    def note(self, heard: Mapping[str, float], passed: float) -> None:
        """Take in when the scheduler last heard from each worker, `passed` seconds after the call before."""
        self._silence = {
            worker: self._silence[worker] + passed if self._last.get(worker) == when else 0.0
            for worker, when in heard.items()
        }
        self._last = dict(heard)

    def silent(self, seconds: float) -> set[str]:
        """Return the workers that have been silent for so many seconds."""
        return {worker for worker, silence in self._silence.items() if silence >= seconds}
