"""LSTM, GRU and RNN, backwards through time, a few nodes per step.

The states that a layer gives out (Y) make all gates of all steps known at once: they are computed
again in one product. Only the cotangents go step by step.
"""

from __future__ import annotations

import onnx_ir as ir

from . import Cotangents, Emitter, Op, vjp
from .recurrence import C, Layer, P, R, W
from .shape import even_parts


def _filled(cts: Cotangents) -> tuple[ir.Value | None, ir.Value | None, ir.Value | None]:
    y, h, c = (*cts, None, None, None)[:3]
    return y, h, c


@vjp("LSTM", 14, 22, outputs="all", smooth=True)
def lstm(e: Emitter, op: Op, cts: Cotangents) -> Cotangents:
    """c = f c' + i g, h = o tanh(c); gates in the order i o f g. X: [T,N,I] -> Y: [T,D,N,H].

    Raises UnsupportedNode for a sequence of unknown length, peepholes, clip, input_forget.
    ONNX Operators, LSTM.
    """
    if op.input(P) is not None:
        raise op.unsupported("it has peepholes", "no input P")
    layer = Layer(e, op, 4, ("Sigmoid", "Tanh", "Tanh"))
    f, g, h = layer.functions
    a_i, a_o, a_f, a_g = layer.parted(layer.summed())
    i, o, keep, new = f.apply(e, a_i), f.apply(e, a_o), f.apply(e, a_f), g.apply(e, a_g)
    cells = [layer.state(C)]
    for kept, more in zip(layer.each(keep), layer.each(e.Mul(i, new)), strict=True):
        cells.append(e.Add(e.Mul(kept, cells[-1]), more))
    before, bent = layer.line(cells[:-1]), h.apply(e, layer.line(cells[1:]))
    slopes = (
        e.Mul(new, f.slope(e, i)),
        e.Mul(bent, f.slope(e, o)),
        e.Mul(before, f.slope(e, keep)),
        e.Mul(i, g.slope(e, new)),
    )
    factors = layer.each(layer.masked(layer.joined(*slopes)))
    into = layer.each(layer.masked(e.Mul(o, h.slope(e, bent))))
    keeps, held = layer.each(layer.masked(keep, 1.0)), layer.held()
    y, last_h, last_c = _filled(cts)
    d_y, d_h, d_c = layer.cotangents(y), layer.last(last_h), layer.last(last_c)
    made: list[ir.Value] = []
    for s in reversed(range(layer.steps)):
        total = layer.added(d_y[s], d_h)
        cell = layer.added(e.Mul(total, into[s]), d_c)
        made.append(e.Mul(layer.joined(cell, total, cell, cell), factors[s]))
        d_h = e.MatMul(made[-1], op.need(R))
        if held is not None:
            d_h = e.Add(d_h, e.Mul(total, held[s]))
        d_c = e.Mul(cell, keeps[s])
    d = layer.line(made[::-1])
    assert d_h is not None
    found = layer.given(d, d, d_h)
    if len(op) > C and op.wants[C]:
        assert d_c is not None
        found[C] = layer.to_state(d_c)
    return tuple(found)


@vjp("RNN", 14, 22, outputs="all", smooth=True)
def rnn(e: Emitter, op: Op, cts: Cotangents) -> Cotangents:
    """h = f(W x + R h' + b). X: [T,N,I] -> Y: [T,D,N,H]. ONNX Operators, RNN."""
    layer = Layer(e, op, 1, ("Tanh",))
    slopes, held = layer.each(layer.masked(layer.functions[0].slope(e, layer.h))), layer.held()
    y, last, _ = _filled(cts)
    d_y, d_h = layer.cotangents(y), layer.last(last)
    made: list[ir.Value] = []
    for s in reversed(range(layer.steps)):
        total = layer.added(d_y[s], d_h)
        made.append(e.Mul(total, slopes[s]))
        d_h = e.MatMul(made[-1], op.need(R))
        if held is not None:
            d_h = e.Add(d_h, e.Mul(total, held[s]))
    d = layer.line(made[::-1])
    assert d_h is not None
    return tuple(layer.given(d, d, d_h))


@vjp("GRU", 14, 22, outputs="all", smooth=True)
def gru(e: Emitter, op: Op, cts: Cotangents) -> Cotangents:
    """h = (1 - z) g + z h', g = tanh(W x + R (r h')), or with r outside of R's product
    (linear_before_reset); gates in the order z r g. X: [T,N,I] -> Y: [T,D,N,H].
    ONNX Operators, GRU."""
    layer = Layer(e, op, 3, ("Sigmoid", "Tanh"))
    y, last, _ = _filled(cts)
    d_y, d_h = layer.cotangents(y), layer.last(last)
    if op.attr("linear_before_reset", 0):
        return _gru_after(e, op, layer, d_y, d_h)
    f, g = layer.functions
    by_w = layer.product(layer.x, W)
    rows = even_parts(e, op.need(R), 1, 3)
    of_gates, of_new = e.op("Concat", rows[:2], axis=1)[0], rows[2]
    for bias in layer.biases() or ():
        by_w = e.Add(by_w, bias)
    a_z, a_r, a_g = layer.parted(by_w)
    turned = e.Transpose(of_gates, perm=[0, 2, 1])
    h_z, h_r = layer.parted(e.MatMul(layer.before, turned), 2)
    z, r = f.apply(e, e.Add(a_z, h_z)), f.apply(e, e.Add(a_r, h_r))
    reset = e.Mul(r, layer.before)
    new = g.apply(e, e.Add(a_g, e.MatMul(reset, e.Transpose(of_new, perm=[0, 2, 1]))))
    to_z = layer.each(layer.masked(e.Mul(e.Sub(layer.before, new), f.slope(e, z))))
    to_new = layer.each(layer.masked(e.Mul(e.Sub(1.0, z), g.slope(e, new))))
    to_r, opened = layer.each(e.Mul(layer.before, f.slope(e, r))), layer.each(r)
    keeps = layer.each(layer.masked(z, 1.0))
    made: list[ir.Value] = []
    for s in reversed(range(layer.steps)):
        total = layer.added(d_y[s], d_h)
        d_new = e.Mul(total, to_new[s])
        d_reset = e.MatMul(d_new, of_new)
        gates = layer.joined(e.Mul(total, to_z[s]), e.Mul(d_reset, to_r[s]))
        d_h = e.Add(e.Mul(total, keeps[s]), e.Mul(d_reset, opened[s]))
        d_h = e.Add(d_h, e.MatMul(gates, of_gates))
        made.append(layer.joined(gates, d_new))
    d = layer.line(made[::-1])
    d_recurrent = None
    if op.wants[R]:
        *d_gates, d_news = layer.parted(d)
        parts = [layer.outer(layer.joined(*d_gates), layer.before), layer.outer(d_news, reset)]
        d_recurrent = e.op("Concat", parts, axis=1)[0]
    assert d_h is not None
    return tuple(layer.given(d, d, d_h, d_recurrent))


def _gru_after(
    e: Emitter, op: Op, layer: Layer, d_y: list[ir.Value | None], d_h: ir.Value | None
) -> Cotangents:
    """g = tanh(W x + r (R h')): every gate's cotangent is a multiple of the state's."""
    f, g = layer.functions
    by_w, by_r = layer.product(layer.x, W), layer.product(layer.before, R)
    biases = layer.biases()
    if biases is not None:
        by_w, by_r = e.Add(by_w, biases[0]), e.Add(by_r, biases[1])
    (w_z, w_r, w_g), (r_z, r_r, r_g) = layer.parted(by_w), layer.parted(by_r)
    z, r = f.apply(e, e.Add(w_z, r_z)), f.apply(e, e.Add(w_r, r_r))
    new = g.apply(e, e.Add(w_g, e.Mul(r, r_g)))
    to_z = e.Mul(e.Sub(layer.before, new), f.slope(e, z))
    to_new = e.Mul(e.Sub(1.0, z), g.slope(e, new))
    to_r = e.Mul(to_new, e.Mul(r_g, f.slope(e, r)))
    factors = layer.each(layer.masked(layer.joined(to_z, to_r, e.Mul(to_new, r))))
    keeps = layer.each(layer.masked(z, 1.0))
    made: list[ir.Value] = []
    totals: list[ir.Value] = []
    for s in reversed(range(layer.steps)):
        total = layer.added(d_y[s], d_h)
        totals.append(total)
        made.append(e.Mul(layer.joined(total, total, total), factors[s]))
        d_h = e.Add(e.Mul(total, keeps[s]), e.MatMul(made[-1], op.need(R)))
    d_r, whole = layer.line(made[::-1]), layer.line(totals[::-1])
    d_z, d_reset, _ = layer.parted(d_r)
    d_w = layer.joined(d_z, d_reset, e.Mul(whole, layer.masked(to_new)))
    assert d_h is not None
    return tuple(layer.given(d_w, d_r, d_h))
