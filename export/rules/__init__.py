"""One vector-Jacobian rule per operator, a file per operator family.

A rule is `rule(e, op, ct) -> cotangents`: it emits nodes through `e` and returns one cotangent
per input of the node, `None` where there is none. `ct` is the cotangent of the node's output
(with `outputs="all"`: a tuple, one per output, `None` for those that don't matter). The walk
accumulates and un-broadcasts; rules don't.

    @vjp("Sigmoid", 13)
    def sigmoid(e: Emitter, op: Op, ct: ir.Value) -> Cotangents:
        return (e.Mul(ct, e.Mul(op.y, e.Sub(1.0, op.y))),)

The numbers are the versions of the operator (ONNX's `since_version`) that the rule covers. Rules
see graphs of opset 18 and up: older ones are upgraded on loading, so versions before the one in
force at 18 need not be named.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import onnx_ir as ir

from ..emit import Emitter
from ..traits import NO_GRADIENT
from .op import Op, guarded

__all__ = [
    "COMPUTED_FROM",
    "NO_GRADIENT",
    "Cotangents",
    "Emitter",
    "Op",
    "Rule",
    "RuleMap",
    "guarded",
    "registry",
    "rule",
    "vjp",
]

Cotangents = tuple[ir.Value | None, ...]
Function = Callable[[Emitter, Op, Any], Cotangents]


@dataclass(frozen=True)
class Rule:
    """A rule and what it covers. `smooth`: a judgement call that `check` notes."""

    op_type: str
    versions: frozenset[int]
    function: Function
    outputs: Literal["first", "all"] = "first"
    smooth: bool = False

    def __call__(self, e: Emitter, op: Op, cts: Cotangents) -> Cotangents:
        with guarded(op):
            return self.function(e, op, cts if self.outputs == "all" else cts[0])


RuleMap = Mapping[str, Rule]


@dataclass
class _Registry:
    rules: dict[str, Rule] = field(default_factory=dict)
    loaded: bool = False


_registry = _Registry()

FAMILIES = (
    "activation",
    "attention",
    "conv",
    "crop",
    "elementwise",
    "fourier",
    "indexing",
    "linear",
    "max_pool",
    "normalization",
    "pool",
    "quantize",
    "recurrent",
    "rectifier",
    "reduction",
    "resize",
    "sampling",
    "shape",
)

# Whose result is computed from so many of their inputs: of the others they ask the type alone.
COMPUTED_FROM = {"CastLike": 1}


def rule(
    op_type: str,
    *versions: int,
    outputs: Literal["first", "all"] = "first",
    smooth: bool = False,
) -> Callable[[Function], Rule]:
    """Make a rule that is not the registry's own: for a variant or a lowering."""

    def made(function: Function) -> Rule:
        return Rule(op_type, frozenset(versions), function, outputs, smooth)

    return made


def vjp(
    op_type: str,
    *versions: int,
    outputs: Literal["first", "all"] = "first",
    smooth: bool = False,
) -> Callable[[Function], Function]:
    """Register the vanilla rule of an operator for these of its versions."""

    def register(function: Function) -> Function:
        assert op_type not in _registry.rules, f"two rules for {op_type}"
        _registry.rules[op_type] = Rule(op_type, frozenset(versions), function, outputs, smooth)
        return function

    return register


def registry() -> RuleMap:
    """All vanilla rules by operator."""
    if not _registry.loaded:
        for family in FAMILIES:
            importlib.import_module(f"{__name__}.{family}")
        _registry.loaded = True
    return _registry.rules
