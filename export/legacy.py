"""What ONNX's own version converter can't take, rewritten before it runs."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir

from . import traits
from .named import constant_called
from .nested import nodes_of
from .rules.op import Op, first_input


def align_functions(model: ir.Model) -> None:
    """Give functions, in place, the model's version of the standard operators where all that they
    use is the same in both: then they can be inlined. One of a standard operator's name goes:
    runtimes take their own."""
    wanted = model.graph.opset_imports.get("")
    for key in [k for k in model.functions if k[0] in ("", "ai.onnx") and version(k[1], wanted)]:
        del model.functions[key]
    for function in model.functions.values():
        own = function.opset_imports.get("")
        if wanted is None or own in (None, wanted):
            continue
        used = {n.op_type for n in nodes_of(function.graph) if n.domain in ("", "ai.onnx")}
        if all(version(op, own) == version(op, wanted) for op in used):
            function.opset_imports[""] = wanted


def version(op_type: str, opset: int | None) -> int | None:
    """The version of an operator that an opset has; None where it has none."""
    try:
        return int(onnx.defs.get_schema(op_type, opset or 1, "").since_version)
    except onnx.defs.SchemaError:
        return None


def soften(model: ir.Model) -> None:
    """Rewrite, in place, forms of old opsets that the converter refuses or gets wrong. Raises
    UnsupportedNode for a BatchNormalization that trains, or has statistics for each pixel."""
    model.ir_version = max(model.ir_version, 4)
    if model.graph.opset_imports.get("", 14) >= 14:
        return
    for node in nodes_of(model.graph):
        if node.op_type == "BatchNormalization" and node.domain == "":
            _soften_batch_normalization(node)


def _soften_batch_normalization(node: ir.Node) -> None:
    op = Op(node, ())
    if any(v.uses() or v.is_graph_output() for v in node.outputs[1:]):
        raise op.unsupported("its training outputs are used", "its first output alone")
    node.resize_outputs(1)
    if "spatial" in node.attributes and not op.attr("spatial"):
        shape = op.need(1).shape
        if shape is None or len(shape) > 1:
            raise op.unsupported("spatial = 0", "spatial = 1")
    node.attributes.pop("spatial", None)  # for one number per channel, it says nothing


def harden(model: ir.Model, opset: int) -> None:
    """Mend, in place, what the converter wrote for a model of this opset: Clip's bounds and what
    Pad fills in are float32 whatever x is, Pad keeps attributes that became inputs, and Resize has
    opset 11's defaults."""
    for node in model.graph:
        if node.op_type == "Resize" and opset < 11:
            _resize_as_before(model, node)
        if node.op_type == "Pad":
            for name in ("pads", "paddings", "value"):
                node.attributes.pop(name, None)
        typed = {"Clip": (1, 2), "Pad": (2,)}.get(node.op_type)
        if typed is None or node.inputs[0] is None or node.inputs[0].dtype is None:
            continue
        dtype = node.inputs[0].dtype
        for index in typed:
            bound = node.inputs[index] if index < len(node.inputs) else None
            tensor = None if bound is None else ir.convenience.get_const_tensor(bound)
            if bound is None or tensor is None or tensor.dtype == dtype:
                continue
            _retype(model, node, index, dtype)


def _retype(model: ir.Model, node: ir.Node, index: int, dtype: ir.DataType) -> None:
    """Give a node a constant input in another dtype."""
    old = node.inputs[index]
    tensor = None if old is None else ir.convenience.get_const_tensor(old)
    assert old is not None
    assert tensor is not None
    array = tensor.numpy().astype(dtype.numpy())
    node.replace_input_with(index, constant_called(model.graph, f"{old.name}/{dtype.name}", array))


def help_inference(model: ir.Model) -> bool:
    """Tell ONNX's shape inference, in place, what it can't find: that Split keeps the rank where
    the run has its sizes, Pad with int32 axes, and what follows backwards, behind operators that
    it doesn't know. True if there was something to tell."""
    told = _backwards(model)
    for node in model.graph:
        if node.domain not in ("", "ai.onnx") or not node.inputs or node.inputs[0] is None:
            continue
        if node.op_type == "Pad" and len(node.inputs) > 3 and node.inputs[3] is not None:
            tensor = ir.convenience.get_const_tensor(node.inputs[3])
            if tensor is not None and tensor.dtype == ir.DataType.INT32:
                _retype(model, node, 3, ir.DataType.INT64)
                told = True
        shape = node.inputs[0].shape
        if node.op_type != "Split" or shape is None or not len(shape):
            continue
        dims: list[int | ir.SymbolicDim | None] = list(shape)
        dims[node.attributes.get_int("axis", 0) % len(dims)] = None
        for value in node.outputs:
            if value.shape is None:
                value.shape = ir.Shape(dims)
                told = True
    return told


# Of those, what gives another type (but for a Cast), or draws one of its own, is left out.
_KEEPS_SHAPE = traits.KEEPS_SHAPE - traits.NO_GRADIENT - traits.QUANTIZES - {"CastLike"}


def _backwards(model: ir.Model) -> bool:
    """Give inputs of unknown shape the one that their reader makes sure of: class scores are shaped
    like their Softmax, a dense layer reads rows of its weights' length. Only in models with foreign
    operators: elsewhere an unknown shape says that shapes contradict each other."""
    if all(node.domain in ("", "ai.onnx") for node in model.graph):
        return False
    told = False
    for node in reversed(model.graph):
        source = first_input(node)
        if source is None or source.shape is not None or node.domain not in ("", "ai.onnx"):
            continue
        made = node.outputs[0]
        if node.op_type in _KEEPS_SHAPE:
            source.shape = made.shape
            if node.op_type != "Cast" and source.dtype is None and made.dtype is not None:
                source.dtype = made.dtype
        elif node.op_type in ("Gemm", "MatMul"):
            source.shape = _rows_read(node)
        told |= source.shape is not None
    return told


def _rows_read(node: ir.Node) -> ir.Shape | None:
    """[..., K] of a Gemm or MatMul by a weight [K, M]; the output gets its rank by the way."""
    weight, made = node.inputs[1], node.outputs[0]
    if weight is None or weight.shape is None or len(weight.shape) != 2:
        return None
    gemm = node.op_type == "Gemm"
    if gemm and node.attributes.get_int("transA", 0) == 1:
        return None
    turned = gemm and node.attributes.get_int("transB", 0) == 1
    wide, long = (weight.shape[axis] for axis in ((1, 0) if turned else (0, 1)))
    if gemm and made.shape is None:
        made.shape = ir.Shape([None, long])
    if made.shape is None or len(made.shape) < 1:
        return None
    return ir.Shape([*list(made.shape)[:-1], wide])


def _resize_as_before(model: ir.Model, node: ir.Node) -> None:
    """Up to opset 10, Resize and Upsample know no coordinate modes: output i lies at i / scale,
    which ONNX Runtime rounds down, and up along an axis that shrinks. One node for each."""
    given = node.inputs[2] if len(node.inputs) > 2 else None
    tensor = None if given is None else ir.convenience.get_const_tensor(given)
    scales = np.ones(0) if tensor is None else tensor.numpy()
    node.attributes.add(ir.AttrString("coordinate_transformation_mode", "asymmetric"))
    shrinks, grows = bool((scales < 1).any()), bool((scales > 1).any())
    node.attributes.add(ir.AttrString("nearest_mode", "ceil" if shrinks else "floor"))
    linear = node.attributes.get_string("mode", "nearest") != "nearest"
    if linear or not (shrinks and grows) or given is None:
        return
    parts = []
    for kind, part in (("down", np.minimum(scales, 1)), ("up", np.maximum(scales, 1))):
        parts.append(constant_called(model.graph, f"{given.name}/{node.name}/{kind}", part))
    inputs = [node.inputs[0], node.inputs[1], parts[0]]
    first = ir.Node("", "Resize", inputs, list(node.attributes.values()), name=f"{node.name}/down")
    first.outputs[0].name = f"{node.outputs[0].name}/down"
    model.graph.insert_before(node, first)
    node.replace_input_with(0, first.outputs[0])
    node.replace_input_with(2, parts[1])
    node.attributes.add(ir.AttrString("nearest_mode", "floor"))
