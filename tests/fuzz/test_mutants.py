"""Mutants of HDF5 files: an error in one line or a right result, whatever is damaged."""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fuzz import mutants
from fuzz.harness import Harness, Outcome
from fuzz.judging import DECODED, Reading, agree, differences, entry_at, same, statistics
from fuzz.mutants import Mutant, Seed

OPTION = "mutants"
GROUPS = 2  # divides the channels of every dataset that is normalized
SECONDS = 10.0  # of CPU time, of a command
MEMORY = (64 << 20) + (512 << 20) + 250_000_000  # bytes: --memory, what a child may take beside, gn itself

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memfd_create, pidfd_open")


def test_mutants(
    numbers: range, harness: Harness, seeds: list[Seed], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    found = []
    for number in numbers:
        made = mutants.mutant(seeds, request.config.getoption("seed"), number)
        folder = tmp_path / str(number)
        which = f"{folder}: mutant {number} of {made.seed}, {made.done}"
        found += [f"{which}: {fault}" for fault in Trial(harness, folder, made, number).faults()]
    assert not found, "\n".join(found)


class Trial:
    """Six commands on one mutant, m.h5, beside the sound file, s.h5."""

    def __init__(self, harness: Harness, folder: Path, mutant: Mutant, number: int) -> None:
        self.harness, self.folder, self.mutant, self.number = harness, folder, mutant, number
        self.found: list[str] = []
        folder.mkdir()
        (folder / "m.h5").write_bytes(mutant.data)
        (folder / "s.h5").write_bytes(mutant.sound)
        self._reading: Reading | None = None

    def faults(self) -> list[str]:
        """Run the commands; return what is wrong."""
        target = f"m.h5::/{self.mutant.target}"
        raw = ["--raw"] if self.number % 2 else []
        json_of = ["--format", "json"]
        if (done := self.run("info", "m.h5", *json_of)).out:
            self.check_headers(done)
        if (done := self.run("stats", "m.h5", *json_of, *raw)).out:
            self.check_statistics(done, bool(raw))
        self.check_normalize(target, raw)
        if self.run("diff", "m.h5", "s.h5", *json_of).code == 0:
            self.check_equal()
        self.run("identify", target, f"s.h5::/{self.mutant.target}", "--layout", "channels_first")
        if self.number % 3 == 0 and "c" in self.mutant.target:
            self.run("normalize", "s.h5::/x", "-g", "2", "-n", "--gamma", "m.h5::/c")
        else:
            self.run("stats", target, "-g", "2", "--by", "group", "--format", "tsv")
        return self.found

    def fault(self, words: object, what: object) -> None:
        self.found.append(f"{words}: {what}")

    def run(self, *words: str, made: str | None = None) -> Outcome:
        """Run a command, which may make a file; judge how it ends, and what it leaves."""
        done = self.harness.gn(str(self.folder), words)
        lines = done.err.splitlines()
        errors = [line for line in lines if line.startswith("gn: error: ")]
        compares = words[0] in ("diff", "identify")
        checks = {
            f"ended by {done.code}": done.code not in ((0, 1, 2) if compares else (0, 1)),
            f"said {done.err!r}": any(not re.match("gn: (error|warning): .", line) for line in lines)
            or "Traceback" in done.err
            or "bug in gn" in done.err,
            f"{done.code} and {done.err!r}": bool(errors) != (done.code == (2 if compares else 1)),
            f"took {done.seconds} s": done.seconds > SECONDS,
            f"took {done.memory} bytes": done.memory > MEMORY,
        }
        left = {*os.listdir(self.folder)} - {"m.h5", "s.h5", made if done.code == 0 else None}
        checks[f"left {left}"] = bool(left)
        changed = (self.folder / "m.h5").read_bytes() != self.mutant.data
        checks["changed its input"] = changed and not (made == "m.h5" and done.code == 0)
        for what, wrong in checks.items():
            if wrong:
                self.fault(words, what)
        return done

    @property
    def reading(self) -> Reading:
        """What h5py reads of the mutant; nothing of what is another thing in another process."""
        if self._reading is None:
            first, second = (self.harness.read(str(self.folder), "m.h5", memory) for memory in (1, 2))
            self._reading = {
                name: entry if same(entry, second.get(name)) else {} for name, entry in first.items()
            }
        return self._reading

    def entry(self, address: str) -> dict[str, Any]:
        """Return what h5py reads there."""
        return entry_at(self.reading, address.partition("::")[2])

    def check_headers(self, done: Outcome) -> None:
        for record in map(json.loads, done.out.splitlines()):
            entry = self.entry(record["input"])
            if "shape" in entry and tuple(record["shape"]) != entry["shape"]:
                self.fault("info", f"{record['input']}: {record['shape']}, h5py: {entry['shape']}")

    def check_statistics(self, done: Outcome, raw: bool) -> None:
        records = [*map(json.loads, done.out.splitlines())]
        for record in records:
            entry = self.entry(record["input"])
            values = _numbers(entry)
            if values is None or not (raw or DECODED.isdisjoint(entry["attributes"])):
                continue
            right = statistics(values) | {"shape": [*values.shape]}
            given = {name: record[name] for name in right}
            if not all(given[name] == value for name, value in right.items()):
                self.fault("stats", f"{record['input']}: {given}, h5py: {right}")
        if done.code == 0 and not done.err:
            told = {id(self.entry(record["input"])) for record in records}
            for name, entry in self.reading.items():
                if _numbers(entry) is not None and id(entry) not in told:
                    self.fault("stats", f"{name} is missing")

    def check_normalize(self, target: str, raw: list[str]) -> None:
        name = target.partition("::")[2]
        file = ("y.npy", "m.gn.h5", "m.h5")[self.number % 3]
        output = target if file == "m.h5" else file
        words = ["normalize", target, "-g", str(GROUPS), "-q", *raw, "-f", "-o", output]
        if self.run(*words, made=file).code:
            return
        written = self.folder / file
        after: Reading = {}
        if file == "y.npy":
            y = np.load(written)
        else:
            after = self.harness.read(str(self.folder), file)
            y = self.harness.read(str(self.folder), file, name=name).get(name, {}).get("values")
        written.unlink()
        (self.folder / "m.h5").write_bytes(self.mutant.data)
        before = entry_at(self.reading, name)
        values = _numbers(before)
        if y is None:
            self.fault(words, "the output cannot be read")
        elif values is None or not (raw or DECODED.isdisjoint(before["attributes"])):
            pass  # nobody else knows what is right
        elif not agree(y, values, GROUPS):
            self.fault(words, f"{y.dtype} {y.shape}: {y.reshape(-1)[:9]} of {values.reshape(-1)[:9]}")
        if after:
            for difference in differences(self.reading, after, name):
                self.fault(words, difference)

    def check_equal(self) -> None:
        sound = self.harness.read(str(self.folder), "s.h5")
        for name, entry in self.reading.items():
            if "values" in entry and not same(entry["values"], sound.get(name, {}).get("values")):
                self.fault("diff", f"{name} differs")


def _numbers(entry: dict[str, Any]) -> np.ndarray[Any, Any] | None:
    """Return the values, if gn takes them for numbers."""
    values = entry.get("values")
    if not isinstance(values, np.ndarray) or values.dtype.itemsize > 8:
        return None
    return values if entry["type"][0] in ("TypeIntegerID", "TypeFloatID") else None
