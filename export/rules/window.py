"""How a convolution or a pool slides over its input: kernels, strides, dilations and pads."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from ...errors import UnsupportedNode
from ..emit import all_dims
from . import Emitter, Op
from .op import FIXED

# Beyond any picture: sums of some products of these are within 64 bits.
FARTHEST = 2**31 - 1


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
    strides, dilations, pads = _sliding(op, kernel)
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


def _sliding(
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


def transposed_window(op: Op, kernel: tuple[int, ...]) -> Window:
    """Of a ConvTranspose: pads from `output_shape` or `auto_pad` where those decide. ONNX
    Operators, ConvTranspose."""
    n = len(kernel)
    strides, dilations, given = _sliding(op, kernel)
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
