"""The three rules in plain PyTorch: autograd, and hooks on every rectifier of a forward pass.

Written for the tests alone, and independent of Backlight. A function mode sees every way to call
a rectifier (modules, F.relu, in-place and reused ones), which hooks on modules miss.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

RELU = {F.relu, F.relu_, torch.relu, torch.relu_, torch.Tensor.relu, torch.Tensor.relu_}
RELU6 = {F.relu6}
CLAMP = {F.hardtanh, F.hardtanh_}


class Rectified(TorchFunctionMode):
    """Puts hooks around each rectifier: guided clamps what left it, deconv what reached it."""

    def __init__(self, rule: str) -> None:
        super().__init__()
        self.rule = rule
        self.inside = False

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if self.inside or func not in RELU | RELU6 | CLAMP:
            return func(*args, **kwargs)
        if func in CLAMP and (args[1:2] or (kwargs.get("min_val"),))[0] != 0.0:
            return func(*args, **kwargs)
        x, seen = args[0].view_as(args[0]), []
        self.inside = True
        try:
            y = F.relu6(x) if func in RELU6 | CLAMP else F.relu(x)
        finally:
            self.inside = False
        if self.rule == "guided":
            x.register_hook(lambda g: g.clamp(min=0))
        elif self.rule == "deconv":
            y.register_hook(lambda g: seen.append(g) or None)
            x.register_hook(lambda g: seen.pop().clamp(min=0))
        return y


def saliency(
    model: torch.nn.Module, x: torch.Tensor, target: list[int], rule: str
) -> tuple[torch.Tensor, torch.Tensor]:
    """Scores and the gradient of the sum of each row's target score by x, under a rule."""
    x = x.clone().requires_grad_(True)
    if rule == "vanilla":
        scores = model(x)
    else:
        with Rectified(rule):
            scores = model(x)
    picked = scores[torch.arange(len(target)), torch.tensor(target)].sum()
    (gradient,) = torch.autograd.grad(picked, x)
    return scores.detach(), gradient
