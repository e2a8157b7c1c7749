"""What a graph must be before it is transformed: its nodes in order and as the standard has them.

Without ONNX's checker, which copies the weights and refuses files that run.
"""

from __future__ import annotations

import onnx
import onnx_ir as ir

from ..errors import ModelError
from .nested import nodes_of

__all__ = ["check_nodes", "check_structure"]


def check_structure(model: ir.Model, source: str) -> None:
    """What ONNX's checker would say of names and data, without its copies of the weights."""
    if not model.graph.outputs:
        raise ModelError(f"{source}: not a valid ONNX model: it has no output")
    for value in (*model.graph.outputs, *(v for n in model.graph for v in n.inputs)):
        if value is None or value.producer() is not None or value.is_graph_input():
            continue
        if not value.is_initializer():
            raise ModelError(
                f"{source}: not a valid ONNX model: '{value.name}' is used, but nothing makes it"
            )
    _sort(model.graph, source)


def check_nodes(model: ir.Model, opset: int, source: str) -> None:
    """Inputs, outputs and attributes as the standard has them: ONNX's C++ version converter takes
    them for granted, and the whole process with it where they are otherwise. ModelError."""
    for node in nodes_of(model.graph):
        if node.domain not in ("", "ai.onnx"):
            continue
        try:
            schema = onnx.defs.get_schema(node.op_type, opset)
        except onnx.defs.SchemaError:  # no rule will cover it either
            continue
        name = node.name or next((v.name for v in node.outputs if v.name), "")
        what = f"{source}: not a valid ONNX model: {node.op_type} '{name}' (opset {opset})"
        for side, count, least, most in (
            ("inputs", len(node.inputs), schema.min_input, schema.max_input),
            ("outputs", len(node.outputs), schema.min_output, schema.max_output),
        ):
            if not least <= count <= most:
                upto = f" to {most}" if least < most < 100 else " and up" if most > least else ""
                raise ModelError(f"{what} has {count} {side}; expected {least}{upto}")
        if node.op_type == "Constant" and len(node.attributes) != 1:
            raise ModelError(f"{what} has {len(node.attributes)} attributes; expected one")
        for key, known in schema.attributes.items():
            attribute, kind = node.attributes.get(key), str(known.type).rpartition(".")[2]
            if attribute is None:
                if known.required:
                    raise ModelError(f"{what} lacks its attribute '{key}'")
            elif attribute.type.name != kind:
                raise ModelError(
                    f"{what}: attribute '{key}' is {attribute.type.name}; expected {kind}"
                )


def _sort(graph: ir.Graph, source: str) -> None:
    """Put nodes behind those they read, where a file has them otherwise. Raises ModelError."""
    seen: set[ir.Node | None] = {None}
    for node in graph:
        if not seen.issuperset(v.producer() for v in node.inputs if v is not None):
            try:
                graph.sort()
            except ValueError:
                raise ModelError(
                    f"{source}: not a valid ONNX model: its nodes read each other in a circle"
                ) from None
            return
        seen.add(node)
