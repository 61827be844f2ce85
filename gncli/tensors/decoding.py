"""Stored numbers to the values that they stand for, by the attributes of netCDF and CF.

The rules are those of netCDF4-python, whose values, masks and dtypes xarray mostly shares:

- `scale_factor` and `add_offset`: `stored * scale_factor + add_offset`, in the dtype that numpy gives for
  it, but at least float32, and float64 in place of an integer. If one of them is not a single number,
  neither is applied.
- `_Unsigned` = "true" makes signed integers unsigned.
- `_FillValue` and `missing_value` (one or several) are compared with the stored number, in its dtype.
- `valid_range`, or else `valid_min` and `valid_max`, bound the stored number, in its dtype. xarray ignores
  them. The netCDF User Guide applies them to the decoded value where they have its dtype; netCDF4-python
  does not, nor does gn.
- An attribute that the dtype of the stored numbers cannot hold is ignored, and the report names it.
- Without `_FillValue`, netCDF's default one is missing, in files that netCDF wrote.
- `dtype` = "bool", by xarray: what is not 0 is 1.

If an integer may be missing, the values are float32 (8 and 16 bits) or float64, as in xarray.

A missing value is decoded as the positive NaN; any other NaN of the same dataset has its sign set. So the
two can be told apart until the tensor is measured, and a missing value is still that NaN in the output.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gncli.masks import mask_of, put
from gncli.words import DECODED

ATTRIBUTES = DECODED[:-1]  # all but netCDF's own fill value, which has none
CHUNK = 1 << 14  # elements that are decoded at once: they stay in the caches
# https://docs.unidata.ucar.edu/netcdf-c/current/netcdf_8h.html: NC_FILL_BYTE and so on.
DEFAULT_FILL: dict[str, int | float] = {
    "i1": -127,
    "i2": -32767,
    "i4": -2147483647,
    "i8": -9223372036854775806,
    "u1": 255,
    "u2": 65535,
    "u4": 4294967295,
    "u8": 18446744073709551614,
    "f4": 9.969209968386869e36,
    "f8": 9.969209968386869e36,
}


@dataclass(frozen=True)
class Decoding:
    """How the numbers of a dataset are decoded.

    `fills` and `least`, `most` are numbers of the stored dtype. `attributes` are the ones in force, as the
    report shows them; `ignored` the names of the others. `by_default`: the one fill value is netCDF's own.
    """

    stored: np.dtype[Any]
    scale: Any = None
    offset: Any = None
    unsigned: bool = False
    boolean: bool = False
    fills: tuple[Any, ...] = ()
    least: Any = None
    most: Any = None
    by_default: bool = False
    attributes: Mapping[str, Any] = field(default_factory=dict)
    ignored: tuple[str, ...] = ()

    @cached_property
    def seen(self) -> np.dtype[Any]:
        """The dtype of the stored numbers with their sign as meant, in native order."""
        dtype = self.stored.newbyteorder("=")
        return np.dtype(f"u{dtype.itemsize}") if self.unsigned else dtype

    @property
    def masks(self) -> bool:
        """Whether any value may be missing."""
        return bool(self.fills) or self.least is not None or self.most is not None

    @cached_property
    def dtype(self) -> np.dtype[Any]:
        """The dtype of the decoded values."""
        if factors := [each.dtype for each in (self.scale, self.offset) if each is not None]:
            return _as_float(self.seen, *factors)
        if self.masks and self.seen.kind != "f":
            return np.dtype(np.float32 if self.seen.itemsize <= 2 else np.float64)
        return self.seen

    @property
    def changes_nothing(self) -> bool:
        """Whether all values are as they are stored, where none is missing."""
        return self.dtype == self.stored.newbyteorder("=") and not self.attributes and not self.ignored

    def decode(self, stored: NDArray[Any], out: NDArray[Any]) -> NDArray[Any]:
        """Decode `stored` (1-D) into `out`, of `dtype` and the same length; `stored` may be its end."""
        with np.errstate(all="ignore"):
            for start in range(0, len(out), CHUNK):
                numbers = np.array(stored[start : start + CHUNK].view(self._view), self.seen)
                self._decode(numbers, out[start : start + CHUNK])
        return out

    @cached_property
    def _view(self) -> np.dtype[Any]:
        return self.seen.newbyteorder(self.stored.byteorder)

    @cached_property
    def _product(self) -> np.dtype[Any]:
        """The dtype of `stored * scale_factor`."""
        return _as_float(self.seen, self.scale.dtype)

    def _decode(self, numbers: NDArray[Any], out: NDArray[Any]) -> None:
        missing = self._missing(numbers)
        if self.boolean:
            numbers = numbers != 0
        product = out
        if self.scale is not None and self.offset is not None:  # rounded twice, as numpy would
            product = out if self._product == out.dtype else np.empty(len(out), self._product)
        np.copyto(product, numbers, casting="unsafe")
        if self.scale is not None:
            np.multiply(product, product.dtype.type(self.scale), out=product)
        if self.offset is not None:
            np.add(product, out.dtype.type(self.offset), out=out)
        if not self.masks:
            return
        if self._may_hold_nan:
            out[np.flatnonzero(np.isnan(out))] = -np.nan
        if missing is not None:
            put(out, mask_of(missing, out.dtype), np.nan)

    @cached_property
    def _may_hold_nan(self) -> bool:
        factors = [float(each) for each in (self.scale, self.offset) if each is not None]
        return self.seen.kind == "f" or not np.isfinite(factors).all()

    def _missing(self, numbers: NDArray[Any]) -> NDArray[np.bool_] | None:
        """Which numbers stand for nothing; None if none does."""
        found: NDArray[np.bool_] | None = None
        flags = [np.isnan(numbers) if fill != fill else numbers == fill for fill in self.fills]
        flags += [numbers < self.least] if self.least is not None else []
        flags += [numbers > self.most] if self.most is not None else []
        for each in flags:
            found = each if found is None else np.logical_or(found, each, out=found)
        return found if found is not None and found.any() else None

    def record(self, missing: int | None) -> dict[str, object] | None:
        """The record of it, with the number of missing values if known; None if nothing was changed by it."""
        if self.changes_nothing and not missing:
            return None
        shown: dict[str, object] = {"stored_dtype": self.stored.name, **dict.fromkeys(DECODED)}
        shown |= self.attributes
        if self.by_default:
            shown["default_fill"] = self.fills[-1].item()
        return shown | {"ignored": list(self.ignored) or None, "missing": missing}


def _as_float(*dtypes: np.dtype[Any]) -> np.dtype[Any]:
    """The dtype of arithmetic with these: float32 or float64."""
    dtype = np.result_type(*dtypes)
    return np.result_type(dtype, np.float32) if dtype.kind == "f" else np.dtype(np.float64)


def decoding_of(attributes: Mapping[str, Any], stored: np.dtype[Any], default: bool) -> Decoding | None:
    """The decoding that a dataset's attributes call for; None if they call for none.

    Parameters
    ----------
    attributes : mapping
        The attributes of the names above that the dataset has; what cannot be read may be absent.
    stored : dtype
        The dtype of the dataset.
    default : bool
        Whether netCDF's default fill value is missing where no other is given.
    """
    shown: dict[str, Any] = {}
    ignored: list[str] = []
    unsigned = stored.kind == "i" and text_of(attributes.get("_Unsigned")) in ("true", "True")
    if unsigned:
        shown["_Unsigned"] = "true"
    boolean = stored.kind in "iu" and text_of(attributes.get("dtype")) == "bool"
    if boolean:
        shown["dtype"] = "bool"
    signed = stored.newbyteorder("=")
    seen = np.dtype(f"u{stored.itemsize}") if unsigned else signed

    def numbers(name: str, size: int | None = None) -> NDArray[Any] | None:
        """The attribute in the stored dtype, 1-D, if that holds it exactly."""
        if name not in attributes:
            return None
        given = _numeric(attributes[name])
        if given is not None and (size is None or given.size == size):
            with np.errstate(all="ignore"):
                cast = given.astype(signed)
            if bool(np.all((cast == given) | ((cast != cast) & (given != given)))):
                shown[name] = cast[0].item() if cast.size == 1 else cast.tolist()
                return cast.view(seen)
        ignored.append(name)
        return None

    factors = {
        name: _numeric(attributes[name]) for name in ("scale_factor", "add_offset") if name in attributes
    }
    scalars = {name: value[0] for name, value in factors.items() if value is not None and value.size == 1}
    if len(scalars) < len(factors):
        ignored += factors
        scalars = {}
    shown |= {name: value.item() for name, value in scalars.items()}
    fill, missing = numbers("_FillValue"), numbers("missing_value")
    fills = [value for values in (fill, missing) if values is not None for value in values]
    code = stored.str[1:]
    by_default = default and fill is None and not unsigned and code in DEFAULT_FILL
    if by_default:
        fills.append(signed.type(DEFAULT_FILL[code]))
    limits = numbers("valid_range", 2)
    if limits is None:
        ends = [numbers(name, 1) for name in ("valid_min", "valid_max")]
        least, most = (None if end is None else end[0] for end in ends)
    else:
        least, most = limits
    decoding = Decoding(
        stored,
        scalars.get("scale_factor"),
        scalars.get("add_offset"),
        unsigned,
        boolean,
        tuple(fills),
        least,
        most,
        by_default,
        shown,
        tuple(ignored),
    )
    return None if decoding.changes_nothing and not decoding.masks else decoding


def _numeric(value: Any) -> NDArray[Any] | None:
    """An attribute as numbers in native order, 1-D; None where it is none."""
    numbers = np.ravel(np.asarray(value))
    if numbers.dtype.kind not in "iuf":
        return None
    if numbers.dtype.itemsize > 8:
        return numbers.astype(np.float64)
    return numbers.astype(numbers.dtype.newbyteorder("="))


def text_of(value: Any) -> str | None:
    """An attribute as text; None where it is none."""
    texts = np.ravel(np.asarray(value, object))
    if texts.size != 1 or not isinstance(texts[0], str | bytes):
        return None
    text = texts[0].decode("utf-8", "replace") if isinstance(texts[0], bytes) else str(texts[0])
    return text.rstrip("\0")
