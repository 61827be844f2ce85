"""What some options need, and the base installation does not have."""

from __future__ import annotations

import shlex
import sys
from importlib.util import find_spec

from gncli.errors import UsageError


def how_to_install(extra: str) -> str:
    """Return the command that installs an extra beside this gn, from a clone: gn is on no index."""
    python = shlex.quote(sys.executable or "python3")
    return f"at the root of a clone of gn, {python} -m pip install '.[{extra}]'"


def needs_extra(extra: str, wanted: str) -> UsageError:
    """Return the error for an option that needs an extra which is not there."""
    return UsageError(f"{wanted} needs the extra {extra}: {how_to_install(extra)}")


def require_extra(extra: str, module: str, wanted: str) -> None:
    """Raise UsageError unless `module`, of the extra that `wanted` needs, is installed. Loads nothing."""
    if find_spec(module) is None:
        raise needs_extra(extra, wanted)


def require_dask(address: str) -> None:
    """Raise UsageError unless what `--dask ADDRESS` needs is installed. Loads nothing."""
    require_extra("dask", "distributed", "--dask")
    if address == "local":
        require_extra("dask", "cryptography", "--dask local, to be closed to other users by TLS,")
