"""Nodes behind made-up scores, run in float64 and within a budget, as if nothing were rounded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from . import traits
from .arithmetic import evaluate, extent, products, work
from .rules.op import constant

__all__ = ["Budget", "compute"]

Array = NDArray[Any]

# Elements of one node at most: files may be hostile.
_WORK = 2**22


class Budget:
    def __init__(self, left: int) -> None:
        self.left = left

    def take(self, elements: int | None) -> None:
        if elements is None or elements > min(_WORK, self.left):
            raise ValueError("too much")
        self.left -= elements


def compute(
    nodes: Sequence[ir.Node], known: dict[ir.Value, Array], opset: int, budget: Budget
) -> None:
    """Add what nodes make, float64. Raises ValueError for what is no arithmetic, or too much."""
    for node in nodes:
        arrays: list[Array | None] = []
        for source in node.inputs:
            if source is None:
                arrays.append(None)
                continue
            array = known.get(source)
            if array is None:
                tensor = ir.convenience.get_const_tensor(source)
                if tensor is None or extent(tensor.shape.numpy()) > _WORK:
                    raise ValueError("no constant")
                array = _wide(constant(source))
                known[source] = array
            arrays.append(array)
        if node.op_type in traits.ASKS_SIZE:
            results = [_size(node, arrays[0])]
        elif node.op_type in traits.QUANTIZES:
            budget.take(0 if arrays[0] is None else arrays[0].size)
            results = [_unrounded(node, arrays)]
        elif arrays and arrays[0] is not None and _keeps(node, arrays[0]):
            results = [arrays[0]]
        else:
            budget.take((products if node.op_type == "Einsum" else work)(node, arrays))
            results = [_wide(a) for a in evaluate(node, arrays, opset)]
        known.update(zip(node.outputs, results, strict=False))


def _wide(array: Array | None) -> Array:
    if array is None:
        raise ValueError("no numbers")
    return array.astype(np.float64) if array.dtype.kind == "f" else array


def _keeps(node: ir.Node, array: Array) -> bool:
    """Whether real numbers come out as they went in, rounding aside."""
    kinds = (ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.FLOAT16, ir.DataType.BFLOAT16)
    cast = node.op_type in ("Cast", "CastLike") and node.outputs[0].dtype in kinds
    return array.dtype.kind == "f" and (cast or node.op_type == "Dropout")


def _unrounded(node: ir.Node, arrays: Sequence[Array | None]) -> Array:
    """What QuantizeLinear and DequantizeLinear do but for rounding and bounds: nothing; of stored
    codes, the numbers that they stand for."""
    codes, scale, *rest = arrays
    if codes is None or scale is None:
        raise ValueError("no numbers")
    if codes.dtype.kind == "f":
        return codes
    zero = rest[0] if rest and rest[0] is not None else np.zeros(scale.shape, codes.dtype)
    if scale.ndim > 1 or scale.shape != zero.shape:
        raise ValueError("blocks")
    shape = [1] * codes.ndim
    if scale.size > 1:
        shape[node.attributes.get_int("axis", 1)] = scale.size
    apart = codes.astype(np.float64) - zero.astype(np.float64).reshape(shape if codes.ndim else ())
    return np.asarray(apart * scale.reshape(shape if codes.ndim else ()))


def _size(node: ir.Node, array: Array | None) -> Array:
    if array is None:
        raise ValueError("no size")
    if node.op_type == "Size":
        return np.array(array.size, np.int64)
    start, end = node.attributes.get_int("start", 0), node.attributes.get_int("end", array.ndim)
    return np.array(array.shape[start:end], np.int64)
