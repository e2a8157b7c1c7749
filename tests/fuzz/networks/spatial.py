"""Blocks that work over windows of the map, or move its places."""

from __future__ import annotations

import math

import torch
from torch.nn import functional as F

from .kit import Kit, Tensor


def _conv(x: Tensor, k: Kit, **how: object) -> Tensor:
    count = int(x.shape[1])
    groups = int(how.pop("groups", 1))  # type: ignore[call-overload]
    size = how.pop("size", (3, 3))
    bias = k.weight(4) if k.choose(True, False) else None
    w = k.weight(4, count // groups, *size, std=1 / math.sqrt(count / groups * 4))  # type: ignore[misc]
    return F.conv2d(x, w, bias, groups=groups, **how)  # type: ignore[arg-type]


def _depthwise(x: Tensor, k: Kit) -> Tensor:
    count = int(x.shape[1])
    return F.conv2d(x, k.weight(count, 1, 3, 3, std=0.3), padding=1, groups=count)


def _transposed(x: Tensor, k: Kit, **how: object) -> Tensor:
    count = int(x.shape[1])
    groups = int(how.get("groups", 1))  # type: ignore[call-overload]
    return F.conv_transpose2d(x, k.weight(count, 4 // groups, 3, 3, std=0.3), k.weight(4), **how)  # type: ignore[arg-type]


def _batch_norm(x: Tensor, k: Kit) -> Tensor:
    count = int(x.shape[1])
    mean, var = k.weight(count).detach(), k.weight(count).detach().abs() + 0.3
    return F.batch_norm(x, mean, var, k.weight(count), k.weight(count))


def _reflected(x: Tensor, k: Kit) -> Tensor:
    w = k.weight(4, int(x.shape[1]), 3, 3, std=0.3)
    mode = k.choose("reflect", "replicate", "circular")
    return F.conv2d(F.pad(x, (1, 1, 1, 1), mode=mode), w)


def _unfolded(x: Tensor, k: Kit) -> Tensor:
    return F.fold(F.unfold(x, 2) * 0.5, x.shape[2:], 2)


def _involution(x: Tensor, k: Kit) -> Tensor:
    n, c, h, w = x.shape
    near = F.unfold(x, 3, padding=1).reshape(n, c, 9, h, w)
    kernel = F.conv2d(x, k.weight(9, int(c), 1, 1)).unsqueeze(1).softmax(2)
    return (near * kernel).sum(2)


def _warped(x: Tensor, k: Kit) -> Tensor:
    n, _, h, w = x.shape
    turn = torch.eye(2, 3, dtype=x.dtype)[None] + 0.2 * torch.tanh(
        x.mean((1, 2, 3)).reshape(-1, 1, 1)
    )
    grid = F.affine_grid(turn, [n, 1, h, w], align_corners=False)
    pad = k.choose("zeros", "border", "reflection")
    return F.grid_sample(x, grid, padding_mode=pad, align_corners=k.choose(False, True))


def _sampled(x: Tensor, k: Kit) -> Tensor:
    ys = torch.linspace(-0.9, 1.1, 5, dtype=x.dtype)
    grid = torch.stack(torch.meshgrid(ys, ys * 0.9, indexing="xy"), -1)[None]
    mode = k.choose("bilinear", "nearest")
    return F.grid_sample(x, grid.expand(x.shape[0], -1, -1, -1), mode=mode, align_corners=True)


def _windows(x: Tensor, k: Kit) -> Tensor:
    n, c, h, w = x.shape
    x = x[:, :, : h // 2 * 2, : w // 2 * 2]
    rolled = torch.roll(x, (-1, -1), (2, 3))
    parts = rolled.reshape(n, c, h // 2, 2, w // 2, 2).permute(0, 2, 4, 3, 5, 1)
    parts = parts.reshape(-1, 4, c)
    weights = (parts @ parts.transpose(1, 2) * 0.5).softmax(-1)
    back = (weights @ parts).reshape(n, h // 2, w // 2, 2, 2, c).permute(0, 5, 1, 3, 2, 4)
    return torch.roll(back.reshape(n, c, h // 2 * 2, w // 2 * 2), (1, 1), (2, 3))


def _focus(x: Tensor, k: Kit) -> Tensor:
    x = x[:, :, : x.shape[2] // 2 * 2, : x.shape[3] // 2 * 2]
    parts = [x[..., i::2, j::2] for i in (0, 1) for j in (0, 1)]
    return F.conv2d(torch.cat(parts, 1), k.weight(4, 4 * int(x.shape[1]), 1, 1, std=0.3))


def _blurred(x: Tensor, k: Kit) -> Tensor:
    count = int(x.shape[1])
    w = torch.tensor([1.0, 2, 1], dtype=x.dtype).reshape(1, 1, 1, 3) / 4
    return F.conv2d(x, w.expand(count, 1, 1, 3), padding=(0, 1), groups=count)


def _if_wide(x: Tensor, made: Tensor) -> Tensor:
    return made if x.shape[2] > 3 and x.shape[3] > 3 else x


# With a relu inside, of what is never negative: no rectifier of the reference's.
LP_POOL = {"lp pool": lambda x, k: F.lp_pool2d(x.abs() + 0.1, 2, 2)}
SPATIAL = {
    "conv": lambda x, k: _conv(x, k, padding=1),
    "conv 1": lambda x, k: _conv(x, k, size=(1, 1)),
    "conv, strided": lambda x, k: _conv(x, k, padding=1, stride=k.choose(2, (1, 2))),
    "conv, dilated": lambda x, k: _conv(x, k, padding=2, dilation=2),
    "conv, grouped": lambda x, k: _conv(x, k, padding=1, groups=2),
    "conv, depthwise": lambda x, k: _depthwise(x, k),
    "conv, long": lambda x, k: _conv(x, k, size=(1, 5), padding=(0, 2)),
    "conv, lopsided": lambda x, k: _conv(F.pad(x, (0, 1, 2, 0)), k, size=(2, 3), stride=(1, 2)),
    "conv, same": lambda x, k: _conv(x, k, size=(2, 2), padding="same"),
    "conv, padded": _reflected,
    "conv 1d": lambda x, k: F.conv1d(
        x.flatten(2), k.weight(4, int(x.shape[1]), 3, std=0.3), padding=1
    ).reshape(x.shape[0], 4, *x.shape[2:]),
    "conv 3d": lambda x, k: F.conv3d(x[:, None], k.weight(1, 1, 3, 3, 3, std=0.3), padding=1)[:, 0],
    "transposed": lambda x, k: _transposed(x, k, stride=2, output_padding=1, padding=1),
    "transposed, flat": lambda x, k: _transposed(x, k, padding=1),
    "transposed, grouped": lambda x, k: _transposed(x, k, stride=(1, 2), groups=2, dilation=(2, 1)),
    "batch norm": _batch_norm,
    "conv, batch norm": lambda x, k: _batch_norm(_conv(x, k, padding=1), k),
    "max pool": lambda x, k: F.max_pool2d(x, 2),
    "max pool 3": lambda x, k: F.max_pool2d(x, 3, 2, 1),
    "max pool 3, flat": lambda x, k: F.max_pool2d(x, 3, 1, 1),
    "max pool, ceil": lambda x, k: F.max_pool2d(x, 3, 2, ceil_mode=True),
    "max pool, dilated": lambda x, k: F.max_pool2d(x, 2, 1, dilation=2),
    "unpool": lambda x, k: F.max_unpool2d(*F.max_pool2d(x, 2, return_indices=True), 2),
    "average pool": lambda x, k: F.avg_pool2d(x, 2),
    "average pool 3": lambda x, k: F.avg_pool2d(
        x, 3, 2, 1, count_include_pad=k.choose(True, False)
    ),
    "average pool, ceil": lambda x, k: F.avg_pool2d(
        x, 3, 2, 1, ceil_mode=True, count_include_pad=k.choose(True, False)
    ),
    "adaptive average": lambda x, k: F.adaptive_avg_pool2d(x, k.choose(1, 2, (1, 2))),
    "adaptive average 3": lambda x, k: F.adaptive_avg_pool2d(x, 3),
    "adaptive max": lambda x, k: F.adaptive_max_pool2d(x, k.choose(1, 2)),
    "nearest": lambda x, k: F.interpolate(x, scale_factor=2, mode="nearest"),
    "nearest to": lambda x, k: F.interpolate(x, size=(5, 7), mode="nearest"),
    "bilinear": lambda x, k: F.interpolate(x, scale_factor=1.5, mode="bilinear"),
    "bilinear to": lambda x, k: F.interpolate(
        x, size=(4, 6), mode="bilinear", align_corners=k.choose(True, False)
    ),
    "bilinear, smoothed": lambda x, k: F.interpolate(
        x, size=(4, 3), mode="bilinear", antialias=True
    ),
    "bicubic": lambda x, k: F.interpolate(
        x, scale_factor=2, mode="bicubic", align_corners=k.choose(True, False)
    ),
    "area": lambda x, k: F.interpolate(x, size=(3, 3), mode="area"),
    "as large as": lambda x, k: F.interpolate(
        F.max_pool2d(x, 2), size=x.shape[2:], mode="bilinear"
    ) + x,
    "pad, reflected": lambda x, k: F.pad(x, (1, 1, 1, 1), mode="reflect"),
    "pad, repeated": lambda x, k: F.pad(x, (1, 0, 2, 1), mode="replicate"),
    "pad, around": lambda x, k: F.pad(x, (1, 1, 0, 2), mode="circular"),
    "pad": lambda x, k: F.pad(x, (1, 0, 0, 2), value=k.choose(0.0, 0.5)),
    "pad, cut": lambda x, k: _if_wide(x, F.pad(x, (-1, 0, 1, -1))),
    "crop": lambda x, k: _if_wide(x, x[:, :, 1:, :-1]),
    "every second": lambda x, k: _if_wide(x, x[:, :, ::2, 1::2]),
    "flip": lambda x, k: x.flip(3) * 0.5 + x,
    "rotate": lambda x, k: torch.rot90(x, 1, (2, 3)),
    "transpose": lambda x, k: x.transpose(2, 3).contiguous(),
    "roll": lambda x, k: torch.roll(x, (1, 2), (2, 3)),
    "pixel shuffle": lambda x, k: F.pixel_shuffle(torch.cat([x, x.flip(1), -x, x * 0.5], 1), 2),
    "pixel unshuffle": _focus,
    "channel shuffle": lambda x, k: x.reshape(x.shape[0], 2, -1, *x.shape[2:])
    .transpose(1, 2).reshape(x.shape),
    "unfold": _unfolded,
    "involution": _involution,
    "affine grid": _warped,
    "grid sample": _sampled,
    "windows": _windows,
    "cumsum": lambda x, k: torch.cumsum(x, 3) * 0.3,
    "cumsum of exp": lambda x, k: torch.log(torch.cumsum(torch.exp(x.clamp(max=8)), 2)),
    "diff": lambda x, k: x[..., 1:] - x[..., :-1] if x.shape[3] > 3 else x,
    "shifted": lambda x, k: torch.cat([torch.roll(x[:, :2], 1, 2), x[:, 2:]], 1),
    "blur": _blurred,
    "fourier": lambda x, k: torch.fft.rfft2(x).abs()[..., : x.shape[3]],
}  # fmt: skip
