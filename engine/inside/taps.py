"""Any tensor inside a model as an output, by name: the one way to look inside.

    taps = Taps("model.onnx", ["fire4", "conv10"])
    found = taps(taps.load(["cat.jpg"]))      # {"fire4": [1,256,27,27], "conv10": [1,1000,13,13]}

What the asked tensors don't need isn't computed. The model itself is not changed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ...errors import BacklightError, ImageError, UsageError
from ...export import choose
from ...export.graph import ModelLike, load
from ...export.lone import is_lone
from ...export.nested import held_graphs
from ...export.receptive import ReceptiveField, receptive_fields
from ...export.rules.op import constant
from ...export.sizes import Shapes
from ...export.unused import remove_unused
from ..classifier.extras import InputsLike
from ..classifier.fed import Fed
from ..classifier.ready import Reading, Ready
from ..runtime.session import Providers, Session
from .patch_embedding import patch_embedding

__all__ = ["Layer", "Taps", "layers", "named", "tap"]

CONVOLUTIONS = ("Conv", "ConvTranspose")
# A Loop of more turns isn't run to see what comes behind it.
_TURNS = 10_000
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
    remove_unused(loaded)
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


class Taps(Reading):
    """A model that gives its inner tensors.

    model: a path, bytes or an onnx.ModelProto. names: of tensors, or of nodes.
    providers, threads, shapes, inputs: as in `backlight.Explainer`. lanes: calls that go on side by
    side.

    Raises ModelError, or UsageError for an unknown tensor, with the nearest names.
    """

    def __init__(
        self,
        model: ModelLike | Ready,
        names: Sequence[str],
        *,
        keep: bool = False,
        providers: Providers = None,
        threads: int | None = None,
        shapes: Shapes | None = None,
        inputs: InputsLike | None = None,
        lanes: int = 1,
    ) -> None:
        ready = Ready.of(model, shapes, inputs)
        self.model, self.names = tap(ready.loaded, names, keep=keep)
        graph = self.model.graph
        super().__init__(ready, Fed.of(graph, choose.image_input(graph).input))
        self.fed.needs()
        self._lone = is_lone(choose.image_input(graph).input)
        providers, placed = ready.placed(providers)
        self.session = Session(self.model, providers, threads, lanes=lanes)
        self.notes = [*placed, *self.session.notes]

    def __call__(self, x: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """The tensors of a batch, [N, ...] each, by their full names (and the model's outputs,
        with keep=True). A batch that the model fixes is filled up.

        Raises ImageError for a batch that doesn't fit, UsageError for a tensor without a row per
        image.
        """
        fed = self.fed
        dims = (None, *fed.dims[1:])
        if self._lone and x.ndim == len(dims) - 1:
            x = x[None]
        fits = x.ndim == len(dims) and all(
            d is None or d == have for d, have in zip(dims, x.shape, strict=True)
        )
        if not fits or x.dtype != fed.dtype or 0 in x.shape:
            shown = ",".join("N" if d is None else str(d) for d in dims)
            raise ImageError(
                f"the input is {x.dtype} {list(x.shape)}; expected {fed.dtype.name} [{shown}]"
            )
        parts = []
        for feeds, count in fed.runs({fed.name: x}):
            rows = np.ascontiguousarray(feeds[fed.name])
            found = self.session.run({**feeds, fed.name: rows})
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
        return result | ({fed.name: x} if fed.name in self.names else {})

    def fields(self, size: tuple[int, int] | None = None) -> dict[str, ReceptiveField]:
        """The receptive fields of the tapped tensors; size: of the image, where it is open."""
        found = receptive_fields(self.model, None, size)
        if any(name not in found for name in self.names):
            # Behind an operator that inference doesn't know: as a run of it has them.
            _write(self.model, self.shapes(size))
            return receptive_fields(self.model, self.names, size)
        return {name: found[name] for name in self.names}

    def shapes(self, size: tuple[int, int] | None = None) -> dict[str, tuple[int, ...]]:
        """The shapes [N, ...] without N that the tapped tensors have for an image of a size, by a
        run of one."""
        spec = self.input
        open_ = size or (224, 224)
        settled = (spec.size[0] or open_[0], spec.size[1] or open_[1])
        blank = np.zeros((1, *spec.shape(settled)), spec.dtype)
        return {name: array.shape[1:] for name, array in self(blank).items()}


def _write(model: ir.Model, shapes: Mapping[str, tuple[int, ...]]) -> None:
    values = ir.convenience.create_value_mapping(model.graph)
    for name, dims in shapes.items():
        if values[name].producer() is not None:
            values[name].shape = ir.Shape([None, *dims])


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
    model: ModelLike | Ready,
    size: tuple[int, int] | None = None,
    *,
    convolutions: bool = False,
    shapes: Shapes | None = None,
) -> list[Layer]:
    """The tensors that the image reaches, in the graph's order; on demand only those that
    convolutions make, or a linear layer over patches of the image. Raises ModelError."""
    loaded = _seen(Ready.of(model, shapes), size)
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


def _most_turns(graph: ir.Graph) -> float:
    """How often the body of a Loop may run in a pass: one inside another as often as both say."""
    most = 1.0
    for node in graph:
        turns = 1.0
        if node.op_type == "Loop":
            known = constant(node.inputs[0]) if node.inputs else None
            turns = np.inf if known is None or known.size != 1 else max(1.0, float(known.item()))
        most = max([most, *(turns * _most_turns(body) for body in held_graphs(node))])
    return most


def _seen(ready: Ready, size: tuple[int, int] | None) -> ir.Model:
    """The model with the shapes that only a run tells, behind operators that inference doesn't
    know; as it is where it can't be run, or might run for ever."""
    blind = [v.name for n in ready.loaded.graph for v in n.outputs if v.shape is None and v.name]
    if not blind or _most_turns(ready.loaded.graph) > _TURNS:
        return ready.loaded
    seen = load(ready.loaded)
    with contextlib.suppress(BacklightError):
        _write(seen, Taps(ready, blind).shapes(size))
    return seen
