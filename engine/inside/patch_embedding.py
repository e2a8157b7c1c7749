"""A patch embedding that is no convolution: the image cut into patches by Reshape and Transpose, or
by Gather as PyTorch writes an unfold, and a MatMul or Gemm over each. Which pixel each of its
weights meets is found by sending the pixels' numbers through the cutting."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ...errors import RunError
from ...export import choose, traits
from ...export.emit import dim_of
from ...export.graph import ModelLike, load
from ...export.rules.op import constant
from ...export.unused import remove_unused
from ..photos.images import DEFAULT_SIZE
from ..runtime.session import Session

__all__ = ["PatchEmbedding", "patch_embedding"]

# What repeats pixels or takes several tensors cuts no patches.
_CUTTING = traits.RESHAPES | {
    "DepthToSpace", "Gather", "Pad", "Slice", "SpaceToDepth", "Transpose",
}  # fmt: skip
# Left out on the way: they change the pixels' values, not their places.
_VALUES = frozenset(
    "Add BatchNormalization Cast Clip Div Dropout LayerNormalization Mul Sub".split()
)
# float32 holds whole numbers up to here.
_MOST = 1 << 24


@dataclass(frozen=True)
class PatchEmbedding:
    """layer: the tensor that the MatMul makes. weights: [K, C, h, w], as a convolution's.
    strides: between patches, rows and columns."""

    layer: str
    weights: NDArray[Any]
    strides: tuple[int, int]


def patch_embedding(model: ModelLike) -> PatchEmbedding | None:
    """The first linear layer that reads patches of the image (or all of it); None where there is
    none. A normalisation between the two is left out. Raises ModelError for what is no model."""
    loaded = load(model)
    graph = loaded.graph
    image = choose.image_input(graph).input
    for node in graph:
        if node.op_type not in ("MatMul", "Gemm") or node.domain:
            continue
        path = _path(node.inputs[0], image)
        weights = constant(node.inputs[1])
        if path is None or weights is None or weights.ndim != 2:
            continue
        if node.attributes.get_int("transA", 0) or image.dtype != ir.DataType.FLOAT:
            return None
        if node.attributes.get_int("transB", 0):
            weights = weights.T
        numbers = _numbered(loaded, node, path, image)
        return None if numbers is None else _placed(node.outputs[0].name or "", weights, numbers)
    return None


def _path(value: ir.Value | None, image: ir.Value) -> list[ir.Node] | None:
    """The nodes between the image and a value, where they are nothing but cutting."""
    found: list[ir.Node] = []
    while value is not None and value is not image:
        node = value.producer()
        if node is None or node.op_type not in _CUTTING | _VALUES:
            return None
        found.append(node)
        value = _data(node)
    return None if value is None else found


def _data(node: ir.Node) -> ir.Value | None:
    if node.op_type in _CUTTING:
        return node.inputs[0]
    return next((v for v in node.inputs if v is not None and constant(v) is None), None)


def _numbered(
    model: ir.Model, node: ir.Node, path: list[ir.Node], image: ir.Value
) -> NDArray[np.int64] | None:
    """Each pixel's (channel, row, column) where the linear layer reads it: int64
    [3, patches, weights], of the patches without padding. The model is used up."""
    assert image.shape is not None
    if len(image.shape) != 4:
        return None
    batch = dim_of(image.shape, 0)
    rows = batch if isinstance(batch, int) else 1
    axis = choose.channel_axis(image)
    sides = [d if isinstance(d, int) else None for d in image.shape[1:]]
    depth = sides.pop(axis - 1) or 3
    height, width = (s or DEFAULT_SIZE for s in sides)
    if depth * height * width >= _MOST:
        return None
    for passed in path:
        source = _data(passed)
        if passed.op_type in _VALUES and source is not None:
            ir.convenience.replace_all_uses_with(passed.outputs[0], source)
    value = node.inputs[0]
    assert value is not None
    # From 1 on: 0 is padding.
    pixels = np.arange(1, depth * height * width + 1, dtype=np.float32)
    pixels = np.repeat(pixels.reshape(1, depth, height, width), rows, axis=0)
    fed = np.ascontiguousarray(pixels if axis == 1 else pixels.transpose(0, 2, 3, 1))
    if value is not image:
        model.graph.outputs.clear()
        model.graph.outputs.append(value)
        remove_unused(model)
        try:
            (fed,) = Session(model, "cpu", 1).run({image.name or "": fed}).values()
        except RunError:  # made for images of another size than the one that was tried
            return None
    seen = fed.reshape(-1, fed.shape[-1]).astype(np.int64) - 1
    seen = seen[(seen >= 0).all(axis=1)]
    return np.stack(np.unravel_index(seen, (depth, height, width))) if len(seen) else None


def _placed(layer: str, weights: NDArray[Any], numbers: NDArray[np.int64]) -> PatchEmbedding | None:
    """The weights as filters, where the first patch is a rectangle of all channels."""
    channel, row, column = (n[0] - n[0].min() for n in numbers)
    shape = (int(channel.max()) + 1, int(row.max()) + 1, int(column.max()) + 1)
    places = np.ravel_multi_index((channel, row, column), shape)
    if len(places) != len(weights) or not np.array_equal(np.sort(places), np.arange(len(weights))):
        return None
    filters = np.empty((weights.shape[1], *shape), weights.dtype)
    filters[:, channel, row, column] = weights.T
    strides = []
    for axis in (1, 2):
        corners = np.unique(numbers[axis].min(axis=1))
        strides.append(int(np.diff(corners).min()) if len(corners) > 1 else shape[axis])
    return PatchEmbedding(layer, filters, (strides[0], strides[1]))
