"""`backlight methods`: what there is to explain a score with."""

from __future__ import annotations

import typer

from .console import show, show_json
from .options import Json


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("methods")(methods)


def methods(json: Json = False) -> None:
    """List the methods of explain, a line each; export holds all but the last ones."""
    from ...export.methods import METHODS

    if json:
        rows = [
            {
                "name": m.name,
                "about": m.about,
                "source": m.source,
                "output": m.output,
                "held": m.held,
                "python": m.python,
                "rules": m.rules,
                "by": m.by,
                "needs": m.needs,
                "by_class": m.by_class,
                "picture": m.picture,
            }
            for m in METHODS.values()
        ]
        show_json(rows)
        return
    for m in METHODS.values():
        alone = "; explain only" if m.held == "engine" else ""
        show(f"{m.name:<24} {m.about} ({m.source}{alone})")
