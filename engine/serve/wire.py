"""Messages between the server and its workers: a header in JSON, and raw buffers behind it.

    length (4 bytes) | header, JSON | buffer | buffer …

The header says how long the buffers are. They come behind it, or lie in an `Area`, where there is
one. Nothing is pickled: a worker runs strangers' models, and
what it says is read as data.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import IO, Any

from .area import Area

__all__ = ["GoneError", "read_buffer", "read_header", "send"]

# Of a header: some thousands of pictures' lengths.
_MOST_HEADER = 1 << 26


class GoneError(Exception):
    """The other side has ended."""


def send(
    stream: IO[bytes], header: dict[str, Any], buffers: Sequence[Any] = (),
    area: Area | None = None,
) -> None:  # fmt: skip
    """Send a message. area: where its buffers lie; None: behind it. Raises GoneError."""
    text = json.dumps(header).encode("utf-8")
    try:
        if area is not None:
            area.rewound()
            for buffer in buffers:
                _all(area, buffer)
        _all(stream, len(text).to_bytes(4, "little") + text)
        for buffer in () if area is not None else buffers:
            _all(stream, buffer)
    except (OSError, ValueError) as err:
        raise GoneError(str(err)) from None


def _all(stream: IO[bytes] | Area, buffer: Any) -> None:
    view = memoryview(buffer)
    view = view if view.format == "B" and view.ndim == 1 else view.cast("B")
    while len(view):
        view = view[stream.write(view) :]


def read_header(stream: IO[bytes]) -> dict[str, Any]:
    """The next message's header. Raises GoneError at the end, and for what is no message."""
    size = int.from_bytes(read_buffer(stream, 4), "little")
    if size > _MOST_HEADER:
        raise GoneError("no message")
    try:
        header = json.loads(bytes(read_buffer(stream, size)))
    except (ValueError, RecursionError):
        raise GoneError("no message") from None
    if not isinstance(header, dict):
        raise GoneError("no message")
    return header


def read_buffer(stream: IO[bytes] | Area, into: int | Any) -> Any:
    """A buffer of so many bytes, or into an array's memory. Raises GoneError."""
    made = bytearray(into) if isinstance(into, int) else into
    view = memoryview(made)
    view = view if view.format == "B" and view.ndim == 1 else view.cast("B")
    while len(view):
        try:
            got = stream.readinto(view)  # type: ignore[union-attr]
        except (OSError, ValueError) as err:
            raise GoneError(str(err)) from None
        if not got:
            raise GoneError("the end")
        view = view[got:]
    return made
