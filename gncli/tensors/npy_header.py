"""The header of an .npy: the shape, the dtype and the order of its elements.

The format: https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from gncli.errors import FormatError
from gncli.layout import MAX_RANK
from gncli.tensors.address import NPY_MAGIC, require_numeric

MAX_HEADER = 64 * 1024  # bytes; of one tensor's, rank 64 and all, hardly 1500 are not padding

# The header is the text of a Python dict. Three entries of fixed form need no evaluator, which a
# stranger could make to recurse, to warn or to fill memory. The u and the L are Python 2's.
BLANKS = " \t\n\r\f"
_B = f"[{BLANKS}]*"
_LENGTH = rf"(?:0|[1-9]\d{{0,18}})L?{_B}"
_TUPLE = rf"\({_B}(?:(?:{_LENGTH},{_B})+(?:{_LENGTH})?)?\)"
_ENTRY = re.compile(
    rf"""[uU]?(?P<quote>['"])(?P<key>descr|fortran_order|shape)(?P=quote){_B}:{_B}"""
    rf"""(?P<value>[uU]?(?:'[^'"\\]*'|"[^'"\\]*")|True|False|{_TUPLE}){_B}(?:,{_B}|$)""",
    re.ASCII,
)
_STRUCTURED = re.compile(r"""['"]descr['"]\s*:\s*[\[(]""", re.ASCII)
# One word, as '<f4', 'f', '<M8[ns]' or 'float32'. numpy warns about 'a' and 'a5', which are no numbers.
_DESCR = re.compile(r"[<>|=]?(?!a\d*$)[A-Za-z]\w{0,31}(?:\[\w{1,9}\])?", re.ASCII)

Check = Callable[[np.dtype[Any], str], None]


@dataclass(frozen=True)
class Header:
    """The header of one array, as it stands in the file."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    fortran: bool
    offset: int  # of the first element, in bytes

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


def read_header(read: Callable[[int], bytes], address: str, check: Check = require_numeric) -> Header:
    """The header at the front of what `read(count)` gives; it gives fewer bytes only at the end.

    `check(dtype, address)` raises FormatError for a dtype that the caller cannot take.
    Nothing of a size that the header claims is allocated. Raises FormatError.
    """
    start = read(8)
    major, minor = start[6:8] if start.startswith(NPY_MAGIC) and len(start) == 8 else (0, 0)
    if (major, minor) not in ((1, 0), (2, 0), (3, 0)):
        message = f"has .npy version {major}.{minor}; gn reads 1.0, 2.0 and 3.0"
        raise FormatError(message, address=address)
    wide = 2 if major == 1 else 4
    field = read(wide)
    length = int.from_bytes(field, "little")
    if length > MAX_HEADER:
        message = f"declares a header of {length} bytes; of one tensor it has at most {MAX_HEADER}"
        raise FormatError(message, address=address)
    body = read(length)
    held, offset = 8 + len(field) + len(body), 8 + wide + length
    if held < offset:
        message = f"is cut off in its header, at {held} of {offset} bytes; write it again"
        raise FormatError(message, address=address)
    shape, dtype, fortran = _parse(body.decode("utf-8" if major == 3 else "latin-1", "replace"), address)
    check(dtype, address)
    # numpy counts in int64, and leaves out the zeros when it checks that the product fits.
    if len(shape) > MAX_RANK:
        message = f"declares {len(shape)} axes; gn and numpy take {MAX_RANK} at most; merge some by a reshape"
        raise FormatError(message, address=address)
    if math.prod(filter(None, shape)) * dtype.itemsize >= 2**63:
        raise FormatError(f"declares an absurd shape, {shape}", address=address)
    return Header(shape, dtype, fortran and len(shape) > 1, offset)


def _parse(text: str, address: str) -> tuple[tuple[int, ...], np.dtype[Any], bool]:
    """Return shape, dtype and fortran_order from the header's text. Raises FormatError."""
    if _STRUCTURED.search(text):
        raise FormatError("has a structured or sub-array dtype; save one field of it", address=address)
    text = text.strip(BLANKS)
    entries: dict[str, str] = {}
    if text[:1] == "{" and text[-1:] == "}":
        body = text[1:-1].strip(BLANKS)
        position = 0
        while (match := _ENTRY.match(body, position)) and match["key"] not in entries:
            entries[match["key"]] = match["value"]
            position = match.end()
        if position < len(body):
            entries.clear()
    descr, order, shape = (entries.get(key, "") for key in ("descr", "fortran_order", "shape"))
    descr = descr.lstrip("uU")
    if descr[:1] not in ("'", '"') or order not in ("True", "False") or shape[:1] != "(":
        shown = ascii(text if len(text) <= 80 else text[:80] + "...")
        raise FormatError(f"has a header that is not of an .npy: {shown}", address=address)
    dtype = _parse_dtype(descr[1:-1], address)
    return tuple(int(digits) for digits in re.findall(r"\d+", shape)), dtype, order == "True"


def _parse_dtype(descr: str, address: str) -> np.dtype[Any]:
    try:
        # np.dtype alone would take lists of fields, and strings that it warns about.
        dtype = np.dtype(descr) if _DESCR.fullmatch(descr) else None
    except (TypeError, ValueError):
        dtype = None
    if dtype is None:
        raise FormatError(f"has a dtype that gn does not know: {descr!a}", address=address)
    return dtype


def header_bytes(shape: tuple[int, ...], dtype: np.dtype[Any], fortran: bool) -> bytes:
    """A header of version 1.0, as np.save writes it."""
    text = io.BytesIO()
    entries = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": fortran, "shape": shape}
    np.lib.format.write_array_header_1_0(text, entries)
    return text.getvalue()
