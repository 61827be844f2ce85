"""Which tensors of two addresses are to be compared with each other."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from math import prod
from typing import NamedTuple

import numpy as np

from gncli.errors import AddressError, FormatError, UsageError
from gncli.layout import stretches
from gncli.tensors import Source, expand, is_piped, more, open_source
from gncli.tensors.address import split
from gncli.tensors.pipe import stream_at
from gncli.tensors.values import datasets, named

CHUNK = 1 << 17  # elements


class Match(NamedTuple):
    """Two addresses; None for what the other side lacks. `array`: which one of a pipe it is, from 0."""

    a: str | None
    b: str | None
    array: int | None = None


def matches(a: str, b: str, *, external: bool = False) -> Iterator[Match]:
    """Yield the pairs of tensors to compare. Raises GnError.

    One tensor with one; of two HDF5 files, or globs, the datasets of one path; of pipes, array by array.
    Of a pipe, the tensors of a match have to be read before the next match is asked for.
    """
    if a == b and (stream := stream_at(split(a)[0])) is not None and stream.kind() == "npy":
        raise UsageError("can be read once, and is named twice", address=a)
    sides = [datasets(given, external=external) for given in (a, b)]
    addresses = [a, b]
    for side, other in ((0, 1), (1, 0)):
        if sides[side] is None or sides[other] is not None:
            continue
        found = expand(addresses[side], external=external)
        if len(found) == 1:
            addresses[side], sides[side] = found[0], None
        elif "::" in addresses[other]:
            sides[other] = {split(addresses[other])[1] or "": None}
        else:
            message = "is one tensor, the other side several; name one there"
            raise AddressError(message, address=addresses[other])
    if sides[0] is not None and sides[1] is not None:
        yield from _by_path(a, sides[0], b, sides[1])
        return
    piped = is_piped(*addresses)
    yield Match(addresses[0], addresses[1], 0 if piped else None)
    if piped:
        yield from _rest(addresses[0], addresses[1])


def _by_path(a: str, in_a: Mapping[str, Hashable], b: str, in_b: Mapping[str, Hashable]) -> Iterator[Match]:
    """Datasets of one path. What has several paths is compared, or missed, under the first of them."""
    if not in_a and not in_b:
        raise AddressError("holds no dataset, nor does the other file", address=a)
    pairs: dict[tuple[Hashable, Hashable], str] = {}
    for path in sorted(in_a.keys() & in_b.keys()):
        pairs.setdefault((in_a[path], in_b[path]), path)
    seen_a, seen_b = ({objects[side] for objects in pairs} for side in (0, 1))
    compared = set(pairs.values())
    for path in sorted({*in_a, *in_b}):
        if path in compared:
            yield Match(named(a, path), named(b, path))
        elif path not in in_b and in_a[path] not in seen_a:
            seen_a.add(in_a[path])
            yield Match(named(a, path), None)
        elif path not in in_a and in_b[path] not in seen_b:
            seen_b.add(in_b[path])
            yield Match(None, named(b, path))


def _rest(a: str, b: str) -> Iterator[Match]:
    """What comes behind the first arrays of a pipe, or of two."""
    array = 1
    while True:
        here = [_another(address, array) for address in (a, b)]
        if not any(here):
            return
        yield Match(a if here[0] else None, b if here[1] else None, array)
        array += 1


def _another(address: str, array: int) -> bool:
    """Whether another array comes on a pipe. Raises FormatError where what comes is none."""
    stream = stream_at(split(address)[0])
    if stream is None or not more(address):
        return False
    try:
        kind = stream.kind()
    except FormatError as error:
        message = f"has bytes after array {array} that are no array: what follows {error.message}"
        raise FormatError(message, address=address) from None
    if kind != "npy":
        raise FormatError(f"has an HDF5 file after array {array}; give it by itself", address=address)
    return True


def read_alone(address: str, *, external: bool = False, force: bool = False) -> Source:
    """Return the tensor at `address`, closed; of a pipe it is read to its end, which is to be there."""
    source = open_source(address, external=external, force=force)
    try:
        if stream_at(split(address)[0]) is not None:
            for run in stretches(prod(source.shape), CHUNK):
                source.read([run], np.empty(run[1], source.dtype))
    finally:
        source.close()
    return source
