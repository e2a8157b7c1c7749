"""Turns a float32 graph into one of float16 or bfloat16, typed through and through.

Weights and activations become half. The graph's inputs and outputs keep their names and types: the
casts are inside. What half can't do well stays in float32, with casts around it: sums over many
positions and their like (softmax, norms, means), whatever squares, divides or exponentiates,
operators that runtimes have no half kernels for, arithmetic on shapes, and numbers that half
can't hold.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes import common

from ..errors import UnsupportedNode, UsageError
from . import traits
from .emit import IN_FLOAT32
from .graph import EMITTED_OPSET
from .inference import infer_shapes
from .rules import Op, guarded
from .rules.op import constant
from .unused import remove_unused

__all__ = ["DTYPES", "checked", "narrow", "opset_for"]

FLOAT = ir.DataType.FLOAT
DTYPES = {"float32": None, "float16": ir.DataType.FLOAT16, "bfloat16": ir.DataType.BFLOAT16}

# What only moves numbers about. Not shown to run in half: the four that are left out.
_MOVES = traits.MOVES - {"CenterCropPad", "Compress", "ReverseSequence", "Trilu"}
# Runs in half, as runtimes do it; everything else that reads or makes float32 stays as it is.
_HALF = _MOVES | frozenset(
    "Abs Add ArgMax ArgMin AveragePool BatchNormalization Clip ConstantOfShape Conv ConvTranspose "
    "Div Dropout Einsum Equal Erf Gelu Gemm GlobalMaxPool Greater GreaterOrEqual HardSigmoid "
    "HardSwish LeakyRelu Less LessOrEqual MatMul Max MaxPool Min Mul Neg Not PRelu ReduceMax "
    "ReduceMin Relu ScatterElements ScatterND Shape Sigmoid Sign Size Sub Sum Tanh "
    "ThresholdedRelu TopK Where".split()
)
# A number too large for half counts as the largest there: it is a bound or stands for infinity.
_BOUNDS = traits.COMPARES | {"Clip", "Max", "Min", "Pad", "Where"}


def checked(dtype: str, lowering: str) -> ir.DataType | None:
    """The type to narrow to; None for float32. Raises UsageError."""
    if dtype not in DTYPES:
        raise UsageError.unknown("dtype", dtype, DTYPES)
    found = DTYPES[dtype]
    if found is not None and lowering == "cpu":
        raise UsageError(
            f"--for cpu with --dtype {dtype}: the CPU's blocked layout is of float32; "
            "accepted: --for portable, cuda, tensorrt or openvino, or --dtype float32"
        )
    return found


def opset_for(dtype: ir.DataType | None) -> int:
    """The opset from which on the standard's operators take a type."""
    return 22 if dtype == ir.DataType.BFLOAT16 else EMITTED_OPSET


def narrow(model: ir.Model, dtype: ir.DataType) -> None:
    """Bring a model in float32 to FLOAT16 or BFLOAT16, in place.

    Raises UnsupportedNode for a quantised model and for control flow, UsageError where there is
    nothing to narrow.
    """
    for node in model.graph:
        _refuse(node, dtype)
    common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    infer_shapes(model)
    narrowed = _Narrowing(model.graph, dtype).run()
    if not narrowed and not any(v.dtype == dtype for n in model.graph for v in n.outputs):
        raise UsageError(f"--dtype {dtype.name.lower()}: the model has nothing in float32")
    remove_unused(model)


def _refuse(node: ir.Node, dtype: ir.DataType) -> None:
    name = f"{node.op_type} '{node.name}'"
    if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
        raise UnsupportedNode(
            f"{name}: a quantised model has 8 bits already; supported with --dtype "
            f"{dtype.name.lower()}: a float model"
        )
    if any(a.type == ir.AttributeType.GRAPH for a in node.attributes.values()):
        raise UnsupportedNode(
            f"{name}: control flow is not narrowed; supported with --dtype "
            f"{dtype.name.lower()}: graphs without it"
        )


class _Narrowing:
    """One pass over a graph in order. A value is float32 or, once narrowed, half; where a node
    needs the other, it gets a cast, once per value."""

    def __init__(self, graph: ir.Graph, dtype: ir.DataType) -> None:
        self.graph = graph
        self.dtype = dtype
        self.narrowed: set[ir.Value] = set()
        self.cast: dict[tuple[ir.Value, ir.DataType], ir.Value] = {}
        self.taken = {v.name for v in ir.convenience.create_value_mapping(graph).values()}
        # Computed from constants alone, and from shapes alone (or both).
        self.fixed: set[ir.Value] = set(graph.initializers.values())
        self.host: set[ir.Value] = set()
        with np.errstate(over="ignore"):
            kind = dtype.numpy()
            self.limits = (float(dtype.max), 2.0**-14) if kind == np.float16 else (np.inf, 0.0)

    def run(self) -> int:
        """Returns how many values were narrowed."""
        outputs = list(self.graph.outputs)
        for node in list(self.graph):
            with guarded(Op(node, ())):
                self._trace(node)
                self._convert(node)
        ends: dict[ir.Value, ir.Value] = {}
        for index, value in enumerate(outputs):
            if value in self.narrowed:
                if value not in ends:
                    ends[value] = self._as_declared(value)
                self.graph.outputs[index] = ends[value]
        return len(self.narrowed)

    def _trace(self, node: ir.Node) -> None:
        reads = [v for v in node.inputs if v is not None]
        if reads and all(v in self.fixed for v in reads):
            self.fixed.update(node.outputs)
        elif node.op_type in traits.ASKS_SIZE or (
            any(v in self.host for v in reads)
            and all(v in self.host or v in self.fixed for v in reads)
            and node.op_type not in ("ConstantOfShape", "Expand")
        ):
            self.host.update(node.outputs)

    def _convert(self, node: ir.Node) -> None:
        floats = [v for v in node.inputs if v is not None and self._is_float(v)]
        if node.op_type == "Cast":
            self._convert_cast(node)
        elif self._takes_half(node, floats):
            if node.op_type == "BatchNormalization":
                self._settle(node)
            if node.op_type == "ConstantOfShape":
                self._fill(node)
            self._feed(node, self.dtype)
            self._mark(node.outputs)
        else:
            self._feed(node, FLOAT)

    def _is_float(self, value: ir.Value) -> bool:
        return value.dtype == FLOAT or value in self.narrowed

    def _mark(self, values: Iterable[ir.Value]) -> None:
        for value in values:
            if value.dtype == FLOAT:
                value.type = ir.TensorType(self.dtype)  # the old one may be shared
                self.narrowed.add(value)

    def _takes_half(self, node: ir.Node, floats: list[ir.Value]) -> bool:
        if node.domain not in ("", "ai.onnx") or node.op_type not in _HALF:
            return False
        if IN_FLOAT32 in node.meta or any(v in self.host for v in node.outputs):
            return False
        if all(v in self.fixed for v in node.outputs) and node.op_type != "ConstantOfShape":
            # Arithmetic on constants is done once, on loading; a weight turned about is half.
            return node.op_type in _MOVES and any(_rank(v) > 1 for v in floats)
        if node.op_type == "Div" and node.inputs[1] not in self.fixed:
            return False
        if node.op_type == "Mul" and node.inputs[0] is node.inputs[1]:
            return False  # a square
        if node.op_type.startswith("Scatter") and "reduction" in node.attributes:
            return False
        if node.op_type == "BatchNormalization":
            return all(constant(v) is not None for v in node.inputs[1:])
        return not any(self._lossy(v, node.op_type) for v in floats)

    def _lossy(self, value: ir.Value, op_type: str) -> bool:
        """Whether a constant number is one that half can't hold."""
        if value not in self.fixed or _size(value) != 1:
            return False
        array = constant(value)
        if array is None:
            return False
        number, (high, low) = abs(float(array.reshape(()))), self.limits
        too_large = high < number < np.inf and op_type not in _BOUNDS
        return too_large or 0 < number < low

    def _convert_cast(self, node: ir.Node) -> None:
        """To float32 becomes to half, but not of what may be an index or a size."""
        source = node.inputs[0]
        assert source is not None
        if node.attributes["to"].as_int() != FLOAT or IN_FLOAT32 in node.meta:
            return
        wide = source.dtype is not None and source.dtype.is_integer() and source.dtype.bitwidth > 8
        if wide or source in self.host or source in self.fixed:
            return
        node.attributes["to"] = ir.AttrInt64("to", int(self.dtype))
        self._mark(node.outputs)

    def _settle(self, node: ir.Node) -> None:
        """Mean 0 and variance 1: a variance may be too small for half, what it scales by isn't."""
        given = [constant(v) for v in node.inputs[1:]]
        scale, bias, mean, var = (np.asarray(a, np.float64) for a in given)
        epsilon = node.attributes.get_float("epsilon", 1e-5)
        factor = scale / np.sqrt(var + epsilon)
        arrays = (factor, bias - mean * factor, np.zeros_like(mean), np.ones_like(var))
        for index, array in enumerate(arrays):
            made = self._initializer(array, f"{node.name}/{index}", self.dtype)
            node.replace_input_with(index + 1, made)
        node.attributes["epsilon"] = ir.AttrFloat32("epsilon", 0.0)

    def _fill(self, node: ir.Node) -> None:
        given = node.attributes.get("value")
        value = np.zeros(1) if given is None else given.as_tensor().numpy()
        if given is None or given.as_tensor().dtype == FLOAT:
            tensor = ir.tensor(self._clipped(value), dtype=self.dtype)
            node.attributes["value"] = ir.AttrTensor("value", tensor)

    def _feed(self, node: ir.Node, dtype: ir.DataType) -> None:
        """Give a node its float inputs in one type."""
        for index, value in enumerate(node.inputs):
            if value is not None and self._is_float(value) and value.dtype != dtype:
                node.replace_input_with(index, self._as(value, dtype, node))

    def _as(self, value: ir.Value, dtype: ir.DataType, before: ir.Node) -> ir.Value:
        """A value in another type: an initializer of its own, or a cast in front of a node."""
        key = (value, dtype)
        if key not in self.cast:
            if value.const_value is not None and value.is_initializer():
                array = value.const_value.numpy()
                self.cast[key] = self._initializer(array, f"{value.name}", dtype)
            else:
                made = self._named(f"{value.name}/{dtype.name.lower()}")
                self.graph.insert_before(before, _cast(value, made, dtype))
                self.cast[key] = made
                if value in self.fixed:
                    self.fixed.add(made)
        return self.cast[key]

    def _as_declared(self, value: ir.Value) -> ir.Value:
        """A narrowed output in float32, under its name; what it was gets another one."""
        name = value.name
        self.taken.discard(name)
        value.name = self._named(f"{name}/{self.dtype.name.lower()}").name
        made = ir.Value(name=name)
        self.graph.append(_cast(value, made, FLOAT))
        return made

    def _initializer(self, array: NDArray[Any], name: str, dtype: ir.DataType) -> ir.Value:
        made = self._named(f"{name}/{dtype.name.lower()}")
        tensor = ir.tensor(self._clipped(array), dtype=dtype, name=made.name)
        made.const_value, made.dtype, made.shape = tensor, dtype, ir.Shape(array.shape)
        self.graph.register_initializer(made)
        self.fixed.add(made)
        return made

    def _clipped(self, array: NDArray[Any]) -> NDArray[Any]:
        """In the half type: finite numbers stay finite."""
        high = float(self.dtype.max)
        finite = np.where(np.isfinite(array), np.clip(array, -high, high), array)
        return np.asarray(finite.astype(self.dtype.numpy()))

    def _named(self, name: str) -> ir.Value:
        while name in self.taken:
            name += "_"
        self.taken.add(name)
        return ir.Value(name=name)


def _cast(value: ir.Value, made: ir.Value, dtype: ir.DataType) -> ir.Node:
    made.dtype, made.shape = dtype, value.shape
    to = [ir.AttrInt64("to", int(dtype))]
    return ir.Node("", "Cast", [value], to, outputs=[made], name=made.name)


def _rank(value: ir.Value) -> int:
    return 0 if value.shape is None else len(value.shape)


def _size(value: ir.Value) -> int | None:
    """The number of elements, where it is known."""
    if value.const_value is not None:
        return value.const_value.size
    if value.shape is None or not all(isinstance(d, int) for d in value.shape):
        return None
    return int(np.prod(value.shape.numpy(), dtype=np.int64))
