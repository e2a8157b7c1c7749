"""For ONNX Runtime's CUDA provider: other operators where a version has no CUDA kernel.

A kernel serves the versions that it was registered for, and the provider's lag behind the
standard: from opset 19 on Equal, Pad and Size, from 20 on ReduceMax, from 21 on Identity would run
on the CPU, with their inputs copied there and their outputs back (`operators.py` has the list and
its source). They are replaced where they are emitted, whichever rule asks for them.

ConvTranspose needs nothing: the portable rule pads it symmetrically already, and asymmetric pads
alone would send it to the CPU.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from ..emit import Emitter
from ..rules.op import constant
from ..rules.shape import Amount, size_of, vector

__all__ = ["SUBSTITUTES", "CudaEmitter"]

Substitute = Callable[..., "ir.Value | None"]


def equal(e: Emitter, a: Any, b: Any, **_: Any) -> ir.Value | None:
    """a <= b and a >= b: for NaN both are false. There is no order of booleans."""
    value = a if isinstance(a, ir.Value) else b
    if value.dtype is None or value.dtype == ir.DataType.BOOL:
        return None
    return e.And(e.LessOrEqual(a, b), e.GreaterOrEqual(a, b))


def pad(
    e: Emitter,
    x: ir.Value,
    pads: Any,
    value: Any = None,
    axes: Any = None,
    *,
    mode: str = "constant",
    _shape: Any = None,
    **_: Any,
) -> ir.Value | None:
    """Blocks of the value before and after, axis by axis. None where the amounts are the run's."""
    amounts = constant(pads) if isinstance(pads, ir.Value) else np.asarray(pads)
    if mode != "constant" or axes is not None or amounts is None:
        return None
    if x.dtype is None or amounts.min() < 0:
        return None
    rank = len(amounts) // 2
    around = [(int(amounts[i]), int(amounts[i + rank])) for i in range(rank)]
    if x.shape is None:
        whole = [None] * rank if _shape is None else list(_shape)
        x.shape = ir.Shape(
            d if not any(n) else d - sum(n) if isinstance(d, int) else None
            for d, n in zip(whole, around, strict=True)
        )
    filling = value if isinstance(value, ir.Value) else e.const(value or 0, x.dtype)
    for axis, counts in enumerate(around):
        if any(counts):
            front, back = (_block(e, x, axis, count, filling) for count in counts)
            dims: list[Any] = list(x.shape or ())
            dims[axis] = dims[axis] + sum(counts) if isinstance(dims[axis], int) else None
            parts = [part for part in (front, x, back) if part is not None]
            x = e.op("Concat", parts, axis=axis, _shape=dims)[0]
    if _shape is not None:
        x.shape = ir.Shape(_shape)
    return x


def _block(e: Emitter, x: ir.Value, axis: int, count: int, filling: ir.Value) -> ir.Value | None:
    """`count` slices of the filling, shaped as x is across the axis; None for none of them."""
    if not count:
        return None
    assert x.shape is not None
    sizes: list[Amount] = [size_of(e, x, i) if i != axis else count for i in range(len(x.shape))]
    shape = [s if isinstance(s, int) else None for s in sizes]
    return e.Expand(filling, vector(e, sizes), _shape=shape, _dtype=x.dtype)


def size(e: Emitter, x: ir.Value, **_: Any) -> ir.Value:
    """A constant, or the product of the shape, which lives on the host as all shapes do."""
    if x.shape is not None and all(isinstance(d, int) for d in x.shape):
        return e.const(int(np.prod(x.shape.numpy(), dtype=np.int64)))
    return e.ReduceProd(e.Shape(x), keepdims=0, _shape=[])


def reduce_max(
    e: Emitter, x: ir.Value, axes: Any = None, *, keepdims: int = 1, _shape: Any = None, **_: Any
) -> ir.Value | None:
    """The element at the first maximum, along one axis."""
    known = constant(axes) if isinstance(axes, ir.Value) else axes
    if known is None or np.size(known) != 1 or x.shape is None:
        return None
    axis = int(np.reshape(known, ())) % len(x.shape)
    dims = [1 if i == axis else d for i, d in enumerate(x.shape)]
    first = e.ArgMax(x, axis=axis, keepdims=1, _shape=dims)
    found = e.GatherElements(x, first, axis=axis, _shape=dims)
    return found if keepdims else e.Squeeze(found, [axis], _shape=_shape)


def identity(e: Emitter, x: ir.Value, *, _shape: Any = None, **_: Any) -> ir.Value | None:
    """A cast to the type that it has."""
    return None if x.dtype is None else e.Cast(x, to=int(x.dtype), _shape=_shape or x.shape)


# operator -> the first version without a kernel, and what stands in for it
SUBSTITUTES: Mapping[str, tuple[int, Substitute]] = {
    "Equal": (19, equal),
    "Identity": (21, identity),
    "Pad": (19, pad),
    "Size": (19, size),
    "ReduceMax": (20, reduce_max),
}


class CudaEmitter(Emitter):
    """An Emitter that writes the substitutes."""

    shares_weights = True

    def op(self, op_type: str, operands: Sequence[Any], **attributes: Any) -> tuple[ir.Value, ...]:
        """As Emitter's."""
        first, substitute = SUBSTITUTES.get(op_type, (0, None))
        if substitute is not None and self.opset >= first:
            found = substitute(self, *operands, **attributes)
            if found is not None:
                return (found,)
        return super().op(op_type, operands, **attributes)
