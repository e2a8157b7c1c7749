"""Takes out what nothing reads."""

from __future__ import annotations

from functools import cache

import onnx
import onnx_ir as ir

from .nested import held_graphs

__all__ = ["remove_unused"]


def remove_unused(model: ir.Model) -> None:
    """Take out, in place, the nodes, further outputs and initializers that nothing reads.

    As onnx-ir's pass, which asks the standard about every node, though few have a further output.
    """
    graph = model.graph
    _remove(graph, graph.opset_imports.get(""))
    ends = {*graph.inputs, *graph.outputs}
    for value in list(graph.initializers.values()):
        if not value.uses() and value not in ends:
            del graph.initializers[str(value.name)]
    for function in model.functions.values():
        _remove(function, function.opset_imports.get(""))


def _remove(graph: ir.Graph | ir.Function, opset: int | None) -> None:
    ends = frozenset(graph.outputs)
    for node in reversed(graph):
        if not any(v in ends or v.uses() for v in node.outputs):
            graph.remove(node, safe=True)
            continue
        if node.inputs and node.inputs[-1] is None:
            count = next((i for i, v in enumerate(reversed(node.inputs)) if v is not None), None)
            node.resize_inputs(0 if count is None else len(node.inputs) - count)
        if opset is not None and (len(node.outputs) > 1 or node.op_type == "BatchNormalization"):
            _trim(node, ends, opset)
        for inner in held_graphs(node):
            _remove(inner, opset)


def _trim(node: ir.Node, ends: frozenset[ir.Value], opset: int) -> None:
    """Drop a node's last outputs where the standard lets them be left out and nothing reads them;
    leave such ones before them without a name."""
    optional = _optional(node.op_type, opset) if node.domain == "" else ()
    if node.op_type == "BatchNormalization" and node.domain == "":
        mode = node.attributes.get("training_mode")
        if opset < 14 or (mode is not None and (mode.is_ref() or mode.value != 0)):
            return  # its outputs say how it is computed, or it is trained
        node.attributes.pop("training_mode", None)
    if not any(optional):
        return
    for value, may_go in zip(node.outputs, optional, strict=False):
        if may_go and value not in ends and not value.uses():
            value.name = ""
    count = len(node.outputs)
    while count and not node.outputs[count - 1].name:
        count -= 1
    node.resize_outputs(count)


@cache
def _optional(op_type: str, opset: int) -> tuple[bool, ...]:
    """Which outputs may be left out; none of an operator that is unknown, or has any number."""
    try:
        outputs = onnx.defs.get_schema(op_type, opset, "").outputs
    except onnx.defs.SchemaError:
        return ()
    kinds = onnx.defs.OpSchema.FormalParameterOption
    if any(o.option == kinds.Variadic for o in outputs):
        return ()
    return tuple(o.option == kinds.Optional for o in outputs)
