"""What reaches the screen: all of it goes through here.

Names of tensors, labels and metadata come from models, other names from files, and may hold what
moves the cursor, renames the window or answers for the keyboard. On the screen such a character is
a question mark; JSON has it as an escape.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from ...errors import cleaned
from ..photos.plain import as_json

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["console", "lasted", "one_line", "show", "show_json", "tell"]


def show(line: str, *, flush: bool = False) -> None:
    """A line on stdout."""
    print(cleaned(line), flush=flush)


def show_json(value: Any) -> None:
    """JSON on stdout."""
    print(as_json(value))


def tell(text: str) -> None:
    """A line for people, on stderr."""
    print(f"backlight: {one_line(text)}", file=sys.stderr)


def one_line(text: str) -> str:
    """Text of any length and with any breaks as a line."""
    return cleaned(" ".join(text.split()))


def percent(probability: float) -> str:
    """A probability for people."""
    return f"{100 * probability:.1f} %"


def console(**how: Any) -> Console:
    """rich's, for tables. how: of its constructor."""
    from rich.console import Console
    from rich.text import Text

    class Clean(Console):
        def render_str(self, text: str, *args: Any, **kwargs: Any) -> Text:
            lines = [cleaned(line) for line in text.split("\n")]
            return super().render_str("\n".join(lines), *args, **kwargs)

    return Clean(highlight=False, markup=False, **how)


def lasted(ms: float) -> str:
    """A time for people: a gradient takes milliseconds, masked images may take minutes."""
    return f"{ms:.1f} ms" if ms < 10_000 else f"{ms / 1000:.1f} s"
