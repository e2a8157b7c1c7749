"""Cotangents of maps, seen before they are spread over places: their mean, and what is even.

A mean over places goes through what works place by place, so that a convolution of 1 x 1 need only
be taken of the mean; and of what a global pool has spread, the mean is what it spread.
"""

from __future__ import annotations

import onnx_ir as ir

from .emit import EMITTED, Emitter, all_dims
from .rules.clamps import uniform
from .rules.conv import is_pointwise

__all__ = ["even", "mean"]

PLACES = [2, 3]


def mean(e: Emitter, value: ir.Value) -> ir.Value:
    """The mean over places of [N, K, h, w]: [N, K, 1, 1]."""
    if (flat := even(value)) is not None:
        return flat
    node, dims = _ours(value), all_dims(value.shape)
    shape = [*dims[:2], 1, 1] if len(dims) == 4 else None
    if node is not None:
        a, b, c, *_ = *node.inputs, None, None, None
        if is_pointwise(node) and len(node.inputs) == 2 and a is not None:
            inner = mean(e, a)
            if (made := _product(e, inner, node)) is not None:
                return made
            attributes = {k.name: k.value for k in node.attributes.values()}
            return e.op("Conv", [inner, *node.inputs[1:]], **attributes, _shape=shape)[0]
        if node.op_type == "Mul" and a is not None and b is not None:
            for one, other in ((a, b), (b, a)):
                if (flat := even(one)) is not None and len(all_dims(other.shape)) == 4:
                    return e.Mul(flat, mean(e, other), _shape=shape)
        flat = even(b) if node.op_type == "Where" and b is not None else None
        if flat is not None and a is not None and uniform(c) == 0 and len(all_dims(a.shape)) == 4:
            return e.Mul(flat, mean(e, e.cast(a, value.dtype)), _shape=shape)
    if shape is None:
        return e.ReduceMean(value, PLACES, keepdims=1)
    # A pool rather than a sum along axes: ONNX Runtime's blocked layout has it.
    return e.GlobalAveragePool(value, _shape=shape)


def even(value: ir.Value) -> ir.Value | None:
    """[N, K, 1, 1] that is the same at every place of [N, K, h, w]; None where none is known."""
    dims = all_dims(value.shape)
    if len(dims) != 4:
        return None
    if dims[2:] == [1, 1]:
        return value
    node = _ours(value)
    if node is None or node.op_type not in ("Expand", "Resize") or node.inputs[0] is None:
        return None
    before = all_dims(node.inputs[0].shape)
    spread = len(before) == 4 and before[2:] == [1, 1] and before[1] == dims[1]
    return node.inputs[0] if spread else None


def _ours(value: ir.Value) -> ir.Node | None:
    """The node of the walk that makes a value; None for one of the model's own."""
    node = value.producer()
    return node if node is not None and EMITTED in node.meta else None


def _product(e: Emitter, value: ir.Value, node: ir.Node) -> ir.Value | None:
    """The gradient of a convolution of 1 x 1, of one place [N, K, 1, 1], as a product with that
    convolution's own weights [K, k, 1, 1]; None for any other convolution."""
    turned = node.inputs[1]
    made = None if turned is None else _ours(turned)
    if made is None or made.op_type != "Transpose" or made.inputs[0] is None:
        return None
    weight = made.inputs[0]
    outer, inner = all_dims(weight.shape)[:2]
    if node.attributes.get_int("group", 1) != 1 or made.attributes["perm"].value != (1, 0, 2, 3):
        return None
    batch = all_dims(value.shape)[0]
    row = e.Flatten(value, axis=1, _shape=[batch, outer])
    product = e.MatMul(row, e.Flatten(weight, axis=1, _shape=[outer, inner]), _shape=[batch, inner])
    return e.Unsqueeze(product, PLACES, _shape=[batch, inner, 1, 1])
