"""Convolutions, and the transposed ones: each is the other's gradient."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import onnx_ir as ir

from ..emit import all_dims
from . import Cotangents, Emitter, Op, vjp
from .apart import channels_apart, told_apart, with_empty_tap
from .op import FIXED
from .window import Window, kernel_of, pads_of_run, sizes_of, transposed_window, window_of

INT64 = ir.DataType.INT64
# The ends of an axis, beyond any index: for Slice.
FIRST, LAST = -(2**63), 2**63 - 1


def is_pointwise(node: ir.Node) -> bool:
    """Whether a node is a convolution of 1 x 1 that moves by one, over the image alone, of any
    groups: each place of its output is made of that place."""
    weight = node.inputs[1] if node.op_type == "Conv" and len(node.inputs) > 1 else None
    if weight is None or len(dims := all_dims(weight.shape)) != 4 or dims[2:] != [1, 1]:
        return False
    steps = set(node.attributes.get_ints("strides", (1,)))
    return steps == {1} and not any(node.attributes.get_ints("pads", ()))


@vjp("Conv", 11, 22)
def conv(e: Emitter, op: Op, ct: ir.Value) -> Cotangents:
    """Y = X * W + B. X: [N,C,...], W: [K,C/g,...], ct: [N,K,...]. ONNX Operators, Conv."""
    w = op.need(1)
    op.rank()
    win = window_of(op, kernel_of(op, w))
    d_x = d_w = d_b = None
    if op.wants[0]:
        if all(s == 1 for s in win.strides):
            d_x = _by_flipped_weights(e, op, ct, w, win)
        else:
            d_x = by_transposed(e, ct, w, win, op.x)
    if op.wants[1]:
        d_w = weight_gradient(e, op.x, ct, w, win)
    if len(op.wants) > 2 and op.wants[2]:
        d_b = e.ReduceSum(ct, [0, *range(2, op.rank())], keepdims=0)
    return (d_x, d_w, d_b)[: len(op)]


def flipped(e: Emitter, w: ir.Value, win: Window, channels: tuple[int, int]) -> ir.Value:
    """W [K, C/g, k...] -> [C, K/g, k...], mirrored: nodes on the initializer, folded at load."""
    n = len(win.kernel)
    if any(k > 1 for k in win.kernel):
        w = e.Slice(w, [-1] * n, [FIRST] * n, list(range(2, 2 + n)), [-1] * n)
    out, each = channels
    if win.group == 1:
        return e.Transpose(w, perm=[1, 0, *range(2, 2 + n)])
    if each == 1 and out == win.group:  # depthwise: [C, 1, k...] already
        return w
    w = e.Reshape(w, [win.group, out // win.group, each, *win.kernel])
    if out // win.group > 1 and each > 1:
        w = e.Transpose(w, perm=[0, 2, 1, *range(3, 3 + n)])
    return e.Reshape(w, [win.group * each, out // win.group, *win.kernel])


def _channels(op: Op, w: ir.Value) -> tuple[int, int]:
    out, each = op.dims(w)[:2]
    if out is None or each is None:
        raise op.unsupported("its weight has dynamic channels", FIXED)
    return out, each


def _by_flipped_weights(e: Emitter, op: Op, ct: ir.Value, w: ir.Value, win: Window) -> ir.Value:
    """Stride 1: a convolution with the mirrored weights and pads reach - 1 - p.

    Pads larger than that are cut off the cotangent first.
    """
    turned = flipped(e, w, win, _channels(op, w))
    begins = [r - 1 - p for r, p in zip(win.reach, win.begins, strict=True)]
    ends = [r - 1 - p for r, p in zip(win.reach, win.ends, strict=True)]
    ct, pads = without_negative(e, ct, begins, ends)
    return e.Conv(
        ct,
        turned,
        group=win.group,
        dilations=list(win.dilations),
        kernel_shape=list(win.kernel),
        pads=pads,
        _shape=op.x.shape,
    )


def without_negative(
    e: Emitter, value: ir.Value, begins: Sequence[int], ends: Sequence[int]
) -> tuple[ir.Value, list[int]]:
    """Negative pads cut off the value's spatial axes; with it, the pads that are left."""
    value = cropped(e, value, [max(-b, 0) for b in begins], [max(-b, 0) for b in ends])
    return value, [max(b, 0) for b in (*begins, *ends)]


def cropped(e: Emitter, value: ir.Value, front: Sequence[int], back: Sequence[int]) -> ir.Value:
    """Cut front[i] positions off the start of spatial axis i, and back[i] off its end."""
    at = [i for i in range(len(front)) if front[i] or back[i]]
    if not at:
        return value
    starts, ends = [front[i] for i in at], [-back[i] or LAST for i in at]
    return e.Slice(value, starts, ends, [i + 2 for i in at])


def by_transposed(e: Emitter, ct: ir.Value, w: ir.Value, win: Window, x: ir.Value) -> ir.Value:
    """A transposed convolution with W (see `apart.py`), in the size of x.

    Pads are symmetric, with the rest as output_padding: ONNX Runtime's CUDA provider hands
    asymmetric ones back to the CPU. What that can't express is cut off afterwards.
    """
    n = len(win.kernel)
    sizes, outs = sizes_of(x), sizes_of(ct)
    pads, extra, front = [0] * n, [0] * n, [0] * n
    cut = None in sizes or None in outs or bool(win.auto)
    for i, (size, out) in enumerate(zip(sizes, outs, strict=True)):
        begin, end = win.begins[i], win.ends[i]
        if size is None or out is None or win.auto:
            # How many last positions no window reaches is for the run to tell: at most these.
            front[i], extra[i] = begin, win.strides[i] - 1
            continue
        rest = size + begin + end - ((out - 1) * win.strides[i] + win.reach[i])
        extra[i] = begin - end + rest
        if extra[i] < 0:
            pads[i], extra[i], cut = begin, 0, True
        elif extra[i] < win.strides[i]:  # ONNX Runtime asks for that, dilated or not
            pads[i] = begin
        else:
            pads[i], extra[i] = max(end - rest, 0), max(rest - end, 0)
            front[i], cut = begin - pads[i], True
    ct, w = channels_apart(e, ct, w, win.group)
    result = e.ConvTranspose(
        ct,
        w,
        group=win.group,
        strides=list(win.strides),
        dilations=list(win.dilations),
        kernel_shape=list(win.kernel),
        pads=pads + pads,
        output_padding=extra if any(extra) else None,
        _shape=None if cut else x.shape,
    )
    if win.auto:
        begins, _ = pads_of_run(e, win, x, ct)
        ends = e.Add(begins, e.Shape(x, start=2))
        return e.Slice(result, begins, ends, list(range(2, 2 + n)), _shape=x.shape)
    return fitted(e, result, front, x) if cut else result


def fitted(e: Emitter, value: ir.Value, front: Sequence[int], x: ir.Value) -> ir.Value:
    """Cut front[i] positions off the start of spatial axis i, and what is left to the size of x."""
    sizes, axes = sizes_of(x), list(range(2, 2 + len(front)))
    ends: list[int] | ir.Value = [f + (s or 0) for f, s in zip(front, sizes, strict=True)]
    if None in sizes:
        ends = e.Shape(x, start=2)
        ends = e.Add(ends, list(front)) if any(front) else ends
    return e.Slice(value, list(front), ends, axes, _shape=x.shape)


def weight_gradient(e: Emitter, x: ir.Value, ct: ir.Value, w: ir.Value, win: Window) -> ir.Value:
    """dW: x as a batch of its channels, convolved with the cotangent as weights.

    x [N,C,...] -> [C/g, g N, ...]; ct [N,K,...] -> [K, N, ...], grouped by g; strides and
    dilations change places. The result [C/g, K, k'...] is cut to the kernel and turned.
    """
    n = len(win.kernel)
    spatial = list(range(2, 2 + n))
    turned = e.Transpose(ct, perm=[1, 0, *spatial])
    if win.group == 1:
        images = e.Transpose(x, perm=[1, 0, *spatial])
    else:
        tail = e.Shape(x, start=2)
        parts = [e.Shape(x, start=0, end=1), e.const([win.group, -1]), tail]
        split = e.Reshape(x, e.op("Concat", parts, axis=0, _dtype=INT64)[0])
        moved = e.Transpose(split, perm=[2, 1, 0, *range(3, 3 + n)])
        flat = e.op("Concat", [e.Shape(moved, start=0, end=1), e.const([-1]), tail], axis=0)
        images = e.Reshape(moved, flat[0])
    # Padded by hand: the last positions, which no window reaches, must not become kernel taps.
    if win.auto:
        begins, ends = pads_of_run(e, win, x, ct)
        around = e.op("Concat", [[0, 0], begins, [0, 0], ends], axis=0, _dtype=INT64)[0]
        images = e.Pad(images, around)
    elif any(win.begins) or any(win.ends):
        images = e.Pad(images, e.const([0, 0, *win.begins, 0, 0, *win.ends]))
    result = e.Conv(
        images, turned, group=win.group, strides=list(win.dilations), dilations=list(win.strides)
    )
    result = e.Slice(result, [0] * n, list(win.kernel), spatial)
    return e.Transpose(result, perm=[1, 0, *spatial], _shape=w.shape)


@vjp("ConvTranspose", 11, 22)
def conv_transpose(e: Emitter, op: Op, ct: ir.Value) -> Cotangents:
    """X: [N,C,...], W: [C,K/g,...], ct: [N,K,...]. ONNX Operators, ConvTranspose.

    The gradient by X is the convolution of which this is the transpose, with W (see
    `apart.py`).
    """
    w = op.need(1)
    win = transposed_window(op, kernel_of(op, w))
    d_x = d_w = d_b = None
    # Negative pads (what output_padding added) are cut off the cotangent instead.
    short, pads = without_negative(e, ct, win.begins, win.ends)
    if op.wants[0]:
        wider, kernel, around = w, list(win.kernel), list(pads)
        if told_apart(e, w, win.group):
            wider = with_empty_tap(e, w)
            kernel[-1] += 1
            around[-1] += win.dilations[-1]
        d_x = e.Conv(
            short,
            wider,
            group=win.group,
            strides=list(win.strides),
            dilations=list(win.dilations),
            kernel_shape=kernel,
            pads=around,
            _shape=op.x.shape,
        )
    if op.wants[1]:
        # The roles of x and ct swap: W is the kernel of the convolution ct -> x.
        n = len(win.kernel)
        cut = replace(win, begins=tuple(pads[:n]), ends=tuple(pads[n:]))
        d_w = weight_gradient(e, short, op.x, w, cut)
    if len(op.wants) > 2 and op.wants[2]:
        d_b = e.ReduceSum(ct, [0, *range(2, op.rank())], keepdims=0)
    return (d_x, d_w, d_b)[: len(op)]
