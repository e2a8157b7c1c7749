"""Attention against PyTorch's, and against the formula where PyTorch has no such option."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..harness import Array, Exact, Row

try:
    import torch
    import torch.nn.functional as F
except ImportError:  # the rows' torch functions are then not called
    torch = None  # type: ignore[assignment]

SHAPES = {"q": (2, 2, 3, 4), "k": (2, 2, 5, 4), "v": (2, 2, 5, 3)}
FLAT = {"q": (2, 3, 8), "k": (2, 5, 8), "v": (2, 5, 6)}
GROUPED = {"q": (1, 4, 3, 2), "k": (1, 2, 3, 2), "v": (1, 2, 3, 2)}
PAST = {**SHAPES, "pk": (2, 2, 2, 4), "pv": (2, 2, 2, 3)}


def _attention(
    q: Any, k: Any, v: Any, bias: Any = None, cap: float = 0.0, scale: float | None = None
) -> tuple[Any, Any]:
    """The operator's formula on [N, h, L, d], for what PyTorch's has no option for."""
    groups = q.shape[1] // k.shape[1]
    k, v = (t.repeat_interleave(groups, 1) for t in (k, v))
    logits = q @ k.mT * (q.shape[-1] ** -0.5 if scale is None else scale)
    if cap:
        logits = cap * torch.tanh(logits / cap)
    if bias is not None:
        logits = logits + bias
    p = logits.softmax(-1)
    return p @ v, p


def _window(left: int, right: int, rows: int, columns: int, offset: int = 0) -> Any:
    ahead = torch.arange(columns)[None] - torch.arange(rows)[:, None] - offset
    seen = (ahead <= right) & (ahead >= -left)
    return torch.where(seen, 0.0, -torch.inf).double()


def _heads(t: Any, heads: int) -> Any:
    return t.unflatten(2, (heads, -1)).transpose(1, 2)


def _flat(q: Any, k: Any, v: Any, heads: int, groups: int, **more: Any) -> Any:
    q, k, v = _heads(q, heads), _heads(k, groups), _heads(v, groups)
    y = F.scaled_dot_product_attention(q, k, v, enable_gqa=True, **more)
    return y.transpose(1, 2).flatten(2)


def _seen(*rows: str) -> Array:
    return np.array([[c == "x" for c in row] for row in rows])


def _row(name: str, attributes: str, shapes: Any, function: Any, **more: Any) -> Row:
    more.setdefault("opsets", (23, 24))
    inputs = more.pop("order", ", ".join(shapes))
    text = f"y = Attention{attributes}({inputs})"
    return Row("Attention", name, more.pop("text", text), shapes, function, **more)


_BOOL = _seen("x.xx.", ".xx..", "xxxxx")

ROWS = [
    _row("plain", "", SHAPES, F.scaled_dot_product_attention if torch else None),
    _row("scaled", "<scale=0.3>", SHAPES, lambda q, k, v: _attention(q, k, v, scale=0.3)[0]),
    _row(
        "3-D",
        "<q_num_heads=2, kv_num_heads=2>",
        FLAT,
        lambda q, k, v: _flat(q, k, v, 2, 2),
    ),
    _row(
        "3-D of any batch and length",
        "<q_num_heads=2, kv_num_heads=2>",
        FLAT,
        lambda q, k, v: _flat(q, k, v, 2, 2),
        dims={"q": ("N", "L", 8), "k": ("N", "S", 8), "v": ("N", "S", 6)},
    ),
    _row(
        "of any batch and length",
        "",
        SHAPES,
        lambda q, k, v: F.scaled_dot_product_attention(q, k, v),
        dims={"q": ("N", 2, "L", 4), "k": ("N", 2, "S", 4), "v": ("N", 2, "S", 3)},
    ),
    _row(
        "grouped queries",
        "",
        GROUPED,
        lambda q, k, v: F.scaled_dot_product_attention(q, k, v, enable_gqa=True),
    ),
    _row(
        "grouped queries of any length, 3-D",
        "<q_num_heads=4, kv_num_heads=2>",
        {"q": (2, 3, 8), "k": (2, 3, 4), "v": (2, 3, 6)},
        lambda q, k, v: _flat(q, k, v, 4, 2),
        dims={"q": ("N", "L", 8), "k": ("N", "L", 4), "v": ("N", "L", 6)},
    ),
    _row(
        "causal",
        "<is_causal=1>",
        {"q": (2, 2, 4, 3), "k": (2, 2, 4, 3), "v": (2, 2, 4, 3)},
        lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True),
        opsets=(23, 24),
    ),
    _row(
        "causal of any length",
        "<is_causal=1>",
        {"q": (2, 2, 4, 3), "k": (2, 2, 4, 3), "v": (2, 2, 4, 3)},
        lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True),
        dims={n: ("N", 2, "L", 3) for n in "qkv"},
    ),
    _row(
        "mask",
        "",
        {**SHAPES, "m": (1, 2, 3, 5)},
        lambda q, k, v, m: F.scaled_dot_product_attention(q, k, v, m),
    ),
    _row(
        "mask of two axes",
        "",
        {**SHAPES, "m": (3, 5)},
        lambda q, k, v, m: F.scaled_dot_product_attention(q, k, v, m),
    ),
    _row(
        "boolean mask",
        "",
        {**SHAPES, "m": _BOOL},
        lambda q, k, v, m: F.scaled_dot_product_attention(q, k, v, m),
    ),
    _row(
        "constant mask",
        "",
        SHAPES,
        lambda q, k, v: F.scaled_dot_product_attention(q, k, v, torch.tensor(_BOOL)),
        consts={"m": _BOOL},
        order="q, k, v, m",
    ),
    _row(
        "softcap",
        "<softcap=1.5>",
        {**SHAPES, "m": (2, 1, 3, 5)},
        lambda q, k, v, m: _attention(q, k, v, m, cap=1.5)[0],
    ),
    _row(
        "past",
        "",
        PAST,
        lambda q, k, v, pk, pv: F.scaled_dot_product_attention(
            q, torch.cat([pk, k], 2), torch.cat([pv, v], 2)
        ),
        text="y, a, b = Attention(q, k, v, , pk, pv)",
        runtime=False,  # ONNX Runtime wants what is present used where there is a past
    ),
    _row(
        "past, causal",
        "",
        PAST,
        lambda q, k, v, pk, pv: _attention(
            q, torch.cat([pk, k], 2), torch.cat([pv, v], 2), _window(9, 0, 3, 7, offset=2)
        )[0],
        text="y, a, b = Attention<is_causal=1>(q, k, v, , pk, pv)",
        runtime=False,  # as above
        dims={
            n: ("N", 2, "P" if n[0] == "p" else "L" if n == "q" else "S", s[3])
            for n, s in PAST.items()
        },
    ),
    _row(
        "what is present, 3-D",
        "",
        {"q": (2, 3, 8), "k": (2, 4, 4), "v": (2, 4, 6), "pk": (2, 2, 2, 2), "pv": (2, 2, 2, 3)},
        lambda q, k, v, pk, pv: (
            lambda kk, vv: (
                _attention(_heads(q, 4), kk, vv)[0].sum() * kk + (vv * vv).sum(-1, keepdim=True)
            )
        )(torch.cat([pk, _heads(k, 2)], 2), torch.cat([pv, _heads(v, 2)], 2)),
        text="""o, a, b = Attention<q_num_heads=4, kv_num_heads=2>(q, k, v, , pk, pv)
        s = ReduceSum<keepdims=0>(o)
        c = Mul(s, a)
        d = Mul(b, b)
        last = Constant<value_ints=[-1]>()
        f = ReduceSum(d, last)
        y = Add(c, f)""",
    ),
    _row(
        "products out",
        "",
        SHAPES,
        lambda q, k, v: (lambda o, r: r * r * o.sum(-1, keepdim=True))(
            _attention(q, k, v)[0], q @ k.mT / 2
        ),
        text="""o, a, b, r = Attention(q, k, v)
        last = Constant<value_ints=[-1]>()
        s = ReduceSum(o, last)
        t = Mul(r, r)
        y = Mul(t, s)""",
    ),
    _row(
        "probabilities out",
        "",
        {"q": SHAPES["q"], "k": SHAPES["k"]},
        lambda q, k: _attention(q, k, k)[1],
        text="o, a, b, y = Attention<qk_matmul_output_mode=3>(q, k, k)",
    ),
    _row(
        "padded keys",
        "",
        {**SHAPES, "n": np.array([5, 2])},
        lambda q, k, v, n: _attention(
            q, k, v, torch.where(torch.arange(5) < n[:, None, None, None], 0.0, -torch.inf).double()
        )[0],
        text="y = Attention(q, k, v, , , , n)",
        opsets=(24,),
    ),
    _row(
        "window",
        "<left_window_size=1, right_window_size=2>",
        SHAPES,
        lambda q, k, v: _attention(q, k, v, _window(1, 2, 3, 5))[0],
        opsets=(25,),
        runtime=False,  # ONNX Runtime 1.32 ends at version 24
    ),
    Row(
        "RotaryEmbedding",
        "4-D",
        "y = RotaryEmbedding(x, c, s, p)",
        {"x": (2, 2, 3, 4), "p": np.array([[0, 2, 1], [3, 1, 0]])},
        lambda x, p: _rotated(x, p),
        consts={
            "c": np.cos(np.arange(8.0).reshape(4, 2)),
            "s": np.sin(np.arange(8.0).reshape(4, 2)),
        },
        opsets=(23,),
    ),
    Row(
        "RotaryEmbedding",
        "3-D, interleaved, in part",
        "y = RotaryEmbedding<interleaved=1, num_heads=2, rotary_embedding_dim=4>(x, c, s, p)",
        {"x": (2, 3, 12), "p": np.array([[0, 2, 1], [3, 1, 0]])},
        lambda x, p: _rotated(_heads(x, 2), p, True).transpose(1, 2).flatten(2),
        consts={
            "c": np.cos(np.arange(8.0).reshape(4, 2)),
            "s": np.sin(np.arange(8.0).reshape(4, 2)),
        },
        opsets=(23,),
    ),
]


def _rotated(x: Any, p: Any, interleaved: bool = False) -> Any:
    angle = torch.arange(8.0).double().reshape(4, 2)[p][:, None]
    first, rest = x[..., :4], x[..., 4:]
    a, b = (first[..., 0::2], first[..., 1::2]) if interleaved else (first[..., :2], first[..., 2:])
    pair = (a * angle.cos() - b * angle.sin(), a * angle.sin() + b * angle.cos())
    turned = torch.stack(pair, -1).flatten(-2) if interleaved else torch.cat(pair, -1)
    return torch.cat([turned, rest], -1)


_TWO = np.array([[[[1.0], [2.0]]]])

EXACT = [
    # The first query sees no key: nothing flows back from it; the second sees the first key alone.
    Exact(
        "Attention",
        f"a row that sees no key, {name}",
        f"y = Attention{attributes}(q, k, v{mask})",
        {"q": _TWO, "k": _TWO, "v": _TWO},
        ct=np.array([[[[3.0], [5.0]]]]),
        want={"q": 0 * _TWO, "k": 0 * _TWO, "v": np.array([[[[5.0], [0.0]]]])},
        opset=opset,
        consts={"m": seen} if mask else {},
        double=True,
    )
    for name, attributes, mask, seen, opset in (
        ("boolean", "", ", m", _seen("..", "x."), 23),
        ("by numbers", "", ", m", np.array([[-np.inf, -np.inf], [0, -np.inf]]), 24),
    )
]
