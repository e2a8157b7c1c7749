"""What `counterfactual` draws of a photo: both pictures with their cells, and the pairs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .console import percent
from .options import counted

if TYPE_CHECKING:
    from PIL.Image import Image

    from ..targeted.search import Changes
    from .counterfactual import Job, Shown

__all__ = ["picture"]

# Pairs of a picture, in rows of so many, and their sizes.
SHOWN, ROW, CUT, SIDE = 10, 5, 84, 330


def picture(job: Job, made: Changes, photo: Shown, other: Shown) -> Image:
    """The two pictures with their cells, what it would be in pixels, and the pairs."""
    from PIL.Image import new

    from ..pictures.panel import PAPER, Cell, panel
    from ..pictures.regions import marked, pasted

    boxes = job.change.boxes(photo.seen, photo.pixels.shape[:2])
    columns = made.grid[1]
    mine = boxes[made.swaps[:, 0] * columns + made.swaps[:, 1]]
    theirs = boxes[made.swaps[:, 2] * columns + made.swaps[:, 3]]
    then = pasted(photo.pixels, list(mine), other.pixels, list(theirs))
    after = _said(job, made, len(made.swaps))
    cells = [
        Cell(
            marked(photo.pixels, mine, SIDE), f"photo: {_said(job, made, 0, made.source)}",
            "the cells that are replaced, in order",
        ),
        Cell(
            marked(other.pixels, theirs, SIDE), other.file.name,
            f"taken for {job.name(made.target)}; the cells that come in their place",
        ),
        Cell(
            marked(then, mine[:0], SIDE), f"then: {after}",
            "the same parts pasted, for the eye: the model's layer was changed, not the pixels",
        ),
    ]  # fmt: skip
    height, width = made.grid
    how = "sorted by what each cell adds to the margin" if made.search == "sort" else "greedily"
    exchanged = counted(len(made.swaps), "cell")
    detail = f"{job.change.name}, {job.change.layer}: {exchanged} of {height} x {width}, {how}"
    detail += "" if made.note is None else f"; {made.note}"
    heading = f"{photo.file.name}: what would make it {job.name(made.target)}?"
    above = panel(heading, detail, cells)
    below = _pairs(job, made, photo, other, mine, theirs)
    sheet = new("RGB", (max(above.width, below.width), above.height + below.height), PAPER)
    sheet.paste(above, (0, 0))
    sheet.paste(below, (0, above.height))
    return sheet


def _said(job: Job, made: Changes, at: int, number: int | None = None) -> str:
    """A class and its probability after so many swaps."""
    number = made.target if number is None else number
    chance = job.chance(made.scores[at], number)
    shown = f"{float(made.scores[at][number]):.3g}" if chance is None else percent(chance)
    return f"{job.name(number)}, {shown}"


def _pairs(job: Job, made: Changes, photo: Shown, other: Shown, mine: Any, theirs: Any) -> Image:
    """The pairs in order, each with the score after it: of many some, the first and the last."""
    import numpy as np

    from ..pictures.grid import Tile, sheet, tiled
    from ..pictures.regions import cut_out

    count = len(made.swaps)
    gap = np.full((CUT, 2, 3), 255, np.uint8)
    tiles = []
    for at in np.unique(np.linspace(0, count - 1, min(count, SHOWN)).round().astype(int)).tolist():
        pair = [cut_out(photo.pixels, mine[at], CUT), gap, cut_out(other.pixels, theirs[at], CUT)]
        scores = made.scores[at + 1]
        chance = job.chance(scores, made.target)
        score = f"{float(scores[made.target]):.3g}" if chance is None else _percent(chance)
        tiles.append(Tile(np.concatenate(pair, axis=1), f"{at + 1}: {score}"))
    note = f"Each pair: the cell that goes, the cell that comes; {job.name(made.target)} after it."
    if count > SHOWN:
        note += f" {SHOWN} of {count}; all are in summary.json."
    rows = tiled(tiles, ROW)
    return sheet("The exchanges", [], rows, 2 * CUT + 14, note)


def _percent(chance: float) -> str:
    """A probability that may be very small."""
    return f"{100 * chance:.2g} %" if chance >= 1e-4 else "under 0.01 %"
