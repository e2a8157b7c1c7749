"""Recipro-CAM: what one place of a layer says alone, by running what follows with it alone.

No gradient: the rest of the network runs once for every place of the layer.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ..errors import UnsupportedNode
from .backward import FLOATS
from .clone import between, copied, refuse_fixed_batch
from .emit import all_dims
from .explaining import Explaining
from .finish import Walked
from .head import pooled_linear
from .layer import Layer
from .rules.op import is_fixed

__all__ = ["recipro_cam"]

# Of a token and its neighbours (Byun and Lee 2023): a token alone says little.
AROUND = np.array([[1, 2, 1], [2, 4, 2], [1, 2, 1]]) / 16


def recipro_cam(w: Walked) -> ir.Value:
    """The score with one place of the layer left and 0 elsewhere, for every place: [N, h, w] (Byun
    and Lee 2022). Of a score that is pooled and linear, CAM / places + bias, in closed form. Of
    tokens (2023) a place is a patch with its neighbours, by a Gaussian of 3 x 3, and the class
    token stays. Raises UnsupportedNode where the rest can't be run on many rows."""
    assert w.layer is not None
    closed = _closed(w, w.layer)
    return _by_copies(w, w.layer) if closed is None else closed


def _closed(w: Walked, layer: Layer) -> ir.Value | None:
    """CAM / (h w) + bias, where the head is pooled and linear, and places stand alone."""
    height, width = layer.sizes
    if layer.grid is not None or not isinstance(height, int) or not isinstance(width, int):
        return None
    if len(w.x.of) > 1:
        return None
    try:
        head = pooled_linear(w.x.of[0], layer)
    except UnsupportedNode:
        return None
    if head.rounded:
        return None  # where a place alone ends up among the steps, its copy says
    e = w.x.e
    cotangent = w.x.flat_cotangent(w.seed)
    weights = e.Unsqueeze(head.weights(e, cotangent), [2, 3])
    made = e.ReduceSum(e.Mul(weights, w.primal), [1], keepdims=0)
    made = e.Div(made, float(height * width))
    bias = head.constant(e, cotangent)
    return made if bias is None else e.Add(made, e.Unsqueeze(bias, [2]))


def _by_copies(w: Walked, layer: Layer) -> ir.Value:
    x, e, start = w.x, w.x.e, layer.value
    height, width = layer.sizes
    if not isinstance(height, int) or not isinstance(width, int):
        raise UnsupportedNode(
            f"'{layer.name}': reciprocam runs once for every place, and how many there are is open "
            "here; supported: images of a fixed size ('backlight export --shape INPUT=1,3,224,224')"
        )
    count = height * width
    nodes = between(x.of, start)
    refuse_fixed_batch(nodes, start)
    masked = _masked(x, layer, height, width)
    values = {start: masked, **_beside(x, nodes, start, count)}
    made = copied(e, nodes, values, _batch(x, count))
    total: ir.Value | None = None
    for index, of in enumerate(x.of):
        scores = e.cast(made[of], ir.DataType.FLOAT)
        ct = e.cast(x.cotangent(w.seed, index), ir.DataType.FLOAT)
        lined = e.Reshape(scores, e.Concat(
            np.array([-1, count]), e.Shape(of, start=1), axis=0, _dtype=ir.DataType.INT64
        ), _shape=[x.batch, count, *all_dims(of.shape)[1:]])  # fmt: skip
        product = e.Mul(lined, e.Unsqueeze(ct, [1]), _shape=lined.shape)
        over = list(range(2, len(all_dims(of.shape)) + 1))
        one = e.ReduceSum(product, over, keepdims=0) if over else product
        total = one if total is None else e.Add(total, one)
    assert total is not None
    return e.Reshape(total, [-1, height, width], _shape=[x.batch, height, width])


def _masked(x: Explaining, layer: Layer, height: int, width: int) -> ir.Value:
    """The layer once for every place, what is elsewhere 0: [N h w, ...], as it lies."""
    e, start, count = x.e, layer.value, height * width
    if layer.grid is None:
        eye = np.eye(count, dtype=np.float32).reshape(1, count, height, width)
        axis = 2 if layer.channel_axis == 1 else 4
        return _rows(x, start, count, np.expand_dims(eye, axis))
    wide = np.zeros((count, height + 2, width + 2))
    for place in range(count):
        row, column = divmod(place, width)
        wide[place, row : row + 3, column : column + 3] = AROUND
    near = wide[:, 1:-1, 1:-1].reshape(1, count, count).astype(np.float32)
    at = layer.token_axis
    patches = layer.grid.patches(e, start, at)
    masked = _rows(x, patches, count, np.expand_dims(near, 4 - at))
    if patches is start:
        return masked
    dims = all_dims(start.shape)
    dims[at] = layer.grid.extra(start, at)
    front = e.Slice(start, [0], [-count], [at], _shape=dims)
    whole = [_batch(x, count), *all_dims(start.shape)[1:]]
    return e.Concat(_rows(x, front, count), masked, axis=at, _shape=whole)


def _rows(
    x: Explaining, value: ir.Value, count: int, masks: NDArray[np.float32] | None = None
) -> ir.Value:
    """A tensor [N, ...] once for every place, [N count, ...], by masks [1, count, ...]."""
    e, dims = x.e, all_dims(value.shape)
    once = e.Unsqueeze(value, [1])
    if masks is None:
        masks = np.ones((1, count, *[1] * (len(dims) - 1)), np.float32)
    many = e.Mul(once, e.const(masks, value.dtype), _shape=[dims[0], count, *dims[1:]])
    shape = [_batch(x, count), *dims[1:]]
    if all(isinstance(d, int) for d in dims[1:]):
        return e.Reshape(many, [-1, *(int(str(d)) for d in dims[1:])], _shape=shape)
    tail = e.Concat(np.array([-1]), e.Shape(value, start=1), axis=0, _dtype=ir.DataType.INT64)
    return e.Reshape(many, tail, _shape=shape)


def _beside(
    x: Explaining, nodes: list[ir.Node], start: ir.Value, count: int
) -> dict[ir.Value, ir.Value]:
    """What the rest reads beside the layer, such as what goes past it: as it is, for every place.
    Raises UnsupportedNode for shapes of the batch computed elsewhere."""
    own = {v for n in nodes for v in n.outputs} | {start}
    found: dict[ir.Value, ir.Value] = {}
    for node in nodes:
        for value in node.inputs:
            if value is None or value in own or value in found or is_fixed(value):
                continue
            if value.dtype not in FLOATS or value.shape is None or not len(value.shape):
                raise UnsupportedNode(
                    f"{node.op_type} '{node.name}' reads '{value.name}', computed before the layer "
                    f"'{start.name}': reciprocam can't run what follows alone; take gradcam"
                )
            found[value] = _rows(x, value, count)
    return found


def _batch(x: Explaining, count: int) -> str:
    return f"{x.batch} x {count} places"
