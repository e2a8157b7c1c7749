"""`backlight reconstruct`: what `deconvnet`, `invert` and `maximize` were called in 0.1, where one
command had them as --method. Hidden; goes with the next version."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ...errors import UsageError
from . import started
from .options import say
from .photos import SUMMARY

# The method's command, and what its results were called.
METHODS = {
    "deconvnet": ("deconvnet", {SUMMARY: "reconstruct.json", "deconvnet.html": "reconstruct.html"}),
    "inversion": ("invert", {SUMMARY: "inversion.json"}),
    "maximize": ("maximize", {SUMMARY: "maximize.json"}),
}


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(
        "reconstruct",
        hidden=True,
        # All of it is the other command's, which refuses what it can't use.
        context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
    )(reconstruct)


def reconstruct(
    context: typer.Context,
    method: Annotated[
        str, typer.Option(metavar="METHOD", help="deconvnet, inversion or maximize.")
    ] = "deconvnet",
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR")] = Path("reconstructed"),
    force: Annotated[bool, typer.Option("--force")] = False,
) -> None:
    """The older name of deconvnet, invert (--method inversion) and maximize."""
    from ..photos.outputs import refuse_results

    if method not in METHODS:
        raise UsageError.unknown("--method", method, METHODS)
    name, old = METHODS[method]
    refuse_results(output, old.values(), force)
    words = [*context.args, "--output", str(output), *(["--force"] if force else [])]
    before = {new: _state(output / new) for new in old}
    try:
        _call(context, name, words)
    finally:
        # What this run wrote; with --isolate the process of its own has done it already.
        for new, known in before.items():
            if _state(output / new) not in (None, known):
                (output / new).replace(output / old[new])
    # At the end: a mistake has one line on stderr. --isolate's own process leaves it to this one.
    if not started.inside:
        say(f"reconstruct goes in the next version: its --method {method} is 'backlight {name}'")


def _state(file: Path) -> tuple[int, int] | None:
    """Tells a file from one that was written in its place."""
    return (file.stat().st_ino, file.stat().st_mtime_ns) if file.is_file() else None


def _call(context: typer.Context, name: str, words: list[str]) -> None:
    group: Any = context.parent.command  # type: ignore[union-attr]
    command = group.get_command(context.parent, name)
    with command.make_context(name, words, parent=context.parent) as inner:
        command.invoke(inner)
