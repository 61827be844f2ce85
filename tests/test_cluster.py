"""A Dask cluster of real processes on loopback: the bytes of a local run, and an end to every failure."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from arrays import normal
from conftest import Gn, Shell
from nursery import Nursery, Process, nursery

from gncli import cluster
from gncli.errors import GnError, WorkerError
from gncli.normalize import Settings, normalize_file
from gncli.stats import stats_file

# What a worker loads, and loads again. Each read takes a while, so that there is time to kill somebody.
SLOW = """
import os, time
from posix import preadv
def late(*args):
    time.sleep(0.1)
    return preadv(*args)
os.preadv = late
"""
# A worker to whom the storage looks otherwise.
ELSEWHERE = """
import gncli.tensors.npy as npy
from gncli.tensors.address import open_file
npy.open_file = lambda path: open_file(path.replace("/here/", "/there/"))
"""
PATH = str(Path(cluster.__file__).parents[1])  # of the gncli that all processes have
OLDER = "import gncli; gncli.__version__ = '0.0.1'"


class Processes:
    """A scheduler, and workers of one thread each."""

    def __init__(self, folder: Path, nursery: Nursery, **config: object) -> None:
        self.folder, self._nursery = folder, nursery
        blind = "import sys; sys.modules['gncli.tensors'] = None"  # it has no files
        self.scheduler = nursery.start(folder=str(folder), preload=blind, config=config)
        self.workers: list[Process] = []
        wait_for((folder / "address").exists)
        self.address = (folder / "address").read_text()

    def add(self, count: int = 1, preload: str = "") -> None:
        for _ in range(count):
            wanted = {"folder": str(self.folder), "address": self.address, "preload": preload}
            self.workers.append(self._nursery.start(**wanted))
        client = import_module("distributed").Client(self.address, set_as_default=False)
        client.wait_for_workers(len(self.workers), timeout=120)
        client.close()

    def end(self) -> None:
        for process in (*self.workers, self.scheduler):
            process.kill()
            process.wait()


def wait_for(condition: Callable[[], Any], seconds: float = 120) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.005)


@pytest.fixture(scope="module")
def parent() -> Iterator[Nursery]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", PATH)
        with nursery() as made:
            yield made


@contextmanager
def processes(folder: Path, parent: Nursery, **config: object) -> Iterator[Processes]:
    made = Processes(folder, parent, **config)
    try:
        yield made
    finally:
        cluster.disconnect()
        made.end()


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory, parent: Nursery) -> Iterator[str]:
    """The address of two workers."""
    with processes(tmp_path_factory.mktemp("dask"), parent) as made:
        made.add(2)
        yield made.address


@pytest.fixture
def mine(tmp_path: Path, parent: Nursery) -> Iterator[Processes]:
    """A scheduler that the test may kill."""
    (tmp_path / "dask").mkdir()
    with processes(tmp_path / "dask", parent) as made:
        yield made


def left(folder: Path) -> list[str]:
    return sorted(name for name in os.listdir(folder) if name != "dask")


@pytest.mark.parametrize(
    ("shape", "dtype", "order", "words"),
    [
        ((6, 8, 64, 64), "f4", "C", {"groups": 4}),
        ((6, 64, 64, 8), "f2", "C", {"groups": 4, "layout": "NHWC"}),
        ((6, 8, 64, 64), "f8", "F", {"groups": 4, "memory": 1 << 20}),
        ((1, 8, 512, 1024), "f4", "C", {"groups": 1, "memory": 1 << 20}),  # a group of several blocks
        ((9, 8, 7), "u1", "C", {"groups": 8, "dtype": "float32", "eps": 0.0}),
        ((0, 8, 7), "f4", "C", {"groups": 8}),
    ],
)
def test_the_bytes_of_a_local_run(
    tmp_path: Path, pair: str, shape: tuple[int, ...], dtype: str, order: str, words: dict[str, Any]
) -> None:
    x = (normal(*shape) * 50 + 100).astype(dtype, order=order)  # type: ignore[call-overload]
    np.save(tmp_path / "x.npy", x)
    runs = [
        normalize_file(f"{tmp_path}/x.npy", f"{tmp_path}/{name}.npy", Settings(beta=3.0, dask=dask, **words))
        for name, dask in (("local", None), ("dask", pair))
    ]
    assert (tmp_path / "dask.npy").read_bytes() == (tmp_path / "local.npy").read_bytes()
    assert len({json.dumps([run.record[key] for key in ("before", "after", "dtype")]) for run in runs}) == 1
    assert runs[0].warnings == runs[1].warnings


@pytest.mark.parametrize(
    "stored",
    [
        {},  # in place
        {"chunks": (1, 8, 64, 64)},  # in place, too
        {"chunks": (1, 8, 64, 64), "compression": 4, "shuffle": True},  # chunks packed by the workers
        {"chunks": (4, 3, 50, 40), "compression": 4},  # that lie across the blocks
        {"chunks": (1, 8, 64, 64), "scaleoffset": 0, "dtype": "i4"},  # by HDF5 itself
    ],
)
def test_hdf5(tmp_path: Path, pair: str, stored: dict[str, Any]) -> None:
    x = (normal(6, 8, 64, 64) * 50).astype(stored.pop("dtype", "f4"))
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.create_dataset("deep/x", data=x, **stored)
        file["y"] = np.arange(5)
    for name, dask in (("local", None), ("dask", pair)):
        settings = Settings(groups=4, dtype="float32", dask=dask)
        normalize_file(f"{tmp_path}/x.h5::/deep/x", f"{tmp_path}/{name}.h5", settings)
    with h5py.File(tmp_path / "local.h5") as local, h5py.File(tmp_path / "dask.h5") as dask:
        assert dask["deep/x"].chunks == local["deep/x"].chunks
        assert dask["deep/x"].compression == local["deep/x"].compression
        np.testing.assert_array_equal(dask["deep/x"][:].view("u4"), local["deep/x"][:].view("u4"))
        np.testing.assert_array_equal(dask["y"], np.arange(5))
    rows = [list(stats_file(f"{tmp_path}/x.h5::/deep/x", dask=where)) for where in (None, pair)]
    assert rows[0] == rows[1]


@pytest.mark.parametrize("by", [(), ("sample", "group"), ("channel",)])
def test_the_statistics_of_a_local_run(tmp_path: Path, pair: str, by: tuple[str, ...]) -> None:
    np.save(tmp_path / "x.npy", normal(5, 8, 33, 65))
    local, dask = (
        list(stats_file(f"{tmp_path}/x.npy", groups=4, by=by, memory=1 << 20, dask=where))
        for where in (None, pair)
    )
    assert dask == local


def test_differences(tmp_path: Path, pair: str, shell: Shell) -> None:
    """The same record as without; also of a tensor in another order, of which a copy is made here."""
    x = normal(6, 8, 64, 64)
    y = x.copy()
    y[3, 2, 1, 0] += 1
    for name, array in (("x", x), ("y", y), ("f", np.asfortranarray(y))):
        np.save(tmp_path / f"{name}.npy", array)
    for other in ("y", "f"):
        words = f"$gn diff x.npy {other}.npy -g 4 --format json"
        assert shell(f"{words} --dask {pair}", code=1).stdout == shell(words, code=1).stdout
    needs = "--dask needs files that its workers can open; a pipe is none of them"
    assert needs in shell(f"$gn diff - x.npy --dask {pair} < x.npy", code=2).stderr


def test_from_the_shell(tmp_path: Path, shell: Shell, pair: str) -> None:
    """By address, by scheduler file, with processes of its own; from the folder that the paths are of."""
    x = normal(4, 8, 30, 30)
    np.save(tmp_path / "x y.npy", x)
    shell("$gn normalize 'x y.npy' -g 4 -q -o want.npy")
    json_file = {"type": "Scheduler", "id": "s", "address": pair, "services": {}, "workers": {}}
    (tmp_path / "cluster.json").write_text(json.dumps(json_file))
    for where in (pair, "cluster.json", "local"):
        done = shell(f"$gn normalize 'x y.npy' -g 4 -j 1 -f -o y.npy --dask {where}")
        assert done.stderr == ""
        assert (tmp_path / "y.npy").read_bytes() == (tmp_path / "want.npy").read_bytes()
    assert left(tmp_path) == ["cluster.json", "want.npy", "x y.npy", "y.npy"]
    several = shell(f"cp 'x y.npy' z.npy; $gn normalize 'x y.npy' z.npy -g 4 -o out/ --dask {pair}").stderr
    assert several.startswith("gn: summary: 2 done, 0 failed")


def test_progress(tmp_path: Path, shell: Shell, mine: Processes) -> None:
    mine.add(1, SLOW)
    np.save(tmp_path / "x.npy", normal(16, 4, 256, 256))
    done = shell(f"$gn normalize x.npy -g 1 --memory 1M -q --progress --dask {mine.address}")
    assert re.fullmatch(r"gn: x\.npy: [\d.]+ MB of 16\.8 MB, .* left", done.stderr.splitlines()[-1])


def test_a_worker_killed_in_the_middle(tmp_path: Path, shell: Shell, mine: Processes) -> None:
    mine.add(2, SLOW)
    np.save(tmp_path / "x.npy", normal(32, 4, 256, 256))
    shell("$gn normalize x.npy -g 2 -q -o want.npy")
    run = subprocess.Popen(
        [sys.executable, "-m", "gncli", "normalize", "x.npy", "-g", "2", "-q", "-o", "y.npy",
         "--memory", "1M", "--dask", mine.address], cwd=tmp_path,
    )  # fmt: skip
    wait_for(lambda: written(tmp_path) > 1 << 20)
    mine.workers[0].send_signal(signal.SIGKILL)
    assert run.poll() is None
    assert run.wait(60) == 0
    assert (tmp_path / "y.npy").read_bytes() == (tmp_path / "want.npy").read_bytes()


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="looks at what processes have open")
def test_workers_let_go_of_the_files(tmp_path: Path, mine: Processes) -> None:
    """An output that is replaced or removed takes space for as long as anybody has it open."""
    mine.add(2)
    np.save(tmp_path / "x.npy", normal(6, 8, 64, 64))
    normalize_file(f"{tmp_path}/x.npy", f"{tmp_path}/y.npy", Settings(groups=4, dask=mine.address))
    list(stats_file(f"{tmp_path}/x.npy", dask=mine.address))
    for worker in mine.workers:
        held = [os.readlink(each) for each in Path(f"/proc/{worker.pid}/fd").iterdir()]
        assert not [path for path in held if path.startswith(f"{tmp_path}/") and ".npy" in path]


def written(folder: Path) -> int:
    """Bytes that the staged output has by now, of those that have been reserved or written."""
    for path in folder.glob(".y.npy.gn-*.tmp"):
        with path.open("rb") as file:
            file.seek(128)
            return sum(1 << 16 for _ in range(512) if any(file.read(1 << 16)))
    return 0


def test_a_block_that_kills_workers(tmp_path: Path, parent: Nursery) -> None:
    np.save(tmp_path / "x.npy", normal(4, 4, 8))
    (tmp_path / "dask").mkdir()
    with processes(tmp_path / "dask", parent, **{"distributed.scheduler.allowed-failures": 0}) as made:
        made.add(2, "import os; os.preadv = lambda *_: os._exit(1)")
        with pytest.raises(WorkerError, match="a block killed one worker after another, for want of memory"):
            normalize_file(f"{tmp_path}/x.npy", None, Settings(groups=2, dask=made.address))
    assert left(tmp_path) == ["x.npy"]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
@pytest.mark.parametrize("who", ["scheduler", "workers"])
def test_nobody_left(
    tmp_path: Path, mine: Processes, who: str, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "PATIENCE", 2.0)
    monkeypatch.setattr(cluster, "SILENCE", 2.0)
    mine.add(2, SLOW)
    np.save(tmp_path / "x.npy", normal(64, 4, 256, 256))

    def advance(count: int) -> None:
        for process in mine.workers if who == "workers" else [mine.scheduler]:
            process.send_signal(number)

    settings = Settings(groups=2, memory=1 << 20, dask=mine.address)
    stopped = who == "workers" and number == signal.SIGSTOP
    lost = "the workers at .* do not answer" if stopped else f"lost {'its ' * (who == 'workers')}.*{who} at"
    with pytest.raises(WorkerError, match=lost):
        normalize_file(f"{tmp_path}/x.npy", None, settings, watch=advance)
    assert left(tmp_path) == ["x.npy"]


def test_a_stopped_worker_has_its_blocks_done_by_others(
    tmp_path: Path, mine: Processes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "SILENCE", 3.0)
    mine.add(2, SLOW)
    np.save(tmp_path / "x.npy", normal(12, 4, 256, 256))
    settings = Settings(groups=2, memory=1 << 20)
    normalize_file(f"{tmp_path}/x.npy", f"{tmp_path}/want.npy", settings)

    def advance(count: int) -> None:
        mine.workers[0].send_signal(signal.SIGSTOP)

    settings = replace(settings, dask=mine.address)
    normalize_file(f"{tmp_path}/x.npy", f"{tmp_path}/y.npy", settings, watch=advance)
    assert (tmp_path / "y.npy").read_bytes() == (tmp_path / "want.npy").read_bytes()
    cluster.disconnect()
    # From the start, in another command.
    (row,) = stats_file(f"{tmp_path}/x.npy", dask=mine.address)
    (want,) = stats_file(f"{tmp_path}/x.npy")
    assert row == want


def test_exit_codes_where_nobody_answers(tmp_path: Path, mine: Processes, shell: Shell) -> None:
    np.save(tmp_path / "x.npy", normal(4, 4, 8))
    mine.add(1)
    impatient = "from gncli import cluster; cluster.SILENCE = 1.0; from gncli.cli import main; main()"
    for process, message in (
        (mine.workers[0], f"the workers at {mine.address} do not answer; see their logs, and start again"),
        (mine.scheduler, f"no scheduler at {mine.address}: "),
    ):
        process.send_signal(signal.SIGSTOP)
        impatient = impatient.replace("= 1.0;", "= cluster.PATIENCE = 1.0;")
        for command, code in (("normalize x.npy -g 2", 1), ("diff x.npy x.npy", 2)):
            done = shell(f'{sys.executable} -c "{impatient}" {command} --dask {mine.address}', code=code)
            assert done.stderr.startswith(f"gn: error: x.npy: {message}")
            assert done.stderr.count("\n") == 1
    assert left(tmp_path) == ["x.npy"]


def test_reads_that_never_end(tmp_path: Path, mine: Processes, monkeypatch: pytest.MonkeyPatch) -> None:
    """The workers live, but the storage of one hangs, and then that of the other."""
    monkeypatch.setattr(cluster, "STALL", 1.5)
    np.save(tmp_path / "x.npy", normal(4, 4, 8))
    want = list(stats_file(f"{tmp_path}/x.npy"))
    hang = "import os, time; from posix import preadv\nos.preadv = lambda *_: time.sleep(1000)"
    mine.add(1, hang)
    with pytest.raises(WorkerError, match=r"have ended no block for \d seconds, twice; see their logs"):
        list(stats_file(f"{tmp_path}/x.npy", dask=mine.address))
    cluster.disconnect()
    mine.add(1)
    assert list(stats_file(f"{tmp_path}/x.npy", dask=mine.address)) == want


def test_a_crash_in_hdf5_is_the_error_of_the_file(tmp_path: Path, mine: Processes, shell: Shell) -> None:
    """It ends a helper of the worker, and neither the worker nor the command."""
    for name in ("x", "y"):
        with h5py.File(tmp_path / f"{name}.h5", "w") as file:
            file.create_dataset("x", data=normal(4, 4, 8), chunks=(1, 4, 8), compression=1)
    (tmp_path / "dask" / "sitecustomize.py").write_text(
        "import os, signal, gncli.tensors.hdf5 as module\n"
        "module.Hdf5Source.read = lambda *_: os.kill(os.getpid(), signal.SIGSEGV)"
    )
    mine.add(1, f"import os; os.environ['PYTHONPATH'] = {os.pathsep.join([f'{tmp_path}/dask', PATH])!r}")
    for command, code in (
        ("stats x.h5", 1), ("normalize x.h5 -g 2", 1), ("diff x.h5 y.h5", 2),
    ):  # fmt: skip
        done = shell(f"$gn {command} --dask {mine.address}", code=code)
        assert done.stderr == "gn: error: x.h5::/x: the HDF5 library crashed on this file\n"
        assert done.stdout == ""
    assert left(tmp_path) == ["x.h5", "y.h5"]
    np.save(tmp_path / "x.npy", normal(4, 4, 8))
    shell(f"$gn stats x.npy -q --dask {mine.address}")  # by the same worker


def test_interrupted(tmp_path: Path, mine: Processes) -> None:
    mine.add(1, SLOW)
    np.save(tmp_path / "x.npy", normal(64, 4, 256, 256))
    run = subprocess.Popen(
        [sys.executable, "-m", "gncli", "normalize", "x.npy", "-g", "2", "-o", "y.npy",
         "--memory", "1M", "--dask", mine.address], cwd=tmp_path, stderr=subprocess.PIPE,
    )  # fmt: skip
    wait_for(lambda: written(tmp_path) > 1 << 20)
    run.send_signal(signal.SIGINT)
    assert run.communicate(timeout=120)[1] == b""
    assert run.returncode == 130
    assert left(tmp_path) == ["x.npy"]
    client = import_module("distributed").Client(mine.address, set_as_default=False)
    wait_for(lambda: not any(client.processing().values()))  # nothing is queued any more
    client.close()


@pytest.mark.parametrize(
    ("preload", "message"),
    [
        (OLDER, r"worker tcp://\S+ has gncli 0\.0\.1, this process .*; install the same"),
        ("import sys; sys.modules['gncli.cluster'] = None", r"worker tcp://\S+ cannot do it: .*gncli"),
        (ELSEWHERE, r"worker tcp://\S+ does not see them: .*x\.npy: no such file"),
    ],
)
def test_workers_that_are_not_as_they_should_be(
    tmp_path: Path, mine: Processes, preload: str, message: str
) -> None:
    (tmp_path / "here").mkdir()
    np.save(tmp_path / "here/x.npy", normal(4, 4, 8))
    mine.add(1, preload)
    with pytest.raises(WorkerError, match=message):
        normalize_file(f"{tmp_path}/here/x.npy", None, Settings(groups=2, dask=mine.address))
    assert left(tmp_path / "here") == ["x.npy"]


def test_another_file_of_the_same_name(tmp_path: Path, mine: Processes) -> None:
    for folder in ("here", "there"):
        (tmp_path / folder).mkdir()
        np.save(tmp_path / folder / "x.npy", normal(4, 4, 8))
    os.utime(tmp_path / "there/x.npy", (1, 1))
    mine.add(1, ELSEWHERE)
    with pytest.raises(WorkerError, match=r"does not see them: .* another time of change"):
        next(stats_file(f"{tmp_path}/here/x.npy", dask=mine.address))


def test_no_worker_and_no_scheduler(tmp_path: Path, mine: Processes, shell: Shell) -> None:
    np.save(tmp_path / "x.npy", normal(4, 4, 8))
    impatient = "from gncli import cluster; cluster.PATIENCE = 1.0; from gncli.cli import main; main()"
    for where, code, message in (
        (mine.address, 1, f"no worker has joined {mine.address} within 1 seconds; start some"),
        ("tcp://127.0.0.1:1", 1, "no scheduler at tcp://127.0.0.1:1: "),
        (
            "nothing.json",
            2,
            "--dask nothing.json is neither tcp://host:port, nor a scheduler file",
        ),
    ):
        done = shell(f'{sys.executable} -c "{impatient}" stats x.npy --dask {where}', code=code)
        assert done.stderr.startswith(f"gn: error: x.npy: {message}")
        assert done.stderr.count("\n") == 1


def test_a_file_that_is_no_scheduler_file(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", normal(4, 4, 8))
    with pytest.raises(GnError, match="no scheduler at "):
        next(stats_file(f"{tmp_path}/x.npy", dask=f"{tmp_path}/x.npy"))


OUTSIDERS = """
import json, logging, os, socket, stat, sys
from gncli.cluster import connect

def refused(address, security=None):
    try:
        distributed.Client(address, security=security, timeout=3, set_as_default=False)
    except OSError:
        return True
    return False

def fetched(port):
    with socket.create_connection(("127.0.0.1", port), timeout=60) as web:
        web.sendall(b"GET /info/main/workers.html HTTP/1.0\\r\\n\\r\\n")
        return web.recv(12).decode()

if __name__ == "__main__":
    made = connect("local", 2)
    for name in "distributed", "distributed.client", "distributed.later", "tornado.later", "asyncio":
        logging.getLogger(name).critical("cannot go on")
    import distributed
    local = made._local.cluster
    told = {
        "jobs": made.jobs,
        "protocols": sorted({a.split(":")[0] for a in [local.scheduler_address, *made._workers]}),
        "refused": [
            refused(local.scheduler_address.replace("tls", "tcp")),
            refused(local.scheduler_address, distributed.Security.temporary()),
        ],
        "fetched": fetched(local.scheduler.http_server.port),
        "mode": oct(stat.S_IMODE(os.stat(made._local._folder).st_mode)),
    }
    made.close()
    told["left"] = os.path.exists(made._local._folder)
    print(json.dumps(told))
"""


def test_a_local_cluster_is_for_nobody_else(shell: Shell, tmp_path: Path) -> None:
    """By TLS, by an HTTP server that serves nothing, and in a folder of its own. It logs nothing either."""
    (tmp_path / "outsiders.py").write_text(OUTSIDERS)
    done = shell(f"{sys.executable} outsiders.py")
    assert json.loads(done.stdout) == {
        "jobs": 2, "protocols": ["tls"], "refused": [True, True], "fetched": "HTTP/1.1 404",
        "mode": "0o700", "left": False,
    }  # fmt: skip
    assert done.stderr == ""


def test_a_stopped_process_of_a_local_cluster_is_ended(tmp_path: Path, shell: Shell) -> None:
    """Also one that is stopped before it has started."""
    np.save(tmp_path / "x.npy", normal(4, 4, 8))
    script = (
        "import os, signal, threading\n"
        "from multiprocessing import process\n"
        "from gncli import cli, localcluster\n"
        "localcluster.START = 1.0\n"
        "started = process.BaseProcess.start\n"
        "def start(self):\n"
        "    started(self)\n"
        "    os.kill(self.pid, signal.SIGSTOP)\n"
        "    print(self.pid)\n"
        "process.BaseProcess.start = start\n"
        "if __name__ == '__main__':\n"
        "    cli.main()\n"
    )
    (tmp_path / "run.py").write_text(script)
    done = shell(f"{sys.executable} run.py stats x.npy -j 1 --dask local", code=1)
    assert done.stderr.startswith("gn: error: x.npy: --dask local does not start: ")
    assert done.stderr.count("\n") == 1
    with pytest.raises(ProcessLookupError):
        os.kill(int(done.stdout), 0)


def test_pipes_stay_at_home(gn: Gn, tmp_path: Path, shell: Shell) -> None:
    np.save(tmp_path / "x.npy", normal(4, 4, 8))
    needs = "--dask needs files that its workers can open; a pipe is none of them"
    for command in ("normalize x.npy -g 2 -o -", "normalize - -g 2 < x.npy", "stats - < x.npy"):
        done = shell(f"set -o pipefail; $gn {command} --dask local | cat", code=2)
        assert needs in done.stderr
        assert done.stdout == ""


@pytest.mark.parametrize(
    ("module", "what"),
    [("distributed", "--dask"), ("cryptography", "--dask local, to be closed to other users by TLS,")],
)
def test_without_the_extra(shell: Shell, tmp_path: Path, module: str, what: str) -> None:
    np.save(tmp_path / "x.npy", normal(4, 4, 8))
    hidden = f"import sys; sys.modules['{module}'] = None; from gncli.cli import main; main()"
    done = shell(f'{sys.executable} -c "{hidden}" stats x.npy --dask local', code=2)
    how = f"at the root of a clone of gn, {sys.executable} -m pip install '.[dask]'"
    assert done.stderr == f"gn: error: {what} needs the extra dask: {how}\n"


def test_the_environment_is_not_obeyed(shell: Shell, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", normal(4, 4, 8))
    script = "import sys; from gncli.cli import gn; gn.main(sys.argv[1:], standalone_mode=False)"
    script += "; assert not {'dask', 'distributed'} & set(sys.modules)"
    run = f'{sys.executable} -c "{script}" normalize x.npy -g 2 -q'
    shell(f"DASK_SCHEDULER_ADDRESS=tcp://127.0.0.1:1 {run}")
