"""Attention rollout of timm's transformers, against their attention maps and autograd in PyTorch.

The real sizes: pytest -m slow tests/export/test_timm_rollout.py
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import backlight
from backlight.errors import UnsupportedNode
from backlight.export.saliency import explain_graph

from .. import models
from .harness import run_runtime
from .toys import onnx_of
from .transformer_nets import SMALL, timm_model

torch = pytest.importorskip("torch")
F = torch.nn.functional
SLOW = pytest.mark.slow
DEIT, BEIT = "deit_tiny_patch16_224", "beit_base_patch16_224"
# name, options, the image, the patches, whether the class is read off the class token.
CASES = [
    pytest.param(DEIT, SMALL, (32, 48), (4, 6), True, id="deit"),
    pytest.param(BEIT, SMALL, (32, 48), (4, 6), False, id="beit"),
    pytest.param(DEIT, {}, (224, 224), (14, 14), True, id="deit_tiny", marks=SLOW),
    pytest.param(BEIT, {}, (224, 224), (14, 14), False, id="beit_base", marks=SLOW),
]


def attended(net: Any, x: np.ndarray) -> tuple[Any, list[Any]]:
    """Scores, and each layer's attention [N, heads, T, T] as the network uses it."""
    maps: list[Any] = []
    for block in net.blocks:
        block.attn.fused_attn = False
        block.attn.attn_drop.register_forward_hook(lambda m, i, out: maps.append(out))
    return net(torch.from_numpy(x)), maps


@pytest.mark.parametrize(("name", "options", "size", "grid", "by_token"), CASES)
def test_equals_whole_matrices(name: str, options: Any, size: Any, grid: Any, by_token: bool):
    """Of a class token its row; of pooled patches the mean of theirs."""
    net = timm_model(name, **options)
    x, target = models.images(2, 3, *size), np.array([2, 5])
    methods = ["rollout", "gradient_rollout"]
    proto = explain_graph(onnx_of(net, x), methods, size="layer", signed=True).to_proto()
    found = run_runtime(proto, {"x": x, "target": target})
    scores, maps = attended(net, x)
    hot = F.one_hot(torch.from_numpy(target), scores.shape[1]).float()
    gradients = torch.autograd.grad(scores, maps, hot)
    eye = torch.eye(maps[0].shape[-1])
    plain, by_gradient = eye.expand(2, -1, -1), eye.expand(2, -1, -1)
    for a, g in zip(maps, gradients, strict=True):
        mixed = a.detach().mean(1) + eye
        plain = (mixed / mixed.sum(2, keepdim=True)) @ plain
        by_gradient = by_gradient + torch.relu(a.detach() * g).mean(1) @ by_gradient
    for method, made in (("rollout", plain), ("gradient_rollout", by_gradient)):
        row = made[:, 0] if by_token else made[:, 1:].mean(1)
        want = row[:, 1:].reshape(2, *grid).numpy()
        got = found[f"saliency_{method}"]
        assert np.linalg.norm(want) > 0
        assert np.linalg.norm(got - want) <= 1e-3 * np.linalg.norm(want), method


@pytest.mark.parametrize(
    ("name", "options", "side"),
    [
        pytest.param(
            "convnext_atto", dict(num_classes=7, depths=(1, 1, 1, 1), dims=(8, 8, 16, 16)), 64,
            id="convnext",
        ),
        pytest.param("mobilevit_xxs", {}, 256, id="mobilevit", marks=SLOW),
        pytest.param("maxvit_rmlp_pico_rw_256", {}, 256, id="maxvit", marks=SLOW),
    ],
)  # fmt: skip
@pytest.mark.parametrize("method", ["rollout", "gradient_rollout"])
def test_where_it_is_not_defined(name: str, options: Any, side: int, method: str):
    """No attention, or attention within windows and among the patches of a cell: one line."""
    model = onnx_of(timm_model(name, **options), models.images(2, 3, side, side))
    with pytest.raises(UnsupportedNode, match="attention") as err:
        backlight.export(model, methods=[method])
    assert "\n" not in str(err.value)
