"""What a file must be before it is a graph: its data there, its nodes in order and as the standard
has them. Without ONNX's checker, which copies the weights and refuses files that run."""

from __future__ import annotations

import math
import os
from pathlib import Path

import onnx
import onnx_ir as ir

from ..errors import ModelError

__all__ = ["check_external", "check_nodes", "check_structure"]


def _tensors(graph: onnx.GraphProto) -> list[onnx.TensorProto]:
    found = list(graph.initializer)
    for sparse in graph.sparse_initializer:
        found += [sparse.values, sparse.indices]
    for node in graph.node:
        for attribute in node.attribute:
            found += [attribute.t] if attribute.HasField("t") else []
            found += attribute.tensors
            for inner in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                found += _tensors(inner)
    return found


def check_external(proto: onnx.ModelProto, folder: Path | None, source: str) -> None:
    """Refuse external data outside the model's folder; name what is missing or too short."""
    for tensor in _tensors(proto.graph):
        if tensor.data_location != onnx.TensorProto.EXTERNAL:
            continue
        entry = {e.key: e.value for e in tensor.external_data}
        location = entry.get("location", "")
        what = f"{source}: tensor '{tensor.name}' has its data in '{location}'"
        if folder is None:
            raise ModelError(f"{what}; give the model as a file, so that its folder is known")
        inside = folder.resolve()
        try:
            file = (folder / location).resolve()
            there = file.is_file()
        except (OSError, ValueError):  # a name too long, or with a NUL in it
            raise ModelError(f"{what}, which is no file's name") from None
        if not location or os.path.isabs(location) or not file.is_relative_to(inside):
            raise ModelError(f"{what}, outside the model's folder: refused")
        if not there:
            raise ModelError(f"{what}, which is missing")
        try:
            offset, length = int(entry.get("offset", 0)), int(entry.get("length", 0))
        except ValueError:
            raise ModelError(f"{what} at an offset that is no number") from None
        needed = _bytes_of(tensor)
        if "length" in entry and needed is not None and length != needed:
            raise ModelError(f"{what}: {length} bytes of it, but its shape needs {needed}")
        length = length if needed is None else needed
        if offset < 0 or length < 0 or file.stat().st_size < offset + length:
            raise ModelError(
                f"{what}, which is truncated: expected {length} bytes from byte {offset}"
            )


def _bytes_of(tensor: onnx.TensorProto) -> int | None:
    """What a tensor's data takes by its shape; None for a type or a shape that is none."""
    try:
        bits = ir.DataType(tensor.data_type).bitwidth
    except (ValueError, TypeError):  # no such type; strings
        return None
    if min(tensor.dims, default=1) < 0:
        return None
    return -(-math.prod(int(d) for d in tensor.dims) * bits // 8)


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
    for name, value in model.graph.initializers.items():
        tensor = value.const_value
        if tensor is None or isinstance(tensor, ir.ExternalTensor):
            continue
        try:
            whole = tensor.dtype == ir.DataType.STRING or len(tensor.tobytes()) == tensor.nbytes
        except Exception:  # a tensor with no data, or less than its shape says
            whole = False
        if not whole:
            raise ModelError(f"{source}: truncated: initializer '{name}' lacks data")


def check_nodes(model: ir.Model, opset: int, source: str) -> None:
    """Inputs and attributes as the standard has them: ONNX's C++ version converter takes them for
    granted, and takes the whole process with it where they are otherwise. Raises ModelError."""
    for node in ir.traversal.RecursiveGraphIterator(model.graph):
        if node.domain not in ("", "ai.onnx"):
            continue
        try:
            schema = onnx.defs.get_schema(node.op_type, opset)
        except onnx.defs.SchemaError:  # no rule will cover it either
            continue
        name = node.name or next((v.name for v in node.outputs if v.name), "")
        what = f"{source}: not a valid ONNX model: {node.op_type} '{name}' (opset {opset})"
        count, least, most = len(node.inputs), schema.min_input, schema.max_input
        if not least <= count <= most:
            upto = f" to {most}" if least < most < 100 else " and up" if most > least else ""
            raise ModelError(f"{what} has {count} inputs; expected {least}{upto}")
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
