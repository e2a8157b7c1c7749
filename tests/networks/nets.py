"""torchvision's classifiers with random weights that keep activations alive, and their export."""

from __future__ import annotations

import contextlib
import io
import itertools
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..builders import torchvision_models


@dataclass(frozen=True)
class Net:
    name: str
    size: int = 224
    small: bool = False  # in CI
    # Means before rectifiers, in standard deviations. Of the units of large networks more lie near
    # a kink, so these have them further off.
    apart: float = 3.0


NETS = [
    Net("alexnet"),
    Net("vgg11"),
    Net("vgg16_bn", apart=4.0),
    Net("resnet18", small=True),
    Net("resnet50", apart=5.0),
    Net("resnext50_32x4d", apart=5.0),
    Net("googlenet", apart=4.0),
    Net("inception_v3", 299, apart=5.0),
    Net("densenet121", apart=5.0),
    Net("squeezenet1_0", small=True),
    Net("mobilenet_v2", small=True),
    Net("mobilenet_v3_large"),
    Net("efficientnet_b0"),
    Net("shufflenet_v2_x1_0", small=True),
    Net("mnasnet1_0"),
    Net("regnet_x_400mf"),
    Net("convnext_tiny"),
    Net("vit_b_16"),
    Net("swin_t"),
]
# Of a variance, where layers are normalised. A channel behind one that is mostly off hardly varies:
# scaled up to variance 1, its rounding would be too, and again in each layer that follows.
EPSILON = 0.1
EXPORTERS = ("dynamo", "legacy")


def build(net: Net, seed: int = 0) -> torch.nn.Module:
    """The network in eval mode. He-normal weights; batch statistics taken from noise.

    Batch norms get biases of +-`apart` by channel: some channels are mostly on, some mostly off,
    and few units sit within rounding of a rectifier's kink (see `compare.sharp_images`). A hard
    swish has its kinks at +-3: before it they are 3 more.
    """
    models = torchvision_models()
    torch.manual_seed(seed)
    extra: dict[str, Any] = {}
    if net.name in ("googlenet", "inception_v3"):
        extra = {"init_weights": False, "aux_logits": False}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model: torch.nn.Module = getattr(models, net.name)(weights=None, **extra)
    hard = {
        id(layer)
        for row in model.modules()
        if isinstance(row, torch.nn.Sequential)
        for layer, after in itertools.pairwise(row)
        if isinstance(after, torch.nn.Hardswish)
    }
    for module in model.modules():
        if isinstance(module, (torch.nn.Conv2d, torch.nn.Linear)):
            torch.nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                torch.nn.init.normal_(module.bias, std=0.02)
        elif isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0
            module.eps = EPSILON
            shift = net.apart + 3 * (id(module) in hard)
            signs = torch.where(torch.rand(module.num_features) < 0.6, shift, -shift)
            torch.nn.init.zeros_(module.bias)
            module.bias.data += signs
    kinds = [type(module) for module in model.modules()]
    if torch.nn.ReLU in kinds and torch.nn.BatchNorm2d not in kinds:
        _normalize(model, images(net, rows=4), net.apart)
    # A pass in training mode fills the running statistics with this noise's own.
    model.train()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout) or type(module).__name__ == "StochasticDepth":
            module.eval()
    with torch.no_grad():
        model(images(net, rows=4))
    return model.eval()


def _normalize(model: torch.nn.Module, x: torch.Tensor, apart: float) -> None:
    """Where there is no batch norm, the same by hand (Mishkin and Matas 2016): each layer's
    output gets variance 1 on noise, and means of +-`apart` by channel, from the first layer on."""

    def settle(module: Any, _: Any, y: torch.Tensor) -> torch.Tensor:
        axes = (0, 2, 3) if y.ndim == 4 else (0, 1)
        mean, scale = y.mean(axes), (y.var(axes) + EPSILON).sqrt()
        signs = torch.where(torch.rand(y.shape[1]) < 0.6, apart, -apart)
        if module is layers[-1]:
            signs = signs.abs()  # a class whose score is mostly negative has no gradient
        module.weight.data /= scale.reshape(-1, *[1] * (module.weight.ndim - 1))
        module.bias.data = (module.bias.data - mean) / scale + signs
        line = [1, -1] + [1] * (y.ndim - 2)
        return (y - mean.reshape(line if mean.ndim else ())) / scale.reshape(
            line if scale.ndim else ()
        ) + signs.reshape(line)

    kinds = (torch.nn.Conv2d, torch.nn.Linear)
    layers = [m for m in model.modules() if isinstance(m, kinds)]
    hooks = [m.register_forward_hook(settle) for m in layers]
    with torch.no_grad():
        model.eval()(x)
    for hook in hooks:
        hook.remove()


def images(net: Net, rows: int = 2, seed: int = 0) -> torch.Tensor:
    """Noise as images: [rows, 3, size, size], float32, mean 0, variance 1."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, 3, net.size, net.size, generator=generator)


@contextlib.contextmanager
def _slow_attention() -> Iterator[None]:
    """Attention as its operators: where no parameter asks for gradients PyTorch takes one fused
    operator, which its older exporter lacks."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def export(model: torch.nn.Module, net: Net, exporter: str, path: Path) -> None:
    """Write the model as ONNX with a dynamic batch, by either of PyTorch's exporters."""
    x = images(net)
    with _slow_attention(), warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        if exporter == "dynamo":
            torch.onnx.export(
                model,
                (x,),
                path,
                dynamo=True,
                dynamic_shapes=({0: torch.export.Dim("N", min=1, max=64)},),
                external_data=False,
                verbose=False,
            )
        else:
            torch.onnx.export(
                model,
                (x,),
                path,
                dynamo=False,
                opset_version=17,
                input_names=["x"],
                output_names=["scores"],
                dynamic_axes={"x": {0: "N"}, "scores": {0: "N"}},
            )
