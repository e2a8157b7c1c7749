"""What ONNX's own version converter can't take, rewritten before it runs."""

from __future__ import annotations

import onnx_ir as ir


def soften(model: ir.Model) -> None:
    """Rewrite, in place, forms of old opsets that the converter refuses or gets wrong."""
    model.ir_version = max(model.ir_version, 4)


def harden(model: ir.Model, opset: int) -> None:
    """Mend, in place, what the converter wrote for a model of this opset: Clip's bounds are
    float32 whatever x is, and Resize has opset 11's defaults."""
    for node in model.graph:
        if node.op_type == "Resize" and opset < 11:
            _resize_as_before(node)
        if node.op_type != "Clip" or node.inputs[0] is None or node.inputs[0].dtype is None:
            continue
        dtype = node.inputs[0].dtype
        for index, bound in list(enumerate(node.inputs))[1:]:
            tensor = None if bound is None else ir.convenience.get_const_tensor(bound)
            if bound is None or tensor is None or tensor.dtype == dtype:
                continue
            made = ir.tensor(
                tensor.numpy().astype(dtype.numpy()), name=f"{bound.name}/{dtype.name}"
            )
            value = ir.Value(name=made.name, const_value=made, shape=ir.Shape(tensor.shape.numpy()))
            value.dtype = dtype
            model.graph.register_initializer(value)
            node.replace_input_with(index, value)


def _resize_as_before(node: ir.Node) -> None:
    """Up to opset 10, Resize and Upsample know no coordinate modes: output i lies at i / scale,
    which ONNX Runtime rounds down, and up where it shrinks an image."""
    given = node.inputs[2] if len(node.inputs) > 2 else None
    scales = None if given is None else ir.convenience.get_const_tensor(given)
    shrinks = scales is not None and bool((scales.numpy() < 1).any())
    node.attributes.add(ir.AttrString("coordinate_transformation_mode", "asymmetric"))
    node.attributes.add(ir.AttrString("nearest_mode", "ceil" if shrinks else "floor"))
