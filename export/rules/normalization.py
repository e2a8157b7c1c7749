"""Normalizations. Statistics that are computed from x are differentiated too."""

from __future__ import annotations

from math import prod

import onnx_ir as ir

from ..emit import HALVES
from . import Cotangents, Emitter, Op, vjp
from .reduction import many
from .shape import size_of, vector
from .window import FARTHEST

FLOAT = ir.DataType.FLOAT


def channelwise(e: Emitter, value: ir.Value, rank: int) -> ir.Value:
    """[C] -> [C, 1, ...]: broadcasts along axis 1 of a tensor of this rank."""
    if rank <= 2:
        return value
    channels = next(iter(value.shape or (None,)))
    ones = [1] * (rank - 2)
    return e.Reshape(value, [-1, *ones], _shape=[channels, *ones])


def _over_channel(e: Emitter, value: ir.Value, rank: int) -> ir.Value:
    """The sum over all axes but 1: [N, C, ...] -> [C]."""
    return e.ReduceSum(value, [0, *range(2, rank)], keepdims=0)


@vjp("BatchNormalization", 15)
def batch_normalization(e: Emitter, op: Op, ct: ir.Value) -> Cotangents:
    """y = (x - mean) scale / sqrt(var + eps) + bias, with given statistics: one Mul for x."""
    if op.attr("training_mode", 0):
        raise op.unsupported("training_mode = 1", "training_mode = 0")
    rank = op.rank()
    scale, _, mean, var = (op.need(i) for i in range(1, 5))
    dtype = ct.dtype
    root = e.Sqrt(e.Add(e.cast(var, dtype), float(op.attr("epsilon", 1e-5))))
    factor = e.Div(e.cast(scale, dtype), root)
    d_x = e.Mul(ct, channelwise(e, factor, rank), _shape=op.x.shape)
    d_scale = d_bias = d_mean = d_var = None
    if any(op.wants[1:]):
        per_channel = _over_channel(e, ct, rank)
        centred = e.Sub(op.x, channelwise(e, e.cast(mean, dtype), rank), _shape=op.x.shape)
        moment = _over_channel(e, e.Mul(ct, centred, _shape=op.x.shape), rank)
        d_scale = e.Div(moment, root)
        d_bias = per_channel
        d_mean = e.Neg(e.Mul(per_channel, factor))
        d_var = e.Mul(e.Mul(moment, factor), e.Div(-0.5, e.Mul(root, root)))
        d_scale, d_bias = e.cast(d_scale, scale.dtype), e.cast(d_bias, op.need(2).dtype)
        d_mean, d_var = e.cast(d_mean, mean.dtype), e.cast(d_var, var.dtype)
    return d_x, d_scale, d_bias, d_mean, d_var


def _standardized(
    e: Emitter, x: ir.Value, axes: list[int], epsilon: float, center: bool = True
) -> tuple[ir.Value, ir.Value]:
    """(x - mean) / deviation over axes, and 1 / deviation."""
    middle = e.Sub(x, e.ReduceMean(x, axes, keepdims=1), _shape=x.shape) if center else x
    square = e.ReduceMean(e.Mul(middle, middle), axes, keepdims=1)
    inverse = e.Reciprocal(e.Sqrt(e.Add(square, epsilon)))
    return e.Mul(middle, inverse, _shape=x.shape), inverse


def _through(
    e: Emitter, g: ir.Value, hat: ir.Value, inverse: ir.Value, axes: list[int], center: bool = True
) -> ir.Value:
    """The gradient through a standardization: g without its mean and its part along `hat`."""
    along = e.Mul(hat, e.ReduceMean(e.Mul(g, hat), axes, keepdims=1), _shape=hat.shape)
    left = e.Sub(g, along, _shape=hat.shape)
    if center:
        left = e.Sub(left, e.ReduceMean(g, axes, keepdims=1), _shape=hat.shape)
    return e.Mul(left, inverse, _shape=hat.shape)


@vjp("InstanceNormalization", 6, 22)
def instance_normalization(e: Emitter, op: Op, ct: ir.Value) -> Cotangents:
    rank = op.rank()
    axes = list(range(2, rank))
    hat, inverse = _standardized(e, op.x, axes, float(op.attr("epsilon", 1e-5)))
    g = e.Mul(ct, channelwise(e, op.need(1), rank), _shape=op.x.shape)
    d_scale = _over_channel(e, e.Mul(ct, hat), rank) if op.wants[1] else None
    d_bias = _over_channel(e, ct, rank) if op.wants[2] else None
    return _through(e, g, hat, inverse, axes), d_scale, d_bias


def _stashed(op: Op) -> ir.DataType | None:
    """The dtype that statistics are computed in (`stash_type`)."""
    return FLOAT if op.x.dtype in HALVES and int(op.attr("stash_type", 1)) == 1 else op.x.dtype


@vjp("GroupNormalization", 18, 21)
def group_normalization(e: Emitter, op: Op, ct: ir.Value) -> Cotangents:
    """Version 18 has a scale per group, 21 one per channel. Groups become an axis of their own."""
    groups = int(op.attr("num_groups"))
    scale, bias = op.need(1), op.need(2)
    rank = op.rank()
    per_group = e.opset < 21
    compute = _stashed(op)
    x, wide = e.cast(op.x, compute), e.cast(ct, compute)
    grouped = e.Reshape(x, [0, groups, -1])
    axes = [2]
    hat3, inverse = _standardized(e, grouped, axes, float(op.attr("epsilon", 1e-5)))
    if per_group:
        weights = e.Unsqueeze(e.cast(scale, compute), [1])
        g = e.Mul(e.Reshape(wide, [0, groups, -1]), weights)
    else:
        weighed = e.Mul(wide, channelwise(e, e.cast(scale, compute), rank), _shape=op.x.shape)
        g = e.Reshape(weighed, [0, groups, -1])
    d_x = e.cast(op.like(e, _through(e, g, hat3, inverse, axes)), op.x.dtype)
    d_scale = d_bias = None
    if op.wants[1] or op.wants[2]:
        if per_group:
            flat = e.Reshape(wide, [0, groups, -1])
            d_scale, d_bias = e.Mul(flat, hat3), flat
            d_scale = e.ReduceSum(d_scale, [0, 2], keepdims=0)
            d_bias = e.ReduceSum(d_bias, [0, 2], keepdims=0)
        else:
            d_scale = _over_channel(e, e.Mul(wide, op.like(e, hat3)), rank)
            d_bias = _over_channel(e, wide, rank)
        d_scale, d_bias = e.cast(d_scale, scale.dtype), e.cast(d_bias, bias.dtype)
    return d_x, d_scale, d_bias


@vjp("LayerNormalization", 17, outputs="all")
def layer_normalization(e: Emitter, op: Op, cts: Cotangents) -> Cotangents:
    """Further outputs, where they are used: the mean, and 1 / deviation."""
    extra = [ct for ct in cts[1:] if ct is not None]
    if cts[0] is None:
        return (_by_statistics(e, op, cts),)
    d_x, *rest = _layer(e, op, cts[0], center=True)
    if extra:
        assert d_x is not None
        d_x = e.Add(d_x, _by_statistics(e, op, cts), _shape=op.x.shape)
    return (d_x, *rest)


def _by_statistics(e: Emitter, op: Op, cts: Cotangents) -> ir.Value:
    """The cotangent of x by way of Mean and InvStdDev (i): d_m / n - d_i i^2 (hat / n)."""
    axes, compute = _layer_axes(op), _stashed(op)
    x = e.cast(op.x, compute)
    hat, inverse = _standardized(e, x, axes, float(op.attr("epsilon", 1e-5)))
    # What one element adds to a mean over the axes: 1 / n.
    share = e.Reciprocal(e.cast(many(e, op.x, inverse), compute))
    total: ir.Value | None = None
    for index, ct in enumerate(cts[1:], start=1):
        if ct is None:
            continue
        part = e.Mul(e.cast(ct, compute), share)
        if index == 1:
            part = e.Expand(part, e.Shape(x), _shape=op.x.shape)
        else:
            part = e.Mul(e.Neg(part), e.Mul(hat, e.Mul(inverse, inverse)), _shape=op.x.shape)
        total = part if total is None else e.Add(total, part, _shape=op.x.shape)
    assert total is not None
    return e.cast(total, op.x.dtype)


def _layer_axes(op: Op) -> list[int]:
    rank = op.rank()
    return list(range(int(op.attr("axis", -1)) % rank, rank))


@vjp("RMSNormalization", 23)
def rms_normalization(e: Emitter, op: Op, ct: ir.Value) -> Cotangents:
    return _layer(e, op, ct, center=False)


def _layer(e: Emitter, op: Op, ct: ir.Value, center: bool) -> Cotangents:
    axes, compute = _layer_axes(op), _stashed(op)
    x, wide, scale = e.cast(op.x, compute), e.cast(ct, compute), op.need(1)
    hat, inverse = _standardized(e, x, axes, float(op.attr("epsilon", 1e-5)), center)
    g = e.Mul(wide, e.cast(scale, compute), _shape=op.x.shape)
    d_x = e.cast(_through(e, g, hat, inverse, axes, center), op.x.dtype)
    # The walk sums both down to the shapes of scale and bias.
    d_scale = e.cast(e.Mul(wide, hat, _shape=op.x.shape), scale.dtype) if op.wants[1] else None
    if len(op) < 3:
        return d_x, d_scale
    bias = op.input(2)
    return d_x, d_scale, None if bias is None else e.cast(ct, bias.dtype)


@vjp("LRN", 13)
def lrn(e: Emitter, op: Op, ct: ir.Value) -> Cotangents:
    """y = x s^-b, s = k + a/n sum of squares over neighbouring channels.

    x' = ct s^-b - 2ab/n x (sum over the mirrored neighbourhood of ct y / s).
    """
    size = int(op.attr("size"))
    if not 1 <= size <= FARTHEST:
        raise op.unsupported(f"size = {size}", f"1 to {FARTHEST}")
    alpha, beta = float(op.attr("alpha", 1e-4)), float(op.attr("beta", 0.75))
    before, after = (size - 1) // 2, size - 1 - (size - 1) // 2
    bias = float(op.attr("bias", 1.0))
    near = _channel_sum(e, op, e.Mul(op.x, op.x), before, after)
    s = e.Add(e.Mul(near, alpha / size), bias)
    direct = e.Mul(ct, e.Pow(s, e.const(-beta, op.x.dtype)))
    far = _channel_sum(e, op, e.Div(e.Mul(ct, op.y), s), after, before)
    d_x = e.Sub(direct, e.Mul(e.Mul(op.x, far), 2 * alpha * beta / size), _shape=op.x.shape)
    return (d_x,)


def _channel_sum(e: Emitter, op: Op, value: ir.Value, before: int, after: int) -> ir.Value:
    """The sum over channels c-before .. c+after: a sliding sum along axis 1."""
    # [N, C, rest] as an image of one channel and height C: an average pool over heights.
    rest = op.dims()[2:]
    known = [d for d in rest if d is not None]
    line = prod(known) if len(known) == len(rest) else -1  # a batch may be of none
    # As many channels as there are, which may be for the run to tell.
    flat = e.Reshape(value, vector(e, [0, 1, size_of(e, op.x, 1), line]))
    size = before + after + 1
    pooled = e.AveragePool(
        flat, kernel_shape=[size, 1], pads=[before, 0, after, 0], count_include_pad=1
    )
    return op.like(e, e.Mul(pooled, float(size)))


@vjp("LpNormalization", 1, 22)
def lp_normalization(e: Emitter, op: Op, ct: ir.Value) -> Cotangents:
    """y = x / |x|_p along an axis; 0 where the norm is 0."""
    axis, p = int(op.attr("axis", -1)), int(op.attr("p", 2))
    reduce = "ReduceL2" if p == 2 else "ReduceL1"
    norm = e.op(reduce, [op.x, [axis]], keepdims=1)[0]
    safe = e.Where(e.Equal(norm, 0.0), 1.0, norm, _dtype=ct.dtype)
    inner = e.ReduceSum(e.Mul(ct, op.y), [axis], keepdims=1)
    slope = op.y if p == 2 else e.Sign(op.x)
    left = e.Sub(ct, e.Mul(slope, inner), _shape=op.x.shape)
    d_x = e.Div(left, safe, _shape=op.x.shape)
    zero = e.Equal(norm, 0.0)
    return (e.Where(zero, 0.0, d_x, _dtype=ct.dtype, _shape=op.x.shape),)


@vjp("MeanVarianceNormalization", 13)
def mean_variance_normalization(e: Emitter, op: Op, ct: ir.Value) -> Cotangents:
    rank = op.rank()
    axes = [int(a) % rank for a in op.attr("axes", (0, 2, 3))]
    # The standard has deviation + 1e-9: that, at both ends.
    hat, inverse = _standardized(e, op.x, axes, 1e-18)
    return (_through(e, ct, hat, inverse, axes),)
