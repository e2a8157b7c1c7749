"""A message of gRPC before it is read: how many objects and numbers reading it would make.

protobuf reads a message in one go, with the interpreter in hand: what stands in a few bytes each
(elements, parameters, whole numbers) takes a hundred times as much memory, and seconds of all
that wait. So they are counted first, along the message's own description, up to a bound.

https://protobuf.dev/programming-guides/encoding/
"""

from __future__ import annotations

from typing import Any

from .refused import bad

__all__ = ["bounded"]

# Fields of all kinds in a message, and bytes of whole numbers, which have from one byte on each.
MOST_FIELDS = 1 << 14
MOST_NUMBERS = 1 << 23
_VARINT, _EIGHT, _LENGTH, _FOUR = 0, 1, 2, 5


def bounded(data: bytes, kind: Any) -> bool:
    """Whether it can be a message, of which kind's descriptor. Raises Refused (400) where it has
    more."""
    left = [MOST_FIELDS, MOST_NUMBERS]
    try:
        _walked(memoryview(data), kind, left)
    except IndexError:  # cut short
        return False
    return True


def _walked(view: memoryview, kind: Any, left: list[int]) -> None:
    fields, at, end = kind.fields_by_number, 0, len(view)
    while at < end:
        left[0] -= 1
        if left[0] < 0:
            raise bad(f"more than {MOST_FIELDS} fields in the message; raw_input_contents has a "
                      "tensor in one")  # fmt: skip
        tag, at = _number(view, at)
        wire = tag & 7
        if wire == _LENGTH:
            size, at = _number(view, at)
            if size > end - at:
                raise IndexError
            field = fields.get(tag >> 3)
            if field is not None and field.message_type is not None:
                _walked(view[at : at + size], field.message_type, left)
            elif field is not None and _whole(field):
                left[1] -= size
                if left[1] < 0:
                    raise bad(f"more than {MOST_NUMBERS} bytes of whole numbers in contents; "
                              "expected raw_input_contents")  # fmt: skip
            at += size
        elif wire == _VARINT:
            _, at = _number(view, at)
        elif wire in (_EIGHT, _FOUR):
            at += 8 if wire == _EIGHT else 4
        else:  # a group, which the protocol lacks
            raise IndexError


def _whole(field: Any) -> bool:
    """Whether it is a list of numbers that are written as short as they are."""
    kinds = (field.CPPTYPE_INT32, field.CPPTYPE_INT64, field.CPPTYPE_UINT32, field.CPPTYPE_UINT64,
             field.CPPTYPE_BOOL)  # fmt: skip
    return field.cpp_type in kinds


def _number(view: memoryview, at: int) -> tuple[int, int]:
    """A varint, and where it ends. Raises IndexError."""
    value = shift = 0
    while True:
        byte = view[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7
        if shift > 63:
            raise IndexError
