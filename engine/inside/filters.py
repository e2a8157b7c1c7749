"""A convolution's weights as pictures: what the first layer looks for, in colour."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from PIL import Image

from ... import arguments as take
from ...errors import ModelError, UsageError, hint
from ...export import choose, traits
from ...export.graph import ModelLike
from ...export.preprocess import Preprocess, of_metadata
from ...export.preprocess import given as given_preprocess
from ...export.rules.op import constant
from ...export.sizes import Shapes
from ..classifier.ready import Ready
from ..photos.images import Pixels
from ..pictures.grid import Row, Tile, sheet, tiled
from .patch_embedding import patch_embedding
from .taps import CONVOLUTIONS, named

__all__ = ["Filters", "filters"]

PER = ("filter", "layer")
NONE = "no convolution and no linear layer over pixels, so no filters to show"
# Between a convolution and the tensor a person names it by, or between the image and it.
# Axes may be added or turned, and borders, but nothing is reshaped.
_POINTWISE = traits.ELEMENTWISE | {
    "BatchNormalization", "Pad", "Squeeze", "Transpose", "Unsqueeze",
}  # fmt: skip


@dataclass(frozen=True)
class Filters:
    """Weights of a layer.

    layer: the tensor that the convolution makes. weights: [K, C, h, w]: filters, input channels
    (of their group), rows, columns. color: "RGB" or "BGR" when the channels are the image's
    colours, else None.
    """

    layer: str
    weights: NDArray[Any]
    strides: tuple[int, ...]
    groups: int
    color: str | None

    def picture(
        self,
        which: Sequence[int] | None = None,
        *,
        per: str = "filter",
        limit: int | None = None,
        channels: Sequence[int] | None = None,
        title: str = "",
    ) -> Image.Image:
        """Tiles: in colour for the first layer, else (and where input channels are named) grey, a
        row per filter and a tile per input channel. Mid-grey is 0.

        which: filters to show; None: the first `limit` (default: 256 in colour, 16 in grey).
        channels: input channels of grey tiles; None: the first 16.
        per: "filter": each filter (row) uses the full range; "layer": all share one.
        Raises UsageError for a filter or channel that isn't there, or another `per`.
        """
        if per not in PER:
            raise UsageError.unknown("per", per, PER)
        count, depth, height, width = self.weights.shape
        color = self.color if channels is None else None
        limit = (256 if color else 16) if limit is None else limit
        chosen = _chosen(which, count, limit, "filter")
        values = self.weights[chosen].astype(np.float32)
        peak = np.abs(values if per == "filter" else self.weights).reshape(
            len(values) if per == "filter" else 1, -1
        )
        top = np.maximum(peak.max(axis=1), np.finfo(np.float32).tiny).reshape(-1, 1, 1, 1)
        grey = np.rint(127.5 + 127.5 * np.clip(values / top, -1, 1)).astype(np.uint8)
        shown = f"{len(chosen)} of {count} filters" if len(chosen) < count else f"{count} filters"
        size = f"{height} x {width}, stride {' x '.join(map(str, self.strides))}"
        scope = "of its filter" if per == "filter" else f"of the layer ({float(peak.max()):.3g})"
        note = f"Normalised per {per}: mid-grey is 0, full brightness or darkness is the largest |weight| {scope}."  # noqa: E501
        heading = title or f"Filters of {self.layer}"
        if color is not None:
            tiles = [Tile(_rgb(v, color), str(k)) for k, v in zip(chosen, grey, strict=True)]
            columns = min(16, max(8, round(len(tiles) ** 0.5)))
            detail = f"{shown}, {depth} x {size}; in colour ({color} weights)"
            return sheet(heading, [detail], tiled(tiles, columns), _side(height, width), note)
        picked = _chosen(channels, depth, 16, "input channel")
        rows = [
            Row(
                [Tile(_grey(v[c]), str(c)) for c in picked],
                f"filter {k}",
                "" if self.groups == 1 else f"group {k // max(count // self.groups, 1)}",
            )
            for k, v in zip(chosen, grey, strict=True)
        ]
        part = f"{len(picked)} of {depth}" if len(picked) < depth else f"{depth}"
        detail = f"{shown}, {part} input channels (their numbers below), {size}" + (
            f", {self.groups} groups" if self.groups > 1 else ""
        )
        return sheet(heading, [detail], rows, _side(height, width, 44), note)


def _side(height: int, width: int, smallest: int = 64) -> int:
    longest = max(height, width)
    return longest * -(-smallest // longest) if longest < smallest else min(longest, 96)


def _rgb(values: Pixels, color: str) -> Pixels:
    turned = values.transpose(1, 2, 0)
    return turned[..., ::-1] if color == "BGR" else turned


def _grey(values: Pixels) -> Pixels:
    return np.repeat(values[..., None], 3, axis=2)


def _chosen(given: Sequence[int] | None, count: int, limit: int, what: str) -> list[int]:
    if given is None:
        if limit < 1:
            raise UsageError(f"limit {limit}; expected 1 or more")
        return list(range(min(count, limit)))
    if not len(given):
        raise UsageError(f"no {what} given; the layer has 0 to {count - 1}")
    for number in given:
        if not 0 <= number < count:
            raise UsageError(f"{what} {number} is out of range; the layer has 0 to {count - 1}")
    return list(given)


@take.accepts(layer=take.text, preprocess=given_preprocess)
def filters(
    model: ModelLike | Ready,
    layer: str | None = None,
    *,
    preprocess: Preprocess | None = None,
    shapes: Shapes | None = None,
) -> Filters:
    """The filters of a layer; default: the first convolution, or a linear layer that reads patches
    of the image (or all of it) before any convolution.

    model: a path, bytes or an onnx.ModelProto. layer: the tensor that a convolution makes, or
    what an activation or a normalisation makes of it, or the node's name.
    preprocess: says in which order the image's colours come; default: the model's own, else RGB.
    shapes: of inputs whose shape the model leaves open, by name.
    Raises UsageError for a tensor that no convolution makes, ModelError for a model without any.
    """
    ready = Ready.of(model, shapes)
    graph = ready.loaded.graph
    found = [n for n in graph if n.op_type in CONVOLUTIONS and n.domain == ""]
    own = preprocess or of_metadata(ready.metadata, ready.name)
    order = "RGB" if own is None or own.color == "L" else own.color
    linear = None
    if layer is not None:
        linear = _behind(graph, layer, ("MatMul", "Gemm"))
    elif not found or not _reads_image(graph, found[0]):
        linear = next((n for n in graph if n.op_type in ("MatMul", "Gemm")), None)
    if linear is not None:
        dense = patch_embedding(ready.loaded)
        if dense is not None and (layer is None or dense.layer == linear.outputs[0].name):
            colors = order if dense.weights.shape[1] == 3 else None
            return Filters(dense.layer, dense.weights, dense.strides, 1, colors)
        if dense is not None and not found:
            raise UsageError(
                f"no convolution makes '{layer}', nor is it a patch embedding; there is "
                f"'{dense.layer}'"
            )
    if not found:
        raise ModelError(f"{Path(ready.source).name}: {NONE}")
    node = found[0] if layer is None else _convolution(graph, layer)
    weights = constant(node.inputs[1])
    label = node.outputs[0].name or ""
    if weights is None:
        raise UsageError(f"the weights of '{label}' are computed when the model runs; no filters")
    if weights.ndim != 4:
        raise UsageError(
            f"'{label}' is no convolution over pictures: its weights are {list(weights.shape)}; "
            "expected [filters, channels, rows, columns]"
        )
    groups = node.attributes.get_int("group", 1)
    if node.op_type == "ConvTranspose":  # [C, K/g, h, w]
        c, each, *kernel = weights.shape
        weights = weights.reshape(groups, c // groups, each, *kernel).swapaxes(1, 2)
        weights = weights.reshape(groups * each, c // groups, *kernel)
    color = None
    if weights.shape[1] == 3 and groups == 1 and _reads_image(graph, node):
        color = order
    strides = tuple(node.attributes.get_ints("strides", [1, 1]))
    return Filters(label, np.asarray(weights), strides, groups, color)


def _convolution(graph: ir.Graph, layer: str) -> ir.Node:
    """The convolution behind a name."""
    if layer in graph.initializers:  # the weight itself
        users = [u.node for u in graph.initializers[layer].uses()]
        if users and users[0].op_type in CONVOLUTIONS:
            return users[0]
    found = _behind(graph, layer, CONVOLUTIONS)
    if found is not None:
        return found
    names = [n.outputs[0].name for n in graph if n.op_type in CONVOLUTIONS]
    raise UsageError(
        f"no convolution makes '{layer}'; convolutions: {', '.join(str(n) for n in names[:4])}"
        + (" … (--list shows them all)" if len(names) > 4 else "")
        + hint(layer, map(str, names))
    )


def _behind(graph: ir.Graph, layer: str, operators: Sequence[str]) -> ir.Node | None:
    """The node of one of the operators that makes a tensor, or what is done to it value by value.
    Raises UsageError for an unknown name."""
    if layer in graph.initializers:
        return None
    value: ir.Value | None = named(graph, layer)
    while value is not None and (node := value.producer()) is not None:
        if node.op_type in operators:
            return node
        if node.op_type not in _POINTWISE:
            return None
        value = next((v for v in node.inputs if v is not None and constant(v) is None), None)
    return None


def _reads_image(graph: ir.Graph, node: ir.Node) -> bool:
    """Whether nothing but pointwise arithmetic lies between the image and a convolution."""
    value = node.inputs[0]
    while value is not None and (before := value.producer()) is not None:
        if before.op_type not in _POINTWISE:
            return False
        value = next((v for v in before.inputs if v is not None and constant(v) is None), None)
    if value is not None and value.is_graph_input() and value.shape is None:
        return True  # weights say enough
    return value is choose.image_input(graph).input
