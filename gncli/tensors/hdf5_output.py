"""A new HDF5 file on its way: what stands between HDF5 and disks that fill, signals, and forks."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cached_property
from io import FileIO

import h5py

from gncli.errors import OutputError
from gncli.tensors.copying import copy_all_but
from gncli.tensors.hdf5_errors import translated
from gncli.tensors.hdf5_references import Bonds
from gncli.tensors.staging import Staged


class _Numb:
    """A file that never tells of a failed write, but remembers it.

    Where HDF5 cannot write, be it at closing, it may crash.
    """

    def __init__(self, file: FileIO) -> None:
        self._file = file
        self.error: OSError | None = None
        self.seek, self.tell, self.read = file.seek, file.tell, file.read
        self.readinto, self.flush = file.readinto, file.flush

    def write(self, data: memoryview) -> int:
        view = memoryview(data).cast("B")
        try:
            done = 0
            while done < len(view):
                done += self._file.write(view[done:])
        except OSError as error:
            self.error = self.error or error
        return len(view)

    def truncate(self, size: int) -> int:
        try:
            return self._file.truncate(size)
        except OSError as error:
            self.error = self.error or error
            return size


class Hdf5Output:
    """A new HDF5 file on its way to `path`: a copy of the file `origin`, or an empty one.

    Values at `left_out`, ranges of bytes, are not copied: nobody will read them. `oldest` is the
    oldest version of HDF5, as h5py's `libver` has it, that has to read new objects. Raises OutputError.
    """

    def __init__(
        self,
        path: str,
        origin: str | None,
        left_out: Iterable[tuple[int, int]] = (),
        *,
        force: bool,
        oldest: str = "earliest",
    ) -> None:
        self.path = path
        self._oldest = oldest
        self._over = False
        self._h5: h5py.File | None = None
        self._mode = "r+" if origin else "w"
        self.staged = Staged(path, force=force)
        self._numb = _Numb(self.staged.file)
        try:
            if origin:
                self._copy(origin, sorted(left_out))
        except BaseException:
            self.discard()
            raise

    @property
    def descriptor(self) -> int:
        return self.staged.file.fileno()

    def open(self) -> h5py.File:
        """The file, for work within `do`."""
        if self._h5 is None:
            self._h5 = h5py.File(self._numb, self._mode, libver=(self._oldest, "latest"))
            self._mode = "r+"
        return self._h5

    @cached_property
    def bonds(self) -> Bonds:
        """Of the file, for work within `do`."""
        return Bonds(self.open())

    def close(self) -> None:
        if self._h5 is not None:
            self._h5.close()
            self._h5 = None

    def do(self, address: str, work: Callable[..., None], *arguments: object) -> None:
        """HDF5's work on the file, in a thread that is gone afterwards: processes can be forked then.

        Python handles signals in the main thread only. There, ^C would be raised inside _Numb, inside
        HDF5, which may crash then.
        """
        with ThreadPoolExecutor(1, "gn-hdf5") as thread:
            thread.submit(self._guarded, address, work, *arguments).result()

    def _guarded(self, address: str, work: Callable[..., None], *arguments: object) -> None:
        try:
            with translated(OutputError, address, "cannot be written"):
                work(*arguments)
        finally:
            if self._numb.error is not None:
                raise self.staged.failure(self._numb.error) from None

    def commit(self) -> None:
        """Flush and close, then take the target's name."""
        try:
            self.do(self.path, self.close)
            self.staged.commit()
        finally:
            self.discard()

    def discard(self) -> None:
        if self._over:
            return
        self._over = True
        try:
            with suppress(OutputError):  # it is thrown away anyway
                self.do(self.path, self.close)
        finally:
            self.staged.discard()

    def _copy(self, path: str, left_out: list[tuple[int, int]]) -> None:
        try:
            with open(path, "rb", buffering=0) as file:
                size = os.fstat(file.fileno()).st_size
                self.staged.extend(size)
                copy_all_but(file.fileno(), self.descriptor, size, left_out)
        except OSError as error:
            raise self.staged.failure(error, "a copy of the input file") from None
