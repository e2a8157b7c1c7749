"""What is known of sizes beside open ones: picked out, and what a Reshape asks of what it reads."""

from __future__ import annotations

import io
import warnings
from typing import Any

import numpy as np
import pytest

from backlight.export.graph import load
from backlight.export.saliency import explain_graph

from ..models import parsed
from .harness import run_runtime

SIZES = {
    "flat": ("c = Slice(s, zero, two) t = Concat<axis=0>(c, minus)", (8, 64)),
    "each": ("c = Gather(s, zero) d = Gather(s, one) t = Concat<axis=0>(c, d, minus)", (8, 64)),
    "scalars": (
        "g = Gather(s, first) c = Unsqueeze(g, zero) t = Concat<axis=0>(c, eight, minus)", (8, 64),
    ),
    "begun elsewhere": ("c = Shape<end=2>(r) t = Concat<axis=0>(c, minus)", (8, 64)),
    "a number for it": ("c = Slice(s, zero, one) t = Concat<axis=0>(c, minus, eight)", (64, 8)),
    # Of another place, another tensor, or no size at all: left as they are.
    "turned": ("c = Gather(s, zero) t = Concat<axis=0>(minus, c, eight)", None),
    "computed": ("c = Slice(s, zero, one) d = Mul(c, one) t = Concat<axis=0>(d, eight, minus)",
                 None),
}  # fmt: skip
NUMBERS = {"zero": [0], "one": [1], "two": [2], "minus": [-1], "eight": [8]}


@pytest.mark.parametrize("batch", ["N,3,8,8", "n,3,8,n"], ids=["N", "one name for two"])
@pytest.mark.parametrize("name", SIZES)
def test_a_reshape_beside_an_open_batch(name: str, batch: str) -> None:
    """As PyTorch's older exporter writes flatten(2): the size of -1 follows, and the numbers stay
    what they were."""
    text, want = SIZES[name]
    model = parsed(
        f"""<ir_version: 8, opset_import: ["": 18]>
g (float[{batch}] x) => (float[A,B,C] y) {{
    r = Conv<pads=[1,1,1,1]>(x, w)
    s = Shape(r)
    {text}
    y = Reshape(r, t)
}}""",
        {n: np.array(v) for n, v in NUMBERS.items()}
        | {"first": np.array(0), "w": np.ones((8, 3, 3, 3), np.float32)},
    )
    found = load(model)
    (value,) = [n.outputs[0] for n in found.graph if n.op_type == "Reshape"]
    dims = () if value.shape is None else tuple(value.shape)[1:]
    if want is not None and batch.startswith("N"):
        assert dims == want
    x = np.random.default_rng(0).standard_normal((3, 3, 8, 8)).astype(np.float32)
    graph = explain_graph(model, ("vanilla",), of="r", wrt="x", cotangent="input")
    ran = run_runtime(graph.to_proto(), {"x": x, "cotangent": np.ones((3, 8, 8, 8), np.float32)})
    np.testing.assert_array_equal(ran["y"], run_runtime(model, {"x": x})["y"])


@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_a_sequence_by_pytorch_s_older_exporter(kind: str) -> None:
    """Its length was unknown beside an open batch, and the layer was refused."""
    torch = pytest.importorskip("torch")

    class Net(torch.nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.one = torch.nn.Conv2d(3, 4, 3, stride=2)
            self.two = getattr(torch.nn, kind)(4, 6, batch_first=True)
            self.three = torch.nn.Linear(6, 5)

        def forward(self, x: Any) -> Any:
            rows = torch.relu(self.one(x)).flatten(2).transpose(1, 2)
            return self.three(self.two(rows)[0].mean(1))

    file, x = io.BytesIO(), torch.randn(2, 3, 8, 8, requires_grad=True)
    net = Net().eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            net, (x,), file, input_names=["x"], dynamo=False, verbose=False,
            dynamic_axes={"x": {0: "N"}}, opset_version=17,
        )  # fmt: skip
    net(x)[:, 1].sum().backward()
    graph = explain_graph(file.getvalue(), ("vanilla",))
    feeds = {"x": x.detach().numpy(), "target": np.array([1, 1])}
    found = run_runtime(graph.to_proto(), feeds)["saliency_vanilla"]
    np.testing.assert_allclose(found, x.grad.numpy(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("taken", "batch"), [("t/folded", "3"), ("y/sizes", "N")])
def test_a_name_that_the_file_has(taken: str, batch: str) -> None:
    """An initializer may be called what folding would call its own."""
    model = parsed(
        f"""<ir_version: 8, opset_import: ["": 18]>
g (float[{batch},3,8,8] x) => (float[A,B,C] y) {{
    r = Mul(x, other)
    s = Shape(r)
    c = Slice(s, zero, one)
    t = Concat<axis=0>(c, minus, eight)
    y = Reshape(r, t)
}}""",
        {n: np.array(v) for n, v in NUMBERS.items()} | {"other": np.ones((1,), np.float32)},
    )
    model.graph.initializer[-1].name = model.graph.node[0].input[1] = taken
    x = np.random.default_rng(0).standard_normal((3, 3, 8, 8)).astype(np.float32)
    graph = explain_graph(model, ("vanilla",), of="y", wrt="x", cotangent="input")
    ran = run_runtime(graph.to_proto(), {"x": x, "cotangent": np.ones((3, 24, 8), np.float32)})
    np.testing.assert_array_equal(ran["saliency_vanilla"], np.ones_like(x))
