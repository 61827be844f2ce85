"""Attributes of HDF5 datasets that say what their numbers mean: netCDF's and CF's, xarray's, MATLAB's."""

from __future__ import annotations

from contextlib import suppress

import h5py
import numpy as np

from gncli.tensors.decoding import ATTRIBUTES, Decoding, decoding_of, text_of
from gncli.tensors.hdf5_bounded import TooLargeError, present, read_attribute
from gncli.tensors.hdf5_opened import Dataset

OUTDATED = {*ATTRIBUTES, "actual_range", "MATLAB_int_decode"} - {"dtype"}  # once the values are others
MOST = 1 << 16  # bytes of an attribute that says how to decode
MATLAB_CLASSES = {"float32": b"single", "float64": b"double"}
NETCDF_DATASET = ("_Netcdf4Dimid", "_Netcdf4Coordinates")


def find_decoding(dataset: Dataset, is_netcdf: bool) -> Decoding | None:
    """The decoding that the dataset's attributes call for, or None. `is_netcdf`: netCDF wrote the file."""
    names = present(dataset, (*ATTRIBUTES, *NETCDF_DATASET))
    is_netcdf = is_netcdf or not names.isdisjoint(NETCDF_DATASET)
    if not names and not is_netcdf:
        return None
    held = {name: _read(dataset, name) for name in ATTRIBUTES if name in names}
    return decoding_of(held, dataset.dtype, is_netcdf and _has_default_fill(dataset))


def _read(dataset: Dataset, name: str) -> object:
    """The attribute's value; None where it has none, or none that h5py can read, or a huge one."""
    with suppress(OSError, RuntimeError, TypeError, ValueError, TooLargeError):
        value = read_attribute(dataset, name, MOST)
        return None if isinstance(value, h5py.Empty) else value
    return None


def _has_default_fill(dataset: Dataset) -> bool:
    """Whether netCDF's default fill value is missing: as netCDF has it, of bytes only if they are filled."""
    return dataset.dtype.itemsize > 1 or dataset.storage.fill == h5py.h5d.FILL_VALUE_USER_DEFINED


def remove_outdated(dataset: Dataset) -> None:
    """Remove attributes that describe the values before normalization; correct the unit and MATLAB's class.

    mat73 and MATLAB read no dataset that has no class.
    """
    attributes = dataset.attrs
    names = present(dataset, (*OUTDATED, "dtype", "units", "MATLAB_class"))
    for name in OUTDATED & names:
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
