"""What a bias finder found: records of photos, tests and classes, and the report of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ...errors import UsageError
from ..photos.outputs import finite
from ..photos.stream import Skipped

if TYPE_CHECKING:
    from .bias import BiasFinder

__all__ = ["SUSPECT", "BiasReport", "ClassBias", "Cluster", "Measured", "Tested", "percent"]

# From so much on a class is a suspect: of 0 (the object alone) to 1 (the background alone).
SUSPECT = 0.4

Floats = NDArray[np.float32]
Whole = NDArray[np.int64]


@dataclass(frozen=True)
class Measured:
    """Every photo that could be used, N of them. index: its place in the files. target: its class,
    chance: the probability of that; top, top_chance: what is predicted. outside: the share of the
    evidence outside the object, NaN without evidence; area: the object's share of the photo.
    cells [N, h, w]: where the evidence lies."""

    index: Whole
    target: Whole
    top: Whole
    chance: Floats
    top_chance: Floats
    outside: Floats
    area: Floats
    cells: Floats

    @property
    def present(self) -> Whole:
        """The classes that there are photos of."""
        return np.unique(self.target)


@dataclass(frozen=True)
class Tested:
    """Photos with other backgrounds, T of them. row: the place in `Measured`. chance [T, 4]: the
    class's probability of the photo, with its background blurred, of the background alone, of the
    object before grey. alone [T, C]: the probability of every class that is present, of the
    background alone; nothing [T, 2, C]: of the photo's mean colour, and of that in grey;
    nothing_top [T, 2]: what is predicted of these. given [T, E]: which class's background it got,
    of which photo (donor, a row), -1 for none; kept, pulled: the probability of its own class and
    of that one; follows: what is predicted."""

    row: Whole
    chance: Floats
    alone: Floats
    nothing: Floats
    nothing_top: Whole
    given: Whole
    donor: Whole
    kept: Floats
    pulled: Floats
    follows: Whole


@dataclass(frozen=True)
class Cluster:
    """Photos of a class with like maps. rows: of `Measured`. tight: how far their maps agree, 0 to
    1. focus: what of their evidence lies in a tenth of the photo, around its peak; place: where
    that is, in words."""

    rows: tuple[int, ...]
    share: float
    tight: float
    focus: float
    outside: float | None
    place: str


@dataclass(frozen=True)
class ClassBias:
    """A class's figures, None where there is none to be had: each 0 to 1.

    suspicion: the mean of outside, alone, pull and loss. outside: the share of the evidence outside
    the object. alone: by how much more the background alone gets the class than backgrounds of
    other classes do, or pictures of their mean colours, or grey ones. pull: by how much more other
    objects are called so before its background than before others, or with nothing there. loss:
    what of its probability the object loses with its background blurred or grey, whichever is more,
    or exchanged, if that is less.
    """

    number: int
    name: str
    rows: tuple[int, ...]
    predicted: float
    mistaken: int
    suspicion: float
    suspect: bool
    reasons: tuple[str, ...]
    outside: float | None
    area: float | None
    alone: float | None
    pull: float | None
    loss: float | None
    chances: dict[str, float | None]
    follows: float | None
    silent: int
    tested: tuple[int, ...]
    clusters: tuple[Cluster, ...]

    def as_dict(self) -> dict[str, Any]:
        """For JSON, without its photos."""
        return {
            "class": self.number,
            "name": self.name,
            "photos": len(self.rows),
            "suspicion": finite(self.suspicion, 4),
            "suspect": self.suspect,
            "reasons": list(self.reasons),
            "outside": _rounded(self.outside),
            "object_area": _rounded(self.area),
            "alone": _rounded(self.alone),
            "pull": _rounded(self.pull),
            "loss": _rounded(self.loss),
            "probability": {k: _rounded(v) for k, v in self.chances.items()},
            "follows_background": _rounded(self.follows),
            "predicted_share": _rounded(self.predicted),
            "photos_of_others_called_so": self.mistaken,
            "without_evidence": self.silent,
            "tested": len(self.tested),
        }


@dataclass(frozen=True)
class BiasReport:
    """classes: ranked, the most suspicious first. files: all photos; measured, tested: figures of
    each. skipped: what couldn't be used. resumed: how many an earlier, stopped run had
    explained."""

    classes: tuple[ClassBias, ...]
    files: tuple[Path, ...]
    measured: Measured
    tested: Tested
    skipped: tuple[Skipped, ...]
    notes: tuple[str, ...]
    finder: BiasFinder = field(repr=False)
    resumed: int = 0

    @property
    def suspects(self) -> list[str]:
        """The names of the classes that are suspected, the most suspicious first."""
        return [one.name for one in self.classes if one.suspect]

    def file(self, row: int) -> Path:
        """A photo's file."""
        return self.files[int(self.measured.index[row])]

    def as_dict(self) -> dict[str, Any]:
        """The ranked report for JSON."""
        return {
            **self.finder.about(),
            "suspect_from": SUSPECT,
            "suspects": self.suspects,
            "classes": [
                one.as_dict()
                | {
                    "clusters": [
                        {
                            "photos": len(c.rows),
                            "share": _rounded(c.share),
                            "tight": _rounded(c.tight),
                            "focus": _rounded(c.focus),
                            "outside": _rounded(c.outside),
                            "place": c.place,
                            "files": [str(self.file(row)) for row in c.rows],
                        }
                        for c in one.clusters
                    ]
                }
                for one in self.classes
            ],
        }

    def images(self) -> list[dict[str, Any]]:
        """Each photo's figures, for JSON."""
        held, names = self.measured, {one.number: one.name for one in self.classes}
        return [
            {
                "file": str(self.file(row)),
                "class": int(held.target[row]),
                "name": names[int(held.target[row])],
                "probability": finite(float(held.chance[row]), 6),
                "predicted": int(held.top[row]),
                "outside": finite(float(held.outside[row]), 4),
                "object_area": finite(float(held.area[row]), 4),
            }
            for row in range(len(held.index))
        ]

    def picture(self, at: int) -> Image.Image:
        """A class's picture, by its place in `classes`: photos with their evidence and what becomes
        of them, and its clusters. Raises UsageError."""
        from .biaspictures import class_picture

        if not 0 <= at < len(self.classes):
            raise UsageError(f"class {at} is out of range; there are {len(self.classes)}")
        return class_picture(self, self.classes[at])


def _rounded(value: float | None) -> float | None:
    return None if value is None else finite(value, 4)


def percent(value: float | None) -> str:
    """A share for people."""
    return "?" if value is None or value != value else f"{100 * value:.0f} %"
