"""The same mathematics in other operators, per target: rules that replace the portable ones."""

from __future__ import annotations

import onnx_ir as ir

from ...errors import UsageError
from ..emit import Emitter
from ..rules import Rule, RuleMap
from ..variants import variant
from . import cpu, cuda, indices, tensorrt
from .order import put_masks_first
from .stack import stack_products

# Per target, whatever the variant; then what differs between the variants. OpenVINO has no form of
# its own: what it needs (no Indices, no weight that two passes share) suits every runtime, and is
# in the portable rules.
LOWERINGS: dict[str, dict[str, Rule]] = {
    "portable": {},
    "cpu": cpu.RULES,
    "cuda": indices.RULES,
    "tensorrt": tensorrt.RULES,
    "openvino": {},
}
EMITTERS: dict[str, type[Emitter]] = {"cpu": cpu.CpuEmitter, "cuda": cuda.CudaEmitter}
BY_VARIANT: dict[str, dict[str, dict[str, Rule]]] = {"cpu": cpu.BY_VARIANT}


def lowered(name: str, target: str) -> RuleMap:
    """The rules of a variant for a target; UsageError if either is unknown."""
    if target not in LOWERINGS:
        raise UsageError.unknown("target (--for)", target, LOWERINGS)
    return {**variant(name), **LOWERINGS[target], **BY_VARIANT.get(target, {}).get(name, {})}


def emitter(graph: ir.Graph, opset: int, target: str) -> Emitter:
    """What writes nodes behind a graph's own in the operators of a target."""
    return EMITTERS.get(target, Emitter)(graph, opset)


def finish(e: Emitter, target: str) -> None:
    """What a target does with the whole graph, once all rules are written."""
    if target == "cpu":
        stack_products(e)
        put_masks_first(e)
