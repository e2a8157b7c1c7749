"""What a model says of photos with their background exchanged, blurred, and alone: which photos are
taken, and what becomes of each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..photos.rows import Kinds
from .background import variants
from .biasreport import Measured

if TYPE_CHECKING:
    from .bias import BiasFinder

__all__ = ["kinds", "tested", "to_test"]

# What is less of its photo is no object, and what is more leaves no background.
LEAST, MOST = 0.02, 0.98
# Of `variants` those that show something of the photo; two behind them show nothing.
SHOWN = 4


def kinds(present: int, exchanges: int) -> Kinds:
    """What is kept of each test: `Tested`, of so many classes that there are photos of."""
    return {
        "row": (np.int64, ()), "chance": (np.float32, (SHOWN,)),
        "alone": (np.float32, (present,)), "nothing": (np.float32, (2, present)),
        "nothing_top": (np.int64, (2,)), "given": (np.int64, (exchanges,)),
        "donor": (np.int64, (exchanges,)), "kept": (np.float32, (exchanges,)),
        "pulled": (np.float32, (exchanges,)), "follows": (np.int64, (exchanges,)),
    }  # fmt: skip


def to_test(measured: Measured, tests: int, exchanges: int) -> Iterator[tuple[int, list[int]]]:
    """Photos of each class, evenly spaced, and photos of other classes whose backgrounds they get,
    in turn of every class."""
    by_class = {int(c): np.nonzero(measured.target == c)[0] for c in measured.present}
    for number, rows in by_class.items():
        some = np.linspace(0, len(rows) - 1, min(len(rows), tests)).round().astype(int)
        others = [held for c, held in by_class.items() if c != number]
        for turn, at in enumerate(some.tolist()):
            donors = []
            for one in range(exchanges if others else 0):
                place = turn * exchanges + one
                held = others[place % len(others)]
                donors.append(int(held[(place // len(others)) % len(held)]))
            yield int(rows[at]), list(dict.fromkeys(donors))


def tested(
    finder: BiasFinder, files: Sequence[Path], measured: Measured, row: int, donors: Sequence[int]
) -> dict[str, Any] | None:
    """What becomes of a photo, see `Tested`; None where it has no object, or no background. donors:
    rows of photos whose backgrounds it gets. Raises ImageError."""
    target = int(measured.target[row])
    cut = finder.cut(files[measured.index[row]], target)
    assert cut.region is not None
    if not LEAST <= cut.region.mean() <= MOST:
        return None
    given = [int(measured.target[d]) for d in donors]
    others = [finder.cut(files[measured.index[d]], c) for d, c in zip(donors, given, strict=True)]
    chances = finder.chances(variants(cut, others))
    wide = finder.exchanges - len(donors)
    nothing = chances[SHOWN : SHOWN + 2]
    swapped, empty, none = chances[SHOWN + 2 :], [np.nan] * wide, [-1] * wide
    return {
        "row": row, "chance": chances[:SHOWN, target], "nothing_top": nothing.argmax(axis=1),
        "alone": chances[2, measured.present], "nothing": nothing[:, measured.present],
        "given": given + none, "donor": [*donors, *none],
        "kept": [*swapped[:, target], *empty],
        "pulled": [*(swapped[i, c] for i, c in enumerate(given)), *empty],
        "follows": [*swapped.argmax(axis=1).tolist(), *none],
    }  # fmt: skip
