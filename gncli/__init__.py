"""Group Normalization for tensors in files: the reference value, from the shell or from Python."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gncli.api import describe, group_norm

__version__ = "0.1.0"
__all__ = ["__version__", "describe", "group_norm"]


def __getattr__(name: str) -> object:
    # PEP 562: numpy is loaded when a function is first asked for, so that `import gncli` is free.
    if name in __all__:
        from gncli import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
