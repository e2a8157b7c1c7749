"""Quantised models in QDQ form: QuantizeLinear x -> codes, DequantizeLinear codes -> y.

Straight through (Bengio et al. 2013): rounding counts as the identity, saturation as what it is.

    y = round(x / s) + z, saturated to low..high       ct_x = [low < y < high] ct_y / s
    x = (y - z) s                                      ct_y = s ct_x

The edges, decided here:

- A value on an end code is outside, as h = 0 and h = 6 are for Clip: the rule reads the codes
  alone, so that a runtime still fuses Conv with the QuantizeLinear behind it, and needs a byte a
  value. That is exact where the quantizer dropped a Relu or a Clip in its favour, and otherwise
  wrong for the half step within the range that rounds to its end.
- It would be wrong where it matters in two places: in a picture white is the end of the range, and
  one value of a pooled vector [N, C, 1, 1] decides over the whole map. For graph inputs, and for
  tensors of one value per channel, x itself says whether it rounds to a code of the range (ends
  included), as PyTorch's fake quantization has it.
- A value that can't leave the range (pooled, concatenated or reshaped from one within it) passes.

Where the lowest code is the real 0 and a layer with signed output comes before (or its values,
moved about or concatenated), the quantizer has dropped a Relu (or a Clip from 0) and saturation
does its work: that QuantizeLinear is a rectifier, and deconv and guided treat it as their Clip.
Elsewhere a value of 0 may well be rectified, and deconv lets its cotangent through: a map that
can't fall below 0 (scaled by a gate, padded, resized) is tested for nothing there.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from .. import traits
from ..emit import Emitter
from . import Cotangents, Op, Rule, rule, vjp
from .clamps import clamp
from .op import constant, first_input
from .rectifier import gate
from .spelled import spelled

VERSIONS = (13, 19, 21, 23, 24, 25)
# What a Relu follows, and after what ONNX Runtime's quantizer drops it.
_SIGNED = traits.CONTRACTS - {"Einsum"} | {
    "Add", "BatchNormalization", "InstanceNormalization", "Sum",
}  # fmt: skip
# Between a layer and its Relu.
_MOVED = traits.RESHAPES | {"Transpose"}
# The output's values are the inputs', or lie between them (of a Resize: as networks have it). Two
# that move put zeros among them; what a Pad puts there is looked at.
_KEEPS = traits.MOVES - {"CenterCropPad", "Trilu"} | frozenset(
    "AveragePool Dropout GlobalAveragePool GlobalMaxPool MaxPool ReduceMax ReduceMean ReduceMin "
    "Resize".split()
)
# Compute on quantised integers, whatever their domain (and all that start with QLinear).
_INTEGER_ONLY = frozenset(
    "ConvInteger DynamicQuantizeLinear DynamicQuantizeMatMul MatMulInteger MatMulInteger16 "
    "MatMulIntegerToFloat QAttention QEmbedLayerNormalization QGemm QOrderedMatMul".split()
)
# What only moves codes about does so between a pair as well as before it.
_MOVES = _MOVED | {"Cast", "Concat", "DequantizeLinear", "Slice", "Split"}
_CODES = frozenset((ir.DataType.UINT8, ir.DataType.INT8, ir.DataType.UINT16, ir.DataType.INT16))
_WHOLE = (-np.inf, np.inf)
Array = NDArray[np.float32]
Ends = tuple[float, float]


def makes_codes(node: ir.Node) -> bool:
    """Whether the integers that a node gives stand for real numbers."""
    return node.op_type == "QuantizeLinear" or _integer_only(node)


def _integer_only(node: ir.Node) -> bool:
    return node.op_type in _INTEGER_ONLY or node.op_type.startswith("QLinear")


def on_integers(node: ir.Node) -> str | None:
    """Why a node on the way has no gradient, where that is for its integers; else None."""
    if node.domain == "com.microsoft" and node.op_type in ("QuantizeLinear", "DequantizeLinear"):
        return (
            "operator of the domain 'com.microsoft'; for the standard one, bring the model to "
            "opset 21 before quantizing it"
        )
    first = first_input(node)
    codes = first is not None and first.dtype in _CODES and node.op_type not in _MOVES
    if not codes and not _integer_only(node):
        return None
    return (
        "computes on integers, which have no gradient: quantize in QDQ format instead "
        "(onnxruntime.quantization.quantize_static with quant_format=QuantFormat.QDQ)"
    )


def _range(op: Op) -> tuple[float, float]:
    """The lowest and the highest code of the output."""
    dtype = op.y.dtype
    assert dtype is not None
    return float(dtype.min), float(dtype.max)


def _axis(op: Op, values: NDArray[np.generic]) -> NDArray[np.generic]:
    """A scale or zero point in the shape that broadcasts against the tensor."""
    if values.ndim == 0 or values.size == 1:
        return values.reshape(())
    rank = op.rank()
    if op.attr("block_size", 0) or values.ndim > 1:
        raise op.unsupported("an activation quantised in blocks", "per tensor or per axis")
    at = int(op.attr("axis", 1)) % rank
    return values.reshape([-1 if i == at else 1 for i in range(rank)])


def _scale(op: Op) -> tuple[Array, Array]:
    """Scale and zero point as float32. Raises UnsupportedNode where the run computes them."""
    scale = op.need_const(1, "scale").astype(np.float32)
    zero = np.zeros((), np.float32)
    if op.input(2) is not None:
        zero = op.need_const(2, "zero point").astype(np.float32)
    return _axis(op, scale).astype(np.float32), _axis(op, zero).astype(np.float32)


def _pair(node: ir.Node) -> ir.Node | None:
    """The first DequantizeLinear of a QuantizeLinear's codes, where every use of them is one with
    the same numbers: then the two scales cancel, and neither rule writes its own."""
    first = None
    for use in node.outputs[0].uses():
        if use.node.op_type != "DequantizeLinear" or use.node.domain != node.domain or use.idx:
            return None
        first = first or use.node
        for mine, theirs in zip(node.inputs[1:], use.node.inputs[1:], strict=False):
            if mine is not theirs and not _equal(mine, theirs):
                return None
        axes = (n.attributes.get_int("axis", 1) for n in (node, use.node))
        if len(node.inputs) != len(use.node.inputs) or len(set(axes)) > 1:
            return None
    return None if node.outputs[0].is_graph_output() else first


def _equal(a: ir.Value | None, b: ir.Value | None) -> bool:
    left, right = constant(a), constant(b)
    return left is not None and right is not None and bool(np.array_equal(left, right))


def _bounds(
    value: ir.Value | None, depth: int = 64, found: dict[ir.Value, Ends] | None = None
) -> Ends:
    """Between what the values of a tensor lie, as far as the nodes before it say. found: what is
    known of others already, since sums of sums read the same ones again and again."""
    found = {} if found is None else found
    if value is None:
        return _WHOLE
    if value not in found:
        found[value] = _bounds_by_node(value, depth, found)
    return found[value]


def _bounds_by_node(value: ir.Value, depth: int, found: dict[ir.Value, Ends]) -> Ends:
    node, known = value.producer(), constant(value)
    if known is not None and known.size:
        return float(known.min()), float(known.max())
    if node is None or node.domain != "" or depth == 0:
        return _WHOLE
    op = Op(node, ())
    if node.op_type == "DequantizeLinear":
        scale, zero = op.const(1), np.zeros(()) if op.input(2) is None else op.const(2)
        if scale is None or zero is None or scale.size > 1 or op.x.dtype is None:
            return _WHOLE
        ends = np.array([op.x.dtype.min, op.x.dtype.max], np.float32) - zero.astype(np.float32)
        low, high = (ends.reshape(2) * scale.astype(np.float32).reshape(())).tolist()
        return low, high
    if node.op_type in ("Sigmoid", "Softmax", "HardSigmoid"):
        return 0.0, 1.0
    held = clamp(node)
    if held is not None:
        low, high = _bounds(held.x, depth - 1)
        low = low if held.low is None else max(low, held.low)
        high = high if held.high is None else min(high, held.high)
        return low, max(low, high)
    whole = spelled(node)
    if whole is not None and not whole.slope:
        high = min(_bounds(whole.x, depth - 1, found)[1], whole.high or np.inf)
        return 0.0, max(0.0, high)
    several = node.op_type in ("Add", "Concat", "Mul", "Sum")
    inner = [_bounds(v, depth - 1, found) for v in node.inputs[: None if several else 1]]
    if node.op_type in ("Add", "Sum"):
        return sum(b[0] for b in inner), sum(b[1] for b in inner)
    if node.op_type == "Mul":
        corners = np.multiply.outer(*np.array(inner[:2]))
        corners = np.where(np.isnan(corners), 0, corners)  # 0 times what is not bounded
        return float(corners.min()), float(corners.max())
    low, high = min((b[0] for b in inner), default=-np.inf), max(b[1] for b in inner)
    padded = node.op_type == "AveragePool" and op.attr("count_include_pad", 0)
    if padded or (node.op_type == "Pad" and op.attr("mode", "constant") == "constant"):
        filled = (0.0, 0.0) if padded or op.input(2) is None else _bounds(op.input(2), 1, found)
        return min(low, filled[0]), max(high, filled[1])
    beyond = ("cubic", "tf_crop_and_resize")  # overshoots; has a value of its own outside
    if node.op_type == "Resize" and (
        op.attr("mode") in beyond or op.attr("coordinate_transformation_mode") in beyond
    ):
        return _WHOLE
    return (low, high) if node.op_type in _KEEPS else _WHOLE


def is_quantized_rectifier(op: Op) -> bool:
    """Whether a QuantizeLinear rectifies: its lowest code is the real 0, and what comes before
    has signed output. Not so for a picture in 0..1, a pooled or a concatenated rectified map."""
    source: ir.Value | None = op.x
    before = op.x.producer()
    while before is not None and before.op_type in _MOVED and before.domain == "":
        source = before.inputs[0]
        before = None if source is None else source.producer()
    if before is None or op.y.dtype is None:
        return False
    moved = before.op_type == "DequantizeLinear" and source is not op.x
    if moved or before.op_type == "Concat":
        signed = -np.inf < _bounds(source)[0] < 0  # the same values, and room below 0 for them
    else:
        signed = before.op_type in _SIGNED
    if not signed:
        return False
    zero = op.const(2) if op.input(2) is not None else np.zeros(())
    return zero is not None and bool(np.all(zero.astype(np.float32) == _range(op)[0]))


def _few(value: ir.Value) -> bool:
    """Whether there is but one value per channel: [N, C, 1, 1]."""
    return value.shape is not None and all(d == 1 for d in list(value.shape)[2:])


def _inside(e: Emitter, op: Op, ct: ir.Value) -> ir.Value:
    """`ct` where the value lies within the range that the codes can hold."""
    scale, zero = _scale(op)
    low, high = (end - zero for end in _range(op))
    least, most = _bounds(op.x)
    opens = is_quantized_rectifier(op)
    pair = _pair(op.node)
    if pair is not None:
        real = pair.outputs[0]
    else:
        attributes = {"axis": op.attr("axis")} if scale.ndim or zero.ndim else {}
        real = e.DequantizeLinear(
            op.y, op.need(1), op.input(2), **attributes, _shape=op.y.shape, _dtype=ct.dtype
        )
    steps = None
    if op.x.producer() is None or _few(op.x):
        steps = e.Round(e.Div(op.x, e.const(scale, op.x.dtype)), _shape=op.x.shape)
    # Half a step beyond an end still rounds to it.
    if opens or least < float(np.max((low - 0.5) * scale)):
        if steps is not None and not opens:
            above = e.GreaterOrEqual(steps, e.const(low, op.x.dtype))
        else:
            above = e.Greater(real, e.const(low * scale, real.dtype))
        ct = gate(e, ct, above)
    if most > float(np.min((high + 0.5) * scale)):
        if steps is not None:
            below = e.LessOrEqual(steps, e.const(high, op.x.dtype))
        else:
            below = e.Less(real, e.const(high * scale, real.dtype))
        ct = gate(e, ct, below)
    return ct


def _by_value(e: Emitter, op: Op, ct: ir.Value) -> Cotangents:
    """The cotangent of x from that of the codes, which gets none for the scale."""
    if any(op.wants[1:]):
        raise op.unsupported("a gradient by its scale or zero point", "one by its first input")
    if _pair(op.node) is None:
        ct = e.Div(ct, e.const(_scale(op)[0], ct.dtype))
    return (ct,) + (None,) * (len(op) - 1)


@vjp("QuantizeLinear", *VERSIONS)
def quantize_linear(e: Emitter, op: Op, ct: ir.Value) -> Cotangents:
    """[within the range] ct / s. ct: of the codes, in float. ONNX Operators, QuantizeLinear."""
    return _by_value(e, op, _inside(e, op, ct))


@rule("QuantizeLinear", *VERSIONS)
def quantize_linear_guided(e: Emitter, op: Op, ct: ir.Value) -> Cotangents:
    ct = _inside(e, op, ct)
    return _by_value(e, op, e.Relu(ct) if is_quantized_rectifier(op) else ct)


@rule("QuantizeLinear", *VERSIONS)
def quantize_linear_deconv(e: Emitter, op: Op, ct: ir.Value) -> Cotangents:
    rectifies = is_quantized_rectifier(op)
    return _by_value(e, op, e.Relu(ct) if rectifies else _inside(e, op, ct))


@vjp("DequantizeLinear", *VERSIONS)
def dequantize_linear(e: Emitter, op: Op, ct: ir.Value) -> Cotangents:
    """s ct: the cotangent of the codes, in float. ONNX Operators, DequantizeLinear."""
    if any(op.wants[1:]):
        raise op.unsupported("a gradient by its scale or zero point", "one by its first input")
    before = op.x.producer()
    if before is None or before.op_type != "QuantizeLinear" or _pair(before) is None:
        ct = e.Mul(ct, e.const(_scale(op)[0], ct.dtype))
    return (ct,) + (None,) * (len(op) - 1)


DECONV: dict[str, Rule] = {"QuantizeLinear": quantize_linear_deconv}
GUIDED: dict[str, Rule] = {"QuantizeLinear": quantize_linear_guided}
