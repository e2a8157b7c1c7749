"""One class's cotangent on its way through the head: the class's own channel alone.

A one-hot cotangent is 0 in every channel but one, up to the layer that mixes channels. There it
takes one row of the weights, gathered, where the walk would multiply with all of them: of a map of
1000 classes (SqueezeNet's last convolution) that product is a quarter of the forward pass.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from . import traits
from .backward import obstacle
from .emit import Emitter, all_dims
from .rules import RuleMap
from .rules.clamps import rectifies
from .rules.conv import is_pointwise
from .rules.op import Op, constant, guarded, is_fixed

__all__ = ["Head", "head_of"]

# What works on every channel by itself, where all else that it reads is one number.
_ALONE = traits.UNARY | {"AveragePool", "Div", "GlobalAveragePool", "Mul", "ReduceMean"}
# f(f(x)) = f(x): the output tells as much as the input, which a fused layer doesn't keep.
_ONCE = frozenset(("Clip", "Relu"))


@dataclass(frozen=True)
class Head:
    """What lies behind the layer that mixes channels into classes.

    of: the scores [N, K, ...]. nodes: from the scores backwards, each with what it reads. mixer:
    that layer, Gemm, MatMul or a convolution of 1 x 1. source: what it reads beside its weights.
    """

    of: ir.Value
    nodes: tuple[tuple[ir.Node, ir.Value], ...]
    mixer: ir.Node
    source: ir.Value

    def cotangent(self, e: Emitter, chosen: ir.Value | int, rules: RuleMap) -> ir.Value:
        """The cotangent of `source` from a one-hot one of the scores. chosen: the class, int64
        [N, 1], or one for all rows; one that there is."""
        ct = _ones(e, self.of, chosen)
        for node, source in self.nodes:
            ct = _through(e, node, source, chosen, ct, rules)
        with e.scope(self.mixer.name or self.mixer.op_type):
            return e.Mul(self._row(e, chosen), ct, _shape=self.source.shape)

    def _row(self, e: Emitter, chosen: ir.Value | int) -> ir.Value:
        """The class's own weights: [N, k] or [N, k, 1, 1], or 1 row for all."""
        weight = self.mixer.inputs[1]
        assert weight is not None and weight.shape is not None
        axis = _class_axis(self.mixer)
        if isinstance(chosen, int):
            index, rows = e.const(np.array([chosen])), 1
        else:
            index = e.Squeeze(chosen, [1], _shape=[chosen.shape[0]])  # type: ignore[index]
            rows = all_dims(chosen.shape)[0]  # type: ignore[assignment]
        each = [d for i, d in enumerate(all_dims(weight.shape)) if i != axis]
        shape = [*each[:axis], rows, *each[axis:]]
        row = e.Gather(weight, index, axis=axis, _shape=shape, _dtype=weight.dtype)
        if axis == 1:
            row = e.Transpose(row, perm=[1, 0])
        alpha = self.mixer.attributes.get_float("alpha", 1.0)
        return row if alpha == 1 else e.Mul(row, alpha)


def head_of(of: ir.Value, wrt: Collection[ir.Value], rules: RuleMap, opset: int) -> Head | None:
    """The head of scores [N, K, ...], where it is one that a single class goes through alone; None
    where it isn't, where some `wrt` lies in it or is a weight, or where a node has no rule."""
    dims = all_dims(of.shape)
    if len(dims) < 2 or not isinstance(dims[1], int) or any(is_fixed(v) for v in wrt):
        return None
    nodes: list[tuple[ir.Node, ir.Value]] = []
    value = of
    while value not in wrt:
        node = value.producer()
        if node is None or node.domain not in ("", "ai.onnx") or len(node.outputs) != 1:
            return None
        # Once: of what it reads twice, as Mul(x, x), the derivatives add up.
        moving = [v for v in node.inputs if not is_fixed(v)]
        source = moving[0] if len(moving) == 1 else None
        if source is None or source.dtype != value.dtype:
            return None
        if _mixes(node, source, value):
            return Head(of, tuple(nodes), node, source)
        if not _alone(node, source, value) or obstacle(node, rules, opset) is not None:
            return None
        nodes.append((node, source))
        value = source
    return None


def _mixes(node: ir.Node, source: ir.Value, y: ir.Value) -> bool:
    """Whether a node's channels [N, K] or [N, K, h, w] are each made by a row of its weights."""
    if len(node.inputs) < 2 or node.inputs[0] is not source or source is node.inputs[1]:
        return False
    weight, rank = node.inputs[1], len(all_dims(source.shape))
    if weight is None or weight.dtype != y.dtype or None in (*all_dims(weight.shape), *[rank]):
        return False
    dims = all_dims(weight.shape)
    if node.op_type in ("Gemm", "MatMul"):
        return len(dims) == rank == 2 and not node.attributes.get_int("transA", 0)
    return is_pointwise(node) and node.attributes.get_int("group", 1) == 1


def _class_axis(mixer: ir.Node) -> int:
    """Which axis of its weights has the classes."""
    by_row = mixer.op_type == "Conv" or bool(mixer.attributes.get_int("transB", 0))
    return 0 if by_row else 1


def _alone(node: ir.Node, source: ir.Value, y: ir.Value) -> bool:
    """Whether a node works on every channel, axis 1, by itself."""
    before, after = all_dims(source.shape), all_dims(y.shape)
    if len(before) < 2 or len(after) < 2 or before[1] != after[1]:
        return False
    if node.op_type in traits.RESHAPES | {"Flatten"}:
        return all(isinstance(d, int) for d in (*before[1:], *after[1:]))
    if _adds(node):
        return before == after
    if node.op_type == "ReduceMean":
        over = constant(node.inputs[1] if len(node.inputs) > 1 else None)
        if over is None or {int(a) % len(before) for a in over.reshape(-1)} & {0, 1}:
            return False
        return bool(over.size)
    if node.op_type in _ONCE and not rectifies(node):
        return False  # what lies around it says what it is, and isn't there for one channel
    others = [v for v in node.inputs if v is not None and v is not source]
    return node.op_type in _ALONE and all(_is_number(v) for v in others)


def _adds(node: ir.Node) -> bool:
    """Whether a node adds what doesn't depend on the image, or takes it away."""
    first = not is_fixed(node.inputs[0])
    return node.op_type == "Add" or (node.op_type == "Sub" and first)


def _is_number(value: ir.Value) -> bool:
    return value.shape is not None and all(d == 1 for d in all_dims(value.shape))


def _through(
    e: Emitter,
    node: ir.Node,
    source: ir.Value,
    chosen: ir.Value | int,
    ct: ir.Value,
    rules: RuleMap,
) -> ir.Value:
    """The cotangent [N, 1, ...] of what a node reads, in the class's channel, by its own rule."""
    dims = _narrow(source)
    if _adds(node):
        return ct
    if node.op_type in traits.RESHAPES | {"Flatten"}:
        return e.Reshape(ct, [-1, *(int(str(d)) for d in dims[1:])], _shape=dims)
    held = _channel(e, node.outputs[0] if node.op_type in _ONCE else source, chosen)
    inputs = [held if v is source else v for v in node.inputs]
    name, whole = e.name(node.op_type), node.outputs[0]
    y = ir.Value(name=name, type=whole.type, shape=ir.Shape(_narrow(whole)))
    attributes = list(node.attributes.values())
    copy = ir.Node("", node.op_type, inputs, attributes, outputs=[y], name=name)
    e.graph.append(copy)
    op = Op(copy, tuple(v is held for v in inputs))
    with e.scope(node.name or node.op_type), guarded(op):
        found = rules[node.op_type](e, op, (ct,))[inputs.index(held)]
    assert found is not None
    return found


def _ones(e: Emitter, of: ir.Value, chosen: ir.Value | int) -> ir.Value:
    """1 at every score of the class: [N, 1, ...]."""
    dims, one = _narrow(of), e.const(1, of.dtype)
    if isinstance(chosen, int) or any(d != 1 for d in dims[2:]):
        like = _channel(e, of, chosen)
        return e.Expand(one, e.Shape(like), _dtype=of.dtype, _shape=dims)
    ones = e.Expand(one, e.Shape(chosen), _dtype=of.dtype, _shape=dims[:2])
    return ones if len(dims) == 2 else e.Unsqueeze(ones, list(range(2, len(dims))), _shape=dims)


def _channel(e: Emitter, value: ir.Value, chosen: ir.Value | int) -> ir.Value:
    """The class's own channel of a tensor [N, K, ...]: [N, 1, ...]."""
    dims = _narrow(value)
    if isinstance(chosen, int):
        return e.Slice(value, [chosen], [chosen + 1], [1], _shape=dims, _dtype=value.dtype)
    at = e.Unsqueeze(chosen, [2])
    return e.GatherND(value, at, batch_dims=1, _shape=dims, _dtype=value.dtype)


def _narrow(value: ir.Value) -> list[int | str | None]:
    """The shape of one channel of a tensor."""
    batch, _, *tail = all_dims(value.shape)
    return [batch, 1, *tail]
