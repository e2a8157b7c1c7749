"""Rules are tried once for nodes that are alike, and on every one that isn't."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from backlight.export.check import check
from backlight.export.report import Finding
from backlight.export.trial import Trials

from .. import models


def chain(blocks: int, odd: str = "z = Identity(h1)") -> onnx.ModelProto:
    """Blocks that are alike but for their weights' values; `odd` makes z behind the first."""
    rng = np.random.default_rng(0)
    weights = {f"w{i}": rng.normal(size=(3, 3, 1, 1)).astype("f") for i in range(blocks)}
    weights |= {
        "low": np.zeros(1, "f"),
        "low3": np.zeros((1, 3, 1, 1), "f"),
        "v": rng.normal(size=(3, 5)).astype("f"),
    }
    lines = ["h0 = Neg(x)"]
    for i in range(blocks):
        lines += [odd, "k = Add(h1, z)"] if i == 1 else []
        x = "k" if i == 1 else f"h{i}"
        lines += [f"c{i} = Conv({x}, w{i})", f"r{i} = Relu(c{i})", f"h{i + 1} = Add(r{i}, {x})"]
    body = "\n".join([*lines, f"p = GlobalAveragePool(h{blocks})"])
    return models.parsed(
        '<ir_version: 8, opset_import: ["" : 18]> g (float[N,3,8,8] x) => (float[N,5] prob) {'
        f"{body} f = Flatten(p) s = MatMul(f, v) prob = Softmax(s) }}",
        weights,
    )


def tried(monkeypatch: pytest.MonkeyPatch, model: onnx.ModelProto) -> Counter[str]:
    found: Counter[str] = Counter()
    own = Trials._tried

    def counted(self: Trials, node: ir.Node) -> Finding | None:
        found[node.op_type] += 1
        return own(self, node)

    with monkeypatch.context() as patch:
        patch.setattr(Trials, "_tried", counted)
        check(model)
    return found


def test_more_nodes_that_are_alike_are_no_more_trials(monkeypatch: pytest.MonkeyPatch) -> None:
    few, many = (tried(monkeypatch, chain(n)) for n in (3, 40))
    assert few == many
    assert many["Conv"] == many["Relu"] == many["Add"] == 1


@pytest.mark.parametrize(
    ("odd", "op_type"),
    [
        ("z = Conv<pads=[0,0,0,0]>(h1, w1)", "Conv"),
        ("o = MaxPool<kernel_shape=[2,2]>(h1) q = Conv(o, w1) z = ReduceMax(q)", "Conv"),
        ("z = Conv(h1, low3)", "Conv"),
        ("z = Add(h1, h1)", "Add"),
        ("z = Add(h1, low)", "Add"),
        ("z = Add(low, h1)", "Add"),
    ],
    ids=["attributes", "sizes", "weights' sizes", "one twice", "a constant", "its place"],
)
def test_what_differs_is_tried(monkeypatch: pytest.MonkeyPatch, odd: str, op_type: str) -> None:
    before, after = tried(monkeypatch, chain(2)), tried(monkeypatch, chain(2, odd))
    assert after[op_type] == before[op_type] + 1


def test_two_that_are_alike_and_refused_are_both_found() -> None:
    model = chain(4)
    for node in model.graph.node:
        if node.op_type == "Conv" and node.output[0] in ("c1", "c3"):
            node.attribute.append(onnx.helper.make_attribute("auto_pad", "SOME"))
            node.name = node.output[0]
    found = [f.node for f in check(model).findings if f.kind == "obstacle"]
    assert found == ["c1", "c3"]
