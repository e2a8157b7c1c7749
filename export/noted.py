"""What a check says of a model that can be explained: where its rules differ, and where they
agree."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import onnx_ir as ir

from ..errors import ModelError
from . import traits
from .report import Finding
from .rules import Op, RuleMap, guarded
from .rules.clamps import is_clipped, rectifies
from .rules.quantize import is_quantized_rectifier
from .rules.spelled import Spelled

__all__ = ["notes_on"]

# Rectifiers by their name; others are spelled, and said.
# A Clip is one by its bounds.
_PLAIN = traits.RECTIFIES - traits.LEAKS | {"Clip"}


def notes_on(
    nodes: Sequence[ir.Node], together: Sequence[Spelled], maps: dict[str, RuleMap],
    declared: int, opset: int,
) -> list[Finding]:  # fmt: skip
    """together: rectifiers of several nodes."""
    notes = []
    inside = {node for one in together for node in one.inside}
    ends = {one.y: one.slope for one in together}
    nodes = [n for n in nodes if n not in inside or n.outputs[0] in ends]
    if declared != opset:
        notes.append(Finding("note", "", "", f"opset {declared} is upgraded to {opset}"))
    rectifying = [
        n for n in nodes if n.op_type == "QuantizeLinear" and _holds(is_quantized_rectifier, n)
    ]
    if rectifying:
        reason = (
            "does a fused Relu's work, its lowest code being 0: a rectifier under deconv and "
            f"guided{_many(rectifying)}"
        )
        notes.append(Finding("note", rectifying[0].name or "", "QuantizeLinear", reason))
    spelled: dict[str, list[str]] = {}
    for node in nodes:
        whole = ends.get(node.outputs[0]) == 0
        if whole or (node.op_type not in _PLAIN and _rectifies(node)):
            spelled.setdefault(node.op_type, []).append(node.name or node.outputs[0].name or "")
    for op_type, found in spelled.items():
        reason = f"does a Relu's work (max(x, 0), or up to a bound): a rectifier{_many(found)}"
        notes.append(Finding("note", found[0], op_type, reason))
    # Of other rules than vanilla alone: what a class activation map walks has often none.
    if (
        set(maps) != {"vanilla"}
        and not (rectifying or spelled or any(ends.values()))
        and not any(
            n.op_type in traits.RECTIFIES or (n.op_type == "Clip" and _rectifies(n)) for n in nodes
        )
    ):
        notes.append(
            Finding("note", "", "", "no rectifier on the way: the three rules give the same map")
        )
    vanilla = next(iter(maps.values()))
    smooth: dict[str, list[str]] = {}
    for node in nodes:
        rule = vanilla.get(node.op_type)
        if rule is not None and rule.smooth and node.outputs[0] not in ends:
            smooth.setdefault(node.op_type, []).append(node.name or "")
    for op_type, found in smooth.items():
        reason = f"smooth: keeps its own derivative under deconv and guided{_many(found)}"
        notes.append(Finding("note", found[0], op_type, reason))
    clips = [
        n for n in nodes if n.outputs[0] not in ends and _holds(lambda op: is_clipped(op.node), n)
    ]
    if clips:
        reason = (
            "no rectifier (its lower bound is not 0, or it is a gate): vanilla everywhere"
            + _many(clips)
        )
        notes.append(Finding("note", clips[0].name or "", "Clip", reason))
    leaky = [
        n
        for n in nodes
        if ends.get(n.outputs[0]) or (n.op_type in traits.LEAKS and not _rectifies(n))
    ]
    if leaky:
        reason = "has a slope below 0: deconv and guided rectify the cotangent first"
        notes.append(Finding("note", leaky[0].name or "", leaky[0].op_type, reason))
    return notes


def _many(found: Sequence[object]) -> str:
    return f" ({len(found)} nodes)" if len(found) > 1 else ""


def _rectifies(node: ir.Node) -> bool:
    return _holds(lambda op: rectifies(op.node), node)


def _holds(test: Callable[[Op], bool], node: ir.Node) -> bool:
    """Whether something is true of a node; not of one that its rule refuses to read."""
    op = Op(node, ())
    try:
        with guarded(op):
            return test(op)
    except ModelError:
        return False
