"""Which inner tensor a class activation map is drawn of, and how it becomes [N, K, h, w]."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile

import onnx_ir as ir

from ..errors import ModelError, UsageError
from . import choose, traits
from .backward import differentiable, path
from .emit import Emitter, dim_of
from .flow import Flow
from .scaling import cuts
from .tokens import Grid, channel_axis, grid_of, is_batched, is_map, token_axis

__all__ = ["NAMED", "Layer", "default_layer", "named_layer", "token_cuts"]

# The reason for a layer that somebody asked for.
NAMED = "named by --layer"
# By default, with thresholds of 0 and up; networks have no others.
_RECTIFYING = traits.NEVER_NEGATIVE | {"ThresholdedRelu"}
# Those with several data operands; of the others the further ones are shapes, bounds and the like.
_SEVERAL = traits.ELEMENTWISE - traits.UNARY | {"Concat"}
# What pads a rectified map fills in zeros.
_KEEPING_SIGN = traits.KEEPS_SIGN | {"Pad"}
# What makes channels out of others.
_MIXING = traits.CONTRACTS | {"Attention"}


@dataclass(frozen=True)
class Layer:
    """A tensor whose units have places in the image.

    value: [N, K, h, w], or with channel_axis 3 [N, h, w, K]; with a grid the tokens of its patches,
    [N, T, K], channel_axis 2, or [N, K, T], channel_axis 1: those in front of the patches, such as
    the class token, have no place. reason: why this one, for people.
    """

    value: ir.Value
    channel_axis: int
    reason: str
    grid: Grid | None = None

    @property
    def name(self) -> str:
        """The tensor's name."""
        return self.value.name or ""

    @property
    def sizes(self) -> tuple[int | str | None, int | str | None]:
        """h and w: numbers, names, or None."""
        if self.grid is not None:
            return self.grid.sizes
        shape = self.value.shape
        assert shape is not None
        first = 1 if self.channel_axis == 3 else 2
        return dim_of(shape, first), dim_of(shape, first + 1)

    @property
    def never_negative(self) -> bool:
        """Whether nothing below 0 can be in it, as far as its makers tell."""
        return _never_negative(self.value)

    @property
    def token_axis(self) -> int:
        """Where the tokens are, of a layer of tokens."""
        return 3 - self.channel_axis

    def spread(self, e: Emitter, value: ir.Value) -> ir.Value:
        """The tensor, or its cotangent, as [N, K, h, w]."""
        if self.grid is not None:
            return self.grid.spread(e, value, self.token_axis)
        if self.channel_axis == 1:
            return value
        return e.Transpose(value, perm=[0, 3, 1, 2])


def named_layer(graph: ir.Graph, name: str, ofs: Sequence[ir.Value], wrt: ir.Value) -> Layer:
    """The layer that somebody named: a tensor, or the node that makes it. Raises UsageError for an
    unknown one, with the nearest names, for one without rows and columns, and for one that no way
    leads from to the scores."""
    value = choose.tensor(graph, name, weights=False)
    shape = value.shape
    layer = None
    if shape is not None and len(shape) == 3:
        layer = _of_tokens(value, wrt, NAMED)
    elif is_map(value, wrt):
        layer = Layer(value, channel_axis(value), NAMED)
    if layer is None:
        what = "no known shape" if shape is None else f"the shape {_shown(shape)}"
        raise UsageError(
            f"layer '{name}' has {what}: no rows and columns; expected [N,K,h,w] or [N,h,w,K], "
            "a tensor before the global pool, or the tokens [N,T,K] of patches"
        )
    if not _is_spatial(layer):
        raise UsageError(
            f"layer '{name}' has one position ({_shown(layer.value.shape)}); "
            "expected one before the global pool"
        )
    if not path(ofs, [value])[0]:
        raise choose.unreached(f"layer '{name}'", ofs, "its map would be 0 everywhere")
    grid, axis = layer.grid, layer.token_axis
    if grid is not None and not any(Flow(of, value, axis, grid).arrives for of in ofs):
        raise UsageError(
            f"layer '{name}': the score reads its class token alone, so the map of its patches "
            "would be 0 everywhere; expected a layer before the last attention, such as "
            f"'{default_layer(ofs[0], wrt).name}'"
        )
    return layer


def default_layer(of: ir.Value, wrt: ir.Value) -> Layer:
    """The last tensor with rows and columns that every way from the image to the scores goes
    through; the last rectified one of that size where there is one. A map per class that is only
    pooled afterwards is skipped: its channels are the classes themselves (SqueezeNet, NiN).

    Of a transformer the last tokens whose patches reach the scores: where those are read from the
    class token, the input of the last attention (behind it the gradient of patches is 0).
    Raises ModelError where there is none."""
    if (tokens := _last_tokens(of, wrt)) is not None:
        return tokens
    made = _cuts_before(of, wrt)
    layers = [Layer(v, channel_axis(v), "") for v in made if is_map(v, wrt)]
    # What is behind one position has no rows and columns left, whatever its shape.
    layers = list(takewhile(_is_spatial, layers))
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


def _cuts_before(of: ir.Value, wrt: ir.Value) -> list[ir.Value]:
    """The tensors that every way from the image to the scores goes through, in order."""
    nodes, leads = path([of], [wrt])
    found = cuts(nodes, leads, {of})
    return [v for n in nodes for v in n.outputs if v in found and v is not of]


def token_cuts(of: ir.Value, wrt: ir.Value) -> Iterator[Layer]:
    """The tokens that every way from the image to the scores goes through, the last ones first;
    none where rows and columns come later, or where no layer has seen tokens."""
    for value in reversed(_cuts_before(of, wrt)):
        if is_map(value, wrt) and _is_spatial(Layer(value, channel_axis(value), "")):
            return
        layer = _of_tokens(value, wrt, "")
        if layer is not None and _is_spatial(layer):
            yield layer


def _last_tokens(of: ir.Value, wrt: ir.Value) -> Layer | None:
    """The last tokens whose patches reach the scores; None where there are none, or where they are
    the places of a map that is flattened, no more."""
    behind = False
    for layer in token_cuts(of, wrt):
        grid = layer.grid
        assert grid is not None
        if all(n.op_type not in _MIXING for n in path([layer.value], [grid.source])[0]):
            return None
        flow = Flow(of, layer.value, layer.token_axis, grid)
        if not flow.arrives:
            behind = True
            continue
        for here, axis in flow.until_mixed():
            ranked = here.shape is not None and len(here.shape) == 3 and is_batched(here, wrt)
            if ranked and differentiable(here):
                layer = replace(layer, value=here, channel_axis=3 - axis)
        if behind:
            reason = (
                "the input of the last attention, whose tokens still reach the class token: behind "
                "it the score reads the class token alone, and the gradient of patches is 0"
            )
        else:
            reason = "the last tokens of patches before they are pooled"
        return replace(layer, reason=reason)
    return None


def _of_tokens(value: ir.Value, wrt: ir.Value, reason: str) -> Layer | None:
    """A layer of tokens [N, T, K] or [N, K, T]; None where its tokens have no places."""
    if value.shape is None or len(value.shape) != 3 or not is_batched(value, wrt):
        return None
    if not differentiable(value) or (grid := grid_of(value, wrt)) is None:
        return None
    axis = token_axis(value, grid)
    return None if axis is None else Layer(value, 3 - axis, reason, grid)


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
    return all(n.op_type not in _MIXING for n in path([of], [layer.value])[0])


def _never_negative(
    value: ir.Value, depth: int = 12, known: dict[tuple[ir.Value, int], bool] | None = None
) -> bool:
    """Whether nothing below 0 can be in a tensor, as far as its makers tell. known: what was found
    on the way, as several ways may lead to a tensor."""
    known = {} if known is None else known
    if (value, depth) not in known:
        known[value, depth] = _makes_none_negative(value, depth, known)
    return known[value, depth]


def _makes_none_negative(
    value: ir.Value, depth: int, known: dict[tuple[ir.Value, int], bool]
) -> bool:
    node = value.producer()
    if node is None or depth == 0:
        return False
    if node.op_type in _RECTIFYING:
        return True
    if node.op_type == "Clip":
        low = node.inputs[1] if len(node.inputs) > 1 else None
        bound = None if low is None else ir.convenience.get_const_tensor(low)
        return bound is not None and bound.size == 1 and float(bound.numpy().reshape(-1)[0]) >= 0
    if node.op_type not in _KEEPING_SIGN:
        return False
    operands = node.inputs if node.op_type in _SEVERAL else node.inputs[:1]
    return all(v is not None and _never_negative(v, depth - 1, known) for v in operands)


def _shown(shape: ir.Shape | None) -> str:
    return "[" + ",".join(str(d) for d in shape or ()) + "]"
