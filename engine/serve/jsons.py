"""JSON from strangers, read so that other threads get their turn: the numbers, which are nearly all
of it, without the interpreter's lock, and what is left within bounds."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...kernels.streams.numbers import lift
from .refused import bad

__all__ = ["Numbers", "Said", "listed", "read", "text_of"]

# Numbers of an array that is worth a way of its own.
_LEAST = 64
# Values in a request beside such arrays: each is an object of Python's.
_MOST = 1 << 20
# Characters of base64, a multiple of four, and numbers: so much without another thread's turn.
_TEXT = 1 << 18
_PIECE = 1 << 14


@dataclass(frozen=True)
class Numbers:
    """An array of numbers. values: flat. shape: of its nesting. whole: none has a fraction."""

    values: NDArray[np.float64]
    shape: tuple[int, ...]
    whole: bool


@dataclass(frozen=True)
class Said:
    """What a text says. value: as JSON is in Python, but for the arrays that were lifted."""

    value: Any
    arrays: Sequence[Numbers]

    def data(self, given: Any) -> Any:
        """A value, or the array that it stands for. Whoever sends such a mark himself gets an
        array of his own."""
        marked = isinstance(given, list) and len(given) == 2 and given[1] is None
        if marked and type(given[0]) is int and 0 <= given[0] < len(self.arrays):
            return self.arrays[given[0]]
        return given


def read(text: bytes | memoryview) -> Said:
    """Read a text. Raises Refused (400)."""
    import orjson

    rest, arrays, values = lift(text, _LEAST)
    if values > _MOST:
        raise bad(f"more than {_MOST} values that are no regular lists of numbers; expected "
                  "fewer, or binary data")  # fmt: skip
    try:
        return Said(orjson.loads(rest), [Numbers(*one) for one in arrays])
    except orjson.JSONDecodeError as err:
        raise bad(f"no JSON: {err}") from None


def listed(values: NDArray[Any]) -> bytes:
    """An array as JSON, flat; what isn't finite is null."""
    import orjson

    flat = np.ascontiguousarray(values).ravel()
    pieces = [
        orjson.dumps(flat[at : at + _PIECE], option=orjson.OPT_SERIALIZE_NUMPY)[1:-1]
        for at in range(0, len(flat), _PIECE)
    ]
    return b"[" + b",".join(pieces) + b"]"


def text_of(value: bytes, what: str) -> bytes:
    """A picture that came as a string of JSON: base64, with or without `data:image/png;base64,`.
    Raises Refused."""
    text = value.partition(b",")[2] if value.startswith(b"data:") else value
    try:
        pieces = [text[at : at + _TEXT] for at in range(0, len(text), _TEXT)]
        if any(piece.endswith(b"=") for piece in pieces[:-1]):
            raise ValueError("padding within")
        return b"".join(base64.b64decode(piece, validate=True) for piece in pieces)
    except (binascii.Error, ValueError):
        raise bad(f"{what}: no base64; pictures in JSON are base64, or use binary data") from None
