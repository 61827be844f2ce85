"""What some options need, and the base installation does not have."""

from __future__ import annotations

from importlib.util import find_spec

from gncli.errors import UsageError


def require_extra(extra: str, module: str, wanted: str) -> None:
    """Raise UsageError unless `module`, of the extra that `wanted` needs, is installed. Loads nothing."""
    if find_spec(module) is None:
        raise UsageError(f"{wanted} needs the extra: pip install 'gncli[{extra}]'")
