"""Transformers of torchvision and timm, small ones and whole ones, with random weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from ..builders import torchvision_models

torch = pytest.importorskip("torch")


def vit(**options: Any) -> Any:
    torchvision_models()
    from torchvision.models import VisionTransformer

    small = dict(
        image_size=32, patch_size=8, num_layers=2, num_heads=2, hidden_dim=16, mlp_dim=32,
        num_classes=7,
    )  # fmt: skip
    return alive(lambda: VisionTransformer(**{**small, **options}))


def swin(**options: Any) -> Any:
    torchvision_models()
    from torchvision.models import SwinTransformer

    small = dict(
        patch_size=[4, 4], embed_dim=8, depths=[2, 2], num_heads=[1, 2], window_size=[2, 2],
        num_classes=7,
    )  # fmt: skip
    return alive(lambda: SwinTransformer(**{**small, **options}))


def full(name: str) -> Any:
    return alive(lambda: getattr(torchvision_models(), name)(weights=None))


def timm_model(name: str, **options: Any) -> Any:
    torchvision_models()
    timm = pytest.importorskip("timm")
    return alive(lambda: timm.create_model(name, pretrained=False, **options))


def alive(made: Callable[[], Any]) -> Any:
    """A network with random weights, a head of zeros among them drawn anew."""
    torch.manual_seed(0)
    net = made().eval()
    for parameter in net.parameters():
        if parameter.ndim == 2 and not parameter.any():
            torch.nn.init.normal_(parameter, std=0.3)
    return net


SMALL = dict(num_classes=7, img_size=(32, 48), patch_size=8, embed_dim=16, depth=2, num_heads=2)
