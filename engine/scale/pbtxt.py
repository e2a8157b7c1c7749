"""Tensors and strings in Triton's configuration: protobuf's text format, by hand."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

import onnx_ir as ir

from ...errors import ModelError
from ..photos.plain import escaped

__all__ = ["Tensor", "text"]

_TYPES = {
    "FLOAT": "TYPE_FP32", "FLOAT16": "TYPE_FP16", "BFLOAT16": "TYPE_BF16", "DOUBLE": "TYPE_FP64",
    "INT8": "TYPE_INT8", "INT16": "TYPE_INT16", "INT32": "TYPE_INT32", "INT64": "TYPE_INT64",
    "UINT8": "TYPE_UINT8", "UINT16": "TYPE_UINT16", "UINT32": "TYPE_UINT32",
    "UINT64": "TYPE_UINT64", "BOOL": "TYPE_BOOL", "STRING": "TYPE_STRING",
}  # fmt: skip


@dataclass(frozen=True)
class Tensor:
    """dims: with the batch, -1 where open. scalar: a number per image, such as `target`."""

    name: str
    type: str
    dims: tuple[int, ...]

    @classmethod
    def of(cls, value: ir.Value, known: Sequence[int] | None = None) -> Tensor:
        """Of a graph's input or output. known: its dimensions without the batch, where they are.
        Raises ModelError."""
        kind = "UNDEFINED" if value.dtype is None else value.dtype.name
        if kind not in _TYPES:
            raise ModelError(f"'{value.name}' is {kind.lower()}, which Triton lacks")
        if value.shape is None:
            raise ModelError(
                f"'{value.name}' has no known number of dimensions, and Triton wants it; "
                "--shape of the image may settle it"
            )
        dims = [d if isinstance(d, int) and d > 0 else -1 for d in value.shape.dims]
        if known is not None:
            dims[1:] = known
        return cls(value.name or "", _TYPES[kind], tuple(dims))


def text(value: str) -> str:
    """A string in protobuf's text format: JSON's escapes are among its own."""
    whole = value.encode("utf-8", "backslashreplace").decode()
    return escaped(json.dumps(whole, ensure_ascii=False))
