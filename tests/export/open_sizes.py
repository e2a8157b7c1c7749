"""Models whose sizes are open, and their gradient by autograd."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

RNG = np.random.default_rng(0)

W = {
    "w": RNG.standard_normal((4, 3, 3, 3)),
    "b": RNG.standard_normal(4),
    "v": RNG.standard_normal((4, 5)),
}

X = RNG.standard_normal((2, 3, 9, 7))


def paddle(
    unknown: int | str | None = -1, dtype: str = "float32", inner: bool = True
) -> onnx.ModelProto:
    """What Paddle's exporters write. unknown: for every size that it leaves open."""
    u, number = unknown, helper.np_dtype_to_tensor_dtype(np.dtype(dtype))

    def info(name: str, *dims: int | str | None) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, number, dims)

    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["c"], name="conv", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["r"], name="relu"),
        helper.make_node("GlobalAveragePool", ["r"], ["g"], name="pool"),
        helper.make_node("Flatten", ["g"], ["f"], name="flat"),
        helper.make_node("MatMul", ["f", "v"], ["s"], name="dense"),
        helper.make_node("Softmax", ["s"], ["y"], name="prob", axis=-1),
    ]
    between = [info("c", u, 4, u, u), info("r", u, 4, u, u), info("g", u, 4, 1, 1), info("s", u, 5)]
    graph = helper.make_graph(
        nodes,
        "paddle",
        [info("x", u, 3, u, u)],
        [info("y", u, 5)],
        [numpy_helper.from_array(a.astype(dtype), n) for n, a in W.items()],
        value_info=between if inner else [],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=7)


def by_autograd(target: int) -> np.ndarray:
    torch = pytest.importorskip("torch")
    x = torch.tensor(X, requires_grad=True)
    w, b, v = (torch.tensor(a) for a in W.values())
    h = torch.relu(torch.nn.functional.conv2d(x, w, b, padding=1))
    (h.mean((2, 3)) @ v)[:, target].sum().backward()
    return x.grad.numpy()


def unranked() -> onnx.ModelProto:
    """An input that declares no shape at all, and no convolution that reads it."""
    model = paddle("N", inner=False)
    model.graph.input[0].type.tensor_type.ClearField("shape")
    model.graph.node.insert(0, helper.make_node("Neg", ["x"], ["n"], "neg"))
    model.graph.node.insert(1, helper.make_node("Neg", ["n"], ["m"], "gen"))
    model.graph.node[2].input[0] = "m"
    return model
