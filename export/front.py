"""The preprocessing that a model begins with, where a gradient can't go all the way through it."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import onnx_ir as ir

from ..errors import UnsupportedNode
from . import choose, traits
from .backward import FLOATS, obstacle
from .emit import Emitter
from .rules import Op, RuleMap
from .rules.op import is_fixed

__all__ = ["behind_preprocessing"]

# What changes an image's size or form before a model looks at it: no layer of a network's own.
_SHAPING = frozenset(
    "CenterCropPad Clip Crop Expand Identity Pad Resize Slice Squeeze Transpose Unsqueeze "
    "Upsample Cast Sub Div Mul Add GridSample ImageScaler MeanVarianceNormalization".split()
)


def behind_preprocessing(
    graph: ir.Graph, image: choose.Image, maps: Collection[RuleMap], opset: int
) -> choose.Image:
    """The image, its gradient to be taken behind the last node of its preprocessing that has none:
    a cubic Resize of images of any size. Itself where every node has one, or where what has none is
    part of the network, which a refusal then names.

    The preprocessing is the one way from the image that nothing else reads, through operators of
    an image's size, form and range.
    """
    value, stop, culprit = image.wrt, None, ""
    while True:
        # Its size may be asked for: that sees no values.
        uses = [u for u in value.uses() if u.node.op_type not in traits.ASKS_SIZE]
        if len(uses) != 1 or value.is_graph_output():
            break
        node, at = uses[0].node, uses[0].idx
        others = [v for v in node.inputs if v is not value and not is_fixed(v, sizes=True)]
        is_shaping = node.op_type in _SHAPING or node.domain != ""
        if not is_shaping or len(node.outputs) != 1 or others:
            break
        made = node.outputs[0]
        if made.dtype not in FLOATS or made.shape is None or len(made.shape) != 4:
            break
        if any(_lacks(graph, node, at, rules, opset) for rules in maps):
            stop, culprit = made, f"{node.op_type} '{node.name}'"
        value = made
    if stop is None:
        return image
    note = (
        f"{culprit} of the model's own preprocessing has no gradient here: it is taken behind it, "
        f"at '{stop.name}' {choose.shown(stop)} (--shape {image.input.name}=… may settle it)"
    )
    return replace(
        image, wrt=stop, channel_axis=choose.channel_axis(stop), notes=(*image.notes, note)
    )


def _lacks(graph: ir.Graph, node: ir.Node, at: int, rules: RuleMap, opset: int) -> bool:
    """Whether a node's gradient is refused: its rule is tried, what that wrote is taken back."""
    if obstacle(node, rules, opset) is not None:
        return True
    if node.op_type != "Resize":  # the others' have no forms that they refuse
        return False
    last, held = graph[-1], set(graph.initializers)
    made = node.outputs[0]
    ct = ir.Value(name="backlight/tried", shape=made.shape, type=made.type)
    try:
        rules[node.op_type](
            Emitter(graph, opset),
            Op(node, tuple(i == at for i in range(len(node.inputs)))),
            (ct,),
        )
    except UnsupportedNode:
        return True
    finally:
        while graph[-1] is not last:
            graph.remove(graph[-1], safe=True)
        for name in set(graph.initializers) - held:
            del graph.initializers[name]
    return False
