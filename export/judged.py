"""What a head's values are, by what trying it showed: probabilities, of which scores, or none."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from .closers import UNBOUND, Reading, closes
from .emit import all_dims
from .rules.op import constant
from .tried import Closed, Found, Routes, tried

__all__ = ["count_of", "in_order", "judged", "of_one"]

# What probabilities may be beside 0..1, and their sum beside 1, by rounding of constants.
_SUM = 2e-3
# What one function computed in another way differs by, in float64, of constants in float32.
_EXACT = 1e-6


def judged(value: ir.Value, found: Found, last: bool) -> Reading | None:
    """What a tensor holds by what trying it showed. last: whether it is the head's end, of which
    it may be said, too, that its values are no probabilities."""
    rows = all(not c.alone for c in map(closes, found.closed) if c is not None)
    one, count = found.routes is not None, found.made.shape[1]
    if count == 1 and not one:
        return None
    routes = found.routes or _ranked_alike(found)
    exact = _exactly(found, routes, rows)
    kind, scale = ("Mixture", 1.0) if exact else _bounded(found, rows, last)
    if not kind:
        return None
    each = not rows and one and kind != "Score"
    made = Reading(kind, value, logits=False, scale=scale, alone=False, each=each)
    if found.before is None or routes is None or kind == "Score":
        return made
    turned = _turned(found, routes)
    top = np.argmax(turned, axis=1) == np.argmax(found.made, axis=1)
    own = routes.as_is and count == found.scores.shape[1]
    closer = found.closed[0].producer() if one else value.producer()
    made = replace(
        made, before=found.before, logits=True, closer=closer,
        routes=None if own else routes, ranks=exact is not None or bool(top.all()),
    )  # fmt: skip
    return made if exact is None else replace(made, kind=exact[0], log=exact[1], alone=True)


def _bounded(found: Found, rows: bool, last: bool) -> tuple[str, float]:
    """By its bounds, the kind of what a head makes, and by what it is divided; "" for none."""
    makers = [v.producer() for v in found.closed]
    unbound = any(n is not None and n.op_type in UNBOUND for n in makers)
    may_end = last and not (found.dense or found.logs or unbound)
    if found.low < -_SUM:
        # What adds up to 1 all the same is told row by row: thresholds in order give no negatives.
        one_in_all = found.total is not None and abs(found.total - 1) <= _SUM
        beyond = found.low < -1 - _SUM or found.high > 1 + _SUM
        return ("", 1.0) if beyond or not may_end or one_in_all else ("Score", 1.0)
    if found.total is not None:
        return "Mixture", found.total if found.high > 1 + _SUM else 1.0
    if found.dense and not rows and found.routes is None:
        return "", 1.0  # a layer
    if found.high <= 1 + _SUM:
        return "Mixture", 1.0
    if not may_end:
        return "", 1.0
    return "Share" if rows and found.made.shape[1] > 1 else "Score", 1.0


def _ranked_alike(found: Found) -> Routes | None:
    """Of classes that no score alone decides: whether they rank in every row as the scores do, or
    the other way round."""
    if found.before is None or found.scores.shape != found.made.shape:
        return None
    order = np.argsort(found.scores, axis=1, kind="stable")
    for sign in (1, -1):
        if np.array_equal(order, np.argsort(sign * found.made, axis=1, kind="stable")):
            return Routes(tuple(range(order.shape[1])), (sign,) * order.shape[1])
    return None


def _exactly(found: Found, routes: Routes | None, rows: bool) -> tuple[str, bool] | None:
    """The Softmax or Sigmoid of the scores that a head's values are, or are the logarithm of."""
    if routes is None or found.before is None:
        return None
    turned = _turned(found, routes)
    name = "Softmax" if rows or found.routes is None else "Sigmoid"
    made = _softmax(turned) if name == "Softmax" else _sigmoid(turned)
    for log in (False, True):
        if np.allclose(np.log(made) if log else made, found.made, rtol=0, atol=_EXACT):
            return name, log
    return None


def in_order(value: ir.Value, found: Found) -> Reading | None:
    """Differences of Sigmoids of one number beside thresholds in order (CORAL), which give no
    negatives where the Sigmoids of any scores would."""
    if found.low >= -_SUM or found.total is None or abs(found.total - 1) > _SUM:
        return None
    for one in _single(value):
        again = tried(value, {one: Closed(one, alone=True)}.get)
        if again is not None and again.total is not None and again.low >= -_EXACT:
            return Reading("Mixture", value, logits=False, alone=False)
    return None


def of_one(value: ir.Value, found: Reading) -> Reading | None:
    """Two classes that a Softmax makes of one score z and a constant, 1 - p and p of its Sigmoid:
    a constant's own map would be all zero."""
    for one in _single(value):
        lone = tried(value, {one: Closed(one, alone=True)}.get)
        if lone is not None and lone.routes is not None and lone.routes.pair is not None:
            break
    else:
        return None
    assert lone.before is not None and lone.routes is not None
    made = _sigmoid(_turned(lone, lone.routes))
    of = made / (1 - made) if found.odds else made
    wanted = found.by * np.log(of) if found.log else made
    if found.scale != 1 or not np.allclose(wanted, lone.made, rtol=0, atol=_EXACT):
        return None
    return replace(
        found, kind="Sigmoid", before=lone.before, each=True, routes=lone.routes, behind=()
    )


def _single(value: ir.Value) -> list[ir.Value]:
    """The nearest tensors before one that have one element a row."""
    waiting, seen, found = [value], {value}, list[ir.Value]()
    while waiting and len(seen) < 16:
        node = waiting.pop(0).producer()
        for v in () if node is None else node.inputs:
            if v is not None and v not in seen and v.producer() is not None:
                seen.add(v)
                waiting.append(v)
                found += [v] if count_of(v) == 1 and constant(v) is None else []
    return found[:4]


def count_of(value: ir.Value) -> int | None:
    """Elements of a row, where that is known."""
    dims = [d for d in all_dims(value.shape)[1:] if isinstance(d, int)]
    known = value.shape is not None and len(dims) == max(0, len(value.shape) - 1)
    return int(np.prod(dims)) if known else None


def _turned(found: Found, routes: Routes) -> NDArray[np.float64]:
    return np.asarray(found.scores[:, list(routes.index)] * routes.signs)


def _sigmoid(z: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(1 / (1 + np.exp(-z)))


def _softmax(z: NDArray[np.float64]) -> NDArray[np.float64]:
    made = np.exp(z)
    return np.asarray(made / made.sum(axis=1, keepdims=True))
