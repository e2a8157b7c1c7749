"""The rows of the rule table, a file per operator family as in `export/rules`."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..harness import Exact, Row

__all__ = ["exact", "rows"]


def rows() -> Iterator[Row]:
    """All rows, family by family."""
    for module in pkgutil.iter_modules(__path__):
        yield from importlib.import_module(f"{__name__}.{module.name}").ROWS


def exact() -> Iterator[Exact]:
    """All kinks and ties."""
    for module in pkgutil.iter_modules(__path__):
        yield from importlib.import_module(f"{__name__}.{module.name}").EXACT
