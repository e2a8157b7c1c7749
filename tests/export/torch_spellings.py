"""Spellings of max(x, 0), and of min(max(x, 0), 6), in PyTorch: by name, a function of x. Needs
torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional as F

Spelling = Callable[[Any], Any]


def _assigned(x: Any) -> Any:
    y = x.clone()
    y[x < 0] = 0
    return y


def _multiplied_in_place(x: Any) -> Any:
    y = x.clone()
    y[y < 0] *= 0
    return y


def _assigned_in_place(x: Any) -> Any:
    y = x * 1
    y[~(y > 0)] = 0
    return y


def _picked(x: Any) -> Any:
    y, m = torch.zeros_like(x), x > 0
    y[m] = x[m]
    return y


def _assigned_twice(x: Any) -> Any:
    y = x.clone()
    y[x < 0] = 0
    y[x > 6] = 6
    return y


RELU: dict[str, Spelling] = {
    "clamp": lambda x: torch.clamp(x, min=0),
    "clamp_min": lambda x: x.clamp_min(0.0),
    "maximum": lambda x: torch.maximum(x, torch.zeros_like(x)),
    "where": lambda x: torch.where(x > 0, x, torch.zeros_like(x)),
    "mul": lambda x: x * (x > 0),
    "masked": lambda x: x.masked_fill(x < 0, 0.0),
    "picked": _picked,
    "assigned": _assigned,
    "assigned in place": _assigned_in_place,
    "multiplied in place": _multiplied_in_place,
    "step": lambda x: x * x.clamp(0, 1).ceil(),
    "sign": lambda x: x * torch.relu(torch.sign(x)),
    "sign, halved": lambda x: x * (torch.sign(x) + 1) / 2,
    "sign, clamped": lambda x: x * torch.sign(x).clamp(min=0),
    "sign is not -1": lambda x: x * (x.sign() != -1),
    "at least": lambda x: x * (x >= 0),
    "float": lambda x: x * (x > 0).float(),
    "type_as": lambda x: (x > 0).type_as(x) * x,
    "int": lambda x: x * torch.gt(x, 0).int(),
    "logical_not": lambda x: x * torch.logical_not(x <= 0),
    "minimum of -x": lambda x: -torch.minimum(-x, torch.zeros_like(x)),
    "clamp of -x": lambda x: -torch.clamp(-x, max=0),
    "abs": lambda x: (x + x.abs()) / 2,
    "abs, split": lambda x: 0.5 * x + 0.5 * x.abs(),
    "root of a square": lambda x: (x + torch.sqrt(x * x)) / 2,
    "root of a power": lambda x: (x + (x**2).sqrt()) / 2,
    "where to a number": lambda x: torch.where(x > 0, x, 0.0),
    "where below": lambda x: torch.where(x < 0, torch.zeros_like(x), x),
    "where to new_zeros": lambda x: torch.where(x > 0, x, x.new_zeros(1)),
    "where to 0 x": lambda x: torch.where(x > 0, x, 0 * x),
    "where to x - x": lambda x: torch.where(x > 0, x, x - x),
    "masked, not above": lambda x: x.masked_fill(~(x > 0), 0),
    "masked_scatter": lambda x: torch.zeros_like(x).masked_scatter(x > 0, x[x > 0]),
    "clamp by a tensor": lambda x: torch.clamp(x, min=torch.tensor(0.0)),
    "max of 0 x": lambda x: torch.maximum(x, x * 0),
    "max of new_zeros": lambda x: torch.max(x, x.new_zeros(x.shape)),
    "minus clamp": lambda x: x - x.clamp(max=0),
    "minus minimum": lambda x: x - torch.minimum(x, torch.zeros_like(x)),
    "plus the other side": lambda x: x + torch.relu(-x),
    "1 less": lambda x: 1 - torch.clamp(1 - x, max=1),
    "threshold": lambda x: F.threshold(x, 0.0, 0.0),
    "leaky_relu of 0": lambda x: F.leaky_relu(x, 0.0),
    "prelu of 0": lambda x: F.prelu(x, torch.zeros(1)),
    "elu of 0": lambda x: F.elu(x, alpha=0.0),
    "lerp": lambda x: torch.lerp(torch.zeros_like(x), x, (x > 0).float()),
    "softshrink of 0": lambda x: F.softshrink(torch.relu(x), 0.0),
    "nan_to_num": lambda x: torch.nan_to_num(torch.relu(x)),
}
RELU6: dict[str, Spelling] = {
    "clamp_06": lambda x: x.clamp(0, 6),
    "relu_clamp": lambda x: torch.relu(x).clamp(max=6),
    "hardtanh": lambda x: F.hardtanh(x, 0.0, 6.0),
    "minimum of relu": lambda x: torch.minimum(torch.relu(x), torch.tensor(6.0)),
    "min of max": lambda x: torch.min(torch.max(x, torch.zeros_like(x)), torch.full_like(x, 6)),
    "max of min": lambda x: torch.max(torch.min(x, torch.full_like(x, 6)), torch.zeros_like(x)),
    "flat between": lambda x: x.clamp(min=0).flatten(1).clamp(max=6).reshape(x.shape),
    "double between": lambda x: x.clamp(min=0).double().clamp(max=6).float(),
    "two relus": lambda x: torch.relu(x) - torch.relu(x - 6),
    "6 less": lambda x: 6 - torch.relu(6 - torch.relu(x)),
    "two wheres": lambda x: torch.where(x > 6, 6.0, torch.where(x < 0, 0.0, x)),
    "where between": lambda x: torch.where((x > 0) & (x < 6), x, torch.where(x > 0, 6.0, 0.0)),
    "masked twice": lambda x: x.masked_fill(x < 0, 0).masked_fill(x > 6, 6),
    "assigned twice": _assigned_twice,
    "hardsigmoid": lambda x: F.hardsigmoid(x - 3) * 6,
    "abs of both": lambda x: (x.abs() - (x - 6).abs() + 6) / 2,
    "clamp of mul": lambda x: (x * (x > 0)).clamp(max=6),
    "two clamps": lambda x: x.clamp(min=0).clamp(max=6),
    "scaled": lambda x: (x / 6).clamp(0, 1) * 6,
    "mul between": lambda x: x * ((x > 0) & (x < 6)) + 6 * (x >= 6),
}
ALL = RELU | RELU6
