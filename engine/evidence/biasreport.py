"""What a bias finder found: each class's figures, why it is suspected, and the order of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ...errors import UsageError
from ..photos.outputs import finite
from ..photos.stream import Skipped
from .spray import MOST, spectral

if TYPE_CHECKING:
    from .bias import BiasFinder

__all__ = [
    "FOCUS",
    "BiasReport",
    "ClassBias",
    "Cluster",
    "Measured",
    "Tested",
    "percent",
    "report_of",
]

# From so much on a class is a suspect: of 0 (the object alone) to 1 (the background alone).
SUSPECT = 0.4
# What a figure must reach to be named among the reasons.
_NAMED = 0.3
# A cluster whose maps agree so far (mean cosine to their mean) is tight.
TIGHT = 0.8
MIDDLE = "in the middle"
# Where this share of the evidence lies in a tenth of the photo, it lies in one place.
FOCUS = 0.4

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
    """Photos with other backgrounds, T of them. row: the place in `Measured`. chance, top [T, 4]:
    of the photo, with its background blurred, of the background alone, of the mean colour: the
    class's probability, and what is predicted. alone [T, C]: the probability of every class that is
    present, of the background alone. given [T, E]: which class's background it got, of which photo
    (donor, a row), -1 for none; kept,
    pulled: the probability of its own class and of that one; follows: what is predicted."""

    row: Whole
    chance: Floats
    top: Whole
    alone: Floats
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
    other classes do, or the photo's mean colour. pull: by how much more other objects are called so
    before its background than before others. loss: what of its probability the object loses with
    its background blurred, or exchanged, whichever is less.
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


def report_of(
    finder: BiasFinder, files: Sequence[Path], names: dict[int, str], measured: Measured,
    tested: Tested, skipped: Sequence[Skipped], notes: Sequence[str], resumed: int,
) -> BiasReport:  # fmt: skip
    """All classes, ranked."""
    told = list(notes)
    made = [_class(finder, names, measured, tested, int(n), told) for n in measured.present]
    made.sort(key=lambda one: (-one.suspicion, one.number))
    return BiasReport(
        tuple(made), tuple(files), measured, tested, tuple(skipped), tuple(told), finder, resumed
    )


def _class(
    finder: BiasFinder, names: dict[int, str], held: Measured, tested: Tested, number: int,
    notes: list[str],
) -> ClassBias:  # fmt: skip
    rows = np.nonzero(held.target == number)[0]
    here = np.isin(tested.row, rows)
    own = tested.chance[here]
    outside = _mean(held.outside[rows])
    column = int(np.nonzero(held.present == number)[0][0])
    chances = {
        "photo": _mean(own[:, 0]) if len(own) else _mean(held.chance[rows]),
        "background_blurred": _mean(own[:, 1]),
        "background_alone": _mean(own[:, 2]),
        "other_backgrounds_alone": _mean(tested.alone[~here, column]),
        "mean_colour": _mean(own[:, 3]),
        "background_exchanged": _mean(tested.kept[here]),
    }
    alone = pull = loss = follows = None
    if len(own):
        # What a class gets of nothing (the class of whatever is no other), it doesn't get of the
        # background.
        otherwise = max(chances["other_backgrounds_alone"] or 0, chances["mean_colour"] or 0)
        alone = _share((chances["background_alone"] or 0) - otherwise)
        loss = _lost(own, tested.kept[here])
        swapped = tested.given[here] >= 0
        if swapped.any():
            follows = float((tested.follows[here] == tested.given[here])[swapped].mean())
    on_it = tested.given == number
    if on_it.any():
        elsewhere = ~here[:, None] & (tested.given >= 0) & ~on_it
        base = float((tested.follows == number)[elsewhere].mean()) if elsewhere.any() else 0.0
        base = max(base, float((tested.top[~here, 3] == number).mean()))
        pull = _share(float((tested.follows == number)[on_it].mean()) - base)
    clusters = _clusters(finder, held, rows, notes)
    parts = [v for v in (outside, alone, pull, loss) if v is not None]
    suspicion = float(np.mean(parts)) if parts else _in_one_place(clusters)
    suspect = suspicion >= SUSPECT
    area = _mean(held.area[rows])
    made = ClassBias(
        number, names.get(number, f"class {number}").split(",")[0], tuple(rows.tolist()),
        float((held.top[rows] == number).mean()),
        int(((held.top == number) & (held.target != number)).sum()),
        suspicion, suspect, (), outside, area, alone, pull, loss, chances, follows,
        int((held.cells[rows].sum(axis=(1, 2)) == 0).sum()),
        tuple(np.nonzero(here)[0].tolist()), clusters,
    )  # fmt: skip
    return _with_reasons(made)


def _with_reasons(one: ClassBias) -> ClassBias:
    from dataclasses import replace

    reasons, told = [], one.chances
    if (one.outside or 0) >= _NAMED and one.suspect:
        size = "" if one.area is None else f", which takes {percent(one.area)} of the photo"
        reasons.append(f"{percent(one.outside)} of the evidence lies outside the object{size}")
    if (one.alone or 0) >= _NAMED:
        rest = told["other_backgrounds_alone"]
        beside = "the mean colour" if rest is None else "backgrounds of other classes"
        value = told["mean_colour"] if rest is None else rest
        reasons.append(
            f"its backgrounds alone get {percent(told['background_alone'])} for the class, "
            f"{beside} {percent(value)}"
        )
    if (one.pull or 0) >= _NAMED:
        reasons.append(
            f"objects of other classes before its backgrounds are called so {percent(one.pull)} "
            "more often than before others"
        )
    if (one.loss or 0) >= _NAMED:
        swapped = told["background_exchanged"]
        more = "" if swapped is None else f", to {percent(swapped)} with it exchanged"
        reasons.append(
            f"its objects fall from {percent(told['photo'])} to "
            f"{percent(told['background_blurred'])} with the background blurred{more}"
        )
    for cluster in one.clusters:
        aside = cluster.place != MIDDLE and (cluster.outside is None or cluster.outside >= 0.5)
        if cluster.tight >= TIGHT and cluster.focus >= FOCUS and aside and len(cluster.rows) > 2:
            reasons.append(
                f"{len(cluster.rows)} of {len(one.rows)} photos have their evidence in the same "
                f"place, {cluster.place}"
            )
    return replace(one, reasons=tuple(reasons))


def _clusters(
    finder: BiasFinder, held: Measured, rows: Whole, notes: list[str]
) -> tuple[Cluster, ...]:
    rows = rows[held.cells[rows].sum(axis=(1, 2)) > 0]
    if len(rows) > MOST:
        note = f"of a class with more than {MOST} photos, so many are clustered, evenly spaced"
        notes += [note] if note not in notes else []
        rows = rows[np.linspace(0, len(rows) - 1, MOST).round().astype(int)]
    if not len(rows):
        return ()
    cells = held.cells[rows]
    label = spectral(cells, finder.clusters)
    found = []
    for number in range(int(label.max()) + 1):
        own = rows[label == number]
        flat = held.cells[own].reshape(len(own), -1).astype(np.float64)
        middle = flat.mean(axis=0)
        norms = np.linalg.norm(flat, axis=1) * np.linalg.norm(middle)
        tight = float((flat @ middle / np.maximum(norms, 1e-12)).mean())
        found.append(
            Cluster(
                tuple(own.tolist()), len(own) / len(rows), tight,
                _focus(middle.reshape(cells.shape[1:])), _mean(held.outside[own]),
                _place(middle.reshape(cells.shape[1:])),
            )
        )  # fmt: skip
    return tuple(found)


def _in_one_place(clusters: Sequence[Cluster]) -> float:
    """Where nothing is known of the object: how far a class's evidence keeps to places that aren't
    the middle, where objects are mostly."""
    aside = [c for c in clusters if len(c.rows) > 2 and c.place != MIDDLE]
    return float(sum(c.share * c.tight * c.focus for c in aside))


def _lost(own: Floats, kept: Floats) -> float:
    """What of its probability the object loses: blurred, or exchanged, whichever is less."""
    whole = np.maximum(own[:, 0], 1e-9)
    lost = np.clip(1 - own[:, 1] / whole, 0, 1)
    if np.isfinite(kept).any():
        rest = np.array([np.nan if np.isnan(k).all() else np.nanmax(k) for k in kept])
        swapped = np.where(np.isnan(rest), lost, np.clip(1 - rest / whole, 0, 1))
        lost = np.minimum(lost, swapped)
    return float(lost.mean())


def _place(cells: NDArray[np.floating]) -> str:
    y, x = np.unravel_index(int(cells.argmax()), cells.shape)
    down = ("upper", "", "lower")[min(int(3 * y // cells.shape[0]), 2)]
    across = ("left", "", "right")[min(int(3 * x // cells.shape[1]), 2)]
    return " ".join(filter(None, (down, across))) or MIDDLE


def _focus(cells: NDArray[np.floating]) -> float:
    """What of a map lies in the tenth of the photo around its peak, as a square of cells."""
    y, x = np.unravel_index(int(cells.argmax()), cells.shape)
    half = round((0.1 * cells.size) ** 0.5) // 2
    near = cells[max(y - half, 0) : y + half + 1, max(x - half, 0) : x + half + 1]
    return float(near.sum() / max(cells.sum(), 1e-12))


def _mean(values: NDArray[Any]) -> float | None:
    known = values[np.isfinite(values)]
    return float(known.mean()) if known.size else None


def _share(value: float) -> float:
    return min(max(value, 0.0), 1.0)


def _rounded(value: float | None) -> float | None:
    return None if value is None else finite(value, 4)


def percent(value: float | None) -> str:
    """A share for people."""
    return "?" if value is None or value != value else f"{100 * value:.0f} %"
