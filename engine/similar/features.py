"""Finds the tensor that a classifier embeds images in, and a graph that ends there."""

from __future__ import annotations

import math
from dataclasses import dataclass

import onnx_ir as ir

from ...errors import UsageError
from ...export import choose, traits
from ...export import scores as class_scores
from ...export.backward import FLOATS
from ...export.emit import Emitter, dim_of
from ...export.graph import Loaded, ModelLike, load, opset_of
from ...export.lone import is_lone
from ...export.sizes import Shapes
from ...export.unused import remove_unused
from ..classifier.ready import Ready
from ..inside.taps import named

__all__ = ["Features", "before_classifier", "features"]

# What keeps or only rearranges a tensor: further operands are shapes, axes and the like.
_REARRANGING = traits.SAME | traits.RESHAPES | {"Expand", "Slice", "Transpose"}
# What keeps the meaning of axes; on the way back through these the channel axis stays.
_KEEPING = traits.ELEMENTWISE | traits.SAME | {"BatchNormalization", "Concat", "LRN"}
OUTPUT = "backlight/embedding"


@dataclass(frozen=True)
class Features:
    """A model that ends at its embedding.

    model: image input `input` -> `output`, float [N, width].
    tensor: the name of the tensor that is embedded. pooling: how it became a vector, or "".
    channel_axis: of the image input.
    """

    model: Loaded
    input: str
    channel_axis: int
    tensor: str
    output: str
    width: int | None
    pooling: str
    notes: tuple[str, ...]


def features(
    model: ModelLike | Ready, tensor: str | None = None, shapes: Shapes | None = None
) -> Features:
    """Cut a model at a tensor, pooled to a vector per image where it is spatial.

    tensor: a name; None: what the last linear layer before the class scores reads. [N, C, H, W]
    and [N, T, C] become [N, C] by the mean over positions or tokens; what comes after is removed.
    Raises ModelError, or UsageError for an unknown name or a tensor that is no vector per image.
    """
    loaded = load(Ready.of(model, shapes).loaded)
    graph = loaded.graph
    image = choose.image_input(graph)
    notes: tuple[str, ...] = ()
    if tensor is not None:
        value = named(graph, tensor)
    else:
        value, notes = before_classifier(loaded)
    assert value.name is not None
    name = value.name
    e = Emitter(graph, opset_of(loaded))
    if is_lone(image.input) and value.shape is not None and value.shape[:1] != (1,):
        value = e.Unsqueeze(value, [0], _shape=[1, *value.shape])
    _refuse_what_has_no_rows(value)
    vector, pooling = _pooled(value, e)
    if vector.producer() is None:  # an output that is an input needs a node between
        vector = e.Identity(vector)
    if not vector.is_graph_output():
        vector.name = OUTPUT
    graph.outputs.clear()
    graph.outputs.append(vector)
    remove_unused(loaded)
    for unused in [v for v in graph.inputs if not v.uses() and v is not image.input]:
        graph.inputs.remove(unused)
    if not image.input.uses():
        raise UsageError(f"'{name}' does not depend on the image input '{image.input.name}'")
    assert vector.shape is not None and vector.name is not None
    assert image.input.name is not None
    width = dim_of(vector.shape, 1)
    if vector.type is None:  # behind operators that inference doesn't know; a file has both or none
        vector.shape = None
    return Features(
        model=loaded,
        input=image.input.name,
        channel_axis=image.channel_axis,
        tensor=name,
        output=vector.name,
        width=width if isinstance(width, int) else None,
        pooling=pooling,
        notes=notes,
    )


def before_classifier(model: ir.Model) -> tuple[ir.Value, tuple[str, ...]]:
    """What the last linear layer before the class scores reads; without such a layer, the scores'
    own tensor, and a note. Raises ModelError where the class scores can't be told."""
    score = class_scores.score(model, maps=True)
    value = score.raw
    while (node := value.producer()) is not None:
        moving = [v for v in node.inputs if v is not None and not _constant(v)]
        if node.op_type in _REARRANGING and node.inputs[0] is not None:
            value = node.inputs[0]
            continue
        if len(moving) != 1:
            break
        if node.op_type in ("Gemm", "MatMul") or (node.op_type == "Conv" and _is_linear(node)):
            return _named(moving[0]), ()
        if node.op_type == "Conv":
            break
        value = moving[0]
    note = (
        f"no linear layer closes the model: taking '{score.raw.name}', the class scores "
        "themselves; --layer names another tensor"
    )
    return score.raw, (note,)


def _is_linear(node: ir.Node) -> bool:
    """Whether a convolution is a classifier at each position: all its kernel's sides are 1, or its
    output has one position (a dense layer written as a convolution)."""
    weight, made = node.inputs[1], node.outputs[0]
    kernel = None if weight is None or weight.shape is None else weight.shape
    if kernel is not None and all(dim_of(kernel, i) == 1 for i in range(2, len(kernel))):
        return True
    shape = made.shape
    return shape is not None and all(dim_of(shape, i) == 1 for i in range(2, len(shape)))


def _named(value: ir.Value) -> ir.Value:
    """The tensor itself, where a Dropout or Identity only passes it on."""
    while (node := value.producer()) is not None and node.op_type in ("Dropout", "Identity"):
        source = node.inputs[0]
        assert source is not None
        value = source
    return value


def _constant(value: ir.Value) -> bool:
    """Whether a value is computed from weights alone (a quantized weight has nodes behind it)."""
    if value.const_value is not None or value.is_initializer():
        return True
    node = value.producer()
    if node is None:
        return False
    inputs = [v for v in node.inputs if v is not None]
    return all(_constant(v) for v in inputs)


def _refuse_what_has_no_rows(value: ir.Value) -> None:
    name, shape = value.name, value.shape
    if value.is_initializer() or value.const_value is not None:
        raise UsageError(f"'{name}' is a weight; name a tensor that is computed from the image")
    if value.dtype is not None and value.dtype not in FLOATS:
        raise UsageError(f"'{name}' is {value.dtype.name.lower()}; an embedding needs a float")
    if shape is None:
        raise UsageError(
            f"the shape of '{name}' can't be told{choose.culprit(value)}; name another tensor"
        )
    if len(shape) < 2:
        raise UsageError(f"'{name}' has {len(shape)} dimension(s); an embedding needs [N, …]")


def _pooled(value: ir.Value, e: Emitter) -> tuple[ir.Value, str]:
    """[N, …] -> [N, C]: the mean over all axes but the batch and the channels."""
    shape = value.shape
    assert shape is not None
    if len(shape) == 2:
        return value, ""
    channel = _channel_axis(value)
    axes = [a for a in range(1, len(shape)) if a != channel]
    sides = [dim_of(shape, a) for a in axes]
    made = e.ReduceMean(
        value, axes, keepdims=0, _shape=ir.Shape([shape[0], shape[channel]]), _dtype=value.dtype
    )
    known = [s for s in sides if isinstance(s, int)]
    if len(known) == len(sides) and math.prod(known) == 1:
        return made, ""
    what = "positions" if len(axes) > 1 else "tokens"
    # Names of open sizes are often made up on the way, and say nothing.
    sized = " x ".join(map(str, known)) if len(known) == len(sides) else "all"
    return made, f"mean over {sized} {what}"


def _channel_axis(value: ir.Value) -> int:
    """Where the channels of an inner tensor are, by the operators that made it: last behind MatMul
    and LayerNormalization and for tokens [N, T, C], else 1."""
    assert value.shape is not None
    last = len(value.shape) - 1
    seen: ir.Value | None = value
    while seen is not None and (node := seen.producer()) is not None:
        if node.op_type in traits.CHANNELS_LAST:
            return last
        if node.op_type == "Transpose":
            perm = node.attributes.get_ints("perm", ())
            return last if len(perm) == last + 1 and perm[-1] == 1 else 1
        if node.op_type not in _KEEPING:
            break
        seen = next((v for v in node.inputs if v is not None and not _constant(v)), None)
    if seen is not None and seen.is_graph_input():
        return choose.channel_axis(seen)
    return last if last == 2 else 1
