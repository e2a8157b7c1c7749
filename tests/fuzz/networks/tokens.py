"""Blocks of transformers: the map is cut into tokens, and put together again."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from .kit import Kit, Tensor


def _apart(x: Tensor) -> Tensor:
    return x.flatten(2).transpose(1, 2)


def _together(t: Tensor, x: Tensor) -> Tensor:
    return t.transpose(1, 2).reshape(x.shape[0], -1, x.shape[2], x.shape[3])


def _dense(t: Tensor, k: Kit, size: int) -> Tensor:
    return F.linear(t, k.weight(size, int(t.shape[-1]), std=0.4), k.weight(size))


def _attention(t: Tensor, k: Kit, heads: int = 2) -> Tensor:
    n, count, size = t.shape
    qkv = _dense(t, k, 3 * int(size)).reshape(n, count, 3, heads, int(size) // heads)
    q, key, v = qkv.permute(2, 0, 3, 1, 4)
    if k.choose(True, False):
        y = F.scaled_dot_product_attention(q, key, v)
    else:
        scale = (int(size) // heads) ** -0.5
        bias = k.weight(heads, 1, 1) if k.choose(True, False) else 0.0
        y = ((q * scale) @ key.transpose(-2, -1) + bias).softmax(-1) @ v
    return _dense(y.transpose(1, 2).reshape(n, count, size), k, int(size))


def _block(t: Tensor, k: Kit) -> Tensor:
    size = int(t.shape[-1])

    def norm(u: Tensor) -> Tensor:
        return F.layer_norm(u, (size,), k.weight(size), k.weight(size), 1e-2)

    t = t + _attention(norm(t), k)
    inner = _dense(norm(t), k, 2 * size)
    inner = k.relu(inner) if k.choose(True, False) else F.gelu(inner)
    return t + _dense(inner, k, size)


def _with_class_token(x: Tensor, k: Kit) -> Tensor:
    t = _apart(x)
    token = k.weight(1, 1, int(x.shape[1]))
    t = _block(torch.cat([token.expand(x.shape[0], -1, -1), t], 1), k)
    return _together(t[:, 1:], x) * torch.sigmoid(t[:, 0])[:, :, None, None]


def _pooled_by_query(x: Tensor, k: Kit) -> Tensor:
    t = _apart(x)
    query = k.weight(1, 1, int(x.shape[1]))
    weights = (query @ t.transpose(1, 2)).softmax(-1)
    return x + (weights @ t).transpose(1, 2)[..., None]


def _mixer(x: Tensor, k: Kit) -> Tensor:
    t = _apart(x)
    count = int(t.shape[1])
    across = F.linear(t.transpose(1, 2), k.weight(count, count, std=0.3)).transpose(1, 2)
    return _together(t + F.gelu(across), x)


def _positions(x: Tensor, k: Kit) -> Tensor:
    t = _apart(x)
    return _together(t + k.weight(1, int(t.shape[1]), int(t.shape[2])), x)


def _linear_attention(x: Tensor, k: Kit) -> Tensor:
    t = _apart(x)
    q, key = F.elu(t) + 1, F.elu(t * 0.5) + 1
    made = q @ (key.transpose(1, 2) @ t) / (q @ key.sum(1)[:, :, None] + 0.1)
    return _together(made, x)


def _rotary(x: Tensor, k: Kit) -> Tensor:
    t = _apart(x)
    half = int(t.shape[2]) // 2
    angle = torch.arange(int(t.shape[1]), dtype=x.dtype)[None, :, None] * 0.1
    a, b = t[..., :half], t[..., half:]
    turned = torch.cat([a * angle.cos() - b * angle.sin(), a * angle.sin() + b * angle.cos()], -1)
    return _together(_attention(turned, k), x)


def _patches(x: Tensor, k: Kit) -> Tensor:
    return F.conv2d(x, k.weight(4, int(x.shape[1]), 2, 2, std=0.4), k.weight(4), stride=2)


TOKENS = {
    "transformer": lambda x, k: _together(_block(_apart(x), k), x),
    "class token": _with_class_token,
    "attention": lambda x, k: _together(_attention(_apart(x), k), x),
    "pooled by a query": _pooled_by_query,
    "mixer": _mixer,
    "positions": _positions,
    "linear attention": _linear_attention,
    "rotary": _rotary,
    "patches": _patches,
}
