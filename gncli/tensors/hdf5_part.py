"""An HDF5 sink in other processes: they write in place, or pack for the one that writes."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gncli.errors import OutputError
from gncli.layout import Run
from gncli.tensors.hdf5_chunks import ChunkPacker
from gncli.tensors.hdf5_places import Places, write_places
from gncli.tensors.hdf5_table import Coding
from gncli.tensors.staging import Joined


class Hdf5Part:
    """An Hdf5Sink in another process: what writes in place, or packs for the one that writes."""

    def __init__(
        self,
        address: str,
        staged: Joined | None,
        stored: np.dtype[Any],
        places: Places | None,
        coding: Coding | None,
    ) -> None:
        self.address = address
        self.positioned = places is not None
        self._staged, self._stored, self._places = staged, stored, places
        self._packer: ChunkPacker | None = ChunkPacker(coding) if coding else None

    def reserve(self) -> None:
        """Take the space of values that are written by position; that of chunks is not known before."""
        if self._staged:
            self._staged.reserve(os.fstat(self._staged.file.fileno()).st_size)

    def target(self, runs: Sequence[Run], buffer: NDArray[Any]) -> NDArray[Any]:
        """Where the runs' values are to be put for `write`."""
        return buffer[: sum(count for _, count in runs)]

    def pack(self, runs: Sequence[Run], values: NDArray[Any]) -> Any:
        """What `write` takes, where the caller is to write."""
        return self._packer.pack(runs, values) if self._packer else values.copy()

    def write(self, runs: Sequence[Run], values: Any) -> None:
        """Write the runs' elements, one after another, where they belong."""
        if self._staged is None or self._places is None:
            raise OutputError("is written elsewhere", address=self.address)
        try:
            write_places(
                self._staged.file.fileno(), self._places, runs, np.ascontiguousarray(values, self._stored)
            )
        except OSError as error:
            raise self._staged.failure(error) from None
