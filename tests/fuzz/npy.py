"""Malformed .npy files for gn, many in one process.

Run `python tests/fuzz/npy.py SEED COUNT` in a folder of its own. Each file is random bytes done to a sound
one, or a header of odd parts. Says nothing if all is well, and otherwise what was wrong with the last case.
"""

from __future__ import annotations

import io
import json
import os
import random
import resource
import signal
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gncli.cli import gn

MEMORY = 100 << 20  # bytes more than at the start
SECONDS = 20  # a case; SIGALRM ends the process
ROOM = 60_000  # bytes: what a pipe takes without a reader

SHAPES = [
    "(2, 3)", "(2, 4, 3)", "(1, 1)", "(0, 4)", "(4, 0)", "()", "(6,)", "(2,3,)", "( 2 , 3 )",
    "(2L, 3L)", "(-1, 3)", "(-2, -3)", "(True, 3)", "(False, 3)", "(2.0, 3)", "(2e9, 3)", "(0x2, 3)",
    "(02, 3)", "(1_0, 3)", "(4611686018427387904, 4)", "(9223372036854775807, 1)",
    "(18446744073709551616, 1)", "(99999999999999999999,)", "(4294967296, 4294967296)",
    "(0, 9223372036854775807, 9)", "(65536, 65536, 65536, 65536)", "(1000000000000, 4)",
    f"({'1, ' * 64})", f"({'1, ' * 65})", f"({'1, ' * 5000})", f"({'9' * 4000},)", "(" * 3000, "[2, 3]",
    "2, 3", "(2 3)", "None", "'(2, 3)'", "(2, 3", "2, 3)", "(None, 3)", "((2, 3), 4)", "(2, 3) * 9",
    "(10**9, 10**9)", "(²,)", "(٣, 3)",
]  # fmt: skip
DESCRS = [
    "'<f4'", "'>f4'", "'=f4'", "'|f4'", "'<f8'", "'<f2'", "'|i1'", "'|u1'", "'<i8'", "'>u2'", '"<f4"',
    "'f4'", "'|O'", "'O'", "'|O8'", "'<O8'", "[('a', '<f4')]", "[('a', '<f4'), ('b', '|O')]",
    "('<f4', (2,))", "'(2,)<f4'", "'<f4,<i2'", "'3<f4'", "[]", "{}", "()", "None", "''", "'<'", "'<f'",
    "'<f0'", "'<f3'", "'<f16'", "'<f999999999'", "'<c8'", "'<c16'", "'|b1'", "'?'", "'<U7'",
    "'<U999999999'", "'|S0'", "'|V4'", "'|V999999999'", "'<M8[ns]'", "'<m8'", "'<M8[9999999999s]'",
    "'float32'", "'float'", "float", "'a5'", "'<f4\\n'", "'\\\\x3cf4'", "'<f4' 'x'", "b'<f4'",
    "__import__('os').mkdir('sprung')", "'__import__'", "'" + "f" * 9000 + "'", "'<f4", "(lambda: 0)()",
]  # fmt: skip
ORDERS = (
    ["False"] * 6 + ["True"] * 3 + ["0", "1", "None", "'False'", "false", "not True", "False or True", ""]
)
VERSIONS = [(1, 0)] * 8 + [(2, 0), (3, 0)] * 2 + [(0, 0), (1, 1), (4, 0), (255, 255)]


def header(chance: random.Random) -> bytes:
    pick: Callable[[Sequence[Any]], Any] = chance.choice
    sound = chance.random() < 0.5
    entries = [
        f"'descr': {pick(DESCRS[:12] if sound else DESCRS)}",
        f"'fortran_order': {pick(ORDERS[:9] if sound else ORDERS)}",
        f"'shape': {pick(SHAPES[:10] if chance.random() < 0.5 else SHAPES)}",
    ]
    if chance.random() < 0.2:
        chance.shuffle(entries)
    if chance.random() < 0.1:
        entries.append(
            pick(["'extra': 1", "'shape': (2, 3)", "'descr': '<f4'", "# comment", "'a': " + "[" * 999])
        )
    if chance.random() < 0.1:
        entries.pop(chance.randrange(len(entries)))
    text = pick(
        ["{%s}", "{%s, }", "{%s,}\n"] * 4
        + ["%s", "[%s]", "{%s", "{%s}}", "{%s}\x00", "\ufeff{%s}", "dict(%s)"]
    )
    body: bytes = (text % ", ".join(entries)).encode()
    body += b" " * (-(len(body) + 11) % 64) + b"\n"
    version: tuple[int, int] = pick(VERSIONS)
    wide = 2 if version[0] <= 1 else 4
    length = len(body)
    if chance.random() < 0.1:
        length = pick([0, 1, length - 1, length + 1, length + 64, 0xFFFF, 0x10001, 0x7FFFFFFF, 0xFFFFFFFF])
    start = b"\x93NUMPY" + bytes(version)
    field: bytes = (length % 256**wide).to_bytes(wide, "little")
    return start + field + body


def mutated(content: bytearray, chance: random.Random) -> bytearray:
    """A few bytes changed, taken out, put in, or copied; the first 128 most of all."""
    for _ in range(chance.choice([1, 1, 1, 2, 3, 8])):
        at = chance.randrange(min(len(content), 128) if chance.random() < 0.8 else len(content))
        match chance.randrange(6):
            case 0:
                content[at] = chance.randrange(256)
            case 1:
                content[at] ^= 1 << chance.randrange(8)
            case 2:
                del content[at : at + chance.choice([1, 1, 2, 8, 1000])]
            case 3:
                content[at:at] = chance.randbytes(chance.choice([1, 1, 2, 8, 100]))
            case 4:
                content[at:at] = content[chance.randrange(len(content)) :][: chance.randrange(64)]
            case _:
                content[at : at + 1] = chance.choice(
                    [b"0", b"9", b"-", b"(", b")", b"'", b",", b"\n", b"\0", b"{"]
                )
        if not content:
            break
    return content


def case(chance: random.Random) -> bytes:
    if chance.random() < 0.5:
        size = chance.choice([24, 24, 24, 48, 96, 0, 23, 25, 4, 12, 1000])
        return (header(chance) + chance.randbytes(size))[:ROOM]
    stream = io.BytesIO()
    x = np.arange(24).astype(chance.choice(["f4", "f8", "u1", "i4", "f2", "?", "c8"])).reshape(2, 4, 3)
    np.save(stream, x if chance.random() < 0.5 else np.asfortranarray(x))
    return bytes(mutated(bytearray(stream.getvalue()), chance))


def numpys(content: bytes) -> NDArray[Any] | None:
    """What numpy makes of it: the one array, or None."""
    stream = io.BytesIO(content)
    try:
        with warnings.catch_warnings(action="ignore"):
            array: NDArray[Any] = np.lib.format.read_array(
                stream, allow_pickle=False, max_header_size=1 << 20
            )
    except Exception:  # noqa: BLE001 - numpy has many
        return None
    return array if stream.tell() == len(content) else None


def run(words: list[str]) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of gn, in this process."""
    sys.stdout, sys.stderr = io.StringIO(), io.StringIO()
    try:
        gn(words, prog_name="gn")
        code = 0
    except SystemExit as end:
        code = int(end.code or 0)
    finally:
        out, err = sys.stdout.getvalue(), sys.stderr.getvalue()
        sys.stdout, sys.stderr = sys.__stdout__, sys.__stderr__
    return code, out, err


def check(content: bytes, command: str) -> None:
    address = "x.npy"
    if command.endswith("-"):
        address = "-"
        read, write = os.pipe()
        os.write(write, content)
        os.close(write)
        os.dup2(read, 0)
        os.close(read)
    else:
        Path("x.npy").write_bytes(content)
    normalize = ["normalize", address, "-o", "y.npy", "-g", "1", "-q"]
    code, out, err = run(normalize if command[0] == "n" else ["stats", address, "--format", "json"])
    written = Path("y.npy").exists()
    if written:
        y = np.load("y.npy")
        os.unlink("y.npy")
    assert set(os.listdir()) <= {"x.npy"}, os.listdir()
    array = numpys(content)
    if code == 0:
        assert array is not None or address == "-", "numpy does not read it"
        if array is None:  # several, perhaps
            return
        assert written == (command[0] == "n")
        if written:
            assert y.shape == array.shape
        else:
            (record,) = map(json.loads, out.splitlines())
            assert (record["shape"], record["dtype"]) == ([*array.shape], array.dtype.name)
            finite = array[np.isfinite(array)].astype("f8")
            assert record["count"] == array.size
            assert finite.size == 0 or record["min"] == finite.min()
        return
    assert code == 1, code
    assert not written
    assert err.count("\n") == 1, err
    assert err.startswith("gn: error: "), err
    assert "bug in gn" not in err, err
    assert "out of memory" not in err, err


def main(seed: int, count: int) -> None:
    for warm in ("n", "s", "n-", "s-"):
        stream = io.BytesIO()
        np.save(stream, np.ones((2, 3, 4), "f4"))
        check(stream.getvalue(), warm)
        check(b"", warm)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, resource.RLIM_INFINITY))
    for number in range(count):
        chance = random.Random(f"{seed}.{number}")
        content, command = case(chance), chance.choice(["n", "n", "s", "n-", "s-"])
        Path("../last").write_text(f"seed {seed}, case {number}, {command}: {content[:500]!r}")
        signal.alarm(SECONDS)
        try:
            check(content, command)
        except Exception:
            print(Path("../last").read_text(), file=sys.stderr)
            raise
    signal.alarm(0)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
