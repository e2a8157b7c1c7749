"""A model as ONNX's message, fast where it has many values."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import onnx
import onnx_ir as ir

from .heap import seldom_collected

__all__ = ["message"]


@dataclass(frozen=True, slots=True)
class _Sized:
    """A value whose type and shape are set aside."""

    value: ir.Value
    type: ir.TensorType
    shape: ir.Shape | None


@seldom_collected
def message(model: ir.Model) -> onnx.ModelProto:
    """The model as a message, external weights as references.

    onnx-ir writes the size of every value by itself, dimension by dimension: a third of the time
    of an export. Few are different: each is written once here, and copied.
    """
    with _set_aside(model.graph) as sized:
        proto: onnx.ModelProto = ir.to_proto(model)
    written: dict[object, onnx.TypeProto] = {}
    infos = proto.graph.value_info
    for each in sized:
        dims = None if each.shape is None else each.shape.dims
        key = (each.type.dtype, dims)
        type_ = written.get(key)
        if type_ is None:
            type_ = written[key] = ir.serde.serialize_type(each.type)
            if each.shape is not None:
                ir.serde.serialize_shape_into(type_, each.shape)
        info = infos.add()
        info.name = each.value.name
        info.type.CopyFrom(type_)
    return proto


@contextmanager
def _set_aside(graph: ir.Graph) -> Iterator[list[_Sized]]:
    """The sizes of what a graph's own nodes make, taken off their values. What says more of itself
    than its size, and the graph's outputs, keep theirs."""
    sized = [
        _Sized(value, value.type, value.shape)
        for node in graph
        for value in node.outputs
        if type(value.type) is ir.TensorType and _is_plain(value)
    ]
    try:
        for each in sized:
            each.value.type = each.value.shape = None
        yield sized
    finally:
        for each in sized:
            each.value.type, each.value.shape = each.type, each.shape


def _is_plain(value: ir.Value) -> bool:
    """Whether a value's name, type and shape are all that is to be written of it."""
    if not value.name or value.is_graph_output() or value.doc_string or value.metadata_props:
        return False
    assert value.type is not None
    if value.type.denotation:
        return False
    shape = value.shape
    return shape is None or not any(shape.get_denotation(i) for i in range(len(shape)))
