"""Files copied by ranges, all else being left for others to write."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable

PIECE = 1 << 24  # bytes in one call: between two of them, ^C is heard
_UNABLE = {errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM}


def copy_all_but(source: int, target: int, size: int, left_out: Iterable[tuple[int, int]]) -> None:
    """The first `size` bytes of one file to another, but for ordered ranges. Raises OSError."""
    start = 0
    for begin, end in [*left_out, (size, size)]:
        _copy(source, target, start, begin)
        start = max(start, end)


def _copy(source: int, target: int, start: int, stop: int) -> None:
    in_kernel = hasattr(os, "copy_file_range")
    while start < stop:
        count = min(stop - start, PIECE)
        if in_kernel:
            try:
                done = os.copy_file_range(source, target, count, start, start)
            except OSError as error:
                if error.errno not in _UNABLE:
                    raise
                in_kernel = False
                continue
        else:
            done = os.pwrite(target, os.pread(source, min(count, 1 << 20), start), start)
        if done == 0:
            raise OSError(errno.EIO, "the input file shrank while it was copied")
        start += done
