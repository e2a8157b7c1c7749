"""A model made ready: its image size fixed, its batch free, cut back to the class scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from ...errors import ModelError
from .. import choose, scores, traits
from ..emit import all_dims, dim_of
from ..fold import fold_constants
from ..graph import ModelLike, load
from ..inference import infer_shapes
from ..named import constant_called
from ..rules.op import constant
from ..unused import remove_unused
from .local import ELEMENTWISE, spatial

BATCH = "N"
_TO_NCHW, _TO_NHWC = (0, 3, 1, 2), (0, 2, 3, 1)


@dataclass(frozen=True)
class Prepared:
    """A model whose values have known sizes but for the batch.

    varying: ids of the values that depend on the image. roots: tensors [N, C, H, W] that hold
    the image after pixelwise preprocessing; prefix: the nodes that make them.
    """

    model: ir.Model
    image: ir.Value
    channel_axis: int
    outputs: tuple[ir.Value, ...]
    nodes: tuple[ir.Node, ...]
    varying: frozenset[ir.Value]
    prefix: frozenset[ir.Node]
    roots: tuple[ir.Value, ...]


def prepare(
    model: ModelLike,
    image_shape: Sequence[int],
    of: Sequence[str] | None = None,
    channel_axis: int | None = None,
) -> Prepared:
    """Load a model for images of shape (C, H, W), and find what a window changes first.

    of: the tensors wanted, by name; None: the class scores (see scores.score).
    channel_axis: 1 or 3, of the image input; None: as choose.image_input finds it.
    Raises ModelError for a second input, another image size, a batch that can't be freed;
    UsageError for an unknown tensor.
    """
    loaded = load(model)
    graph = loaded.graph
    found = choose.image_input(graph)
    image = found.input
    if of is None:
        outputs = [scores.score(loaded, codes=True).of]
    else:
        outputs = [choose.tensor(graph, name) for name in of]
    graph.outputs[:] = outputs
    remove_unused(loaded)
    others = [
        v.name for v in graph.inputs if v is not image and not v.is_initializer() and v.uses()
    ]
    if others:
        raise ModelError(f"the scores read further inputs ({', '.join(map(str, others))})")
    # An integer image's channels are seen where it first becomes float.
    channel_axis = found.channel_axis if channel_axis is None else channel_axis
    _fix_sizes(loaded, image, channel_axis, image_shape)
    remove_unused(loaded)
    graph.sort()
    for value in outputs:
        if value.shape is not None and len(value.shape) and isinstance(dim_of(value.shape, 0), int):
            raise ModelError(f"'{value.name}' has a fixed batch that can't be freed")
    varying = _varying(image, graph)
    prefix, roots = _prefix(graph, image, channel_axis, varying)
    return Prepared(
        loaded, image, channel_axis, tuple(outputs), tuple(graph), varying, prefix, roots
    )


def _fix_sizes(
    model: ir.Model, image: ir.Value, channel_axis: int, image_shape: Sequence[int]
) -> None:
    """Write the image's size into the input, free the batch, and infer all shapes anew."""
    c, h, w = (int(v) for v in image_shape)
    wanted = (h, w, c) if channel_axis == 3 else (c, h, w)
    if image.shape is None or len(image.shape) != 4:
        raise ModelError(f"input '{image.name}' isn't [N,C,H,W] or [N,H,W,C]")
    declared = all_dims(image.shape)
    for dim, want in zip(declared[1:], wanted, strict=True):
        if isinstance(dim, int) and dim != want:
            raise ModelError(f"input '{image.name}' is {declared[1:]}, the image {list(wanted)}")
    batch = declared[0]
    for node in list(model.graph):
        if node.op_type == "Reshape" and isinstance(batch, int):
            _free_reshape(model, node, batch)
    image.shape = ir.Shape([BATCH, *wanted])
    for _ in range(4):
        for node in model.graph:
            for value in node.outputs:
                value.shape = None
        infer_shapes(model)
        changed = [_pin_reshape(model, node) for node in list(model.graph)]
        if not fold_constants(model) and not any(changed):
            return
        remove_unused(model)


def _free_reshape(model: ir.Model, node: ir.Node, batch: int) -> None:
    """Let a Reshape to a constant shape copy the batch instead of naming it."""
    shape = constant(node.inputs[1])
    source = node.inputs[0]
    if shape is None or source is None or source.shape is None or not len(shape):
        return
    if int(shape[0]) == batch and len(source.shape) and dim_of(source.shape, 0) == batch:
        _replace_shape(model, node, [0, *shape[1:].tolist()])


def _pin_reshape(model: ir.Model, node: ir.Node) -> bool:
    """Write a computed shape as a constant, where all of it but the batch is known."""
    if node.op_type != "Reshape" or constant(node.inputs[1]) is not None:
        return False
    shape = node.outputs[0].shape
    if shape is None or not len(shape):
        return False
    dims = all_dims(shape)
    rest = [d for d in dims[1:] if isinstance(d, int) and d > 0]
    if isinstance(dims[0], int) or len(rest) < len(dims) - 1:
        return False
    _replace_shape(model, node, [-1, *rest])
    return True


def _replace_shape(model: ir.Model, node: ir.Node, dims: list[int]) -> None:
    name = f"{node.outputs[0].name}/shape"
    node.replace_input_with(1, constant_called(model.graph, name, np.array(dims, np.int64)))


def _varying(image: ir.Value, graph: ir.Graph) -> frozenset[ir.Value]:
    moved = {image}
    for node in graph:
        if node.op_type not in traits.ASKS_SIZE and any(v in moved for v in node.inputs):
            moved.update(node.outputs)
    return frozenset(moved)


def _prefix(
    graph: ir.Graph, image: ir.Value, channel_axis: int, varying: frozenset[ir.Value]
) -> tuple[frozenset[ir.Node], tuple[ir.Value, ...]]:
    """The pixelwise nodes behind the image, and the tensors [N, C, H, W] where they end."""
    last = {image: channel_axis == 3}  # whether the channels come last
    nodes: set[ir.Node] = set()
    for node in graph:
        moving = [v for v in node.inputs if v in varying]
        if not moving or node.domain != "" or any(v not in last for v in moving):
            continue
        layouts = {last[v] for v in moving}
        if len(layouts) > 1:
            continue
        channels_last = layouts.pop()
        if node.op_type == "Transpose":
            if tuple(node.attributes.get_ints("perm", ())) != (
                _TO_NCHW if channels_last else _TO_NHWC
            ):
                continue
            channels_last = not channels_last
        elif node.op_type in ("BatchNormalization", "Concat", "Split"):
            axis = node.attributes.get_int("axis", 1)
            if channels_last or axis not in (1, -3):
                continue
        elif node.op_type not in ELEMENTWISE or node.outputs[0].shape != moving[0].shape:
            continue
        nodes.add(node)
        last.update(dict.fromkeys(node.outputs, channels_last))
    roots = []
    ends = set(graph.outputs)
    for value, channels_last in last.items():
        if value in ends or any(use.node not in nodes for use in value.uses()):
            if channels_last or spatial(value) is None:
                raise ModelError(f"'{value.name}' isn't [N,C,H,W] where the network starts")
            roots.append(value)
    return frozenset(nodes), tuple(roots)
