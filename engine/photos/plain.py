"""JSON that every reader takes: it has neither NaN nor infinity."""

from __future__ import annotations

import json
import math
from typing import Any

__all__ = ["as_json", "without_nan"]


def without_nan(value: Any) -> Any:
    """Plain data with None for every number that isn't one."""
    if isinstance(value, dict):
        return {k: without_nan(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_nan(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def as_json(value: Any) -> str:
    """Plain data as JSON, for people too."""
    return json.dumps(without_nan(value), indent=2, ensure_ascii=False, allow_nan=False)
