"""Heads: a map becomes one vector, that scores, and these what the model gives out."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from .kit import Kit, Tensor

PLACES = (2, 3)


def _attention_pool(x: Tensor, k: Kit) -> Tensor:
    return (x.flatten(2) * x.mean(1).flatten(1).softmax(1)[:, None]).sum(2)


def _gem(x: Tensor, k: Kit) -> Tensor:
    return x.clamp(min=1e-6).pow(3).mean(PLACES).pow(1 / 3)


def _last_state(x: Tensor, k: Kit) -> Tensor:
    rows = x.mean(2).permute(2, 0, 1)
    count = int(x.shape[1])
    given = [k.weight(3 * count, count), k.weight(3 * count, count)]
    given += [k.weight(3 * count), k.weight(3 * count)]
    zero = x.new_zeros(1, 1, count).expand(1, x.shape[0], count).contiguous()
    return torch.gru(rows, zero, given, True, 1, 0.0, False, False, False)[1][0]


POOLS = {
    "mean": lambda x, k: x.mean(PLACES),
    "adaptive": lambda x, k: F.adaptive_avg_pool2d(x, 1).flatten(1),
    "max": lambda x, k: x.amax(PLACES),
    "gem": _gem,
    "mean and max": lambda x, k: x.mean(PLACES) + x.amax(PLACES),
    "logsumexp": lambda x, k: torch.logsumexp(x.flatten(2), 2),
    "root of squares": lambda x, k: (x * x).sum(PLACES).sqrt(),
    "norm": lambda x, k: x.flatten(2).norm(dim=2),
    "std": lambda x, k: x.flatten(2).std(2),
    "statistics": lambda x, k: x.flatten(2).std(2, unbiased=False) + x.mean(PLACES),
    "attention": _attention_pool,
    "gated": lambda x, k: x.mean(PLACES) * x.amax(PLACES).sigmoid(),
    "corners": lambda x, k: x[:, :, 0, 0] + x[:, :, -1, -1],
    "normed": lambda x, k: F.normalize(x.mean(PLACES), dim=1) * 4,
    "whole": lambda x, k: F.linear(
        x.flatten(1), k.weight(4, int(x.shape[1] * x.shape[2] * x.shape[3]), std=0.2)
    ),
    "top places": lambda x, k: torch.topk(x.flatten(2), 2, dim=2)[0].mean(2),
    "last state": _last_state,
    "l1": lambda x, k: x.abs().sum(PLACES) * 0.1,
    "hidden": lambda x, k: k.relu(F.linear(x.mean(PLACES), k.weight(6, int(x.shape[1])))),
}


def _linear(v: Tensor, k: Kit, count: int) -> Tensor:
    bias = k.weight(count) if k.choose(True, True, False) else None
    return F.linear(v, k.weight(count, int(v.shape[1]), std=1.0), bias)


def _cosine(v: Tensor, k: Kit, count: int) -> Tensor:
    return 5 * F.linear(F.normalize(v), F.normalize(k.weight(count, int(v.shape[1]))))


def _prototypes(v: Tensor, k: Kit, count: int) -> Tensor:
    return -((v[:, None] - k.weight(1, count, int(v.shape[1]))) ** 2).sum(-1)


SCORES = {
    "linear": _linear,
    "cosine": _cosine,
    "prototypes": _prototypes,
    "scaled": lambda v, k, n: _linear(v, k, n) / 0.5,
    "centred": lambda v, k, n: (lambda z: z - z.mean(1, keepdim=True))(_linear(v, k, n)),
    "bounded": lambda v, k, n: 3 * torch.tanh(_linear(v, k, n) / 3),
}
# What closes a head, and whether contrasts by loss exist: see METHODS, 0.6.
CLOSINGS = {
    "none": lambda z: z,
    "softmax": lambda z: z.softmax(1),
    "log_softmax": lambda z: z.log_softmax(1),
    "sigmoid": lambda z: torch.sigmoid(z),
}
