"""The few nodes that bring what a head says into scores [N, K], or into probabilities, where the
model has them in another form."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from .closers import Reading
from .emit import Emitter, all_dims, dim_of
from .graph import opset_of
from .score_shapes import laid_out, no_batch
from .tried import Routes

__all__ = ["MADE", "both", "moved", "probabilities", "real", "renamed", "routed"]


# The name of scores that are no tensor of the model's own.
MADE = "backlight/scores"


def real(e: Emitter, reading: Reading, value: ir.Value) -> ir.Value | None:
    """What a closing QLinearSoftmax or QLinearSigmoid of onnxruntime's reads, as real numbers."""
    node = reading.closer
    if node is None or node.domain != "com.microsoft":
        return None
    shape = node.outputs[0].shape or value.shape
    real: ir.Value = e.DequantizeLinear(*node.inputs[:3], _dtype=ir.DataType.FLOAT, _shape=shape)
    renamed(real)
    return real


def renamed(value: ir.Value) -> None:
    """Give what was made the name that says so."""
    node = value.producer()
    assert node is not None
    value.name = node.name = MADE


def moved(model: ir.Model, reading: Reading, raw: ir.Value) -> ir.Value:
    """The scores as what is behind the closing operator moves and picks its classes."""
    found = raw
    for number, node in enumerate(reading.behind):
        if node.op_type in ("Identity", "Cast", "Dropout", "QuantizeLinear", "DequantizeLinear"):
            continue
        made = ir.Node(
            "", node.op_type, [found, *node.inputs[1:]], list(node.attributes.values()),
            num_outputs=len(node.outputs), name=f"backlight/moved_{number}",
        )  # fmt: skip
        at = next((i for i, v in enumerate(node.outputs) if _leads(v, reading)), 0)
        for index, (mine, theirs) in enumerate(zip(made.outputs, node.outputs, strict=True)):
            mine.name = f"backlight/moved_{number}" + (f"_{index}" if index else "")
            mine.shape, mine.type = theirs.shape, raw.type
        model.graph.append(made)
        found = made.outputs[at]
    return found


def _leads(value: ir.Value, reading: Reading) -> bool:
    """Whether a Split's output is the one that the head goes on with."""
    return value.is_graph_output() or any(u.node in reading.behind for u in value.uses())


def routed(e: Emitter, scores: ir.Value, routes: Routes) -> ir.Value:
    """Of each class the score that it follows, with its sign: [N, K]."""
    dims = all_dims(scores.shape)
    rows = dims[0] if dims else None
    flat = scores if len(dims) == 2 else e.Flatten(scores, axis=1)
    index = np.array(routes.index, np.int64)
    made: ir.Value = e.Gather(flat, index, axis=1, _shape=[rows, len(index)], _dtype=scores.dtype)
    if min(routes.signs) > 0:
        return made
    signs = e.const(np.array([routes.signs], np.float64), scores.dtype)
    return e.Mul(made, signs, _shape=made.shape, _dtype=scores.dtype)


def both(e: Emitter, of: ir.Value, reading: Reading, at: int = 1) -> ir.Value:
    """One score [N, 1] as two: of class `at`, and of the other one."""
    column, rows = of, None if of.shape is None or not len(of.shape) else dim_of(of.shape, 0)
    if of.shape is None or len(of.shape) != 2:
        column = e.Reshape(of, [-1, 1], _shape=[rows, 1])
    if reading.logits or reading.odds or reading.pair is not None:
        other = e.Neg(column)
    elif reading.log:
        # log(1 - exp(l)), to the same base
        power = column if reading.by == 1 else e.Mul(column, 1 / reading.by)
        other = e.Log(e.Sub(reading.scale, e.Exp(power)))
        other = other if reading.by == 1 else e.Mul(other, reading.by)
    else:
        other = e.Sub(reading.scale, column)
    other.shape = column.shape
    both = (other, column) if at else (column, other)
    return e.Concat(*both, axis=1, _shape=[rows, 2])


def probabilities(model: ir.Model, value: ir.Value, reading: Reading, binary: bool) -> ir.Value:
    """The probabilities that a model gives in `value`, [N, K]."""
    e = Emitter(model.graph, opset_of(model))
    made = value
    if reading.log:
        power = made if reading.by == 1 else e.Mul(made, 1 / reading.by)
        made = e.Sigmoid(power) if reading.odds else e.Exp(power)
    if reading.scale != 1:
        made = e.Mul(made, 1 / reading.scale)
    made = laid_out(e, made, no_batch(model.graph, value))
    if binary:
        made = both(e, made, Reading("Mixture", made, logits=False))
    if made is not value:
        made.name = "backlight/probabilities"
    return made
