"""What the fuzzers rest on: the mutator knows the format, and the harness runs what the shell does."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import pytest

from fuzz.harness import Harness
from fuzz.mutants import Seed, _File, mutant

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memfd_create, pidfd_open")

KINDS = (
    {"superblock", "header 1", "OHDR", "OCHK", "TREE", "SNOD", "HEAP", "GCOL", "BTHD", "BTLF", "FRHP", "FHDB"}
    | {"FHIB", "FAHD", "FADB", "EAHD", "EAIB", "EADB", "FSHD", "FSSE", "SMTB", "SMLI"}
)  # fmt: skip
WITHOUT_CHECKSUM = {"header 1", "TREE", "SNOD", "HEAP", "GCOL"}


def test_every_structure_is_found(seeds: list[Seed]) -> None:
    blocks = [block for seed in seeds for block in seed.anatomy.blocks]
    assert {block.kind for block in blocks} == KINDS
    bare = {block.kind for block in blocks if block.checksum is None}
    assert bare == WITHOUT_CHECKSUM | {"superblock"}  # that of version 0


def test_checksums_are_those_of_hdf5(seeds: list[Seed]) -> None:
    for seed in seeds:
        file = _File(seed, random.Random(0))
        file.touched.update(seed.anatomy.blocks)
        file.seal()
        assert file.data == seed.data, seed.name


def test_a_number_is_a_mutant(seeds: list[Seed]) -> None:
    assert mutant(seeds, 1, 5) == mutant(seeds, 1, 5)
    assert len({mutant(seeds, seed, number).data for seed in (1, 2) for number in range(20)}) > 35


def test_mutants_get_past_the_checksums(seeds: list[Seed], harness: Harness, tmp_path: Path) -> None:
    opened = 0
    for number in range(20):
        (tmp_path / "m.h5").write_bytes(mutant(seeds, 1, number).data)
        opened += "error" not in harness.read(str(tmp_path), "m.h5").get("/", {"error": ""})
    assert opened > 10


@pytest.mark.parametrize(
    "words", [("info", "m.h5"), ("stats", "m.h5", "--format", "json"), ("diff", "m.h5", "s.h5")]
)
def test_the_harness_gives_what_the_shell_gives(
    words: tuple[str, ...], seeds: list[Seed], harness: Harness, tmp_path: Path
) -> None:
    made = mutant(seeds, 1, 0)
    (tmp_path / "m.h5").write_bytes(made.data)
    (tmp_path / "s.h5").write_bytes(made.sound)
    command = [sys.executable, "-m", "gncli", *words]
    real = subprocess.run(command, cwd=tmp_path, capture_output=True, check=False)
    done = harness.gn(str(tmp_path), words)
    assert (done.code, done.out, done.err) == (real.returncode, real.stdout, real.stderr.decode())
    assert 0 < done.seconds < 10
    assert done.memory > 1 << 20
