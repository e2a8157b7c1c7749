"""What `auto` takes for a model: ONNX Runtime, unless `backlight bench --store` measured another
provider to be faster, on this machine, and wrote that beside the model.

    resnet50.onnx
    resnet50.onnx.provider.json     {"provider": "openvino", "times": 1.31, "over": "cpu", …}

Nothing is guessed: without the file, or with one of another machine or another model, it is what it
always is, and a choice that is followed, or can't be, is a note.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from ...errors import UsageError
from .interface import Provider
from .machine import device
from .session import Providers, asked, on_cpu

__all__ = ["SETTINGS", "Choice", "chosen", "file_beside"]

_SUFFIX = ".provider.json"
_MOST = 1 << 16
# What changes a map's numbers, or writes files, is never taken from a file: a stranger may have
# written it.
SETTINGS = frozenset({"spin"})


@dataclass(frozen=True)
class Choice:
    """A provider that was measured against others. times: as fast as `over`, which goes first by
    default; device: the machine; model: sha256 of the model's file."""

    provider: str
    times: float
    over: str
    measured: tuple[str, ...]
    device: str
    model: str

    def to_json(self) -> str:
        """As it is kept."""
        return json.dumps(asdict(self), indent=1) + "\n"

    @classmethod
    def read(cls, file: Path) -> Choice:
        """Raises UsageError for a file that holds none."""
        try:
            if file.stat().st_size > _MOST:
                raise ValueError("too large")
            held: Any = json.loads(file.read_text(encoding="utf-8"))
            made = cls(**{f.name: held[f.name] for f in fields(cls)})
            provider = Provider.parse(made.provider)
            asked(made.provider)
            texts = [made.over, made.device, made.model, *made.measured]
            if not all(isinstance(text, str) for text in texts) or not made.times > 0:
                raise ValueError("of other types")
            if not set(provider.settings) <= SETTINGS:
                raise ValueError("settings that no file may make")
        except (OSError, ValueError, TypeError, KeyError, UsageError, RecursionError) as err:
            raise UsageError(f"{file}: no choice that 'backlight bench --store' wrote") from err
        return made


def file_beside(model: str | os.PathLike[str]) -> Path:
    """Where a model's choice is kept."""
    path = Path(model)
    return path.with_name(path.name + _SUFFIX)


def chosen(
    providers: Providers, model: Any, digest: Callable[[], str], form: str | None = None
) -> tuple[Providers, list[str]]:
    """What to run on, and a note where a stored choice says something of it.

    model: a path, or what has no file beside it. digest: of the model. form: of the graph, where
    it is given (`--for`): a choice whose runtime gets that wrong isn't followed.
    """
    if not isinstance(model, (str, os.PathLike)) or not asked(providers)[2]:
        return providers, []
    file = file_beside(model)
    if not file.is_file():
        return providers, []
    try:
        choice = Choice.read(file)
        reason = _against(choice, digest, form)
    except UsageError as err:
        return providers, [f"{err}; running as without it"]
    if reason:
        return providers, [f"{file} says {choice.provider}, but {reason}; running as without it"]
    if choice.provider == choice.over:  # what goes first anyway
        return providers, []
    return choice.provider, [
        f"running on {choice.provider}: {choice.times:.2f} times as fast as {choice.over} here, "
        f"by {file}"
    ]


def _against(choice: Choice, digest: Callable[[], str], form: str | None) -> str:
    """Why a choice isn't followed; nothing where it is. Raises UsageError for a provider that
    nobody takes."""
    runtime, _, _ = asked(choice.provider)
    if choice.device != device():
        return f"that was measured on {choice.device}"
    if choice.model != digest():
        return "that was of another model"
    if not runtime.describe():
        return f"{runtime.name} is not installed"
    if form in runtime.wrong_forms:
        return f"a graph for {form} gives wrong maps there"
    if not on_cpu("auto") and "cuda" not in choice.measured:
        return "cuda was not measured, which goes first here"
    return ""
