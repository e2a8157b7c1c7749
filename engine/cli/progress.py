"""A progress bar on stderr, where that is a terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from .console import show

__all__ = ["Step", "track"]


# Told of every piece of work: a process with limits says that it goes on (see `isolated`).
on_advance: Callable[[], None] | None = None


class Step:
    """Advances the bar, and prints lines that don't tear it."""

    def __init__(self, bar: Any = None, task: Any = None) -> None:
        self._bar, self._task = bar, task

    def advance(self, count: int = 1) -> None:
        """`count` more are done."""
        if on_advance is not None:
            on_advance()
        if self._bar is not None:
            self._bar.advance(self._task, count)

    def reach(self, title: str, done: int, total: int) -> None:
        """So many of `total` are done of what the title names; another title begins anew."""
        if on_advance is not None:
            on_advance()
        if self._bar is not None:
            self._bar.update(self._task, description=title, completed=done, total=total)

    def describe(self, title: str, total: int) -> None:
        """Another title beside the bar, and another number of things to do."""
        if self._bar is not None:
            self._bar.update(self._task, description=title, total=total)

    def print(self, line: str) -> None:
        """A line on stdout."""
        if self._bar is not None and sys.stdout.isatty():
            self._bar.console.file.flush()
        show(line, flush=True)


@contextmanager
def track(total: int, title: str) -> Iterator[Step]:
    """A bar with the time left; silent where stderr is no terminal or there is one thing to do."""
    if total < 2 or not sys.stderr.isatty():
        yield Step()
        return
    from rich.console import Console
    from rich.progress import Progress

    # Lines for a terminal go through the bar, which shares it; those for a file or pipe don't.
    shared = sys.stdout.isatty()
    with Progress(console=Console(stderr=True), transient=True, redirect_stdout=shared) as bar:
        yield Step(bar, bar.add_task(title, total=total))
