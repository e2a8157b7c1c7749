"""Keeps a runtime from taking a layer's packed weight for that of the layer's gradient.

OpenVINO's CPU plugin packs a weight once for all layers that read it. Where its shape is the same
read the other way round (a convolution of as many channels in as out, a square matrix), it takes
what a Conv packed for the ConvTranspose of its gradient too, and one of the two is silently wrong.
A copy of the weight, or a view, is no help: a conversion stores equal bytes once; nor are -W and
-ct: it fuses the signs first. So the gradient sums in another order: over the reversed channels of
both, the cotangent and the weight. No cache confuses other bytes, the products are the same, and
the file doesn't grow: the Gather of the weight is folded at load.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from ..emit import all_dims, dim_of
from . import Emitter
from .op import is_fixed

__all__ = ["alike_both_ways", "channels_apart", "matrix_apart", "told_apart", "with_empty_tap"]


def alike_both_ways(w: ir.Value, group: int) -> bool:
    """Whether a convolution's W has as many channels in as out.

    Not depthwise: those weights are the same read either way.
    """
    if w.shape is None:
        return False
    outer, each = dim_of(w.shape, 0), dim_of(w.shape, 1)
    return isinstance(each, int) and each > 1 and outer == each * group


def told_apart(e: Emitter, w: ir.Value, group: int) -> bool:
    """Whether a convolution's W must be told from the one of its gradient."""
    return not e.shares_weights and alike_both_ways(w, group) and is_fixed(w)


def channels_apart(e: Emitter, ct: ir.Value, w: ir.Value, group: int) -> tuple[ir.Value, ir.Value]:
    """ct [N, K, ...] and a Conv's W [K, C/g, ...] with the channels K of each group in reverse
    order; as they are where nothing could take one W for the other."""
    if not told_apart(e, w, group):
        return ct, w
    assert w.shape is not None
    each = int(w.shape[1])  # type: ignore[arg-type]
    turned = np.arange(each * group).reshape(group, each)[:, ::-1].reshape(-1)
    return _gathered(e, ct, turned, 1), _gathered(e, w, turned, 0)


def with_empty_tap(e: Emitter, w: ir.Value) -> ir.Value:
    """W with one more tap of zeros at the end of its last axis.

    For a ConvTranspose, whose gradient is a Conv: there OpenVINO's converter moves a reversal of
    channels into the weights, and has equal bytes again.
    """
    assert w.shape is not None and w.dtype is not None
    dims = all_dims(w.shape)
    last = [*dims[:-1], 1]
    # No Pad: ONNX Runtime fuses one into the Conv behind it, be it that of the weights.
    zeros = e.Expand(e.const(0, w.dtype), e.const(last), _shape=last, _dtype=w.dtype)
    shape = [*dims[:-1], int(w.shape[-1]) + 1]  # type: ignore[arg-type]
    return e.op("Concat", [w, zeros], axis=len(dims) - 1, _shape=shape, _dtype=w.dtype)[0]


def matrix_apart(
    e: Emitter, ct: ir.Value, w: ir.Value, ct_axis: int, axis: int
) -> tuple[ir.Value, ir.Value]:
    """ct and a square matrix W (its last two axes) reversed along the axes that are summed over."""
    if e.shares_weights or w.shape is None or len(w.shape) < 2 or not is_fixed(w):
        return ct, w
    rows, columns = (dim_of(w.shape, len(w.shape) - i) for i in (2, 1))
    if rows != columns or not isinstance(rows, int) or rows < 2:
        return ct, w
    turned = np.arange(rows)[::-1]
    return _gathered(e, ct, turned, ct_axis), _gathered(e, w, turned, axis)


def _gathered(e: Emitter, value: ir.Value, order: np.ndarray, axis: int) -> ir.Value:
    index = e.const(np.ascontiguousarray(order))
    return e.Gather(value, index, axis=axis, _shape=value.shape, _dtype=value.dtype)
