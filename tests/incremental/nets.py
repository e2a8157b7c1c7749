"""torchvision's networks with random weights that are as well conditioned as trained ones."""

from __future__ import annotations

import tempfile
from pathlib import Path

import onnx
import torch

from ..networks import nets


def calm(name: str, exporter: str = "legacy") -> onnx.ModelProto:
    """A network without the batch norms that the gradients' tests want: with those, MobileNetV2's
    float32 errors alone reach 1e-3 of the range of scores."""
    net = nets.Net(name)
    model = nets.build(net)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.zeros_(module.bias)
            module.train()
    with torch.no_grad():
        model(nets.images(net, rows=4))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        nets.export(model.eval(), net, exporter, path)
        return onnx.load(path)
