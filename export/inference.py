"""What ONNX's own passes say of a graph: shapes, of every value. They serialize a model, and come
down on some: heavy weights stay aside, and what may bring them down is hidden."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator

import onnx
import onnx_ir as ir

from ..errors import InputError, ModelError
from . import traits
from .fold import Budget, fold_constants, take_branches
from .guard import bared, hidden, suspects, unbounded
from .legacy import help_inference
from .message import message
from .nested import nodes_of
from .shrinking import waves

__all__ = ["SOURCE", "first_line", "infer_shapes", "settle_shapes", "strays", "through"]


# Of inferring and folding, in turn: Swin's legacy export needs one for each of its 24 blocks, whose
# windows are reckoned from the shape that the block before makes.
ROUNDS = 48
# Weights above this many bytes stay aside while ONNX's C++ passes run: those serialize the model,
# and protobuf ends at 2 GB. What is smaller may be a shape, which the passes need to see.
_LIGHT = 1024
SOURCE = "backlight.source"


def settle_shapes(model: ir.Model, source: str, keep: Collection[str] = ()) -> None:
    """Infer shapes and fold constants, in turn, until neither finds more, or ROUNDS are over.
    Raises ModelError."""
    budget = Budget()
    try:
        take_branches(model)
        for _ in range(ROUNDS):
            infer_shapes(model)
            told = help_inference(model)
            if not fold_constants(model, keep, budget) and not told:
                return
        infer_shapes(model)
    except InputError:
        raise
    except Exception as err:  # see `load`
        raise ModelError(f"{source}: not a valid ONNX model: {first_line(err)}") from err


def infer_shapes(model: ir.Model) -> None:
    """Write what ONNX's shape inference finds into the model's values. In two steps: what a vector
    holds is carried on only where its length is known, and small."""
    stray = strays(model)
    _write(model, _inferred(model, stray))
    if any(node.op_type in traits.ASKS_SIZE for node in nodes_of(model.graph)):
        # Nothing else makes a value of what isn't constant, and constants are folded.
        _write(model, _inferred(model, stray, carry=True))


def strays(model: ir.Model) -> set[ir.Node]:
    """The nodes whose sizes would bring inference down, see `shrinking`."""
    *early, last = waves(model)
    found: set[ir.Node] = set()
    for late in early:
        found |= _unfit(model, _inferred(model, found | late))
    return found | last


def _unfit(model: ir.Model, inferred: onnx.ModelProto) -> set[ir.Node]:
    """The nodes that inference makes a size below 0 of."""
    names = {
        info.name
        for info in _infos(inferred.graph)
        if any(d.dim_value < 0 for d in info.type.tensor_type.shape.dim)
    }
    if not names:
        return set()
    return {n for n in nodes_of(model.graph) if any(v.name in names for v in n.outputs)}


def _write(model: ir.Model, inferred: onnx.ModelProto) -> None:
    found = {info.name: info.type for info in _infos(inferred.graph)}
    # Few sizes are different: each is read once, and its shape shared.
    read: dict[bytes, tuple[ir.Shape | None, ir.DataType | None]] = {}
    for name, value in _named(model.graph).items():
        type_ = found.get(name)
        if type_ is None or value.is_graph_input():
            continue
        key = type_.SerializeToString()
        if key not in read:
            read[key] = _told(type_)
        shape, dtype = read[key]
        if shape is not None:
            value.shape = shape
        if dtype is not None and value.dtype is None:
            value.dtype = dtype


def _named(graph: ir.Graph) -> dict[str, ir.Value]:
    """The values of a graph and those inside it, by name; the first of each."""
    values: dict[str, ir.Value] = dict(graph.initializers)
    for node in nodes_of(graph):
        for value in (*node.inputs, *node.outputs):
            if value is not None and value.name:
                values.setdefault(value.name, value)
    return values


def _told(kind: onnx.TypeProto) -> tuple[ir.Shape | None, ir.DataType | None]:
    """What inference says of a value. Of a map too small for its kernel, it makes a size below 0:
    none is known then."""
    if kind.WhichOneof("value") != "tensor_type":
        info = onnx.ValueInfoProto(name="v", type=kind)
        other = ir.serde.deserialize_value_info_proto(info, None)
        return other.shape, other.dtype
    tensor = kind.tensor_type
    shape = None
    if tensor.HasField("shape"):
        dims: list[int | str | None] = []
        for dim in tensor.shape.dim:
            size = dim.dim_value
            if size > 0 or (size == 0 and dim.HasField("dim_value")):
                dims.append(size)
            else:
                dims.append(None if size else dim.dim_param or None)
        shape = ir.Shape(dims)
    return shape, ir.DataType(tensor.elem_type) if tensor.elem_type else None


def _infos(graph: onnx.GraphProto) -> Iterator[onnx.ValueInfoProto]:
    """What is said of values, in subgraphs too; what an outer graph says counts."""
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                yield from _infos(inner)
    yield from graph.output
    yield from graph.value_info


def _inferred(
    model: ir.Model, apart: Collection[ir.Node] = (), carry: bool = False
) -> onnx.ModelProto:
    """The model as shape inference sees it: good for its shapes only. apart: nodes that it doesn't
    see. carry: values of shapes."""
    proto, _ = _light(model, [*apart, *(unbounded(model) if carry else ())])
    for node in proto.graph.node:
        if node.domain == "" and node.op_type in (
            "GroupNormalization",
            "MeanVarianceNormalization",
        ):
            # ONNX infers nothing for them (with axes left out): say that the shape stays.
            node.op_type = "Identity"
            del node.input[1:], node.attribute[:]
    try:
        return onnx.shape_inference.infer_shapes(
            proto, check_type=False, strict_mode=False, data_prop=carry
        )
    except Exception as err:  # of its C++: InferenceError, ValueError, MemoryError
        source = str(model.meta.get(SOURCE) or model.graph.name or "the model")
        raise ModelError(f"{source}: not a valid ONNX model: {first_line(err)}") from err


def _light(
    model: ir.Model, apart: Collection[ir.Node] = ()
) -> tuple[onnx.ModelProto, dict[str, ir.TensorProtocol | None]]:
    """The model as a message for ONNX's C++ passes, without its heavy weights, and those. What
    may bring a pass down is hidden in it, and the nodes in `apart`."""
    graph = model.graph
    heavy = {
        name: value
        for name, value in graph.initializers.items()
        if value.const_value is not None and value.const_value.nbytes > _LIGHT
    }
    tensors = {name: value.const_value for name, value in heavy.items()}
    inputs = len(graph.inputs)
    for value in heavy.values():
        assert value.const_value is not None
        assert value.name is not None
        value.shape = ir.Shape(value.const_value.shape.numpy())
        value.dtype = value.const_value.dtype
        graph.initializers.pop(value.name)
        value.const_value = None
        graph.inputs.append(value)
    try:
        with hidden(model, {*suspects(model), *apart}):
            proto = message(model)
    finally:
        del graph.inputs[inputs:]
        for name, value in heavy.items():
            value.const_value = tensors[name]
            graph.register_initializer(value)
    return proto, tensors


def through(
    model: ir.Model,
    call: Callable[[onnx.ModelProto], onnx.ModelProto],
    apart: Collection[ir.Node],
) -> ir.Model:
    """Run a C++ pass of ONNX over the model without its heavy weights, and put them back. apart:
    nodes that it doesn't see."""
    proto, tensors = _light(model, apart)
    result: ir.Model = ir.from_proto(call(proto))
    bared(result)
    by_name = {v.name: v for v in result.graph.inputs}
    for name, tensor in tensors.items():
        value = by_name[name]
        result.graph.inputs.remove(value)
        value.const_value = tensor
        result.graph.register_initializer(value)
    return result


def first_line(err: BaseException) -> str:
    """The innermost cause of an error, as one line."""
    while err.__cause__ is not None:
        err = err.__cause__
    text = " ".join(str(err).split())
    return text[:200] or type(err).__name__
