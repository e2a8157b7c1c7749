"""Cotangents to start from: one-hot vectors of a class, an input of the graph, a loss's own."""

from __future__ import annotations

from functools import cache

import numpy as np
import onnx_ir as ir

from ..errors import ModelError, UsageError, hint
from . import choose
from .emit import Emitter, dim_of, fits
from .explaining import Explaining, Seed

GIVEN = "cotangent"
LOSS = "backlight/loss"
# Below any score, in every float type.
LOWEST = -65504.0


def class_count(of: ir.Value) -> int | None:
    """The number of classes of a score tensor [N, K, ...]; None when dynamic. [N] has one."""
    if of.shape is None:
        raise ModelError(
            f"'{of.name}' has no known rank{choose.culprit(of)}; name another tensor with --of"
        )
    if len(of.shape) < 2:
        return 1
    dim = dim_of(of.shape, 1)
    return dim if isinstance(dim, int) else None


def check_class(of: ir.Value, target_class: str | int, what: str = "class") -> None:
    """Raise UsageError unless `target_class` is "input", "top1", "all" or a class of `of`."""
    if isinstance(target_class, str):
        if target_class not in ("input", "top1", "all"):
            raise UsageError(
                f"target class '{target_class}'; accepted: input, top1 or a number; all, of cam"
                + hint(target_class, ("input", "top1", "all"))
            )
        return
    count = class_count(of)
    if not 0 <= target_class < (2**63 if count is None else count):
        last = " and up" if count is None else f" to {count - 1}"
        raise UsageError(f"{what} {target_class} is out of range; '{of.name}' has classes 0{last}")


def chosen_class(
    e: Emitter, of: ir.Value, target: ir.Value | str, ranking: ir.Value | None = None
) -> ir.Value:
    """The class that each row explains, int64 [N, 1].

    target: int64 [N] (-1: the row's top class, ties to the first), or "top1".
    ranking: the tensor that says which class is on top, if not `of`.
    """
    assert of.shape is not None
    batch = dim_of(of.shape, 0)
    flat = _ranked(e, of, ranking)
    if isinstance(target, str):
        return e.ArgMax(flat, axis=1, keepdims=1, _shape=[batch, 1])
    top = e.ArgMax(flat, axis=1, keepdims=0, _shape=[batch])
    chosen = e.Where(e.Equal(target, -1), top, target, _dtype=ir.DataType.INT64)
    return e.Unsqueeze(chosen, [1], _shape=[batch, 1])


def class_seed(
    e: Emitter, of: ir.Value, target: ir.Value | str | int, ranking: ir.Value | None = None
) -> ir.Value:
    """One-hot cotangent of `of` [N, K, ...], one class a row, 1 at all positions of the class.

    target: int64 [N] (-1: the row's top class, ties to the first), "top1", or a class number.
    ranking: the tensor that says which class is on top, if not `of`.
    A class outside 0..K-1 seeds with zeros. Returns a value shaped and typed like `of`.
    """
    if of.shape is None or len(of.shape) == 0:
        return e.Expand(e.const(1, of.dtype), e.Shape(of), _shape=of.shape, _dtype=of.dtype)
    if isinstance(target, int):
        return one_hot(e, of, target)
    return one_hot(e, of, chosen_class(e, of, target, ranking))


def one_hot(e: Emitter, of: ir.Value, chosen: ir.Value | int) -> ir.Value:
    """1 at the chosen class, int64 [N, 1] or one for all rows, 0 elsewhere; shaped and typed like
    `of` [N, K, ...]."""
    shape = of.shape
    assert shape is not None
    rank = len(shape)
    flat = _flat(e, of)
    count = class_count(of)
    if of.dtype is None:
        raise ModelError(
            f"'{of.name}' has no known element type{choose.culprit(of)}; name another with --of"
        )
    if count is not None and not fits(count):
        classes = e.Range(0, count, 1, _dtype=ir.DataType.INT64)
    elif count is None:
        width = e.Squeeze(e.Shape(flat, start=1, end=2), [0])
        classes = e.Range(0, width, 1, _dtype=ir.DataType.INT64)
    else:
        classes = e.const(np.arange(count, dtype=np.int64))
    if isinstance(chosen, int):
        row = e.cast(e.Equal(classes, chosen), of.dtype)
        hot = e.Expand(row, e.Shape(flat), _shape=flat.shape)
    else:
        hot = e.cast(e.Equal(chosen, classes), of.dtype)
        hot.shape = flat.shape
    if rank == 1:
        return e.Squeeze(hot, [1], _shape=shape)
    if rank > 2:
        hot = e.Unsqueeze(hot, list(range(2, rank)))
        if any(dim_of(shape, axis) != 1 for axis in range(2, rank)):
            hot = e.Expand(hot, e.Shape(of))
        hot.shape = shape
    return hot


def _ranked(e: Emitter, of: ir.Value, ranking: ir.Value | None) -> ir.Value:
    """What says which class is on top, as [N, K]."""
    ranked = ranking is not None and ranking.shape is not None and len(ranking.shape) > 0
    return _flat(e, ranking if ranked and ranking is not None else of)


def _flat(e: Emitter, scores: ir.Value) -> ir.Value:
    """Scores [N], [N, K] or [N, K, ...] as [N, K], summed over positions."""
    shape = scores.shape
    assert shape is not None
    batch, rank = dim_of(shape, 0), len(shape)
    if rank == 1:
        return e.Unsqueeze(scores, [1], _shape=[batch, 1])
    if rank > 2:
        sizes = [batch, dim_of(shape, 1)]
        return e.ReduceSum(scores, list(range(2, rank)), keepdims=0, _shape=sizes)
    return scores


def target_of(x: Explaining) -> ir.Value | str | int:
    """The class to explain: the graph's input `target`, "top1" or a number."""
    if x.target_class != "input":
        return x.target_class
    return x.input("target", ir.Shape([x.batch]), ir.TensorType(ir.DataType.INT64))


def picked(x: Explaining) -> ir.Value:
    """The class that each row explains, int64 [N, 1], where it isn't one number for all."""
    target = target_of(x)
    assert not isinstance(target, int)
    return chosen_class(x.e, x.of[0], target, x.ranking[0])


def _one_hot(x: Explaining, index: int) -> ir.Value:
    of = x.of[index]
    if x.chosen is not None:
        return one_hot(x.e, of, x.chosen)
    return class_seed(x.e, of, target_of(x), x.ranking[index])


def _chosen(x: Explaining) -> ir.Value | int:
    """The class that each row explains, or the nearest that there is."""
    target = target_of(x)
    if isinstance(target, int):
        return target
    chosen = x.chosen if x.chosen is not None else picked(x)
    if isinstance(target, str):
        return chosen
    count = class_count(x.of[0])
    assert count is not None
    with x.e.rooted(), x.e.scope("seed"):
        # Not Clip: TensorRT has it for floats alone.
        return x.e.Max(x.e.Min(chosen, count - 1), 0, _shape=chosen.shape)


def explained(x: Explaining, index: int) -> ir.Value:
    """The explained class's own score: [N, 1, ...], or [N, K, ...] with 0 for the other classes."""
    e, of = x.e, x.of[index]
    if index == 0 and of.shape is not None and len(of.shape) == 2 and class_count(of) is not None:
        chosen, shape = _chosen(x), [dim_of(of.shape, 0), 1]
        if isinstance(chosen, int):
            return e.Slice(of, [chosen], [chosen + 1], [1], _shape=shape, _dtype=of.dtype)
        return e.GatherElements(of, chosen, axis=1, _shape=shape, _dtype=of.dtype)
    hot = x.cotangent(ONE_HOT, index)
    return e.Where(e.Equal(hot, 0.0), 0.0, of, _dtype=of.dtype, _shape=of.shape)


def _given(x: Explaining, index: int) -> ir.Value:
    of = x.of[index]
    # With several tensors the names are numbered: cotangent_0, cotangent_1.
    name = GIVEN + (f"_{index}" if len(x.of) > 1 else "")
    return x.input(name, of.shape, of.type)


def _distance(x: Explaining, index: int) -> ir.Value:
    apart = x.e.Sub(x.of[index], _given(x, index))
    _loss(x, x.e.Mul(apart, apart), 0.5)
    return apart


def _product(x: Explaining, index: int) -> ir.Value:
    against = x.e.Neg(_given(x, index))
    _loss(x, x.e.Mul(x.of[index], against), 1.0)
    return against


def _margin(x: Explaining, index: int) -> ir.Value:
    e, of, mine = x.e, x.of[index], _given(x, index)
    assert of.shape is not None
    others = e.Where(e.Greater(_flat(e, mine), 0.5), LOWEST, _flat(e, of))
    rival = e.ArgMax(others, axis=1, keepdims=1, _shape=[dim_of(of.shape, 0), 1])
    apart = e.Sub(mine, one_hot(e, of, rival), _shape=of.shape)
    # A class that is out for good stands at -inf, and 0 times that is no number.
    _loss(x, e.Where(e.Equal(apart, 0.0), 0.0, e.Mul(of, apart)), 1.0)
    return apart


def _loss(x: Explaining, terms: ir.Value, factor: float) -> None:
    """Sum the terms [N, ...] of each row, in float32: the output `backlight/loss`, [N]."""
    phi = x.of[0]
    if phi.shape is None or len(phi.shape) < 2:
        raise UsageError(f"'{phi.name}' has no row per image; name another layer")
    e, batch = x.e, dim_of(phi.shape, 0)
    # float16 can't hold the sum of a layer's squares
    rows = e.Flatten(e.cast(terms, ir.DataType.FLOAT), axis=1, _shape=[batch, None])
    total = e.ReduceSum(rows, [1], keepdims=0, _shape=[batch])
    x.outputs[LOSS] = e.Mul(total, factor)


def _contrast(x: Explaining, index: int) -> ir.Value:
    of = x.of[index]
    _refuse_one_class(of)
    e = x.e
    other = one_hot(e, of, x.contrast if isinstance(x.contrast, int) else second_class(x, index))
    return _apart(x, index, other)


def _refuse_one_class(of: ir.Value) -> None:
    if class_count(of) == 1:
        raise UsageError(
            f"'{of.name}' has one class: nothing to tell it from; a contrast needs two or more"
        )


def _apart(x: Explaining, index: int, other: ir.Value) -> ir.Value:
    """The cotangent that tells the target from another class, one-hot."""
    e, of, mine = x.e, x.of[index], x.cotangent(ONE_HOT, index)
    if x.contrast_form == "logit" or x.independent:
        return e.Sub(mine, other, _shape=of.shape)
    return e.Sub(e.Softmax(of, axis=1, _shape=of.shape), other, _shape=of.shape)


def second_class(x: Explaining, index: int = 0) -> ir.Value:
    """The class to tell the target from, int64 [N, 1]: the best class but the target, or what the
    graph's input `contrast` says where that isn't -1."""
    if x.rival is not None:
        return x.rival
    e, of = x.e, x.of[index]
    assert of.shape is not None
    batch = dim_of(of.shape, 0)
    scores = _flat(e, of)
    mine = _flat(e, x.cotangent(ONE_HOT, index))
    others = e.Where(e.Greater(mine, 0.5), LOWEST, scores)
    second = e.ArgMax(others, axis=1, keepdims=1, _shape=[batch, 1])
    if x.contrast == "second":
        return second
    given = x.input("contrast", ir.Shape([x.batch]), ir.TensorType(ir.DataType.INT64))
    column = e.Unsqueeze(given, [1], _shape=[batch, 1])
    return e.Where(e.Equal(column, -1), second, column, _dtype=ir.DataType.INT64)


@cache
def against(rank: int) -> Seed:
    """The target against the other class that scores highest but `rank`, in the export's form.
    Where there are fewer classes, the last of them once more."""

    def build(x: Explaining, index: int) -> ir.Value:
        e, of = x.e, x.of[index]
        assert of.shape is not None
        count = class_count(of)
        _refuse_one_class(of)
        mine = _flat(e, x.cotangent(ONE_HOT, index))
        others = e.Where(e.Greater(mine, 0.5), LOWEST, _flat(e, of))
        wanted = rank + 1 if count is None else max(min(rank + 1, count - 1), 1)
        _, order = e.op("TopK", [others, np.array([wanted])], axis=1, _outputs=2)
        order.dtype = ir.DataType.INT64
        batch = dim_of(of.shape, 0)
        rival = e.Slice(order, [wanted - 1], [wanted], [1], _shape=[batch, 1])
        rival.dtype = ir.DataType.INT64
        return _apart(x, index, one_hot(e, of, rival))

    return Seed(build)


# One class a row: the target.
ONE_HOT = Seed(_one_hot, unit=True, chosen=_chosen)
# The graph's input `cotangent`: any vector-Jacobian product.
CALLER_S = Seed(_given)
# Of half the squared distance to the input `cotangent` (Mahendran and Vedaldi 2015), with the loss
# as an output.
DISTANCE = Seed(_distance)
# Of minus the inner product with the input `cotangent`, with the loss as an output.
PRODUCT = Seed(_product)
# Of the margin z_t - max of the other scores, with the margin as the output of a loss; t is one-hot
# in the input `cotangent` (Dhurandhar et al. 2018).
MARGIN = Seed(_margin)
# The target against another class Q. "loss": softmax(z) - one-hot(Q), the gradient of the cross
# entropy towards Q (Prabhushankar et al. 2020, their code; P is whatever the softmax is large on).
# "logit": one-hot(P) - one-hot(Q) (their course's form); always so for scores that a Sigmoid
# closes, which share no softmax.
CONTRAST = Seed(_contrast)


def value_of(x: Explaining, start: Seed, scores: ir.Value) -> ir.Value:
    """What a seed is the gradient of, as a function of scores [N, K] (or [1, K]): float32 [N]."""
    e = x.e
    flat = e.cast(_flat(e, scores), ir.DataType.FLOAT)
    if start is CONTRAST and x.contrast_form == "loss" and not x.independent:
        other = x.contrast if isinstance(x.contrast, int) else second_class(x)
        hot = e.cast(_flat(e, one_hot(e, x.of[0], other)), ir.DataType.FLOAT)
        terms = e.Mul(e.Neg(e.LogSoftmax(flat, axis=1)), hot)
    else:
        terms = e.Mul(flat, e.cast(_flat(e, x.cotangent(start)), ir.DataType.FLOAT))
    return e.ReduceSum(terms, [1], keepdims=0, _shape=[x.batch])
