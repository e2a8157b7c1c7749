"""How much larger than the model its explaining file is: what the README says of it."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from backlight.engine.cli.options import BUNDLED
from backlight.export.methods import RULES
from backlight.export.saliency import explain_graph

from .. import models


def residual(depth: int, width: int) -> onnx.ModelProto:
    """A ResNet-like model: `depth` blocks of two convolutions of `width` channels."""
    rng = np.random.default_rng(0)
    weights = {"w": rng.standard_normal((width, 3, 3, 3)).astype(np.float32)}
    lines = ["h0 = Conv<pads=[1,1,1,1]>(x, w)"]
    for k in range(depth):
        for which in "ab":
            weights[f"{which}{k}"] = rng.standard_normal((width, width, 3, 3)).astype(np.float32)
            weights[f"{which}b{k}"] = rng.standard_normal(width).astype(np.float32)
        lines += [
            f"c{k} = Conv<pads=[1,1,1,1]>(h{k}, a{k}, ab{k})",
            f"r{k} = Relu(c{k})",
            f"d{k} = Conv<pads=[1,1,1,1]>(r{k}, b{k}, bb{k})",
            f"s{k} = Add(d{k}, h{k})",
            f"h{k + 1} = Relu(s{k})",
        ]
    weights["v"] = rng.standard_normal((10, width)).astype(np.float32)
    weights["c"] = np.zeros(10, np.float32)
    lines += [f"p = GlobalAveragePool(h{depth})", "f = Flatten(p)"]
    lines += ["scores = Gemm<transB=1>(f, v, c)"]
    text = "\n".join(lines)
    return models.parsed(
        '<ir_version: 8, opset_import: ["" : 17]> g (float[N,3,32,32] x) => (float[N,10] scores) {'
        f"{text}}}",
        weights,
    )


def growth(depth: int, width: int, rules: tuple[str, ...], form: str) -> tuple[int, int, int]:
    """Nodes and bytes of a model, and the bytes that its explaining file has more."""
    model = residual(depth, width)
    size = len(model.SerializeToString())
    made = explain_graph(model, rules, lowering=form).to_proto()
    return len(model.graph.node), size, len(made.SerializeToString()) - size


@pytest.mark.parametrize("form", ["portable", "cpu"])
@pytest.mark.parametrize("rules", [("vanilla",), ("guided",), RULES], ids=["v", "g", "all"])
@pytest.mark.parametrize(("depth", "width"), [(1, 8), (4, 8), (4, 64), (16, 16), (16, 64)])
def test_a_file_grows_by_its_nodes(depth: int, width: int, rules: tuple[str, ...], form: str):
    """From a file of 6 KB, which doubles, to one of 5 MB, which grows by a hundredth."""
    nodes, size, more = growth(depth, width, rules, form)
    # What says which target and which image is none, and a MaxPool, of which each has one.
    least = 2500 if len(rules) == 1 else 4500
    assert 0 < more < least + nodes * (1000 if len(rules) == 1 else 1500)
    if size > 4e6:
        assert more < 0.025 * size


def test_weights_are_stored_once():
    """Eight times the channels, 64 times the weights, not a byte more: in the portable form."""
    for rules in (("guided",), RULES):
        assert growth(4, 8, rules, "portable")[2] == growth(4, 64, rules, "portable")[2]


def test_the_bundled_model_grows_by_hundredths():
    size = BUNDLED.stat().st_size
    for rules, most in ((("vanilla",), 0.02), (("guided",), 0.02), (RULES, 0.035)):
        made = explain_graph(BUNDLED, rules).to_proto()
        assert len(made.SerializeToString()) < (1 + most) * size
