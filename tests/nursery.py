"""Forks schedulers and workers of Dask: each starts at once, for distributed is loaded already.

Run as a script: a line of JSON on stdin asks for a process, a line on stdout gives its pid.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any


class Process:
    """A process that is somebody else's child."""

    def __init__(self, pid: int) -> None:
        self.pid = pid

    def send_signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def wait(self) -> None:
        end = time.monotonic() + 60
        while Path(f"/proc/{self.pid}").exists() if sys.platform == "linux" else _exists(self.pid):
            assert time.monotonic() < end
            time.sleep(0.005)


class Nursery:
    """The parent of all those processes."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def start(self, **wanted: Any) -> Process:
        """Start what `_live` makes of the words."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps(wanted) + "\n")
        self._process.stdin.flush()
        return Process(int(self._process.stdout.readline()))


@contextlib.contextmanager
def nursery() -> Iterator[Nursery]:
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, __file__], stdin=pipe, stdout=pipe, text=True) as process:
        yield Nursery(process)
        assert process.stdin
        process.stdin.close()


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def _main() -> None:
    import dask.config
    import distributed  # noqa: F401 - for the processes to come

    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for them
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            nowhere = os.open(os.devnull, os.O_RDWR)
            for descriptor in (0, 1, 2):
                os.dup2(nowhere, descriptor)
            wanted = json.loads(line)
            try:
                os.chdir(wanted["folder"])
                dask.config.set(wanted.get("config", {}))
                exec(wanted["preload"], {})
                asyncio.run(_live(wanted.get("address")))
            finally:
                os._exit(1)
        print(pid, flush=True)


async def _live(address: str | None) -> None:
    """Be a worker of the scheduler at `address`, or a scheduler, which leaves its address in a file."""
    from distributed import Scheduler, Worker

    if address:
        async with Worker(address, nthreads=1, host="127.0.0.1", local_directory=os.getcwd()) as worker:
            await worker.finished()
        return
    async with Scheduler(host="127.0.0.1", port=0, dashboard=False, dashboard_address=":0") as scheduler:
        Path("address.tmp").write_text(scheduler.address)
        os.replace("address.tmp", "address")
        await scheduler.finished()


if __name__ == "__main__":
    _main()
