"""Rows that can't be explained get NaN: an image that is not finite, a class that there is not.

Gates hold NaN back as they hold back all else, and rectifiers and pools of some runtimes drop it: a
map would be finite, or NaN in places. So it comes at the end, row by row.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from . import seed
from .emit import Emitter, dim_of

__all__ = ["faults", "with_faults"]

FLOAT = ir.DataType.FLOAT
NAN = float("nan")


def faults(
    e: Emitter,
    image: ir.Value | None,
    seeds: Sequence[tuple[ir.Value, ir.Value]],
    target: ir.Value | None,
) -> ir.Value | None:
    """float32 [N]: NaN for a row whose image or explained score is not finite, or whose class in
    `target` (int64 [N]) is below -1 or above the last; else 0. None where there are no rows.

    seeds: pairs (scores [N, K, ...], their one-hot cotangent).
    """
    parts = [] if image is None or not _float(image) else [_zeros(e, image)]
    for of, hot in seeds:
        if image is not None and _same_rows(of, image) and _float(of):
            # The explained class alone: others may well be -inf.
            chosen = e.Where(e.Equal(hot, 0.0), 0.0, of, _dtype=of.dtype, _shape=of.shape)
            parts.append(_zeros(e, chosen))
    total: ir.Value | None = None
    for part in parts:
        total = part if total is None else e.Add(total, part)
    if target is not None and seeds:
        of = seeds[0][0]
        count = seed.class_count(of)
        classes = count if count is not None else e.Squeeze(e.Shape(of, start=1, end=2), [0])
        bad = e.Or(e.Less(target, -1), e.GreaterOrEqual(target, classes))
        total = e.Where(bad, NAN, 0.0 if total is None else total, _dtype=FLOAT)
        total.shape = target.shape
    return total


def with_faults(e: Emitter, value: ir.Value, wrt: ir.Value, fault: ir.Value | None) -> ir.Value:
    """A map [N, ...] of `wrt`, NaN in rows that have a fault; as it is where it has other rows."""
    if fault is None or fault.shape is None or value.shape is None or not len(value.shape):
        return value
    if wrt.shape is None or not _rows_alike(dim_of(fault.shape, 0), dim_of(wrt.shape, 0)):
        return value
    shape = [dim_of(fault.shape, 0), *[1] * (len(value.shape) - 1)]
    across = fault
    if len(shape) > 1:
        across = e.Unsqueeze(fault, list(range(1, len(shape))), _shape=shape)
    # Not added: OpenCV takes a sum behind a convolution for a residual of the whole shape.
    return e.Where(e.Equal(across, 0.0), value, NAN, _dtype=value.dtype, _shape=value.shape)


def _zeros(e: Emitter, value: ir.Value) -> ir.Value:
    """float32 [N]: the sum of a row times 0, which is NaN where anything in it is not finite."""
    assert value.shape is not None
    nothing = e.Mul(value, 0.0)
    axes = list(range(1, len(value.shape)))
    if axes:
        nothing = e.ReduceSum(nothing, axes, keepdims=0, _shape=[dim_of(value.shape, 0)])
    return e.cast(nothing, FLOAT)


def _float(value: ir.Value) -> bool:
    kinds = (FLOAT, ir.DataType.DOUBLE, ir.DataType.FLOAT16, ir.DataType.BFLOAT16)
    return value.dtype in kinds and value.shape is not None and len(value.shape) > 0


def _same_rows(a: ir.Value, b: ir.Value) -> bool:
    if a.shape is None or b.shape is None or not len(a.shape) or not len(b.shape):
        return False
    return _rows_alike(dim_of(a.shape, 0), dim_of(b.shape, 0))


def _rows_alike(a: int | str | None, b: int | str | None) -> bool:
    """Whether two first dimensions are the same; one that lost its name on the way is the batch."""
    return a == b or a is None or b is None
