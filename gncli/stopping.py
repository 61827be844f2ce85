"""Signals that end a process unless it catches them."""

from __future__ import annotations

import signal

# No handler runs for the first two. The next ones the system ignores, or stops the process by them.
# After a fault, the interpreter cannot go on to the point where it calls handlers.
_UNCAUGHT = ("SIGKILL", "SIGSTOP")
_HARMLESS = ("SIGCHLD", "SIGCLD", "SIGCONT", "SIGINFO", "SIGTSTP", "SIGTTIN", "SIGTTOU", "SIGURG", "SIGWINCH")
_FAULTS = ("SIGBUS", "SIGFPE", "SIGILL", "SIGSEGV")


def _named(names: tuple[str, ...]) -> set[int]:
    return {getattr(signal, name) for name in names if hasattr(signal, name)}


STOPPING: frozenset[int] = frozenset(
    set(map(int, signal.valid_signals())) - _named(_UNCAUGHT + _HARMLESS + _FAULTS)
)


def has_default(number: int) -> bool:
    """Whether the signal would end this process: nohup or a library may have set something else."""
    return signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler)
