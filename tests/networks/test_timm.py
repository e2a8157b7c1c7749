"""timm's VOLO (Col2Im) and Sequencer (LSTM), small and with random weights, against PyTorch.

pytest -m slow tests/networks/test_timm.py
"""

from __future__ import annotations

import contextlib
import io
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
if find_spec("torchvision") is None or find_spec("timm") is None:
    pytest.skip("the networks are timm's", allow_module_level=True)

import torch

import backlight

from ..builders import torchvision_models
from ..export.harness import run_reference
from .backward import relative

TARGETS = [1, 3]
# VOLO's fold is beyond PyTorch's older exporter ("Occurred when translating col2im").
CASES = [("volo", 64, "dynamo"), ("sequencer", 56, "dynamo"), ("sequencer", 56, "legacy")]


def _network(name: str) -> Any:
    torchvision_models()
    from timm.models import sequencer, volo

    torch.manual_seed(0)
    if name == "volo":
        model = volo.VOLO(
            layers=[1, 1],
            img_size=64,
            num_classes=5,
            stem_hidden_dim=16,
            embed_dims=[24, 48],
            num_heads=[2, 4],
            downsamples=(True, False),
            outlook_attention=(True, False),
            post_layers=("ca",),
        )
    else:
        model = sequencer.sequencer2d_s(
            num_classes=5,
            layers=(1, 1, 1, 1),
            embed_dims=(16, 32, 32, 32),
            hidden_sizes=(8, 8, 8, 8),
        )
    for parameter in model.parameters():
        if not parameter.detach().any():  # the head begins at 0, and with it every gradient
            torch.nn.init.normal_(parameter, std=0.02)
    return model.eval()


@pytest.mark.slow
@pytest.mark.parametrize(("name", "size", "exporter"), CASES)
def test_vanilla_equals_autograd(name: str, size: int, exporter: str, tmp_path: Path) -> None:
    """In float64, where no rectifier of the stem lies within rounding of another decision."""
    model = _network(name).double()
    x = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0)).double()
    path = tmp_path / "net.onnx"
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        torch.onnx.export(model, (x,), str(path), dynamo=exporter == "dynamo", opset_version=18)
    graph = backlight.export(path, rules=("vanilla",))
    feeds = {graph.graph.input[0].name: x.numpy(), "target": torch.tensor(TARGETS).numpy()}
    got = run_reference(graph, feeds)["saliency_vanilla"]
    x.requires_grad_(True)
    score = _network(name).double()(x)[torch.arange(2), torch.tensor(TARGETS)].sum()
    (want,) = torch.autograd.grad(score, x)
    # Sequencer's scale of some constants is float32 by the exporters.
    assert relative(got, want.numpy()) <= 1e-6
