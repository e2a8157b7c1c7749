"""`--isolate`: a command in a process of its own, with limits in time and memory.

    backlight check stranger.onnx --isolate --isolate-seconds 30 --isolate-memory 2GB

The whole command goes there: reading the model, ONNX's passes, ONNX Runtime. This process never
opens the model; whatever happens to the other one becomes a line and exit code 2.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from ...errors import ModelError, UsageError
from . import progress, started
from .options import say

if TYPE_CHECKING:
    from ..runtime.confined import Limits

__all__ = ["isolable", "limits_of", "refuse_limits", "subject"]

_Isolate = Annotated[
    bool,
    typer.Option("--isolate", help="Read MODEL in a process of its own: it may crash or hang."),
]
_Seconds = Annotated[
    float | None,
    typer.Option(metavar="S", help="With --isolate: without a piece of work done, at most. [60]"),
]
_Memory = Annotated[
    str | None,
    typer.Option(metavar="M", help="With --isolate: such as 2GB. [half of the free]"),
]
_OURS = {"isolate": (_Isolate, False), "isolate_seconds": (_Seconds, None),
         "isolate_memory": (_Memory, None)}  # fmt: skip


def isolable(command: Callable[..., Any]) -> Callable[..., Any]:
    """A command with --isolate and its limits."""
    signature = inspect.signature(command)
    names = set(signature.parameters)
    # `batch` isolates by itself, unless told not to.
    if not {"model", "store"} & names or "isolate" in names:
        return command
    hints = get_type_hints(command, include_extras=True)

    @wraps(command)
    def wrapped(**given: Any) -> Any:
        isolate, seconds, memory = (given.pop(name) for name in _OURS)
        if isolate and not started.inside:
            _run_apart(subject(given), limits_of(seconds, memory))
            return None
        if not isolate:
            refuse_limits(seconds, memory)
        return command(**given)

    own = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=hint)
        for name, (hint, default) in _OURS.items()
    ]
    kept = [
        p.replace(annotation=hints[name], kind=inspect.Parameter.KEYWORD_ONLY)
        for name, p in signature.parameters.items()
    ]
    del wrapped.__wrapped__
    wrapped.__signature__ = inspect.Signature([*kept, *own])  # type: ignore[attr-defined]
    wrapped.__annotations__ = hints | {name: hint for name, (hint, _) in _OURS.items()}
    return wrapped


def subject(given: dict[str, Any]) -> str:
    """What a command is about, for a message: its model, else its store."""
    return str(given.get("model") or given.get("store") or "the bundled model")


def limits_of(seconds: float | None, memory: str | None) -> Limits:
    """What --isolate-seconds and --isolate-memory say. Raises UsageError."""
    from ..runtime.budget import parse_memory
    from ..runtime.confined import SECONDS, Limits

    return Limits(
        SECONDS if seconds is None else seconds, None if memory is None else parse_memory(memory)
    )


def refuse_limits(seconds: float | None, memory: str | None) -> None:
    """Raise UsageError for limits of a process that isn't started."""
    for name, value in (("--isolate-seconds", seconds), ("--isolate-memory", memory)):
        if value is not None:
            raise UsageError(f"{name} {value} limits a process of its own; it goes with --isolate")


def _run_apart(what: str, limits: Limits) -> None:
    from ..runtime.budget import shown
    from ..runtime.confined import can_limit_memory, confined

    if not can_limit_memory():
        say("this system limits no process's memory: --isolate limits the time only")
    sys.stdout.flush()
    ended = confined(__name__, started.arguments, limits)
    if ended.result == "memory":
        raise ModelError(
            f"{what}: more than {shown(limits.bytes)} of memory; --isolate-memory gives more"
        )
    if ended.code is None:
        hint = "; --isolate-seconds gives more" if ended.why.startswith("nothing") else ""
        raise ModelError(f"{what}: {ended.why}{hint}")
    if ended.code:
        raise typer.Exit(ended.code)


def child() -> None:
    """The command, in the process of its own; exits."""
    from ..runtime.confined import Job
    from . import main

    started.inside = True
    job = Job.begun()
    progress.on_advance = job.beat

    def unexpected(err: Exception) -> int:
        if isinstance(err, MemoryError):
            job.done("memory")
        else:
            say(f"failed inside: {type(err).__name__}: {err}; without --isolate it says where")
        return 2

    main(job.arguments, unexpected)


if __name__ == "__main__":
    # The commands import this module by its own name; under `__main__` it is another one.
    from backlight.engine.cli import isolated

    isolated.child()
