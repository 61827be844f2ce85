"""Soft links that lead to soft links: each is read once, however many chains of them it is part of."""

from __future__ import annotations

import sys
from collections.abc import Mapping

import h5py

from gncli.tensors.hdf5_errors import H5PY_ERRORS

NEVER = sys.maxsize  # links, on the way round a circle


class SoftLinks:
    """The soft links among the `links` of a file: paths without the leading slash, and their types."""

    def __init__(self, file: h5py.File, links: Mapping[bytes, int]) -> None:
        self._file, self._links = file, links
        self._ends: dict[bytes, tuple[bytes, int]] = {}

    def end_of(self, path: bytes) -> tuple[bytes, int]:
        """Return the first path on the way from `path` that is no soft link, and how many links lead to it.

        A path that is none of the file's own links, as one that goes through a soft link to a group, is not
        followed: the way ends before it.
        """
        way: list[bytes] = []
        on_the_way: set[bytes] = set()
        at, end = path, None
        while end is None:
            if at in self._ends:
                end = self._ends[at]
            elif at in on_the_way:
                end = at, NEVER
            elif (target := self._target(at)) is None:
                end = at, 0
            else:
                way.append(at)
                on_the_way.add(at)
                at = target
        for link in reversed(way):
            end = end[0], min(end[1] + 1, NEVER)
            self._ends[link] = end
        return end

    def _target(self, path: bytes) -> bytes | None:
        """The path that a soft link leads to, if it is one and leads to one of the links."""
        if self._links[path] != h5py.h5l.TYPE_SOFT:
            return None
        try:
            target: bytes = self._file.id.links.get_val(path)
        except H5PY_ERRORS:
            return None
        parent = b"" if target.startswith(b"/") else path.rpartition(b"/")[0]
        parts = (part for part in (parent + b"/" + target).split(b"/") if part not in (b"", b"."))
        full = b"/".join(parts)
        return full if full in self._links else None
