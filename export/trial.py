"""The rules of every variant, tried on one node after another, each by itself."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import onnx_ir as ir

from ..errors import UnsupportedNode
from . import traits
from .backward import FURTHER, differentiable, obstacle
from .emit import Emitter
from .report import Finding
from .rules import Op, RuleMap
from .rules.quantize import on_integers

__all__ = ["Trials"]

# Whose rules read of a weight its shape alone, and whether it is one.
_WEIGHED = frozenset(("Conv", "ConvTranspose", "Gemm", "MatMul"))
# Whose rules refuse by nothing but a node's own attributes, types, sizes and constants: not by what
# makes what they read, as those of QuantizeLinear and Resize do, and what holds back by numbers.
_ALONE = (
    traits.ELEMENTWISE - {"Clip", "Max", "Min", "PRelu"}
    | traits.POOLS
    | _WEIGHED
    | {"BatchNormalization", "Concat", "Flatten", "LayerNormalization", "Softmax", "Transpose"}
)
_NUMBERS = frozenset(
    (
        ir.AttributeType.INT,
        ir.AttributeType.INTS,
        ir.AttributeType.FLOAT,
        ir.AttributeType.FLOATS,
        ir.AttributeType.STRING,
    )
)


class Trials:
    """Applies every variant's rule to a node, with a cotangent that is a mere name. A network is
    few kinds of nodes, many times: one that is alike to one that passed is not tried again.

    leads: the values on the way. maps: the rules, by variant.
    """

    def __init__(
        self, e: Emitter, leads: Collection[ir.Value], maps: Mapping[str, RuleMap], opset: int
    ) -> None:
        self._e = e
        self._leads = leads
        self._maps = maps
        self._opset = opset
        self._passed: set[object] = set()

    def of(self, node: ir.Node) -> Finding | None:
        """What stands in the way of a gradient at a node; None where nothing does."""
        kind = self._kind(node)
        if kind is not None and kind in self._passed:
            return None
        found = self._tried(node)
        if found is None and kind is not None:
            self._passed.add(kind)
        return found

    def _kind(self, node: ir.Node) -> object | None:
        """What is the same of nodes that are alike; None of one that is like no other."""
        if node.op_type not in _ALONE or node.domain != "":
            return None
        attributes = []
        for attribute in node.attributes.data.values():
            value = attribute.value
            if attribute.type not in _NUMBERS:
                return None
            told = tuple(value) if isinstance(value, list) else value
            attributes.append((attribute.name, attribute.type, told))
        weighed = node.op_type in _WEIGHED
        first: dict[ir.Value | None, int] = {}
        return (
            node.op_type,
            tuple(attributes),
            tuple([self._told(v, weighed) for v in node.inputs]),
            tuple([self._told(v, weighed) for v in node.outputs]),
            tuple([first.setdefault(v, i) for i, v in enumerate(node.inputs)]),  # one tensor twice
        )

    def _told(self, value: ir.Value | None, weighed: bool) -> object:
        if value is None:
            return None
        dims = None if value.shape is None else value.shape.dims
        fixed: object = value.const_value
        if fixed is None:
            node = value.producer()
            # A Constant node's output is itself alone.
            fixed = value if node is not None and node.op_type == "Constant" else None
        known = fixed is not None if weighed else id(fixed)
        return (value.dtype, dims, value in self._leads, known)

    def _tried(self, node: ir.Node) -> Finding | None:
        """Each rule once, where several variants share it."""
        e, leads = self._e, self._leads
        name = node.name or node.outputs[0].name or ""
        for rules in {id(rules.get(node.op_type)): rules for rules in self._maps.values()}.values():
            why = obstacle(node, rules, self._opset)
            if why is not None:
                return Finding("obstacle", name, node.op_type, why, _accepted(node, rules))
            rule = rules[node.op_type]
            if rule.outputs == "first" and any(v in leads for v in node.outputs[1:]):
                return Finding("obstacle", name, node.op_type, FURTHER, "a use of its first output")
            cts = tuple(
                ir.Value(name=e.name("ct"), shape=v.shape, type=_float_type(v, node))
                if v in leads
                else None
                for v in node.outputs
            )
            op = Op(node, tuple(v is not None and v in leads for v in node.inputs))
            try:
                rule(e, op, cts)
            except UnsupportedNode as err:
                text = str(err).removesuffix(" See 'backlight check'.").removesuffix(".")
                reason, _, accepted = text.partition(": ")[2].partition("; supported: ")
                return Finding("obstacle", name, node.op_type, reason or text, accepted)
        return None


def _float_type(value: ir.Value, node: ir.Node) -> ir.TypeProtocol | None:
    """The type of a value's cotangent: its own, but that of codes is float."""
    if differentiable(value):
        return value.type
    like = node.inputs[0]
    known = like is not None and like.type is not None and differentiable(like)
    return like.type if like is not None and known else ir.TensorType(ir.DataType.FLOAT)


def _accepted(node: ir.Node, rules: RuleMap) -> str:
    if on_integers(node) is not None:
        return "QuantizeLinear and DequantizeLinear around float operators"
    if node.domain not in ("", "ai.onnx"):
        return "standard ai.onnx operators, or a --of or --wrt that leaves it off the way"
    if node.op_type == "If":
        return "an If whose condition is known"
    rule = rules.get(node.op_type)
    if rule is not None:
        return f"versions {', '.join(map(str, sorted(rule.versions)))} of {node.op_type}"
    return "an operator with a rule, or a --of or --wrt that leaves it off the way"
