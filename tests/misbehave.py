"""What a library may do to its process: run as `python misbehave.py NAME [FOLDER]`, by containment.run."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Callable, Iterator
from functools import partial
from itertools import repeat
from pathlib import Path

import numpy as np

from gncli import containment, leavings
from gncli.errors import GnError

LIBC = ctypes.CDLL(None)


def behave(folder: str) -> Iterator[object]:
    yield os.getpid()


def crash(folder: str) -> Iterator[object]:
    yield "before"
    os.kill(os.getpid(), signal.SIGSEGV)


def leave(folder: str) -> Iterator[object]:
    yield "before"
    LIBC.exit(0)


def abort(folder: str) -> Iterator[object]:
    yield "before"
    LIBC.abort()


def loop(folder: str) -> Iterator[object]:
    print("looping", file=sys.stderr, flush=True)
    yield sum(repeat(1))  # within one call of C, which looks for no signal


def sleep(folder: str) -> Iterator[object]:
    print("looping", file=sys.stderr, flush=True)
    yield ctypes.PyDLL(None).sleep(100)  # with the GIL held, and no time spent


def gorge(folder: str) -> Iterator[object]:
    yield int(np.ones(5 << 27)[-1])  # 5 GiB


def babble(folder: str) -> Iterator[object]:
    os.write(1, b"noise on stdout\n")
    os.write(2, b"noise on stderr\n")
    LIBC.puts(b"noise of C")
    LIBC.fflush(None)
    print("ours on stdout")
    print("ours on stderr", file=sys.stderr)
    yield "done"


def litter(folder: str) -> Iterator[object]:
    for name in ("kept", "left"):
        path = os.path.join(folder, name)
        leavings.clear_later(path, partial(os.unlink, path))
        Path(path).touch()
    leavings.is_cleared(os.path.join(folder, "kept"))
    yield from crash(folder)


def fork(folder: str) -> Iterator[object]:
    if os.fork() == 0:
        os.closerange(0, 100)  # the pipes of the test among them
        LIBC.sleep(100)
    yield from crash(folder)


def refuse(folder: str) -> Iterator[object]:
    yield "before"
    raise GnError("is refused", address="f.h5")


def embarrass(folder: str) -> Iterator[object]:
    error = ValueError("with something that cannot be pickled")
    error.args = (lambda: None,)
    yield "before"
    raise error


def environment(folder: str) -> Iterator[object]:
    yield os.environ.get("HDF5_PLUGIN_PATH")
    yield os.environ.get("OMP_NUM_THREADS")


WAYS: dict[str, Callable[[str], Iterator[object]]] = {
    way.__name__: way
    for way in (
        behave, crash, leave, abort, loop, sleep, gorge, babble, litter, fork, refuse, embarrass,
        environment,
    )
}  # fmt: skip


def outcome(name: str, mark: str) -> list[object]:
    """Return all that comes of one of the ways. The `mark` is only there to be pickled."""
    return list(WAYS[name](""))


def main(names: str, folder: str) -> None:
    """Perform each of the ways, and print what comes of it: `= item`, or `! error`."""
    containment.enable()
    for name in names.split(","):
        try:
            for item in containment.run(WAYS[name], folder, files=["f.h5"], memory=1 << 20):
                print(
                    "=",
                    "own" if item == os.getpid() else "child" if isinstance(item, int) else item,
                    flush=True,
                )
        except Exception as error:  # noqa: BLE001 - shown
            print("!", error, flush=True)
    leavings.clear()


if __name__ == "__main__":
    main(*sys.argv[1:])
