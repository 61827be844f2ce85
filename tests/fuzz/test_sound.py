"""Sound HDF5 files of random make: gn's output is right, and all else in it is as it was."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fuzz.harness import Harness
from fuzz.judging import agree, differences, entry_at, same
from fuzz.sound import Sound, write

OPTION = "sound"
LOSSY = {5, 6}  # nbit and scale-offset: a new dataset does without
COMPACT = 0
KEPT = ("shape", "maxshape", "chunks", "layout", "filters")  # of a dataset that is normalized

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memfd_create, pidfd_open")


def test_sound_files(
    numbers: range, harness: Harness, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    seed = request.config.getoption("seed")
    found = []
    for number in numbers:
        folder = tmp_path / str(number)
        folder.mkdir()
        sound = harness.call(str(folder), partial(write, folder / "f.h5", seed, number))
        wrong = faults(harness, folder, sound, random.Random(f"command {seed}.{number}"))
        found += [f"{folder}: sound file {number}: {fault}" for fault in wrong]
    assert not found, "\n".join(found)


def faults(harness: Harness, folder: Path, sound: Sound, chance: random.Random) -> Iterator[str]:
    """Normalize a target, or all of them; yield what is wrong with the output."""
    targets = [*sound.targets]
    output = "f.h5" if len(targets) == 1 and chance.random() < 0.4 else "o.h5"
    dtype = chance.choice([None, None, "float32", "float64", "float16"])
    groups = chance.choice([1, 2])
    words = ["normalize", *(f"f.h5::{target}" for target in targets), "-q", "-g", str(groups)]
    words += ["-o", f"f.h5::{targets[0]}" if output == "f.h5" else output, "-f", "--nan", "omit"]
    words += ["--dtype", dtype] if dtype else []
    before = harness.read(str(folder), "f.h5")
    done = harness.gn(str(folder), words)
    if done.code or done.err:
        yield f"{words}: {done.code}, {done.err}"
        return
    after = harness.read(str(folder), output)
    yield from (f"{words}: {difference}" for difference in differences(before, after, *targets))
    for target in targets:
        old, new = entry_at(before, target), entry_at(after, target)
        values = sound.decoded.get(target, old["values"])
        if "values" not in new:
            yield f"{words}: {target} cannot be read: {new}"
            continue
        wanted = dtype or default_dtype(old["dtype"] if target not in sound.decoded else values.dtype)
        if new["values"].dtype.newbyteorder("=") != np.dtype(wanted):
            yield f"{words}: {target} is of {new['values'].dtype}, not of {wanted}"
        if not agree(new["values"], values, groups, missing=np.isnan(values)):
            yield f"{words}: {target} has {new['values'].reshape(-1)[:9]} of {values.reshape(-1)[:9]}"
        yield from (f"{words}: {target}: {what}" for what in changes(old, new))


def changes(old: dict[str, Any], new: dict[str, Any]) -> Iterator[str]:
    """Yield how the storage of a dataset has changed that should not have."""
    for key in KEPT:
        a, b = old[key], new[key]
        if key == "filters":  # their values depend on the size of an element
            a, b = ([code for code, *_ in filters if code not in LOSSY] for filters in (a, b))
        if not same(a, b) and not (key == "layout" and a == COMPACT):  # which a new dataset is not
            yield f"its {key} was {a}, is {b}"


def default_dtype(dtype: np.dtype[Any]) -> str:
    """Return the dtype of the output where none is asked for."""
    if dtype.kind == "f":
        return dtype.name
    return "float32" if dtype.itemsize <= 2 else "float64"
