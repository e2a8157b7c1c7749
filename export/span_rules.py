"""What part of an image axis an operator's outputs depend on: a rule for each operator.

A rule takes the spans of a node's inputs (None: a constant) and gives the span of its outputs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ..errors import InputError, ModelError
from . import traits
from .arithmetic import evaluate, work
from .spans import (
    EMPTY,
    Span,
    Step,
    UnknownShapeError,
    affordable,
    compressed,
    full,
    grouped,
    merged,
    pads_before,
    slid,
    stretched,
    union,
    whole,
)

# What a tensor that is run may read and make.
MOST = 2**29
RESIZED = 2**20  # the same for Resize, whose reference goes element by element
# Positions of a transposed convolution's kernel that are gone through.
MOST_TAPS = 2**12
Rule = Callable[[Step, Sequence[Span | None]], Span]


def pointwise(step: Step, spans: Sequence[Span | None]) -> Span:
    """Element by element, broadcast."""
    return union(spans)


def _first(spans: Sequence[Span | None]) -> Span:
    """The first input's span. Raises UnknownShapeError where another one alone moves."""
    if not spans or spans[0] is None:
        raise UnknownShapeError
    return spans[0]


def window(step: Step, spans: Sequence[Span | None]) -> Span:
    """Conv and the pools. An output sees what its window sees."""
    span = _first(spans)
    is_conv = step.node.op_type in ("Conv", "ConvInteger", "QLinearConv")
    weight = 3 if step.node.op_type == "QLinearConv" else 1
    kernel = step.given(weight)[2:] if is_conv else tuple(step.attr("kernel_shape"))
    n = len(kernel)
    strides = step.attr("strides", [1] * n)
    hops = step.attr("dilations", [1] * n)
    begins = pads_before(
        step, [(k - 1) * d + 1 for k, d in zip(kernel, hops, strict=True)], strides
    )
    dims = step.dims()
    if is_conv:
        span = grouped(span, int(step.attr("group", 1)), step.given()[1], dims[1])
    for i in range(n):
        span = slid(span, 3 + i, dims[2 + i], kernel[i], strides[i], hops[i], begins[i], step)
    return span


def transposed(step: Step, spans: Sequence[Span | None]) -> Span:
    """ConvTranspose: position i reaches stride * i + dilation * k - pad."""
    span = _first(spans)
    sizes, dims = step.given()[2:], step.dims()
    kernel = step.given(1)[2:]
    n = len(kernel)
    strides = step.attr("strides", [1] * n)
    hops = step.attr("dilations", [1] * n)
    auto = step.text("auto_pad", "NOTSET")
    begins = list(step.attr("pads", [0] * (2 * n)))[:n]
    if step.attr("output_shape") is not None or auto.startswith("SAME"):
        extra = step.attr("output_padding", [0] * n)
        for i in range(n):
            reach = (kernel[i] - 1) * hops[i] + 1
            total = max(strides[i] * (sizes[i] - 1) + extra[i] + reach - dims[2 + i], 0)
            begins[i] = total // 2 if auto == "SAME_UPPER" else total - total // 2
    span = grouped(span, int(step.attr("group", 1)), step.given()[1], dims[1])
    for i in range(n):
        axis = 3 + i
        if span.shape[axis] == 1:
            continue
        shape = list(span.shape)
        shape[axis] = dims[2 + i]
        if kernel[i] > MOST_TAPS:
            raise UnknownShapeError
        affordable(math.prod(shape), span.size * kernel[i])
        made = np.moveaxis(np.full(shape, EMPTY, np.int64), axis, 0)
        source = np.moveaxis(span, axis, 0)
        for k in range(kernel[i]):
            to = np.arange(sizes[i]) * strides[i] + k * hops[i] - begins[i]
            inside = (to >= 0) & (to < dims[2 + i])
            made[to[inside]] = np.minimum(made[to[inside]], source[inside])
        span = np.moveaxis(made, 0, axis)
    return span


def spatially(step: Step, spans: Sequence[Span | None]) -> Span:
    """Global pools and InstanceNormalization: all positions of a channel."""
    found = _first(spans)
    return merged(found, range(2, found.ndim - 1))


def group_norm(step: Step, spans: Sequence[Span | None]) -> Span:
    """All positions of a group of channels."""
    found = spatially(step, spans)
    return grouped(found, int(step.attr("num_groups", 1)), step.given()[1], step.given()[1])


def reduced(step: Step, spans: Sequence[Span | None]) -> Span:
    """The Reduce* operators, ArgMax, ArgMin."""
    span = _first(spans)
    rank = span.ndim - 1
    if step.node.op_type in ("ArgMax", "ArgMin"):
        axes = [step.attr("axis", 0)]
    else:
        given = step.const(1)
        axes = list(step.attr("axes", []) if given is None else given.tolist())
        if not axes:
            if step.attr("noop_with_empty_axes", 0):
                return span
            axes = list(range(rank))
    return merged(span, axes, bool(step.attr("keepdims", 1)))


def along_axis(step: Step, spans: Sequence[Span | None]) -> Span:
    """Softmax and its like: all positions along an axis."""
    return merged(union(spans), [step.attr("axis", -1)])


def from_axis(step: Step, spans: Sequence[Span | None]) -> Span:
    """LayerNormalization, RMSNormalization: all positions of the axes from `axis` on."""
    found = union(spans)
    rank = found.ndim - 1
    return merged(found, range(step.attr("axis", -1) % rank, rank))


def mean_variance(step: Step, spans: Sequence[Span | None]) -> Span:
    """MeanVarianceNormalization."""
    return merged(union(spans), step.attr("axes", [0, 2, 3]))


def lrn(step: Step, spans: Sequence[Span | None]) -> Span:
    """Neighbouring channels."""
    size = int(step.attr("size"))
    # In the channels nothing goes on beyond the ends.
    inside = Step(step.node, step.opset)
    return slid(union(spans), 2, step.dims()[1], size, 1, 1, (size - 1) // 2, inside)


def matmul(step: Step, spans: Sequence[Span | None]) -> Span:
    """A row of the left, a column of the right."""
    a, b = spans[:2]
    if any(s is not None and s.ndim < 3 for s in (a, b)):
        raise UnknownShapeError
    return union([None if a is None else merged(a, [-1]), None if b is None else merged(b, [-2])])


def gemm(step: Step, spans: Sequence[Span | None]) -> Span:
    """As MatMul, transposed on demand, plus C."""
    a, b = spans[:2]
    if a is not None and step.attr("transA", 0):
        a = a.swapaxes(1, 2)
    if b is not None and step.attr("transB", 0):
        b = b.swapaxes(1, 2)
    return union([matmul(step, [a, b]), *spans[2:]])


def transpose(step: Step, spans: Sequence[Span | None]) -> Span:
    """Axes in another order."""
    span = _first(spans)
    perm = step.attr("perm", list(range(span.ndim - 1))[::-1])
    return span.transpose(0, *(p + 1 for p in perm))


def reshape(step: Step, spans: Sequence[Span | None]) -> Span:
    """The same elements in the same order: Reshape, Flatten, Squeeze, Unsqueeze."""
    span = _first(spans)
    return compressed(full(span, step.given()).reshape(2, *step.dims()))


def concat(step: Step, spans: Sequence[Span | None]) -> Span:
    """Side by side; a constant part depends on nothing."""
    rank = len(step.dims())
    axis = step.attr("axis") % rank
    known = [s for s in spans if s is not None]
    across = max(s.size // s.shape[axis + 1] for s in known)
    affordable(across * step.dims()[axis])
    parts = []
    sizes = np.max([s.shape for s in spans if s is not None], axis=0).tolist()
    for index, span in enumerate(spans):
        sizes[axis + 1] = step.given(index)[axis]
        parts.append(np.broadcast_to(EMPTY if span is None else span, sizes))
    return compressed(np.concatenate(parts, axis + 1))


def pad(step: Step, spans: Sequence[Span | None]) -> Span:
    """Constant padding depends on nothing; the other modes repeat what is there."""
    span = _first(spans)
    rank = span.ndim - 1
    given = step.const(1)
    pads = list(step.attr("pads", []) if given is None else given.tolist())
    axes = step.const(3)
    which = list(range(rank)) if axes is None else [int(a) % rank for a in axes]
    mode = step.text("mode", "constant")
    for at, axis in enumerate(which):
        before, after = pads[at], pads[at + len(which)]
        if before == after == 0 or (span.shape[axis + 1] == 1 and mode != "constant"):
            continue
        if span.shape[axis + 1] == 1:
            if axis < 2:  # padded channels hold constants
                affordable(span.size * step.given()[axis])
                span = np.repeat(span, step.given()[axis], axis=axis + 1)
            else:
                continue
        if mode == "constant" or step.beyond:
            span = stretched(span, axis + 1, before, after, step)
            continue
        cut = [slice(None)] * span.ndim
        cut[axis + 1] = slice(max(-before, 0), span.shape[axis + 1] - max(-after, 0))
        widths = [(0, 0)] * span.ndim
        widths[axis + 1] = (max(before, 0), max(after, 0))
        affordable(span.size // span.shape[axis + 1] * (max(before, 0) + max(after, 0) + 1))
        span = np.pad(span[tuple(cut)], widths, mode=mode)  # type: ignore[call-overload]
    return compressed(span)


def resize(step: Step, spans: Sequence[Span | None]) -> Span:
    """Resize, Upsample: which positions each one is made from, read off an identity matrix."""
    span = _first(spans)
    if step.text("coordinate_transformation_mode", "half_pixel") == "tf_crop_and_resize":
        raise UnknownShapeError
    scales = step.const(2)
    for axis, (size, out) in enumerate(zip(step.given(), step.dims(), strict=True)):
        if size == out or span.shape[axis + 1] == 1:
            continue
        if min(size, out) < 1:
            raise UnknownShapeError
        affordable(size * out, span.size // span.shape[axis + 1] * size * out)
        factor = out / size
        if scales is not None and scales.size == len(step.dims()):
            factor = float(scales[axis])
        # Where a position falls on a pixel, rounding leaves its neighbour a trace.
        used = np.abs(_resized_identity(step, size, out, factor)) > 1e-6
        made = [np.moveaxis(span, axis + 1, 0)[column].min(axis=0) for column in used.T]
        span = np.stack(made, axis + 1)
    return span


def _resized_identity(step: Step, size: int, out: int, factor: float) -> NDArray[Any]:
    keep = ("mode", "coordinate_transformation_mode", "nearest_mode", "cubic_coeff_a",
            "exclude_outside", "antialias")  # fmt: skip
    attributes = [a for name, a in step.node.attributes.items() if name in keep]
    x, roi, scales = (ir.Value(name=n) for n in ("x", "roi", "scales"))
    node = ir.Node("", "Resize", [x, roi, scales], attributes, outputs=[ir.Value(name="y")])
    if size * out > RESIZED:
        raise UnknownShapeError
    scaled = np.array([1, factor], np.float32)
    arrays = [np.eye(size, dtype=np.float32), np.zeros(0, np.float32), scaled]
    found: NDArray[Any] = evaluate(node, arrays, step.opset)[0]
    if found.shape != (size, out):
        raise UnknownShapeError
    return found


def moved(step: Step, spans: Sequence[Span | None]) -> list[Span]:
    """Operators that only move elements: run on the spans themselves. All outputs."""
    span = spans[0]
    if span is None or any(s is not None for s in spans[1:]):
        raise UnknownShapeError
    affordable(math.prod(step.given()))
    affordable(sum(math.prod(step.dims(v)) for v in step.node.outputs if v.name))
    given = [step.const(index) for index in range(1, len(step.node.inputs))]
    arrays = [[np.ascontiguousarray(end), *given] for end in full(span, step.given())]
    needed = work(step.node, arrays[0])
    if needed is None or needed > MOST:
        raise UnknownShapeError
    ends = [evaluate(step.node, each, step.opset) for each in arrays]
    return [compressed(np.stack(pair)) for pair in zip(*ends, strict=True)]


# Those whose further operands are per channel, or a shape to repeat to, count as well.
_POINTWISE = traits.ELEMENTWISE | traits.SAME | traits.QUANTIZES | {"BatchNormalization", "Expand"}
RULES: dict[str, Rule] = {
    **dict.fromkeys(_POINTWISE, pointwise),
    **dict.fromkeys(traits.REDUCES | {"ArgMax", "ArgMin"}, reduced),
    **dict.fromkeys("Conv ConvInteger QLinearConv AveragePool LpPool MaxPool".split(), window),
    **dict.fromkeys(
        "GlobalAveragePool GlobalLpPool GlobalMaxPool InstanceNormalization".split(), spatially
    ),
    **dict.fromkeys(traits.RESHAPES - {"Identity"}, reshape),
    **dict.fromkeys("Softmax LogSoftmax Hardmax LpNormalization".split(), along_axis),
    **dict.fromkeys("LayerNormalization RMSNormalization".split(), from_axis),
    **dict.fromkeys("Resize Upsample".split(), resize),
    "Concat": concat,
    "ConvTranspose": transposed,
    "Gemm": gemm,
    "GroupNormalization": group_norm,
    "LRN": lrn,
    "MatMul": matmul,
    "MeanVarianceNormalization": mean_variance,
    "Pad": pad,
    "Transpose": transpose,
}
# Run on the spans themselves; the others that move have a rule above, or too many ways (Compress
# and Trilu are taken to see the whole axis).
MOVES = traits.MOVES - RULES.keys() - {"Compress", "Trilu"}
NOTHING = traits.ASKS_SIZE | {"Constant", "ConstantOfShape", "EyeLike", "OptionalHasElement"}


def spans_of(step: Step, spans: Sequence[Span | None], size: int) -> list[Span | None]:
    """The spans of a node's outputs. An operator without a rule is taken to see the whole axis."""
    node = step.node
    outputs = len(node.outputs)
    reads_graph = any(a.type == ir.AttributeType.GRAPH for a in node.attributes.values())
    if node.op_type in NOTHING or (not reads_graph and all(s is None for s in spans)):
        return [None] * outputs
    blind = any(
        s is not None and v is not None and v.shape is None
        for v, s in zip(node.inputs, spans, strict=False)
    )
    try:
        if blind:  # behind an operator that inference doesn't know
            raise UnknownShapeError
        if node.domain == "" and node.op_type in MOVES:
            return list(moved(step, spans))
        if node.domain == "" and node.op_type in RULES:
            return [RULES[node.op_type](step, spans)] * outputs
    except UnknownShapeError:
        pass
    except InputError:
        raise
    except Exception as err:
        # A graph that contradicts itself, in one of many ways; ONNX's inference lets most pass.
        raise ModelError(
            f"{node.op_type} '{node.name}' (opset {step.opset}) doesn't fit what it reads: {err}"
        ) from err
    ranks = [0 if v.shape is None else len(v.shape) for v in node.outputs]
    return [whole(rank, size) for rank in ranks]
