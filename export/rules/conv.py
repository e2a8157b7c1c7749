"""Convolutions, and the transposed ones: each is the other's gradient."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import onnx_ir as ir

from ...errors import UnsupportedNode
from ..emit import all_dims
from . import Cotangents, Emitter, Op, vjp
from .apart import channels_apart, told_apart, with_empty_tap
from .op import FIXED

INT64 = ir.DataType.INT64
# Beyond any picture: sums of some products of these are within 64 bits.
FARTHEST = 2**31 - 1
# The ends of an axis, beyond any index: for Slice.
FIRST, LAST = -(2**63), 2**63 - 1


@dataclass(frozen=True)
class Window:
    """How a convolution or a pool slides: one number per spatial axis.

    auto: SAME_UPPER or SAME_LOWER where only the run knows the pads (`pads_of_run`); they are 0
    here then.
    """

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    begins: tuple[int, ...]
    ends: tuple[int, ...]
    group: int = 1
    auto: str = ""

    @property
    def axes(self) -> range:
        return range(len(self.kernel))

    @property
    def reach(self) -> tuple[int, ...]:
        """Input positions that one window spans, holes included."""
        return tuple((k - 1) * d + 1 for k, d in zip(self.kernel, self.dilations, strict=True))


def window_of(op: Op, kernel: tuple[int, ...]) -> Window:
    """The window of a Conv or a pool, `auto_pad` resolved to numbers where sizes are known. Raises
    UnsupportedNode for one that is none."""
    n = len(kernel)
    strides, dilations, pads = _slides(op, kernel)
    begins, ends = list(pads[:n]), list(pads[n:])
    auto, late = op.attr("auto_pad", "NOTSET") or "NOTSET", ""
    if auto == "VALID":
        begins, ends = [0] * n, [0] * n
    elif auto in ("SAME_UPPER", "SAME_LOWER"):
        sizes = op.dims()[2:]
        if any(size is None and stride > 1 for size, stride in zip(sizes, strides, strict=True)):
            begins, ends, late = [0] * n, [0] * n, str(auto)
        for i in range(0 if late else n):
            size = sizes[i]
            reach = (kernel[i] - 1) * dilations[i] + 1
            out = -(-(size or 1) // strides[i])
            total = max((out - 1) * strides[i] + reach - (size or 1), 0)
            if size is None:
                total = reach - 1
            half = total // 2
            begins[i] = half if auto == "SAME_UPPER" else total - half
            ends[i] = total - begins[i]
    elif auto != "NOTSET":
        raise op.unsupported(f"auto_pad = {auto}", "NOTSET, SAME_UPPER, SAME_LOWER, VALID")
    return Window(
        tuple(kernel),
        tuple(strides),
        tuple(dilations),
        tuple(begins),
        tuple(ends),
        int(op.attr("group", 1)),
        late,
    )


def pads_of_run(e: Emitter, win: Window, x: ir.Value, y: ir.Value) -> tuple[ir.Value, ir.Value]:
    """What `win.auto` puts before and after each spatial axis of x, for as many positions as y
    has: int64 [axes] each, computed in the run."""
    span = e.Add(e.Mul(e.Sub(e.Shape(y, start=2), 1), list(win.strides)), list(win.reach))
    total = e.Max(e.Sub(span, e.Shape(x, start=2)), [0])
    small = e.Div(total, [2])
    large = e.Sub(total, small)
    return (small, large) if win.auto == "SAME_UPPER" else (large, small)


def _slides(
    op: Op, kernel: tuple[int, ...]
) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """Strides, dilations and pads, as many as the kernel has axes, and of sizes that are some."""
    n = len(kernel)
    if op.rank() != n + 2:
        raise op.unsupported(
            f"a kernel of {n} axes over {op.rank()} dimensions", "two dimensions more than axes"
        )
    found = []
    for name, count, least, default in (
        ("strides", n, 1, 1),
        ("dilations", n, 1, 1),
        ("pads", 2 * n, -FARTHEST, 0),
    ):
        numbers = op.attr(name, (default,) * count)
        if len(numbers) != count or not all(least <= v <= FARTHEST for v in numbers):
            raise op.unsupported(
                f"{name} = {list(numbers)}", f"{count} numbers from {least} to {FARTHEST}"
            )
        found.append(tuple(int(v) for v in numbers))
    if not kernel or not all(1 <= k <= FARTHEST for k in kernel):
        raise op.unsupported(f"a kernel of {list(kernel)}", f"sizes from 1 to {FARTHEST}")
    if int(op.attr("group", 1)) < 1:
        raise op.unsupported(f"group = {op.attr('group')}", "1 and up")
    return found[0], found[1], found[2]


def is_pointwise(node: ir.Node) -> bool:
    """Whether a node is a convolution of 1 x 1 that moves by one, over the image alone, of any
    groups: each place of its output is made of that place."""
    weight = node.inputs[1] if node.op_type == "Conv" and len(node.inputs) > 1 else None
    if weight is None or len(dims := all_dims(weight.shape)) != 4 or dims[2:] != [1, 1]:
        return False
    steps = set(node.attributes.get_ints("strides", (1,)))
    return steps == {1} and not any(node.attributes.get_ints("pads", ()))


def kernel_of(op: Op, w: ir.Value) -> tuple[int, ...]:
    """The spatial kernel: from the weight's shape, else the attribute."""
    if w.shape is not None:
        dims = op.dims(w)[2:]
        if None not in dims:
            return tuple(d for d in dims if d is not None)
    kernel = op.attr("kernel_shape")
    if kernel is None:
        raise op.unsupported("its kernel's size is unknown", "a weight of known shape")
    return tuple(kernel)


def sizes_of(value: ir.Value) -> tuple[int | None, ...]:
    """The spatial sizes of [N, C, ...], None for dynamic ones."""
    if value.shape is None:
        raise UnsupportedNode(
            f"'{value.name}': its rank is unknown; supported: inferable shapes. "
            "See 'backlight check'."
        )
    dims = all_dims(value.shape)[2:]
    return tuple(d if isinstance(d, int) else None for d in dims)


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
    win = _transposed_window(op, kernel_of(op, w))
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


def _transposed_window(op: Op, kernel: tuple[int, ...]) -> Window:
    """Pads from `output_shape` or `auto_pad` where those decide. ONNX Operators, ConvTranspose."""
    n = len(kernel)
    strides, dilations, given = _slides(op, kernel)
    begins, ends = list(given[:n]), list(given[n:])
    auto = op.attr("auto_pad", "NOTSET") or "NOTSET"
    shape = op.attr("output_shape")
    extra = op.attr("output_padding", (0,) * n)
    if auto == "VALID":
        begins, ends = [0] * n, [0] * n
    elif shape is not None or auto in ("SAME_UPPER", "SAME_LOWER"):
        for i in range(n):
            size = op.dims()[2 + i]
            if size is None and shape is not None:
                raise op.unsupported(
                    "output_shape on dynamic sizes", f"{FIXED}, or pads or auto_pad"
                )
            size = 1 if size is None else size  # by auto_pad, pads are the same for all
            wanted = shape[len(shape) - n + i] if shape is not None else size * strides[i]
            reach = (kernel[i] - 1) * dilations[i] + 1
            total = strides[i] * (size - 1) + extra[i] + reach - wanted
            if total < 0 and shape is None:
                raise op.unsupported(
                    f"auto_pad = {auto} with strides above the kernel, "
                    "where runtimes give less than the standard asks for",
                    "pads and output_padding",
                )
            # An output_shape beyond the whole result: runtimes add the zeros at the end.
            half = max(total, 0) // 2
            begins[i] = half if auto == "SAME_UPPER" else max(total, 0) - half
            ends[i] = total - begins[i]
    # What output_padding adds at the end is as if that much less had been cut off.
    ends = [end - more for end, more in zip(ends, extra, strict=True)]
    return Window(
        tuple(kernel),
        tuple(strides),
        tuple(dilations),
        tuple(begins),
        tuple(ends),
        int(op.attr("group", 1)),
    )
