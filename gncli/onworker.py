"""Functions that a cluster's workers run before they are given tasks, and afterwards."""

from __future__ import annotations

import asyncio

from gncli.errors import BudgetError, CrashError, GnError
from gncli.helpers import Limits, call_safely, release_all
from gncli.reader import prepared, release


async def try_to_open(recipe: bytes, limits: Limits) -> str | None:
    """Return what is wrong with what the tasks will open, or None.

    Raises CrashError and BudgetError, which are faults of the file itself.
    """
    try:
        # In another thread than the worker's loop, which goes on to say that it is alive.
        await asyncio.to_thread(call_safely, _open, recipe, limits)
    except (CrashError, BudgetError):
        raise
    except GnError as error:
        return str(error)
    return None


def release_files() -> None:
    """Close what was opened for the tasks, in helpers, too."""
    release()
    release_all(release)


def _open(recipe: bytes) -> None:
    prepared(recipe)
