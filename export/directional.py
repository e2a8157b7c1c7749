"""Directional derivatives of a class score by an inner layer, with the directions as an input.

What a concept activation vector is held against (Kim et al. 2018): of a direction v in a layer A,
sum(dz/dA * v), for many directions in one run.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import onnx_ir as ir

from ..errors import UsageError
from . import choose
from .emit import all_dims, dim_of
from .graph import ModelLike, load, opset_of
from .lowering import emitter
from .saliency import explain_graph
from .sizes import Shapes
from .tokens import channel_axis, grid_of, token_axis

__all__ = ["DERIVATIVES", "DIRECTIONS", "Directional", "directional_graph", "position_axes"]

DIRECTIONS, DERIVATIVES = "backlight_directions", "backlight_derivatives"


@dataclass(frozen=True)
class Directional:
    """A model whose outputs are directional derivatives.

    model: its inputs are the model's own, `target` (int64 [N], -1: the row's top class) and
    `backlight_directions` (float32 [T, D]); its output `backlight_derivatives`, float32 [N, T].
    layer: the tensor's full name. input: the image input. axes: of the layer's positions, those
    that a direction leaves out: it is the same at all of them, and D the number of channels; ():
    a direction is of the whole layer, and D the product of its dimensions.
    notes: what was decided on the way, for people.
    """

    model: ir.Model
    layer: str
    input: str
    axes: tuple[int, ...]
    notes: tuple[str, ...]


def position_axes(value: ir.Value, image: ir.Value) -> tuple[int, ...]:
    """Which axes of a layer are positions: rows and columns, tokens. () of a vector a row. Raises
    UsageError for a tensor without a row per image."""
    if value.shape is None:
        raise UsageError(
            f"layer '{value.name}' has no known shape{choose.culprit(value)}; name another"
        )
    rank = len(value.shape)
    if rank < 2:
        raise UsageError(f"layer '{value.name}' has no row per image; name another layer")
    channels = 1
    if rank == 3:
        grid = grid_of(value, image)
        tokens = None if grid is None else token_axis(value, grid)
        channels = 2 if tokens is None else 3 - tokens
    elif rank == 4:
        channels = channel_axis(value)
    return tuple(axis for axis in range(1, rank) if axis != channels)


def directional_graph(
    model: ModelLike,
    layer: str,
    *,
    of: str | None = None,
    pooled: bool = True,
    lowering: str = "portable",
    shapes: Shapes | None = None,
) -> Directional:
    """A model that gives the derivatives of a class score along directions in a layer.

    layer: a tensor or a node by name. of: the tensor that holds the scores, as in
    `backlight.export`. pooled: whether a direction is one of channels, the same at every position.
    Raises ModelError, UnsupportedNode, or UsageError for a layer that no gradient reaches.
    """
    loaded = load(model, keep=(layer,), shapes=shapes)
    value = choose.tensor(loaded.graph, layer, weights=False)
    name = value.name or ""
    axes = position_axes(value, choose.image_input(loaded.graph).input)
    made = explain_graph(loaded, ("vanilla",), of=of, wrt=name, lowering=lowering, alone=True)
    graph = made.model.graph
    gradient = next(v for v in graph.outputs if v.name == made.saliency["vanilla"])
    gradient.name = "backlight/gradient"
    graph.outputs.clear()
    e = emitter(graph, opset_of(made.model), lowering)
    shape = all_dims(gradient.shape)
    inner = [d for a, d in enumerate(shape) if a and not (pooled and a in axes)]
    sizes = [d for d in inner if isinstance(d, int)]
    wide = prod(sizes) if len(sizes) == len(inner) else None
    directions = ir.Value(
        name=DIRECTIONS,
        shape=ir.Shape([None, wide]),
        type=ir.TensorType(ir.DataType.FLOAT),
    )
    graph.inputs.append(directions)
    with e.scope("directional"):
        rows = e.cast(gradient, ir.DataType.FLOAT)
        if axes and pooled:
            # A direction that is the same everywhere: its product with a sum over positions.
            rows = e.ReduceSum(rows, list(axes), keepdims=0)
        elif len(shape) > 2:
            rows = e.Flatten(rows, axis=1)
        found = e.MatMul(rows, e.Transpose(directions, perm=[1, 0]))
    batch = None if gradient.shape is None else dim_of(gradient.shape, 0)
    found.name, found.shape = DERIVATIVES, ir.Shape([batch, None])
    found.type = ir.TensorType(ir.DataType.FLOAT)
    graph.outputs.append(found)
    return Directional(made.model, name, made.input, axes if pooled else (), made.notes)
