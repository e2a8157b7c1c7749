"""Cotangents to start from: one-hot vectors of a class, or an input of the graph."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from ..errors import ModelError, UsageError
from . import choose
from .emit import Emitter, dim_of, fits


def class_count(of: ir.Value) -> int | None:
    """The number of classes of a score tensor [N, K, ...]; None when dynamic. [N] has one."""
    if of.shape is None:
        raise ModelError(
            f"'{of.name}' has no known rank{choose.culprit(of)}; name another tensor with --of"
        )
    if len(of.shape) < 2:
        return 1
    dim = dim_of(of.shape, 1)
    return dim if isinstance(dim, int) else None


def check_class(of: ir.Value, target_class: str | int) -> None:
    """Raise UsageError unless `target_class` is "input", "top1" or a class of `of`."""
    if isinstance(target_class, str):
        if target_class not in ("input", "top1"):
            raise UsageError(f"target class '{target_class}'; accepted: input, top1 or a number")
        return
    count = class_count(of)
    if not 0 <= target_class < (2**63 if count is None else count):
        last = " and up" if count is None else f" to {count - 1}"
        raise UsageError(f"class {target_class} is out of range; '{of.name}' has classes 0{last}")


def class_seed(
    e: Emitter, of: ir.Value, target: ir.Value | str | int, ranking: ir.Value | None = None
) -> ir.Value:
    """One-hot cotangent of `of` [N, K, ...], one class a row, 1 at all positions of the class.

    target: int64 [N] (-1: the row's top class, ties to the first), "top1", or a class number.
    ranking: the tensor that says which class is on top, if not `of`.
    A class outside 0..K-1 seeds with zeros. Returns a value shaped and typed like `of`.
    """
    rank = 0 if of.shape is None else len(of.shape)
    if rank == 0:
        return e.Expand(e.const(1, of.dtype), e.Shape(of), _shape=of.shape, _dtype=of.dtype)
    shape = of.shape
    assert shape is not None
    batch = dim_of(shape, 0)
    ranked = ranking is not None and ranking.shape is not None and len(ranking.shape) > 0
    flat = _flat(e, ranking if ranked and ranking is not None else of)
    count = class_count(of)
    if of.dtype is None:
        raise ModelError(
            f"'{of.name}' has no known element type{choose.culprit(of)}; name another with --of"
        )
    if count is not None and not fits(count):
        classes = e.Range(0, count, 1, _dtype=ir.DataType.INT64)
    elif count is None:
        width = e.Squeeze(e.Shape(flat, start=1, end=2), [0])
        classes = e.Range(0, width, 1, _dtype=ir.DataType.INT64)
    else:
        classes = e.const(np.arange(count, dtype=np.int64))
    if isinstance(target, int):
        row = e.cast(e.Equal(classes, target), of.dtype)
        hot = e.Expand(row, e.Shape(flat), _shape=flat.shape)
    else:
        if isinstance(target, str):
            chosen = e.ArgMax(flat, axis=1, keepdims=1, _shape=[batch, 1])
        else:
            top = e.ArgMax(flat, axis=1, keepdims=0, _shape=[batch])
            chosen = e.Where(e.Equal(target, -1), top, target, _dtype=ir.DataType.INT64)
            chosen = e.Unsqueeze(chosen, [1], _shape=[batch, 1])
        hot = e.cast(e.Equal(chosen, classes), of.dtype)
        hot.shape = flat.shape
    if rank == 1:
        return e.Squeeze(hot, [1], _shape=shape)
    if rank > 2:
        hot = e.Unsqueeze(hot, list(range(2, rank)))
        if any(dim_of(shape, axis) != 1 for axis in range(2, rank)):
            hot = e.Expand(hot, e.Shape(of))
        hot.shape = shape
    return hot


def _flat(e: Emitter, scores: ir.Value) -> ir.Value:
    """Scores [N], [N, K] or [N, K, ...] as [N, K], summed over positions."""
    shape = scores.shape
    assert shape is not None
    batch, rank = dim_of(shape, 0), len(shape)
    if rank == 1:
        return e.Unsqueeze(scores, [1], _shape=[batch, 1])
    if rank > 2:
        sizes = [batch, dim_of(shape, 1)]
        return e.ReduceSum(scores, list(range(2, rank)), keepdims=0, _shape=sizes)
    return scores
