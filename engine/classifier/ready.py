"""A classifier readied once: read, loaded and described, for whatever is made of it.

    ready = Ready.of("model.onnx")     # or of one that is readied already: itself
    ready.loaded                       # in the transform's form; loading that is a copy

Explainer, the masks' Scorer, Taps, inversion, deconvnet and embeddings stand on one, and take one
in place of a model: what is built of several of them reads and loads its model once.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ... import arguments as take
from ...errors import UsageError
from ...export import choose
from ...export.bare import bare, forget
from ...export.graph import Loaded, ModelLike, load, read
from ...export.preprocess import PRESETS, Preprocess, looked_up, of_metadata
from ...export.sizes import Shapes, fix_shapes
from ..photos import images
from ..runtime.choice import chosen
from ..runtime.digest import hash_with, model_hash
from ..runtime.session import Providers
from . import labels
from .extras import InputsLike, settled
from .fed import Fed

__all__ = ["Reading", "Ready", "Standing"]


class Ready:
    """A model, plain or one that `backlight export` wrote, and what it says of itself.

    given: what it was made of; shapes: of inputs that it leaves open; inputs: what is fed beside
    every image, by name: an array, an .npy file or a number. source: its name for messages about
    the file; name: for people.
    metadata: its own. exported: the methods that it was exported with; None for a plain model.
    Raises ModelError for what is no model; what only its loading shows, `loaded` does.
    """

    def __init__(
        self,
        model: ModelLike,
        shapes: Shapes | None = None,
        inputs: InputsLike | None = None,
    ) -> None:
        self.given = model
        self.shapes = take.shapes("shapes", shapes)
        self.inputs = take.beside("inputs", inputs)
        self.read, self.source = read(model)
        fix_shapes(self.read, self.shapes)
        if self.inputs:
            # The image is the first input that looks like one: what is given isn't it.
            fed = self.read.graph.inputs
            fed[:] = sorted(fed, key=lambda v: v.name in self.inputs)
        self.name = Path(model).stem if isinstance(model, (str, os.PathLike)) else self.source
        self.metadata: dict[str, str] = dict(self.read.metadata_props)
        self.exported = choose.exported(self.metadata)

    @classmethod
    def of(
        cls,
        model: ModelLike | Ready,
        shapes: Shapes | None = None,
        inputs: InputsLike | None = None,
    ) -> Ready:
        """A model readied, or the one that is. shapes: of inputs that the model leaves open;
        inputs: what is fed beside every image."""
        if not isinstance(model, Ready):
            return cls(model, shapes, inputs)
        sizes = take.shapes("shapes", shapes) or model.shapes
        fed = take.beside("inputs", inputs)
        if sizes == model.shapes and not fed:
            return model
        return cls(model.given, sizes, fed or model.inputs)

    def plain(self) -> Ready:
        """The model in a file that `backlight export` wrote, to be explained anew, by whatever
        method and of whatever layer; a plain model is itself."""
        if self.exported is None:
            return self
        made = copy.copy(self)
        made.read = ir.Model.clone(self.read)
        made.read.meta.update(self.read.meta)
        bare(made.read)
        forget(made.read)
        made.metadata, made.exported = dict(made.read.metadata_props), None
        made.__dict__.pop("loaded", None)  # it says of itself that it is exported
        return made

    @property
    def as_given(self) -> bool:
        """Whether what it was made of is the model that runs: nothing was settled here."""
        return not self.shapes and not self.inputs

    @cached_property
    def loaded(self) -> Loaded:
        """The model in the transform's form, without what an export added. Nobody changes it:
        `load` copies it. ModelError."""
        as_it_is = isinstance(self.given, Loaded) and self.as_given
        made = load(self.given if as_it_is else self.read)
        bare(made)
        return made

    @cached_property
    def hash(self) -> str:
        """What tells it from other models, and from itself with other inputs beside the image."""
        if not self.inputs:
            return self.file_hash
        return hash_with(self.file_hash, self.image.extras.arrays)

    @cached_property
    def file_hash(self) -> str:
        """Of the model alone, whatever it is fed: see `model_hash`."""
        return model_hash(self.given, self.read)

    def feeding(self, fed: Fed) -> Fed:
        """What a graph of this model takes, with what is given of it. Raises UsageError."""
        if not self.inputs:
            return fed
        ours = self.metadata.get("backlight.inputs", "target").split(",")
        ours = [] if self.exported is None else [n for n in ours if n != "baseline"]
        held = self.read.graph.initializers
        own = [v.name or "" for v in self.read.graph.inputs if v.name not in held]
        beside = [n for n in own if n != fed.name and n not in ours]
        return replace(fed, extras=settled(self.inputs, fed.declared, beside))

    def placed(self, providers: Providers, form: str | None = None) -> tuple[Providers, list[str]]:
        """Where it runs: what was asked for, or, for "auto", what is stored beside its file, and
        notes of that. form: of the graph (`--for`), where it is given."""
        return chosen(providers, self.given, lambda: self.file_hash, form)

    @cached_property
    def image(self) -> Fed:
        """Its image input, and what it is fed beside it. Raises ModelError where it has none."""
        graph = self.loaded.graph
        return self.feeding(Fed.of(graph, choose.image_input(graph).input))


class Standing:
    """What stands on a ready classifier, and describes itself by it.

    fed: the image input of the graph that runs here. name, metadata: the model's.
    """

    # How many classes the scores have; None: that isn't known, or is of no matter.
    classes: int | None = None

    def __init__(self, ready: Ready, fed: Fed) -> None:
        # Not the model itself: the runtime has its own copy of the weights.
        self.name, self.metadata = ready.name, ready.metadata
        self.fed = ready.feeding(fed)

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
        chosen = looked_up(preprocess) or self.preprocess
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
        read_in = (images.read(p, settled, self.input) for p in paths)
        return np.stack([prepared.tensor for prepared in read_in])
