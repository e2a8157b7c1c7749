"""Dense layers: Gemm, MatMul, Einsum."""

from __future__ import annotations

import onnx_ir as ir

from ..emit import broadcast_shape
from . import Cotangents, Emitter, Op, vjp


@vjp("Gemm", 13)
def gemm(e: Emitter, op: Op, ct: ir.Value) -> Cotangents:
    """Y = alpha A' B' + beta C, a prime for the transposes asked for."""
    a, b, c = op.need(0), op.need(1), op.input(2)
    alpha, beta = float(op.attr("alpha", 1.0)), float(op.attr("beta", 1.0))
    trans_a, trans_b = int(op.attr("transA", 0)), int(op.attr("transB", 0))
    d_a = d_b = d_c = None
    if op.wants[0]:
        if trans_a:
            d_a = e.Gemm(b, ct, alpha=alpha, transA=trans_b, transB=1, _shape=a.shape)
        else:
            d_a = e.Gemm(ct, b, alpha=alpha, transB=1 - trans_b, _shape=a.shape)
    if op.wants[1]:
        if trans_b:
            d_b = e.Gemm(ct, a, alpha=alpha, transA=1, transB=trans_a, _shape=b.shape)
        else:
            d_b = e.Gemm(a, ct, alpha=alpha, transA=1 - trans_a, _shape=b.shape)
    if c is not None and op.wants[2]:
        d_c = ct if beta == 1 else e.Mul(ct, beta)
        d_c.shape = d_c.shape or op.y.shape
    return d_a, d_b, d_c


def _swapped(e: Emitter, value: ir.Value, rank: int) -> ir.Value:
    """The last two axes exchanged."""
    return e.Transpose(value, perm=[*range(rank - 2), rank - 1, rank - 2])


@vjp("MatMul", 13)
def matmul(e: Emitter, op: Op, ct: ir.Value) -> Cotangents:
    """Batch axes broadcast; an operand of rank 1 is a row (left) or a column (right)."""
    a, b = op.need(0), op.need(1)
    rank_a, rank_b = op.rank(a), op.rank(b)
    left, right = a, b
    if rank_a == 1:
        left = e.Unsqueeze(a, [0], _shape=[1, *list(a.shape or ())])
        ct = e.Unsqueeze(ct, [-1 if rank_b == 1 else -2])
    if rank_b == 1:
        right = e.Unsqueeze(b, [1], _shape=[*list(b.shape or ()), 1])
        ct = e.Unsqueeze(ct, [-1])
    d_a = d_b = None
    batch = broadcast_shape([_head(left), _head(right)])
    if op.wants[0]:
        d_a = e.MatMul(ct, _swapped(e, right, max(rank_b, 2)), _shape=_tailed(batch, left))
        if rank_a == 1:
            # The row's own axis was added here: sum the batch away, then drop it.
            d_a = _drop(e, d_a, batch, -2, a)
    if op.wants[1]:
        d_b = e.MatMul(_swapped(e, left, max(rank_a, 2)), ct, _shape=_tailed(batch, right))
        if rank_b == 1:
            d_b = _drop(e, d_b, batch, -1, b)
    return d_a, d_b


def _head(value: ir.Value) -> ir.Shape | None:
    return None if value.shape is None else ir.Shape(list(value.shape)[:-2])


def _tailed(batch: ir.Shape | None, value: ir.Value) -> ir.Shape | None:
    if batch is None or value.shape is None:
        return None
    return ir.Shape([*list(batch), *list(value.shape)[-2:]])


def _drop(
    e: Emitter, ct: ir.Value, batch: ir.Shape | None, axis: int, primal: ir.Value
) -> ir.Value:
    if batch is not None and len(batch):
        ct = e.ReduceSum(ct, list(range(len(batch))), keepdims=0)
    return e.Squeeze(ct, [axis], _shape=primal.shape)


@vjp("Einsum", 12)
def einsum(e: Emitter, op: Op, ct: ir.Value) -> Cotangents:
    """The cotangent takes the place of the operand: 'ij,jk->ik' gives 'ik,jk->ij' for the first.

    An index that only this operand has was summed: a tensor of ones brings it back.
    """
    equation = str(op.attr("equation")).replace(" ", "")
    if "..." in equation:
        raise op.unsupported("an ellipsis in the equation", "equations with all indices named")
    left, arrow, right = equation.partition("->")
    terms = left.split(",")
    if not arrow:
        letters = "".join(terms)
        right = "".join(sorted(c for c in set(letters) if letters.count(c) == 1))
    if any(len(set(t)) < len(t) for t in terms):
        raise op.unsupported("a repeated index (a diagonal)", "distinct indices in every operand")
    results: list[ir.Value | None] = []
    for index, term in enumerate(terms):
        if not op.wants[index]:
            results.append(None)
            continue
        others = [(t, op.need(i)) for i, t in enumerate(terms) if i != index]
        known = set(right).union(*(t for t, _ in others)) if others else set(right)
        operands, names = [ct, *(v for _, v in others)], [right, *(t for t, _ in others)]
        primal = op.need(index)
        for letter in term:
            if letter not in known:
                at = term.index(letter)
                size = e.Shape(primal, start=at, end=at + 1)
                assert primal.dtype is not None
                operands.append(e.Expand(e.const([1], primal.dtype), size, _dtype=primal.dtype))
                names.append(letter)
        made = f"{','.join(names)}->{term}"
        results.append(e.op("Einsum", operands, equation=made, _shape=primal.shape)[0])
    return tuple(results)
