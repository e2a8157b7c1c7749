"""Class activation maps: what becomes of a layer and its cotangent, [N, K, h, w] each.

A signed map [N, h, w] goes out; the closing Relu and the image's size are the builder's.
"""

from __future__ import annotations

from math import prod

import numpy as np
import onnx_ir as ir

from . import choose
from .emit import all_dims
from .enlarge import resized
from .finish import Walked
from .head import pooled_linear
from .places import even, mean
from .seed import against

__all__ = [
    "causal",
    "class_map",
    "class_maps",
    "grad_cam",
    "grad_cam_pp",
    "guided_grad_cam",
    "hires_cam",
    "layer_cam",
    "negative",
    "x_grad_cam",
]

PLACES = [2, 3]
# How many other classes Causal-CAM tells the class from.
RIVALS = 5


def grad_cam(w: Walked) -> ir.Value:
    """Channels weighted by the mean of their cotangent (Selvaraju et al. 2017)."""
    return _weighted(w, mean(w.x.e, w.ct))


def grad_cam_pp(w: Walked) -> ir.Value:
    """Channels weighted by sum relu(g) / (2 + g sum(A)): the formula of Chattopadhay et al. 2018
    with g squared cancelled, so that nothing underflows. Where the denominator isn't above 0,
    which takes a layer with negative values, a position doesn't count."""
    assert w.layer is not None
    e, ct = w.x.e, _narrowest(w)
    above = e.Relu(ct)
    below = e.Add(e.Mul(above, _total(w, _as(w, ct))), 2.0)
    if w.layer.never_negative:
        alpha = e.Div(above, below)
    else:
        sound = e.Greater(below, 0.0)
        alpha = e.Where(sound, e.Div(above, e.Where(sound, below, 1.0)), 0.0)
    if ct is w.ct:
        return _weighted(w, _total(w, alpha))
    places = prod(int(str(d)) for d in all_dims(w.ct.shape)[2:])
    return _weighted(w, e.Mul(alpha, float(places), _shape=ct.shape))


def x_grad_cam(w: Walked) -> ir.Value:
    """Channels weighted by sum(g A) / sum(A), 0 where that sum is 0 (Fu et al. 2020)."""
    e, ct = w.x.e, _narrowest(w)
    primal = _as(w, ct)
    total = _total(w, primal)
    empty = e.Equal(total, 0.0)
    if ct is w.ct:
        ct = e.Div(_total(w, e.Mul(ct, primal)), e.Where(empty, 1.0, total))
    return _weighted(w, e.Where(empty, 0.0, ct))


def hires_cam(w: Walked) -> ir.Value:
    """sum(g A) over channels, place by place (Draelos and Carin 2020)."""
    return _weighted(w, _narrowest(w))


def layer_cam(w: Walked) -> ir.Value:
    """sum(relu(g) A) over channels, place by place (Jiang et al. 2021)."""
    return _weighted(w, w.x.e.Relu(_narrowest(w)))


def negative(w: Walked) -> ir.Value:
    """Minus Grad-CAM: what speaks against the class (Selvaraju et al. 2017, section on
    counterfactual explanations)."""
    return w.x.e.Neg(grad_cam(w))


def class_map(w: Walked) -> ir.Value:
    """The layer through the class's own weights (Zhou et al. 2016): the cotangent of the scores by
    the classifier's matrix, on every place. Without the bias. Raises UnsupportedNode for a head
    that isn't pooled and linear."""
    assert w.layer is not None
    head = pooled_linear(w.x.of[0], w.layer)
    weights = head.weights(w.x.e, w.x.flat_cotangent(w.seed))
    return _weighted(w, w.x.e.Unsqueeze(weights, PLACES))


def class_maps(w: Walked) -> ir.Value:
    """The layer through every class's own weights (Zhou et al. 2016): [N, K, h, w]. Raises
    UnsupportedNode as `class_map` does."""
    assert w.layer is not None
    return pooled_linear(w.x.of[0], w.layer).maps(w.x.e, w.primal)


def causal(w: Walked) -> ir.Value:
    """Grad-CAM of the class without what tells it from other classes: relu(G - B), each between 0
    and 1, B the largest of its contrasts with the five strongest other classes (Prabhushankar and
    AlRegib 2021, whose abstract defines it so; no code of theirs exists)."""
    e = w.x.e
    mine = _between_0_and_1(w, e.Relu(grad_cam(w)))
    context: ir.Value | None = None
    for rank in range(RIVALS):
        rival = _weighted(w, mean(e, w.seeded(against(rank))))
        one = _between_0_and_1(w, e.Relu(rival))
        context = one if context is None else e.Max(context, one)
    assert context is not None
    return e.Sub(mine, context)


def guided_grad_cam(w: Walked) -> ir.Value:
    """The guided gradient by the image times Grad-CAM of the layer, rectified and brought to the
    image's size (Selvaraju et al. 2017). The layer's walk is the vanilla one."""
    assert w.layer is not None
    e, image = w.x.e, w.x.wrt[0]
    guided = w.x.walk("guided", w.seed, [image])[0]
    heat = resized(e, e.Relu(grad_cam(w)), w.layer, w.x)
    axis = choose.channel_axis(image)
    return e.Mul(guided, e.Unsqueeze(heat, [axis]), _shape=image.shape)


def _between_0_and_1(w: Walked, values: ir.Value) -> ir.Value:
    """Each row's map [N, h, w], stretched to 0..1; a constant one is 0."""
    e = w.x.e
    low = e.ReduceMin(values, [1, 2], keepdims=1)
    span = e.Sub(e.ReduceMax(values, [1, 2], keepdims=1), low)
    return e.Div(e.Sub(values, low), e.Where(e.Greater(span, 0.0), span, 1.0))


def _narrowest(w: Walked) -> ir.Value:
    """The cotangent; [N, K, 1, 1] where it is known to be the same at every place."""
    flat = even(w.ct)
    known = all(isinstance(d, int) for d in all_dims(w.ct.shape)[2:])
    return w.ct if flat is None or not known else flat


def _total(w: Walked, values: ir.Value) -> ir.Value:
    """The sum over places: [N, K, 1, 1]."""
    shape = [*all_dims(w.primal.shape)[:2], 1, 1]
    return w.x.e.ReduceSum(values, PLACES, keepdims=1, _shape=shape)


def _as(w: Walked, other: ir.Value) -> ir.Value:
    """The layer in another tensor's type: of a file of float16, cotangents are wider."""
    return w.primal if other.dtype is None else w.x.e.cast(w.primal, other.dtype)


def _weighted(w: Walked, weights: ir.Value) -> ir.Value:
    """sum over channels of weights [N, K, h, w] or [N, K, 1, 1] times the layer: [N, h, w]."""
    e, dims, primal = w.x.e, all_dims(w.primal.shape), _as(w, weights)
    sizes = [int(d) for d in dims[1:] if isinstance(d, int)]
    if len(sizes) < 3:
        return e.ReduceSum(e.Mul(weights, primal), [1], keepdims=0)
    channels, height, width = sizes
    batch, places = dims[0], height * width
    # As a product of matrices: half the passes over the layer.
    if all_dims(weights.shape)[2:] == [1, 1]:
        row, maps = e.Reshape(weights, [-1, 1, channels], _shape=[batch, 1, channels]), primal
    else:
        row = e.const(np.ones((1, 1, channels)), weights.dtype)
        maps = e.Mul(weights, primal, _shape=dims)
    maps = e.Reshape(maps, [-1, channels, places], _shape=[batch, channels, places])
    made = e.MatMul(row, maps, _shape=[batch, 1, places])
    return e.Reshape(made, [-1, height, width], _shape=[batch, height, width])
