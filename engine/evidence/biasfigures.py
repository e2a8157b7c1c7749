"""Each class's figures, why it is suspected, and the order of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..photos.stream import Skipped
from .biasreport import (
    SUSPECT,
    BiasReport,
    ClassBias,
    Cluster,
    Floats,
    Measured,
    Tested,
    Whole,
    percent,
)
from .naming import Named
from .spray import MOST, spectral

if TYPE_CHECKING:
    from .bias import BiasFinder

__all__ = ["FOCUS", "report_of"]

# What a figure must reach to be named among the reasons.
_NAMED = 0.3
# A cluster whose maps agree so far (mean cosine to their mean) is tight.
TIGHT = 0.8
MIDDLE = "in the middle"
# Where this share of the evidence lies in a tenth of the photo, it lies in one place.
FOCUS = 0.4


def report_of(
    finder: BiasFinder, files: Sequence[Path], named: Named, measured: Measured, tested: Tested,
    skipped: Sequence[Skipped], resumed: int,
) -> BiasReport:  # fmt: skip
    """All classes, ranked."""
    told = list(named.notes)
    made = [_class(finder, named.names, measured, tested, int(n), told) for n in measured.present]
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
        "background_grey": _mean(own[:, 3]),
        "mean_colour": _mean(tested.nothing[here, 0, column]),
        "other_mean_colours": _mean(tested.nothing[~here, 0, column]),
        "grey": _mean(tested.nothing[~here if (~here).any() else here, 1, column]),
        "background_exchanged": _mean(tested.kept[here]),
    }
    alone = pull = loss = follows = None
    if len(own):
        # What a class gets of nothing (the class of whatever is no other), it doesn't get of the
        # background. Nothing isn't the photo's own mean colour: that is its background's.
        blank = ("other_backgrounds_alone", "other_mean_colours", "grey")
        otherwise = max(chances[name] or 0 for name in blank)
        alone = _share((chances["background_alone"] or 0) - otherwise)
        loss = _lost(own, tested.kept[here])
        swapped = tested.given[here] >= 0
        if swapped.any():
            follows = float((tested.follows[here] == tested.given[here])[swapped].mean())
    on_it = tested.given == number
    if on_it.any():
        elsewhere = ~here[:, None] & (tested.given >= 0) & ~on_it
        base = float((tested.follows == number)[elsewhere].mean()) if elsewhere.any() else 0.0
        base = max(base, *(tested.nothing_top[~here] == number).mean(axis=0).tolist())
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
    reasons, told = [], one.chances
    if (one.outside or 0) >= _NAMED and one.suspect:
        size = "" if one.area is None else f", which takes {percent(one.area)} of the photo"
        reasons.append(f"{percent(one.outside)} of the evidence lies outside the object{size}")
    if (one.alone or 0) >= _NAMED:
        rest = told["other_backgrounds_alone"]
        beside = "grey" if rest is None else "backgrounds of other classes"
        value = told["grey"] if rest is None else rest
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
        way = min(("blurred", "grey"), key=lambda name: told[f"background_{name}"] or 0)
        reasons.append(
            f"its objects fall from {percent(told['photo'])} to "
            f"{percent(told[f'background_{way}'])} with the background {way}{more}"
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
    """What of its probability the object loses: blurred or before grey, as that takes a texture and
    this a colour, or exchanged, if that is less."""
    whole = np.maximum(own[:, 0], 1e-9)
    lost = np.clip(1 - np.minimum(own[:, 1], own[:, 3]) / whole, 0, 1)
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
