"""Finds what to explain and by what: the class scores, the image input, tensors by name; and leaves
the scores alone."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass

import onnx_ir as ir
from onnx_ir.passes import common

from ..errors import ModelError, UsageError
from .backward import FLOATS
from .emit import dim_of

# Between a closing Softmax and the output these only rename, reshape or log the scores.
_THROUGH = frozenset(
    "Identity Flatten Reshape Squeeze Unsqueeze Cast Log Dropout QuantizeLinear "
    "DequantizeLinear".split()
)

# The name of the scores that a head of integers has as codes alone.
REAL_SCORES = "backlight/scores"


@dataclass(frozen=True)
class Image:
    """The image input, the float tensor its gradient is taken at, and the channel axis there."""

    input: ir.Value
    wrt: ir.Value
    channel_axis: int
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Score:
    """The class scores, and the model output that holds them or their softmax (if any does)."""

    of: ir.Value
    output: ir.Value | None
    notes: tuple[str, ...] = ()


def tensor(graph: ir.Graph, name: str, *, weights: bool = True) -> ir.Value:
    """A tensor of the graph by its name, or by the name of the node that makes it: what --of, --wrt
    and --layer go through. weights: whether one of the model's weights will do.

    Raises UsageError with the nearest names.
    """
    tensors = {v.name: v for v in graph.inputs if v.name}
    nodes: dict[str, ir.Value] = {}
    for node in graph:
        tensors |= {v.name: v for v in node.outputs if v.name}
        if node.name:
            nodes.setdefault(node.name, node.outputs[0])
    if name in tensors:
        return tensors[name]
    if name in graph.initializers:
        if weights:
            return graph.initializers[name]
        users = [u.node.outputs[0].name for u in graph.initializers[name].uses()]
        hint = f"; the tensor made with it: {users[0]}" if users else ""
        raise UsageError(f"'{name}' is a weight of the model, not a tensor it computes{hint}")
    if name in nodes:
        return nodes[name]
    known = [*tensors, *nodes]
    lower = {k.lower(): k for k in reversed(known)}
    near = [lower[n] for n in difflib.get_close_matches(name.lower(), lower, n=3, cutoff=0.5)]
    # Part of a long name is what people type.
    near += [k for k in tensors if name.lower() in k.lower() and k not in near]
    some = near[:3] or list(tensors)[:: max(len(tensors) // 4, 1)][1:5]
    raise UsageError(
        f"no tensor '{name}' in the model; {'nearest' if near else 'for instance'}: "
        f"{', '.join(some)} ('backlight activations --list' shows them all)"
    )


def image_input(graph: ir.Graph) -> Image:
    """The first input that looks like images: rank 4, else 5, else 3. Raises ModelError."""
    inputs = [v for v in graph.inputs if not v.is_initializer()]
    for rank in (4, 5, 3):
        for value in inputs:
            if value.shape is not None and len(value.shape) == rank and _numeric(value):
                return _image(value)
    # Without a declared rank, what a convolution reads is an image.
    for value in inputs:
        if value.shape is None and any(u.node.op_type == "Conv" for u in value.uses()):
            return _image(value)
    found = ", ".join(f"'{v.name}' {_shown(v)}" for v in inputs) or "none"
    raise ModelError(
        f"no image-like input (inputs: {found}); expected one of rank 4 such as [N,3,H,W] "
        "(export and check take another tensor with --wrt)"
    )


def _numeric(value: ir.Value) -> bool:
    return value.dtype is None or value.dtype in FLOATS or value.dtype.is_integer()


def _image(value: ir.Value) -> Image:
    wrt: ir.Value = value
    notes: tuple[str, ...] = ()
    if value.dtype is not None and value.dtype not in FLOATS:
        wrt = first_float(value)
        notes = (
            f"input '{value.name}' is {value.dtype.name.lower()}: the gradient is taken at "
            f"'{wrt.name}', the first float tensor",
        )
    return Image(value, wrt, channel_axis(wrt), notes)


def first_float(value: ir.Value) -> ir.Value:
    """The first float tensor that is computed from an integer input."""
    found: list[ir.Value] = []
    seen = {value}
    waiting = [value]
    while waiting:
        for use in waiting.pop(0).uses():
            if use.node.op_type in ("Shape", "Size"):
                continue
            for made in use.node.outputs:
                if made in seen:
                    continue
                seen.add(made)
                (found if made.dtype in FLOATS else waiting).append(made)
    if len(found) == 1:
        return found[0]
    names = ", ".join(f"'{v.name}'" for v in found) or "none"
    raise ModelError(
        f"input '{value.name}' becomes float in {len(found)} places ({names}); "
        "name one tensor with --wrt"
    )


def channel_axis(value: ir.Value) -> int:
    """Where the channels of an image tensor are: last for NHWC, else 1."""
    if value.shape is None or len(value.shape) < 3:
        return 1
    rank = len(value.shape)
    for use in value.uses():
        perm = use.node.attributes.get_ints("perm", ()) if use.node.op_type == "Transpose" else ()
        if len(perm) == rank and perm[1] == rank - 1:
            return rank - 1
    first, last = dim_of(value.shape, 1), dim_of(value.shape, rank - 1)
    channels = (1, 2, 3, 4)
    return rank - 1 if last in channels and first not in channels else 1


def class_scores(graph: ir.Graph) -> Score:
    """The unnormalised class scores: the tensor before a closing Softmax, else the output.

    With several outputs, the one that a Softmax closes or the only one shaped [N, K].
    Raises ModelError when that leaves several, or none.
    """
    outputs = [v for v in graph.outputs if v.dtype is None or v.dtype in FLOATS]
    before = {v: _before_softmax(v) for v in outputs}
    for candidates in (
        [v for v in outputs if before[v] is not None],
        [v for v in outputs if v.shape is not None and _is_matrix(v.shape)],
        outputs,
    ):
        tensors = {before[v] or v for v in candidates}
        if len(tensors) == 1:
            output = candidates[0]
            return Score(before_quantizing(before[output] or output), output)
        if tensors:
            break
    names = ", ".join(f"'{v.name}' {_shown(v)}" for v in graph.outputs) or "none"
    raise ModelError(
        f"{len(outputs)} outputs could be class scores ({names}); name one with --of, "
        "or --layer in a command without it"
    )


def refuse_maps(scores: ir.Value) -> None:
    """Raise ModelError where the class scores [N, K, ...] have positions."""
    if scores.shape is not None and not _is_matrix(scores.shape) and len(scores.shape) > 2:
        raise ModelError(
            f"'{scores.name}' is no tensor of class scores: it has {len(scores.shape)} "
            "dimensions; expected [N, K], or name a tensor with --of"
        )


def culprit(value: ir.Value) -> str:
    """The node that keeps a value's shape from being known, for a message."""
    seen = {value}
    waiting = [value]
    while waiting:
        node = waiting.pop().producer()
        if node is None:
            continue
        behind = [v for v in node.inputs if v is not None and v.shape is None]
        if not behind:
            return f": no shape follows from what {node.op_type} '{node.name}' reads"
        waiting += [v for v in behind if v not in seen]
        seen.update(behind)
    return ""


def _is_matrix(shape: ir.Shape) -> bool:
    return len(shape) >= 2 and all(dim_of(shape, i) == 1 for i in range(2, len(shape)))


def closing(output: ir.Value) -> ir.Node | None:
    """The Softmax, LogSoftmax or Sigmoid that closes a head, None where none does."""
    node = _last(output)
    closes = node is not None and node.op_type in ("Softmax", "LogSoftmax", "Sigmoid")
    return node if closes else None


def _last(output: ir.Value) -> ir.Node | None:
    """The last node of a head that does more than rename, reshape or log the scores."""
    node = output.producer()
    while node is not None and node.domain == "" and node.op_type in _THROUGH:
        source = node.inputs[0]
        node = None if source is None else source.producer()
    return node


def _before_integers(graph: ir.Graph, output: ir.Value) -> tuple[ir.Value, str] | None:
    """What a closing QLinearSoftmax or QLinearSigmoid of onnxruntime's reads, as real numbers, and
    the operator that it stands for; None where none closes. Adds a node to the graph."""
    node = _last(output)
    if node is None or node.op_type not in ("QLinearSoftmax", "QLinearSigmoid"):
        return None
    real = ir.node("DequantizeLinear", node.inputs[:3], name=REAL_SCORES)
    (scores,) = real.outputs
    scores.name, scores.shape, scores.dtype = REAL_SCORES, output.shape, ir.DataType.FLOAT
    graph.append(real)
    return scores, node.op_type.removeprefix("QLinear")


def _before_softmax(output: ir.Value) -> ir.Value | None:
    node = closing(output)
    return None if node is None or node.op_type == "Sigmoid" else node.inputs[0]


def before_quantizing(value: ir.Value) -> ir.Value:
    """The tensor before the first of the QuantizeLinear that close a head, else the value itself.

    A top score lies at the end of its range: saturated there, it would have no gradient at all.
    """
    found, node = value, value.producer()
    while node is not None and node.domain == "" and node.op_type in _THROUGH:
        source = node.inputs[0]
        if source is None:
            break
        if node.op_type == "QuantizeLinear":
            found = source
        node = source.producer()
    return found


def holding_output(graph: ir.Graph, of: ir.Value) -> ir.Value | None:
    """The model output that holds a tensor or its softmax, quantised or not."""
    for output in graph.outputs:
        score = _before_softmax(output) or output
        if of in (output, score, before_quantizing(score)):
            return output
    return None


def ranking(of: ir.Value, output: ir.Value | None) -> ir.Value:
    """The tensor whose top class is a row's top class: the scores themselves, but the output that
    holds them where they are quantised on the way there. Codes tie, and the first one wins."""
    if output is None or of in (output, _before_softmax(output)):
        return of
    return output


def _shown(value: ir.Value) -> str:
    if value.shape is None:
        return "of unknown shape"
    dims = (dim_of(value.shape, i) for i in range(len(value.shape)))
    return "[" + ",".join("?" if d is None else str(d) for d in dims) + "]"


def leave_scores(model: ir.Model, of: str | None) -> tuple[ir.Value, ir.Value, str | None]:
    """Leave the class scores, before their closing operator, as the only output.

    Returns the image input, the scores and what closed them.
    """
    graph = model.graph
    if exported(model.metadata_props) is not None:
        graph.outputs[:] = [v for v in graph.outputs if not (v.name or "").startswith("saliency_")]
    image = image_input(graph).input
    closed: str | None = None
    if of is not None:
        scores = tensor(graph, of)
    else:
        held = class_scores(graph)
        scores = held.output or held.of
    node = closing(scores)
    if node is not None and node.inputs[0] is not None:
        scores, closed = node.inputs[0], node.op_type
    else:
        scores, closed = _before_integers(graph, scores) or (scores, None)
    graph.outputs[:] = [scores]
    common.RemoveUnusedNodesPass()(model)
    graph.inputs[:] = [v for v in graph.inputs if v is image or v.uses() or v is scores]
    if not image.uses():
        raise UsageError(f"'{scores.name}' does not depend on the input '{image.name}'")
    return image, scores, closed


def exported(metadata: Mapping[str, str]) -> tuple[str, ...] | None:
    """The methods of a file that `backlight export` wrote, by its metadata; None for any other."""
    held = metadata.get("backlight.methods", metadata.get("backlight.rules"))
    return None if held is None else tuple(name for name in held.split(",") if name)
