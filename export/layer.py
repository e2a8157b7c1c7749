"""Which inner tensor a class activation map is drawn of, and how it becomes [N, K, h, w]."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from ..errors import ModelError, UsageError
from . import choose, traits
from .backward import path
from .emit import Emitter, dim_of
from .scaling import cuts

__all__ = ["Layer", "channel_axis", "default_layer", "named_layer"]

# By default, with thresholds of 0 and up; networks have no others.
_RECTIFYING = traits.NEVER_NEGATIVE | {"ThresholdedRelu"}
# Those with several data operands; of the others the further ones are shapes, bounds and the like.
_SEVERAL = traits.ELEMENTWISE - traits.UNARY | {"Concat"}
# What pads a rectified map fills in zeros.
_KEEPING_SIGN = traits.KEEPS_SIGN | {"Pad"}
# A slope per channel is [K, 1, 1].
_ON_SECOND = traits.CHANNELS_SECOND | {"PRelu"}


@dataclass(frozen=True)
class Layer:
    """A tensor whose units have places in the image.

    value: [N, K, h, w], or with channel_axis 3 [N, h, w, K]. reason: why this one, for people.
    """

    value: ir.Value
    channel_axis: int
    reason: str

    @property
    def name(self) -> str:
        """The tensor's name."""
        return self.value.name or ""

    @property
    def sizes(self) -> tuple[int | str | None, int | str | None]:
        """h and w: numbers, names, or None."""
        shape = self.value.shape
        assert shape is not None
        first = 1 if self.channel_axis == 3 else 2
        return dim_of(shape, first), dim_of(shape, first + 1)

    def spread(self, e: Emitter, value: ir.Value) -> ir.Value:
        """The tensor, or its cotangent, as [N, K, h, w]."""
        if self.channel_axis == 1:
            return value
        return e.Transpose(value, perm=[0, 3, 1, 2])


def named_layer(graph: ir.Graph, name: str) -> Layer:
    """The layer that somebody named: a tensor, or the node that makes it. Raises UsageError for an
    unknown one, with the nearest names, and for one without rows and columns."""
    value = choose.tensor(graph, name, weights=False)
    shape = value.shape
    if shape is None or len(shape) != 4:
        what = "no known shape" if shape is None else f"the shape {_shown(shape)}"
        raise UsageError(
            f"layer '{name}' has {what}: no rows and columns; expected [N,K,h,w] or [N,h,w,K], "
            "a tensor before the global pool"
        )
    layer = Layer(value, channel_axis(value), "named by --layer")
    if not _is_spatial(layer):
        raise UsageError(
            f"layer '{name}' has one position ({_shown(shape)}); "
            "expected one before the global pool"
        )
    return layer


def default_layer(graph: ir.Graph, of: ir.Value, wrt: ir.Value) -> Layer:
    """The last tensor with rows and columns that every way from the image to the scores goes
    through; the last rectified one of that size where there is one. A map per class that is only
    pooled afterwards is skipped: its channels are the classes themselves (SqueezeNet, NiN).
    Raises ModelError where there is none."""
    nodes, leads = path([of], [wrt])
    found = cuts(nodes, leads, {of})
    made = [v for n in nodes for v in n.outputs if v in found and v is not of]
    layers = [
        Layer(v, channel_axis(v), "") for v in made if v.shape is not None and len(v.shape) == 4
    ]
    layers = [layer for layer in layers if _is_spatial(layer)]
    skipped = ""
    while layers and _is_class_map(layers[-1], of):
        skipped = f", before the maps of the classes themselves ('{layers[-1].name}')"
        layers.pop()
    if not layers:
        raise ModelError(
            "no tensor with rows and columns lies on every way from the image to the scores; "
            "name one with --layer"
        )
    last = layers[-1]
    same = [x for x in layers if x.sizes == last.sizes]
    rectified = [x for x in same if _never_negative(x.value)]
    best = rectified[-1] if rectified else last
    value = best.value
    while (node := value.producer()) is not None and node.op_type in traits.SAME:
        source = node.inputs[0]
        if source is None or source.shape is None:
            break
        value = source
    kind = "rectified tensor" if rectified else "tensor"
    reason = f"the last {kind} with rows and columns before the head{skipped}"
    return Layer(value, best.channel_axis, reason)


def _is_spatial(layer: Layer) -> bool:
    """Whether it has more than one position, or may have."""
    height, width = layer.sizes
    return not (height == 1 and width == 1)


def _is_class_map(layer: Layer, of: ir.Value) -> bool:
    """Whether its channels are the classes, and only pooling follows."""
    shape = layer.value.shape
    if shape is None or of.shape is None or len(of.shape) < 2:
        return False
    channels, classes = dim_of(shape, layer.channel_axis), dim_of(of.shape, 1)
    if channels is None or channels != classes:
        return False
    return all(n.op_type not in traits.CONTRACTS for n in path([of], [layer.value])[0])


def _never_negative(value: ir.Value, depth: int = 12) -> bool:
    """Whether nothing below 0 can be in a tensor, as far as its makers tell."""
    node = value.producer()
    if node is None or depth == 0:
        return False
    if node.op_type in _RECTIFYING:
        return True
    if node.op_type == "Clip":
        low = node.inputs[1] if len(node.inputs) > 1 else None
        known = None if low is None else ir.convenience.get_const_tensor(low)
        return known is not None and known.size == 1 and float(known.numpy().reshape(-1)[0]) >= 0
    if node.op_type not in _KEEPING_SIGN:
        return False
    operands = node.inputs if node.op_type in _SEVERAL else node.inputs[:1]
    return all(v is not None and _never_negative(v, depth - 1) for v in operands)


def channel_axis(value: ir.Value) -> int:
    """Where the channels of an inner tensor of rank 4 are: 3 behind what works on the last axis,
    else 1."""
    seen: set[ir.Value] = set()
    waiting: list[ir.Value] = [value]
    while waiting:
        here = waiting.pop(0)
        node = here.producer()
        if here in seen or here.shape is None or len(here.shape) != 4:
            continue
        seen.add(here)
        if node is None:
            return choose.channel_axis(here) if here.is_graph_input() else 1
        if node.op_type in _ON_SECOND:
            return 1
        if node.op_type in traits.CHANNELS_LAST:
            return 3
        if node.op_type == "Transpose":
            perm = tuple(node.attributes.get_ints("perm", ()))
            before = node.inputs[0]
            if perm in ((0, 2, 3, 1), (0, 3, 1, 2)) and before is not None:
                inner = channel_axis(before)
                return perm.index(inner)
            return 1
        waiting += [v for v in node.inputs if v is not None]
    return 1


def _shown(shape: ir.Shape) -> str:
    return "[" + ",".join(str(d) for d in shape) + "]"
