"""Datasets that hold no numbers to subtract, compared for equality element by element."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gncli.boxes import along_chunks
from gncli.difference import widened
from gncli.errors import BudgetError
from gncli.layout import Box
from gncli.progress import note_advance
from gncli.tensors import Source
from gncli.tensors.values import Values

ELEMENTS = 1 << 14  # that are read at once: each may be a string of any length

Flags = NDArray[np.bool_]


class ValuePair:
    """Two open datasets, of which one holds no numbers at least."""

    def __init__(self, a: Source | Values, b: Source | Values, *, nan_differ: bool, memory: int) -> None:
        self.a, self.b, self._nan_differ, self._memory = a, b, nan_differ, memory

    def record(self) -> dict[str, Any]:
        """All that is told of the pair, but for its names."""
        a, b = self.a, self.b
        names = [side.type_name if isinstance(side, Values) else side.dtype.name for side in (a, b)]
        head: dict[str, Any] = {"equal": False, "compared": "for equality"}
        head |= {"shape_a": _listed(a.shape), "shape_b": _listed(b.shape)}
        head |= {"dtype_a": names[0], "dtype_b": names[1]}
        if not isinstance(a, Values) or not isinstance(b, Values) or a.kind != b.kind:
            words = (
                f"the types differ, {names[0]} and {names[1]}" if names[0] != names[1] else "the types differ"
            )
            return head | {"verdict": words}
        if a.shape != b.shape:
            return head | {"verdict": "the shapes differ"}
        for side in (a, b):
            if side.unfit:
                return head | {"compared": None, "verdict": f"not compared: {side.unfit}"}
        return head | self._compared(a, b)

    def _compared(self, a: Values, b: Values) -> dict[str, Any]:
        count, differing = prod(a.shape) if a.shape is not None else 0, 0
        first: dict[str, Any] = {}
        for box, x, y in self._pieces(a, b) if count else ():
            extent = tuple(stop - start for start, stop in box)
            different = ~same(x, y, len(extent), nan_differ=self._nan_differ)
            differing += int(np.count_nonzero(different))
            if different.any():
                at = tuple(int(i) for i in np.argwhere(different)[0])
                index = [start + i for (start, _), i in zip(box, at, strict=True)]
                if not first or index < first["worst_index"]:
                    first = {"worst_index": index, "worst_a": _text(x[at]), "worst_b": _text(y[at])}
        share = differing / count if count else 0.0
        verdict = "different" if differing else "equal"
        found = {"equal": not differing, "count": count, "differing": differing, "share": share}
        return found | first | {"verdict": verdict}

    def _pieces(self, a: Values, b: Values) -> Iterator[tuple[Box, NDArray[Any], NDArray[Any]]]:
        """Yield all boxes and the values of both sides in them. Raises BudgetError."""
        shape, share = a.shape or (), self._memory // 4
        for side in (a, b):
            side.require_room(self._memory)
        most = max(1, min(ELEMENTS, share // max(1, a.itemsize, b.itemsize)))
        chunks = [side.chunks or (1,) * len(shape) for side in (a, b)]
        for box in along_chunks(shape, chunks, most):
            smaller = [box]  # the next one last
            while smaller:
                part = smaller.pop()
                try:
                    values = a.read_values(part, share), b.read_values(part, share)
                except BudgetError:
                    if not (halves := _halves(part)):
                        raise
                    smaller += reversed(halves)
                    continue
                note_advance()
                yield part, *values


def _halves(box: Box) -> list[Box]:
    """Return the box in two; none where it is a single element."""
    for axis, (start, stop) in enumerate(box):
        if stop - start > 1:
            middle = (start + stop) // 2
            return [(*box[:axis], span, *box[axis + 1 :]) for span in ((start, middle), (middle, stop))]
    return []


def _listed(shape: tuple[int, ...] | None) -> list[int] | None:
    return None if shape is None else list(shape)


def _text(value: Any) -> str:
    """A value as people read it, cut where it is long."""
    value = value.tolist() if hasattr(value, "tolist") else value
    text = ascii(value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else value)
    return text if len(text) <= 60 else text[:57] + "..."


def same(a: NDArray[Any], b: NDArray[Any], rank: int, *, nan_differ: bool) -> Flags:
    """Return, for each element on the first `rank` axes, whether it is the same in both."""
    if a.dtype.names is not None:
        fields = [same(a[name], b[name], rank, nan_differ=nan_differ) for name in a.dtype.names]
        whole: Flags = np.logical_and.reduce(fields) if fields else np.ones(a.shape[:rank], bool)
        return whole
    if a.dtype.kind == "O" or b.dtype.kind == "O":
        pairs = zip(a.reshape(-1), b.reshape(-1), strict=True)
        found = np.array([_same_object(x, y, nan_differ) for x, y in pairs], bool).reshape(a.shape)
    elif a.dtype.kind == "V":
        size = a.dtype.itemsize
        bytes_a, bytes_b = (np.ascontiguousarray(v).view(np.uint8).reshape(*v.shape, size) for v in (a, b))
        found = np.asarray((bytes_a == bytes_b).all(-1))
    elif a.dtype.kind in "SUmM":
        found = np.asarray(a == b)
        if a.dtype.kind in "mM":
            found |= np.isnat(a) & np.isnat(b) & (not nan_differ)
    else:
        found = _same_numbers(a, b, nan_differ)
    return np.asarray(found.all(tuple(range(rank, found.ndim))))


def _same_numbers(a: NDArray[Any], b: NDArray[Any], nan_differ: bool) -> Flags:
    x, y = widened(a, b)
    found: Flags = np.asarray(x == y)
    if not nan_differ:
        found = found | (np.isnan(x) & np.isnan(y))
    return found


def _same_object(x: Any, y: Any, nan_differ: bool) -> bool:
    """Compare strings, lists of numbers or of strings, and compounds that hold such."""
    if isinstance(x, tuple):
        return all(_same_object(one, other, nan_differ) for one, other in zip(x, y, strict=True))
    if isinstance(x, np.ndarray):
        if x.shape != y.shape:
            return False
        return bool(same(x, y, x.ndim, nan_differ=nan_differ).all())
    if isinstance(x, bytes | str) or x is None:
        return _bytes(x) == _bytes(y)
    return bool(_same_numbers(np.asarray(x), np.asarray(y), nan_differ))


def _bytes(value: Any) -> bytes | None:
    return value.encode("utf-8", "surrogateescape") if isinstance(value, str) else value
