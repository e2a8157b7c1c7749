"""Runs a convolutional ONNX model with PyTorch's operators: an oracle for files without a module.

Written for the models of `benchmarks/fetch.py`, independent of Backlight: nodes are executed one
by one as torch functions, autograd does the rest, and each Relu is a function of its own whose
backward pass is the rule's.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import torch
import torch.nn.functional as F


class _Relu(torch.autograd.Function):
    """Relu whose backward pass is vanilla, deconv or guided (Springenberg et al. 2015)."""

    @staticmethod
    def forward(ctx: Any, h: torch.Tensor, rule: str) -> torch.Tensor:
        ctx.save_for_backward(h)
        ctx.rule = rule
        return h.clamp(min=0)

    @staticmethod
    def backward(ctx: Any, g: torch.Tensor) -> Any:
        (h,) = ctx.saved_tensors
        if ctx.rule in ("vanilla", "guided"):
            g = g * (h > 0)
        if ctx.rule in ("deconv", "guided"):
            g = g * (g > 0)
        return g, None


def _padded(x: torch.Tensor, attributes: dict[str, Any], fill: float = 0.0) -> torch.Tensor:
    kernel, strides = attributes["kernel_shape"], attributes.get("strides", [1, 1])
    pads = list(attributes.get("pads", [0, 0, 0, 0]))
    auto = attributes.get("auto_pad", b"NOTSET").decode()
    if auto.startswith("SAME"):
        for axis in (0, 1):
            size = x.shape[2 + axis]
            total = max((-(-size // strides[axis]) - 1) * strides[axis] + kernel[axis] - size, 0)
            low = total // 2 if auto == "SAME_UPPER" else -(-total // 2)
            pads[axis], pads[axis + 2] = low, total - low
    return F.pad(x, (pads[1], pads[3], pads[0], pads[2]), value=fill)


def _conv(x: Any, w: Any, b: Any = None, **a: Any) -> torch.Tensor:
    a["kernel_shape"] = w.shape[2:]
    return F.conv2d(
        _padded(x, a), w, b, a.get("strides", [1, 1]), 0, a.get("dilations", [1, 1]),
        a.get("group", 1),
    )  # fmt: skip


def _max_pool(x: Any, **a: Any) -> torch.Tensor:
    if a.get("ceil_mode", 0):  # the last window may hang over the border
        y: torch.Tensor = F.max_pool2d(x, a["kernel_shape"], a["strides"], ceil_mode=True)
        assert not any(a.get("pads", [0]))
        return y
    return F.max_pool2d(_padded(x, a, -float("inf")), a["kernel_shape"], a.get("strides", [1, 1]))


def _average_pool(x: Any, **a: Any) -> torch.Tensor:
    ones = _padded(torch.ones_like(x), a)
    kernel, strides = a["kernel_shape"], a.get("strides", [1, 1])
    total = F.avg_pool2d(_padded(x, a), kernel, strides)
    return total if a.get("count_include_pad", 0) else total / F.avg_pool2d(ones, kernel, strides)


def _gemm(x: Any, w: Any, c: Any = None, **a: Any) -> torch.Tensor:
    x, w = x.T if a.get("transA") else x, w.T if a.get("transB") else w
    y = a.get("alpha", 1.0) * (x @ w)
    return y if c is None else y + a.get("beta", 1.0) * c


FUNCTIONS: dict[str, Any] = {
    "Add": lambda a, b, **_: a + b,
    "AveragePool": _average_pool,
    "BatchNormalization": lambda x, s, b, m, v, **a: F.batch_norm(
        x, m, v, s, b, eps=a.get("epsilon", 1e-5)
    ),
    "Cast": lambda x, to: x.to(torch.int64 if to in (6, 7) else torch.float32),
    "Concat": lambda *xs, axis: torch.cat(xs, axis),
    "Conv": _conv,
    "Dropout": lambda x, *_, **__: x,
    "Flatten": lambda x, **a: x.reshape(int(np.prod(x.shape[: a.get("axis", 1)])), -1),
    "Gather": lambda x, at, **a: torch.index_select(x, a.get("axis", 0), at.reshape(-1)),
    "Gemm": _gemm,
    "GlobalAveragePool": lambda x: x.mean((2, 3), keepdim=True),
    "Identity": lambda x: x,
    "MatMul": lambda a, b: a @ b,
    "MaxPool": _max_pool,
    "Mul": lambda a, b, **_: a * b,
    "Reshape": lambda x, shape, **_: x.reshape([int(d) for d in shape]),
    "Shape": lambda x: torch.tensor(x.shape),
    "Slice": lambda x, starts, ends, axes=None: x[int(starts) : int(ends)],
    "Softmax": lambda x, **_: x,  # the score before it is what is explained
    "Squeeze": lambda x, **a: x.reshape([d for i, d in enumerate(x.shape) if i not in a["axes"]]),
    "Sub": lambda a, b, **_: a - b,
    "Transpose": lambda x, perm: x.permute(perm),
}


def saliency(
    model: onnx.ModelProto, x: np.ndarray, target: int, rule: str, dtype: torch.dtype
) -> np.ndarray:
    """The rule's map of a class score, float64 or float32, shaped like x."""
    graph = model.graph
    values: dict[str, Any] = {
        t.name: torch.from_numpy(np.array(onnx.numpy_helper.to_array(t))) for t in graph.initializer
    }
    values = {k: v.to(dtype) if v.is_floating_point() else v for k, v in values.items()}
    image = torch.tensor(x, dtype=dtype, requires_grad=True)
    fed = next(i.name for i in graph.input if i.name not in values)
    values[fed] = image
    for node in graph.node:
        attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        inputs = [values[n] if n else None for n in node.input]
        if node.op_type == "Constant":
            made: Any = torch.from_numpy(np.array(onnx.numpy_helper.to_array(attributes["value"])))
        elif node.op_type == "Relu":
            made = _Relu.apply(inputs[0], rule)
        else:
            made = FUNCTIONS[node.op_type](*inputs, **attributes)
        values[node.output[0]] = made
    score = values[graph.output[0].name].reshape(len(x), -1)[:, target].sum()
    (found,) = torch.autograd.grad(score, image)
    return found.numpy()
