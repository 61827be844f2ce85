"""Low limits, as of containers, cron and old machines: gn works, or says in one line why it can't."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from arrays import Array, normal
from conftest import Shell
from oracle import ulp_distance
from test_pipes import reference

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits are the system's own")

LIMITS = {
    "32 open files": "ulimit -n 32; GN_NORMALIZE_JOBS=32 $gn",
    "1 GB of addresses": "ulimit -v 1000000; $gn",
    "one core": "taskset -c $(taskset -cp $$ | grep -o '[0-9]*$') $gn",
    "no home": "env -u HOME $gn",
    "a home that is not there": "HOME=/nowhere $gn",
    "LANG=C": "env -u LC_ALL LANG=C $gn",
    "no environment": 'env -i PYTHONPATH="$PYTHONPATH" $gn',
    "a small stack": "ulimit -s 256; $gn",
    "no core dumps, no locked memory": "ulimit -c 0 -l 0; $gn",
    "low priority": "nice -n 19 $gn",
}  # fmt: skip


@pytest.fixture
def x(tmp_path: Path) -> Array:
    """As x.npy, large enough for processes; as x.h5; and small, as é.npy."""
    x = normal(40, 64, 110, 64)
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "é.npy", x[:1])
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.create_dataset("x", data=x[:8], chunks=(1, 16, 110, 64), compression="gzip")
    return x


@pytest.mark.parametrize("limit", LIMITS)
def test_low_limits(shell: Shell, tmp_path: Path, x: Array, limit: str) -> None:
    if limit == "one core" and not shutil.which("taskset"):
        pytest.skip("no taskset")
    run = LIMITS[limit]
    done = shell(f"{run} normalize x.npy -g 4 -q")
    assert (done.stdout, done.stderr) == ("", "")
    shell(f"cd {tmp_path}; {run} normalize é.npy -g 4 --format json > report")
    shell(f"{run} normalize x.h5 -g 4 -q -o h5.npy; {run} normalize - -g 4 -q < x.npy > pipe.npy")
    shell(
        f"mkdir in; for k in $(seq 40); do cp é.npy in/$k.npy; done; {run} normalize in/*.npy -g 4 -q -o out/"
    )
    whole = (tmp_path / "x.gn.npy").read_bytes()
    assert (tmp_path / "pipe.npy").read_bytes() == whole
    y = np.load(tmp_path / "x.gn.npy", mmap_mode="r")
    small = reference(x[:8], 4)
    for part in (y[:8], np.load(tmp_path / "h5.npy"), np.load(tmp_path / "é.gn.npy")):
        assert ulp_distance(np.asarray(part), small[: len(part)]).max() <= 1
    one = (tmp_path / "é.gn.npy").read_bytes()
    assert {(tmp_path / "out" / name).read_bytes() for name in os.listdir(tmp_path / "out")} == {one}
    assert len(os.listdir(tmp_path / "out")) == 40
    for left in (tmp_path / "x.npy", tmp_path / "x.gn.npy", tmp_path / "pipe.npy"):
        left.unlink()  # pytest keeps the last three


@pytest.mark.parametrize("files", [3, 4, 5, 6, 8, 10])
def test_hardly_any_files(shell: Shell, tmp_path: Path, files: int) -> None:
    """Fewer than it needs: an error, perhaps the interpreter's own, and never half a file."""
    x = normal(2, 4, 3)
    np.save(tmp_path / "x.npy", x)
    shell(f"(ulimit -n {files}; $gn normalize x.npy -g 4 -q 2> /dev/null); true")
    assert set(os.listdir(tmp_path)) <= {"x.npy", "x.gn.npy"}
    if (tmp_path / "x.gn.npy").exists():
        assert ulp_distance(np.load(tmp_path / "x.gn.npy"), reference(x, 4)).max() <= 1


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&-", "<&- 2>&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_standard_streams_that_are_closed(shell: Shell, tmp_path: Path, closed: str) -> None:
    """No file of gn's takes their numbers, and with it what is printed."""
    x = normal(2, 4, 3)
    np.save(tmp_path / "x.npy", x)
    before = (tmp_path / "x.npy").read_bytes()
    shell(f"$gn normalize x.npy -g 4 --progress {closed}")
    shell(f"$gn normalize x.npy x.npy -g 4 {closed}", code=2)
    shell(f"$gn normalize x.npy none.npy -g 4 -f {closed}", code=1)
    shell(f"$gn stats x.npy {closed}")
    assert sorted(os.listdir(tmp_path)) == ["x.gn.npy", "x.npy"]
    assert (tmp_path / "x.npy").read_bytes() == before
    assert ulp_distance(np.load(tmp_path / "x.gn.npy"), reference(x, 4)).max() <= 1
