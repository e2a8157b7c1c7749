"""The command line. Each module beside this one is a command, or a few that belong together.

Exit codes: 0 done; 1 the run failed; 2 bad usage or bad input, with one line on stderr.
"""

from __future__ import annotations

import _thread
import codecs
import importlib
import io
import json
import logging
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Sequence
from errno import ENAMETOOLONG
from typing import Any

import typer

from ...errors import BacklightError, InputError, UsageError
from . import started
from .console import show, tell
from .numbers import ClickError

__all__ = ["COMMANDS", "main"]

# Modules with a function `register(app)`, in the order of `backlight --help`.
COMMANDS = (
    "export",
    "explain",
    "occlude",
    "rise",
    "cem",
    "segment",
    "check",
    "methods",
    "bench",
    "filters",
    "activations",
    "patches",
    "deconvnet",
    "invert",
    "maximize",
    "concepts",
    "graph",
    "counterfactual",
    "bias",
    "embed",
    "neighbors",
    "map",
    "batch",
    "triton",
    "serve",
)
# What commands were called before: they work for one version more, and --help doesn't show them.
HIDDEN = ("reconstruct",)

INTERRUPTED = 130


class _App(typer.Typer):
    """Commands that read a model take it in the same places, and can read it in a process of
    their own."""

    def command(self, name: str | None = None, **how: Any) -> Callable[[Any], Any]:
        from .isolated import isolable
        from .numbers import numbered
        from .placed import placed

        add = super().command(name, **how)
        return lambda function: add(numbered(placed(isolable(function))))


def _app() -> typer.Typer:
    app = _App(
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        help="Turn an ONNX image classifier into one that also says why.",
    )

    @app.callback(invoke_without_command=True)
    def root(
        version: bool = typer.Option(False, "--version", help="Print the version and exit."),
    ) -> None:
        if version:
            from ... import __version__

            show(f"backlight {__version__}")
            raise typer.Exit

    for name in (*COMMANDS, *HIDDEN):
        importlib.import_module(f"{__name__}.{name}").register(app)
    return app


# What a run makes of an error that is nobody's mistake: the exit code.
Unexpected = Callable[[Exception], int]


def main(arguments: Sequence[str] | None = None, unexpected: Unexpected | None = None) -> None:
    """Run the command line and exit. unexpected: see `run`."""
    _on_interrupt(_stop)
    _keep_stderr()
    if not sys.warnoptions:
        # NumPy's, of infinite numbers: a command says in its own words which image has them.
        warnings.simplefilter("ignore", RuntimeWarning)
    sys.unraisablehook = _unraisable
    # A file's name may hold what no encoding has; JSON stays JSON.
    codecs.register_error("backlight", escaped)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backlight")
    code = INTERRUPTED
    try:
        code = run(arguments, unexpected)
    except BaseException:  # a library may make another error of a Ctrl-C, or a second one comes
        if not _stopped:
            raise
        code = _failed("", INTERRUPTED)
    _on_interrupt(signal.SIG_IGN)  # all is said and done
    if code == INTERRUPTED:
        # Python would go on to wait for threads, and may end as if killed by the signal.
        os._exit(code)
    sys.exit(code)


def run(arguments: Sequence[str] | None = None, unexpected: Unexpected | None = None) -> int:
    """Run the command line; returns the exit code. unexpected: what to do about an error of no kind
    that is expected, and about memory that runs out; None: it is raised, and told."""
    from typer.main import get_command

    given = list(sys.argv[1:] if arguments is None else arguments)
    started.arguments[:] = given
    # Its warnings on malformed models come before our own error, which says it better.
    logging.getLogger("onnx_ir").setLevel(logging.ERROR)
    try:
        _refuse_empty(given)
        code = get_command(_app()).main(
            args=given or ["--help"],
            prog_name="backlight",
            standalone_mode=False,
        )
        sys.stdout.flush()
        # Some versions of typer turn Ctrl-C into this code themselves, and say nothing.
        if code == INTERRUPTED:
            return _failed("interrupted", INTERRUPTED)
        return code if isinstance(code, int) else 0
    except ClickError as err:
        return _failed(getattr(err, "format_message", err.__str__)(), 2)
    except InputError as err:
        return _failed(str(err), 2)
    except BacklightError as err:
        return _failed(str(err), 1)
    except MemoryError as err:
        if unexpected is not None:
            return unexpected(err)
        return _failed("out of memory; a smaller --batch may fit", 1)
    except (KeyboardInterrupt, typer.Abort):
        return _failed("interrupted", INTERRUPTED)
    except BrokenPipeError:
        # The reader went away (`| head`): nothing is left to say, and nobody to say it to.
        _drop_stdout()
        return 1
    except OSError as err:  # a name too long for a file, a disk that is full
        _drop_stdout()
        where = f"{err.filename}: " if err.filename else ""
        return _failed(f"{where}{err.strerror or err}", 2 if err.errno == ENAMETOOLONG else 1)
    except Exception as err:
        if unexpected is None:
            raise
        return unexpected(err)


def _keep_stderr() -> None:
    """stderr is for our lines: libraries in C write there as they like (libtiff, of a broken photo;
    ONNX Runtime, of its machine), past Python and with what a file says."""
    try:
        if sys.stderr.fileno() != 2:
            return
        own, nothing = os.dup(2), os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, 2)
        os.close(nothing)
        sys.stderr = os.fdopen(
            own, "w", buffering=1, encoding=sys.stderr.encoding, errors=sys.stderr.errors
        )
    except (AttributeError, OSError, ValueError):  # none, or none of the system's
        return


def _refuse_empty(given: Sequence[str]) -> None:
    """Raise UsageError for an option's empty value, such as a variable of a script that isn't set:
    a path of no name would be the current folder, and no option here means an empty word."""
    for at, word in enumerate(given):
        option, equals, value = word.partition("=")
        if option.startswith("-") and equals and not value:
            raise UsageError(f"{option} is empty; expected a value")
        if not word and at and given[at - 1].startswith("-"):
            raise UsageError(f"{given[at - 1]} is empty; expected a value")


def escaped(err: UnicodeError) -> tuple[str, int]:
    """What an encoding lacks, as JSON and Python write it; for `codecs.register_error`."""
    assert isinstance(err, UnicodeEncodeError)
    return json.dumps(err.object[err.start : err.end])[1:-1], err.end


_stopped: list[int] = []


def _stop(number: int, _: Any) -> None:
    _stopped.append(number)
    raise KeyboardInterrupt


def _unraisable(what: Any) -> None:
    """A Ctrl-C that arrives in a finalizer or a callback is lost there: it is sent once more."""
    if issubclass(what.exc_type, KeyboardInterrupt):
        threading.Timer(0.01, _thread.interrupt_main).start()
    else:
        sys.__unraisablehook__(what)


def _on_interrupt(handler: Any) -> None:
    """Set what Ctrl-C does, where it is not ignored for good (a background job of a script)."""
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, handler)


def _drop_stdout() -> None:
    """What waits for a stdout that takes no more would be an error again as Python exits."""
    try:
        sys.stdout.flush()
    except (OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _failed(message: str, code: int) -> int:
    if _stopped:
        message, code = "interrupted", INTERRUPTED
    if not (started.inside and code == INTERRUPTED):  # who started this process says it
        tell(message)
    return code
