"""How class scores lie in a tensor: [N, K], [N, K, 1, …], [N, 1, …, K], or [K] without a batch; and
which tensors are none."""

from __future__ import annotations

import onnx_ir as ir

from ..errors import ModelError
from . import choose
from .backward import FLOATS
from .emit import Emitter, all_dims, dim_of

__all__ = ["class_axis", "classes_of", "has_positions", "is_matrix", "laid_out", "no_batch",
           "refuse_maps"]  # fmt: skip


def laid_out(e: Emitter, value: ir.Value, batchless: bool) -> ir.Value:
    """Scores [N, K], whatever axis the classes are at; itself where they are at 1 already."""
    shape = value.shape
    if shape is None:
        return value
    if batchless and len(shape) == 1:
        return e.Reshape(value, [1, -1], _shape=[1, dim_of(shape, 0)])
    axis = class_axis(shape)
    if axis is None or axis == 1 or len(shape) < 3:
        return value
    return e.Flatten(value, axis=1, _shape=[dim_of(shape, 0), dim_of(shape, axis)])


def class_axis(shape: ir.Shape) -> int | None:
    """The axis of the classes of scores [N, K], [N, K, 1, …] or [N, 1, …, K]: the only one, but for
    the first, that isn't 1; None where there are several."""
    wide = [i for i in range(1, len(shape)) if dim_of(shape, i) != 1]
    if len(wide) > 1:
        return None
    return wide[0] if wide else 1


def classes_of(value: ir.Value, batchless: bool) -> int | None:
    """How many classes a tensor of scores has; None where that isn't known."""
    shape = value.shape
    if shape is None:
        return None
    if batchless:
        return max((d for d in all_dims(shape) if isinstance(d, int)), default=None)
    if len(shape) < 2:
        return 1
    axis = class_axis(shape)
    dim = None if axis is None else dim_of(shape, axis)
    return dim if isinstance(dim, int) else None


def no_batch(graph: ir.Graph, value: ir.Value) -> bool:
    """Whether scores have classes alone, [K]: a number that isn't the batch's."""
    shape = value.shape
    if shape is None or len(shape) != 1:
        return False
    dim = dim_of(shape, 0)
    return isinstance(dim, int) and dim > 1 and dim != _batch(graph)


def _batch(graph: ir.Graph) -> int | str | None:
    """The image input's batch; None where there is none, or it isn't known."""
    try:
        image = choose.image_input(graph).input
    except ModelError:
        return None
    if image.shape is None or len(image.shape) < 4:
        return None
    return dim_of(image.shape, 0)


def is_matrix(value: ir.Value) -> bool:
    return value.shape is not None and len(value.shape) >= 2 and not has_positions(value)


def has_positions(value: ir.Value) -> bool:
    return value.shape is not None and len(value.shape) > 2 and class_axis(value.shape) is None


def refuse_maps(graph: ir.Graph, scores: ir.Value) -> None:
    """Raise ModelError where the class scores have positions, or rows that are no images."""
    shape = scores.shape
    if shape is None or len(shape) < 2:
        return
    rows, batch = dim_of(shape, 0), _batch(graph)
    if has_positions(scores):
        what = f"it has {len(shape)} dimensions, positions too, {choose.shown(scores)}"
    elif isinstance(rows, int) and rows > 1 and batch is not None and rows != batch:
        what = f"it has {rows} rows, {choose.shown(scores)}, for a batch of {batch}"
    else:
        return
    near = _nameable(scores)
    instance = "" if near is None else f" (for instance '{near.name}' {choose.shown(near)})"
    raise ModelError(
        f"'{scores.name}' is no tensor of class scores: {what}; expected [N, K], or name a tensor "
        f"with --of{instance}"
    )


def _nameable(scores: ir.Value) -> ir.Value | None:
    """The nearest tensor before scores with positions that has a vector, or channels, an image."""
    waiting, seen = [scores], {scores}
    while waiting and len(seen) < 2000:
        value = waiting.pop(0)
        shape, node = value.shape, value.producer()
        if node is None:
            continue
        if value is not scores and shape is not None and value.dtype in FLOATS:
            channels = len(shape) == 4 and isinstance(dim_of(shape, 1), int)
            if channels and node.op_type in ("Conv", "Relu", "BatchNormalization"):
                return value
        for source in node.inputs[:1] if node.op_type != "Concat" else node.inputs:
            if source is not None and source not in seen:
                seen.add(source)
                waiting.append(source)
    return None
