"""What the server knows of a model without ever reading its file: told by the process that did."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

__all__ = ["CONTRAST", "HEATMAP", "IMAGE", "TARGET", "Declared", "Described"]

# Inputs that every model has beside its own, the first two of which can be asked for as well.
TARGET, CONTRAST, IMAGE = "target", "contrast", "image"
# Of outputs: a map as a picture.
HEATMAP = "heatmap_"


@dataclass(frozen=True)
class Declared:
    """An input or output. dims: None for open ones; rows: whether its first one is the batch."""

    name: str
    datatype: str
    dims: tuple[int | None, ...]
    rows: bool = True

    @property
    def shape(self) -> list[int]:
        """As the protocol writes it: -1 for what is open, the batch among it."""
        dims = [-1 if d is None else d for d in self.dims]
        return [-1, *dims[1:]] if self.rows and dims else dims


@dataclass(frozen=True)
class Described:
    """A model that can be served.

    plain, explaining: files of the two sessions. hash: sha256 of the file that it was made of.
    image: the name of its image input. inputs, outputs: its own; maps: by method. scores: the
    output that holds the class scores. batch: rows of a run, where the model fixes them.
    ranked: the one that ranks the classes, where it is another one and both files have it.
    baked: the class that an exported file explains; "" where a request chooses. contrasts: whether
    it takes `contrast`. lone: whether its image has no batch in
    the file. given: files with what is fed beside the image where a
    request says nothing. files: beside the model's own, that its weights lie in. layout: of the
    image; None where pictures can't be fed to it.
    preprocess: a record as JSON, with its size settled. about: of each map, what it says and who
    described it. most: rows of one run that the memory
    budget allows; row_bytes: what a row of the explaining pass takes, of `row_elements` values.
    """

    plain: str
    explaining: str
    hash: str
    image: str
    inputs: tuple[Declared, ...]
    outputs: tuple[Declared, ...]
    maps: Mapping[str, Declared]
    scores: str
    of: str
    classes: int | None
    labels: tuple[str, ...] | None
    batch: int | None
    baked: str
    contrasts: bool
    layout: str | None
    preprocess: str | None
    layers: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    about: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    weights: int = 0
    row_bytes: int = 0
    row_elements: int = 0
    most: int = 1
    ranked: str | None = None
    lone: bool = False
    given: Mapping[str, str] = field(default_factory=dict)
    files: tuple[str, ...] = ()

    def to_json(self) -> str:
        """For the other process."""
        return json.dumps(asdict(self))

    @classmethod
    def from_dict(cls, told: Mapping[str, Any]) -> Described:
        """The inverse of `to_json`, behind json.loads."""
        fields = dict(told)
        for key in ("inputs", "outputs"):
            fields[key] = tuple(_declared(one) for one in fields[key])
        fields["maps"] = {name: _declared(one) for name, one in fields["maps"].items()}
        for key in ("labels", "layers", "notes", "files"):
            fields[key] = None if fields[key] is None else tuple(fields[key])
        return cls(**fields)

    @property
    def methods(self) -> frozenset[str]:
        """Of its maps, without the numbers of several layers: "gradcam" for "gradcam_1"."""
        from ..pictures.reading import base

        return frozenset(base(name)[0].name for name in self.maps)

    @cached_property
    def by_name(self) -> dict[str, Declared]:
        """The model's own inputs."""
        return {one.name: one for one in self.inputs}

    @cached_property
    def taken(self) -> dict[str, Declared]:
        """The inputs that a request may give."""
        more = [Declared(TARGET, "INT64", (None,))]
        more += [Declared(CONTRAST, "INT64", (None,))] * self.contrasts
        more += [Declared(IMAGE, "BYTES", (None,))] * (self.layout is not None)
        return self.by_name | {one.name: one for one in more if one.name not in self.by_name}

    @cached_property
    def offered(self) -> dict[str, Declared]:
        """The outputs that can be asked for."""
        found = {one.name: one for one in (*self.outputs, *self.maps.values())}
        found[TARGET] = Declared(TARGET, "INT64", (None,))
        if self.contrasts:
            found[CONTRAST] = Declared(CONTRAST, "INT64", (None,))
        if self.layout is not None:
            for method in self.maps:
                found[HEATMAP + method] = Declared(HEATMAP + method, "BYTES", (None,))
        return found


def _declared(told: Mapping[str, Any]) -> Declared:
    return Declared(**{**told, "dims": tuple(told["dims"])})
