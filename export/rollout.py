"""Attention rollout: how much of each patch the class token has seen, through all layers at once.

The attention maps [N, heads, T, T] are what Softmax makes between two MatMuls, or what a fused
Attention is asked for. Each layer's rows are the tokens that look, its columns those looked at.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from itertools import takewhile

import numpy as np
import onnx_ir as ir

from ..errors import UnsupportedNode
from . import traits
from .backward import path
from .emit import dim_of
from .explaining import Explaining, Seed
from .finish import Walked
from .flow import rows_read
from .layer import Layer, token_cuts
from .rules.op import is_fixed
from .tokens import Grid, is_batched

__all__ = ["Attended", "attended", "cotangents", "gradient_rollout", "rollout"]

# Between the products of queries and keys, the Softmax, and the product with the values.
_BEHIND = traits.SAME | traits.QUANTIZES
_BEFORE = _BEHIND | {"Add", "Clip", "Div", "Mul", "Reshape", "Sub", "Where"}
# What an Attention puts out as its fourth output: the products behind the Softmax.
SOFTMAXED = 3


@dataclass(frozen=True)
class Attended:
    """The attention of a transformer. maps: of each layer, [N, heads, T, T], first layer first.
    rows: of the tokens that the scores are read from. layer: stands for the grid of the patches."""

    maps: tuple[ir.Value, ...]
    count: int
    rows: tuple[int, ...]
    layer: Layer

    @property
    def start(self) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
        """Where a rollout begins: the mean of the rows read, [1, 1, T]."""
        made = np.zeros((1, 1, self.count), np.float32)
        made[..., list(self.rows)] = 1 / len(self.rows)
        return made

    @property
    def grid(self) -> Grid:
        """Of the patches."""
        assert self.layer.grid is not None
        return self.layer.grid


def attended(x: Explaining) -> Attended:
    """The attention layers between the image and the scores. Raises UnsupportedNode where they
    aren't ones of all tokens to all tokens: none at all, windows (Swin), pyramids."""
    if "attention" not in x.varied:
        x.varied["attention"] = _attended(x)
    return x.varied["attention"]  # type: ignore[return-value]


def rollout(w: Walked) -> ir.Value:
    """The product of all layers' attention, heads averaged, each half itself for the residual way,
    rows summing to 1 (Abnar and Zuidema 2020); the row of the class token, or the mean over the
    tokens that are pooled: [N, h, w]. The same for every class."""
    e, found = w.x.e, attended(w.x)
    eye = np.eye(found.count, dtype=np.float32)[None]
    seen: ir.Value = e.const(found.start)
    for scores in reversed(found.maps):
        mixed = e.Add(_heads(w, scores), eye)
        mixed = e.Div(mixed, e.ReduceSum(mixed, [2], keepdims=1))
        seen = e.MatMul(seen, mixed, _shape=[w.x.batch, 1, found.count])
    return _placed(w, found, seen)


def gradient_rollout(w: Walked) -> ir.Value:
    """As `rollout`, each layer's attention weighted by its own gradient, what is above 0 of it, and
    added to what came through before: R + a R, a the mean over heads of relu(a da) (Chefer et al.
    2021)."""
    e, found = w.x.e, attended(w.x)
    seen: ir.Value = e.const(found.start)
    for scores, ct in reversed(list(zip(found.maps, cotangents(w.x, w.seed), strict=True))):
        wide = [e.cast(v, ir.DataType.FLOAT) for v in (scores, ct)]
        kept = e.Relu(e.Mul(*wide, _shape=scores.shape))
        further = e.MatMul(seen, _heads(w, kept), _shape=[w.x.batch, 1, found.count])
        seen = e.Add(seen, further, _shape=[w.x.batch, 1, found.count])
    return _placed(w, found, seen)


def cotangents(x: Explaining, seed: Seed) -> list[ir.Value]:
    """Of the attention maps. Raises UnsupportedNode for a fused Attention, in which no gradient
    stops at them."""
    found = attended(x)
    for scores in found.maps:
        node = scores.producer()
        if node is not None and node.op_type == "Attention":
            raise UnsupportedNode(
                f"Attention '{node.name}' is fused: no gradient by what is inside it; take "
                "rollout, or a model with Softmax and MatMul of its own (opset 22 or below)"
            )
    return x.walk("vanilla", seed, found.maps)


def _heads(w: Walked, scores: ir.Value) -> ir.Value:
    """The mean over heads, [N, T, T], in float32."""
    e = w.x.e
    assert scores.shape is not None
    shape = [dim_of(scores.shape, a) for a in (0, 2, 3)]
    return e.ReduceMean(e.cast(scores, ir.DataType.FLOAT), [1], keepdims=0, _shape=shape)


def _placed(w: Walked, found: Attended, seen: ir.Value) -> ir.Value:
    """A row [N, 1, T] as a map of the patches, [N, h, w]."""
    e = w.x.e
    row = e.Squeeze(seen, [1], _shape=[w.x.batch, found.count])
    return found.grid.folded(e, found.grid.patches(e, row, 1), [w.x.batch])


def _attended(x: Explaining) -> Attended:
    of, image = x.of[0], x.wrt[0]
    nodes = path([of], [image])[0]
    layers = [n for n in nodes if n.op_type == "Attention" or _is_attention(n)]
    if not layers:
        raise UnsupportedNode(
            f"no attention between '{image.name}' and '{of.name}': rollout follows that of a "
            "vision transformer; take gradcam, which any network has"
        )
    last = layers[-1]
    # The last ones come first: in front of one that the attention lies behind, it does so too.
    behind = takewhile(lambda c: last not in path([of], [c.value])[0], token_cuts(of, image))
    found = deque(behind, maxlen=1)
    if not found:
        raise _partial(last, "not all tokens at once")
    after = found[0]
    grid = after.grid
    assert grid is not None
    maps = [_scores_of(x, node) for node in layers]
    first = maps[0].shape
    count = None if first is None else dim_of(first, len(first) - 1)
    if not isinstance(count, int):
        raise UnsupportedNode(
            f"{layers[0].op_type} '{layers[0].name}': the number of tokens is open; "
            "supported: images of a fixed size ('backlight export --shape INPUT=1,3,224,224')"
        )
    for node, value in zip(layers, maps, strict=True):
        dims = None if value.shape is None else [dim_of(value.shape, a) for a in (-2, -1)]
        square = dims == [count, count] and value.shape is not None and len(value.shape) == 4
        if not square or not is_batched(value, image):
            shown = "?" if value.shape is None else ",".join(str(d) for d in value.shape)
            raise _partial(node, f"its attention is [{shown}]")
    if grid.count is not None and count < grid.count:
        raise _partial(last, f"of {count} tokens, where the image has {grid.count} patches")
    rows = rows_read(of, after.value, after.token_axis, grid, count)
    many = f"all {len(maps)} attention layers" if len(maps) > 1 else "the one attention layer"
    layer = Layer(maps[-1], 2, f"{many} from the image to the scores", grid)
    return Attended(tuple(maps), count, tuple(rows), layer)


def _is_attention(node: ir.Node) -> bool:
    """Whether a Softmax lies between the product of queries and keys and that with the values."""
    if node.op_type != "Softmax" or node.outputs[0].shape is None:
        return False
    rank = len(node.outputs[0].shape)
    if rank < 3 or node.attributes.get_int("axis", -1) % rank != rank - 1:
        return False
    waiting, made = [node.inputs[0]], False
    seen = set(waiting)
    while waiting and not made:
        value = waiting.pop()
        source = None if value is None or is_fixed(value) else value.producer()
        if source is not None and source.op_type in ("MatMul", "Einsum"):
            made = sum(not is_fixed(v) for v in source.inputs) > 1
        elif source is not None and source.op_type in _BEFORE:
            new = [v for v in source.inputs if v not in seen]
            seen.update(new)
            waiting += new
    reading = [node.outputs[0]]
    while made and reading:
        for use in reading.pop().uses():
            if use.node.op_type in _BEHIND:
                reading.append(use.node.outputs[0])
            elif use.node.op_type in ("MatMul", "Einsum"):
                return sum(not is_fixed(v) for v in use.node.inputs) > 1
    return False


def _scores_of(x: Explaining, node: ir.Node) -> ir.Value:
    """The attention map of a layer; an Attention is asked for it."""
    if node.op_type != "Attention":
        return node.outputs[0]
    taken = node.attributes.get_int("qk_matmul_output_mode", 0)
    outputs = list(node.outputs)
    used = len(outputs) > 3 and bool(outputs[3].uses() or outputs[3].is_graph_output())
    if used and taken != SOFTMAXED:
        raise UnsupportedNode(
            f"Attention '{node.name}': its products go out as mode {taken}; rollout needs those "
            "behind the Softmax, qk_matmul_output_mode 3"
        )
    if len(outputs) < 4:
        node.resize_outputs(4)
        for index, value in enumerate(node.outputs):
            # Left out is an output without a name.
            value.name = value.name or (x.e.name("attention") if index == 3 else "")
    node.attributes["qk_matmul_output_mode"] = ir.AttrInt64("qk_matmul_output_mode", SOFTMAXED)
    made = node.outputs[3]
    if made.shape is None:
        made.shape = _shape_of_fused(node)
    if made.type is None:
        made.type = node.outputs[0].type
    return made


def _shape_of_fused(node: ir.Node) -> ir.Shape | None:
    query, keys = node.inputs[0], node.inputs[1]
    if query is None or keys is None or query.shape is None or keys.shape is None:
        return None
    wide = len(query.shape) == 4
    heads = dim_of(query.shape, 1) if wide else node.attributes.get_int("q_num_heads", 0)
    dims = [dim_of(v.shape, 2 if wide else 1) for v in (query, keys) if v.shape is not None]
    return ir.Shape([dim_of(query.shape, 0), heads, *dims])


def _partial(node: ir.Node, why: str) -> UnsupportedNode:
    return UnsupportedNode(
        f"{node.op_type} '{node.name}': {why}; rollout needs attention of all tokens to all tokens "
        "in every layer (no windows as in Swin, no pyramid, no maps behind it); take gradcam"
    )
