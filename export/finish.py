"""The end of a walk, and what methods by the image make of it, in standard operators."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from .explaining import Explaining, Seed
from .layer import Layer

__all__ = ["Walked", "cotangent", "product"]


@dataclass(frozen=True)
class Walked:
    """A walk's end, taken when somebody asks for it.

    seed, rules: how it goes. at: which of the tensors that methods by the image take the gradient
    by. layer: where the method is one by a layer.
    """

    x: Explaining
    seed: Seed
    rules: str
    at: int = 0
    layer: Layer | None = None

    @property
    def primal(self) -> ir.Value:
        """What the gradient is taken by; of a layer as [N, K, h, w]."""
        if self.layer is None:
            return self.x.wrt[self.at]
        return self.layer.spread(self.x.e, self.layer.value)

    @property
    def ct(self) -> ir.Value:
        """Its cotangent, shaped alike."""
        return self.seeded(self.seed)

    def seeded(self, seed: Seed) -> ir.Value:
        """Its cotangent from another start."""
        if self.layer is None:
            return self.x.walk(self.rules, seed, self.x.wrt)[self.at]
        ct = self.x.walk(self.rules, seed, [self.layer.value])[0]
        return self.layer.spread(self.x.e, ct)


def cotangent(w: Walked) -> ir.Value:
    """The cotangent itself."""
    return w.ct


def product(w: Walked) -> ir.Value:
    """Primal times cotangent, element by element, in the cotangent's type."""
    assert w.ct.dtype is not None
    return w.x.e.Mul(w.x.e.cast(w.primal, w.ct.dtype), w.ct, _shape=w.primal.shape)
