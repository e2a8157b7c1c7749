"""JSON that every reader takes: it has neither NaN nor infinity."""

from __future__ import annotations

import json
import math
from typing import Any

from ...errors import ACTS

__all__ = ["as_json", "escaped", "without_nan"]


def without_nan(value: Any) -> Any:
    """Plain data with None for every number that isn't one."""
    if isinstance(value, dict):
        return {k: without_nan(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_nan(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


# JSON needs these escaped no more than other letters; a terminal that shows a file does.
_UNSEEN = {at: f"\\u{at:04x}" for at in ACTS if at > 0x20}


def escaped(text: str) -> str:
    """JSON's text, or what has its escapes, with escapes for what acts on a terminal."""
    return text.translate(_UNSEEN)


def as_json(value: Any) -> str:
    """Plain data as JSON, for people too: letters as they are, what acts on a terminal as an
    escape."""
    return escaped(json.dumps(without_nan(value), indent=2, ensure_ascii=False, allow_nan=False))
