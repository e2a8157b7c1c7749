"""Which operators can be done on boxes alone, and what each reads of its input."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import onnx_ir as ir

from .. import traits
from ..emit import dim_of
from ..rules.op import constant
from .intervals import LOWEST, POINT, ZERO, Pair, Stencil

# One output position from the same position of the inputs, whatever the channels do.
# Boxes are cut from numbers: no bits, no truth values, no Where that picks by them.
ELEMENTWISE = traits.ELEMENTWISE - traits.BOOLEAN - traits.BITS - {"Where"}
# Along the channel axis by their attribute `axis`.
_CHANNEL = frozenset("Concat LogSoftmax LpNormalization Softmax Split".split())

Kind = Literal["point", "sweep", "pad", "mean"]


@dataclass(frozen=True)
class Local:
    """How a node is done on boxes.

    point: the same operator on boxes at the same place. sweep: the same operator, unpadded, on
    patches that its stencil reads. pad: the patch is the output. mean: over the whole map.
    """

    kind: Kind
    stencil: Stencil = POINT
    pad_row: int = ZERO
    attributes: dict[str, Any] = field(default_factory=dict)
    # What an average counts, per axis, where not every window is whole; see window_share.
    limits: tuple[Pair, Pair] | None = None


def spatial(value: ir.Value | None) -> Pair | None:
    """(H, W) of a tensor [N, C, H, W] of known size, else None."""
    if value is None or value.shape is None or len(value.shape) != 4:
        return None
    c, h, w = (dim_of(value.shape, axis) for axis in (1, 2, 3))
    if isinstance(c, int) and isinstance(h, int) and isinstance(w, int) and min(c, h, w) > 0:
        return h, w
    return None


def channels(value: ir.Value) -> int:
    """C of a tensor [N, C, H, W] whose size is known."""
    assert value.shape is not None
    count = dim_of(value.shape, 1)
    assert isinstance(count, int)
    return count


def describe(node: ir.Node, varying: tuple[bool, ...]) -> Local | None:
    """How to do a node on boxes, or None where it must see whole maps.

    varying: which inputs depend on the image.
    """
    sizes = [spatial(v) for v, moves in zip(node.inputs, varying, strict=True) if moves]
    if node.domain != "" or not sizes or any(s is None for s in sizes):
        return None
    fixed = [v for v, moves in zip(node.inputs, varying, strict=True) if not moves]
    op = node.op_type
    if op in ("GlobalAveragePool", "ReduceMean"):
        return Local("mean") if op == "GlobalAveragePool" or _over_map(node) else None
    out = [spatial(v) for v in node.outputs if v.name]
    if any(s is None for s in out):
        return None
    if op in ELEMENTWISE:
        same = all(s == out[0] for s in sizes)
        return Local("point") if same and all(_flat(v) for v in fixed) else None
    if op in _CHANNEL:
        axis = node.attributes.get_int("axis", {"Split": 0, "Concat": 0}.get(op, -1))
        return Local("point") if axis in (1, -3) and all(varying[: len(sizes)]) else None
    if op == "LRN":
        return Local("point")
    if op == "BatchNormalization":
        training = node.attributes.get_int("training_mode", 0)
        return None if training or sum(varying) != 1 or not varying[0] else Local("point")
    if op in ("Slice", "Gather"):
        return Local("point") if _on_channels(node) and varying[0] else None
    if sum(varying) != 1 or not varying[0] or len([v for v in node.outputs if v.name]) != 1:
        return None
    assert sizes[0] is not None and out[0] is not None
    if op == "Pad":
        return _pad(node)
    if op in ("Conv", "MaxPool", "AveragePool"):
        return _sweep(node, sizes[0], out[0])
    return None


def _flat(value: ir.Value | None) -> bool:
    """Whether an operand is the same at every position."""
    if value is None or not value.name:
        return True
    if value.shape is None:
        return False
    return all(dim_of(value.shape, axis) == 1 for axis in range(len(value.shape))[-2:])


def _over_map(node: ir.Node) -> bool:
    axes = node.attributes.get_ints("axes", None)
    if axes is None:
        array = constant(node.inputs[1]) if len(node.inputs) > 1 else None
        axes = None if array is None else array.tolist()
    return axes is not None and sorted(a % 4 for a in axes) == [2, 3]


def _on_channels(node: ir.Node) -> bool:
    if node.op_type == "Gather":
        index = constant(node.inputs[1])
        return node.attributes.get_int("axis", 0) in (1, -3) and getattr(index, "ndim", 0) == 1
    axes = constant(node.inputs[3]) if len(node.inputs) > 3 else None
    return axes is not None and set(axes.tolist()) <= {1, -3}


def _pad(node: ir.Node) -> Local | None:
    """Zeros around the map; other values and modes aren't padding that a patch can read."""
    pads = constant(node.inputs[1]) if len(node.inputs) > 1 else None
    value = constant(node.inputs[2]) if len(node.inputs) > 2 and node.inputs[2] else np.zeros(())
    given = constant(node.inputs[3]) if len(node.inputs) > 3 and node.inputs[3] else np.arange(4)
    if node.attributes.get_string("mode", "constant") != "constant":
        return None
    if pads is None or given is None or value is None or float(value.reshape(())) != 0:
        return None
    begin, end = [0] * 4, [0] * 4
    for at, axis in enumerate(given.tolist()):
        begin[axis % 4], end[axis % 4] = int(pads[at]), int(pads[len(given) + at])
    if any(begin[:2]) or any(end[:2]):
        return None
    return Local("pad", Stencil((1, 1), begin=(begin[2], begin[3])))


def _sweep(node: ir.Node, size: Pair, out: Pair) -> Local | None:
    kernel: list[int] | None = node.attributes.get_ints("kernel_shape", None)  # type: ignore
    if kernel is None and node.op_type == "Conv":
        weight = node.inputs[1]
        dims = [] if weight is None or weight.shape is None else list(weight.shape)[2:]
        kernel = [d for d in dims if isinstance(d, int)]
    column_major = node.attributes.get_int("storage_order", 0)
    if kernel is None or len(kernel) != 2 or column_major:
        return None
    dilation = tuple(node.attributes.get_ints("dilations", (1, 1)))
    stride = tuple(node.attributes.get_ints("strides", (1, 1)))
    k, d, s = (kernel[0], kernel[1]), (dilation[0], dilation[1]), (stride[0], stride[1])
    pads = _pads(node, size, out, Stencil(k, d, s))
    if pads is None:
        return None
    begin, end = pads[:2], pads[2:]
    stencil = Stencil(k, d, s, (begin[0], begin[1]))
    attributes = {
        name: attribute.value
        for name, attribute in node.attributes.items()
        if name not in ("auto_pad", "pads", "ceil_mode", "count_include_pad", "storage_order")
    }
    if node.op_type != "AveragePool":
        row = LOWEST if node.op_type == "MaxPool" else ZERO
        return Local("sweep", stencil, row, attributes)
    include = node.attributes.get_int("count_include_pad", 0)
    low, high = [0, 0], [size[0] - 1, size[1] - 1]
    if include:
        low = [-begin[0], -begin[1]]
        high = [size[0] - 1 + end[0], size[1] - 1 + end[1]]
    partial = False
    for axis in (0, 1):
        last = (out[axis] - 1) * s[axis] - begin[axis] + stencil.span(axis) - 1
        partial |= -begin[axis] < low[axis] or last > high[axis]
    limits = ((low[0], high[0]), (low[1], high[1])) if partial else None
    return Local("sweep", stencil, ZERO, attributes, limits)


def _pads(node: ir.Node, size: Pair, out: Pair, stencil: Stencil) -> tuple[int, ...] | None:
    """Begin and end pads (y, x, y, x), with auto_pad resolved."""
    mode = node.attributes.get_string("auto_pad", "NOTSET")
    if mode == "NOTSET":
        return tuple(node.attributes.get_ints("pads", (0, 0, 0, 0)))
    if mode == "VALID":
        return 0, 0, 0, 0
    if mode not in ("SAME_UPPER", "SAME_LOWER"):
        return None
    begin, end = [], []
    for axis in (0, 1):
        total = (out[axis] - 1) * stencil.stride[axis] + stencil.span(axis) - size[axis]
        small = max(total, 0) // 2
        large = max(total, 0) - small
        begin.append(small if mode == "SAME_UPPER" else large)
        end.append(large if mode == "SAME_UPPER" else small)
    return begin[0], begin[1], end[0], end[1]
