"""Any tensor inside a model as an output, by name: the one way to look inside.

    taps = Taps("model.onnx", ["fire4", "conv10"])
    found = taps(taps.load(["cat.jpg"]))      # {"fire4": [1,256,27,27], "conv10": [1,1000,13,13]}

What the asked tensors don't need isn't computed. The model itself is not changed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes import common

from ...errors import ImageError, ModelError, UsageError
from ...export import choose
from ...export.graph import ModelLike, load
from ...export.lone import is_lone
from ...export.preprocess import PRESETS, Preprocess, of_metadata, preset
from ...export.receptive import ReceptiveField, receptive_fields
from ...export.sizes import Shapes
from ..classifier import labels
from ..photos import images
from ..runtime.session import Providers, Session, dims_of, numpy_dtype
from .patch_embedding import patch_embedding

__all__ = ["Layer", "Taps", "layers", "named", "tap"]

CONVOLUTIONS = ("Conv", "ConvTranspose")
# A graph needs an output; where only its input is asked for, a copy that nobody sees.
COPY = "/backlight-tap"


def named(graph: ir.Graph, name: str) -> ir.Value:
    """A tensor that the model computes, by its name or its node's. Raises UsageError."""
    return choose.tensor(graph, name, weights=False)


def tap(
    model: ModelLike,
    names: Sequence[str],
    *,
    keep: bool = False,
    shapes: Shapes | None = None,
) -> tuple[ir.Model, tuple[str, ...]]:
    """A copy of the model whose outputs are the named tensors, and their full names.

    keep: also the model's own outputs, first. Nodes and inputs that no output needs are gone.
    shapes: of inputs, as in `backlight.export`.
    Raises ModelError, UsageError.
    """
    if not names:
        raise UsageError("no layer given; expected the name of a tensor or node, or several")
    loaded = load(model, shapes=shapes)
    graph = loaded.graph
    found = list(dict.fromkeys(named(graph, name) for name in names))
    own = list(graph.outputs) if keep else []
    graph.outputs.clear()
    # An input that is asked for is fed, not computed: `Taps` gives it back itself.
    graph.outputs.extend(dict.fromkeys([*own, *(v for v in found if v.producer() is not None)]))
    if not graph.outputs:
        graph.outputs.append(_copied(graph, found[0]))
    common.RemoveUnusedNodesPass()(loaded)
    for value in list(graph.inputs):
        if not value.uses() and value not in found:
            graph.inputs.remove(value)
    return loaded, tuple(v.name or "" for v in found)


def _copied(graph: ir.Graph, value: ir.Value) -> ir.Value:
    node = ir.Node("", "Identity", [value], name="backlight/tap")
    copy = node.outputs[0]
    copy.name, copy.shape, copy.type = f"{value.name}{COPY}", value.shape, value.type
    graph.append(node)
    return copy


class Taps:
    """A model that gives its inner tensors.

    model: a path, bytes or an onnx.ModelProto. names: of tensors, or of nodes.
    providers, threads, shapes: as in `backlight.Explainer`.

    Raises ModelError, or UsageError for an unknown tensor, with the nearest names.
    """

    def __init__(
        self,
        model: ModelLike,
        names: Sequence[str],
        *,
        keep: bool = False,
        providers: Providers = None,
        threads: int | None = None,
        shapes: Shapes | None = None,
    ) -> None:
        self.model, self.names = tap(model, names, keep=keep, shapes=shapes)
        self.name = Path(model).stem if isinstance(model, (str, Path)) else "the model"
        self.metadata: dict[str, str] = dict(self.model.metadata_props)
        image = choose.image_input(self.model.graph)
        self._axis = choose.channel_axis(image.input)
        self._image = image.input.name or ""
        self._lone = is_lone(image.input)
        others = [v.name for v in self.model.graph.inputs if v.name != self._image]
        if others:
            raise ModelError(
                f"the model takes '{others[0]}' besides the image '{self._image}'; "
                "expected a model with one input"
            )
        self.session = Session(self.model, providers, threads)
        self.notes = list(self.session.notes)
        declared = {i.name: i for i in self.session.inputs}[self._image]
        self._dims, self._dtype = dims_of(declared.shape), numpy_dtype(declared.type)

    @cached_property
    def input(self) -> images.InputSpec:
        """The image input. Raises ModelError where pictures can't be fed to it."""
        return images.layout_of(self._image, self._dims, self._dtype, self._axis)

    @property
    def labels(self) -> list[str] | None:
        """The class names that the model's metadata gives."""
        return labels.of_model(self.metadata, self.name, None)

    @property
    def preprocess(self) -> Preprocess | None:
        """How the model's metadata wants its images, or None."""
        return of_metadata(self.metadata, self.name)

    def settled(self, preprocess: Preprocess | str | None = None) -> Preprocess:
        """A preset's name, a record, or the model's own, with its size settled for this input.
        Raises UsageError where none of them says how."""
        chosen: Preprocess | None
        if isinstance(preprocess, str):
            chosen = preset(preprocess)
        else:
            chosen = preprocess or self.preprocess
        if chosen is None:
            raise UsageError(
                f"{self.name} doesn't say how it wants its images; "
                f"give preprocess, one of: {', '.join(PRESETS)}"
            )
        return images.fitted(chosen, self.input)

    def load(
        self, paths: Sequence[str | Path], preprocess: Preprocess | str | None = None
    ) -> NDArray[Any]:
        """Image files as one batch for this model. Raises ImageError or UsageError."""
        settled = self.settled(preprocess)
        read = (images.prepare(images.decode(p), settled, self.input) for p in paths)
        return np.stack([prepared.tensor for prepared in read])

    def __call__(self, x: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """The tensors of a batch, [N, ...] each, by their full names (and the model's outputs,
        with keep=True). A batch that the model fixes is filled up.

        Raises ImageError for a batch that doesn't fit, UsageError for a tensor without a row per
        image.
        """
        dims = (None, *self._dims[1:])
        if self._lone and x.ndim == len(dims) - 1:
            x = x[None]
        fits = x.ndim == len(dims) and all(
            d is None or d == have for d, have in zip(dims, x.shape, strict=True)
        )
        if not fits or x.dtype != self._dtype or 0 in x.shape:
            shown = ",".join("N" if d is None else str(d) for d in dims)
            raise ImageError(
                f"the input is {x.dtype} {list(x.shape)}; expected {self._dtype.name} [{shown}]"
            )
        fixed = self._dims[0]
        step = len(x) if fixed is None else fixed
        parts = []
        for at in range(0, len(x), step):
            rows = x[at : at + step]
            count = len(rows)
            if count < step:
                rows = rows[[*range(count), *[count - 1] * (step - count)]]
            found = self.session.run({self._image: np.ascontiguousarray(rows)})
            if self._lone:  # tensors inside may lack the batch that the image has been given
                found = {n: v if v.shape[:1] == (1,) else v[None] for n, v in found.items()}
            for name, value in found.items():
                if value.ndim == 0 or len(value) != len(rows):
                    raise UsageError(
                        f"'{name}' has no row per image: {list(value.shape)} for {len(rows)}"
                    )
            parts.append({name: value[:count] for name, value in found.items()})
        if len(parts) == 1:
            result = parts[0]
        else:
            result = {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}
        result = {name: value for name, value in result.items() if not name.endswith(COPY)}
        return result | ({self._image: x} if self._image in self.names else {})

    def fields(self, size: tuple[int, int] | None = None) -> dict[str, ReceptiveField]:
        """The receptive fields of the tapped tensors; size: of the image, where it is open."""
        return receptive_fields(self.model, self.names, size)


@dataclass(frozen=True)
class Layer:
    """A tensor of the model as a listing shows it. dims: without the batch, for an image of the
    field's size. weights, strides: of the convolution, or of the patch embedding as one, that
    makes it; None for other operators."""

    name: str
    op: str
    dims: tuple[int, ...]
    field: ReceptiveField
    weights: tuple[int, ...] | None = None
    strides: tuple[int, ...] | None = None

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        field = self.field
        return {
            "name": self.name,
            "op": self.op,
            "shape": list(self.dims),
            "weights": None if self.weights is None else list(self.weights),
            "strides": None if self.strides is None else list(self.strides),
            "receptive_field": {
                "size": list(field.size),
                "jump": None if field.jump is None else list(field.jump),
                "offset": list(field.offset),
                "whole_image": field.is_whole,
            },
        }


def layers(
    model: ModelLike,
    size: tuple[int, int] | None = None,
    *,
    convolutions: bool = False,
    shapes: Shapes | None = None,
) -> list[Layer]:
    """The tensors that the image reaches, in the graph's order; on demand only those that
    convolutions make, or a linear layer over patches of the image. Raises ModelError."""
    loaded = load(model, shapes=shapes)
    fields = receptive_fields(loaded, size=size)
    embedding = patch_embedding(loaded)
    found = []
    for node in loaded.graph:
        is_conv = node.op_type in CONVOLUTIONS and node.domain == ""
        embeds = embedding is not None and node.outputs[0].name == embedding.layer
        if convolutions and not (is_conv or embeds):
            continue
        for value in node.outputs:
            field = fields.get(value.name or "")
            if field is None:
                continue
            weights = strides = None
            if is_conv:
                shape = node.inputs[1].shape if node.inputs[1] is not None else None
                if shape is not None and shape.is_static():
                    weights = tuple(int(d) for d in shape.numpy())
                    ones = [1] * (len(weights) - 2)
                    strides = tuple(node.attributes.get_ints("strides", ones))
            elif embeds and embedding is not None:
                weights, strides = embedding.weights.shape, embedding.strides
            found.append(
                Layer(value.name or "", node.op_type, field.dims[1:], field, weights, strides)
            )
    return found
