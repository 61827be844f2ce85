"""What makes an HDF5 file a MAT-file of MATLAB 7.3: 128 bytes in front, and each variable's class.

The format: https://www.mathworks.com/help/matlab/import_export/mat-file-versions.html
"""

from __future__ import annotations

from typing import Any

import h5py
import numpy as np

USER_BLOCK = 512  # bytes in front of the HDF5 file
CLASSES = {"float32": "single", "float64": "double"}  # MATLAB has no other floats


def is_matlab(path: str) -> bool:
    return path.lower().endswith(".mat")


def create_mat_file(file: Any) -> h5py.File:
    """Create an HDF5 file in the open, empty `file`, with MATLAB's header in front."""
    made = h5py.File(file, "w", userblock_size=USER_BLOCK)
    text = b"MATLAB 7.3 MAT-file, written by gn, HDF5 schema 1.00 ."
    file.seek(0)
    file.write(memoryview(text.ljust(116) + bytes(8) + b"\x00\x02IM"))  # version 2.0, little endian
    return made


def mark_variable(dataset: h5py.Dataset) -> None:
    """Name the class of a variable. MATLAB shows its axes in the reverse order, as it does all of HDF5's."""
    name = CLASSES.get(dataset.dtype.name)
    if name is not None:
        dataset.attrs["MATLAB_class"] = np.bytes_(name)
