"""What the headers say of tensors in files, and what they may be: behind `gn info`. Reads no data."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from gncli.layout import channel_axis, divisors, layouts
from gncli.tensors import inspect


def info_file(
    address: str, *, allow_external: bool = False, raw: bool = False
) -> Iterator[dict[str, object]]:
    """A record for each numeric tensor that `address` names. Raises GnError."""
    for header in inspect(address, external=allow_external):
        stored = header.stored_bytes
        decoding = None if raw else header.decoding
        yield {
            "schema": 1,
            "input": header.address,
            "shape": list(header.shape),
            "dtype": header.dtype.name,
            "byte_order": _byte_order(header.dtype.str[0]),
            "order": "F" if header.fortran else "C",
            "bytes": header.nbytes,
            "storage": header.storage,
            "stored_bytes": stored,
            "ratio": header.nbytes / stored if stored else None,
            "chunks": header.chunks,
            "max_shape": header.max_shape,
            "filters": header.filters,
            "attributes": header.attributes,
            "links": header.links,
            "decoded": decoding.record(None) if decoding else None,
            "groups": valid_groups(header.shape),
        }


def valid_groups(shape: Sequence[int]) -> dict[str, list[int]]:
    """The layouts that fit, the likeliest first, and the numbers of groups that the channels divide into."""
    return {word: divisors(shape[channel_axis(word, len(shape))]) for word in layouts(len(shape))}


def _byte_order(sign: str) -> str:
    return {"<": "little", ">": "big"}.get(sign, "none")  # of single bytes
