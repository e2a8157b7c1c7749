"""What a graph must be before it is transformed: its nodes in order and as the standard has them.

Without ONNX's checker, which copies the weights and refuses files that run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import onnx
import onnx_ir as ir

from ..errors import ModelError
from .nested import nodes_of

__all__ = ["check_nodes", "check_structure"]

# The version converter and ONNX Runtime look a node's attributes up one by one: 200,000 of them
# take minutes. No operator of any domain knows a tenth of this.
_ATTRIBUTES = 1000


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
        if len(node.attributes) > _ATTRIBUTES:
            name = node.name or next((v.name for v in node.outputs if v.name), "")
            raise ModelError(
                f"{source}: {node.op_type} '{name}' has {len(node.attributes)} attributes; "
                f"expected {_ATTRIBUTES} at most"
            )
        form = _form(node.op_type, opset) if node.domain in ("", "ai.onnx") else None
        if form is None:  # no rule will cover it either
            continue
        fault = form.fault(node)
        if fault is not None:
            name = node.name or next((v.name for v in node.outputs if v.name), "")
            what = f"{source}: not a valid ONNX model: {node.op_type} '{name}' (opset {opset})"
            raise ModelError(f"{what}{fault}")


@dataclass(frozen=True)
class _Form:
    """What the standard says of an operator. inputs, outputs: at least and at most so many.
    attributes: each one's kind, and whether it must be there."""

    op_type: str
    inputs: tuple[int, int]
    outputs: tuple[int, int]
    attributes: Mapping[str, tuple[str, bool]]

    def fault(self, node: ir.Node) -> str | None:
        """What is otherwise in a node."""
        for side, count, (least, most) in (
            ("inputs", len(node.inputs), self.inputs),
            ("outputs", len(node.outputs), self.outputs),
        ):
            if not least <= count <= most:
                upto = f" to {most}" if least < most < 100 else " and up" if most > least else ""
                return f" has {count} {side}; expected {least}{upto}"
        own = node.attributes.data
        if self.op_type == "Constant" and len(own) != 1:
            return f" has {len(own)} attributes; expected one"
        for key, (kind, required) in self.attributes.items():
            attribute = own.get(key)
            if attribute is None:
                if required:
                    return f" lacks its attribute '{key}'"
            elif attribute.type.name != kind:
                return f": attribute '{key}' is {attribute.type.name}; expected {kind}"
        return None


@cache
def _form(op_type: str, opset: int) -> _Form | None:
    """The form of a standard operator; None of what is none."""
    try:
        schema = onnx.defs.get_schema(op_type, opset)
    except onnx.defs.SchemaError:
        return None
    return _Form(
        op_type,
        (schema.min_input, schema.max_input),
        (schema.min_output, schema.max_output),
        {
            key: (str(known.type).rpartition(".")[2], bool(known.required))
            for key, known in schema.attributes.items()
        },
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
