"""Models of one image without a batch, and their gradient by autograd."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

RNG = np.random.default_rng(3)

W = {
    "w": RNG.standard_normal((8, 3, 3, 3)),
    "v": RNG.standard_normal((8, 5)),
    "mean": np.array([0.4, 0.5, 0.6]),
    "wide": np.array([0.4, 0.5, 0.6]).reshape(1, 3, 1, 1),
    "tall": np.array([0.4, 0.5, 0.6]).reshape(3, 1, 1),
}

HEAD = """
    c = Conv<pads=[1,1,1,1], strides=[2,2]>({x}, w)
    r = Relu(c)
    k = Constant<value_ints=[2,3]>()
    p = ReduceMean<keepdims=0>(r, k)
    s = MatMul(p, v)
"""

ZERO = "z = Constant<value_ints=[0]>()"

SOFTMAX = {"[K]": "t = Squeeze(s, z) y = Softmax<axis=-1>(t)", "[1,K]": "y = Softmax<axis=-1>(s)"}

FRONTS = {
    "[3,H,W]": ("3,H,W", "m = Sub(x, tall) b = Unsqueeze(m, z)", "b"),
    "[3,8,6]": ("3,8,6", "a = Unsqueeze(x, z) b = Sub(a, wide)", "b"),
    "by a mean [1,3,1,1]": ("3,8,6", "b = Sub(x, wide)", "b"),
    "by a Reshape": ("3,8,6", "q = Constant<value_ints=[1,3,8,6]>() b = Reshape(x, q)", "b"),
    "[H,W,3]": (
        "H,W,3",
        "m = Sub(x, mean) a = Transpose<perm=[2,0,1]>(m) b = Unsqueeze(a, z)",
        "b",
    ),
    "[8,6,3], then turned": (
        "8,6,3",
        "m = Sub(x, mean) a = Unsqueeze(m, z) b = Transpose<perm=[0,3,1,2]>(a)",
        "b",
    ),
}


def net(front: str, scores: str, kind: str = "float") -> onnx.ModelProto:
    """A small net in float64 or float32, or of bytes."""
    dims, nodes, name = FRONTS[front]
    real = "double" if kind == "double" else "float"
    if kind == "uint8":
        nodes = "f = Cast<to=1>(x) " + nodes.replace("(x,", "(f,")
    out = "5" if scores == "[K]" else "1,5"
    body = f"{ZERO} {nodes} {HEAD.format(x=name)} {SOFTMAX[scores]}"
    model = parser.parse_model(
        f'<ir_version: 8, opset_import: ["": 18]>\n'
        f"g ({kind}[{dims}] x) => ({real}[{out}] y) {{ {body} }}"
    )
    dtype = np.float64 if kind == "double" else np.float32
    model.graph.initializer.extend(
        numpy_helper.from_array(a.astype(dtype), n) for n, a in W.items()
    )
    return model


def image(front: str, kind: str = "float") -> np.ndarray:
    shape = (3, 8, 6) if FRONTS[front][0].startswith("3") else (8, 6, 3)
    values = np.random.default_rng(5).integers(0, 256, shape)
    return values.astype(np.uint8) if kind == "uint8" else (values / 255).astype(np.float32)


def by_autograd(front: str, x: np.ndarray, target: int) -> np.ndarray:
    torch = pytest.importorskip("torch")
    moving = torch.tensor(x.astype(np.float64), requires_grad=True)
    planes = moving if FRONTS[front][0].startswith("3") else moving.permute(2, 0, 1)
    planes = planes if front == "by a Reshape" else planes - torch.tensor(W["tall"])
    h = torch.relu(
        torch.nn.functional.conv2d(planes[None], torch.tensor(W["w"]), padding=1, stride=2)
    )
    (h.mean((2, 3)) @ torch.tensor(W["v"]))[0, target].backward()
    return moving.grad.numpy()
