"""Names for class numbers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from ...errors import UsageError

__all__ = ["KEY", "bundled", "class_number", "from_metadata", "load_labels"]

KEY = "backlight.labels"
_MOST = 1 << 26
_ASSETS = Path(__file__).parent.parent / "assets"


def bundled() -> list[str]:
    """ImageNet's 1,000 class names."""
    return (_ASSETS / "imagenet_labels.txt").read_text(encoding="utf-8").splitlines()


def load_labels(given: str) -> list[str]:
    """Names from `imagenet`, a text file (line i names class i) or a JSON list. UsageError."""
    if given == "imagenet":
        return bundled()
    try:
        file = Path(given)
        if file.exists() and not (file.is_file() or file.is_dir()):
            raise UsageError(f"{given}: a pipe or device; expected a file with labels")
        if file.is_file() and file.stat().st_size > _MOST:
            raise UsageError(f"{given}: larger than {_MOST >> 20} MB; expected a file with labels")
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as err:
        reason = err.strerror if isinstance(err, OSError) else "not UTF-8 text"
        raise UsageError(
            f"{given}: labels can't be read: {reason}; expected 'imagenet', "
            "a text file with a name a line, or a JSON list"
        ) from err
    if text.lstrip().startswith("["):
        return _listed(text, given)
    return [line.strip() for line in text.rstrip("\n").split("\n")]


def from_metadata(text: str | None, source: str) -> list[str] | None:
    """The names that a model's metadata gives: `imagenet` or a JSON list."""
    if text is None:
        return None
    return bundled() if text == "imagenet" else _listed(text, f"{source} (metadata {KEY})")


def _listed(text: str, source: str) -> list[str]:
    try:
        names = json.loads(text)
    except (ValueError, RecursionError) as err:
        raise UsageError(f"{source}: labels are not JSON: {err}") from err
    if not isinstance(names, list) or not all(isinstance(n, str) for n in names):
        raise UsageError(f"{source}: labels are no JSON list of names")
    return names


def class_number(given: str, labels: Sequence[str] | None) -> int:
    """A class by number or by name: -1 for "top1" and "input". Raises UsageError."""
    if given in ("top1", "input"):
        return -1
    if given.isascii() and given.isdecimal() and len(given) <= 18:
        return int(given)
    if labels is not None:
        # The bundled names list synonyms: "tabby, tabby cat".
        wanted = given.casefold()
        exact = [i for i, name in enumerate(labels) if name.casefold() == wanted]
        parts = [
            i
            for i, name in enumerate(labels)
            if wanted in (p.strip().casefold() for p in name.split(","))
        ]
        found = exact or parts
        if len(found) == 1:
            return found[0]
        if found:
            raise UsageError(
                f"--target-class '{given}' names classes {', '.join(map(str, found))}; give one"
            )
    raise UsageError(
        f"--target-class '{given}'; accepted: top1, a class number, or a name from the labels"
    )
