"""LSTM, GRU and RNN: PyTorch's own where it has the form, else its autograd through the formula."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..harness import Array, Exact, Row, signed

try:
    import torch
except ImportError:  # the rows' torch functions are then not called
    torch = None  # type: ignore[assignment]

OPSETS = (7, 14, 22)
GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}


def _small(rng: np.random.Generator, shape: Any) -> Array:
    return signed(rng, shape) * 0.5


def _shapes(op: str, steps: int = 3, sides: int = 1, states: bool = False) -> dict[str, Any]:
    n, i, h = 2, 2, 3
    shapes: dict[str, Any] = {
        "x": (steps, n, i),
        "w": (sides, GATES[op] * h, i),
        "r": (sides, GATES[op] * h, h),
        "b": (sides, 2 * GATES[op] * h),
    }
    if states:
        shapes["h"] = (sides, n, h)
        if op == "LSTM":
            shapes["c"] = (sides, n, h)
    return shapes


def _step(op: str, f: Any, x: Any, h: Any, c: Any, w: Any, r: Any, b: Any, after: bool) -> Any:
    if op == "RNN":
        return f[0](x @ w.T + h @ r.T + b[:3] + b[3:]), c
    if op == "LSTM":
        i, o, keep, new = (x @ w.T + h @ r.T + b[:12] + b[12:]).chunk(4, -1)
        c = f[0](keep) * c + f[0](i) * f[1](new)
        return f[0](o) * f[2](c), c
    wz, wr, wg = (x @ w.T + b[:9]).chunk(3, -1)
    rz, rr, rg = (h @ r.T + b[9:]).chunk(3, -1)
    z, reset = f[0](wz + rz), f[0](wr + rr)
    if not after:
        rg = (reset * h) @ r[6:].T + b[15:]
    new = f[1](wg + reset * rg if after else wg + rg)
    return (1 - z) * new + z * h, c


def layer(
    op: str,
    direction: str = "forward",
    functions: Any = None,
    lengths: Any = None,
    after: bool = False,
    out: str = "y",
) -> Callable[..., Any]:
    """A layer by PyTorch's operations. out: y, h or c, or "all" for y h c weighed and summed."""

    def run(x: Any, w: Any, r: Any, b: Any = None, h: Any = None, c: Any = None) -> Any:
        f = functions or ((torch.tanh,) if op == "RNN" else (torch.sigmoid, torch.tanh, torch.tanh))
        steps, rows, width = x.shape[0], x.shape[1], r.shape[2]
        many = torch.full((rows,), steps) if lengths is None else torch.tensor(lengths)
        zeros = torch.zeros(w.shape[0], rows, width, dtype=x.dtype)
        h, c = (zeros if h is None else h), (zeros if c is None else c)
        b = torch.zeros(w.shape[0], 2 * w.shape[1], dtype=x.dtype) if b is None else b
        ys, hs, cs = [], [], []
        for side in range(w.shape[0]):
            now, cell, y = h[side], c[side], [None] * steps
            back = direction == "reverse" or side == 1
            for t in reversed(range(steps)) if back else range(steps):
                one = (w[side], r[side], b[side], after)
                made, new = _step(op, f, x[t], now, cell, *one)
                there = (t < many)[:, None]
                now, cell = torch.where(there, made, now), torch.where(there, new, cell)
                y[t] = torch.where(there, made, 0.0)
            ys, hs, cs = [*ys, torch.stack(y)], [*hs, now], [*cs, cell]
        whole = {"y": torch.stack(ys, 1), "h": torch.stack(hs), "c": torch.stack(cs)}
        if out != "all":
            return whole[out]
        total = whole["y"] * whole["h"][None]
        return total + whole["c"][None] if op == "LSTM" else total

    return run


def _row(op: str, name: str, attributes: str = "", **more: Any) -> Row:
    more.setdefault("opsets", OPSETS)
    more.setdefault("sample", _small)
    shapes = more.pop("shapes", None) or _shapes(op)
    inputs = more.pop("order", "x, w, r, b")
    made = ", ".join(["hidden_size=3", *([attributes] if attributes else [])]).replace("'", '"')
    function = more.pop("torch", None) or layer(op)
    text = more.pop("text", None) or f"y = {op}<{made}>({inputs})"
    return Row(op, name, text, shapes, function, **more)


def _native(op: str, direction: str = "forward") -> Callable[..., Any]:
    """PyTorch's own layer, whose gates stand in another order."""
    order = {"LSTM": (0, 2, 3, 1), "GRU": (1, 0, 2), "RNN": (0,)}[op]

    def run(x: Any, w: Any, r: Any, b: Any) -> Any:
        sides = w.shape[0]
        moved = [torch.cat([p.chunk(len(order), 1)[i] for i in order], 1) for p in (w, r)]
        both = [torch.cat([p.chunk(len(order), 1)[i] for i in order], 1) for p in b.chunk(2, 1)]
        flat = [t[side] for side in range(sides) for t in (*moved, *both)]
        zeros = torch.zeros(sides, x.shape[1], r.shape[2], dtype=x.dtype)
        start = (zeros, zeros) if op == "LSTM" else zeros
        call = {"LSTM": torch.lstm, "GRU": torch.gru, "RNN": torch.rnn_tanh}[op]
        y = call(x, start, flat, True, 1, 0.0, False, sides == 2, False)[0]
        return y.unflatten(2, (sides, -1)).transpose(1, 2)

    return run


def _all_outputs(op: str, attributes: str, inputs: str) -> str:
    node = f"{op}<hidden_size=3{attributes}>({inputs})".replace("'", '"')
    if op == "LSTM":
        return f"o, h1, c = {node} u = Mul(o, h1) y = Add(u, c)"
    return f"o, h1 = {node} y = Mul(o, h1)"


def _common(op: str) -> list[Row]:
    """What the three have in common."""
    after = "linear_before_reset=1" if op == "GRU" else ""
    more = f", {after}" if after else ""
    bi = _shapes(op, sides=2, states=True)
    states = "h, c" if op == "LSTM" else "h"
    names = {"h": "h0", "c": "c0"}
    inputs = f"x, w, r, b, , {', '.join(names[s] for s in states.split(', '))}"

    def renamed(shapes: dict[str, Any]) -> dict[str, Any]:
        return {names.get(n, n): s for n, s in shapes.items()}

    lengths = np.array([3, 1], np.int32)
    return [
        _row(op, "PyTorch's own", after, torch=_native(op)),
        _row(
            op,
            "PyTorch's own, both directions",
            "direction='bidirectional'" + more,
            shapes=_shapes(op, sides=2),
            torch=_native(op),
        ),
        _row(
            op,
            "reverse",
            "direction='reverse'",
            torch=layer(op, "reverse"),
        ),
        _row(
            op,
            "all inputs and outputs, both directions",
            shapes=renamed(bi),
            text=_all_outputs(op, ", direction='bidirectional'", inputs),
            torch=layer(op, out="all"),
        ),
        _row(
            op,
            "last state alone",
            text=f", y = {op}<hidden_size=3>(x, w, r)",
            shapes={n: s for n, s in _shapes(op).items() if n != "b"},
            torch=layer(op, out="h"),
        ),
        _row(op, "one step", shapes=_shapes(op, steps=1)),
        _row(
            op,
            "any batch",
            shapes=renamed(_shapes(op, states=True)),
            order=inputs,
            dims={"x": (3, "N", 2), "h0": (1, "N", 3), "c0": (1, "N", 3)},
        ),
        _row(
            op,
            "rows of different length, both directions",
            shapes=renamed(bi),
            consts={"n": lengths},
            text=_all_outputs(op, ", direction='bidirectional'", inputs.replace("b, ,", "b, n,")),
            torch=layer(op, lengths=lengths, out="all"),
        ),
        _row(
            op,
            "rows of the same length",
            consts={"n": np.array([3, 3], np.int32)},
            order="x, w, r, b, n",
        ),
        _row(
            op,
            "batch first",
            "layout=1",
            shapes={**_shapes(op), "x": (2, 3, 2)},
            torch=lambda x, *rest: layer(op)(x.swapaxes(0, 1), *rest).permute(2, 0, 1, 3),
            opsets=(14, 22),
            runtime=False,  # ONNX Runtime has no layout = 1
        ),
        _row(
            op,
            "batch first, with states",
            shapes={
                n: (s[1], s[0], s[2]) if n in ("x", "h0", "c0") else s
                for n, s in renamed(_shapes(op, states=True)).items()
            },
            text=f"o, y = {op}<hidden_size=3, layout=1>({inputs})",
            torch=lambda x, w, r, b, *s: layer(op, out="h")(
                x.swapaxes(0, 1), w, r, b, *(v.swapaxes(0, 1) for v in s)
            ).swapaxes(0, 1),
            opsets=(22,),
            runtime=False,  # as above
        ),
    ]


def _hard(a: Any) -> Any:
    return (0.3 * a + 0.4).clamp(0, 1)


ROWS = [
    *_common("LSTM"),
    *_common("GRU"),
    *_common("RNN"),
    _row(
        "LSTM",
        "other activations",
        "activations=['HardSigmoid','Softsign','Elu'], "
        "activation_alpha=[0.3, 1.5], activation_beta=[0.4]",
        torch=layer(
            "LSTM",
            functions=(
                _hard,
                lambda a: a / (1 + a.abs()),
                lambda a: torch.where(a > 0, a, 1.5 * torch.expm1(a)),
            ),
        ),
    ),
    _row(
        "LSTM",
        "last cell alone",
        text="o, h1, y = LSTM<hidden_size=3>(x, w, r, b)",
        torch=layer("LSTM", out="c"),
    ),
    _row("GRU", "reset before", "linear_before_reset=1", torch=layer("GRU", after=True)),
    _row(
        "GRU",
        "reset before, rows of different length, reverse",
        "linear_before_reset=1, direction='reverse'",
        consts={"n": np.array([2, 3], np.int32)},
        order="x, w, r, b, n",
        torch=layer("GRU", "reverse", lengths=[2, 3], after=True),
    ),
    _row(
        "RNN",
        "rectified",
        "activations=['Relu']",
        torch=layer("RNN", functions=(lambda a: a.clamp(min=0),)),
    ),
    _row(
        "RNN",
        "leaky and affine, both directions alike",
        "direction='bidirectional', activations=['LeakyRelu','LeakyRelu'], "
        "activation_alpha=[0.2, 0.2]",
        shapes=_shapes("RNN", sides=2),
        torch=layer("RNN", functions=(lambda a: torch.where(a > 0, a, 0.2 * a),)),
    ),
    _row(
        "RNN",
        "affine",
        "activations=['Affine'], activation_alpha=[0.7], activation_beta=[0.2]",
        torch=layer("RNN", functions=(lambda a: 0.7 * a + 0.2,)),
    ),
]
EXACT: list[Exact] = []
