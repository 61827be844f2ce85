"""Where tensors come from and go to: addresses in, sources and sinks out.

h5py costs as much to import as numpy, so the room that needs it is entered when an HDF5 file is met.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from math import prod
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from gncli.errors import AddressError, BudgetError, GnError, OutputError, UsageError
from gncli.layout import Run
from gncli.tensors.address import (
    SUFFIXES,
    candidates,
    kind_of,
    open_file,
    require_written,
    sniff,
    split,
)
from gncli.tensors.decoding import Decoding
from gncli.tensors.header import TensorHeader
from gncli.tensors.kept import is_kept
from gncli.tensors.npy import NpySink, NpySource
from gncli.tensors.permissions import mode_for
from gncli.tensors.pipe import stream_at

HDF5_MAX_RANK = 32  # H5S_MAX_RANK


class Source(Protocol):
    """A tensor to read. Storage order: the shape's own, or with `fortran` that of its axes reversed."""

    address: str  # as shown to people
    shape: tuple[int, ...]
    dtype: np.dtype[Any]  # as stored, byte order included
    fortran: bool

    @property
    def forkable(self) -> bool:
        """Whether it may be read from forked processes, too."""
        ...

    def read(self, runs: Sequence[Run], buffer: NDArray[Any]) -> NDArray[Any]:
        """The runs' elements, one after another: 1-D, of `dtype`, a slice of `buffer` or a view.

        `buffer` is 1-D, of `dtype`, and long enough. May be called from any thread, concurrently.
        """
        ...

    def abandon(self) -> None:
        """Nothing more is wanted: readers that wait for data give up. From any thread."""
        ...

    def close(self) -> None: ...


class Sink(Protocol):
    """A tensor to write, which stands under its name after `commit` and not before."""

    address: str
    positioned: bool  # write from any thread, in any order; else from one, in storage order

    def reserve(self) -> None:
        """Take the space that all values will need; from any thread, beside the first writes."""
        ...

    def target(self, runs: Sequence[Run], buffer: NDArray[Any]) -> NDArray[Any]:
        """Where to put the runs' values: the front of `buffer`, or the very place."""
        ...

    def pack(self, runs: Sequence[Run], values: NDArray[Any]) -> Any:
        """What the one that writes is to be given of the values, whose buffer will be used again."""
        ...

    def write(self, runs: Sequence[Run], values: Any) -> None:
        """Write the values, or what `pack` made of them."""
        ...

    def commit(self) -> None: ...

    def discard(self) -> None:
        """Remove what was written. Idempotent, and nothing after `commit`."""
        ...


def involves_hdf5(*addresses: object) -> bool:
    """Return whether an address (other objects are none) names an HDF5 file, or one that is yet to be made.

    Loads no h5py. Of a pipe, waits for its first bytes.
    """
    for address in addresses:
        if not isinstance(address, str):
            continue
        path = split(address)[0]
        try:
            kind = _locate(address)[2]
        except GnError:  # whoever opens it says what is wrong
            kind = kind_of(path) or "npy"
        if kind == "hdf5":
            return True
    return False


def is_piped(*addresses: object) -> bool:
    """Return whether an address (other objects are none) names a pipe."""
    given = (address for address in addresses if isinstance(address, str))
    return any(stream_at(split(address)[0]) is not None for address in given)


def open_source(
    address: str, *, external: bool = False, force: bool = False, as_stored: bool = False
) -> Source:
    """The one tensor at `address`, or the next one of a pipe.

    An HDF5 file may name other files, which are read if `external`. It may declare far more than it stores,
    or have filters that damaged data can crash; such is read if `force`. Its numbers are
    decoded as its attributes say, unless `as_stored`. Raises AddressError where there is none or more,
    FormatError.
    """
    path, name, kind = _locate(address)
    if kind == "npy":
        stream = stream_at(path)
        if stream is None:
            return NpySource(address, open_file(path))
        from gncli.tensors.stream import StreamSource

        return StreamSource(stream)
    from gncli.tensors.hdf5 import Hdf5Source, NotThereError
    from gncli.tensors.hdf5_find import find

    file, how = _stored(path), {"external": external, "force": force, "as_stored": as_stored}
    with suppress(NotThereError):
        if name is not None:  # most addresses are a dataset's
            return Hdf5Source(file, name, address=f"{path}::{name}", **how)
    found = find(file, name, external=external, shown=path)
    if len(found) > 1:
        message = f"{len(found)} datasets; name one: {candidates(path, found)}"
        raise AddressError(message, address=address)
    dataset, _ = found[0]
    return Hdf5Source(file, dataset, address=f"{path}::{dataset}", **how)


def read_whole(source: Source, memory: int) -> NDArray[Any]:
    """Return all elements of a small tensor, in storage order. Raises BudgetError where it is none."""
    require_decodable(source, memory, 1)
    size = prod(source.shape)
    if size * source.dtype.itemsize > memory:
        nbytes = size * source.dtype.itemsize
        message = f"takes {nbytes} bytes, and --memory {memory} is too little for it; use --memory {nbytes}"
        raise BudgetError(message, address=source.address)
    return source.read([(0, size)], np.empty(size, source.dtype)) if size else np.empty(0, source.dtype)


def open_seekable(
    address: str, *, external: bool = False, force: bool = False, as_stored: bool = False
) -> Source:
    """As `open_source`; a pipe's tensor in a temporary file, to be read in any order and more than once."""
    from gncli.tensors.stream import StreamSource

    source = open_source(address, external=external, force=force, as_stored=as_stored)
    return source.spooled() if isinstance(source, StreamSource) else source


def decoding_of(source: Source) -> Decoding | None:
    """How the stored numbers of `source` become its values, if they are not the same."""
    found: Decoding | None = getattr(source, "decoding", None)  # of HDF5 only
    return found


def decoded(source: Source, missing: int | None, name: str = "decoded") -> dict[str, object]:
    """Return what a record says, as `name`, of how `source` was decoded: None if it was not."""
    decoding = decoding_of(source)
    return {name: decoding.record(missing) if decoding else None}


def mark_missing(sink: Sink) -> None:
    """Let the output say that NaN stands for missing values, if its format can."""
    if hasattr(sink, "mark_missing"):
        sink.mark_missing()


def more(address: str) -> bool:
    """Whether another tensor comes at `address`, a pipe of which one has been read."""
    stream = stream_at(address)
    return stream is not None and stream.more()


def left_for_blocks(source: Source, memory: int, jobs: int, itemsize: int = 0) -> tuple[int, int]:
    """What `source`, and a sink of its kind of elements of `itemsize` bytes, leave of `memory` and `jobs`."""
    if not hasattr(source, "hold"):  # HDF5 keeps chunks in hand
        return memory, jobs
    left: tuple[int, int] = source.hold(memory, jobs, itemsize)
    return left


def require_decodable(source: Source, memory: int, jobs: int, itemsize: int = 0) -> int:
    """Return how many of the jobs may decode chunks of `source` at once, in `memory` bytes of buffers.

    `itemsize`: of other values that are held of a chunk's elements, if there are. Raises BudgetError where a
    chunk, which is decoded as a whole, takes too much of the memory.
    """
    if getattr(source, "chunks", None) is None:
        return jobs
    decoders: int = source.decoders(memory, itemsize)  # type: ignore[attr-defined]  # of HDF5 only
    return min(jobs, decoders)


def expand(address: str, *, external: bool = False) -> list[str]:
    """The addresses of all numeric tensors that `address` names. Raises AddressError for none."""
    path, name, kind = _locate(address)
    if kind == "npy":
        return [address]
    from gncli.tensors.hdf5_find import find

    return [f"{path}::{dataset}" for dataset, _ in find(_stored(path), name, external=external, shown=path)]


def choose(
    address: str,
    fits: Callable[[tuple[int, ...]], bool],
    *,
    or_else: Callable[[tuple[int, ...]], bool] = lambda shape: False,
    of_several: Callable[[str, tuple[int, ...]], bool] = lambda address, shape: True,
    external: bool = False,
) -> list[str]:
    """As `expand`; but of an HDF5 file without `::`, the one numeric dataset whose shape `fits`.

    Where no shape `fits`, the one that fits `or_else`. Of those that a glob stands for, the ones that
    `of_several` takes, told address and shape. Raises AddressError, with the candidates and their shapes,
    where none is left or several fit.
    """
    path, name, kind = _locate(address)
    if kind == "npy":
        return [address]
    from gncli.tensors.hdf5_find import find, is_glob

    file = _stored(path)
    found = find(file, name, external=external, shown=path)
    fitting: Sequence[tuple[str, tuple[int, ...] | None]] = found
    if name is None:
        known = [(dataset, shape) for dataset, shape in found if shape is not None]
        fitting = [one for one in known if fits(one[1])] or [one for one in known if or_else(one[1])]
    elif is_glob(file, name):
        fitting = [
            (dataset, shape)
            for dataset, shape in found
            if shape is None or of_several(f"{path}::{dataset}", shape)
        ]
    if name is None and len(fitting) > 1:
        message = f"{len(fitting)} datasets fit; name one: {candidates(path, fitting)}"
        raise AddressError(message, address=address)
    if not fitting:
        message = f"no dataset has a shape that fits; it holds {candidates(path, found)}"
        raise AddressError(message, address=address)
    return [f"{path}::{dataset}" for dataset, _ in fitting]


def inspect(address: str, *, external: bool = False) -> Iterator[TensorHeader]:
    """What the headers say of every numeric tensor that `address` names. Raises as `expand`."""
    path, name, kind = _locate(address)
    if kind == "npy":
        source = open_source(address)
        source.close()
        nbytes = prod(source.shape) * source.dtype.itemsize
        yield TensorHeader(address, source.shape, source.dtype, source.fortran, "contiguous", nbytes)
        return
    from gncli.tensors.hdf5_info import inspect_datasets

    yield from inspect_datasets(_stored(path), name, external=external, shown=path)


def default_output(address: str) -> str:
    """Return the name of the output beside the input; of a pipe, `-`.

    `x.npy` goes to `x.gn.npy`, `f.h5::/a` to `f.gn.h5`. A name whose suffix is not one that gn writes
    stays whole, and the suffix of its kind is added: `x.bin` goes to `x.bin.gn.npy`.
    """
    path = split(address)[0]
    if stream_at(path) is not None:
        return "-"
    stem, suffix = os.path.splitext(path)
    if kind_of(path) is None:
        with suppress(GnError):  # where nothing can be read, whoever opens it says so
            kind = _locate(address)[2]
            stem, suffix = path, next(suffix for suffix in SUFFIXES if SUFFIXES[suffix] == kind)
    return f"{stem}.gn{suffix}"


def open_sink(
    target: str,
    source: Source,
    dtype: np.dtype[Any],
    *,
    force: bool,
    attributes: Mapping[str, object],
    in_order: bool = False,
) -> Sink:
    """A sink for what becomes of `source`, staged beside `target`, whose suffix says its kind.

    `attributes` tell in an HDF5 file what was done. `in_order`: it will be written in storage order,
    which a pipe can take as it comes. Raises OutputError, UsageError.
    """
    if target == "-":
        from gncli.tensors.stream import SpooledSink, StreamSink

        return (StreamSink if in_order else SpooledSink)(source.shape, dtype, source.fortran)
    path, name = split(target)
    require_written(path)
    kind = kind_of(path) or _kind_at(source.address)
    if kind == "hdf5":
        from gncli.tensors.hdf5_sink import sink_alone

        if len(source.shape) > HDF5_MAX_RANK:
            words = f"HDF5 takes {HDF5_MAX_RANK} axes at most, the tensor has {len(source.shape)}"
            raise OutputError(f"{words}; write .npy instead", address=target)
        return sink_alone(path, name, source, dtype, force=force, attributes=attributes)
    if name is not None:
        raise UsageError(f"an .npy holds one tensor; drop '::{name}'", address=target)
    mode = mode_for([source.address])
    return NpySink(target, source.shape, dtype, source.fortran, force=force, mode=mode)


def open_output(
    path: str, wanted: Sequence[tuple[str, Source]], *, force: bool
) -> AbstractContextManager[Callable[..., Sink]]:
    """Gives an `open_sink` for the HDF5 file at `path`, which changes if the block ends well.

    `wanted`: the target of each dataset in it, and the source that it is made of. A target is `path` itself
    where the dataset keeps its name in a new file, or FILE::/path.
    """
    from gncli.tensors.hdf5_sink import joint_output

    require_written(path)
    return joint_output(path, [(split(target)[1], source) for target, source in wanted], force=force)


def stands(target: str, address: str) -> bool:
    """Whether the output at `target`, made of the input at `address`, is there and complete.

    A file is, since it gets its name when it is. A dataset of an HDF5 file is not, if it is only a copy of
    the input's own one of that name.
    """
    path, name = split(target)
    if not os.path.isfile(path):
        return False
    if (kind_of(path) or _kind_at(address)) != "hdf5":
        return True
    from gncli.tensors.hdf5_standing import dataset_stands

    return dataset_stands(path, name, address)


def _locate(address: str) -> tuple[str, str | None, str]:
    """The file or pipe, the path in it, and the kind of file that stands there or comes."""
    path, name = split(address)
    if is_kept(path):  # only HDF5 files are
        return path, name, "hdf5"
    if (stream := stream_at(path)) is not None:
        kind = stream.kind()
    else:
        with open_file(path) as file:
            kind = sniff(file, path)
    if kind == "npy" and name is not None:
        raise AddressError(f"is an .npy, which holds one tensor; drop '::{name}'", address=path)
    return path, name, kind


def _stored(path: str) -> str:
    """Return the HDF5 file to open for `path`: itself, or a temporary file with the bytes of a pipe."""
    stream = stream_at(path)
    return path if stream is None else stream.spool()


def _kind_at(address: str) -> str:
    try:
        return _locate(address)[2]
    except GnError:  # no file: a stream, or an array in memory
        return "npy"
