"""Tensors of a request, out of raw bytes and out of JSON, and back.

Nothing is allocated by what a shape says: the elements that are really there are counted first,
with Python's numbers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .jsons import Numbers
from .refused import Refused, bad

__all__ = [
    "DTYPES",
    "Tensor",
    "checked_shape",
    "datatype_of",
    "elements",
    "kind_of",
    "listed_tensor",
    "raw_of",
    "raw_tensor",
]

DTYPES: Mapping[str, np.dtype[Any]] = {
    "BOOL": np.dtype(np.bool_),
    "UINT8": np.dtype(np.uint8),
    "UINT16": np.dtype("<u2"),
    "UINT32": np.dtype("<u4"),
    "UINT64": np.dtype("<u8"),
    "INT8": np.dtype(np.int8),
    "INT16": np.dtype("<i2"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "FP16": np.dtype("<f2"),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
}
MOST_RANK = 8

Values = NDArray[Any] | list[bytes]


def datatype_of(dtype: np.dtype[Any]) -> str:
    """The protocol's name of a NumPy dtype."""
    return next(name for name, known in DTYPES.items() if known == dtype)


@dataclass(frozen=True)
class Tensor:
    """A tensor by name. values: an array shaped `shape`, or for BYTES the elements, flat."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    values: Values
    parameters: Mapping[str, Any] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """Its bytes, about: of elements without their lengths."""
        return sum(map(len, self.values)) if isinstance(self.values, list) else self.values.nbytes


def kind_of(value: Any) -> str:
    """A JSON value's kind, for messages."""
    kinds = {dict: "an object", list: "a list", str: "a string", bool: "true or false",
             int: "a number", float: "a number", type(None): "null"}  # fmt: skip
    return kinds.get(type(value), "something else")


def checked_shape(dims: Sequence[int], what: str) -> tuple[int, ...]:
    """Dimensions of a tensor, by numbers alone. Raises Refused."""
    if len(dims) > MOST_RANK:
        raise bad(f"{what}: {len(dims)} dimensions; at most {MOST_RANK}")
    if any(d < 1 for d in dims):
        raise bad(f"{what}: shape [{_shown(dims)}]; expected dimensions from 1 on")
    return tuple(dims)


def _shown(dims: Sequence[int]) -> str:
    return ",".join(map(str, dims))


def elements(shape: Sequence[int]) -> int:
    """How many elements a shape has."""
    return math.prod(shape)


def raw_tensor(
    name: str, datatype: str, shape: tuple[int, ...], view: memoryview,
    parameters: Mapping[str, Any] | None = None,
) -> Tensor:  # fmt: skip
    """A tensor of raw bytes, row-major and little-endian; BYTES: each element behind its length in
    four bytes. Raises Refused where the sizes don't add up."""
    what, count = f"input '{name}'", elements(shape)
    if datatype == "BYTES":
        return Tensor(name, datatype, shape, _pieces(view, count, what), parameters or {})
    if datatype not in DTYPES:
        raise bad(f"{what}: datatype '{datatype[:40]}'; accepted: {', '.join(DTYPES)}, BYTES")
    dtype = DTYPES[datatype]
    if count * dtype.itemsize != len(view):
        raise bad(
            f"{what}: {len(view)} bytes of data; {datatype} [{_shown(shape)}] has "
            f"{count * dtype.itemsize}"
        )
    if datatype == "BOOL" and np.frombuffer(view, np.uint8).max(initial=0) > 1:
        raise bad(f"{what}: BOOL with bytes other than 0 and 1")
    return Tensor(name, datatype, shape, np.frombuffer(view, dtype).reshape(shape),
                  parameters or {})  # fmt: skip


def _pieces(view: memoryview, count: int, what: str) -> list[bytes]:
    if 4 * count > len(view):
        raise bad(f"{what}: {len(view)} bytes of data; {count} elements have {4 * count} or more")
    found: list[bytes] = []
    at = 0
    for _ in range(count):
        size = int.from_bytes(view[at : at + 4], "little")
        if at + 4 > len(view) or size > len(view) - at - 4:
            raise bad(f"{what}: an element's length runs past the data's end")
        found.append(bytes(view[at + 4 : at + 4 + size]))
        at += 4 + size
    if at != len(view):
        raise bad(f"{what}: {len(view) - at} bytes are left over behind its last element")
    return found


def listed_tensor(data: Any, datatype: str, shape: tuple[int, ...], what: str) -> Values:
    """The values of a tensor that JSON lists. Raises Refused."""
    if isinstance(data, Numbers):
        return _of_numbers(data, datatype, shape, what)
    flat = _flat(data, shape, what)
    kinds = set(map(type, flat))
    if datatype == "BYTES":
        if kinds != {str}:
            raise bad(f"{what}: BYTES in JSON are strings")
        return [text.encode("utf-8", "surrogatepass") for text in flat]
    dtype = DTYPES[datatype]
    accepted: set[type] = {bool} if dtype.kind == "b" else {int}
    accepted |= {float} if dtype.kind == "f" else set()
    if not kinds <= accepted:
        wrong = next(v for v in flat if type(v) not in accepted)
        kind = "a fraction" if type(wrong) is float else kind_of(wrong)
        raise bad(f"{what}: {kind} among its data; datatype {datatype}")
    if dtype.kind in "iu":
        _in_range(min(flat), max(flat), datatype, what)
    try:
        with np.errstate(over="ignore"):
            return np.array(flat, dtype).reshape(shape)
    except OverflowError:  # a whole number that no float holds
        raise bad(f"{what}: data out of range for {datatype}") from None


def _of_numbers(data: Numbers, datatype: str, shape: tuple[int, ...], what: str) -> Values:
    if len(data.shape) > 1 and data.shape != shape:
        raise _misfit(what, shape)
    if len(data.values) != elements(shape):
        raise _miscounted(what, len(data.values), shape)
    if datatype == "BYTES":
        raise bad(f"{what}: BYTES in JSON are strings")
    dtype = DTYPES[datatype]
    if dtype.kind == "b":
        raise bad(f"{what}: a number among its data; datatype {datatype}")
    if dtype.kind in "iu":
        if not data.whole:
            raise bad(f"{what}: a fraction among its data; datatype {datatype}")
        _in_range(data.values.min(), data.values.max(), datatype, what)
    with np.errstate(over="ignore"):
        return data.values.astype(dtype).reshape(shape)


def _in_range(least: Any, most: Any, datatype: str, what: str) -> None:
    info = np.iinfo(DTYPES[datatype])
    if least < info.min or most > info.max:
        raise bad(f"{what}: data out of range; {datatype} holds {info.min} to {info.max}")


def _flat(given: Any, shape: tuple[int, ...], what: str) -> list[Any]:
    """JSON data, flat or nested as its shape says, as one list. Its lengths are held against the
    shape level by level."""
    if not isinstance(given, list):
        raise bad(f"{what}: 'data' is {kind_of(given)}; expected a list")
    data: list[Any] = given
    if data and isinstance(data[0], list):
        for depth, dim in enumerate(shape):
            if depth == 0:
                if len(data) != dim:
                    raise _misfit(what, shape)
                continue
            if not all(isinstance(part, list) and len(part) == dim for part in data):
                raise _misfit(what, shape)
            data = [value for part in data for value in part]
    if len(data) != elements(shape):
        raise _miscounted(what, len(data), shape)
    return data


def _miscounted(what: str, count: int, shape: tuple[int, ...]) -> Refused:
    return bad(f"{what}: {count} elements in its data; its shape [{_shown(shape)}] has "
               f"{elements(shape)}")  # fmt: skip


def _misfit(what: str, shape: tuple[int, ...]) -> Refused:
    return bad(f"{what}: its nested data doesn't fit its shape [{_shown(shape)}]")


def raw_of(tensor: Tensor) -> tuple[list[Any], int]:
    """A tensor's raw bytes in pieces, and how many."""
    if isinstance(tensor.values, list):
        pieces: list[Any] = []
        for value in tensor.values:
            pieces += [len(value).to_bytes(4, "little"), value]
        return pieces, sum(map(len, pieces))
    array = np.ascontiguousarray(tensor.values, DTYPES[tensor.datatype])
    flat: Any = array.reshape(-1).view(np.uint8)
    return [memoryview(flat)], array.nbytes
