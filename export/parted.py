"""A classifier cut in two at a layer: what makes the layer, and what makes the scores of it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ..errors import UnsupportedNode
from . import choose
from .backward import FLOATS
from .clone import between
from .emit import Emitter, all_dims
from .graph import Loaded, ModelLike, load, opset_of
from .head import pooled_linear
from .layer import Layer, default_layer, named_layer
from .rules.op import is_fixed
from .unused import remove_unused

__all__ = ["AT", "Parted", "parted"]

# The layer as [N, k, h, w]; the inputs of the rest, numbered.
MAPS, AT = "backlight/maps", "backlight/at"


@dataclass(frozen=True)
class Parted:
    """A model in two parts.

    front: from the model's own inputs to the layer and what else the rest reads. layer: its name;
    reason: why this one, for people. maps: the output that is the layer as [N, k, h, w].
    channel_axis: of the layer as it lies. head: float64 [K, k] where the scores are head mean(maps)
    + a constant; None for another head. rest: from `reads`, outputs of the front, of which the
    layer is the first, to the scores; its inputs are called AT with their number. None where it
    wasn't asked for.
    """

    front: ir.Model
    layer: str
    reason: str
    maps: str
    channel_axis: int
    head: NDArray[np.float64] | None
    rest: ir.Model | None = None
    reads: tuple[str, ...] = ()


def parted(
    model: ModelLike, scores: str, layer: str | None = None, *, rest: bool = False
) -> Parted:
    """A model cut at a layer, for class activation maps of the tensor `scores`.

    layer: as in `backlight.export`; None: its default. rest: whether the second part is wanted,
    where the head is no pooled and linear one.
    Raises ModelError, UsageError, and with `rest` UnsupportedNode where that reads what is computed
    before the layer and has no row per image.
    """
    loaded = load(model, keep=[] if layer is None else [layer])
    graph = loaded.graph
    of, wrt = _value(graph, scores), choose.image_input(graph).wrt
    found = default_layer(of, wrt) if layer is None else named_layer(graph, layer, [of], wrt)
    head = _linear(of, found)
    behind, reads = None, [found.value]
    if rest and head is None:
        reads = _reads(of, found.value)
        behind = _rest(loaded.clone(), scores, [v.name or "" for v in reads])
    maps = found.spread(Emitter(graph, opset_of(loaded)), found.value)
    if maps is not found.value:
        maps.name = MAPS
    graph.outputs[:] = list(dict.fromkeys([maps, *(v for v in reads if v.producer() is not None)]))
    remove_unused(loaded)
    graph.inputs[:] = [v for v in graph.inputs if v.uses() or v in reads]
    return Parted(
        loaded, found.name, found.reason, maps.name or "", found.channel_axis, head, behind,
        tuple(v.name or "" for v in reads),
    )  # fmt: skip


def _reads(of: ir.Value, start: ir.Value) -> list[ir.Value]:
    """What the rest reads: the layer, and what goes past it."""
    nodes = between([of], start)
    own = {v for n in nodes for v in n.outputs} | {start}
    reads = [start]
    for node in nodes:
        for value in node.inputs:
            if value is None or value in own or value in reads or is_fixed(value):
                continue
            if value.dtype not in FLOATS or not all_dims(value.shape):
                raise UnsupportedNode(
                    f"{node.op_type} '{node.name}' reads '{value.name}', computed before the layer "
                    f"'{start.name}': what follows it can't be run alone; take scorecam"
                )
            reads.append(value)
    return reads


def _rest(model: Loaded, scores: str, reads: list[str]) -> ir.Model:
    graph = model.graph
    of, made = _value(graph, scores), []
    for index, name in enumerate(reads):
        value = _value(graph, name)
        fed = ir.Value(name=f"{AT}{index}", type=value.type, shape=value.shape)
        for use in list(value.uses()):
            use.node.replace_input_with(use.idx, fed)
        made.append(fed)
    graph.inputs[:] = made
    graph.outputs[:] = [of]
    remove_unused(model)
    return model


def _value(graph: ir.Graph, name: str) -> ir.Value:
    return ir.convenience.create_value_mapping(graph)[name]


def _linear(of: ir.Value, layer: Layer) -> NDArray[np.float64] | None:
    """The head as a matrix, where it is pooled and linear, and its weights are constants."""
    try:
        return pooled_linear(of, layer).matrix()
    except UnsupportedNode:
        return None
