"""Small HDF5 files with bytes flipped, moved and cut off: an error in one line, or a result; nothing else."""

from __future__ import annotations

import os
import random
import re
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

SEEDS = range(int(os.environ.get("FUZZ_FROM", "0")), int(os.environ.get("FUZZ_TO", "400")))
STATS = ["stats", "f.h5"]
NORMALIZE = ["normalize", "f.h5::/*", "-g", "2", "--memory", "4M", "--nan", "omit"]
PATIENCE = 20  # seconds for one file
# What libhdf5 itself does not survive, by its version: none is known.
CRASHES: dict[str, set[int]] = {}


def make_files() -> list[bytes]:
    """Of both generations of the format, with what files have: chunks, filters, links, scales, references."""
    import h5py
    import numpy as np

    made = []
    x = np.random.default_rng(0).standard_normal((2, 4, 6, 100)).astype("f4")
    for libver in ("earliest", "latest"):
        with h5py.File("base.h5", "w", libver=libver) as file:
            file["plain"] = x
            file["g/scale"] = np.arange(2.0)
            file["g/scale"].make_scale("n")
            file["plain"].dims[0].attach_scale(file["g/scale"])
            file.attrs["reference"] = file["plain"].ref
            file["soft"] = h5py.SoftLink("/g/scale")
            file["out"] = h5py.ExternalLink("no.h5", "/x")
            file["g"].attrs["names"] = ["a", "bc"]
        made.append(Path("base.h5").read_bytes())
        with h5py.File("base.h5", "w", libver=libver) as file:
            how = {"compression": "gzip", "shuffle": True, "fletcher32": True}
            file.create_dataset("zipped", data=np.repeat(x, 8, 2), chunks=(1, 4, 20, 100), **how)
        made.append(Path("base.h5").read_bytes())
        layout = h5py.VirtualLayout((2, 2, 4, 6, 100), "f4")
        with h5py.File("base.h5", "w", libver=libver) as file:
            file["a"] = x
            layout[0] = layout[1] = h5py.VirtualSource(".", "/a", x.shape)
            file.create_virtual_dataset("virtual", layout)
            file.create_dataset("tiny", data=x[:, :, :2, :5], chunks=(1, 2, 2, 5), maxshape=(None, 4, 2, 5))
        made.append(Path("base.h5").read_bytes())
    return made


def damaged(whole: bytes, rng: random.Random) -> bytes:
    data = bytearray(whole)
    for _ in range(rng.choice([1, 1, 2, 5, 30])):
        where = rng.randrange(min(len(data), rng.choice([200, 3000, len(data)])))
        match rng.randrange(5):
            case 0:
                data[where] ^= 1 << rng.randrange(8)
            case 1:
                data[where] = rng.choice([0, 1, 127, 128, 255])
            case 2:
                data[where : where + 8] = rng.randbytes(8)
            case 3:
                data[where : where + 8] = rng.choice([b"\xff" * 8, bytes(8), b"\0\0\0\0\0\x01\0\0"])
            case 4:
                other = rng.randrange(len(data))
                data[where : where + 16] = data[other : other + 16]
    return bytes(data[: rng.randrange(1, len(data))] if rng.random() < 0.1 else data)


def main(first: int, last: int) -> None:
    """In a child: each seed is told before its file is touched."""
    from click.testing import CliRunner

    from gncli.cli import gn

    resource.setrlimit(resource.RLIMIT_AS, (3 << 30, 3 << 30))
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    bases = make_files()
    for name in os.listdir():  # of a crash, too
        os.unlink(name)
    for seed in range(first, last):
        print(f"\nseed {seed}", flush=True)
        rng = random.Random(seed)
        Path("f.h5").write_bytes(damaged(rng.choice(bases), rng))
        signal.alarm(PATIENCE)
        for words in (STATS, NORMALIZE):
            done = CliRunner().invoke(gn, words)
            if done.exit_code not in (0, 1) or "bug in gn" in done.stderr or "Traceback" in done.stderr:
                print("FAILED", seed, words, done.exit_code, repr(done.stderr), repr(done.exception))
            if not all(re.match("gn: (error|warning): ", line) for line in done.stderr.splitlines()):
                print("FAILED", seed, words, repr(done.stderr))
            left = sorted(set(os.listdir()) - {"f.h5", *(["f.gn.h5"] if done.exit_code == 0 else [])})
            if left:
                print("FAILED", seed, words, left)
            for name in set(os.listdir()) - {"f.h5"}:
                os.unlink(name)
        signal.alarm(0)
    print("\nend", flush=True)


def test_damaged_files(tmp_path: Path) -> None:
    import h5py

    first, crashed, failed = SEEDS.start, {}, []
    while first < SEEDS.stop:
        program = f"from test_hdf5_fuzz import main; main({first}, {SEEDS.stop})"
        done = subprocess.run(
            [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])},
            timeout=PATIENCE * 20,
        )  # fmt: skip
        failed += re.findall(r"^FAILED.*", done.stdout, re.MULTILINE)
        seeds = [int(seed) for seed in re.findall(r"^seed (\d+)$", done.stdout, re.MULTILINE)]
        assert seeds, done.stderr
        if done.stdout.endswith("\nend\n"):
            break
        assert done.returncode < 0, f"seed {seeds[-1]}: {done.stderr}"
        crashed[seeds[-1]] = signal.Signals(-done.returncode).name
        first = seeds[-1] + 1
    assert not failed, "\n".join(failed)
    assert signal.SIGALRM.name not in crashed.values(), f"hangs: {crashed}"
    assert crashed.keys() <= CRASHES.get(h5py.version.hdf5_version, set()), crashed


def test_damage_is_damage() -> None:
    """Most files are hurt where it is felt: the test above has something to test."""
    whole = bytes(range(256)) * 20
    assert len({damaged(whole, random.Random(seed)) for seed in range(100)}) == 100


if __name__ == "__main__":
    pytest.main([__file__])
