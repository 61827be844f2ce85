"""A new HDF5 file on its way: what stands between HDF5 and disks that fill, signals, and forks."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cached_property
from io import FileIO

import h5py

from gncli.errors import FormatError, OutputError
from gncli.tensors import address, hdf5_safety
from gncli.tensors.copying import copy_all_but
from gncli.tensors.hdf5_errors import translated
from gncli.tensors.hdf5_matlab import create_mat_file, is_matlab
from gncli.tensors.hdf5_overlap import require_apart
from gncli.tensors.hdf5_references import Replacements
from gncli.tensors.permissions import DEFAULT_MODE
from gncli.tensors.staging import Staged

STACK = 8 << 20  # bytes of a thread's stack, which is as much as Linux gives by default


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

    Where `origin` stands at `path` itself and `adding` is set, the copy replaces it, unless another process
    has changed it in the meantime. `mode` is that of a new file. Values at `left_out`, ranges of bytes, are
    not copied: nobody will read them. `oldest` is the oldest version of HDF5, as h5py's `libver` has it, that
    has to read new objects. Raises OutputError.
    """

    def __init__(
        self,
        path: str,
        origin: str | None,
        left_out: Iterable[tuple[int, int]] = (),
        *,
        force: bool,
        mode: int = DEFAULT_MODE,
        adding: bool = False,
        oldest: str = "earliest",
    ) -> None:
        self.path = path
        self._origin = origin
        self.adding = adding
        self._oldest = oldest
        self._over = False
        self._h5: h5py.File | None = None
        self._thread: ThreadPoolExecutor | None = None
        self._mode = "r+" if origin else "w"
        self.written: list[str] = []  # the datasets that hold new values
        if adding:
            _require_hdf5(path)
        self.staged = Staged(
            path, force=force, mode=mode, replacing=address.identity(path) if adding else None
        )
        self._numb = _Numb(self.staged.file)
        try:
            if origin:
                self._copy(origin, sorted(left_out))
        except BaseException:
            self.discard()
            raise

    def is_copy_of(self, path: str) -> bool:
        """Whether the file is a copy of the one at `path`, with datasets exchanged or added."""
        origin = self._origin
        return origin is not None and (origin == path or os.path.realpath(origin) == os.path.realpath(path))

    @property
    def descriptor(self) -> int:
        return self.staged.file.fileno()

    def open(self) -> h5py.File:
        """The file, for work within `do`."""
        if self._h5 is None:
            if self._mode == "w" and is_matlab(self.path):
                self._h5 = create_mat_file(self._numb)
            else:
                self._h5 = h5py.File(self._numb, self._mode, libver=(self._oldest, "latest"))
            self._mode = "r+"
        return self._h5

    @cached_property
    def replacements(self) -> Replacements:
        """Of the file's datasets, for work within `do`."""
        return Replacements(self.open())

    def close(self) -> None:
        """Close the file, for work within `do`. Raises what HDF5 says where it cannot write all it holds."""
        file, self._h5 = self._h5, None
        if file is None:
            return
        replacements = self.__dict__.pop("replacements", None)
        try:
            if replacements and not self._over:
                replacements.finish()
            file.flush()  # a dataset whose close fails would be neither open nor closed
            file.close()
        except BaseException:
            # Python would close each object again when it frees it, and HDF5 may crash then.
            for thing in h5py.h5f.get_obj_ids(file.id):
                thing.locked = True
            raise

    def do(self, blamed: str, work: Callable[..., None], *arguments: object) -> None:
        """HDF5's work on the file, in a thread that is gone once it is closed: processes can be forked then.

        Python handles signals in the main thread only. There, ^C would be raised inside _Numb, inside
        HDF5, which may crash then.
        """
        self._thread = self._thread or _thread_with_stack()
        try:
            self._thread.submit(self._guarded, blamed, work, *arguments).result()
        finally:
            if self._h5 is None:
                self._thread.shutdown()
                self._thread = None

    def _guarded(self, blamed: str, work: Callable[..., None], *arguments: object) -> None:
        try:
            with translated(OutputError, blamed, "cannot be written"):
                work(*arguments)
        finally:
            if self._numb.error is not None:
                raise self.staged.failure(self._numb.error) from None

    def commit(self) -> None:
        """Flush and close, then take the target's name."""
        try:
            self.do(self.path, self.close)
            if self._origin:
                self.do(self.path, self._require_apart)
            self.staged.commit()
        finally:
            self.discard()

    def _require_apart(self) -> None:
        with h5py.File(self.staged.path, "r", locking=False) as file:  # quicker than by way of Python
            require_apart(file, self.written, self.path)

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
            what = "a copy of the file" if self.adding else "a copy of the input file"
            raise self.staged.failure(error, what) from None


def _thread_with_stack() -> ThreadPoolExecutor:
    """Return an executor of one thread with room on its stack, where the filter lzf alone puts 1 MiB."""
    executor = ThreadPoolExecutor(1, "gn-hdf5")
    usual = threading.stack_size(STACK)
    try:
        executor.submit(int).result()  # the thread starts with its first work
    finally:
        threading.stack_size(usual)
    return executor


def _require_hdf5(path: str) -> None:
    """Raise AddressError or FormatError unless there is an HDF5 file at `path` that nobody writes."""
    with address.open_file(path) as file:
        if address.sniff(file, path) != "hdf5":
            raise FormatError("is an .npy, which holds one tensor; give an HDF5 file", address=path)
    hdf5_safety.open_file(path).close()
