"""What ONNX's own version converter can't take, rewritten before it runs."""

from __future__ import annotations

import onnx_ir as ir


def soften(model: ir.Model) -> None:
    """Rewrite, in place, forms of old opsets that the converter refuses or gets wrong."""
    model.ir_version = max(model.ir_version, 4)


def harden(model: ir.Model) -> None:
    """Mend, in place, what the converter wrote: Clip's bounds are float32 whatever x is."""
    for node in model.graph:
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
