"""What works place by place along an axis: the same for a few of the places, given those alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from . import traits
from .emit import Emitter, all_dims
from .rules.op import constant

__all__ = ["operand_axes", "resized"]

Axes = list[int | None]
_ALONG_ONE = ("LogSoftmax", "LpNormalization", "Softmax")
_FROM_ONE = ("LayerNormalization", "RMSNormalization")
_RESHAPES = ("Flatten", "Reshape", "Squeeze", "Unsqueeze")


def operand_axes(node: ir.Node, axis: int) -> Axes | None:
    """Of each operand the axis whose places make those along `axis` of the first output, each its
    own; None for one that all of them read. None where places see each other, or that isn't known.
    """
    if node.domain not in ("", "ai.onnx") or not node.inputs:
        return None
    if any(v is not None and v.shape is None for v in (*node.inputs, node.outputs[0])):
        return None
    kind = node.op_type
    if kind in traits.ELEMENTWISE:
        return _broadcast(node, axis)
    source = node.inputs[0]
    if source is None:
        return None
    others: Axes = [None] * (len(node.inputs) - 1)
    had, made = all_dims(source.shape), all_dims(node.outputs[0].shape)
    if kind == "MatMul":
        return _product(node, axis)
    if kind == "Gemm":
        return _affine(node, axis)
    if kind == "Transpose":
        order = node.attributes.get_ints("perm", list(range(len(had)))[::-1])
        return [int(order[axis])]
    if kind in _ALONG_ONE:
        along = node.attributes.get_int("axis", -1) % len(had)
        return None if along == axis else [axis, *others]
    if kind in _FROM_ONE:
        first = node.attributes.get_int("axis", -1) % len(had)
        return (
            [axis, *others] if axis < first and not any(_wide(v) for v in node.inputs[1:]) else None
        )
    if kind in traits.REDUCES:
        return _reduced(node, axis, len(had))
    if kind == "Squeeze" and len(node.inputs) < 2:
        return None  # of whatever is 1, as the few places may be
    if kind in _RESHAPES:
        at = _kept_axis(had, made, axis)
        return None if at is None else [at, *others]
    return None


def resized(
    e: Emitter, node: ir.Node, inputs: list[ir.Value | None], shape: ir.Shape
) -> list[ir.Value | None]:
    """The operands of a node's copy whose output has another shape: a Reshape is told that one."""
    if node.op_type != "Reshape":
        return inputs
    told = [d if isinstance(d, int) else -1 for d in all_dims(shape)]
    return [inputs[0], e.const(np.array(told, np.int64))]


def _broadcast(node: ir.Node, axis: int) -> Axes | None:
    made = all_dims(node.outputs[0].shape)
    axes: Axes = []
    for value in node.inputs:
        dims = all_dims(value.shape) if value is not None else []
        at = axis - (len(made) - len(dims))
        if at < 0 or dims[at] == 1:
            axes.append(None)
        elif dims[at] == made[axis]:
            axes.append(at)
        else:
            return None
    return axes


def _product(node: ir.Node, axis: int) -> Axes | None:
    left, right = (all_dims(v.shape) if v is not None else [] for v in node.inputs)
    made = all_dims(node.outputs[0].shape)
    if len(left) < 2 or len(right) < 2:
        return None
    if axis == len(made) - 2:
        return [len(left) - 2, None]
    if axis == len(made) - 1:
        return [None, len(right) - 1]
    axes: Axes = []
    for dims in (left, right):
        at = axis - (len(made) - len(dims))
        if at >= 0 and dims[at] not in (1, made[axis]):
            return None
        axes.append(None if at < 0 or dims[at] == 1 else at)
    return axes


def _affine(node: ir.Node, axis: int) -> Axes | None:
    if axis != 0:
        return None
    added = node.inputs[2] if len(node.inputs) > 2 else None
    rows = added is not None and len(all_dims(added.shape)) == 2 and all_dims(added.shape)[0] != 1
    axes: Axes = [1 if node.attributes.get_int("transA", 0) else 0, None, 0 if rows else None]
    return axes[: len(node.inputs)]


def _reduced(node: ir.Node, axis: int, rank: int) -> Axes | None:
    told = constant(node.inputs[1]) if len(node.inputs) > 1 else None
    if told is None or not told.size:
        return None
    over = {int(a) % rank for a in told.reshape(-1)}
    if node.attributes.get_int("keepdims", 1):
        return None if axis in over else [axis, None]
    return [[a for a in range(rank) if a not in over][axis], None]


def _kept_axis(had: Sequence[object], made: Sequence[object], axis: int) -> int | None:
    """The axis of a reshaped tensor whose places are those along `axis` of the result: as much lies
    in front of it, or behind it, and it is as long. None where there is none."""
    if None in had or None in made or sum(isinstance(d, str) for d in made) > 1:
        return None  # what a Reshape can be told is one unknown size
    for at, dim in enumerate(had):
        if dim != made[axis]:
            continue
        if _many(had[:at]) == _many(made[:axis]) or _many(had[at + 1 :]) == _many(made[axis + 1 :]):
            return at
    return None


def _many(dims: Sequence[object]) -> tuple[int, list[str]]:
    """How many places sizes make: the numbers' product, and the names."""
    numbers = [d for d in dims if isinstance(d, int)]
    return int(np.prod(numbers, dtype=object)), sorted(d for d in dims if isinstance(d, str))


def _wide(value: ir.Value | None) -> bool:
    """Whether a normalisation's scale or bias has more than one axis."""
    return value is not None and len(all_dims(value.shape)) > 1
