"""Permissions of outputs: those of the file that is replaced, or of the input, as cp(1) gives them."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterable
from contextlib import suppress
from functools import reduce
from operator import and_

from gncli.tensors.address import split

DEFAULT_MODE = 0o666  # as open(2) takes it: the umask limits it


def mode_for(addresses: Iterable[str]) -> int:
    """The mode, for open(2), of a new file that is made from the inputs: it allows what all of them allow.

    A pipe has no permissions that say who may read what comes from it.
    """
    modes = [mode for mode in map(_mode_of, addresses) if mode is not None]
    return reduce(and_, modes, 0o777) if modes else DEFAULT_MODE


def _mode_of(address: str) -> int | None:
    path = split(address)[0]
    try:
        status = os.fstat(sys.stdin.fileno()) if path == "-" else os.stat(path)
    except (OSError, ValueError, AttributeError):  # no file, or no standard input
        return None
    return status.st_mode if stat.S_ISREG(status.st_mode) else None


def permit(descriptor: int, mode: int, replaced: os.stat_result | None) -> None:
    """Give a file the permissions `mode`, or those of the file that it replaces, with its owner and group."""
    if not hasattr(os, "fchmod"):
        return
    new = os.fstat(descriptor)
    if replaced is not None:
        mode = stat.S_IMODE(replaced.st_mode)
        if (replaced.st_uid, replaced.st_gid) != (new.st_uid, new.st_gid):
            try:
                os.fchown(descriptor, replaced.st_uid, replaced.st_gid)
            except OSError:  # only root gives files away
                mode &= 0o777
                if not _has_group(descriptor, replaced.st_gid):  # the other group may do no more than others
                    mode &= ~0o070 | (mode & 0o007) << 3
    if mode != stat.S_IMODE(os.fstat(descriptor).st_mode):
        with suppress(OSError):  # a file system without permissions
            os.fchmod(descriptor, mode)


def _has_group(descriptor: int, group: int) -> bool:
    """Give the file to the group, if the user is in it; return whether it is the file's."""
    with suppress(OSError):
        os.fchown(descriptor, -1, group)
    return os.fstat(descriptor).st_gid == group
