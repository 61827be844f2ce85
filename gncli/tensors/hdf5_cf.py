"""Attributes of HDF5 datasets that say what their numbers mean: netCDF's and CF's, xarray's, MATLAB's."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import suppress
from typing import TypeAlias

import h5py
import numpy as np

from gncli.tensors.decoding import ATTRIBUTES, Decoding, decoding_of, text_of
from gncli.tensors.hdf5_bounded import TooLargeError, attribute_names, read_attribute
from gncli.tensors.hdf5_opened import Dataset

OUTDATED = {*ATTRIBUTES, "actual_range", "MATLAB_int_decode"} - {"dtype"}  # once the values are others
MOST = 1 << 16  # bytes of an attribute that says how to decode
MATLAB_CLASSES = {"float32": b"single", "float64": b"double"}
NETCDF_ROOT = ("_NCProperties", "_nc3_strict")
NETCDF_DATASET = ("_Netcdf4Dimid", "_Netcdf4Coordinates")

Names: TypeAlias = Collection[str | bytes]


def find_decoding(dataset: Dataset, of_file: Names) -> Decoding | None:
    """The decoding that the dataset's attributes call for, or None.

    `of_file` are the names of the attributes of the root group.
    """
    names = attribute_names(dataset)
    if not names and not of_file:
        return None
    held = {name: _read(dataset, name) for name in ATTRIBUTES if name in names}
    return decoding_of(held, dataset.dtype, _has_default_fill(dataset, names, of_file))


def _read(dataset: Dataset, name: str) -> object:
    """The attribute's value; None where it has none, or none that h5py can read, or a huge one."""
    with suppress(OSError, RuntimeError, TypeError, ValueError, TooLargeError):
        value = read_attribute(dataset, name, MOST)
        return None if isinstance(value, h5py.Empty) else value
    return None


def _has_default_fill(dataset: Dataset, names: Names, of_file: Names) -> bool:
    """Whether netCDF's default fill value is missing: as netCDF has it, of bytes only if they are filled.

    `names` are those of the dataset's attributes, `of_file` those of the root group's.
    """
    if dataset.dtype.itemsize == 1 and dataset.storage.fill != h5py.h5d.FILL_VALUE_USER_DEFINED:
        return False
    return any(name in names for name in NETCDF_DATASET) or any(name in of_file for name in NETCDF_ROOT)


def remove_outdated(dataset: Dataset) -> None:
    """Remove attributes that describe the values before normalization; correct the unit and MATLAB's class.

    mat73 and MATLAB read no dataset that has no class.
    """
    attributes, names = dataset.attrs, attribute_names(dataset)
    for name in OUTDATED.intersection(names):
        del attributes[name]
    if "dtype" in names and text_of(_read(dataset, "dtype")) is not None:
        del attributes["dtype"]
    if "units" in names:
        text = isinstance(_read(dataset, "units"), str)
        attributes["units"] = "1" if text else np.bytes_(b"1")  # fixed length, as netCDF writes it
    if "MATLAB_class" in names:
        fitting = MATLAB_CLASSES.get(dataset.dtype.name)
        if fitting is None:
            del attributes["MATLAB_class"]
        elif text_of(_read(dataset, "MATLAB_class")) != fitting.decode():
            attributes["MATLAB_class"] = np.bytes_(fitting)


def mark_missing(dataset: Dataset) -> None:
    """Say that NaN stands for missing values: of the dataset's dtype, as netCDF demands."""
    dataset.attrs.create("_FillValue", np.array([np.nan]), dtype=dataset.dtype)
