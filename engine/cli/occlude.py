"""`backlight occlude`: hide a window of a photo, everywhere, and see what the class loses."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ...errors import UsageError
from .console import percent
from .masked import (
    RESULTS,
    SHOWN,
    BaselineOption,
    Job,
    Memory,
    MostRows,
    Of,
    Photos,
    ScoreOption,
    SpaceOption,
    Targets,
    drawn,
    flat,
    numbers,
    open_job,
    photo_cell,
    run_job,
    told_lines,
)
from .options import (
    Bands,
    Extra,
    Force,
    Json,
    Labels,
    Model,
    OutputDir,
    PreprocessOption,
    Provider,
    Shape,
    Threads,
    renamed,
    say_renamed,
)
from .photos import found_photos

if TYPE_CHECKING:
    from ..masked.necessity import Necessity
    from ..masked.occlusion import Occluded, Occlusion
    from ..masked.scoring import Progress
    from ..photos.images import Prepared
    from ..photos.outputs import OutputFolder
    from ..pictures.panel import Cell


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("occlude")(occlude)


def occlude(
    image: Photos = None,
    output: OutputDir = Path("occluded"),
    model: Model = None,
    window: Annotated[
        str, typer.Option(metavar="W", help="Pixels: 16, HxW, or CxHxW for some channels.")
    ] = "16",
    stride: Annotated[str, typer.Option(metavar="S", help="Pixels between windows.")] = "8",
    edges: Annotated[
        str, typer.Option(metavar="HOW", help="clip (the last windows) or valid (whole ones).")
    ] = "clip",
    baseline: BaselineOption = "mean",
    baseline_space: SpaceOption = "input",
    score: ScoreOption = None,
    overlap: Annotated[str, typer.Option(metavar="HOW", help="mean or sum.")] = "mean",
    target_class: Targets = None,
    necessity: Annotated[
        int,
        typer.Option(metavar="N", help="Windows hidden at most to change the class; 0: skip."),
    ] = 16,
    way: Annotated[
        str | None,
        typer.Option(
            metavar="HOW",
            help="dense: every variant whole; incremental: what a window changes alone, exact; "
            "auto: the faster; drilldown: approximate, fewer windows. [auto]",
        ),
    ] = None,
    method: Annotated[str | None, typer.Option("--method", hidden=True)] = None,
    share: Annotated[
        float | None,
        typer.Option(
            metavar="P",
            help="Of the windows that drilldown scores; 1: exact. Default: what the map needs.",
        ),
    ] = None,
    of: Of = None,
    shape: Shape = None,
    input_: Extra = None,
    preprocess: PreprocessOption = None,
    bands: Bands = None,
    labels: Labels = None,
    memory: Memory = None,
    batch: MostRows = None,
    provider: Provider = None,
    threads: Threads = None,
    force: Force = False,
    json: Json = False,
) -> None:
    """What a class loses when a window of the photo is hidden: a panel, the raw map and a summary.

    Red: hiding it costs score; blue: hiding it helps. Also the fewest windows, found greedily,
    whose hiding changes the predicted class. Raw maps (.npy) are float32 [H,W], or [T,H,W] for
    several classes; a CxHxW window adds an axis of channels before H.
    """
    from ..masked.occlusion import Occlusion
    from ..masked.ways import check_method

    how = renamed("--way", way, "--method", method, "auto")
    check_method(how)
    if necessity < 0:
        raise UsageError(f"--necessity {necessity}; accepted: 0 or more")
    if share is not None and how != "drilldown":
        raise UsageError(f"--share {share:g} with --way {how}: that scores all windows")
    size, step = numbers(window, "--window"), numbers(stride, "--stride")
    photos = found_photos("occlude", image, output, RESULTS, force, json)
    job = open_job(
        photos, model, preprocess, labels, of, provider, threads, memory, batch, shape, input_,
        bands,
    )  # fmt: skip
    engine = Occlusion(
        job.scorer,
        window=size,
        stride=step,
        edges=edges,  # type: ignore[arg-type]
        baseline=job.baseline(baseline, baseline_space),
        score=score,  # type: ignore[arg-type]
        overlap=overlap,  # type: ignore[arg-type]
        method=how,  # type: ignore[arg-type]
        share=share,
    )
    job.say_new()
    classes = job.classes(target_class)
    plan = engine.plan(job.shape)
    job.rehearse(engine.baseline)
    settings: dict[str, Any] = {
        "window": size,
        "stride": step,
        "edges": edges,
        "baseline": baseline,
        "baseline_space": baseline_space,
        "score": engine.score,
        "overlap": overlap,
        "method": how,
        "windows": len(plan),
    }
    unit = " (pixels)" if baseline_space == "pixels" else ""
    look = f"{window} px windows, stride {stride}, replaced by {Path(baseline).name}{unit}"
    if how == "drilldown":
        settings["share"] = share

    def one(folder: OutputFolder) -> Any:
        def each(
            job: Job, file: Path, name: str, prepared: Prepared, progress: Progress
        ) -> tuple[dict[str, Any], list[str]]:
            return _one(
                engine, classes, necessity, look, folder, file, name, prepared, progress, job
            )

        return each

    run_job(job, output, force, len(plan), "occluding", settings, one)
    say_renamed("--way", "--method", method)


def _one(
    engine: Occlusion, classes: Any, limit: int, look: str, folder: OutputFolder, file: Path,
    name: str, prepared: Prepared, progress: Progress, job: Job,
) -> tuple[dict[str, Any], list[str]]:  # fmt: skip
    """One photo: measured, written, and told in a line."""
    start = time.perf_counter()
    batch = job.fed(prepared)
    found = engine.measure(batch, classes=classes, progress=progress)
    need = None
    if limit and (found.logits.shape[1] > 1 or job.scorer.closing == "Sigmoid"):
        need = engine.necessity(batch, measured=found, limit=limit)[0]
    seconds = time.perf_counter() - start
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
        "necessity": None if need is None else _told(job, found, need, chances),
    }
    heat = found.heat[0]
    cells = [photo_cell(job, prepared)]
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
    folder.picture(entry["panel"], drawn(job, heading, look, cells))
    return entry, _lines(job, file, entry, need, engine)


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


def _loss(job: Job, found: Occluded, k: int, chances: Any, score: str) -> dict[str, Any]:
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


def _told(job: Job, found: Occluded, need: Necessity, chances: Any) -> dict[str, Any]:
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
    job: Job, engine: Occlusion, prepared: Prepared, heat: Any, told: dict[str, Any], chances: Any
) -> Cell:
    import numpy as np

    from ..pictures import heat as colours
    from ..pictures.panel import Cell

    values = flat(heat)
    full, note = colours.strength(float(np.abs(values).max()), engine.score, told["score"])
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
        job.titled(told["class"], chances),
        f"{'' if note is None else f'{note}; '}red: {what} lost when hidden, blue: gained; "
        f"{engine.overlap} of the windows on a pixel{many}; linear to the bar's ends, shaded by "
        "the photo",
    )


def _necessity_cell(job: Job, need: Necessity, chances: Any) -> Cell:
    from ..photos import images
    from ..pictures import heat as colours
    from ..pictures.panel import Cell

    pixels = images.to_pixels(need.hidden, job.preprocess, job.scorer.input.layout)
    after = job.probabilities(need.logits)
    count = len(need.windows)
    windows = "1 window" if count == 1 else f"{count} windows"
    covered = f"{windows}, {percent(need.share)} of the image"
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
    job: Job, file: Path, entry: dict[str, Any], need: Necessity | None, engine: Occlusion
) -> list[str]:
    """A photo's lines on the terminal."""

    def lost(told: dict[str, Any]) -> str:
        drop = told["largest_drop"]
        text = f"-{100 * drop:.1f} pt" if engine.score == "probability" else f"-{drop:.3g}"
        return f" {text.replace('--', '+'):>9}"

    tail = f" {entry['seconds']:6.1f} s"
    if need is not None:
        count = len(need.windows)
        few = "1 window" if count == 1 else f"{count} windows"
        tail += f"  {few} -> {job.name(need.after)}" if need.changes else f"  stays without {few}"
    return told_lines(job, file, entry["classes"], tail, lost)
