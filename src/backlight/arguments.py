"""What callers of the public functions may give: of which type, said in one line where it isn't.

    @accepts(rules=names, batch=whole, of=text)
    def explain(model, rules=RULES, *, batch=None, of=None): ...

A check takes the argument's name and value, and returns the value to use. None passes where it is
the default. Ranges and choices are for the functions themselves.
"""

from __future__ import annotations

import functools
import inspect
import math
import os
from collections.abc import Callable, Iterable, Mapping
from numbers import Integral, Real
from typing import Any, ParamSpec, TypeVar

from .errors import UsageError

__all__ = ["accepts", "beside", "flag", "names", "number", "path", "paths", "several", "shapes",
           "sizes", "text", "whole"]  # fmt: skip

# What fits no 64 bits is a count of nothing, and overflows wherever it ends up.
MOST = (1 << 63) - 1

P = ParamSpec("P")
R = TypeVar("R")
Check = Callable[[str, Any], Any]


def accepts(**checks: Check) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Check arguments by their names before the function sees them. Raises UsageError."""

    def wrap(function: Callable[P, R]) -> Callable[P, R]:
        signature = inspect.signature(function)
        defaults = {name: p.default for name, p in signature.parameters.items()}
        assert checks.keys() <= defaults.keys(), f"{function} lacks {checks.keys() - defaults}"

        @functools.wraps(function)
        def checked(*args: P.args, **kwargs: P.kwargs) -> R:
            given = signature.bind(*args, **kwargs)
            for name, value in given.arguments.items():
                if name in checks and not (value is None and defaults[name] is None):
                    given.arguments[name] = checks[name](_SHOWN.get(name, name), value)
            return function(*given.args, **given.kwargs)

        return checked

    return wrap


# As `backlight.export` and `backlight.Explainer` call it.
_SHOWN = {"lowering": "for_"}


def refused(name: str, value: object, expected: str) -> UsageError:
    """The error for an argument: what it is, and what would do."""
    return UsageError(f"{name} is {shown(value)}; expected {expected}")


def shown(value: object) -> str:
    """A value as a message has it: `1.5 (float)`."""
    written = repr(value) if isinstance(value, (str, bool, int, float, type(None))) else ""
    kind = type(value).__name__
    if not written or len(written) > 60:
        return f"a {kind}"
    return written if value is None else f"{written} ({kind})"


def is_whole(value: object) -> bool:
    """Whether a value is a whole number; a bool is none, though Python counts it as one."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def whole(name: str, value: Any) -> int:
    """A whole number, Python's or NumPy's."""
    if not is_whole(value):
        raise refused(name, value, "a whole number")
    if abs(value) > MOST:
        raise refused(name, value, f"at most {MOST}")
    return int(value)


def number(name: str, value: Any) -> float:
    """A finite number."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise refused(name, value, "a finite number")
    try:
        finite = math.isfinite(value)
    except OverflowError:  # a whole number of more than a float holds
        finite = False
    if not finite:
        raise refused(name, value, "a finite number")
    return int(value) if isinstance(value, Integral) else float(value)


def _many(value: object) -> bool:
    """Whether it can be gone through; an array of no axes only looks so."""
    return isinstance(value, Iterable) and getattr(value, "ndim", 1) != 0


def sizes(name: str, value: Any) -> Any:
    """A whole number, or several: of rows and of columns."""
    if is_whole(value):
        return whole(name, value)
    if isinstance(value, (str, bytes, dict)) or not _many(value):
        raise refused(name, value, "a whole number, or several")
    found = tuple(value)
    if not all(is_whole(v) for v in found):
        raise UsageError(f"{name} is {found!r}; expected a whole number, or several")
    return tuple(whole(name, v) for v in found)


def several(name: str, value: Any) -> tuple[int, ...]:
    """One whole number or several, as a tuple."""
    found = sizes(name, value.tolist() if hasattr(value, "tolist") else value)
    return found if isinstance(found, tuple) else (found,)


def beside(name: str, value: Any) -> dict[str, Any]:
    """What goes with inputs, by their names; nothing of None."""
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise refused(name, value, "a mapping from an input's name")
    for one in value:
        if not isinstance(one, str):
            raise UsageError(f"{name} has {shown(one)} in it; expected inputs' names")
    return dict(value)


def shapes(name: str, value: Any) -> dict[str, tuple[int, ...]]:
    """Sizes of inputs, by their names; none of None."""
    given = beside(name, value)
    return {key: several(f"{name} of '{key}'", sizes) for key, sizes in given.items()}


def flag(name: str, value: Any) -> bool:
    """True or False."""
    if not isinstance(value, bool):
        raise refused(name, value, "True or False")
    return value


def text(name: str, value: Any) -> str:
    """A string, not empty."""
    if not isinstance(value, str):
        raise refused(name, value, "a string")
    if not value:
        raise UsageError(f"{name} is empty; expected a name")
    return value


def names(name: str, value: Any) -> Any:
    """A string, or several."""
    if isinstance(value, str):
        return text(name, value)
    if isinstance(value, bytes) or not _many(value):
        raise refused(name, value, "a string, or a list of strings")
    found = tuple(value)
    for one in found:
        if not isinstance(one, str):
            raise UsageError(f"{name} has {shown(one)} in it; expected strings")
        text(name, one)
    return found


def path(name: str, value: Any) -> Any:
    """A file or folder: a string or a path."""
    if not isinstance(value, (str, os.PathLike)):
        raise refused(name, value, "a path")
    if not os.fspath(value):
        raise UsageError(f"{name} is empty; expected a path")
    return value


def paths(name: str, value: Any) -> Any:
    """A path, or several."""
    if isinstance(value, (str, os.PathLike)):
        return path(name, value)
    if isinstance(value, (bytes, dict)) or not _many(value):
        raise refused(name, value, "a path, or a list of paths")
    found = list(value)
    for one in found:
        path(name, one)
    return found
