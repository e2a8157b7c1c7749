"""Attention, and the rotation of its queries and keys. Probabilities are computed again: the
operator doesn't give them out where nobody asked."""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from ..emit import dim_of
from . import Cotangents, Emitter, Op, vjp
from .shape import Amount, minus, size_of, vector

INT64 = ir.DataType.INT64
_Q, _K, _V, _MASK, _PAST_K, _PAST_V, _VALID = range(7)


@vjp("Attention", 23, 24, 25, outputs="all")
def attention(e: Emitter, op: Op, cts: Cotangents) -> Cotangents:
    """Y = P V, P = softmax(cap(scale Q K') + mask). Q: [N,h,L,d] or [N,L,h d], K, V likewise.

    Queries of a group share a head of K and V: their cotangents are summed. Past keys and values
    stand before the new ones. A row that sees no key has P = 0. Raises UnsupportedNode for the
    fourth output's middle modes, which versions number differently. ONNX Operators, Attention.
    """
    y, d_k, d_v, logits = (*cts, None, None, None)[:4]
    mode = int(op.attr("qk_matmul_output_mode", 0))
    if logits is not None and mode not in (0, 3):
        raise op.unsupported(f"qk_matmul_output_mode = {mode} is used", "0 and 3")
    queries, keys, values = _Heads(e, op, _Q), _Heads(e, op, _K), _Heads(e, op, _V)
    q = queries.value
    k, v = keys.with_past(_PAST_K), values.with_past(_PAST_V)
    many_k, many_v = _repeated(e, q, k), _repeated(e, q, v)
    scale = _scale(op, queries)
    raw = e.Mul(e.MatMul(q, e.Transpose(many_k, perm=[0, 1, 3, 2])), scale)
    raw.shape = ir.Shape([*(dim_of(_shape(q), i) for i in range(3)), dim_of(_shape(k), 2)])
    cap = float(op.attr("softcap", 0.0))
    bent = e.Tanh(e.Mul(raw, 1 / cap)) if cap else None
    total = raw if bent is None else e.Mul(bent, cap)
    p = _probabilities(e, op, total, _bias(e, op, q, k))
    d_p = d_total = None
    if y is not None:
        y = queries.split(y)
        d_p = e.MatMul(y, e.Transpose(many_v, perm=[0, 1, 3, 2]), _shape=raw.shape)
        from_y = e.MatMul(e.Transpose(p, perm=[0, 1, 3, 2]), y, _shape=many_v.shape)
        from_y = _gathered(e, from_y, q, v)
        d_v = from_y if d_v is None else e.Add(d_v, from_y, _shape=v.shape)
    if logits is not None and mode == 3:
        d_p = logits if d_p is None else e.Add(d_p, logits)
    d_raw = logits if mode == 0 else None
    if d_p is not None:
        weighed = e.Mul(d_p, p)
        d_total = e.Sub(weighed, e.Mul(p, e.ReduceSum(weighed, [-1], keepdims=1)), _shape=raw.shape)
        inner = d_total
        if bent is not None:
            inner = e.Mul(d_total, e.Sub(1.0, e.Mul(bent, bent)))
        d_raw = inner if d_raw is None else e.Add(inner, d_raw)
    d_q = None
    if d_raw is not None:
        d_raw = e.Mul(d_raw, scale, _shape=raw.shape)
        d_q = queries.join(e.MatMul(d_raw, many_k, _shape=q.shape)) if op.wants[_Q] else None
        from_q = e.MatMul(e.Transpose(d_raw, perm=[0, 1, 3, 2]), q, _shape=many_k.shape)
        from_q = _gathered(e, from_q, q, k)
        d_k = from_q if d_k is None else e.Add(d_k, from_q, _shape=k.shape)
    d_past_k, d_k = keys.without_past(d_k, _PAST_K)
    d_past_v, d_v = values.without_past(d_v, _PAST_V)
    d_mask = None
    if d_total is not None and len(op) > _MASK and op.wants[_MASK]:
        length = size_of(e, op.need(_MASK), op.rank(op.need(_MASK)) - 1)
        if length == dim_of(_shape(k), 2):
            d_mask = d_total
        else:
            shape = [*list(_shape(d_total))[:-1], length if isinstance(length, int) else None]
            d_mask = e.Slice(d_total, [0], vector(e, [length]), [3], _shape=shape)
    return (d_q, d_k, d_v, d_mask, d_past_k, d_past_v, None)[: len(op)]


class _Heads:
    """Q, K or V as [N, heads, length, width], whichever of the two layouts the node has."""

    def __init__(self, e: Emitter, op: Op, index: int) -> None:
        self.e, self.op = e, op
        self.given = op.need(index)
        self.flat = op.rank(self.given) == 3
        self.heads = int(op.attr("q_num_heads" if index == _Q else "kv_num_heads", 0))
        if self.flat and not self.heads:
            raise op.unsupported("its number of heads is missing", "a valid model")
        self.value = self.split(self.given)

    def split(self, value: ir.Value) -> ir.Value:
        """[N, L, h d] -> [N, h, L, d]."""
        if not self.flat:
            return value
        shape = _shape(value, 3)
        n, length, width = (dim_of(shape, i) for i in range(3))
        each = width // self.heads if isinstance(width, int) else None
        four = self.e.Reshape(value, [0, 0, self.heads, -1], _shape=[n, length, self.heads, each])
        return self.e.Transpose(four, perm=[0, 2, 1, 3])

    def join(self, value: ir.Value) -> ir.Value:
        """[N, h, L, d] -> as the node has it."""
        if not self.flat:
            return value
        turned = self.e.Transpose(value, perm=[0, 2, 1, 3])
        return self.e.Reshape(turned, [0, 0, -1], _shape=self.given.shape)

    def with_past(self, index: int) -> ir.Value:
        """Past keys or values, and the new ones behind them."""
        past = self.op.input(index)
        if past is None:
            return self.value
        n, heads, new, width = (dim_of(_shape(self.value), i) for i in range(4))
        old = dim_of(_shape(past), 2)
        both = old + new if isinstance(old, int) and isinstance(new, int) else None
        return self.e.op("Concat", [past, self.value], axis=2, _shape=[n, heads, both, width])[0]

    def without_past(
        self, ct: ir.Value | None, index: int
    ) -> tuple[ir.Value | None, ir.Value | None]:
        """A cotangent of what `with_past` gives, in its two parts."""
        past = self.op.input(index)
        if ct is None:
            return None, None
        if past is None:
            return None, self.join(ct)
        sizes = vector(self.e, [size_of(self.e, past, 2), self._length()])
        old, new = self.e.op("Split", [ct, sizes], axis=2, _outputs=2)
        for part, like in ((old, past), (new, self.value)):
            part.shape, part.type = like.shape, ct.type
        return old, self.join(new)

    def _length(self) -> Amount:
        return size_of(self.e, self.given, 1 if self.flat else 2)


def _shape(value: ir.Value, rank: int = 4) -> ir.Shape:
    return ir.Shape([None] * rank) if value.shape is None else value.shape


def _scale(op: Op, queries: _Heads) -> float:
    scale = op.attr("scale")
    if scale is not None:
        return float(scale)
    width = dim_of(_shape(queries.value), 3)
    if not isinstance(width, int):
        raise op.unsupported("the size of a head is unknown", "a fixed one, or 'scale'")
    return 1 / math.sqrt(width)


def _repeated(e: Emitter, q: ir.Value, value: ir.Value) -> ir.Value:
    """Heads of K or V, each as often as queries share it: [N, h, S, d] -> [N, heads of Q, S, d]."""
    groups = _groups(q, value)
    if groups == 1:
        return value
    n, heads, length, width = (dim_of(_shape(value), i) for i in range(4))
    five = e.Unsqueeze(value, [2], _shape=[n, heads, 1, length, width])
    wide = e.Expand(five, [1, 1, groups, 1, 1], _shape=[n, heads, groups, length, width])
    sizes = [0, size_of(e, q, 1), size_of(e, value, 2), size_of(e, value, 3)]
    shape = vector(e, sizes)
    return e.Reshape(wide, shape, _shape=[n, dim_of(_shape(q), 1), length, width])


def _gathered(e: Emitter, ct: ir.Value, q: ir.Value, value: ir.Value) -> ir.Value:
    """The adjoint of `_repeated`."""
    groups = _groups(q, value)
    if groups == 1:
        return ct
    sizes = [0, size_of(e, value, 1), groups, size_of(e, value, 2), size_of(e, value, 3)]
    return e.ReduceSum(e.Reshape(ct, vector(e, sizes)), [2], keepdims=0, _shape=value.shape)


def _groups(q: ir.Value, value: ir.Value) -> int:
    """How many heads of Q share one of K and V."""
    many, few = dim_of(_shape(q), 1), dim_of(_shape(value), 1)
    if not isinstance(many, int) or not isinstance(few, int):
        return 1
    return many // few


def _bias(e: Emitter, op: Op, q: ir.Value, k: ir.Value) -> tuple[ir.Value | None, ir.Value | None]:
    """What is added to the products, and where a query sees a key (None: nothing, everywhere)."""
    mask = op.input(_MASK)
    added: ir.Value | None = None
    if mask is not None:
        added = mask
        if mask.dtype == ir.DataType.BOOL:
            added = e.Where(mask, e.const(0, q.dtype), e.const(-np.inf, q.dtype), _shape=mask.shape)
        last = op.rank(mask) - 1
        rest = minus(e, size_of(e, k, 2), size_of(e, mask, last))
        if rest != 0:
            pads = vector(e, [*[0] * (2 * last + 1), rest])
            added = e.Pad(added, pads, e.const(-np.inf, q.dtype))
    limits = [int(op.attr("left_window_size", -1)), int(op.attr("right_window_size", -1))]
    if op.attr("is_causal", 0):
        limits[1] = 0
    seen: ir.Value | None = None
    valid = op.input(_VALID)
    column = _numbers(e, size_of(e, k, 2))
    if max(limits) >= 0:
        row = e.Unsqueeze(_numbers(e, size_of(e, q, 2)), [1])
        if op.input(_PAST_K) is not None:
            row = e.Add(row, vector(e, [size_of(e, op.need(_PAST_K), 2)]))
        elif valid is not None:
            first = e.Sub(e.cast(valid, INT64), vector(e, [size_of(e, q, 2)]))
            row = e.Add(row, e.Reshape(first, [-1, 1, 1, 1]))
        ahead = e.Sub(column, row)
        if limits[1] >= 0:
            seen = e.LessOrEqual(ahead, limits[1])
        if limits[0] >= 0:
            near = e.GreaterOrEqual(ahead, -limits[0])
            seen = near if seen is None else e.And(seen, near)
    if valid is not None:
        real = e.Less(column, e.Reshape(e.cast(valid, INT64), [-1, 1, 1, 1]))
        seen = real if seen is None else e.And(seen, real)
    return added, seen


# More are made in the run.
_MOST_NUMBERS = 1 << 16


def _numbers(e: Emitter, count: Amount) -> ir.Value:
    """0, 1, 2 ... : int64 [count]."""
    if isinstance(count, int) and count <= _MOST_NUMBERS:
        return e.const(np.arange(count, dtype=np.int64))
    end = count if isinstance(count, int) else e.Squeeze(count, [0])
    return e.op("Range", [0, end, 1], _dtype=INT64)[0]


def _probabilities(
    e: Emitter, op: Op, total: ir.Value, bias: tuple[ir.Value | None, ir.Value | None]
) -> ir.Value:
    added, seen = bias
    shape = total.shape
    if added is not None:
        total = e.Add(total, added, _shape=shape)
    if seen is not None:
        total = e.Where(seen, total, -np.inf, _dtype=total.dtype, _shape=shape)
    p = e.Softmax(total, axis=-1)
    if added is None and seen is None:
        return p
    most = e.ReduceMax(total, [-1], keepdims=1)
    return e.Where(e.Equal(most, -np.inf), 0.0, p, _dtype=total.dtype, _shape=shape)


@vjp("RotaryEmbedding", 23)
def rotary_embedding(e: Emitter, op: Op, ct: ir.Value) -> Cotangents:
    """A rotation of pairs: its adjoint turns the other way."""
    if any(op.wants[1:3]):
        raise op.unsupported("its angles depend on the input", "fixed angles")
    attributes = {a.name: a.value for a in op.node.attributes.values()}
    rest = op.node.inputs[3:]
    turned = e.RotaryEmbedding(ct, op.need(1), e.Neg(op.need(2)), *rest, **attributes)
    turned.shape = op.x.shape
    return (turned,)
