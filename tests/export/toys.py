"""A transformer small enough to be written twice, and torch's exporters."""

from __future__ import annotations

import io
import logging
import warnings
from typing import Any

import numpy as np
import onnx
import pytest

import backlight

from .. import models
from .harness import run_runtime

torch = pytest.importorskip("torch")
F = torch.nn.functional


def onnx_of(net: Any, x: np.ndarray, dynamo: bool = False, opset: int = 18) -> onnx.ModelProto:
    given = (torch.from_numpy(x),)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    before = torch.backends.mha.get_fastpath_enabled()
    # No exporter knows the fused operator that torch has for inference.
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if dynamo:
                program = torch.onnx.export(
                    net, given, dynamo=True, input_names=["x"], output_names=["y"],
                    dynamic_shapes=({0: torch.export.Dim("N")},), opset_version=opset,
                    verbose=False,
                )  # fmt: skip
                return program.model_proto
            file = io.BytesIO()
            torch.onnx.export(
                net, given, file, dynamo=False, opset_version=opset, input_names=["x"],
                output_names=["y"], dynamic_axes={"x": {0: "N"}, "y": {0: "N"}},
            )  # fmt: skip
            return onnx.load_from_string(file.getvalue())
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


class Toy:
    """`models.transformer` in PyTorch, in float64: what it computes on the way is kept."""

    def __init__(self, model: onnx.ModelProto, extra: int = 1, reading: str = "class"):
        arrays = {i.name: onnx.numpy_helper.to_array(i) for i in model.graph.initializer}
        self.w = {
            k: torch.from_numpy(np.array(v, np.float64 if v.dtype.kind == "f" else v.dtype))
            for k, v in arrays.items()
        }
        self.extra, self.reading = extra, reading

    def norm(self, x: Any) -> Any:
        return F.layer_norm(x, (4,)) * self.w["gain"]

    def embedded(self, x: np.ndarray) -> Any:
        maps = F.conv2d(torch.from_numpy(x).double(), self.w["we"], stride=(4, 2))
        front = self.w["cls"].expand(len(x), -1, -1)
        return torch.cat([front, maps.flatten(2).transpose(1, 2)], 1) + self.w["pos"]

    def attention(self, i: int, n: Any) -> Any:
        """The map of block `i`, [N, 2, T, T], with a gradient."""
        q, k = (self.heads(n @ self.w[f"w{name}{i}"]) for name in "qk")
        return torch.softmax(q @ k.transpose(2, 3) * self.w["scale"], 3)

    @staticmethod
    def heads(x: Any) -> Any:
        return x.reshape(len(x), -1, 2, 2).transpose(1, 2)

    def block(self, i: int, p: Any, n: Any, maps: list[Any]) -> Any:
        maps.append(self.attention(i, n))
        seen = (maps[-1] @ self.heads(n @ self.w[f"wv{i}"])).transpose(1, 2).reshape(n.shape)
        r = p + seen @ self.w[f"wo{i}"]
        return r + torch.relu(self.norm(r) @ self.w[f"wu{i}"]) @ self.w[f"wd{i}"]

    def read(self, p: Any) -> Any:
        n = self.norm(p)
        rows = {"class": n[:, 0], "pooled": n.mean(1), "patches": n[:, self.extra :].mean(1)}
        return torch.relu(rows[self.reading] + self.w["dark"]) @ self.w["wc"].T + self.w["bc"]

    def rows(self, count: int) -> list[int]:
        return {"class": [0], "pooled": [*range(count)], "patches": [*range(self.extra, count)]}[
            self.reading
        ]

    def __call__(self, x: np.ndarray) -> tuple[Any, list[Any]]:
        maps: list[Any] = []
        p = self.embedded(x)
        for i in (0, 1):
            p = self.block(i, p, self.norm(p), maps)
        return self.read(p), maps


X = models.images(3, 3, 8, 8)
TARGET = np.array([1, 2, 4])


def raw(model: onnx.ModelProto, methods: list[str], **options: Any) -> dict[str, np.ndarray]:
    """The methods' maps at the layer's size, signed, on X."""
    proto = backlight.export(model, methods=methods, size="layer", signed=True, **options)
    feeds = {"x": X, "target": TARGET, "contrast": np.array([0, 0, 0])}
    named = {i.name for i in proto.graph.input}
    found = run_runtime(proto, {k: v for k, v in feeds.items() if k in named})
    return {k.removeprefix("saliency_"): v for k, v in found.items() if k.startswith("saliency_")}
