"""A layer's map at the image's size."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ..errors import UsageError
from . import choose
from .emit import Emitter, all_dims, dim_of
from .explaining import Explaining
from .layer import Layer

__all__ = ["interpolation", "resized"]


def resized(e: Emitter, values: ir.Value, layer: Layer, x: Explaining) -> ir.Value:
    """Maps [N, h, w] or [N, K, h, w] at the image's size: linear, half_pixel, as OpenCV's.

    By two constant matrices where all sizes are known, which any runtime multiplies; else Resize.
    """
    image = x.image
    if image is None or image.shape is None:
        raise UsageError("--size input needs an image input; accepted: --size layer")
    axis = choose.channel_axis(image)
    rank = len(image.shape)
    places = [a for a in range(1, rank) if a != axis or rank == 3]
    if len(places) != 2:
        raise UsageError(f"--size input: '{image.name}' is no picture; accepted: --size layer")
    sizes, own = [dim_of(image.shape, a) for a in places], layer.sizes
    front = [x.batch] if values.shape is None else all_dims(values.shape)[:-2]
    shape = [*front, *sizes]
    if all(isinstance(s, int) for s in (*sizes, *own)):
        down, across = (interpolation(int(o), int(s)) for o, s in zip(own, sizes, strict=True))  # type: ignore[arg-type]
        tall = e.MatMul(e.const(down, values.dtype), values, _shape=[*front, sizes[0], own[1]])
        return e.MatMul(tall, e.const(across.T, values.dtype), _shape=shape)
    wanted = e.Concat(
        *(e.Shape(image, start=a, end=a + 1) for a in places), axis=0, _dtype=ir.DataType.INT64
    )
    alone = len(front) == 1
    large = e.Resize(
        e.Unsqueeze(values, [1]) if alone else values, None, None, wanted, mode="linear",
        coordinate_transformation_mode="half_pixel", axes=[2, 3], _dtype=values.dtype,
    )  # fmt: skip
    if alone:
        return e.Squeeze(large, [1], _shape=shape)
    large.shape = ir.Shape(shape)
    return large


def interpolation(size: int, out: int) -> NDArray[np.float32]:
    """The matrix [out, size] of linear interpolation with half_pixel coordinates."""
    at = np.clip((np.arange(out) + 0.5) * size / out - 0.5, 0, size - 1)
    low = np.minimum(at.astype(np.int64), max(size - 2, 0))
    part = at - low
    matrix = np.zeros((out, size))
    matrix[np.arange(out), low] = 1 - part
    if size > 1:
        matrix[np.arange(out), low + 1] += part
    return matrix.astype(np.float32)
