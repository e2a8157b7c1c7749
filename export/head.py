"""Heads that are pooled and linear: z = W mean(A) + b, where much has a closed form."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ..errors import UnsupportedNode
from . import traits
from .emit import Emitter, all_dims, dim_of
from .layer import Layer
from .rules.conv import is_pointwise
from .rules.op import constant, first_input, is_fixed
from .tokens import channel_axis, merged, token_axis

__all__ = ["PooledLinear", "pooled_linear", "pooled_over"]

_PASSING = traits.SAME | traits.RESHAPES


Vector = NDArray[Any]


@dataclass(frozen=True)
class PooledLinear:
    """z = W (scale * mean(A) + shift) + b.

    weight: W as it is stored, [K, k] or [K, k, 1, 1], or [k, K] where `transposed`; factor: what it
    is multiplied by. bias: b as it is stored, times bias_factor. scale, shift: per channel.
    signs: of a single score that stands for two classes, what each of them is it times.
    rounded: whether a quantised head rounds on the way: then this is z but for its steps.
    """

    weight: ir.Value
    transposed: bool = False
    factor: float = 1.0
    bias: ir.Value | None = None
    bias_factor: float = 1.0
    scale: Vector | float = 1.0
    shift: Vector | float = 0.0
    signs: tuple[float, float] | None = None
    rounded: bool = False

    def weights(self, e: Emitter, cotangent: ir.Value) -> ir.Value:
        """The channels' weights for a cotangent of the scores [N, K]: [N, k]."""
        made = self._through(e, self._of_one(e, cotangent))
        return made if np.all(self.scale == 1) else e.Mul(made, _row(e, self.scale, made))

    def maps(self, e: Emitter, primal: ir.Value) -> ir.Value:
        """The layer [N, k, h, w] through the weights of every class: [N, K, h, w], one convolution
        of 1 x 1."""
        weight = self.weight
        if weight.shape is None or len(weight.shape) != 4:
            if self.transposed:
                weight = e.Transpose(weight, perm=[1, 0])
            weight = e.Unsqueeze(weight, [2, 3])
        kernel, type_ = self._scaled(e, weight), primal.dtype
        made = e.Conv(primal, kernel if type_ is None else e.cast(kernel, type_), _dtype=type_)
        if self.signs is None:
            return made
        return e.Mul(made, e.const(np.reshape(self.signs, (1, 2, 1, 1)), type_), _dtype=type_)

    def matrix(self) -> NDArray[np.float64] | None:
        """z by mean(A), [K, k]: what every place adds its share of to the scores. None where the
        weights are no constants, or a quantised head rounds."""
        stored = constant(self.weight)
        if stored is None or self.rounded:
            return None
        whole = stored.astype(np.float64)
        whole = whole.T if self.transposed else whole.reshape(whole.shape[0], -1)
        if self.signs is not None:
            whole = np.reshape(self.signs, (2, 1)) * whole
        return np.asarray(self.factor * whole * np.asarray(self.scale, np.float64).reshape(1, -1))

    def _scaled(self, e: Emitter, weight: ir.Value) -> ir.Value:
        """A kernel [K, k, 1, 1] by what the head multiplies the channels with."""
        if self.factor != 1:
            weight = e.Mul(weight, self.factor)
        if np.all(self.scale == 1):
            return weight
        row = np.asarray(self.scale, np.float64).reshape(1, -1, 1, 1)
        return e.Mul(weight, e.const(row, weight.dtype), _shape=weight.shape)

    def constant(self, e: Emitter, cotangent: ir.Value) -> ir.Value | None:
        """What the biases add to <cotangent, z>, [N, 1]; None where there are none."""
        parts, cotangent = [], self._of_one(e, cotangent)
        if self.bias is not None:
            row = e.Reshape(self.bias, [1, -1])
            total = e.ReduceSum(e.Mul(cotangent, row), [1], keepdims=1)
            parts.append(total if self.bias_factor == 1 else e.Mul(total, self.bias_factor))
        if np.any(self.shift):
            made = self._through(e, cotangent)
            parts.append(e.ReduceSum(e.Mul(made, _row(e, self.shift, made)), [1], keepdims=1))
        if not parts:
            return None
        return parts[0] if len(parts) == 1 else e.Add(*parts)

    def _of_one(self, e: Emitter, cotangent: ir.Value) -> ir.Value:
        """The cotangent [N, K] of what the dense layer makes."""
        if self.signs is None:
            return cotangent
        signed = e.Mul(cotangent, e.const(np.reshape(self.signs, (1, 2)), cotangent.dtype))
        return e.ReduceSum(signed, [1], keepdims=1)

    def _through(self, e: Emitter, cotangent: ir.Value) -> ir.Value:
        weight = self.weight
        if weight.shape is not None and len(weight.shape) == 4:
            weight = e.Flatten(weight, axis=1)
        if self.transposed:
            weight = e.Transpose(weight, perm=[1, 0])
        made = e.MatMul(cotangent, weight)
        return made if self.factor == 1 else e.Mul(made, self.factor)


def pooled_linear(of: ir.Value, layer: Layer) -> PooledLinear:
    """The head between a layer and the scores. Raises UnsupportedNode, naming the node that makes
    it another."""
    head: dict[str, Any] = {}
    scale: Vector | float = 1.0
    shift: Vector | float = 0.0
    pooled = rounded = False
    value, signs = _one_of_two(of)
    while value is not layer.value:
        node = value.producer()
        moving = [] if node is None else [v for v in node.inputs if not is_fixed(v)]
        quantises = node is not None and node.op_type in traits.QUANTIZES
        ours = node is not None and (quantises or node.domain in ("", "ai.onnx"))
        if node is None or not ours or len(moving) != 1:
            raise _another(node, layer)
        source = moving[0]
        assert source is not None
        found = None if "weight" in head else _linear(node, source)
        if found is not None:
            head = found | {k: v for k, v in head.items() if k == "bias"}
        elif node.op_type == "Add" and not head and _is_bias(node, source):
            head["bias"] = next(v for v in node.inputs if v is not source)
        elif not pooled and (whole := pooled_over(node, source, layer)) is not None:
            pooled, source = True, whole
        elif quantises:
            rounded = True  # straight through, as every walk takes it
        elif node.op_type in _PASSING or _turns(node):
            pass
        elif "weight" in head and (affine := _affine(node, source)) is not None:
            # Further back: scale * (a m + b) + shift.
            shift = shift + scale * affine[1]
            scale = scale * affine[0]
        else:
            raise _another(node, layer)
        value = source
    if "weight" not in head or not pooled:
        raise _another(None, layer)
    return PooledLinear(**head, scale=scale, shift=shift, signs=signs, rounded=rounded)


def _one_of_two(of: ir.Value) -> tuple[ir.Value, tuple[float, float] | None]:
    """The single score that two classes are made of, and what each of them is it times: one is
    the other's negation. The scores themselves and None where that isn't so."""
    node = of.producer()
    parts = [] if node is None or node.op_type != "Concat" else list(node.inputs)
    if len(parts) != 2 or parts[0] is None or parts[1] is None:
        return of, None
    first, second = parts[0], parts[1]
    if _negates(second, first):
        return first, (1.0, -1.0)
    return (second, (-1.0, 1.0)) if _negates(first, second) else (of, None)


def _negates(value: ir.Value, of: ir.Value) -> bool:
    node = value.producer()
    return node is not None and node.op_type == "Neg" and node.inputs[0] is of


def _linear(node: ir.Node, source: ir.Value) -> dict[str, Any] | None:
    """The fields of a dense layer, or of a convolution of 1 x 1; None for any other node."""
    attributes, inputs = node.attributes, node.inputs
    if not inputs or inputs[0] is not source or len(inputs) < 2:
        return None
    extra = inputs[2] if len(inputs) > 2 else None
    if node.op_type == "Gemm" and not attributes.get_int("transA", 0):
        return {
            "weight": inputs[1],
            "transposed": not attributes.get_int("transB", 0),
            "factor": attributes.get_float("alpha", 1.0),
            "bias": extra,
            "bias_factor": attributes.get_float("beta", 1.0),
        }
    weight = inputs[1]
    shape = None if weight is None else weight.shape
    if node.op_type == "MatMul" and shape is not None and len(shape) == 2:
        return {"weight": weight, "transposed": True}
    if is_pointwise(node) and attributes.get_int("group", 1) == 1:
        return {"weight": weight, "bias": extra}
    return None


def _is_bias(node: ir.Node, source: ir.Value) -> bool:
    """Whether an Add adds one number per class to scores [N, K, ...]."""
    other = next(v for v in node.inputs if v is not source)
    tensor = None if other is None else ir.convenience.get_const_tensor(other)
    if tensor is None or source.shape is None or len(source.shape) < 2:
        return False
    return tensor.size == dim_of(source.shape, 1)


def pooled_over(node: ir.Node, source: ir.Value, layer: Layer) -> ir.Value | None:
    """What a node is the mean of over all places, of [N, K, h, w] or [N, h, w, K], or over tokens
    that are patches, all of them; None where it isn't. In two steps, too: places merged to one
    axis before, or a mean over columns and then over rows."""
    if node.op_type == "GlobalAveragePool":
        return source
    rank = 0 if source.shape is None else len(source.shape)
    if node.op_type == "AveragePool" and rank == 4:
        assert source.shape is not None
        window = list(node.attributes.get_ints("kernel_shape", ()))
        bare = not any(node.attributes.get_ints("pads", ()))
        return source if bare and all_dims(source.shape)[2:] == window else None
    over = _averaged(node, rank)
    if not over or rank not in (3, 4):
        return None
    if rank == 4:
        return source if over == {1, 2, 3} - {channel_axis(source)} else None
    before = source.producer()
    first = None if before is None else first_input(before)
    if layer.grid is None and before and first is not None and first.shape is not None:
        if before.op_type == "Reshape" and (axes := merged(before)) is not None:
            return first if over == {axes[0]} else None
        if before.op_type == "ReduceMean" and len(first.shape) == 4:
            one = _averaged(before, 4)
            left = [a for a in range(4) if a not in one]
            both = one | {left[a] for a in over}
            return first if both == {1, 2, 3} - {channel_axis(first)} else None
    if layer.grid is None or (axis := token_axis(source, layer.grid)) is None:
        return None
    patches = over == {axis} and layer.grid.extra(layer.value, layer.token_axis) == 0
    return source if patches else None


def _averaged(node: ir.Node, rank: int) -> set[int]:
    """The axes that a ReduceMean goes over; none of any other node."""
    axes = constant(node.inputs[1] if len(node.inputs) > 1 else None)
    if node.op_type != "ReduceMean" or axes is None or not rank:
        return set()
    return {int(a) % rank for a in axes.reshape(-1)}


def _turns(node: ir.Node) -> bool:
    perm = tuple(node.attributes.get_ints("perm", ()))
    return node.op_type == "Transpose" and perm in ((0, 2, 1), (0, 2, 3, 1), (0, 3, 1, 2))


def _affine(node: ir.Node, source: ir.Value) -> tuple[Vector | float, Vector | float] | None:
    """a and b of a node a x + b, per channel; None for any other node."""
    if node.op_type == "BatchNormalization":
        parts = [constant(v) for v in node.inputs[1:5]]
        if any(p is None for p in parts):
            return None
        gain, bias, mean, variance = (np.asarray(p, np.float64) for p in parts)
        a = gain / np.sqrt(variance + node.attributes.get_float("epsilon", 1e-5))
        return a, bias - a * mean
    if node.op_type not in ("Mul", "Div") or node.inputs[0] is not source:
        return None
    number = constant(node.inputs[1])
    if number is None or number.size != 1:
        return None
    factor = float(number.reshape(-1)[0])
    return (1 / factor if node.op_type == "Div" else factor), 0.0


def _row(e: Emitter, values: Vector | float, like: ir.Value) -> ir.Value:
    return e.const(np.asarray(values, np.float64).reshape(1, -1), like.dtype)


def _another(node: ir.Node | None, layer: Layer) -> UnsupportedNode:
    where = "the head" if node is None else f"{node.op_type} '{node.name}'"
    return UnsupportedNode(
        f"{where} behind '{layer.name}': a class's own weights need a head that is a global "
        "average pool and one linear layer; take gradcam, which asks for neither"
    )
