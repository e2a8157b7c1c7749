"""A recurrent node as its rule sees it: inputs and states step by step, and the way back.

Everything is [T, D, N, width], in the order that each of the D directions takes the steps in.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import onnx_ir as ir

from . import Emitter, Op
from .crop import FIRST
from .shape import INT64, even_parts, zeros_like

# Inputs; GRU and RNN end before the cell's.
X, W, R, B, LENGTHS, H, C, P = range(8)

Apply = Callable[[Emitter, ir.Value], ir.Value]


# A layer is unrolled.
MOST_STEPS = 4096


@dataclass(frozen=True)
class _Activation:
    """A function of a gate, and its derivative from what it gave."""

    apply: Apply
    slope: Apply


def _activation(name: str, alpha: float, beta: float) -> _Activation | None:
    """By ONNX's name, in any case; None for one without a rule."""
    table: dict[str, tuple[Apply, Apply]] = {
        "sigmoid": (lambda e, a: e.Sigmoid(a), lambda e, y: e.Mul(y, e.Sub(1.0, y))),
        "tanh": (lambda e, a: e.Tanh(a), lambda e, y: e.Sub(1.0, e.Mul(y, y))),
        "relu": (lambda e, a: e.Relu(a), lambda e, y: e.cast(e.Greater(y, 0.0), y.dtype)),
        "affine": (
            lambda e, a: e.Add(e.Mul(a, alpha), beta),
            lambda e, y: e.Where(e.Equal(y, y), alpha, y, _dtype=y.dtype),
        ),
        "leakyrelu": (
            lambda e, a: e.LeakyRelu(a, alpha=alpha),
            lambda e, y: e.Where(e.Greater(y, 0.0), 1.0, alpha, _dtype=y.dtype),
        ),
        "hardsigmoid": (
            lambda e, a: e.HardSigmoid(a, alpha=alpha, beta=beta),
            lambda e, y: e.Where(
                e.And(e.Greater(y, 0.0), e.Less(y, 1.0)), alpha, 0.0, _dtype=y.dtype
            ),
        ),
        "elu": (
            lambda e, a: e.Elu(a, alpha=alpha),
            lambda e, y: e.Where(e.Greater(y, 0.0), 1.0, e.Add(y, alpha), _dtype=y.dtype),
        ),
        "softsign": (
            lambda e, a: e.Softsign(a),
            lambda e, y: (lambda rest: e.Mul(rest, rest))(e.Sub(1.0, e.Abs(y))),
        ),
    }
    found = table.get(name.lower())
    return None if found is None else _Activation(*found)


# The numbers of those that take any, where the node gives none.
_ALPHA = {"affine": 1.0, "leakyrelu": 0.01, "hardsigmoid": 0.2, "elu": 1.0}
_BETA = {"affine": 0.0, "hardsigmoid": 0.5}


class Layer:
    """A recurrent node: its inputs and states step by step, and the way back from there."""

    def __init__(self, e: Emitter, op: Op, gates: int, functions: tuple[str, ...]) -> None:
        self.e, self.op, self.gates = e, op, gates
        self.batch_first = bool(op.attr("layout", 0))
        direction = str(op.attr("direction", "forward"))
        self.both, self.reverse = direction == "bidirectional", direction == "reverse"
        self.directions = 2 if self.both else 1
        steps = op.dims()[1 if self.batch_first else 0]
        if steps is None:
            raise op.unsupported("a sequence of unknown length", "a fixed length (--shape)")
        if not steps:
            raise op.unsupported("a sequence of no steps", "one step at least")
        if steps > MOST_STEPS:
            raise op.unsupported(
                f"a sequence of {steps} steps, each of which is a few nodes",
                f"{MOST_STEPS} at most",
            )
        self.steps = steps
        for name, plain in (("clip", None), ("input_forget", 0)):
            if op.attr(name, plain) != plain:
                raise op.unsupported(f"{name} = {op.attr(name)}", f"no {name}")
        self.functions = self._activations(functions)

    def _activations(self, default: tuple[str, ...]) -> tuple[_Activation, ...]:
        op, count = self.op, len(default)
        names = op.attr("activations") or default * self.directions
        alphas, betas = (list(op.attr(f"activation_{k}", ())) for k in ("alpha", "beta"))
        each: list[tuple[str, float, float]] = []
        for name in names:
            key = name.lower()
            alpha, beta = _ALPHA.get(key, 0.0), _BETA.get(key, 0.0)
            if key in _ALPHA and alphas:
                alpha = float(alphas.pop(0))
            if key in _BETA and betas:
                beta = float(betas.pop(0))
            each.append((name, alpha, beta))
        if each[:count] != each[-count:]:
            raise op.unsupported("its directions have different activations", "the same in both")
        found = [_activation(*one) for one in each[:count]]
        if len(found) < count or None in found:
            raise op.unsupported(
                f"activations = {list(names)}",
                "Sigmoid, Tanh, Relu, HardSigmoid, LeakyRelu, Elu, Softsign, Affine",
            )
        return tuple(f for f in found if f is not None)

    @cached_property
    def lengths(self) -> ir.Value | None:
        """int64 [N]: how many steps each row has; None where all have all."""
        given, known = self.op.input(LENGTHS), self.op.const(LENGTHS)
        if given is None or (known is not None and (known == self.steps).all()):
            return None
        return self.e.cast(given, INT64)

    @cached_property
    def real(self) -> ir.Value | None:
        """bool [T, 1, N, 1]: whether a row has this step; None where all have all."""
        if self.lengths is None:
            return None
        steps = self.e.const(np.arange(self.steps, dtype=np.int64)[:, None, None, None])
        return self.e.Less(steps, self.e.Reshape(self.lengths, [1, 1, -1, 1]))

    def masked(self, value: ir.Value, other: float = 0.0) -> ir.Value:
        """The value at steps that a row has, elsewhere another."""
        if self.real is None:
            return value
        return self.e.Where(self.real, value, other, _dtype=value.dtype)

    def _flipped(self, value: ir.Value) -> ir.Value:
        """[T, 1, N, w] backwards, each row over the steps that it has."""
        e = self.e
        if self.lengths is None:
            return e.Slice(value, [-1], [FIRST], [0], [-1])
        flat = e.Squeeze(value, [1])
        turned = e.ReverseSequence(flat, self.lengths, time_axis=0, batch_axis=1)
        return e.Unsqueeze(turned, [1])

    def ordered(self, value: ir.Value) -> ir.Value:
        """[T, D, N, w] from the order of time to that of the steps, or back."""
        if self.reverse:
            return self._flipped(value)
        if not self.both:
            return value
        first, second = even_parts(self.e, value, 1, 2)
        return self.e.op("Concat", [first, self._flipped(second)], axis=1)[0]

    @cached_property
    def x(self) -> ir.Value:
        """The input, once for each direction."""
        e = self.e
        x = e.Transpose(self.op.x, perm=[1, 0, 2]) if self.batch_first else self.op.x
        x = e.Unsqueeze(x, [1])
        if self.both:
            x = e.op("Concat", [x, x], axis=1)[0]
        return self.ordered(x)

    def state(self, index: int) -> ir.Value:
        """The first state, [1, D, N, H]: an input, or zeros."""
        given = self.op.input(index)
        if given is None:
            return zeros_like(self.e, self.e.Slice(self.h, [0], [1], [0]))
        return self._from_state(given)

    def _from_state(self, value: ir.Value) -> ir.Value:
        if self.batch_first:
            value = self.e.Transpose(value, perm=[1, 0, 2])
        return self.e.Unsqueeze(value, [0])

    def to_state(self, ct: ir.Value) -> ir.Value:
        """A cotangent of a first state, as the node has that."""
        ct = self.e.Squeeze(ct, [0])
        return self.e.Transpose(ct, perm=[1, 0, 2]) if self.batch_first else ct

    def _from_y(self, value: ir.Value) -> ir.Value:
        if self.batch_first:  # [N, T, D, H]
            value = self.e.Transpose(value, perm=[1, 2, 0, 3])
        return self.ordered(value)

    @cached_property
    def h(self) -> ir.Value:
        """The state after each step."""
        y = self.op.y
        if not y.name:  # nobody asked for it: the layer once more
            node = self.op.node
            attributes = {a.name: a.value for a in node.attributes.values()}
            y = self.e.op(node.op_type, node.inputs, **attributes)[0]
        return self._from_y(y)

    @cached_property
    def before(self) -> ir.Value:
        """The state before each step."""
        return self.shifted(self.state(H), self.h)

    def shifted(self, first: ir.Value, states: ir.Value) -> ir.Value:
        """`first`, then all states but the last."""
        if self.steps == 1:
            return first
        return self.e.op("Concat", [first, self.e.Slice(states, [0], [-1], [0])], axis=0)[0]

    def product(self, value: ir.Value, index: int) -> ir.Value:
        """[T, D, N, w] by all rows of W or R."""
        return self.e.MatMul(value, self.e.Transpose(self.op.need(index), perm=[0, 2, 1]))

    def biases(self) -> tuple[ir.Value, ir.Value] | None:
        """Those of W and of R, [D, 1, gates H] each."""
        given = self.op.input(B)
        if given is None:
            return None
        w, r = even_parts(self.e, given, 1, 2)
        return self.e.Unsqueeze(w, [1]), self.e.Unsqueeze(r, [1])

    def summed(self) -> ir.Value:
        """What W and R give together, biases and all: [T, D, N, gates H]."""
        total = self.e.Add(self.product(self.x, W), self.product(self.before, R))
        for bias in self.biases() or ():
            total = self.e.Add(total, bias)
        return total

    def parted(self, value: ir.Value, count: int | None = None) -> list[ir.Value]:
        """Gate by gate."""
        return even_parts(self.e, value, 3, count or self.gates)

    def joined(self, *parts: ir.Value) -> ir.Value:
        """Gates side by side."""
        return self.e.op("Concat", parts, axis=3)[0] if len(parts) > 1 else parts[0]

    def each(self, value: ir.Value) -> list[ir.Value]:
        """Step by step: T times [1, D, N, w]."""
        return even_parts(self.e, value, 0, self.steps)

    def line(self, steps: list[ir.Value]) -> ir.Value:
        """The opposite of `each`."""
        return self.e.op("Concat", steps, axis=0)[0] if len(steps) > 1 else steps[0]

    def cotangents(self, ct: ir.Value | None) -> list[ir.Value | None]:
        """Y's cotangent, step by step."""
        if ct is None:
            return [None] * self.steps
        return list(self.each(self.masked(self._from_y(ct))))

    def last(self, ct: ir.Value | None) -> ir.Value | None:
        """The cotangent of a last state, [1, D, N, H]."""
        return None if ct is None else self._from_state(ct)

    def added(self, a: ir.Value | None, b: ir.Value | None) -> ir.Value:
        """The sum of what is there."""
        if a is None or b is None:
            found = a if b is None else b
            return (
                zeros_like(self.e, self.e.Slice(self.h, [0], [1], [0])) if found is None else found
            )
        return self.e.Add(a, b)

    def held(self) -> list[ir.Value] | None:
        """1 where a row's step is none and hands its state on, step by step."""
        if self.real is None:
            return None
        return self.each(self.e.cast(self.e.Not(self.real), self.op.x.dtype))

    def outer(self, d: ir.Value, by: ir.Value) -> ir.Value:
        """[T, D, N, a] and [T, D, N, b] -> [D, a, b], summed over steps and rows."""
        e = self.e
        rows = e.Transpose(d, perm=[1, 3, 0, 2])
        columns = e.Transpose(by, perm=[1, 0, 2, 3])
        rows = e.Reshape(rows, [0, 0, -1])
        columns = e.Reshape(columns, e.const([self.directions, -1, self._width(by)]))
        return e.MatMul(rows, columns)

    def _width(self, value: ir.Value) -> int:
        index = W if value is self.x else R
        width = self.op.dims(self.op.need(index))[2]
        if width is None:
            raise self.op.unsupported("weights of unknown size", "fixed sizes")
        return width

    def given(
        self, d_w: ir.Value, d_r: ir.Value, first: ir.Value, d_recurrent: ir.Value | None = None
    ) -> list[ir.Value | None]:
        """The cotangents of the inputs up to the first state.

        d_w, d_r: [T, D, N, gates H], of what W and what R give. first: of the first state.
        d_recurrent: R's own, where it isn't d_r by the states.
        """
        e, op = self.e, self.op
        found: list[ir.Value | None] = [None] * len(op)
        if op.wants[X]:
            d_x = self.ordered(e.MatMul(d_w, op.need(W)))
            d_x = e.ReduceSum(d_x, [1], keepdims=0)
            d_x = e.Transpose(d_x, perm=[1, 0, 2]) if self.batch_first else d_x
            d_x.shape = op.x.shape
            found[X] = d_x
        if op.wants[W]:
            found[W] = self.outer(d_w, self.x)
        if op.wants[R]:
            found[R] = self.outer(d_r, self.before) if d_recurrent is None else d_recurrent
        if len(op) > B and op.wants[B]:
            sums = [e.ReduceSum(d, [0, 2], keepdims=0) for d in (d_w, d_r)]
            found[B] = e.op("Concat", sums, axis=1)[0]
        if len(op) > H and op.wants[H]:
            found[H] = self.to_state(first)
        for value, ct in zip(op.node.inputs, found, strict=True):
            if ct is not None and value is not None:
                ct.shape = value.shape
        return found
