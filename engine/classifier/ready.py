"""A classifier readied once: read, loaded and described, for whatever is made of it.

    ready = Ready.of("model.onnx")     # or of one that is readied already: itself
    ready.loaded                       # in the transform's form; loading that is a copy

Explainer, the masks' Scorer, Taps, inversion, deconvnet and embeddings stand on one, and take one
in place of a model: what is built of several of them reads and loads its model once.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ...errors import ModelError, UsageError
from ...export import choose
from ...export.emit import all_dims
from ...export.graph import Loaded, ModelLike, load, read
from ...export.preprocess import PRESETS, Preprocess, of_metadata, preset
from ...export.sizes import Shapes, fix_shapes
from ..photos import images
from ..runtime.choice import chosen
from ..runtime.digest import model_hash
from ..runtime.session import Providers, dims_of, dtype_of
from . import labels
from .intake import shares_batch

__all__ = ["Fed", "Reading", "Ready", "Standing"]


class Ready:
    """A model, plain or one that `backlight export` wrote, and what it says of itself.

    given: what it was made of; shapes: of inputs that it leaves open. source: its name for messages
    about the file; name: for people.
    metadata: its own. exported: the methods that it was exported with; None for a plain model.
    Raises ModelError for what is no model; what only its loading shows, `loaded` does.
    """

    def __init__(self, model: ModelLike, shapes: Shapes | None = None) -> None:
        self.given, self.shapes = model, shapes or {}
        self.read, self.source = read(model)
        fix_shapes(self.read, self.shapes)
        self.name = Path(model).stem if isinstance(model, (str, os.PathLike)) else self.source
        self.metadata: dict[str, str] = dict(self.read.metadata_props)
        self.exported = choose.exported(self.metadata)

    @classmethod
    def of(cls, model: ModelLike | Ready, shapes: Shapes | None = None) -> Ready:
        """A model readied, or the one that is. shapes: of inputs that the model leaves open."""
        if not isinstance(model, Ready):
            return cls(model, shapes)
        return cls(model.given, shapes) if shapes and shapes != model.shapes else model

    @cached_property
    def loaded(self) -> Loaded:
        """The model in the transform's form. Nobody changes it: `load` copies it. ModelError."""
        as_it_is = isinstance(self.given, Loaded) and not self.shapes
        return load(self.given if as_it_is else self.read)

    @cached_property
    def hash(self) -> str:
        """What tells it from other models: see `model_hash`."""
        return model_hash(self.given, self.read)

    def placed(self, providers: Providers, form: str | None = None) -> tuple[Providers, list[str]]:
        """Where it runs: what was asked for, or, for "auto", what is stored beside its file, and
        notes of that. form: of the graph (`--for`), where it is given."""
        return chosen(providers, self.given, lambda: self.hash, form)

    @cached_property
    def image(self) -> Fed:
        """Its image input. Raises ModelError where it has none."""
        return Fed.of(self.loaded.graph, choose.image_input(self.loaded.graph).input)


@dataclass(frozen=True)
class Fed:
    """The image input as the runtime takes it, and the inputs beside it.

    dims: with None for those that are open. others: their names; whole: those of them without a
    row per image.
    """

    name: str
    dims: tuple[int | None, ...]
    dtype: np.dtype[Any]
    channel_axis: int
    others: tuple[str, ...] = ()
    whole: frozenset[str] = frozenset()

    @classmethod
    def of(cls, graph: ir.Graph, image: ir.Value | str, beside: Sequence[str] = ()) -> Fed:
        """As a graph declares it. beside: inputs that are no model's own, such as `target`.
        Raises ModelError for an input that isn't there, or of a type that NumPy lacks."""
        fed = {v.name or "": v for v in graph.inputs if v.name not in graph.initializers}
        name = image if isinstance(image, str) else image.name or ""
        if name not in fed:
            raise ModelError(f"the model has no input '{name}'; was its metadata changed?")
        others = tuple(n for n in fed if n != name and n not in beside)
        shape = all_dims(fed[name].shape)
        return cls(
            name,
            dims_of(shape),
            dtype_of(fed[name]),
            choose.channel_axis(fed[name]),
            others,
            frozenset(n for n in others if not shares_batch(shape, all_dims(fed[n].shape))),
        )

    @property
    def batch(self) -> int | None:
        """The number of images per run, where the model fixes it."""
        return self.dims[0] if self.dims else None

    @cached_property
    def spec(self) -> images.InputSpec:
        """For photos. Raises ModelError where pictures can't be fed to it."""
        return images.layout_of(self.name, self.dims, self.dtype, self.channel_axis)

    def runs(
        self, feeds: Mapping[str, Any], step: int | None = None
    ) -> Iterator[tuple[dict[str, Any], int]]:
        """A call's feeds run by run, and how many rows of each count: a batch that the model fixes
        is filled up with its last row. step: rows at a time, where it doesn't; None: all."""
        count = len(feeds[self.name])
        step = self.batch or step or max(count, 1)
        for at in range(0, count, step):
            part = {k: v if k in self.whole else v[at : at + step] for k, v in feeds.items()}
            rows = min(step, count - at)
            if rows < step and self.batch is not None:
                fill = [*range(rows), *[rows - 1] * (step - rows)]
                part = {k: v if k in self.whole else v[fill] for k, v in part.items()}
            yield part, rows

    def alone(self) -> Fed:
        """Itself. Raises ModelError where the model takes more than the image."""
        if self.others:
            raise ModelError(
                f"the model takes '{self.others[0]}' besides the image '{self.name}'; "
                "expected a model with one input"
            )
        return self


class Standing:
    """What stands on a ready classifier, and describes itself by it.

    fed: the image input of the graph that runs here. name, metadata: the model's.
    """

    # How many classes the scores have; None: that isn't known, or is of no matter.
    classes: int | None = None

    def __init__(self, ready: Ready, fed: Fed) -> None:
        # Not the model itself: the runtime has its own copy of the weights.
        self.fed, self.name, self.metadata = fed, ready.name, ready.metadata

    @property
    def input(self) -> images.InputSpec:
        """The image input. Raises ModelError where pictures can't be fed to it."""
        return self.fed.spec

    @property
    def labels(self) -> list[str] | None:
        """The class names that the model's metadata gives."""
        return labels.of_model(self.metadata, self.name, self.classes)

    @property
    def preprocess(self) -> Preprocess | None:
        """How the model's metadata wants its images, or None."""
        return of_metadata(self.metadata, self.name)


class Reading(Standing):
    """What also reads photos for itself."""

    def settled(self, preprocess: Preprocess | str | None = None) -> Preprocess:
        """A preset's name, a record, or the model's own, with its size settled for this input.
        Raises UsageError where none of them says how."""
        given = preset(preprocess) if isinstance(preprocess, str) else preprocess
        chosen = given or self.preprocess
        if chosen is None:
            raise UsageError(
                f"{self.name} doesn't say how it wants its images; "
                f"give preprocess, one of: {', '.join(PRESETS)}"
            )
        return images.fitted(chosen, self.input)

    def load(
        self, paths: Sequence[str | Path], preprocess: Preprocess | str | None = None
    ) -> NDArray[Any]:
        """Image files as one batch for this model. preprocess: a preset's name or a record;
        default: the model's own. Raises ImageError, or UsageError when neither says how."""
        settled = self.settled(preprocess)
        read_in = (images.prepare(images.decode(p), settled, self.input) for p in paths)
        return np.stack([prepared.tensor for prepared in read_in])
