"""Real architectures for CUDA and TensorRT: our backward pass adds nothing those would not take.

By tables, on the CPU; and the numbers are the portable graph's.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("onnxruntime")
# Not importorskip: torchvision's wheel needs builders.torchvision_models to be imported at all.
if find_spec("torchvision") is None:
    pytest.skip("the networks are torchvision's", allow_module_level=True)

import torch

from backlight.export.lowering.support import TARGETS, unsupported
from backlight.export.saliency import explain_graph

from ..builders import torchvision_models
from ..export.harness import run_runtime
from .nets import EXPORTERS, Net, export

pytestmark = pytest.mark.slow  # PyTorch's exporter takes seconds each


def vit(models: Any) -> Any:
    return models.VisionTransformer(64, 16, 2, 4, 32, 64, num_classes=10)


def densenet(models: Any) -> Any:
    return models.DenseNet(8, (2, 2), 16, num_classes=10)


BUILDERS: dict[str, Callable[[Any], Any]] = {
    "resnet18": lambda models: models.resnet18(num_classes=10),
    "mobilenet_v2": lambda models: models.mobilenet_v2(num_classes=10),
    # Pools in ceil_mode.
    "googlenet": lambda models: models.googlenet(
        init_weights=False, aux_logits=False, num_classes=10
    ),
    "vit": vit,
    "densenet": densenet,
}


@pytest.mark.parametrize("exporter", EXPORTERS)
@pytest.mark.parametrize("name", BUILDERS)
def test_nothing_of_ours_is_refused(name: str, exporter: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = BUILDERS[name](torchvision_models()).eval()
    for weight in model.parameters():
        if weight.ndim > 1 and not weight.any():  # the ViT's head starts at 0, and so would maps
            torch.nn.init.normal_(weight, std=0.1)
    net = Net(name, 64)
    export(model, net, exporter, tmp_path / "net.onnx")
    x = np.random.default_rng(0).standard_normal((2, 3, 64, 64)).astype(np.float32)
    results = []
    for target in ("portable", *TARGETS):
        graph = explain_graph(tmp_path / "net.onnx", ("vanilla",), lowering=target)
        refused = [r.line() for r in unsupported(graph.model, target)]
        assert not refused, refused[:5]  # nor do these models hold anything of their own
        image = graph.model.graph.inputs[0].name
        assert image is not None
        found = run_runtime(graph.to_proto(), {image: x, "target": np.array([-1, 3])})
        results.append(found["saliency_vanilla"])
    assert np.linalg.norm(results[0]) > 0
    for got in results[1:]:
        # Norms: float32 sums in another order, and one gate at its kink changes a whole map.
        error = np.linalg.norm(got - results[0]) / np.linalg.norm(results[0])
        assert error <= 1e-3
