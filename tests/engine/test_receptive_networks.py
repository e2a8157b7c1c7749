"""Receptive fields against brute force in whole networks: every convolutional one of the table."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backlight.engine.inside.taps import Taps, layers
from backlight.export.receptive import ReceptiveField

torch = pytest.importorskip("torch", reason="the networks are torchvision's")
# Not imported here: `tests.builders` knows how, beside a CPU-only torch.
if importlib.util.find_spec("torchvision") is None:
    pytest.skip("the networks are torchvision's", allow_module_level=True)

from ..networks import nets  # noqa: E402

# Attention mixes the whole image: vit_b_16 and swin_t aren't convolutional.
NETS = [net for net in nets.NETS if net.name not in ("vit_b_16", "swin_t")]
OPS = frozenset("Conv MaxPool AveragePool Add Concat Relu LayerNormalization".split())


def revealing(net: nets.Net) -> Any:
    """The network with weights that show every dependence: from a black image and without biases
    all units are 0, and weights above 0 let one bright pixel through to every unit that it
    reaches. Scaled so that neither end of float32 is met."""
    model = nets.build(net)
    generator = torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, (torch.nn.Conv2d, torch.nn.Linear)):
            weight = module.weight.data
            size = weight.shape[1] * (weight.shape[-1] if weight.ndim == 4 else 1)
            weight.copy_((torch.rand(weight.shape, generator=generator) + 0.5) / size)
            if module.bias is not None:
                module.bias.data.zero_()
        elif isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.zero_()
            module.running_var.fill_(1)
            module.weight.data.fill_(1)
            module.bias.data.zero_()
        elif type(module).__name__ == "CNBlock":
            module.layer_scale.data.fill_(1)
    return model


@pytest.mark.slow
@pytest.mark.parametrize("net", NETS, ids=lambda net: net.name)
@pytest.mark.parametrize("exporter", nets.EXPORTERS)
def test_units_that_a_pixel_moves_are_those_whose_box_holds_it(
    net: nets.Net, exporter: str, tmp_path: Path
) -> None:
    path = tmp_path / "net.onnx"
    nets.export(revealing(net), net, exporter, path)
    listed = [x for x in layers(path) if x.op in OPS and len(x.dims) == 3]
    # After a global operation (squeeze and excitation) every unit sees everything, which a black
    # image can't show: a gate times 0 is 0. The small graphs of export/test_receptive.py show it.
    names = [x.name for x in listed if not x.field.is_whole and x.field.is_spatial]
    compared = 0
    edge = net.size - 1
    middle = net.size // 2 + 1
    points = [(0, 0), (edge, 7), (middle, middle), (29, edge)]
    x = np.zeros((len(points) + 1, 3, net.size, net.size), np.float32)  # the last one stays black
    for row, (y, column) in enumerate(points):
        x[row, :, y, column] = 1
    for at in range(0, len(names), 12):  # their sizes add up
        taps = Taps(path, names[at : at + 12], threads=1)
        fields = taps.fields()
        for name, found in taps(x).items():
            if found[-1].any():  # the 1 in GELU's 1 + erf, beside which small things round away
                continue
            compared += 1
            want = np.stack([holds(fields[name], *point) for point in points])
            np.testing.assert_array_equal(found[:-1] != 0, want, err_msg=name)
    assert compared > 1


def holds(field: ReceptiveField, y: int, x: int) -> np.ndarray:
    """Which units have a pixel in their box, bool [C, H, W]."""
    seen = np.ones((1, *field.dims[1:]), np.bool_)
    for span, at in ((field.rows, y), (field.columns, x)):
        seen &= (span[0] <= at) & (-span[1] >= at)
    return np.asarray(seen[0])
