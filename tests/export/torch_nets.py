"""A small classifier in PyTorch, and as ONNX. Import after `importorskip("torch")`."""

from __future__ import annotations

import io
import warnings

import numpy as np
import onnx
import torch

from .. import models

X = models.images(3, 3, 24, 20)


class Net(torch.nn.Module):
    """Two convolutions, a pool, and a head that is linear or not."""

    def __init__(self, deep: bool = True, last: bool = False):
        super().__init__()
        torch.manual_seed(3)
        self.a = torch.nn.Conv2d(3, 6, 3, stride=2, padding=1)
        self.b = torch.nn.Conv2d(6, 8, 3, padding=1)
        self.hidden = torch.nn.Linear(8, 8) if deep else torch.nn.Identity()
        self.out = torch.nn.Linear(8, 7)
        self.last = last

    def layer(self, x):
        return torch.relu(self.b(torch.relu(self.a(x))))

    def head(self, a):
        return self.out(
            torch.relu(self.hidden(a.mean((2, 3)))) if self.last else self.hidden(a.mean((2, 3)))
        )

    def forward(self, x):
        return self.head(self.layer(x))


def onnx_of(net, x=X, **options) -> onnx.ModelProto:
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            net.eval(), (torch.from_numpy(np.asarray(x)),), file, dynamo=False, opset_version=17,
            input_names=["x"], output_names=["y"],
            dynamic_axes={"x": {0: "N"}, "y": {0: "N"}}, **options,
        )  # fmt: skip
    return onnx.load_from_string(file.getvalue())
