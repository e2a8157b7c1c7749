"""MODEL: the first word, or -m MODEL, the same in every command.

    backlight activations MODEL IMAGE…        backlight activations IMAGE… -m MODEL
    backlight explain IMAGE… -m MODEL         backlight explain MODEL IMAGE…

Commands that go without (explain, occlude, rise, bench, filters) take the bundled model then. Their
first word is MODEL where it is `bundled` or ends in .onnx, which no image does.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, get_args, get_type_hints

import typer
from typer.models import ArgumentInfo

from ...errors import UsageError
from .options import is_bundled

__all__ = ["placed"]

_OPTION = "model_option"
_Option = Annotated[
    str | None,
    typer.Option("--model", "-m", metavar="MODEL", help="MODEL, where it isn't the first word."),
]


def placed(command: Callable[..., Any]) -> Callable[..., Any]:
    """A command that takes its model in both places."""
    signature = inspect.signature(command)
    hints = get_type_hints(command, include_extras=True)
    words = [n for n in signature.parameters if _is_argument(hints[n])]
    if "model" not in signature.parameters or "store" in words:  # a store knows its model
        return command
    others = next((n for n in words if n != "model"), None)
    positional = "model" in words
    needed = signature.parameters["model"].default is inspect.Parameter.empty

    @wraps(command)
    def wrapped(**given: Any) -> Any:
        if positional:
            _settle(given, given.pop(_OPTION), others, needed)
        elif others is not None:
            _first_word(given, others)
        return command(**given)

    parameters = dict(signature.parameters)
    if positional:
        shown = next(m for m in get_args(hints["model"]) if isinstance(m, ArgumentInfo))
        hints["model"] = Annotated[str | None, shown]
        hints[_OPTION] = _Option
        parameters["model"] = parameters["model"].replace(default=None)
        parameters[_OPTION] = inspect.Parameter(
            _OPTION, inspect.Parameter.KEYWORD_ONLY, default=None
        )
    del wrapped.__wrapped__
    wrapped.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [
            p.replace(kind=inspect.Parameter.KEYWORD_ONLY, annotation=hints[n])
            for n, p in parameters.items()
        ]
    )
    wrapped.__annotations__ = hints
    return wrapped


def _is_argument(hint: Any) -> bool:
    return any(isinstance(m, ArgumentInfo) for m in get_args(hint))


def _settle(given: dict[str, Any], option: str | None, others: str | None, needed: bool) -> None:
    """Of a command whose first word is MODEL: with -m, it is the first of the others."""
    word = given["model"]
    if option is not None:
        if word is not None and others is None:
            raise UsageError(f"two models, '{word}' and --model {option}; expected one")
        if word is not None and others is not None:
            given[others] = [word, *(given[others] or [])]
        given["model"] = option
    elif word is None and needed:
        raise UsageError("no model given; MODEL as the first word, or -m MODEL ('bundled' is one)")
    elif word is None:
        given["model"] = "bundled"


def _first_word(given: dict[str, Any], images: str) -> None:
    """Of a command whose words are images: a model in front of them is MODEL."""
    words = given[images] or []
    if given["model"] is None and words and _is_model(words[0]):
        given["model"], given[images] = words[0], words[1:] or None


def _is_model(word: str) -> bool:
    return is_bundled(word) or (Path(word).suffix.lower() == ".onnx" and not Path(word).is_dir())
