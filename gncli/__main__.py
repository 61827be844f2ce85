"""What `gn` and `python -m gncli` run."""

from __future__ import annotations

import signal


def main() -> None:
    # Until the command has handlers of its own, ^C ends it without a word, and not within some import.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from gncli.cli import main as run

    run()


if __name__ == "__main__":
    main()
