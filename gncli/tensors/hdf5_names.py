"""Names in HDF5 files, which are bytes: of UTF-8 as a rule, but not always."""

from __future__ import annotations


def encoded(name: str | bytes) -> bytes:
    """A name as HDF5 has it; h5py gives bytes where it is not UTF-8."""
    return name if isinstance(name, bytes) else name.encode("utf-8", "surrogateescape")


def link_name(name: str) -> str | bytes:
    """A name for h5py's own calls, which take text for UTF-8, and bytes for what is not."""
    return name if name == name.encode("utf-8", "replace").decode() else encoded(name)
