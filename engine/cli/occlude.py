"""`backlight occlude`: hide a window of a photo, everywhere, and see what the class loses."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ...errors import UsageError
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
    at_least,
    renamed,
    say_renamed,
)
from .photos import found_photos
from .scored import RESULTS, Scored, baseline_given, score_given

if TYPE_CHECKING:
    from .occluded import Measured


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
    from ..masked.ways import METHODS
    from .occluded import told

    how = renamed("--way", way, "--method", method, METHODS)
    at_least("--necessity", necessity, 0)
    if share is not None and how != "drilldown":
        raise UsageError(f"--share {share:g} with --way {how}: that scores all windows")
    size, step = numbers(window, "--window"), numbers(stride, "--stride")
    for option, word, known in (
        ("--overlap", overlap, ("mean", "sum")), ("--edges", edges, ("clip", "valid")),
    ):  # fmt: skip
        if word not in known:
            raise UsageError.unknown(option, word, known)
    score_given(score)
    baseline_given(baseline, baseline_space)
    photos = found_photos("occlude", image, output, RESULTS, force, json)
    job = Scored.opened(
        model, preprocess=preprocess, labels=labels, of=of, provider=provider,
        threads=threads, memory=memory, batch=batch, shape=shape, extra=input_, bands=bands,
        classes=target_class,
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
    classes = job.classes(target_class)
    plan = engine.plan(job.shape)
    job.rehearse(engine.baseline)
    photos.note(*job.notes, *job.scorer.notes)
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

    with photos.results(output, RESULTS, force, job.path) as folder:
        start = time.perf_counter()
        with photos.progress("occluding", len(plan)) as bar:

            def measured(image: Any) -> Measured:
                begun = time.perf_counter()
                found = engine.measure(image, classes=classes, progress=bar.advance)
                need = None
                if necessity and (found.logits.shape[1] > 1 or job.scorer.closing == "Sigmoid"):
                    need = engine.necessity(image, measured=found, limit=necessity)[0]
                return found, need, time.perf_counter() - begun

            for index, prepared, made, _ in photos.each(
                job.preprocess, job.scorer.input, 1, measured
            ):
                told(job, photos, engine, look, folder, index, prepared, made)
        job.finish(photos, folder, time.perf_counter() - start, settings)
    say_renamed("--way", "--method", method)
