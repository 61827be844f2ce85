"""What can go wrong, in words for the person at the shell. Imports nothing of ours."""

from __future__ import annotations


class GnError(Exception):
    """An input that cannot be done: one line with the numbers and what to try.

    `address` is the file or dataset at fault, shown in front of the message.
    """

    exit_code = 1

    def __init__(self, message: str, *, address: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.address = address

    def __str__(self) -> str:
        return f"{self.address}: {self.message}" if self.address else self.message

    def at(self, address: str) -> GnError:
        """The same error, blamed on `address` if it names nothing yet."""
        if self.address is None:
            self.address = address
        return self


class UsageError(GnError):
    """The command's words are off, whatever the files hold."""

    exit_code = 2


class LayoutError(GnError):
    """The shape does not fit the layout, or its channels do not fit the groups."""


class FormatError(GnError):
    """A file that is not what it should be: truncated, malformed, of a dtype that gn cannot take."""


class AddressError(GnError):
    """Nothing, or not one thing, at that address."""


class OutputError(GnError):
    """The output cannot be written, or stands already."""


class ReportError(GnError):
    """The report cannot be written to standard output: nothing that comes after it can be, either."""


class BudgetError(GnError):
    """The memory budget cannot hold what the plan needs."""


class NonFiniteError(GnError):
    """NaN or infinity in the input, under `nan="fail"`."""


class CrashError(GnError):
    """The process that read or wrote HDF5 ended without a report."""


class WorkerError(GnError):
    """A worker process was killed."""
