"""What `occlude` writes, draws and says of a photo."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from .console import percent
from .options import counted
from .photos import PhotoJob
from .scored import SHOWN, Scored, flat

if TYPE_CHECKING:
    from ..masked.necessity import Necessity
    from ..masked.occlusion import Occluded, Occlusion
    from ..photos.images import Prepared
    from ..photos.outputs import OutputFolder
    from ..pictures.panel import Cell

    # What came of a photo, and in how many seconds.
    Measured = tuple[Occluded, Necessity | None, float]

__all__ = ["told"]


def told(
    job: Scored, photos: PhotoJob, engine: Occlusion, look: str, folder: OutputFolder, index: int,
    prepared: Prepared, made: Measured,
) -> None:  # fmt: skip
    """One photo: written, and told in a line."""
    file, name = photos.files[index], photos.names[index]
    found, need, seconds = made
    chances = job.probabilities(found.logits[0])
    entry: dict[str, Any] = {
        "file": str(file),
        "panel": f"{name}.png",
        "map": f"{name}.npy",
        "seconds": round(seconds, 3),
        "scored": _scored(found),
        "top": None if chances is None else job.top(chances),
        "classes": [
            _loss(job, found, k, chances, engine.score) for k in range(found.target.shape[1])
        ],
        "necessity": None if need is None else _needed(job, found, need, chances),
    }
    heat = found.heat[0]
    cells = [job.cell(prepared)]
    cells += [
        _heat_cell(job, engine, prepared, heat[k], entry["classes"][k], chances)
        for k in range(min(len(heat), SHOWN))
    ]
    if need is not None:
        cells.append(_necessity_cell(job, need, chances))
    shown = job.name(int(found.target[0, 0])) if len(heat) == 1 else f"{len(heat)} classes"
    folder.array(entry["map"], heat[0] if len(heat) == 1 else heat)
    if not found.scored.all():
        look += f"; {percent(found.scored.mean())} of the windows scored, the rest interpolated"
    heading = f"{file.name}: what hiding takes from {shown}"
    folder.picture(entry["panel"], job.drawn(heading, look, cells))
    photos.add(entry, *_lines(job, file, entry, need, engine))


def _scored(found: Occluded) -> dict[str, Any]:
    """The method that ran, for the summary."""
    choice = found.choice
    return {
        "method": choice.method,
        "estimated_speedup": choice.speedup,
        "why": choice.why,
        "approximate": not bool(found.scored.all()),
        "windows": int(found.scored.sum()),
    }


def _box(box: Any) -> dict[str, int]:
    c0, c1, y0, y1, x0, x1 = (int(v) for v in box)
    return {
        "x": x0,
        "y": y0,
        "width": x1 - x0,
        "height": y1 - y0,
        "channel": c0,
        "channels": c1 - c0,
    }


def _loss(job: Scored, found: Occluded, k: int, chances: Any, score: str) -> dict[str, Any]:
    """What one class loses, for the summary."""
    from ..pictures.heat import strength

    drops = found.drops[0, k]
    worst = int(drops.argmax())
    own = float(found.score[0, k])
    note = strength(float(abs(flat(found.heat[0, k])).max()), score, own)[1]
    return {
        **job.chance(int(found.target[0, k]), chances),
        "score": own,
        "largest_drop": float(drops[worst]),
        "largest_drop_window": _box(found.plan.boxes[worst]),
        "largest_gain": float(-drops.min()),
        "mean_drop": float(drops.mean()),
        "note": note,
    }


def _needed(job: Scored, found: Occluded, need: Necessity, chances: Any) -> dict[str, Any]:
    """Necessity, for the summary."""
    after = job.probabilities(need.logits)
    return {
        "predicted": job.chance(need.predicted, chances),
        "strongest_window": _box(found.plan.boxes[need.strongest]),
        "strongest_window_changes_class": bool(found.margins[0, need.strongest] < 0),
        "class_without_strongest": job.chance(need.after_strongest, None)["class"],
        "windows_changing_class_alone": int((found.margins[0] < 0).sum()),
        "changes_class": need.changes,
        "windows": [_box(b) for b in need.boxes],
        "share_hidden": round(need.share, 6),
        "class_after": job.chance(need.after, after),
        "predicted_after": job.chance(need.predicted, after),
    }


def _heat_cell(
    job: Scored, engine: Occlusion, prepared: Prepared, heat: Any, one: dict[str, Any],
    chances: Any,
) -> Cell:  # fmt: skip
    import numpy as np

    from ..pictures import heat as colours
    from ..pictures.panel import Cell

    values = flat(heat)
    full, note = colours.strength(float(np.abs(values).max()), engine.score, one["score"])
    likely = engine.score == "probability"
    scale, unit = (100, " pt") if likely else (1, "")
    what = "percentage points of its probability" if likely else job.measured(engine.score)
    many = "" if heat.ndim == 2 else ", summed over channels"
    picture = colours.over_photo(colours.diverging(values, full), prepared.pixels)
    bar = colours.diverging(np.linspace(-1, 1, 256), 1)
    ends = f"{scale * full:.3g}{unit}"
    ticks = [(0.0, f"-{ends}"), (0.5, "0"), (1.0, f"+{ends}")]
    return Cell(
        colours.with_bar(picture, bar, ticks),
        job.titled(one["class"], chances),
        f"{'' if note is None else f'{note}; '}red: {what} lost when hidden, blue: gained; "
        f"{engine.overlap} of the windows on a pixel{many}; linear to the bar's ends, shaded by "
        "the photo",
    )


def _necessity_cell(job: Scored, need: Necessity, chances: Any) -> Cell:
    from ..photos import images
    from ..pictures import heat as colours
    from ..pictures.panel import Cell

    pixels = images.to_pixels(need.hidden, job.preprocess, job.scorer.input.layout)
    after = job.probabilities(need.logits)
    covered = f"{counted(len(need.windows), 'window')}, {percent(need.share)} of the image"
    was = job.titled(need.predicted, chances)
    if need.changes and need.after != need.predicted:
        title = f"now {job.titled(need.after, after)}"
        rest = "" if after is None else f", now {percent(after[need.predicted])}"
        text = f"enough to hide: {covered} (found greedily); it was {was}{rest}"
    elif need.changes:  # a single score that crossed its threshold
        title = "the class changes"
        text = f"enough to hide: {covered} (found greedily); it was {was}"
    else:
        title = "the class stays"
        text = f"not enough: {covered}; {job.titled(need.predicted, after)}, before {was}"
    return Cell(colours.outlined(pixels, need.boxes), title, text)


def _lines(
    job: Scored, file: Path, entry: dict[str, Any], need: Necessity | None, engine: Occlusion
) -> list[str]:
    """A photo's lines on the terminal."""

    def lost(one: dict[str, Any]) -> str:
        drop = one["largest_drop"]
        text = f"-{100 * drop:.1f} pt" if engine.score == "probability" else f"-{drop:.3g}"
        return f" {text.replace('--', '+'):>9}"

    tail = f" {entry['seconds']:6.1f} s"
    if need is not None:
        few = counted(len(need.windows), "window")
        tail += f"  {few} -> {job.name(need.after)}" if need.changes else f"  stays without {few}"
    return job.lines(file, entry["classes"], tail, lost)
