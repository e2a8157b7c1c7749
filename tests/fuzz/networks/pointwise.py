"""Blocks that work element by element, and extrema with what is made of the same map."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from .kit import Kit, Tensor

PLACES = (2, 3)


def _prelu(x: Tensor, k: Kit) -> Tensor:
    slope = k.weight(x.shape[1]).abs() * 0.3 + 0.05
    if k.rule is None:
        return F.prelu(x, slope)
    # As leaky, the slope of each channel: f(x) = s x + (1 - s) max(x, 0) has the rule's gradient
    # only where it is written out.
    return torch.cat([_leaky_by(x[:, i : i + 1], float(s), k) for i, s in enumerate(slope)], 1)


def _leaky_by(x: Tensor, slope: float, k: Kit) -> Tensor:
    return k.leaky(x, slope)


def _silu_gated(x: Tensor, k: Kit) -> Tensor:
    return F.glu(torch.cat([x, x.flip(1)], 1), 1)


RECTIFIERS = {
    "relu": lambda x, k: k.relu(x),
    "relu again": lambda x, k: k.relu(k.relu(x) * 1.3 - 0.1),
    "relu6": lambda x, k: k.relu6(x),
    "relu6 of more": lambda x, k: k.relu6(x * 4),
    "up to 1": lambda x, k: k.bounded(x, 1.0),
    "up to 0.7": lambda x, k: k.bounded(x, 0.7),
    "leaky": lambda x, k: k.leaky(x, 0.1),
    "prelu": _prelu,
    "relu plus": lambda x, k: k.relu(x) + 1e-6,
    "relu squared": lambda x, k: k.relu(x) ** 2,
    "x relu": lambda x, k: x * k.relu(x),
    "both sides": lambda x, k: k.relu(x) + 0.4 * k.relu(-x),
    "below": lambda x, k: -k.relu(-x),
    "relu of gelu": lambda x, k: k.relu(F.gelu(x)),
    "one over": lambda x, k: torch.rsqrt(k.relu(x) + 0.5),
    "log of": lambda x, k: torch.log1p(k.relu(x)),
    "crelu": lambda x, k: k.relu(torch.cat([x, -x], 1)),
    "relu, gated": lambda x, k: k.relu(x) * torch.sigmoid(x * 0.7),
}
# No rectifiers under any rule. Bounds away from 0 next to a rectifier would join it: see METHODS.
BOUNDS = {
    "at least 1e-6": lambda x, k: x.clamp(min=1e-6),
    "at most 0.5": lambda x, k: x.clamp(max=0.5),
    "between": lambda x, k: x.clamp(-0.3, 0.7),
    "hardtanh": lambda x, k: F.hardtanh(x),
    "abs": lambda x, k: torch.abs(x),
    "x sign": lambda x, k: x * torch.sign(x),
    "where": lambda x, k: torch.where(x > 0.05, x, x * 0.2),
    "masked below 0.1": lambda x, k: x.masked_fill(x < 0.1, -1.0),
    "threshold": lambda x, k: F.threshold(x, 0.1, 0.3),
    "threshold to 0": lambda x, k: F.threshold(x, 0.1, 0.0),
    "softshrink": lambda x, k: F.softshrink(x, 0.2),
    "hardshrink": lambda x, k: F.hardshrink(x, 0.2),
    "hardsigmoid": lambda x, k: F.hardsigmoid(x * 3),
    "clamp by its own": lambda x, k: torch.maximum(x, x.mean((1, 2, 3), keepdim=True) - 0.3),
    "elu": lambda x, k: F.elu(x),
    "celu": lambda x, k: F.celu(x, 0.5),
    "rrelu": lambda x, k: F.rrelu(x, 0.1, 0.3) if k.rule is None else k.leaky(x, 0.2),
    "relu of sign": lambda x, k: x * torch.sign(x) * 0.5 + torch.sign(x),
}
SMOOTH = {
    "hardswish": lambda x, k: F.hardswish(x * 2),
    "smooth abs": lambda x, k: torch.sqrt(x * x + 1e-4),
    "square": lambda x, k: x * x,
    "cube": lambda x, k: x**3,
    "power of 1.5": lambda x, k: (x.abs() + 0.1) ** 1.5,
    "power of itself": lambda x, k: (x.abs() + 0.2) ** torch.sigmoid(x.mean((2, 3), keepdim=True)),
    "exp of -abs": lambda x, k: torch.exp(-x.abs()),
    "softplus": lambda x, k: F.softplus(x),
    "softplus by 2": lambda x, k: F.softplus(x, 2.0),
    "gelu": lambda x, k: F.gelu(x),
    "gelu by tanh": lambda x, k: F.gelu(x, approximate="tanh"),
    "quick gelu": lambda x, k: x * torch.sigmoid(1.702 * x),
    "silu": lambda x, k: F.silu(x),
    "mish": lambda x, k: F.mish(x),
    "selu": lambda x, k: F.selu(x),
    "tanh": lambda x, k: torch.tanh(x),
    "tanhshrink": lambda x, k: F.tanhshrink(x),
    "sigmoid": lambda x, k: torch.sigmoid(x),
    "softsign": lambda x, k: F.softsign(x),
    "logsigmoid": lambda x, k: F.logsigmoid(x),
    "reciprocal": lambda x, k: 1 / (x * x + 1),
    "sin": lambda x, k: torch.sin(x),
    "cos of": lambda x, k: torch.cos(x) + torch.atan(x) + torch.asinh(x),
    "erf": lambda x, k: torch.erf(x),
    "sinh": lambda x, k: torch.sinh(x.clamp(-2, 2) * 0.5),
    "glu": _silu_gated,
    "scaled": lambda x, k: x * 1.7 + 0.3,
    "logit": lambda x, k: torch.logit(torch.sigmoid(x)),
    "expm1": lambda x, k: torch.expm1(torch.tanh(x)),
    "softmin": lambda x, k: x * F.softmin(x, dim=1),
    "logaddexp": lambda x, k: torch.logaddexp(x, 0.3 * x.flip(1)),
    "xlogy": lambda x, k: torch.sigmoid(x) * torch.log(torch.sigmoid(x)),
    "hypot": lambda x, k: torch.sqrt(x**2 + x.flip(1) ** 2 + 0.01),
    "atan2": lambda x, k: torch.atan2(x, x.flip(1).abs() + 0.5),
}
JUMPS = {
    "floor": lambda x, k: x + torch.floor(x),
    "round": lambda x, k: x + torch.round(x),
    "fraction": lambda x, k: x - torch.floor(x),
    "remainder": lambda x, k: torch.remainder(x, 0.8),
    "fmod": lambda x, k: torch.fmod(x, 0.8),
    "fmod by its own": lambda x, k: torch.fmod(x, x.flip(1).abs() + 0.5),
    "remainder by its own": lambda x, k: torch.remainder(x, x.flip(1).abs() + 0.5),
    "ceil": lambda x, k: torch.ceil(x * 3) * 0.1 + x,
}
EXTREMA = {
    "max with mean": lambda x, k: torch.maximum(x, x.mean(PLACES, keepdim=True)),
    "min with amax": lambda x, k: torch.minimum(x, 0.5 * x.amax(PLACES, keepdim=True)),
    "maxout": lambda x, k: torch.stack([x, -0.5 * x, x.flip(1)], 0).amax(0),
    "max of pieces": lambda x, k: torch.maximum(
        torch.maximum(x, 0.4 * x.flip(1) + 0.1), 0.7 * x.flip(3)
    ),
    "max with indices": lambda x, k: x * torch.stack([x, x.flip(1) * 0.9 + 0.05], 0).max(0)[0],
    "median": lambda x, k: x - x.flatten(2).median(2)[0][:, :, None, None],
    "aminmax": lambda x, k: (
        (x - x.amin((1, 2, 3), keepdim=True))
        / (x.amax((1, 2, 3), keepdim=True) - x.amin((1, 2, 3), keepdim=True) + 0.1)
    ),
}
POINTWISE = {**RECTIFIERS, **BOUNDS, **SMOOTH, **JUMPS, **EXTREMA}
