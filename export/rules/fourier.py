"""DFT: a sum of products with sines and cosines, whose matrix is written into the graph."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from . import Cotangents, Emitter, Op, vjp
from .op import FIXED

# Numbers of one matrix: complex, 724 points.
MOST = 1 << 21


@vjp("DFT", 17, 20)
def dft(e: Emitter, op: Op, ct: ir.Value) -> Cotangents:
    """Its transpose: [..., K, 2] -> [..., n, 1] (real) or [..., n, 2], along any axis.

    A longer dft_length pads the signal with zeros, a shorter one cuts it; onesided gives K = length
    // 2 + 1. Raises UnsupportedNode for a length or an axis that the run computes, a signal of
    more than 724 points, and onesided inverses. ONNX Operators, DFT.
    """
    rank, parts = op.rank(), op.dims()[-1]
    axis = op.attr("axis", 1 if e.opset < 20 else -2)
    if op.input(2) is not None:
        axis = int(op.need_const(2, "axis").reshape(()))
    axis %= rank
    points = op.dims()[axis]
    if points is None or parts not in (1, 2) or axis == rank - 1:
        raise op.unsupported(f"a signal shaped {list(op.dims())} along axis {axis}", FIXED)
    length = points
    if op.input(1) is not None:
        length = int(op.need_const(1, "dft_length").reshape(()))
    inverse, onesided = bool(op.attr("inverse", 0)), bool(op.attr("onesided", 0))
    if inverse and onesided:
        raise op.unsupported("a onesided inverse", "onesided of real signals, or whole spectra")
    made = length // 2 + 1 if onesided else length
    if length < 1 or 2 * made * points * parts > MOST:
        raise op.unsupported(f"{points} points, dft_length {length}", f"matrices of {MOST} numbers")
    matrix = _transposed(points, parts, length, made, inverse)
    kept = [0] * (rank - 2)
    order = [a for a in range(rank - 1) if a != axis]
    perm = [*order, axis, rank - 1]
    rows = e.Reshape(e.Transpose(ct, perm=perm), [*kept, 2 * made])
    back = e.MatMul(rows, e.const(matrix, ct.dtype))
    split = e.Reshape(back, [*kept, points, parts])
    return e.Transpose(split, perm=np.argsort(perm).tolist()), None, None


def _transposed(
    points: int, parts: int, length: int, made: int, inverse: bool
) -> NDArray[np.float64]:
    """[2 made, points parts]: what each number of a spectrum, real and imaginary, owes to each of
    the signal."""
    k, n = np.arange(made)[:, None], np.arange(points)[None]
    turn = 2 * np.pi * (k * n % length) / length * (1 if inverse else -1)
    wave = np.exp(1j * turn) * (n < length) / (length if inverse else 1)
    # Of a real number, and of an imaginary one: i times as much.
    whole = np.stack([wave, 1j * wave], axis=-1)[..., :parts].reshape(made, -1)
    return np.stack([whole.real, whole.imag], axis=1).reshape(2 * made, -1)
