"""What a method makes of a primal and its cotangent, in standard operators."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from .explaining import Explaining

__all__ = ["Walked", "cotangent", "product"]


@dataclass(frozen=True)
class Walked:
    """A walk's end. primal: the tensor that the gradient is taken by; ct: its cotangent."""

    x: Explaining
    primal: ir.Value
    ct: ir.Value


def cotangent(w: Walked) -> ir.Value:
    """The cotangent itself."""
    return w.ct


def product(w: Walked) -> ir.Value:
    """Primal times cotangent, element by element, in the cotangent's type."""
    assert w.ct.dtype is not None
    return w.x.e.Mul(w.x.e.cast(w.primal, w.ct.dtype), w.ct, _shape=w.primal.shape)
