"""LSTM, GRU and RNN step by step in NumPy, as the standard's text has them: ONNX's own reference
evaluator knows no activations but the default ones and no sequence_lens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from onnx.reference.op_run import OpRun

Array = np.ndarray[Any, Any]
State = tuple[Array, ...]


def _function(name: str, alpha: float, beta: float) -> Callable[[Array], Array]:
    return {
        "sigmoid": lambda a: 1 / (1 + np.exp(-a)),
        "tanh": np.tanh,
        "relu": lambda a: np.maximum(a, 0),
        "affine": lambda a: alpha * a + beta,
        "leakyrelu": lambda a: np.where(a > 0, a, alpha * a),
        "hardsigmoid": lambda a: np.clip(alpha * a + beta, 0, 1),
        "elu": lambda a: np.where(a > 0, a, alpha * (np.exp(a) - 1)),
        "softsign": lambda a: a / (1 + np.abs(a)),
    }[name.lower()]


class _Recurrent(OpRun):
    op_domain = ""
    gates = 1
    default: tuple[str, ...] = ("Tanh",)

    def step(self, f: Sequence[Any], x: Array, s: State, w: Array, r: Array, b: Array) -> State:
        raise NotImplementedError

    def _run(self, x: Array, w: Array, r: Array, *rest: Array | None, **more: Any) -> Any:
        b, lengths, h, c = (*rest, *[None] * 4)[:4]
        x = x.swapaxes(0, 1) if more.get("layout") else x
        steps, rows = x.shape[:2]
        sides, _, width = r.shape
        if b is None:
            b = np.zeros((sides, 2 * self.gates * width), x.dtype)
        lengths = np.full(rows, steps) if lengths is None else lengths
        functions = self._functions(sides, more)
        y = np.zeros((steps, sides, rows, width), x.dtype)
        ends = np.zeros((2, sides, rows, width), x.dtype)
        for side in range(sides):
            back = more.get("direction") == "reverse" or side == 1
            for n in range(rows):
                state: State = tuple(
                    np.zeros(width, x.dtype)
                    if v is None
                    else (v[n, side] if more.get("layout") else v[side, n])
                    for v in (h, c)
                )
                order = range(int(lengths[n]))
                for t in reversed(order) if back else order:
                    state = self.step(functions[side], x[t, n], state, w[side], r[side], b[side])
                    y[t, side, n] = state[0]
                ends[:, side, n] = state
        if more.get("layout"):
            y, ends = y.transpose(2, 0, 1, 3), ends.swapaxes(1, 2)
        return (y, *ends)[: len(self.onnx_node.output)]

    def _functions(self, sides: int, more: Any) -> list[list[Any]]:
        names = more.get("activations") or list(self.default) * sides
        alpha, beta = (list(more.get(f"activation_{k}") or ()) for k in ("alpha", "beta"))
        made = []
        for name in names:
            takes = name.lower() in ("affine", "leakyrelu", "hardsigmoid", "elu")
            a = (
                alpha.pop(0)
                if takes and alpha
                else {"LeakyRelu": 0.01, "HardSigmoid": 0.2}.get(name, 1.0)
            )
            both = name.lower() in ("affine", "hardsigmoid")
            c = beta.pop(0) if both and beta else 0.5 if name == "HardSigmoid" else 0.0
            made.append(_function(name, a, c))
        each = len(self.default)
        return [made[i * each : (i + 1) * each] for i in range(sides)]


class RNN(_Recurrent):
    def step(self, f: Sequence[Any], x: Array, s: State, w: Array, r: Array, b: Array) -> State:
        return f[0](w @ x + r @ s[0] + sum(np.split(b, 2))), s[1]


class LSTM(_Recurrent):
    gates = 4
    default = ("Sigmoid", "Tanh", "Tanh")

    def step(self, f: Sequence[Any], x: Array, s: State, w: Array, r: Array, b: Array) -> State:
        i, o, keep, new = np.split(w @ x + r @ s[0] + sum(np.split(b, 2)), 4)
        c = f[0](keep) * s[1] + f[0](i) * f[1](new)
        return f[0](o) * f[2](c), c


class GRU(_Recurrent):
    gates = 3
    default = ("Sigmoid", "Tanh")

    def _run(self, *inputs: Any, **more: Any) -> Any:
        self.after = bool(more.get("linear_before_reset"))
        return super()._run(*inputs, **more)

    def step(self, f: Sequence[Any], x: Array, s: State, w: Array, r: Array, b: Array) -> State:
        h = s[0]
        (wz, wr, wg), (rz, rr, rg), b = np.split(w @ x, 3), np.split(r, 3), np.split(b, 6)
        z, reset = f[0](wz + rz @ h + b[0] + b[3]), f[0](wr + rr @ h + b[1] + b[4])
        inner = reset * (rg @ h + b[5]) if self.after else rg @ (reset * h) + b[5]
        new = f[1](wg + inner + b[2])
        return (1 - z) * new + z * h, s[1]
