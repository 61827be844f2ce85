"""The `gn` command: the group, and the one place where errors become messages and exit codes.

What loads a command's tool, and with it numpy, is the body of the command; `gn --help` loads neither.
"""

from __future__ import annotations

import _thread
import atexit
import gc
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from io import TextIOWrapper
from types import FrameType
from typing import Any, NoReturn

import click

from gncli import __version__, containment, leavings
from gncli.errors import GnError, ReportError, UsageError
from gncli.report import say
from gncli.stopping import STOPPING, has_default
from gncli.words import printable, quoted

# Each a module of this package, and the command in it; its first words, for `gn --help` not to load it.
COMMANDS = {
    "normalize": "Normalize each INPUT by groups of its channels.",
    "stats": "Print the statistics of each INPUT.",
    "info": "Print the header of each INPUT, and the groups it may have.",
    "diff": "Compare A with B, element by element.",
    "identify": "Tell by which convention of group norm Y was made from X.",
}
NAMES = ("gn", "gncli")  # of the command
# An error whose text is the help; click 8.1 has none.
HELP: type[Exception] | tuple[()] = getattr(click.exceptions, "NoArgsIsHelpError", ())
CONTEXT = {"auto_envvar_prefix": "GN", "help_option_names": ["-h", "--help"], "max_content_width": 100}
INTERRUPTED, CLOSED_PIPE = 128 + 2, 128 + 13  # as a shell reports SIGINT and SIGPIPE

NO_THREAD = "can't start new thread"  # Python's words for it

GRACE = 0.4  # seconds that a signal leaves for what is under way to end by itself


def tell(error: Exception, address: str | None = None) -> int:
    """Say on stderr, in one line, what went wrong (with `address`); return the exit code that it means."""
    code = 1
    blame = f"{address}: " if address else ""
    match error:
        case GnError():
            text, code = str(error.at(address) if address else error), error.exit_code
        case MemoryError():
            text = f"{blame}out of memory; try a smaller --memory or fewer --jobs"
        case RuntimeError() if str(error) == NO_THREAD:
            text = f"{blame}no thread can be started; try --jobs 1, or a higher limit on processes and memory"
        case OSError():
            where = f"{os.fsdecode(error.filename)}: " if isinstance(error.filename, str | bytes) else blame
            text = f"{where}{error.strerror or error}"
        case _:
            text = f"{blame}{type(error).__name__}: {error}; this is a bug in gn, GN_DEBUG=1 shows where"
            if os.environ.get("GN_DEBUG"):
                import traceback

                traceback.print_exception(error)
    say("error", text)
    return code


class Attempts:
    """`with attempt(address)` for each input: one that fails is told, and the next still done."""

    def __init__(self) -> None:
        self.failed = 0

    @contextmanager
    def __call__(self, address: str) -> Iterator[None]:
        try:
            yield
        except (BrokenPipeError, ReportError, UsageError, click.ClickException, click.exceptions.Exit):
            raise
        except Exception as error:  # noqa: BLE001 - told, counted, and shown whole with GN_DEBUG
            self.failed += 1
            tell(error, address)


@contextmanager
def attempts() -> Iterator[Attempts]:
    """Exits with 1 in the end if any attempt failed. What would fail for every input goes through."""
    attempt = Attempts()
    yield attempt
    if attempt.failed:
        raise click.exceptions.Exit(1)


@contextmanager
def trouble() -> Iterator[None]:
    """For commands whose exit code 1 is an answer: what fails within is told, and exits with 2."""
    try:
        yield
    except (BrokenPipeError, click.ClickException, click.exceptions.Exit):
        raise
    except Exception as error:  # noqa: BLE001 - told, and shown whole with GN_DEBUG
        tell(error)
        raise click.exceptions.Exit(2) from None


@contextmanager
def edge() -> Iterator[None]:
    """Where an exception ends: as a line on stderr and an exit code."""
    try:
        yield
    except click.ClickException as error:  # click has words and codes of its own
        if not isinstance(error, HELP):
            # They quote what was given, and a terminal obeys it. (To a type checker, `message` is final.)
            vars(error)["message"] = printable(error.message)
        raise
    except (click.Abort, click.exceptions.Exit):
        raise
    except KeyboardInterrupt:
        raise click.exceptions.Exit(INTERRUPTED) from None
    except BrokenPipeError:
        raise click.exceptions.Exit(CLOSED_PIPE) from None
    except Exception as error:  # noqa: BLE001 - told, and shown whole with GN_DEBUG
        raise click.exceptions.Exit(tell(error)) from None
    finally:
        leavings.clear()
        _settle()


def _settle() -> None:
    """Flush; what cannot be written is dropped now, lest the interpreter complain of it at its end."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            with open(os.devnull, "wb") as nowhere:
                os.dup2(nowhere.fileno(), stream.fileno())


class Gn(click.Group):
    """Loads a command when it is named, and ends every exception at the edge."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = getattr(import_module(f"gncli.cli.{cmd_name}"), cmd_name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        **extra: Any,
    ) -> Any:
        """Run the command by its own name: not as `python -m gncli`, nor by one that a caller makes up."""
        called = os.path.basename(sys.argv[0])
        name = prog_name or (called if called in NAMES else "gn")
        return super().main(args, name, complete_var, standalone_mode, **extra)

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        with edge():
            return super().make_context(*args, **kwargs)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.obj = " ".join(map(quoted, ["gn", *args]))  # an HDF5 output tells the command that made it
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> object:
        with edge():
            return super().invoke(ctx)


VERSION = "%(prog)s, version %(version)s" + (
    "" if containment.is_possible() else "; HDF5 files are not contained, for want of fork"
)


@click.group(cls=Gn, context_settings=CONTEXT)
# Not from the environment: GN_VERSION is a name that other tools' build scripts use.
@click.version_option(__version__, prog_name="gn", allow_from_autoenv=False, message=VERSION)
def gn() -> None:
    """Group Normalization (Wu & He, 2018) for tensors in files.

    An INPUT is FILE (.npy or HDF5), FILE::/path/in/file, FILE::/glob*/x, or - for a pipe. Every option
    can be set by the environment too, as GN_<COMMAND>_<OPTION>: GN_NORMALIZE_GROUPS=8.
    """


def _stop(number: int, frame: FrameType | None) -> NoReturn:
    """Leave by an exception, so that all is put away; by force where that takes long."""
    for each in STOPPING:  # once is enough: what puts away now is not to be cut short
        signal.signal(each, signal.SIG_IGN)
    # A finalizer that runs just now swallows the exception, with a traceback; _leave ends the command then.
    sys.unraisablehook = lambda *_: None
    # Without a lock of Python's, which the main thread may be holding just now.
    _thread.start_new_thread(_leave, (128 + number,))
    raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(128 + number)


def _leave(code: int) -> NoReturn:
    """In time, also if a thread is in a read that does not end: a network's, or a pipe's."""
    time.sleep(GRACE)
    leavings.clear()
    os._exit(code)


def main() -> NoReturn:
    """What the shell runs. The process is gn's own, and is set up here."""
    gc.set_threshold(50_000)  # nothing that is loaded is garbage, and to find that out takes milliseconds
    containment.clean(os.environ)
    for number in STOPPING:
        if has_default(number):
            signal.signal(number, _stop)
    containment.enable()
    # None where the shell closed it. A file of ours that took its number would be written to, or read.
    if sys.stdin is None:
        os.open(os.devnull, os.O_RDONLY)
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a file's name need not be text
    code: str | int | None = None
    try:
        gn()
    except SystemExit as end:
        code = end.code
    except KeyboardInterrupt:
        code = INTERRUPTED
    except BaseException as error:  # noqa: BLE001 - as Python itself would end, but without its exit
        sys.excepthook(type(error), error, error.__traceback__)
        code = 1
    _end(code)


def _end(code: str | int | None) -> NoReturn:
    """End the process with all that Python does at its end, but without C's exit handlers.

    That of libhdf5 closes what is still open, and crashes on some of it: an object whose close has failed,
    a property list of a virtual dataset.
    """
    status = code if isinstance(code, int) else int(code is not None)
    try:
        if isinstance(code, str):
            print(code, file=sys.stderr)
        threading._shutdown()  # type: ignore[attr-defined]  # as multiprocessing ends its processes
        atexit._run_exitfuncs()
        _settle()
    finally:
        leavings.clear()
        os._exit(status)
