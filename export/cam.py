"""Class activation maps: what becomes of a layer and its cotangent, [N, K, h, w] each.

A signed map [N, h, w] goes out; the closing Relu and the image's size are the builder's.
"""

from __future__ import annotations

import onnx_ir as ir

from . import choose
from .enlarge import resized
from .finish import Walked
from .head import pooled_linear
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
    return _weighted(w, w.x.e.ReduceMean(w.ct, PLACES, keepdims=1))


def grad_cam_pp(w: Walked) -> ir.Value:
    """Channels weighted by sum relu(g) / (2 + g sum(A)): the formula of Chattopadhay et al. 2018
    with g squared cancelled, so that nothing underflows. Where the denominator isn't above 0,
    which takes a layer with negative values, a position doesn't count."""
    e = w.x.e
    below = e.Add(e.Mul(w.ct, e.ReduceSum(w.primal, PLACES, keepdims=1)), 2.0)
    sound = e.Greater(below, 0.0)
    alpha = e.Where(sound, e.Div(e.Relu(w.ct), e.Where(sound, below, 1.0)), 0.0)
    return _weighted(w, e.ReduceSum(alpha, PLACES, keepdims=1))


def x_grad_cam(w: Walked) -> ir.Value:
    """Channels weighted by sum(g A) / sum(A), 0 where that sum is 0 (Fu et al. 2020)."""
    e = w.x.e
    total = e.ReduceSum(w.primal, PLACES, keepdims=1)
    empty = e.Equal(total, 0.0)
    weights = e.Div(
        e.ReduceSum(e.Mul(w.ct, w.primal), PLACES, keepdims=1), e.Where(empty, 1.0, total)
    )
    return _weighted(w, e.Where(empty, 0.0, weights))


def hires_cam(w: Walked) -> ir.Value:
    """sum(g A) over channels, place by place (Draelos and Carin 2020)."""
    return _weighted(w, w.ct)


def layer_cam(w: Walked) -> ir.Value:
    """sum(relu(g) A) over channels, place by place (Jiang et al. 2021)."""
    return _weighted(w, w.x.e.Relu(w.ct))


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
        rival = _weighted(w, e.ReduceMean(w.seeded(against(rank)), PLACES, keepdims=1))
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


def _weighted(w: Walked, weights: ir.Value) -> ir.Value:
    """sum over channels of weights times the layer: [N, h, w]."""
    e = w.x.e
    return e.ReduceSum(e.Mul(weights, w.primal), [1], keepdims=0)
