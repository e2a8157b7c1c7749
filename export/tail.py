"""The head of a model alone: from an inner layer to the class scores."""

from __future__ import annotations

from dataclasses import dataclass, replace

import onnx_ir as ir

from ..errors import UsageError
from . import choose, scores
from .backward import path
from .flow import Flow
from .graph import Loaded, load
from .layer import Layer, default_layer, named_layer, token_cuts
from .unused import remove_unused

__all__ = ["Tail", "spatial_layer", "tail"]


@dataclass(frozen=True)
class Tail:
    """A model from a layer to its class scores.

    model: its input `layer` takes the layer's values, [N, ...]; its output `scores`, [N, K] before
    what closes them. image: the image input, where sizes of it are still asked for; None: it isn't
    needed. closing: what closes the scores, see `scores.leave_scores`.
    """

    model: ir.Model
    layer: str
    scores: str
    image: str | None
    closing: str | None


def spatial_layer(model: Loaded, name: str | None, of: str | None = None) -> Layer:
    """The layer that a name means; None: the last one before the head that every way goes through,
    with patches that reach the scores. The model is not changed. Raises ModelError or UsageError,
    see `layer.named_layer`."""
    loaded = load(model)
    image = choose.image_input(loaded.graph)
    found = scores.score(loaded, of).of
    if name is None:
        best = default_layer(found, image.wrt)
        if best.grid is None:
            return best
        # Behind the last attention a score may read the class token alone; in a block there is a
        # way around every norm.
        for layer in token_cuts(found, image.wrt):
            assert layer.grid is not None
            if Flow(found, layer.value, layer.token_axis, layer.grid).arrives:
                reason = "the last tokens that every way goes through and whose patches are read"
                return replace(layer, reason=reason)
        return best
    return named_layer(loaded.graph, name, [found], image.wrt)


def tail(model: Loaded, layer: str, of: str | None = None) -> Tail:
    """What lies behind a layer. layer: a tensor's full name. of: the tensor that holds the scores.

    Raises UsageError where the scores also depend on the image in a way around the layer.
    """
    loaded = load(model)
    image, found, closing, _ = scores.leave_scores(loaded, of)
    graph = loaded.graph
    value = choose.tensor(graph, layer, weights=False)
    given = ir.Value(name=layer, shape=value.shape, type=value.type)
    value.name = f"{layer}/own"
    ir.convenience.replace_all_uses_with(value, given)
    graph.inputs.append(given)
    remove_unused(loaded)
    around = path([found], [image])[0]
    if around:
        raise UsageError(
            f"layer '{layer}': the score also reads the image in a way around it, through "
            f"'{around[0].outputs[0].name}'; expected a tensor that every way goes through"
        )
    graph.inputs[:] = [v for v in graph.inputs if v.uses() or v is given]
    left = image.name if image in graph.inputs else None
    return Tail(loaded, layer, str(found.name), left, closing)
