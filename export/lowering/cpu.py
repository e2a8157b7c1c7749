"""For ONNX Runtime's CPU provider: keep the backward pass in its blocked layout (NCHWc).

Its layout pass knows convolutions, pools, Add, Mul of equal shapes, Concat and nearest Resize.
Greater, Where and Cast are not among them: each would cost a reorder out and one back. So a mask
is a depthwise 1x1 convolution that saturates, which the runtime fuses with its Clip; a cotangent
that starts outside enters through a depthwise identity, so that the residual Adds after it stay
inside; the global pool's gradient and zeros put between positions are nearest Resizes. Shapes that
are known, batch aside, are what these need: else the portable rules do. What each brings, and what
brought nothing, is in benchmarks/README.md.
"""

from __future__ import annotations

import onnx_ir as ir

from ..emit import Emitter, all_dims
from ..rules import Cotangents, Op, Rule, rectifier, registry
from ..rules.conv import flipped
from ..rules.window import Window, kernel_of, window_of
from .blocked import (
    blocked,
    channels_of,
    depthwise,
    enter,
    gate,
    inside,
    put_apart,
    rectified,
    repeated,
    resized,
    sized,
)
from .first_match import ceiling, gated, mark, max_pool, max_pool_gated

INFINITE = float("inf")


class CpuEmitter(Emitter):
    """An Emitter for a runtime that packs weights layer by layer."""

    shares_weights = True


def relu(e: Emitter, op: Op, ct: ir.Value) -> Cotangents:
    """[h > 0] g."""
    if gated(ct, op.y):
        return (ct,)
    return (gate(e, ct, op.y, INFINITE),) if blocked(op.y) else rectifier.relu(e, op, ct)


def relu_guided(e: Emitter, op: Op, ct: ir.Value) -> Cotangents:
    """[h > 0] max(g, 0)."""
    if not rectifier.is_rectifier(op):  # the lower half of a hard sigmoid
        return relu(e, op, ct)
    return (_guided(e, op, ct, INFINITE),) if _here(op, ct) else rectifier.relu_guided(e, op, (ct,))


def clip(e: Emitter, op: Op, ct: ir.Value) -> Cotangents:
    """[0 < h < high] g, from the clipped y: it equals a bound exactly where h is beyond it."""
    high = _ceiling(op)
    if high is not None and gated(ct, op.y):
        return (ct, None, None)
    held = gate(e, ct, op.y, high) if high is not None and blocked(op.y) else None
    return rectifier.clip(e, op, ct) if held is None else (held, None, None)


def clip_guided(e: Emitter, op: Op, ct: ir.Value) -> Cotangents:
    """[0 < h < high] max(g, 0)."""
    high = _ceiling(op)
    held = _guided(e, op, ct, high) if high is not None and _here(op, ct) else None
    return rectifier.clip_guided(e, op, (ct,)) if held is None else (held, None, None)


def _ceiling(op: Op) -> float | None:
    return None if any(op.wants[1:]) else ceiling(op.y)


def _here(op: Op, ct: ir.Value) -> bool:
    return gated(ct, op.y) or blocked(op.y)


def _guided(e: Emitter, op: Op, ct: ir.Value, high: float) -> ir.Value | None:
    """By a sum in the convolution that made ct, or a product; None for bounds of no use here."""
    if gated(ct, op.y):
        return e.Relu(ct)
    if not inside(high):
        return None
    held = rectified(e, ct, op.y, high)
    return gate(e, e.Relu(ct), op.y, high) if held is None else held


def conv(e: Emitter, op: Op, ct: ir.Value) -> Cotangents:
    """The portable rule at stride 1. Strided: inside the blocked layout where that costs little;
    else the portable rule's transposed convolution, whose result enters the layout again."""
    w = op.need(1)
    win = window_of(op, kernel_of(op, w))
    if not op.wants[0] or all(s == 1 for s in win.strides):
        return registry()["Conv"](e, op, (ct,))
    others = Op(op.node, (False, *op.wants[1:]))
    d_x = None
    if sized(op.x) and sized(op.y) and sized(ct):
        d_x = _depthwise_strided(e, op, ct, w, win)
        d_x = _pointwise_strided(e, op, ct, w, win) if d_x is None else d_x
    if d_x is None:
        alone = Op(op.node, (True, *(False for _ in op.wants[1:])))
        d_x = registry()["Conv"](e, alone, (ct,))[0]
        assert d_x is not None
        d_x = enter(e, d_x) if blocked(op.x) else d_x
    return (d_x, *registry()["Conv"](e, others, (ct,))[1:])


def _pointwise_strided(
    e: Emitter, op: Op, ct: ir.Value, w: ir.Value, win: Window
) -> ir.Value | None:
    """1x1: as at stride 1, then zeros between the positions. None where this isn't the way."""
    outs = op.dims(op.y)[2:]
    whole = [(o or 0) * s for o, s in zip(outs, win.strides, strict=True)]
    if win.kernel != (1, 1) or win.group > 1 or any(win.begins) or whole != [*op.dims()[2:]]:
        return None
    turned = e.Transpose(w, perm=[1, 0, 2, 3])  # a node on the initializer, folded at load
    small = e.Conv(
        ct, turned, kernel_shape=[1, 1], _shape=resized(op.x, outs[0] or 0, outs[1] or 0)
    )
    return put_apart(e, small, (win.strides[0], win.strides[1]))


def _depthwise_strided(
    e: Emitter, op: Op, ct: ir.Value, w: ir.Value, win: Window
) -> ir.Value | None:
    """Zeros between the cotangent's positions, then as at stride 1: four times the arithmetic of
    next to none. None where this isn't the way."""
    if win.group == 1 or op.dims(w)[:2] != (win.group, 1) or any(d != 1 for d in win.dilations):
        return None
    sizes, outs = op.dims()[2:], op.dims(op.y)[2:]
    begins = [k - 1 - p for k, p in zip(win.kernel, win.begins, strict=True)]
    ends = [(sizes[i] or 0) - win.strides[i] * (outs[i] or 0) + win.begins[i] for i in (0, 1)]
    if min(*begins, *ends) < 0:
        return None
    apart = put_apart(e, ct, (win.strides[0], win.strides[1]))
    return e.Conv(
        apart,
        flipped(e, w, win, (win.group, 1)),
        group=win.group,
        kernel_shape=list(win.kernel),
        pads=begins + ends,
        _shape=op.x.shape,
    )


def _spread(e: Emitter, op: Op, ct: ir.Value, scale: float) -> ir.Value | None:
    """[N, C, 1, 1] times `scale` to every position of [N, C, H, W] by a nearest Resize."""
    dims = op.dims()
    if not (sized(op.x) and sized(ct)) or dims[2] is None or dims[3] is None:
        return None
    return repeated(e, depthwise(e, ct, scale), (dims[2], dims[3]))


def concat(e: Emitter, op: Op, ct: ir.Value) -> Cotangents:
    """Behind a convolution's gradient: that convolution part by part, with parts of its weights.

    A Split would leave the blocked layout. The whole convolution is left without a use.
    """
    made = ct.producer()
    values = [op.need(i) for i in range(len(op))]
    plain = made is not None and made.op_type == "Conv" and len(made.inputs) == 2
    if gated(ct, op.y):
        split = registry()["Concat"](e, op, (ct,))
        return tuple(None if p is None else mark(p, values) for p in split)
    if _is_row_times_map(made):
        split = registry()["Concat"](e, op, (ct,))
        pairs = zip(split, values, strict=True)
        return tuple(enter(e, p) if p is not None and blocked(v) else p for p, v in pairs)
    if not plain or made is None or made.attributes.get_int("group", 1) != 1 or len(values) == 1:
        return registry()["Concat"](e, op, (ct,))
    if op.attr("axis") not in (1, -3) or not all(blocked(v) for v in (op.y, *values)):
        return registry()["Concat"](e, op, (ct,))
    attributes = {a.name: a.value for a in made.attributes.values()}
    source, weight = made.inputs
    parts: list[ir.Value | None] = []
    start = 0
    for value, wanted in zip(values, op.wants, strict=True):
        end = start + channels_of(value)
        part = e.Slice(weight, [start], [end], [0]) if wanted else None
        parts.append(e.Conv(source, part, **attributes, _shape=value.shape) if wanted else None)
        start = end
    return tuple(parts)


def _is_row_times_map(node: ir.Node | None) -> bool:
    """Whether a node is the gradient of one class's row of a convolution of 1 x 1: made outside."""
    if node is None or node.op_type != "Mul":
        return False
    return any(v is not None and all_dims(v.shape)[1:2] == [1] for v in node.inputs)


def global_average_pool(e: Emitter, op: Op, ct: ir.Value) -> Cotangents:
    dims = op.dims()
    spread = _spread(e, op, ct, 1.0 / ((dims[2] or 1) * (dims[3] or 1))) if blocked(op.x) else None
    return registry()["GlobalAveragePool"](e, op, (ct,)) if spread is None else (spread,)


def reduce_mean(e: Emitter, op: Op, ct: ir.Value) -> Cotangents:
    """A mean over height and width, as PyTorch's exporter writes the global pool."""
    if blocked(op.x) and op.const(1) is not None and op.axes(1, 4) in ((2, 3), (3, 2)):
        dims, pooled = op.dims(), ct
        if not op.attr("keepdims", 1):
            assert op.x.shape is not None
            pooled = e.Unsqueeze(ct, [2, 3], _shape=[*list(op.x.shape)[:2], 1, 1])
        spread = _spread(e, op, pooled, 1.0 / ((dims[2] or 1) * (dims[3] or 1)))
        if spread is not None:
            return (spread, None)
    return registry()["ReduceMean"](e, op, (ct,))


def _like(op_type: str, function: object) -> Rule:
    """A rule that covers the versions of the registry's own."""
    known = registry().get(op_type)
    assert callable(function)
    return Rule(op_type, known.versions if known else frozenset(), function)


RULES: dict[str, Rule] = {
    "Concat": _like("Concat", concat),
    "Conv": _like("Conv", conv),
    "MaxPool": _like("MaxPool", max_pool),
    "GlobalAveragePool": _like("GlobalAveragePool", global_average_pool),
    "ReduceMean": _like("ReduceMean", reduce_mean),
}
BY_VARIANT: dict[str, dict[str, Rule]] = {
    "vanilla": {
        "Relu": _like("Relu", relu),
        "Clip": _like("Clip", clip),
        "MaxPool": _like("MaxPool", max_pool_gated),
    },
    "guided": {
        "Relu": _like("Relu", relu_guided),
        "Clip": _like("Clip", clip_guided),
        "MaxPool": _like("MaxPool", max_pool_gated),
    },
}
