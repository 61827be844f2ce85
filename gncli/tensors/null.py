"""A sink that keeps nothing, for a dry run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from numpy.typing import NDArray

from gncli.layout import Run


class NullSink:
    positioned = True

    def __init__(self, address: str) -> None:
        self.address = address

    def target(self, runs: Sequence[Run], buffer: NDArray[Any]) -> NDArray[Any]:
        return buffer[: sum(count for _, count in runs)]

    def pack(self, runs: Sequence[Run], values: NDArray[Any]) -> NDArray[Any]:
        """Never asked for: `write` is for any thread."""
        return values

    def write(self, runs: Sequence[Run], values: NDArray[Any]) -> None:
        """Forgotten."""

    def reserve(self) -> None:
        """No space to take."""

    def commit(self) -> None:
        """Nothing to keep."""

    def discard(self) -> None:
        """Nothing to remove."""
