"""Options that are numbers, read alike in every command, before anything else is done.

How typer reads them depends on its version: one takes 5.0 for a whole number, another 1_000.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from functools import wraps
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import typer
from typer.models import OptionInfo

from ... import written
from ...errors import one_line

__all__ = ["MOST", "ClickError", "numbered"]

# Typer brings its own click, or uses the one installed: take the base class from what it shows.
ClickError: type[Exception] = next(
    c for c in typer.BadParameter.__mro__ if c.__name__ == "ClickException"
)

# The runtimes' own counts are C's ints; random generators take more.
MOST = (1 << 31) - 1
_MOST = {"--seed": (1 << 63) - 1}


def numbered(command: Callable[..., Any]) -> Callable[..., Any]:
    """A command whose options of type int and float are read by `written`."""
    signature = inspect.signature(command)
    hints = get_type_hints(command, include_extras=True)
    read = {name: _read(name, hints[name]) for name in signature.parameters}

    @wraps(command)
    def wrapped(*words: Any, **given: Any) -> Any:
        return command(*words, **given)

    del wrapped.__wrapped__
    wrapped.__signature__ = signature.replace(  # type: ignore[attr-defined]
        parameters=[p.replace(annotation=read[n]) for n, p in signature.parameters.items()]
    )
    wrapped.__annotations__ = read
    return wrapped


def _read(name: str, hint: Any) -> Any:
    """A parameter's type with its parser, where it is a number's."""
    if get_origin(hint) is not Annotated:
        return hint
    of, *more = get_args(hint)
    kinds = {k for one in (get_args(of) or (of,)) for k in (get_args(one) or (one,))}
    kind = next((k for k in (int, float) if k in kinds), None)
    if kind is None:
        return hint
    told = []
    for one in more:
        if isinstance(one, OptionInfo):
            one = copy.copy(one)
            spelled = one.param_decls or (f"--{name.replace('_', '-')}",)
            one.parser = _parser(max(spelled, key=len), kind)
        told.append(one)
    return Annotated[of, *told]


def _parser(option: str, kind: type[int] | type[float]) -> Callable[[Any], Any]:
    def parse(given: Any) -> Any:
        if not isinstance(given, str):  # a default
            return given
        return _whole(option, given) if kind is int else _number(option, given)

    return parse


# Not a UsageError: typer takes a ValueError for its own, and words around it.
def _whole(option: str, given: str) -> int:
    most = _MOST.get(option, MOST)
    found = written.whole(given)
    if found is None:
        raise ClickError(f"{option} '{one_line(given)}'; expected a whole number")
    if abs(found) > most:
        bound = f"at most {most}" if found > 0 else f"at least -{most}"
        raise ClickError(f"{option} {one_line(given.strip())}; expected {bound}")
    return found


def _number(option: str, given: str) -> float:
    found = written.number(given)
    if found is None:
        raise ClickError(f"{option} '{one_line(given)}'; expected a number")
    return found
