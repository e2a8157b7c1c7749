"""What blocks are given: weights by number, and rectifiers, spelled at random or by a rule."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional as F

from tests.export.torch_spellings import RELU, RELU6

Tensor = torch.Tensor
# Chosen with PyTorch's own operator half of the time.
_PLAIN = 0.5


class _Rectify(torch.autograd.Function):
    """min(max(x, slope x), high) by a rule (Springenberg et al. 2015): an independent reference."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, high: float | None, slope: float, rule: str) -> Tensor:
        ctx.save_for_backward(x)
        ctx.of = high, slope, rule
        y = torch.where(x > 0, x, slope * x)
        return y if high is None else torch.where(y > high, torch.full_like(y, high), y)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        (x,) = ctx.saved_tensors
        high, slope, rule = ctx.of
        if rule != "vanilla":
            g = torch.where(g > 0, g, torch.zeros_like(g))
        if slope == 0 and rule == "deconv":
            return g, None, None, None
        g = torch.where(x > 0, g, slope * g)
        return (
            (g if high is None else torch.where(x < high, g, torch.zeros_like(g))),
            None,
            None,
            None,
        )


class Kit:
    """Of one part of a network. rule: None spells rectifiers as exported files do; a rule's name
    replaces them by the reference. spellings: where False, by PyTorch's own operators alone."""

    def __init__(
        self,
        key: int,
        weights: Callable[[str, tuple[int, ...], float], Tensor],
        rule: str | None,
        spellings: bool,
    ) -> None:
        self.key, self.rule, self.spellings = key, rule, spellings
        self._weights = weights
        self._made = 0
        self._rng = random.Random(f"kit {key}")

    def choose(self, *options: Any) -> Any:
        """One of these, always the same for a part."""
        return self._rng.choice(options)

    def weight(self, *shape: int, std: float = 0.5) -> Tensor:
        """A parameter of normals."""
        self._made += 1
        return self._weights(f"w{self.key}_{self._made}", shape, std)

    def _rectified(
        self, x: Tensor, spelled: dict[str, Any], plain: Any, high: float | None
    ) -> Tensor:
        name = self.choose(*spelled) if self._rng.random() > _PLAIN else None
        if self.rule is not None:
            return _Rectify.apply(x, high, 0.0, self.rule)
        return plain(x) if name is None or not self.spellings else spelled[name](x)

    def relu(self, x: Tensor) -> Tensor:
        """max(x, 0)."""
        return self._rectified(x, RELU, F.relu, None)

    def relu6(self, x: Tensor) -> Tensor:
        """min(max(x, 0), 6)."""
        return self._rectified(x, RELU6, F.relu6, 6.0)

    def bounded(self, x: Tensor, high: float) -> Tensor:
        """min(max(x, 0), high)."""
        if self.rule is not None:
            return _Rectify.apply(x, high, 0.0, self.rule)
        return F.hardtanh(x, 0.0, high)

    def leaky(self, x: Tensor, slope: float) -> Tensor:
        """max(x, slope x)."""
        if self.rule is not None:
            return _Rectify.apply(x, None, slope, self.rule)
        return F.leaky_relu(x, slope)
