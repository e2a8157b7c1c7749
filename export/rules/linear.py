"""Dense layers: Gemm, MatMul, Einsum."""

from __future__ import annotations

from collections.abc import Mapping
from string import ascii_letters

import numpy as np
import onnx_ir as ir

from ..emit import broadcast_shape, dim_of, fits
from . import Cotangents, Emitter, Op, vjp
from .apart import matrix_apart


@vjp("Gemm", 13)
def gemm(e: Emitter, op: Op, ct: ir.Value) -> Cotangents:
    """Y = alpha A' B' + beta C, a prime for the transposes asked for."""
    a, b, c = op.need(0), op.need(1), op.input(2)
    alpha, beta = float(op.attr("alpha", 1.0)), float(op.attr("beta", 1.0))
    trans_a, trans_b = int(op.attr("transA", 0)), int(op.attr("transB", 0))
    d_a = d_b = d_c = None
    if op.wants[0]:
        left, right = matrix_apart(e, ct, b, 1, 1 - trans_b)
        if trans_a:
            d_a = e.Gemm(right, left, alpha=alpha, transA=trans_b, transB=1, _shape=a.shape)
        else:
            d_a = e.Gemm(left, right, alpha=alpha, transB=1 - trans_b, _shape=a.shape)
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
        rank = max(rank_b, 2)
        given, matrix = matrix_apart(e, ct, right, -1, rank - 1)
        d_a = e.MatMul(given, _swapped(e, matrix, rank), _shape=_tailed(batch, left))
        if rank_a == 1:
            # The row's own axis was added here: sum the batch away, then drop it.
            d_a = _drop(e, d_a, batch, -2, a)
    if op.wants[1]:
        rank = max(rank_a, 2)
        given, matrix = matrix_apart(e, ct, left, -2, rank - 2)
        d_b = e.MatMul(_swapped(e, matrix, rank), given, _shape=_tailed(batch, right))
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


@vjp("Einsum", 12, 28)
def einsum(e: Emitter, op: Op, ct: ir.Value) -> Cotangents:
    """The cotangent takes the place of the operand: 'ij,jk->ik' gives 'ik,jk->ij' for the first.

    An index that only this operand has was summed: Expand brings it back. One that it has twice
    was a diagonal: all beside it gets 0.
    """
    terms, right = _equation(op)
    results: list[ir.Value | None] = []
    for index, term in enumerate(terms):
        if not op.wants[index]:
            results.append(None)
            continue
        others = [(t, op.need(i)) for i, t in enumerate(terms) if i != index]
        known = set(right).union(*(t for t, _ in others))
        made = "".join(c for c in dict.fromkeys(term) if c in known)
        # An index that the output lacks has the others' size: 1 where only this operand broadcasts.
        sizes = {c: _size(c, terms, op, None if c in right else index) for c in made}
        value = ct
        if others or right != made:
            left = ",".join([right, *(t for t, _ in others)])
            operands = _apart(e, ct, right, others, made)
            equation = f"{left}->{made}"
            value = e.op("Einsum", operands, equation=equation, _shape=[*sizes.values()])[0]
        value = _placed(e, op, value, sizes, term, op.need(index))
        if _short(op.need(index), sizes, term, right):
            shape = [_size(c, terms, op) for c in term]
            value = e.Expand(value, e.Shape(op.need(index)), _shape=shape)
        results.append(value)
    return tuple(results)


def _apart(
    e: Emitter, ct: ir.Value, right: str, others: list[tuple[str, ir.Value]], made: str
) -> list[ir.Value]:
    """The operands; with a square matrix, both reversed along what is summed over."""
    if len(others) != 1:
        return [ct, *(v for _, v in others)]
    ((term, w),) = others
    summed = [c for c in term if c in right and c not in made]
    if len(term) != 2 or len(summed) != 1 or term[0] == term[1]:
        return [ct, w]
    return [*matrix_apart(e, ct, w, right.index(summed[0]), term.index(summed[0]))]


def _equation(op: Op) -> tuple[list[str], str]:
    """The operands' terms and the output's, an ellipsis written out in letters of its own."""
    equation = str(op.attr("equation")).replace(" ", "")
    left, arrow, right = equation.partition("->")
    free = [c for c in ascii_letters if c not in equation]
    terms, ellipsis = [], ""
    for index, term in enumerate(left.split(",")):
        if "..." in term:
            # The standard has all ellipses stand for equally many axes.
            ellipsis = "".join(free[: op.rank(op.need(index)) - len(term) + 3])
        terms.append(term.replace("...", ellipsis))
    if arrow:
        right = right.replace("...", ellipsis)
    else:
        letters = left.replace(",", "").replace(".", "")
        right = ellipsis + "".join(c for c in sorted(set(letters)) if letters.count(c) == 1)
    return terms, right


def _size(letter: str, terms: list[str], op: Op, skip: int | None = None) -> int | str | None:
    """The size of an index over all operands (but one): they broadcast, as in NumPy."""
    shapes = []
    for index, term in enumerate(terms):
        if letter in term and index != skip:
            shape = op.need(index).shape
            shapes.append(None if shape is None else ir.Shape([shape[term.index(letter)]]))
    joint = broadcast_shape(shapes)
    return None if joint is None else dim_of(joint, 0)


def _placed(
    e: Emitter,
    op: Op,
    value: ir.Value,
    sizes: Mapping[str, int | str | None],
    term: str,
    primal: ir.Value,
) -> ir.Value:
    """`value`, whose axes are the letters of `sizes` in order, with an axis per letter of `term`:
    1 where it has none, the diagonal where a letter is repeated."""
    absent = [i for i, c in enumerate(term) if c not in sizes or i != term.index(c)]
    if absent:
        shape = [1 if i in absent else sizes[c] for i, c in enumerate(term)]
        value = e.Unsqueeze(value, absent, _shape=shape)
    for at, letter in enumerate(term):
        first = term.index(letter)
        if at != first:
            line, across = _line(e, op, primal, at, first), _line(e, op, primal, at, at)
            value = e.Where(e.Equal(line, across), value, 0.0)
    return value


def _short(primal: ir.Value, sizes: Mapping[str, int | str | None], term: str, right: str) -> bool:
    """Whether what `_placed` gives may be smaller than the primal: along an index that only this
    operand has, or has in full where the others have 1."""
    for at, letter in enumerate(term):
        own = None if primal.shape is None else dim_of(primal.shape, at)
        if own == 1 or letter in right or term.count(letter) > 1:
            continue
        if own is None or sizes.get(letter, 1) != own:
            return True
    return False


def _line(e: Emitter, op: Op, value: ir.Value, axis: int, along: int) -> ir.Value:
    """0, 1, 2 ... as many as `value` is long on `axis`, laid along another axis of its rank."""
    rank = op.rank(value)
    assert value.shape is not None
    size = dim_of(value.shape, axis)
    if isinstance(size, int) and fits(size):
        steps = e.const(np.arange(size, dtype=np.int64))
    else:
        count = e.Squeeze(e.Shape(value, start=axis, end=axis + 1), [0])
        steps = e.Range(e.const(0), count, e.const(1), _dtype=ir.DataType.INT64)
    shape = [size if i == along else 1 for i in range(rank)]
    return e.Reshape(steps, [-1 if i == along else 1 for i in range(rank)], _shape=shape)
