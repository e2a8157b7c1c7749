"""A model as ONNX's message, fast where it has many nodes."""

from __future__ import annotations

from typing import Any

import onnx
import onnx_ir as ir

from .heap import seldom_collected

__all__ = ["beside_graph", "message"]

_Attributes = dict[object, onnx.AttributeProto]
# Written once per value: those that are the same where they are equal. 0.0 and -0.0 are not.
_COPIED = frozenset((ir.AttributeType.INT, ir.AttributeType.INTS, ir.AttributeType.STRING))


@seldom_collected
def message(model: ir.Model) -> onnx.ModelProto:
    """The model as a message, external weights as references.

    onnx-ir writes each field of a node and each dimension of a value by a call of its own: a third
    of the time of an export. Here a node is one call, and of the sizes and attributes, of which few
    are different, each is written once and copied. What says more of itself onnx-ir writes.
    """
    graph = model.graph
    proto: onnx.ModelProto = ir.to_proto(_without_nodes(model))
    made = proto.graph
    attributes: _Attributes = {}
    for node in graph:
        if _is_plain_node(node):
            _write(made, node, attributes)
        else:
            ir.serde.serialize_node_into(made.node.add(), node, model_ir_version=model.ir_version)
    sizes = _Sizes()
    sized: list[tuple[str, onnx.TypeProto]] = []
    for node in graph:
        for value in node.outputs:
            if value.is_graph_output():
                continue
            _write_annotation(made, value)
            type_ = sizes.of(value)
            if type_ is not None:
                sized.append((value.name or "", type_))
            elif _says_something(value):
                ir.serde.serialize_value_into(made.value_info.add(), value)
    for name, type_ in sized:
        made.value_info.add(name=name, type=type_)
    return proto


# Where onnx-ir keeps what a file says of a tensor's scale and zero point, in a value's `meta`.
_QUANTIZED = "quant_parameter_tensor_names"


def _without_nodes(model: ir.Model) -> ir.Model:
    """A view of all of a model but its nodes."""
    graph = model.graph
    view = ir.GraphView(
        graph.inputs,
        graph.outputs,
        nodes=(),
        initializers=tuple(graph.initializers.values()),
        doc_string=graph.doc_string,
        opset_imports=graph.opset_imports,
        name=graph.name,
        metadata_props=graph.metadata_props,
    )
    return ir.Model(view, **beside_graph(model))  # type: ignore[arg-type]  # onnx-ir writes both


def beside_graph(model: ir.Model) -> dict[str, Any]:
    """What a model is but its graph, as another one takes it."""
    return {
        "ir_version": model.ir_version,
        "producer_name": model.producer_name,
        "producer_version": model.producer_version,
        "domain": model.domain,
        "model_version": model.model_version,
        "doc_string": model.doc_string,
        "functions": tuple(model.functions.values()),
        "metadata_props": dict(model.metadata_props),
        "device_configurations": model.device_configurations,
    }


def _is_plain_node(node: ir.Node) -> bool:
    return not (
        node.overload or node.doc_string or node.device_configurations or _has_metadata(node)
    )


def _has_metadata(held: ir.Node | ir.Value) -> bool:
    """Whether it has any, by the slot: to ask the property makes a dict for each that has none."""
    return bool(getattr(held, "_metadata_props", True)) and bool(held.metadata_props)


def _write(graph: onnx.GraphProto, node: ir.Node, known: _Attributes) -> None:
    outputs = [v.name for v in node.outputs]
    while outputs and not outputs[-1]:
        outputs.pop()
    made = graph.node.add(
        op_type=node.op_type,
        input=["" if v is None else v.name for v in node.inputs],
        output=outputs,
    )
    if node.domain:
        made.domain = node.domain
    if node.name:
        made.name = node.name
    for attribute in node.attributes.data.values():
        if attribute.is_ref():
            ir.serde.serialize_reference_attribute_into(made.attribute.add(), attribute)
            continue
        if attribute.type not in _COPIED or attribute.doc_string:
            ir.serde.serialize_attribute_into(made.attribute.add(), attribute)
            continue
        value = attribute.value
        key = (attribute.name, attribute.type, tuple(value) if isinstance(value, list) else value)
        found = known.get(key)
        if found is None:
            found = known[key] = ir.serde.serialize_attribute(attribute)
        made.attribute.append(found)


class _Sizes:
    """The types of values, each written once."""

    def __init__(self) -> None:
        self._by_size: dict[object, onnx.TypeProto] = {}
        self._by_shape: dict[object, onnx.TypeProto | None] = {}

    def of(self, value: ir.Value) -> onnx.TypeProto | None:
        """A value's type and shape, where these and its name are all that is to be written."""
        type_, shape = value.type, value.shape
        if type(type_) is not ir.TensorType or not value.name:
            return None
        if value.doc_string or _has_metadata(value) or type_.denotation:
            return None
        # Many values share a shape, which the model holds.
        key = (type_.dtype, id(shape))
        if key not in self._by_shape:
            self._by_shape[key] = self._written(type_, shape)
        return self._by_shape[key]

    def _written(self, type_: ir.TensorType, shape: ir.Shape | None) -> onnx.TypeProto | None:
        if shape is not None and any(shape.get_denotation(i) for i in range(len(shape))):
            return None
        key = (type_.dtype, None if shape is None else shape.dims)
        made = self._by_size.get(key)
        if made is None:
            made = self._by_size[key] = ir.serde.serialize_type(type_)
            if shape is not None:
                ir.serde.serialize_shape_into(made, shape)
        return made


def _says_something(value: ir.Value) -> bool:
    known = value.type is not None or value.shape is not None
    return bool(value.name and (known or value.doc_string or value.metadata_props))


def _write_annotation(graph: onnx.GraphProto, value: ir.Value) -> None:
    if getattr(value, "_metadata", True) and (said := value.meta.get(_QUANTIZED)):
        annotation = graph.quantization_annotation.add(tensor_name=value.name)
        for key, name in sorted(said.items()):
            annotation.quant_parameter_tensor_names.add(key=key, value=name)
