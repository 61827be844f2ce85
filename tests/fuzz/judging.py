"""What gn has to give for numbers that were read independently."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import DTypeLike, NDArray
from oracle import _root, from_rows, group_norm_gold, moments_gold, rounded, to_rows, ulp_distance

Reading = dict[str, dict[str, Any]]
VIRTUAL = 3  # the layout
# Attributes by which numbers are decoded. They are not true of a result, and it does not have them.
DECODED = {b"scale_factor", b"add_offset", b"_FillValue", b"missing_value", b"_Unsigned", b"dtype"}
DECODED |= {b"valid_min", b"valid_max", b"valid_range"}


def normalized(
    values: NDArray[Any], groups: int, dtype: DTypeLike, missing: NDArray[np.bool_] | None = None
) -> NDArray[Any]:
    """Return group norm, correctly rounded.

    A group with a NaN or an infinity is NaN. What is `missing` is NaN, and left out of its group.
    """
    native = np.dtype(dtype).newbyteorder("=")
    rows = to_rows(values, groups, None, "contiguous")
    left_out = to_rows(
        np.zeros(values.shape, bool) if missing is None else missing, groups, None, "contiguous"
    )
    out = np.full(rows.shape, np.nan, native)
    for n, g in np.ndindex(*rows.shape[:2]):
        there = ~left_out[n, g]
        group = rows[n, g][there]
        if group.size and np.isfinite(group).all():
            out[n, g][there] = rounded(group_norm_gold(group.reshape(1, 1, -1), 1), native).reshape(-1)
    return from_rows(out, values.shape, None, "contiguous")


def statistics(values: NDArray[Any]) -> dict[str, Any]:
    """Return what `gn stats --format json` says of them, mean and std within 1e-12."""
    finite = values[np.isfinite(values)]
    found: dict[str, Any] = {
        "count": values.size,
        "nan": int(np.isnan(values).sum()),
        "inf": int(np.isinf(values).sum()),
        **dict.fromkeys(("mean", "std", "min", "max")),
    }
    if finite.size:
        mean, variance = moments_gold(finite)
        found |= {"mean": _near(float(mean)), "std": _near(_root(variance))}
        found |= {"min": finite.min().item(), "max": finite.max().item()}
    return found


def _near(value: Any) -> Any:
    return pytest.approx(float(value), rel=1e-12, abs=0)


def agree(
    y: NDArray[Any], values: NDArray[Any], groups: int, missing: NDArray[np.bool_] | None = None
) -> bool:
    """Return whether `y` is group norm of `values`, within what the README promises."""
    right = normalized(values, groups, y.dtype, missing)
    if y.shape != right.shape:
        return False
    if y.dtype.itemsize < 8:
        return bool((ulp_distance(y, right) <= 1).all())
    rows = to_rows(np.where(np.isnan(right), 0, values), groups, None, "contiguous").astype(np.longdouble)
    largest = abs(rows.mean((2, 3)) / np.sqrt(rows.var((2, 3)) + 1e-5)).max(initial=1)
    return np.allclose(y, right, rtol=0, atol=2.0**-50 * float(largest), equal_nan=True)


def same(a: Any, b: Any) -> bool:
    """Return whether two readings are the same; NaN is NaN, and -0 is +0."""
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        return a.shape == b.shape and a.dtype == b.dtype and np.array_equal(a, b, equal_nan=True)
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and (a == b or (a != a and b != b))


def entry_at(reading: Reading, name: str) -> dict[str, Any]:
    """Return the entry of that name, or of the object that the hard link of that name leads to."""
    entry = reading.get(name, {})
    return reading.get(entry["to"], {}) if entry.get("kind") == "hard link" else entry


def differences(before: Reading, after: Reading, *normalized: str) -> Iterator[str]:
    """Yield how a file differs in what was not normalized, and in the attributes of what was."""
    changed = {id(entry_at(before, name)) for name in normalized}
    for name, entry in before.items():
        other = after.get(name, {})
        if not entry:  # h5py reads something else each time
            continue
        for key in entry.keys() | other.keys():
            a, b = entry.get(key), other.get(key)
            if key == "values" and entry.get("layout") == VIRTUAL:  # perhaps of what was normalized
                continue
            # What a filter makes of a damaged chunk may depend on the memory behind it.
            if key == "stored" or (key == "values" and entry.get("stored", "") == other.get("stored")):
                continue
            if key in ("error", "unreadable"):  # the messages tell of the file's size
                a, b = a is None, b is None
            if id(entry) in changed:
                if key != "attributes" or a is None or b is None:
                    continue
                a = {text: value for text, value in a.items() if text not in DECODED}
                b = {
                    text: value
                    for text, value in b.items()
                    if not text.startswith(b"gn_") and text not in DECODED
                }
            if not same(a, b):
                yield f"{name}: its {key} was {a!r:.200}, is {b!r:.200}"
    for name in after.keys() - before.keys():
        yield f"{name} is new"
