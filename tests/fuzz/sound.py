"""Sound HDF5 files of random make, with datasets for gn to normalize, and all that files have beside."""

from __future__ import annotations

import random
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np

LOW = {
    "earliest": h5py.h5f.LIBVER_EARLIEST,
    "v108": h5py.h5f.LIBVER_V18,
    "v110": h5py.h5f.LIBVER_V110,
    "latest": h5py.h5f.LIBVER_LATEST,
}
DTYPES = ["f4"] * 4 + ["f2", "f8", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8"]
LOSSLESS: list[dict[str, Any]] = [
    {}, {}, {"compression": "gzip"}, {"compression": "gzip", "compression_opts": 9}, {"compression": "lzf"},
]  # fmt: skip
with suppress(ImportError):
    import hdf5plugin

    LOSSLESS += map(dict, [hdf5plugin.Blosc(), hdf5plugin.LZ4(), hdf5plugin.Bitshuffle(), hdf5plugin.Zstd()])


class Sound(NamedTuple):
    """A file that has been written."""

    targets: dict[str, tuple[int, ...]]  # datasets to normalize, and their shapes
    decoded: dict[str, np.ndarray[Any, Any]]  # what the packed ones among them mean; NaN where it is missing


def write(path: Path, seed: int, number: int) -> Sound:
    """Write the file of a number, the same for the same numbers."""
    chance = random.Random(f"sound {seed}.{number}")
    settings = h5py.h5p.create(h5py.h5p.FILE_CREATE)
    libver = chance.choice([*LOW])
    if chance.random() < 0.2:
        settings.set_userblock(512)
    elif libver in ("v110", "latest") and chance.random() < 0.2:
        settings.set_file_space_strategy(h5py.h5f.FSPACE_STRATEGY_PAGE, True, 1)
        settings.set_file_space_page_size(chance.choice([512, 4096]))
    if chance.random() < 0.3:
        settings.set_link_creation_order(h5py.h5p.CRT_ORDER_TRACKED | h5py.h5p.CRT_ORDER_INDEXED)
    access = h5py.h5p.create(h5py.h5p.FILE_ACCESS)
    access.set_libver_bounds(LOW[libver], h5py.h5f.LIBVER_LATEST)
    with h5py.File(h5py.h5f.create(bytes(path), h5py.h5f.ACC_TRUNC, settings, access)) as file:
        made = _Make(file, chance, libver)
        made.others("before")
        for name in chance.sample(["x", "group/x", "group/below/y", "naïve z"], chance.choice([1, 1, 2])):
            made.target(name)
        made.others("after")
        made.links()
        return Sound(made.targets, made.decoded)


class _Make:
    def __init__(self, file: h5py.File, chance: random.Random, libver: str) -> None:
        self.file, self.chance, self.libver = file, chance, libver
        self.numbers = np.random.default_rng(chance.randrange(2**32))
        self.targets: dict[str, tuple[int, ...]] = {}
        self.decoded: dict[str, np.ndarray[Any, Any]] = {}

    def maybe(self, chance: float = 0.5) -> bool:
        return self.chance.random() < chance

    def target(self, name: str) -> None:
        """Make a dataset of two or more channels."""
        rank = self.chance.choice([2, 3, 4, 4, 4, 5])
        space = [self.chance.randint(1, 7) for _ in range(rank - 2)]
        shape = (self.chance.randint(1, 3), self.chance.choice([2, 4, 6, 8]), *space)
        dtype = np.dtype(self.chance.choice("<>") + self.chance.choice(DTYPES))
        values = self.values(shape, dtype)
        how = self.chunked(shape, dtype) if self.maybe(0.7) else {}
        if self.maybe(0.3):
            how["fillvalue"] = 7
        packed = dtype.kind in "iu" and dtype.itemsize <= 2 and self.maybe()
        if not how and self.maybe(0.3):
            made = self.compact(name, values)
        else:
            made = self.file.create_dataset(name, shape, dtype, **how)
            made[...] = values
            if self.maybe(0.15) and "scaleoffset" not in how:  # the rest is fill values
                del self.file[name]
                made = self.file.create_dataset(name, shape, dtype, **how)
                made[0] = values[0]
                values = made[()]
        self.targets["/" + name] = shape
        if packed:
            self.pack(made, values)
        self.attributes(made)
        if self.maybe(0.4):
            self.scales(made)

    def values(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray[Any, Any]:
        if dtype.kind == "f":
            spread, mean = self.chance.choice([(1, 0), (1e-3, 5), (100, -30), (2, 1000)])
            return (self.numbers.standard_normal(shape) * spread + mean).astype(dtype)
        edges = np.iinfo(dtype)
        low, high = (edges.min, edges.max) if self.maybe() else (0, 100)
        return self.numbers.integers(low, high, shape, dtype.newbyteorder("="), endpoint=True).astype(dtype)

    def chunked(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> dict[str, Any]:
        how: dict[str, Any] = {"chunks": tuple(self.chance.randint(1, size) for size in shape)}
        if self.maybe(0.2):
            how["chunks"] = shape
        if self.maybe():
            how["maxshape"] = tuple(self.chance.choice([size, size + 3, None]) for size in shape)
        if dtype.kind in "iu" and self.maybe(0.1):
            return how | {"scaleoffset": 0}
        how |= self.chance.choice(LOSSLESS)
        return how | {"shuffle": self.maybe(0.3), "fletcher32": self.maybe(0.3)}

    def compact(self, name: str, values: np.ndarray[Any, Any]) -> h5py.Dataset:
        settings = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        settings.set_layout(h5py.h5d.COMPACT)
        links = h5py.h5p.create(h5py.h5p.LINK_CREATE)
        links.set_create_intermediate_group(True)
        links.set_char_encoding(h5py.h5t.CSET_UTF8)
        space, kind = h5py.h5s.create_simple(values.shape), h5py.h5t.py_create(values.dtype)
        made = h5py.h5d.create(self.file.id, None, kind, space, settings)
        made.write(space, space, np.ascontiguousarray(values))
        h5py.h5o.link(made, self.file.id, name.encode(), links)
        return self.file[name]

    def pack(self, dataset: h5py.Dataset, values: np.ndarray[Any, Any]) -> None:
        """Add the attributes that netCDF packs numbers by; its formula is that of netCDF4-python."""
        kind = self.chance.choice([np.float32, np.float64])
        scale, offset, missing = kind(0.25), kind(3), values.dtype.type(values.flat[0])
        dataset.attrs["scale_factor"], dataset.attrs["add_offset"] = scale, offset
        decoded = values * scale + offset
        if self.maybe():
            dataset.attrs["_FillValue"] = np.array([missing], values.dtype)
            decoded[values == missing] = np.nan
        elif values.dtype.itemsize > 1:  # netCDF's own fill value, which numbers of one byte do not have
            default = {"i2": -32767, "u2": 65535}[values.dtype.str[1:]]
            decoded[values == default] = np.nan
        self.decoded[dataset.name] = decoded

    def scales(self, dataset: h5py.Dataset) -> None:
        for axis, size in enumerate(dataset.shape):
            if self.maybe():
                name = f"scale {len(self.file)}"
                self.file[name] = np.arange(size, dtype=self.chance.choice(["f4", "i8"]))
                self.file[name].make_scale(self.chance.choice(["", "a scale"]))
                dataset.dims[axis].attach_scale(self.file[name])
            if self.maybe(0.3):
                dataset.dims[axis].label = self.chance.choice(["N", "é"])

    def attributes(self, thing: Any) -> None:
        """Add some attributes, or so many that they are stored densely."""
        table = np.array([(1, 2.5), (2, 3.5)], [("a", "<i2"), ("b", ">f8")])
        for number in range(self.chance.choice([0, 1, 3, 3, 20])):
            value: Any = self.chance.choice(
                [
                    3, 2.5, "text", "naïve", ["a", "bcd"], True, np.bytes_(b"fixed"), h5py.Empty("f4"), table,
                    np.arange(5, dtype=">i4"), np.arange(6.0).reshape(2, 3), self.file.ref,
                    np.array([], "f4"), np.array([True, False]), 1 + 2j, np.void(b"opaque"),
                ]
            )  # fmt: skip
            thing.attrs[f"attribute {number}"] = value
        if self.libver != "earliest" and self.maybe(0.05):
            thing.attrs["long"] = "x" * 70_000
        if self.maybe(0.2):
            lists = np.empty(2, object)
            lists[0], lists[1] = np.arange(3, dtype="i4"), np.arange(1, dtype="i4")
            thing.attrs.create("lists", lists, dtype=h5py.vlen_dtype("i4"))

    def others(self, name: str) -> None:
        """Make datasets that stay as they are."""
        group = self.file.create_group(name, track_order=self.maybe())
        self.attributes(group)
        table = np.array([(1, 2.0, b"ab"), (3, 4.0, b"c")], [("a", "i4"), ("b", ">f8"), ("s", "S3")])
        ways: dict[str, tuple[Any, dict[str, Any]]] = {
            "matrix": (np.arange(12.0).reshape(3, 4), {"chunks": (2, 2), "compression": "gzip"}),
            "lossy": (np.arange(20.0), {"scaleoffset": 2, "chunks": (10,)}),
            "table": (table, {}),
            "texts": (["a", "bé"], {}),
            "fixed": (np.array([b"ab", b"c"]), {}),
            "enum": ([0, 1], {"dtype": h5py.enum_dtype({"OFF": 0, "ON": 1}, "i2")}),
            "flags": (np.array([True, False]), {}),
            "complex": (np.arange(3) * 1j, {}),
            "opaque": (np.array([b"abc"], "V3"), {}),
            "none": (h5py.Empty("f4"), {}),
            "scalar": (1.5, {}),
            "empty": (np.zeros((0, 4)), {"maxshape": (None, 4), "chunks": (2, 4)}),
            "references": (np.array([self.file.ref, group.ref], h5py.ref_dtype), {}),
        }
        for each in self.chance.sample([*ways], self.chance.randint(0, 5)):
            value, how = ways[each]
            self.attributes(group.create_dataset(each, data=value, **how))
        if self.maybe(0.3):
            group["type"] = np.dtype("f4")
            group.create_dataset("typed", (3,), group["type"])
        if self.maybe(0.2):
            lists = group.create_dataset("lists", (2,), h5py.vlen_dtype("i4"))
            lists[0], lists[1] = [1, 2, 3], [4]
        if self.maybe(0.2):
            for number in range(12):
                group[f"number {number}"] = number

    def links(self) -> None:
        """Make links to what there is, and attributes that refer to it."""
        for number, target in enumerate(self.targets):
            if self.maybe():
                self.file[f"alias {number}"] = self.file[target]
            if self.maybe():
                self.file[f"soft {number}"] = h5py.SoftLink(target)
            if self.maybe():
                self.file.attrs["reference"] = self.file[target].ref
            if self.maybe(0.3):
                self.file.create_dataset(
                    f"references {number}", data=[self.file[target].ref], dtype=h5py.ref_dtype
                )
            if self.maybe(0.3):
                self.file.attrs["region"] = self.file[target].regionref[0]
            if self.maybe(0.2):
                shape = self.targets[target]
                layout = h5py.VirtualLayout((2, *shape), self.file[target].dtype)
                layout[0] = layout[1] = h5py.VirtualSource(".", target, shape)
                with suppress(ValueError, OSError):  # not in old versions of the format
                    self.file.create_virtual_dataset(f"virtual {number}", layout)
        if self.maybe(0.3):
            self.file["dangling"] = h5py.SoftLink("/no")
        if self.maybe(0.3):
            self.file["external"] = h5py.ExternalLink("no.h5", "/x")
        if self.maybe(0.2):
            self.file["loop"] = self.file["/before"]
