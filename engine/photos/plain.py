"""JSON that every reader takes: it has neither NaN nor infinity."""

from __future__ import annotations

import json
import math
import re
from typing import Any

__all__ = ["as_json", "without_nan"]


def without_nan(value: Any) -> Any:
    """Plain data with None for every number that isn't one."""
    if isinstance(value, dict):
        return {k: without_nan(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_nan(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


# What acts on a terminal, or turns the direction of writing. JSON needs these escaped no more than
# other letters; a terminal that shows a file does.
_UNSEEN = re.compile(r"[\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


def as_json(value: Any) -> str:
    """Plain data as JSON, for people too: letters as they are, what acts on a terminal as an
    escape."""
    text = json.dumps(without_nan(value), indent=2, ensure_ascii=False, allow_nan=False)
    return _UNSEEN.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
