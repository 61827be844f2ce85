"""Where tensors come from and go to: addresses in, sources and sinks out.

h5py costs as much to import as numpy, so the room that needs it is entered when an HDF5 file is met.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from math import prod
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from gncli.errors import AddressError, GnError, UsageError
from gncli.layout import Run
from gncli.tensors.address import candidates, kind_of, open_file, sniff, split
from gncli.tensors.decoding import Decoding
from gncli.tensors.header import TensorHeader
from gncli.tensors.npy import NpySink, NpySource
from gncli.tensors.pipe import stream_at


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


def open_source(
    address: str, *, external: bool = False, force: bool = False, as_stored: bool = False
) -> Source:
    """The one tensor at `address`, or the next one of a pipe.

    An HDF5 file may name other files, which are read if `external`; and may declare far more than it
    stores, which is read as fill values if `force`. Its numbers are decoded as its attributes say, unless
    `as_stored`. Raises AddressError where there is none or more, FormatError.
    """
    path, name, kind = _locate(address)
    if kind == "npy":
        stream = stream_at(path)
        if stream is None:
            return NpySource(address, open_file(path))
        from gncli.tensors.stream import StreamSource

        return StreamSource(stream)
    from gncli.tensors.hdf5 import Hdf5Source
    from gncli.tensors.hdf5_find import find

    with _spooled(path) as file:
        found = find(file, name, external=external)
        if len(found) > 1:
            message = f"{len(found)} datasets; name one: {candidates(file, found)}"
            raise AddressError(message, address=address)
        how = {"external": external, "force": force, "as_stored": as_stored}
        source = Hdf5Source(file, found[0][0], **how)
        source.address = f"{path}::{found[0][0]}"
        return source


def open_seekable(address: str, *, external: bool = False, as_stored: bool = False) -> Source:
    """As `open_source`; a pipe's tensor in a temporary file, to be read in any order and more than once."""
    from gncli.tensors.stream import StreamSource

    source = open_source(address, external=external, as_stored=as_stored)
    return source.spooled() if isinstance(source, StreamSource) else source


def decoding_of(source: Source) -> Decoding | None:
    """How the stored numbers of `source` become its values, if they are not the same."""
    found: Decoding | None = getattr(source, "decoding", None)  # of HDF5 only
    return found


def decoded(source: Source, missing: int | None, name: str = "decoded") -> dict[str, object]:
    """What a record says, as `name`, of how `source` was decoded: None if HDF5 was not, nothing of .npy."""
    if not hasattr(source, "decoding"):
        return {}
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


def expand(address: str, *, external: bool = False) -> list[str]:
    """The addresses of all numeric tensors that `address` names. Raises AddressError for none."""
    path, name, kind = _locate(address)
    if kind == "npy":
        return [address]
    from gncli.tensors.hdf5_find import find

    with _spooled(path) as file:
        return [f"{path}::{dataset}" for dataset, _ in find(file, name, external=external)]


def choose(
    address: str,
    fits: Callable[[tuple[int, ...]], bool],
    *,
    of_several: Callable[[str, tuple[int, ...]], bool] = lambda address, shape: True,
    external: bool = False,
) -> list[str]:
    """As `expand`; but of an HDF5 file without `::`, the one numeric dataset whose shape `fits`.

    Of those that a glob stands for, the ones that `of_several` takes, told address and shape. Raises
    AddressError, with the candidates and their shapes, where none is left or several fit.
    """
    path, name, kind = _locate(address)
    if kind == "npy":
        return [address]
    from gncli.tensors.hdf5_find import find, is_glob

    with _spooled(path) as file:
        found = fitting = find(file, name, external=external)
        if name is None:
            fitting = [(dataset, shape) for dataset, shape in found if shape is not None and fits(shape)]
        elif is_glob(file, name):
            fitting = [
                (dataset, shape)
                for dataset, shape in found
                if shape is None or of_several(f"{path}::{dataset}", shape)
            ]
        if name is None and len(fitting) > 1:
            message = f"{len(fitting)} datasets fit; name one: {candidates(file, fitting)}"
            raise AddressError(message, address=address)
        if not fitting:
            message = f"no dataset has a shape that fits; it holds {candidates(file, found)}"
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

    with _spooled(path) as file:
        yield from inspect_datasets(file, name, external=external)


def default_output(address: str) -> str:
    """Beside the input: `x.npy` goes to `x.gn.npy`, `f.h5::/a` to `f.gn.h5`; a pipe to standard output."""
    path = split(address)[0]
    if stream_at(path) is not None:
        return "-"
    stem, suffix = os.path.splitext(path)
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
    kind = kind_of(path) or _kind_of_input(source)
    if kind == "hdf5":
        from gncli.tensors.hdf5_sink import sink_alone

        return sink_alone(path, name, source, dtype, force=force, attributes=attributes)
    if name is not None:
        raise UsageError(f"an .npy holds one tensor; drop '::{name}'", address=target)
    return NpySink(target, source.shape, dtype, source.fortran, force=force)


def open_output(
    target: str, sources: Sequence[Source], *, force: bool
) -> AbstractContextManager[Callable[..., Sink]]:
    """Gives an `open_sink` for `sources`, which are datasets of one HDF5 file.

    All go into one new file at `target`, which stands under its name if the block ends well.
    """
    from gncli.tensors.hdf5_sink import joint_output

    return joint_output(target, sources, force=force)


def _locate(address: str) -> tuple[str, str | None, str]:
    """The file or pipe, the path in it, and the kind of file that stands there or comes."""
    path, name = split(address)
    if (stream := stream_at(path)) is not None:
        kind = stream.kind()
    else:
        with open_file(path) as file:
            kind = sniff(file, path)
    if kind == "npy" and name is not None:
        raise AddressError(f"is an .npy, which holds one tensor; drop '::{name}'", address=path)
    return path, name, kind


@contextmanager
def _spooled(path: str) -> Iterator[str]:
    """The HDF5 file at `path`, which of a pipe is a temporary one; errors within name the pipe.

    Standard input by a name that a shell takes: `-::/x` would be an option.
    """
    stream = stream_at(path)
    if stream is None:
        yield path
        return
    file = stream.spool()
    try:
        yield file
    except GnError as error:
        shown = "/dev/stdin" if path == "-" else path
        error.message = error.message.replace(file, shown)
        error.address = error.address.replace(file, shown) if error.address else path
        raise


def _kind_of_input(source: Source) -> str:
    try:
        return _locate(source.address)[2]
    except GnError:  # no file: a stream, or an array in memory
        return "npy"
