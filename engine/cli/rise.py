"""`backlight rise`: hide random parts of a photo, and see where the class survives."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .console import percent
from .masked import (
    BaselineOption,
    Memory,
    MostRows,
    Of,
    Photos,
    ScoreOption,
    SpaceOption,
    Targets,
    numbers,
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
)
from .photos import PhotoJob, found_photos
from .scored import RESULTS, SHOWN, Scored, baseline_given, score_given

if TYPE_CHECKING:
    from ..masked.rise import Rise, Risen
    from ..photos.images import Prepared
    from ..photos.outputs import OutputFolder
    from ..pictures.panel import Cell


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("rise")(rise)


def rise(
    image: Photos = None,
    output: OutputDir = Path("risen"),
    model: Model = None,
    masks: Annotated[int, typer.Option(metavar="N", help="Masks per photo, at most.")] = 4000,
    cells: Annotated[str, typer.Option(metavar="C", help="Grid points: 7, or HxW.")] = "7",
    probability: Annotated[
        float, typer.Option(metavar="P", help="Of a grid point being kept.")
    ] = 0.5,
    seed: Annotated[int, typer.Option(metavar="N", help="Of the masks.")] = 0,
    tolerance: Annotated[
        float | None,
        typer.Option(
            metavar="T", help="Stop when the map's standard error is below T of its range."
        ),
    ] = None,
    baseline: BaselineOption = "zero",
    baseline_space: SpaceOption = "input",
    score: ScoreOption = None,
    target_class: Targets = None,
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
    """RISE: the class's mean score where random masks keep a pixel (Petsiuk et al. 2018).

    A panel, the raw map (.npy: float32 [H,W], or [T,H,W] for several classes) and a summary.
    """
    from ..masked.rise import Rise

    grid = numbers(cells, "--cells")
    score_given(score)
    baseline_given(baseline, baseline_space)
    photos = found_photos("rise", image, output, RESULTS, force, json)
    job = Scored.opened(
        model, preprocess=preprocess, labels=labels, of=of, provider=provider,
        threads=threads, memory=memory, batch=batch, shape=shape, extra=input_, bands=bands,
        classes=target_class,
    )  # fmt: skip
    engine = Rise(
        job.scorer,
        masks=masks,
        cells=grid,
        probability=probability,
        seed=seed,
        tolerance=tolerance,
        baseline=job.baseline(baseline, baseline_space),
        score=score,  # type: ignore[arg-type]
    )
    classes = job.classes(target_class)
    engine.plan(job.shape)
    job.rehearse(engine.baseline)
    photos.note(*job.notes, *job.scorer.notes)
    settings = {
        "masks": masks,
        "cells": grid,
        "probability": probability,
        "seed": seed,
        "tolerance": tolerance,
        "baseline": baseline,
        "baseline_space": baseline_space,
        "score": engine.score,
    }
    rest = f"the rest {Path(baseline).name}"
    look = f"RISE, {cells} cells, {percent(probability)} kept, {rest}, seed {seed}"

    with photos.results(output, RESULTS, force, job.path) as folder:
        start = time.perf_counter()
        with photos.progress("masking", masks) as step:

            def risen(image: Any) -> tuple[Risen, float]:
                begun = time.perf_counter()
                found = engine.measure(image, classes=classes, progress=step.advance)
                return found, time.perf_counter() - begun

            for index, prepared, (found, seconds), _ in photos.each(
                job.preprocess, job.scorer.input, 1, risen
            ):
                _one(job, photos, engine, look, folder, index, prepared, found, seconds)
        job.finish(photos, folder, time.perf_counter() - start, settings)


def _one(
    job: Scored, photos: PhotoJob, engine: Rise, look: str, folder: OutputFolder, index: int,
    prepared: Prepared, found: Risen, seconds: float,
) -> None:  # fmt: skip
    """One photo: written, and told in a line."""
    file, name = photos.files[index], photos.names[index]
    chances = job.probabilities(found.logits[0])
    heat, targets = found.heat[0], [int(t) for t in found.target[0]]
    used, change = int(found.masks[0]), float(found.change[0])
    entry: dict[str, Any] = {
        "file": str(file),
        "panel": f"{name}.png",
        "map": f"{name}.npy",
        "seconds": round(seconds, 3),
        "top": None if chances is None else job.top(chances),
        "masks": used,
        "standard_error": round(change, 6) if change < float("inf") else None,
        "classes": [
            {
                **job.chance(target, chances),
                "score": float(found.score[0, k]),
                "lowest": float(heat[k].min()),
                "highest": float(heat[k].max()),
                "note": _note(engine, heat[k], float(found.score[0, k]), float(found.spread[0, k])),
            }
            for k, target in enumerate(targets)
        ],
    }
    cells = [job.cell(prepared)]
    for k in range(min(len(heat), SHOWN)):
        cells.append(_heat_cell(job, engine, prepared, heat[k], entry["classes"][k], chances, used))
    shown = job.name(targets[0]) if len(heat) == 1 else f"{len(heat)} classes"
    folder.array(entry["map"], heat[0] if len(heat) == 1 else heat)
    heading = f"{file.name}: what keeps {shown}"
    folder.picture(entry["panel"], job.drawn(heading, look, cells))
    known = f"error {percent(change)} of the range" if change < float("inf") else "error unknown"
    rest = f" {used:6d} masks ({known}) {seconds:6.1f} s"
    photos.add(entry, *job.lines(file, entry["classes"], rest))


def _note(engine: Rise, heat: Any, score: float, spread: float) -> str | None:
    """What is to be said of a weak map, and of one that shows the masks alone: where these hardly
    move the score."""
    from ..pictures.heat import at_most, full_colour, strength

    if (found := strength(float(heat.max() - heat.min()), engine.score, score)[1]) is not None:
        return found
    if spread and spread >= full_colour(spread, engine.score, score):
        return None
    change = at_most(spread, engine.score) if spread else "nothing"
    return f"masks change {change}: what is shown is how often each pixel was kept"


def _heat_cell(
    job: Scored, engine: Rise, prepared: Prepared, heat: Any, told: dict[str, Any],
    chances: Any, used: int,
) -> Cell:  # fmt: skip
    import numpy as np

    from ..pictures import heat as colours
    from ..pictures.panel import Cell

    low, high = float(heat.min()), float(heat.max())
    likely = engine.score == "probability"
    full, note = colours.full_colour(high - low, engine.score, told["score"]), told["note"]
    high = max(high, low + full)
    picture = colours.over_photo(colours.sequential(heat, low, high), prepared.pixels)
    bar = colours.sequential(np.linspace(0, 1, 256), 0, 1)
    ticks = [
        (place, f"{100 * value:.3g} %" if likely else f"{value:.3g}")
        for place, value in ((0.0, low), (0.5, (low + high) / 2), (1.0, high))
    ]
    return Cell(
        colours.with_bar(picture, bar, ticks),
        job.titled(told["class"], chances),
        f"{'' if note is None else f'{note}; '}mean {job.measured(engine.score)} where a pixel is "
        f"kept, {used} masks; linear, yellow: the map's lowest, shaded by the photo",
    )
