"""h5py's exceptions as gn's: one line, the innermost cause."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from gncli.errors import GnError

# SystemError: h5py's own, where Python's is raised within a callback of HDF5.
H5PY_ERRORS = (OSError, RuntimeError, ValueError, TypeError, LookupError, ArithmeticError, SystemError)


@contextmanager
def translated(kind: type[GnError], address: str, what: str = "cannot be read") -> Iterator[None]:
    """What h5py raises within, as a `kind` on one line."""
    try:
        yield
    except H5PY_ERRORS as error:
        raise kind(f"{what}: {h5py_reason(error)}", address=address) from None


def h5py_reason(error: Exception) -> str:
    """The core of h5py's message: the system's words if it quotes them, else the innermost cause."""
    text = " ".join(str(error).strip("'\"").split())
    match = re.search(r"error message = '([^']+)'", text) or re.search(r"\((.+)\)", text)
    text = (match[1] if match else text)[:200]
    return text[:1].lower() + text[1:]
