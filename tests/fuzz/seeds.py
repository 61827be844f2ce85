"""Small sound HDF5 files of what the format has: the seeds of the mutants."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import h5py
import numpy as np

SHAPE = (2, 4, 6, 5)
X = np.random.default_rng(0).standard_normal(SHAPE).astype("f4")
SMOOTH = np.cumsum(np.random.default_rng(1).standard_normal((2, 4, 16, 16)), -1).astype("f4")
VERSIONS = {"v0": "earliest", "v2": "v108", "v3": "latest"}  # by the superblock
LOW = {"earliest": h5py.h5f.LIBVER_EARLIEST, "v108": h5py.h5f.LIBVER_V18, "latest": h5py.h5f.LIBVER_LATEST}
Fill = Callable[[h5py.File], None]


def layouts(file: h5py.File) -> None:
    """Every layout, and every index of chunks that the version has."""
    file["contiguous"] = X.astype(">f4")
    for name, kind in (("compact", h5py.h5d.COMPACT), ("single", h5py.h5d.CHUNKED)):
        settings = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        settings.set_layout(kind)
        if kind == h5py.h5d.CHUNKED:
            settings.set_chunk(SHAPE)
        space = h5py.h5s.create_simple(SHAPE)
        made = h5py.h5d.create(file.id, name.encode(), h5py.h5t.IEEE_F32LE, space, settings)
        made.write(space, space, X)
    early = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    early.set_chunk((1, 4, 6, 5))
    early.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    space = h5py.h5s.create_simple(SHAPE)
    h5py.h5d.create(file.id, b"implicit", h5py.h5t.IEEE_F32LE, space, early).write(space, space, X)
    for name, most in (("fixed", SHAPE), ("extensible", (None, 4, 6, 5)), ("tree", (None, None, 6, 5))):
        file.create_dataset(name, data=X, chunks=(1, 2, 3, 5), maxshape=most)
    file.create_dataset("sparse", SHAPE, "f8", chunks=(1, 2, 3, 5), fillvalue=2.5)[0, 0] = 1


def filters(file: h5py.File) -> None:
    """The filters of HDF5 itself, and h5py's."""
    ways: dict[str, dict[str, Any]] = {
        "gzip": {"compression": "gzip", "shuffle": True, "fletcher32": True},
        "deflate": {"compression": "gzip", "maxshape": (None, 4, 16, 16)},
        "sum": {"fletcher32": True, "maxshape": (None, None, 16, 16)},
        "lzf": {"compression": "lzf", "shuffle": True},
        "scaleoffset": {"scaleoffset": 2},
        "szip": {"compression": "szip"},
    }
    for name, how in ways.items():
        with suppress(ValueError):  # szip is not in every build
            file.create_dataset(name, data=SMOOTH, chunks=(1, 2, 16, 16), **how)
    file.create_dataset("integers", data=(SMOOTH * 10).astype("i2"), chunks=(1, 2, 16, 16), scaleoffset=0)
    settings = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    settings.set_chunk((1, 2, 16, 16))
    settings.set_filter(h5py.h5z.FILTER_NBIT, 0, ())
    kind = h5py.h5t.STD_I16LE.copy()
    kind.set_precision(11)
    space = h5py.h5s.create_simple(SMOOTH.shape)
    made = h5py.h5d.create(file.id, b"nbit", kind, space, settings)
    made.write(space, space, (SMOOTH * 10).astype("i2"))


def plugins(file: h5py.File) -> None:
    """What hdf5plugin brings, where it is installed."""
    file["x"] = SMOOTH
    with suppress(ImportError):
        import hdf5plugin as h

        ways = {
            "blosc": h.Blosc(), "zlib": h.Blosc(cname="zlib"), "blosc2": h.Blosc2(), "lz4": h.LZ4(),
            "bitshuffle": h.Bitshuffle(), "zstd": h.Zstd(), "bzip2": h.BZip2(),
            "plain": h.Bitshuffle(cname="none"), "zfp": h.Zfp(), "sz3": h.SZ3(absolute=0.1),
        }  # fmt: skip
        for name, how in ways.items():
            file.create_dataset(name, data=SMOOTH, chunks=(1, 2, 16, 16), **how)


def attributes(file: h5py.File) -> None:
    """Attributes few, many and dense; texts, references, scales; types of all classes."""
    x = file.create_dataset("x", data=X, chunks=(1, 4, 6, 5), compression="gzip")
    few = file.create_dataset("few", data=X.astype("f8"))
    few.attrs.update({"unit": "mV", "names": ["a", "bcd"], "flag": True, "none": h5py.Empty("f4")})
    for number in range(12):
        x.attrs[f"attribute {number}"] = np.arange(number, dtype="i4")
    x.attrs["text"] = "naïve" * 20
    file["n"], file["c"] = np.arange(2.0), np.arange(4, dtype="i4")
    for axis, name in enumerate("nc"):
        file[name].make_scale(name)
        for dataset in (x, few):
            dataset.dims[axis].attach_scale(file[name])
    few.attrs["reference"], few.attrs["region"] = x.ref, x.regionref[0, 1:3]
    file["references"] = np.array([x.ref, few.ref, file.ref], h5py.ref_dtype)
    file["table"] = np.array([(1, 2.0, b"ab"), (3, 4.0, b"c")], [("a", "i4"), ("b", ">f8"), ("s", "S3")])
    file.create_dataset("enum", data=[0, 1], dtype=h5py.enum_dtype({"OFF": 0, "ON": 1}, "i2"))
    lists = file.create_dataset("lists", (2,), h5py.vlen_dtype("i4"))
    lists[0], lists[1] = [1, 2, 3], [4]
    file["words"] = ["a", "bé"]
    file["type"] = np.dtype("f4")
    file.create_dataset("typed", SHAPE, file["type"])[...] = X


def links(file: h5py.File) -> None:
    """Groups small and dense, links of all kinds, virtual and external datasets."""
    file["group/below/x"] = X
    many = file.create_group("many", track_order=True)
    for number in range(12):
        many[f"dataset {number}"] = np.arange(number + 1.0)
    file["soft"], file["dangling"] = h5py.SoftLink("/group/below/x"), h5py.SoftLink("/no")
    file["alias"], file["loop"] = file["group/below/x"], file["group"]
    file["external"] = h5py.ExternalLink("no.h5", "/x")
    layout = h5py.VirtualLayout((2, *SHAPE), "f4")
    layout[0] = layout[1] = h5py.VirtualSource(".", "/group/below/x", SHAPE)
    with suppress(ValueError):  # not in the oldest version of the format
        file.create_virtual_dataset("virtual", layout)
    file.create_dataset("outside", SHAPE, "f4", external=[("no.raw", 0, h5py.h5f.UNLIMITED)])


def netcdf(file: h5py.File) -> None:
    """Packed numbers, fill values, and more text than a header holds."""
    packed = file.create_dataset(
        "packed", data=(SMOOTH * 100).astype("i2"), chunks=(1, 4, 16, 16), fillvalue=-1
    )
    packed.attrs.update({"scale_factor": 0.01, "add_offset": np.float32(3), "_FillValue": np.int16(-1)})
    signed = file.create_dataset("unsigned", data=np.arange(240, dtype="i1").reshape(SHAPE))
    signed.attrs.update({"_Unsigned": "true", "valid_range": np.array([0, 200], "u1")})
    missing = file.create_dataset("missing", data=X)
    missing.attrs.update({"missing_value": np.array([X[0, 0, 0, 0], 7], "f4"), "valid_max": np.float32(2)})
    missing.attrs["dtype"] = "bool"


def make_seeds(folder: Path) -> Iterator[Path]:
    """Write all of them to `folder`; yield their paths."""
    fills: list[Fill] = [layouts, filters, plugins, attributes, links, netcdf]
    for version, libver in VERSIONS.items():
        for fill in fills:
            path = folder / f"{fill.__name__}-{version}.h5"
            with h5py.File(path, "w", libver=libver) as file:
                fill(file)
            yield path
    special: dict[str, tuple[Fill, str, Callable[[Any], None]]] = {
        "shared-v2": (attributes, "v108", _share),
        "paged-v3": (layouts, "latest", _page),
        "user-v0": (filters, "earliest", lambda settings: settings.set_userblock(512)),
    }
    for name, (fill, libver, settle) in special.items():
        settings = h5py.h5p.create(h5py.h5p.FILE_CREATE)
        settle(settings)
        access = h5py.h5p.create(h5py.h5p.FILE_ACCESS)
        access.set_libver_bounds(LOW[libver], h5py.h5f.LIBVER_LATEST)
        path = folder / f"{name}.h5"
        with h5py.File(h5py.h5f.create(bytes(path), h5py.h5f.ACC_TRUNC, settings, access)) as file:
            fill(file)
        yield path


def _page(settings: Any) -> None:
    settings.set_file_space_strategy(h5py.h5f.FSPACE_STRATEGY_PAGE, True, 1)
    settings.set_file_space_page_size(512)


def _share(settings: Any) -> None:
    """Have datatypes, dataspaces, fill values, filters and attributes shared by objects."""
    _call("H5Pset_shared_mesg_nindexes", settings.id, 1)
    _call("H5Pset_shared_mesg_index", settings.id, 0, 0x1F, 16)


def _call(name: str, identifier: int, *arguments: int) -> None:
    """Call what h5py does not know of the library that it has brought."""
    maps = Path("/proc/self/maps").read_text().splitlines()
    (library,) = {line.split()[-1] for line in maps if "libhdf5-" in line or "libhdf5.so" in line}
    failed = getattr(ctypes.CDLL(library), name)(ctypes.c_int64(identifier), *arguments)
    assert not failed, name
