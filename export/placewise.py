"""Heads whose scores are a mean over places: what each place adds to each class.

z = mean over places of m + constant. Of a head that is pooled and linear, z = W mean(A) + b, m is
W A; of one that maps every place to classes and pools these (SqueezeNet, NiN), it is that map.
There one place can be exchanged for another's, and the scores are known without running the head.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ..errors import UnsupportedNode
from . import traits
from .backward import path
from .emit import dim_of
from .head import pooled_linear, pooled_over
from .layer import Layer
from .rules.conv import is_pointwise
from .rules.op import constant, is_fixed
from .tokens import channel_axis

__all__ = ["Placewise", "placewise"]


@dataclass(frozen=True)
class Placewise:
    """What each place adds: the channels of a tensor, through a matrix or as they are.

    tensor: its name; it has the layer's places. channel_axis: where its channels are. weight:
    float64 [K, k]; None: the channels are the classes.
    """

    tensor: str
    channel_axis: int
    weight: NDArray[np.float64] | None


def placewise(of: ir.Value, layer: Layer) -> Placewise | None:
    """What each place of a layer adds to the scores [N, K]; None where the head is another."""
    try:
        head = pooled_linear(of, layer)
    except UnsupportedNode:
        return _class_map(of, layer)
    weight = head.matrix()
    if weight is None:
        return None
    return Placewise(layer.name, layer.channel_axis, weight)


def _class_map(of: ir.Value, layer: Layer) -> Placewise | None:
    """A map of the classes that is only pooled, made place by place."""
    value, pooled = of, None
    while pooled is None:
        node = value.producer()
        source = None if node is None or not node.inputs else node.inputs[0]
        if node is None or source is None:
            return None
        pooled = pooled_over(node, source, layer)
        if pooled is not None:
            break
        if node.op_type in traits.SAME | traits.RESHAPES:
            value = source
        else:
            return None
    if pooled.shape is None or len(pooled.shape) != 4 or of.shape is None or len(of.shape) < 2:
        return None
    axis = channel_axis(pooled)
    classes = dim_of(of.shape, 1)
    if not isinstance(classes, int) or dim_of(pooled.shape, axis) != classes:
        return None
    nodes = path([pooled], [layer.value])[0]
    if pooled is not layer.value and not nodes:
        return None
    if not all(_by_place(node, axis) for node in nodes):
        return None
    return Placewise(pooled.name or "", axis, None)


def _by_place(node: ir.Node, axis: int) -> bool:
    """Whether what a node makes at a place depends on that place alone, and in the same way
    everywhere."""
    if node.domain not in ("", "ai.onnx"):
        return False
    if node.op_type in traits.SAME | traits.UNARY or node.op_type == "BatchNormalization":
        return True
    if node.op_type == "Conv" and axis == 1:
        return is_pointwise(node)
    if node.op_type in traits.ELEMENTWISE:
        return all(_same_everywhere(v, axis) for v in node.inputs if v is not None and is_fixed(v))
    return False


def _same_everywhere(value: ir.Value, axis: int) -> bool:
    """Whether a constant is broadcast over places: one number, or one per channel."""
    held = constant(value)
    if held is None:
        return False
    dims = [1] * (4 - held.ndim) + list(held.shape)
    return len(dims) == 4 and all(d == 1 for a, d in enumerate(dims) if a != axis)
