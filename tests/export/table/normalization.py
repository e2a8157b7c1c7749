"""Normalizations: scales and biases are differentiated too, and statistics that x makes."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..harness import Exact, Row, positive

try:
    import torch
    import torch.nn.functional as F
except ImportError:  # the rows' torch functions are then not called
    torch = None  # type: ignore[assignment]

OLD_BATCH = "it takes old BatchNormalization to be training"
ONE_STASH = "it knows stash_type 1 only"
BATCHES = "it goes through as many channels as there are images"
RANK_4 = "it takes 4 dimensions only"
SINGLE = "it runs the operator's function, which is in float32"
SIGNS = "it sums x^p without taking absolute values"


def _channel(value: Any, x: Any) -> Any:
    """[C] along axis 1 of x."""
    return value.reshape(-1, *[1] * (x.dim() - 2)) if x.dim() > 1 else value


def _batch(x: Any, s: Any, b: Any, mean: Any, var: Any, epsilon: float = 1e-5) -> Any:
    """F.batch_norm, but its given mean and variance can be differentiated by."""
    scaled = (x - _channel(mean, x)) / _channel(var + epsilon, x).sqrt()
    return scaled * _channel(s, x) + _channel(b, x)


def _batch_row(name: str, shape: tuple[int, ...], attributes: str = "", **more: Any) -> Row:
    more.setdefault("torch", _batch)
    more.setdefault("opsets", (14, 15))
    inputs = {"x": shape, **dict.fromkeys(("s", "b", "m", "v"), (shape[1],))}
    return Row(
        "BatchNormalization",
        name,
        f"y = BatchNormalization{attributes}(x, s, b, m, v)",
        inputs,
        sample=positive,
        **more,
    )


def _group_row(
    name: str,
    shape: tuple[int, ...],
    groups: int,
    attributes: str = "",
    opsets: tuple[int, ...] = (18,),
    no_reference: str = "",
    epsilon: float = 1e-5,
    **more: Any,
) -> Row:
    """Version 18 has a scale and a bias for each group, version 21 for each channel."""
    channels = shape[1]
    scales = groups if opsets == (18,) else channels

    def function(x: Any, s: Any, b: Any) -> Any:
        s, b = (v.repeat_interleave(channels // scales) for v in (s, b))
        return F.group_norm(x, groups, s, b, epsilon)

    given = f"num_groups = {groups}, epsilon = {epsilon}{attributes}"
    return Row(
        "GroupNormalization",
        name,
        f"y = GroupNormalization<{given}>(x, s, b)",
        {"x": shape, "s": (scales,), "b": (scales,)},
        function,
        opsets=opsets,
        no_reference=no_reference,
        **more,
    )


def _near(x: Any, size: int, alpha: float, beta: float, bias: float) -> Any:
    """LRN. PyTorch's own puts the odd one of an even window at the other end."""
    before = (size - 1) // 2
    padded = F.pad((x * x).transpose(1, -1), (before, size - 1 - before)).transpose(1, -1)
    total = padded.unfold(1, size, 1).sum(-1)
    return x / (bias + alpha / size * total) ** beta


def _lrn(name: str, attributes: str, shape: tuple[int, ...], function: object, **more: Any) -> Row:
    more.setdefault("opsets", (13,))
    return Row("LRN", name, f"y = LRN<{attributes}>(x)", {"x": shape}, function, **more)


def _layer(
    op: str,
    name: str,
    attributes: str,
    shapes: dict[str, tuple[int, ...]],
    function: object,
    **more: Any,
) -> Row:
    more.setdefault("opsets", (17, 18) if op == "LayerNormalization" else (23,))
    return Row(op, name, f"y = {op}{attributes}({', '.join(shapes)})", shapes, function, **more)


def _layer_parts(x: Any, s: Any, b: Any) -> tuple[Any, Any, Any]:
    """LayerNormalization over the axes of its scale, with its further outputs."""
    axes = tuple(range(-s.dim(), 0))
    mean, inverse = x.mean(axes, keepdim=True), (x.var(axes, correction=0, keepdim=True) + 0.1)
    return F.layer_norm(x, s.shape, s, b, 0.1), mean, inverse.rsqrt()


def _rms(x: Any, s: Any, axes: tuple[int, ...] = (-1,), epsilon: float = 1e-5) -> Any:
    """F.rms_norm, with a scale of any shape that broadcasts."""
    return x / ((x * x).mean(axes, keepdim=True) + epsilon).sqrt() * s


def _mvn(x: Any, axes: tuple[int, ...]) -> Any:
    middle = x - x.mean(axes, keepdim=True)
    return middle / ((middle * middle).mean(axes, keepdim=True).sqrt() + 1e-9)


def _lp(name: str, attributes: str, function: object, **more: Any) -> Row:
    more.setdefault("opsets", (7, 22))
    text = f"y = LpNormalization{attributes}(x)"
    return Row("LpNormalization", name, text, {"x": (2, 3, 2)}, function, **more)


STATS = {
    "s": np.array([0.5, -2.0, 3.0]),
    "b": np.array([1.0, 0.0, -1.0]),
    "m": np.array([-0.3, 0.2, 0.1]),
    "v": np.array([0.5, 2.0, 0.01]),
}
IMAGE = {"x": (2, 3, 2, 2)}
AFFINE = {"s": (3,), "b": (3,)}
NAMED = {"x": ("N", 3, "H", "W")}
FOUR = (2, 4, 3)
# What the reference computes in, then: finite differences need it.
DOUBLE = ", stash_type = 11"
LINE = {"x": (2, 3, 4)}

ROWS: list[Row] = [
    _batch_row("rank 2", (3, 2)),
    _batch_row("rank 3", (2, 3, 2)),
    _batch_row("rank 4, dynamic", (2, 3, 2, 2), dims=NAMED),
    _batch_row("rank 5", (1, 2, 2, 1, 2), "<momentum = 0.5>"),
    _batch_row(
        "epsilon",
        (2, 3, 2),
        "<epsilon = 0.25>",
        torch=lambda *given: _batch(*given, epsilon=0.25),
    ),
    _batch_row("old", (2, 3, 2, 2), opsets=(7, 9), no_reference=OLD_BATCH),
    Row(
        "BatchNormalization",
        "constant statistics",
        "y = BatchNormalization(x, s, b, m, v)",
        IMAGE,
        lambda x: F.batch_norm(
            x, *(torch.tensor(STATS[n]) for n in "mvsb"), training=False, eps=1e-5
        ),
        consts=STATS,
        opsets=(15,),
        dims=NAMED,
    ),
    *(
        Row(
            "InstanceNormalization",
            name,
            f"y = InstanceNormalization<epsilon = {epsilon}>(x, s, b)",
            {**shape, **AFFINE},
            lambda x, s, b, epsilon=epsilon: F.instance_norm(x, weight=s, bias=b, eps=epsilon),
            opsets=(7, 22),
            dims=dims,
        )
        for name, shape, epsilon, dims in (
            ("rank 3", {"x": (2, 3, 3)}, 0.1, {}),
            ("rank 4, dynamic", IMAGE, 1e-5, NAMED),
            ("rank 5", {"x": (1, 3, 2, 1, 2)}, 1e-5, {}),
        )
    ),
    _group_row("2 groups", FOUR, 2),
    _group_row("1 group", FOUR, 1),
    _group_row("all groups", FOUR, 4),
    _group_row("epsilon", FOUR, 2, epsilon=0.1),
    _group_row("dynamic", (2, 4, 2, 2), 2, dims={"x": ("N", 4, "H", "W")}),
    _group_row("2 groups, a scale per channel", FOUR, 2, DOUBLE, (21,)),
    _group_row("1 group, a scale per channel", FOUR, 1, DOUBLE, (21,)),
    _group_row("all groups, a scale per channel", FOUR, 4, DOUBLE, (21,), epsilon=0.1),
    _group_row(
        "dynamic, a scale per channel",
        (2, 4, 2, 2),
        2,
        "",
        (21,),
        SINGLE,
        dims={"x": ("N", 4, "H", "W")},
    ),
    _group_row("unnamed channels", FOUR, 2, "", (21,), SINGLE, dims={"x": ("N", "C", "W")}),
    _layer(
        "LayerNormalization",
        "last axis",
        "",
        {**LINE, "s": (4,), "b": (4,)},
        lambda x, s, b: F.layer_norm(x, (4,), s, b),
    ),
    _layer(
        "LayerNormalization",
        "no bias",
        "<epsilon = 0.1>",
        {**LINE, "s": (4,)},
        lambda x, s: F.layer_norm(x, (4,), s, eps=0.1),
    ),
    _layer(
        "LayerNormalization",
        "axis 1",
        "<axis = 1>",
        {**LINE, "s": (3, 4), "b": (3, 4)},
        lambda x, s, b: F.layer_norm(x, (3, 4), s, b),
    ),
    _layer(
        "LayerNormalization",
        "axis -2, a scale that broadcasts",
        "<axis = -2>",
        {**LINE, "s": (4,), "b": (3, 1)},
        lambda x, s, b: F.layer_norm(x, (3, 4)) * s + b,
    ),
    _layer(
        "LayerNormalization",
        "all axes",
        "<axis = 0>",
        {"x": (2, 3), "s": (2, 3), "b": (2, 3)},
        lambda x, s, b: F.layer_norm(x, (2, 3), s, b),
    ),
    _layer(
        "LayerNormalization",
        "dynamic",
        "",
        {**LINE, "s": (4,), "b": (4,)},
        lambda x, s, b: F.layer_norm(x, (4,), s, b),
        dims={"x": ("N", "T", "D"), "s": ("D",), "b": ("D",)},
    ),
    _layer(
        "LayerNormalization",
        "stash type 0",
        "<stash_type = 0>",
        {**LINE, "s": (4,), "b": (4,)},
        lambda x, s, b: F.layer_norm(x, (4,), s, b),
        no_reference=ONE_STASH,
    ),
    *(
        Row(
            "LayerNormalization",
            f"{name} used too",
            f"h, m, i = LayerNormalization<axis = {axis}, epsilon = 0.1>(x, s, b)\n{text}",
            {**LINE, "s": scale, "b": scale},
            function,
            opsets=(17,),
            dims=dims,
        )
        for axis, scale, dims in ((-1, (4,), {}), (1, (3, 4), {"x": ("N", "T", "D")}))
        for name, text, function in (
            (
                "its mean",
                "v = CastLike(m, h)\ny = Add(h, v)",
                lambda x, s, b: _layer_parts(x, s, b)[0] + _layer_parts(x, s, b)[1],
            ),
            (
                "its deviation",
                "v = CastLike(i, h)\ny = Mul(h, v)",
                lambda x, s, b: _layer_parts(x, s, b)[0] * _layer_parts(x, s, b)[2],
            ),
        )
    ),
    Row(
        "LayerNormalization",
        "its mean and deviation alone",
        "h, m, i = LayerNormalization<epsilon = 0.1>(x, s)\n"
        "a = CastLike(m, x)\nb = CastLike(i, x)\ny = Div(a, b)",
        LINE,
        lambda x: x.mean(-1, keepdim=True) * (x.var(-1, correction=0, keepdim=True) + 0.1).sqrt(),
        consts={"s": np.array([1.0, 2.0, -1.0, 0.5])},
        opsets=(17,),
    ),
    _layer(
        "RMSNormalization",
        "last axis",
        "",
        {**LINE, "s": (4,)},
        lambda x, s: F.rms_norm(x, (4,), s, 1e-5),
    ),
    _layer(
        "RMSNormalization",
        "axis 1",
        "<axis = 1, epsilon = 0.1>",
        {**LINE, "s": (3, 4)},
        lambda x, s: F.rms_norm(x, (3, 4), s, 0.1),
    ),
    _layer(
        "RMSNormalization",
        "axis -2, a scale that broadcasts",
        "<axis = -2>",
        {**LINE, "s": (3, 1)},
        lambda x, s: _rms(x, s, (-2, -1)),
    ),
    _layer(
        "RMSNormalization",
        "dynamic",
        "",
        {**LINE, "s": (4,)},
        _rms,
        dims={"x": ("N", "T", "D"), "s": ("D",)},
    ),
    # As many images as channels: what ONNX's reference needs to be right.
    _lrn(
        "size 3",
        "size = 3, alpha = 0.5, beta = 0.6, bias = 2.0",
        (4, 4, 1, 2),
        lambda x: F.local_response_norm(x, 3, 0.5, 0.6, 2.0),
        opsets=(7, 13),
    ),
    _lrn(
        "defaults",
        "size = 5",
        (3, 3, 2, 2),
        lambda x: F.local_response_norm(x, 5, 1e-4, 0.75, 1.0),
    ),
    _lrn(
        "any number of channels",
        "size = 3, alpha = 0.5, beta = 0.6, bias = 2.0",
        (4, 4, 2, 1),
        lambda x: _near(x, 3, 0.5, 0.6, 2.0),
        dims={"x": ("N", "C", "H", "W")},
    ),
    _lrn(
        "size 1, dynamic",
        "size = 1, alpha = 0.5",
        (3, 3, 2, 2),
        lambda x: F.local_response_norm(x, 1, 0.5, 0.75, 1.0),
        dims=NAMED,
    ),
    _lrn(
        "size 2",
        "size = 2, alpha = 0.5",
        (4, 4, 1, 2),
        lambda x: _near(x, 2, 0.5, 0.75, 1.0),
        runtime=False,  # ONNX Runtime takes odd sizes only
    ),
    _lrn(
        "size 4, wider than the channels",
        "size = 4, alpha = 0.5",
        (2, 2, 2, 2),
        lambda x: _near(x, 4, 0.5, 0.75, 1.0),
        runtime=False,
    ),
    _lrn(
        "more channels than images, dynamic",
        "size = 3, alpha = 0.5",
        (1, 5, 2, 2),
        lambda x: F.local_response_norm(x, 3, 0.5, 0.75, 1.0),
        no_reference=BATCHES,
        dims={"x": ("N", 5, "H", "W")},
    ),
    _lp("plain", "", lambda x: F.normalize(x, dim=-1)),
    _lp("L2 over axis 1", "<axis = 1, p = 2>", lambda x: F.normalize(x, dim=1)),
    _lp("dynamic", "<axis = -2>", lambda x: F.normalize(x, dim=1), dims={"x": ("N", "C", "W")}),
    _lp("L1 of positives", "<p = 1>", lambda x: F.normalize(x, 1, -1), sample=positive),
    _lp("L1", "<p = 1, axis = 0>", lambda x: F.normalize(x, 1, 0), no_reference=SIGNS),
    Row(
        "MeanVarianceNormalization",
        "plain, dynamic",
        "y = MeanVarianceNormalization(x)",
        IMAGE,
        lambda x: _mvn(x, (0, 2, 3)),
        no_reference=SINGLE,
        opsets=(9, 13),
        dims=NAMED,
    ),
    Row(
        "MeanVarianceNormalization",
        "axes",
        "y = MeanVarianceNormalization<axes = [0, -1]>(x)",
        {"x": (2, 3, 2)},
        lambda x: _mvn(x, (0, 2)),
        no_reference=SINGLE,
        opsets=(9, 13),
    ),
]

EXACT: list[Exact] = [
    Exact(
        "LpNormalization",
        "L2 where all is 0",
        "y = LpNormalization(x)",
        {"x": np.array([[0.0, 0.0], [0.0, 4.0]])},
        np.array([[8.0, 4.0], [8.0, 4.0]]),
        {"x": np.array([[0.0, 0.0], [2.0, 0.0]])},
    ),
    Exact(
        "LpNormalization",
        "L1 where all is 0",
        "y = LpNormalization<p = 1>(x)",
        {"x": np.array([[0.0, 0.0], [1.0, 3.0]])},
        np.array([[8.0, 4.0], [8.0, 4.0]]),
        {"x": np.array([[0.0, 0.0], [0.75, -0.25]])},
    ),
    Exact(
        "InstanceNormalization",
        "images of one pixel",
        "y = InstanceNormalization(x, s, b)",
        {"x": np.array([2.0, -3.0]).reshape(1, 2, 1, 1), "s": np.ones(2), "b": np.zeros(2)},
        np.array([5.0, 7.0]).reshape(1, 2, 1, 1),
        {
            "x": np.zeros((1, 2, 1, 1)),
            "s": np.zeros(2),
            "b": np.array([5.0, 7.0]),
        },
    ),
]
