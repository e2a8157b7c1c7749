"""Blocks that mix channels or the whole map: norms, gates, gathers, sorts, products, recurrence."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from .kit import Kit, Tensor

PLACES = (2, 3)


def _squeeze_excite(x: Tensor, k: Kit) -> Tensor:
    count = int(x.shape[1])
    s = F.conv2d(x.mean(PLACES, keepdim=True), k.weight(3, count, 1, 1), k.weight(3))
    return x * F.hardsigmoid(F.conv2d(k.relu(s), k.weight(count, 3, 1, 1)))


def _grn(x: Tensor, k: Kit) -> Tensor:
    g = x.norm(dim=PLACES, keepdim=True)
    return x * (g / (g.mean(1, keepdim=True) + 1e-6)) * 0.6 + x


def _standard(x: Tensor, k: Kit) -> Tensor:
    biased = k.choose(True, False)
    mean = x.mean(PLACES, keepdim=True)
    return (x - mean) / (x.var(PLACES, keepdim=True, unbiased=not biased) + 1e-3).sqrt()


def _normed_by_std(x: Tensor, k: Kit) -> Tensor:
    return x / (x.std(PLACES, keepdim=True) + 0.1)


def _standardised(x: Tensor, k: Kit) -> Tensor:
    w = k.weight(4, int(x.shape[1]), 3, 3)
    mean, var = w.mean((1, 2, 3), keepdim=True), w.var((1, 2, 3), keepdim=True)
    return F.conv2d(x, (w - mean) * torch.rsqrt(var + 1e-5) * 0.3, padding=1)


def _norm_by(x: Tensor, k: Kit) -> Tensor:
    p = k.choose(1.0, 2.0, 3.0, float("inf"), 0.5)
    return x / (x.abs().add(0.05).norm(p, dim=1, keepdim=True) + 0.1)


def _layer_norm(x: Tensor, k: Kit) -> Tensor:
    count = int(x.shape[1])
    y = F.layer_norm(x.permute(0, 2, 3, 1), (count,), k.weight(count), k.weight(count), 1e-2)
    return y.permute(0, 3, 1, 2)


def _rms_norm(x: Tensor, k: Kit) -> Tensor:
    return (
        x * torch.rsqrt(x.pow(2).mean(1, keepdim=True) + 1e-2) * k.weight(1, int(x.shape[1]), 1, 1)
    )


def _gathered(x: Tensor, k: Kit) -> Tensor:
    order = torch.tensor([2, 0, 0, 3, 1][: int(x.shape[1])])
    return torch.index_select(x, 1, order) * 0.5 + x


def _sorted(x: Tensor, k: Kit) -> Tensor:
    return torch.sort(x, dim=k.choose(1, 3), descending=k.choose(True, False))[0]


def _top(x: Tensor, k: Kit) -> Tensor:
    best, _ = torch.topk(x.flatten(2), 3, dim=2)
    return x - best.mean(2)[:, :, None, None]


def _picked(x: Tensor, k: Kit) -> Tensor:
    at = x.argmax(3, keepdim=True)
    return x - 0.5 * torch.gather(x, 3, at)


def _scattered(x: Tensor, k: Kit) -> Tensor:
    at = x.detach().flatten(2).argsort(2)[:, :, :3]
    flat = x.flatten(2)
    made = flat.scatter(2, at, flat[:, :, :3] * 2)
    return made.reshape(x.shape)


def _assigned(x: Tensor, k: Kit) -> Tensor:
    y = x * 0.5
    y[:, 0] = x[:, 1] * x[:, 2]
    y[:, 1:3, 1:] = y[:, 1:3, 1:] + x[:, :2, 1:]
    return y


def _bilinear(x: Tensor, k: Kit) -> Tensor:
    count = int(x.shape[1])
    made = F.bilinear(x.mean(PLACES), x.amax(PLACES), k.weight(count, count, count, std=0.2))
    return x + made[:, :, None, None]


def _cosine(x: Tensor, k: Kit) -> Tensor:
    flat = x.flatten(2)
    near = F.cosine_similarity(flat, flat.mean(2, keepdim=True), dim=1)
    return x * (1 + near.reshape(x.shape[0], 1, *x.shape[2:]))


def _pairs(x: Tensor, k: Kit) -> Tensor:
    flat = x.flatten(2)
    apart = torch.cdist(flat[:, :3], flat[:, :3] * 0.3 + 0.2)
    return x * torch.exp(-apart.mean((1, 2)) * 0.2)[:, None, None, None]


def _gram(x: Tensor, k: Kit) -> Tensor:
    gram = torch.einsum("nihw,njhw->nij", x, x) / (x.shape[2] * x.shape[3])
    return torch.einsum("nij,njhw->nihw", gram.softmax(-1), x)


def _einsum(x: Tensor, k: Kit) -> Tensor:
    count = int(x.shape[1])
    return torch.einsum("nchw,cd->ndhw", x, k.weight(count, 4)) + torch.einsum(
        "nchw,nc->nhw", x, x.mean(PLACES)
    ).unsqueeze(1)


def _embedded(x: Tensor, k: Kit) -> Tensor:
    codes = torch.clamp(torch.round(x.mean(1) * 4) + 4, 0, 7).long()
    return x + F.embedding(codes, k.weight(8, int(x.shape[1]))).permute(0, 3, 1, 2) * x.sigmoid()


def _recurrent(x: Tensor, k: Kit) -> Tensor:
    n, w = x.shape[0], x.shape[3]
    kind = k.choose("LSTM", "GRU", "RNN")
    gates = {"LSTM": 4, "GRU": 3, "RNN": 1}[kind]
    rows = x.permute(0, 3, 1, 2).reshape(n, w, -1)
    size, count = int(rows.shape[2]), 4
    given = [k.weight(gates * count, size, std=0.3), k.weight(gates * count, count, std=0.4)]
    given += [k.weight(gates * count), k.weight(gates * count)]
    both = k.choose(True, False)
    if both:
        given += [k.weight(*map(int, w.shape), std=0.3) for w in given]
    zero = x.new_zeros(1 + both, 1, count).expand(1 + both, n, count).contiguous()
    state = (zero, zero) if kind == "LSTM" else zero
    call = {"LSTM": torch.lstm, "GRU": torch.gru, "RNN": torch.rnn_tanh}[kind]
    y = call(rows, state, given, True, 1, 0.0, False, both, True)[0]
    return x + y.mean(2)[:, None, None, :]


def _attended_channels(x: Tensor, k: Kit) -> Tensor:
    flat = F.normalize(x.flatten(2), dim=-1)
    return ((flat @ flat.transpose(1, 2)).softmax(-1) @ x.flatten(2)).reshape(x.shape)


MIXING = {
    "normalised": lambda x, k: F.normalize(x, dim=1),
    "over its norm": lambda x, k: x / (x.norm(dim=1, keepdim=True) + 1e-6),
    "over a norm": _norm_by,
    "softmax of channels": lambda x, k: x * x.softmax(1),
    "log softmax": lambda x, k: x.log_softmax(1),
    "softmax of places": lambda x, k: x * x.flatten(2).softmax(-1).reshape(x.shape) * 8,
    "layer norm": lambda x, k: F.layer_norm(x, x.shape[1:]),
    "layer norm, last": _layer_norm,
    "instance norm": lambda x, k: F.instance_norm(x, eps=1e-2),
    "group norm": lambda x, k: F.group_norm(x, 2),
    "rms norm": _rms_norm,
    "local response": lambda x, k: F.local_response_norm(x, 3),
    "response norm": _grn,
    "squeeze excite": _squeeze_excite,
    "standard": _standard,
    "by std": _normed_by_std,
    "weights standardised": _standardised,
    "logsumexp": lambda x, k: x - torch.logsumexp(x, 1, keepdim=True),
    "gather": _gathered,
    "sort": _sorted,
    "top": _top,
    "argmax": _picked,
    "scatter": _scattered,
    "assigned": _assigned,
    "bilinear form": _bilinear,
    "cosine": _cosine,
    "distances": _pairs,
    "gram": _gram,
    "einsum": _einsum,
    "embedding": _embedded,
    "recurrent": _recurrent,
    "channel attention": _attended_channels,
    "split": lambda x, k: torch.cat([p * (i + 1) for i, p in enumerate(x.split(1, 1))][::-1], 1),
    "chunk": lambda x, k: torch.cat([x, x], 1).chunk(2, 1)[0] * torch.sigmoid(x),
    "unbind": lambda x, k: torch.stack([p * 0.5 for p in x.unbind(1)], 1) + x,
    "tile": lambda x, k: x.repeat(1, 1, 1, 2) * 0.5,
    "expand": lambda x, k: x.mean(3, keepdim=True).expand_as(x) + x,
    "product": lambda x, k: x * torch.prod(torch.tanh(x) + 0.5, 1, keepdim=True),
    "triangle": lambda x, k: torch.tril(x) + torch.triu(x, 1) * 0.5,
    "outer": lambda x, k: x.mean(2)[:, :, None, :] * x.mean(3)[:, :, :, None] + x,
    "std of all": lambda x, k: x / (x.std((1, 2, 3), keepdim=True) + 0.2),
}
