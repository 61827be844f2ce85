"""An output is written under a temporary name beside its target, and takes its name when it is whole."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import stat
from collections.abc import Iterator
from functools import lru_cache, partial
from io import FileIO

from gncli.errors import OutputError
from gncli.leavings import clear_later, is_cleared
from gncli.tensors.address import identity, reason
from gncli.tensors.permissions import DEFAULT_MODE, permit

NAME_MAX = 255  # bytes, on every file system in common use
_TMPFS = 0x01021994
_STRETCH = 16 << 20  # bytes reserved at a time: whoever writes to the file waits meanwhile


class Joined:
    """The file of a `Staged`, to write into; from another process, by its name. Raises OutputError."""

    file: FileIO

    def __init__(self, target: str, path: str) -> None:
        self.target, self.path = target, path
        try:
            self.file = FileIO(path, "r+b")
        except OSError as error:
            raise OutputError(f"cannot write '{path}': {reason(error)}", address=target) from None

    def __reduce__(self) -> tuple[type[Joined], tuple[str, str]]:
        return Joined, (self.target, self.path)

    def reserve(self, nbytes: int) -> None:
        """Take the space, where the file system can promise it; also beside writes, which it leaves alone."""
        try:
            if nbytes:
                _allocate(self.file.fileno(), nbytes)
        except OSError as error:
            raise self.failure(error, f"{nbytes} bytes") from None

    def failure(self, error: OSError, what: str = "the output") -> OutputError:
        """The OutputError for a write that failed."""
        hint = ""
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            with contextlib.suppress(OSError, AttributeError):
                room = os.statvfs(os.path.dirname(self.path))
                hint = f" ({room.f_bavail * room.f_frsize} bytes are free)"
            hint += "; make room, or write elsewhere with -o"
        return OutputError(f"cannot write {what}: {reason(error)}{hint}", address=self.target)


class Staged(Joined):
    """A new file on its way to `target`. `path` is where it is written, `file` is open on it.

    A symlink is written through: what it points to is replaced and the link stays. Raises
    OutputError, before anything is written, where the target cannot come to stand.
    `mode` is as in open(2), for a new file. A file that replaces another one gets its permissions.
    `replacing` is the `identity` of a file that is replaced without `force`, unless it changes before.
    """

    def __init__(
        self,
        target: str,
        *,
        force: bool,
        mode: int = DEFAULT_MODE,
        replacing: tuple[int, ...] | None = None,
    ) -> None:
        if "\0" in target:
            raise OutputError("not a file name: it holds a NUL", address=target)
        self.target = target
        self._force = force or replacing is not None
        self._replacing = replacing
        self._final = os.path.realpath(target)
        self._folder = os.path.dirname(self._final)
        _check_target(target, self._final, self._force)
        remove_left(target)
        old = self._replaced()
        try:
            self.path, self.file = _create(_start(self._final), mode if old is None else old.st_mode)
        except FileNotFoundError:
            folder = self._folder if os.path.islink(target) else os.path.dirname(target)
            raise OutputError(f"there is no folder '{folder}'; make it first", address=target) from None
        except OSError as error:
            raise OutputError(f"cannot write there: {reason(error)}", address=target) from None
        self._standing = True  # the temporary is there, to be renamed or removed
        self._mode = stat.S_IMODE(os.fstat(self.file.fileno()).st_mode)  # with the umask, or the folder's ACL
        if self._mode & 0o600 != 0o600 and hasattr(os, "fchmod"):  # workers open it by its name
            os.fchmod(self.file.fileno(), self._mode | 0o600)

    def extend(self, nbytes: int) -> None:
        """Make it `nbytes` long, if the disk has that much to give."""
        try:
            room = os.statvfs(self._folder) if hasattr(os, "statvfs") else None
            if room and room.f_blocks and room.f_bavail * room.f_frsize < nbytes:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.ftruncate(self.file.fileno(), nbytes)
        except OSError as error:
            raise self.failure(error, f"{nbytes} bytes") from None

    def commit(self) -> None:
        """Flush to disk, take the target's name, flush the folder. Discards where that fails."""
        try:
            permit(self.file.fileno(), self._mode, self._replaced())
            os.fsync(self.file.fileno())
            self.file.close()
            if self._replacing is not None:
                self._rename_over_unchanged()
            elif self._force:
                os.replace(self.path, self._final)
            else:
                self._rename_to_nothing()
            self._gone()
        except OSError as error:
            self.discard()
            raise self.failure(error) from None
        _sync_folder(self._folder)

    def discard(self) -> None:
        """Remove the temporary, if it stands; twice, or after commit, it does nothing."""
        self.file.close()
        if self._standing:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.path)
            self._gone()

    def _gone(self) -> None:
        self._standing = False
        is_cleared(self.path)

    def _replaced(self) -> os.stat_result | None:
        """The status of the file that is replaced, if there is one."""
        try:
            return os.lstat(self._final) if self._force else None
        except OSError:
            return None

    def _rename_over_unchanged(self) -> None:
        """Replace the file that this one was made from. Processes that do so wait for one another."""
        with _locked(self._folder):
            if identity(self._final) != self._replacing:
                self.discard()
                hint = "was changed by another process in the meantime; try again"
                raise OutputError(hint, address=self.target)
            os.replace(self.path, self._final)

    def _rename_to_nothing(self) -> None:
        # rename(2) replaces whatever has appeared since the check; link(2) refuses to.
        try:
            os.link(self.path, self._final)
        except FileExistsError:
            self.discard()
            hint = "has appeared in the meantime; use --force to overwrite it"
            raise OutputError(hint, address=self.target) from None
        except (OSError, AttributeError):  # exFAT, some network folders: no hard links
            _check_target(self.target, self._final, force=False)
            os.replace(self.path, self._final)
        else:
            os.unlink(self.path)


def _check_target(target: str, final: str, force: bool) -> None:
    """Raise OutputError unless a file may come to stand at `final`, the real path of `target`."""
    odd = "is not a regular file; give another output, or -o - for a pipe"
    with contextlib.suppress(OSError, ValueError):
        mode = os.stat(target).st_mode  # what /dev/stdout is, its real path does not say
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            raise OutputError(odd, address=target)
    try:
        mode = os.lstat(final).st_mode
    except FileNotFoundError:
        if not os.path.basename(target):
            raise OutputError("is a folder's name; give a file's", address=target) from None
        return
    except OSError as error:
        raise OutputError(f"cannot write there: {reason(error)}", address=target) from None
    if stat.S_ISDIR(mode):
        raise OutputError("is a directory; give a file in it", address=target)
    if not stat.S_ISREG(mode):  # renaming over /dev/null would take it away from everyone
        raise OutputError(odd, address=target)
    if not force:
        raise OutputError("exists; use --force to overwrite it", address=target)


def _start(final: str) -> str:
    """Of the names of temporaries: longer than the target's, which may be as long as names can be."""
    folder, name = os.path.split(final)
    stem = os.fsdecode(os.fsencode(name)[: NAME_MAX - len("..gn-12345678.tmp")])
    return os.path.join(folder, f".{stem}.gn-")


@contextlib.contextmanager
def _locked(folder: str) -> Iterator[None]:
    """Hold a lock on the folder, where the file system has locks."""
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError, ImportError):
            import fcntl

            descriptor = os.open(folder, os.O_RDONLY)
            stack.callback(os.close, descriptor)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield


def _create(start: str, mode: int) -> tuple[str, FileIO]:
    """A new file of a name that begins with `start`, locked: as long as it is, somebody writes it."""

    def opener(path: str, flags: int) -> int:
        return os.open(path, flags, mode & 0o777)

    while True:
        path = f"{start}{os.urandom(4).hex()}.tmp"
        clear_later(path, partial(os.unlink, path))
        try:
            file = FileIO(path, "x+b", opener=opener)
        except OSError:
            is_cleared(path)
            raise
        with contextlib.suppress(OSError, ImportError):  # a file system without locks
            import fcntl

            fcntl.flock(file.fileno(), fcntl.LOCK_EX)
        if os.fstat(file.fileno()).st_nlink:
            return path, file
        file.close()  # taken for left over, before it was locked


@lru_cache(maxsize=64)
def _temporaries(folder: str) -> tuple[str, ...]:
    """Names of such files that stood in the folder when the command first looked at it."""
    clear_later(_temporaries, _temporaries.cache_clear)
    try:
        return tuple(name for name in os.listdir(folder) if name[:1] == "." and name.endswith(".tmp"))
    except OSError:
        return ()


def remove_left(target: str, *, look_again: bool = False) -> None:
    """Remove what was left by the killed: temporaries of this output that nobody has locked."""
    folder, start = os.path.split(_start(os.path.realpath(target)))
    if look_again:
        _temporaries.cache_clear()
    for name in _temporaries(folder):
        if not name.startswith(start):
            continue
        with contextlib.suppress(OSError, ImportError):  # it is locked, or gone, or not ours to remove
            import fcntl

            path = os.path.join(folder, name)
            descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.path.samestat(os.fstat(descriptor), os.lstat(path)):
                    os.unlink(path)
            finally:
                os.close(descriptor)


def _allocate(descriptor: int, nbytes: int) -> None:
    """fallocate(2). In os.posix_fallocate, glibc writes zeros itself where the system can't: over others'.

    Not on tmpfs, which does fill the space with zeros, and has those who write wait meanwhile.
    """
    libc = _libc()
    if not hasattr(libc, "fallocate") or _type_of_file_system(descriptor) == _TMPFS:
        return
    for start in range(0, nbytes, _STRETCH):
        stretch = ctypes.c_int64(min(_STRETCH, nbytes - start))
        if libc.fallocate(descriptor, 0, ctypes.c_int64(start), stretch) != 0:
            error = ctypes.get_errno()
            if error not in (errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.EINTR):
                raise OSError(error, os.strerror(error))
            return


def _type_of_file_system(descriptor: int) -> int:
    """The number that Linux has for it: see statfs(2)."""
    answer = (ctypes.c_long * 64)()  # twice the structure, whose first field it is
    _libc().fstatfs(descriptor, answer)
    return answer[0]


@lru_cache(maxsize=1)
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _sync_folder(folder: str) -> None:
    # The output is whole and under its name by now: a folder that cannot be opened or synced
    # (one without read permission, CIFS, Windows) is no reason to call it failed.
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
