"""A tensor with its axes in another order, as a temporary copy: what lies across cannot be read along.

Boxes are long both ways, on the axis that is fastest where it is read and on the one where it is written.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from io import FileIO
from itertools import product
from math import prod
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from gncli.errors import OutputError
from gncli.layout import Box, Run, runs_of
from gncli.tensors.address import reason, require_number
from gncli.tensors.npy import NpySource
from gncli.tensors.npy_header import header_bytes

BOX = 1 << 20  # elements


class Readable(Protocol):
    address: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    fortran: bool

    def read(self, runs: Sequence[Run], buffer: NDArray[Any]) -> NDArray[Any]: ...


def reordered(source: Readable, axes: Sequence[int], box: int = BOX) -> NpySource:
    """`source` transposed as by numpy's transpose, in C order, in a file that goes when it is closed.

    Raises OutputError where there is no room for it.
    """
    stored = tuple(reversed(range(len(axes)))) if source.fortran else tuple(range(len(axes)))
    shape = tuple(source.shape[axis] for axis in axes)
    header = header_bytes(shape, source.dtype, False)
    try:
        with tempfile.NamedTemporaryFile(prefix="gn-", delete=True) as named:
            file = FileIO(named.name, "r+b")
    except OSError as error:
        raise _failure(source, error) from None
    try:
        file.write(header)
        buffer = np.empty(box, source.dtype)
        chunks = getattr(source, "chunks", None)
        for part in _boxes(source.shape, (stored[-1], axes[-1]), box, chunks) if prod(shape) else ():
            values = _read(source, stored, part, buffer)
            values = values.reshape([part[axis][1] - part[axis][0] for axis in stored])
            values = values.transpose([stored.index(axis) for axis in axes]).reshape(-1)
            done = 0
            for start, count in _runs(source.shape, axes, part):
                file.seek(len(header) + start * values.itemsize)
                _write(file, values[done : done + count])
                done += count
        return NpySource(source.address, file, check=require_number)
    except OSError as error:
        file.close()
        raise _failure(source, error) from None
    except BaseException:
        file.close()
        raise


def _failure(source: Readable, error: OSError) -> OutputError:
    return OutputError(
        f"no room in {tempfile.gettempdir()} for a copy in another order: {reason(error)}; set TMPDIR",
        address=source.address,
    )


def _write(file: FileIO, values: NDArray[Any]) -> None:
    view = values.view(np.uint8).data
    while view:
        view = view[file.write(view) :]


def _read(source: Readable, stored: Sequence[int], part: Box, buffer: NDArray[Any]) -> NDArray[Any]:
    if getattr(source, "chunks", None):
        values: NDArray[Any] = source.read_box(part, buffer)  # type: ignore[attr-defined]
        return values
    return source.read(_runs(source.shape, stored, part), buffer)


def _runs(shape: tuple[int, ...], order: Sequence[int], box: Box) -> list[Run]:
    return runs_of([shape[axis] for axis in order], tuple(box[axis] for axis in order))


def _boxes(
    shape: tuple[int, ...], fastest: tuple[int, int], most: int, chunks: Sequence[int] | None
) -> Iterator[Box]:
    """Boxes of up to `most` elements: long on the two axes, and then on as many others as there is room.

    Where steps are longer than chunks, they are of whole chunks.
    """
    steps = [1] * len(shape)
    one, other = fastest
    across = shape[other] if one != other else 1
    steps[one] = min(shape[one], max(int(most**0.5) if one != other else most, most // across))
    if one != other:
        steps[other] = min(across, most // steps[one])
    for axis in reversed(range(len(shape))):
        if axis not in fastest:
            steps[axis] = max(1, min(shape[axis], most // prod(steps)))
    for axis, chunk in enumerate(chunks or ()):
        if chunk < steps[axis] < shape[axis]:
            steps[axis] -= steps[axis] % chunk
    cuts = [
        [(start, min(start + step, length)) for start in range(0, length, step)]
        for length, step in zip(shape, steps, strict=True)
    ]
    yield from product(*cuts)
