"""Numbers as people write them, the same wherever text becomes one: options, their lists, files.

A whole number is its digits, with a sign if need be: 5, +5, -0. Another number may have a point and
a power of ten: 0.5, .5, 1e-3. Blanks around it don't matter. Nothing else is one: 1_000, 0x10, ٣,
nan and inf are Python's, and 5.0 or 1e3 is no whole number, whichever library reads the option.
"""

from __future__ import annotations

import math
import re

__all__ = ["number", "whole"]

_WHOLE = re.compile(r"([+-]?)([0-9]+)")
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,9})?")
_BLANKS = " \t"
# More digits than anything needs, and fewer than Python refuses to read.
_DIGITS = 4000


def whole(text: str) -> int | None:
    """A whole number, of which no more than 4,000 digits count; None where the text is none."""
    match = _WHOLE.fullmatch(text.strip(_BLANKS))
    return None if match is None else int(match[1] + (match[2].lstrip("0") or "0")[:_DIGITS])


def number(text: str) -> float | None:
    """A finite number; None where the text is none, or more than a float holds."""
    text = text.strip(_BLANKS)
    if not _NUMBER.fullmatch(text):
        return None
    found = float(text)
    return found if math.isfinite(found) else None
