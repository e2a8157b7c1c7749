"""`backlight cem`: what is missing from a photo for another class, and what of it is enough."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ...errors import UsageError
from .console import percent
from .masked import Of, Photos, SpaceOption, segments_given
from .options import (
    Batch,
    Extra,
    Force,
    Json,
    Labels,
    Model,
    OutputDir,
    PreprocessOption,
    Provider,
    Shape,
    TargetClass,
    Threads,
    at_least,
    chosen_labels,
    class_asked,
    counted,
    inputs_of,
    model_path,
    preprocess_of,
    shapes_of,
)
from .photos import PhotoJob, found_photos, preprocess_told
from .scored import Scored, baseline_given, refuse_names, refuse_words

if TYPE_CHECKING:
    from ..photos.images import Prepared
    from ..photos.outputs import OutputFolder
    from ..pictures.panel import Cell
    from ..targeted.cem import Cem, Contrastive, Pertinent


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("cem")(cem)


def cem(
    image: Photos = None,
    output: OutputDir = Path("contrasted"),
    model: Model = None,
    kind: Annotated[
        list[str] | None,
        typer.Option(metavar="KIND", help="negative or positive; repeatable. [both]"),
    ] = None,
    target_class: TargetClass = "top1",
    on: Annotated[
        str,
        typer.Option(
            metavar="WHAT",
            help="What is changed: pixels, superpixels, blur (smoothly), or auto: of digits "
            "pixels, else blur.",
        ),
    ] = "auto",
    segments: Annotated[
        str | None,
        typer.Option(
            metavar="HOW",
            help="How superpixels are cut: slic:COUNT, quickshift, felzenszwalb, grid:7x9, or a "
            "label map, .npy or .png. [slic:50]",
        ),
    ] = None,
    baseline: Annotated[
        str | None,
        typer.Option(
            metavar="B",
            help="The picture that says nothing: mean, zero, blur:SIGMA, a number, a colour, a "
            "picture or an .npy file. [pixels: black; else the photo's blur]",
        ),
    ] = None,
    baseline_space: SpaceOption = "input",
    most: Annotated[
        float | None,
        typer.Option(metavar="G", help="Off pixels: what a negative adds at most, as a gain. [3]"),
    ] = None,
    weight: Annotated[
        float, typer.Option(metavar="C", help="Of the class against the size, to begin with.")
    ] = 10.0,
    kappa: Annotated[
        float, typer.Option(metavar="K", help="By how much the class is ahead, as a logit.")
    ] = 0.0,
    beta: Annotated[float, typer.Option(metavar="B", help="Of the L1 norm.")] = 0.1,
    rate: Annotated[float, typer.Option(metavar="R", help="Of the first step.")] = 0.1,
    rounds: Annotated[int, typer.Option(metavar="N", help="Weights that are tried.")] = 3,
    steps: Annotated[int, typer.Option(metavar="N", help="Of a round, at most.")] = 200,
    patience: Annotated[
        int, typer.Option(metavar="N", help="Steps without progress that end a round.")
    ] = 40,
    of: Of = None,
    shape: Shape = None,
    input_: Extra = None,
    preprocess: PreprocessOption = None,
    labels: Labels = None,
    batch: Batch = 8,
    provider: Provider = None,
    threads: Threads = None,
    force: Force = False,
    json: Json = False,
) -> None:
    """What is missing from a photo for another class, and what of it is enough for its own: the
    contrastive explanation method (Dhurandhar et al. 2018).

    A pertinent negative is the least that, added, changes the class; a pertinent positive the least
    that has the class alone. A panel, the changes (.npy, in the input's layout) and a summary.
    Killed, it goes on when started again with the same arguments.
    """
    from ..classifier.ready import Ready
    from ..targeted.cem import KINDS, Cem
    from ..targeted.fista import MOST

    path = model_path(model)
    refuse_words(preprocess, labels)
    at_least("--batch", batch)
    kinds = tuple(dict.fromkeys(kind or KINDS))
    wrong = next((k for k in kinds if k not in KINDS), None)
    if wrong is not None:
        raise UsageError.unknown("--kind", wrong, KINDS)
    if not 0 < weight <= MOST:
        raise UsageError(f"--weight: c {weight:g}; expected a number above 0, at most {MOST:g}")
    if segments is not None and on not in ("auto", "superpixels"):
        raise UsageError(f"--segments with --on {on}; it goes with --on superpixels")
    if baseline is None and baseline_space != "input":
        raise UsageError(f"--baseline-space {baseline_space} goes with --baseline")
    if baseline is not None:
        baseline_given(baseline, baseline_space)
    files = ["{}.png", *(_delta_file("{}", k) for k in kinds)]
    photos = found_photos("cem", image, output, files, force, json)
    ready = Ready(path, shapes_of(shape), inputs_of(input_))
    refuse_names(ready, labels, [target_class])
    record, assumed = preprocess_of(ready, preprocess)
    engine = Cem(
        ready, kinds=kinds, on=on,  # type: ignore[arg-type]
        segments=None if segments is None else segments_given(segments),
        most=most, c=weight, kappa=kappa, beta=beta, rate=rate, rounds=rounds,
        steps=steps, patience=patience, preprocess=record, of=of, providers=provider or None,
        threads=threads,
    )  # fmt: skip
    own = None if engine.scorer.layer is not None else engine.scorer.labels
    names, hint = chosen_labels(labels, own, engine.classes, of)
    job = Scored(path, engine.scorer, engine.record, names)
    if baseline is not None:
        engine.baseline = job.baseline(baseline, baseline_space)
    job.rehearse(engine.baseline)
    target = class_asked(target_class, names, engine.classes)
    photos.note(*engine.notes, assumed, hint)
    settings = {
        "kinds": list(kinds), "on": engine.on,
        "segments": engine.segments.name if engine.on == "superpixels" else None,
        "baseline": baseline or engine.baseline_name, "baseline_space": baseline_space,
        "most": None if engine.on == "pixels" else engine.most,
        "weight": weight, "kappa": kappa, "beta": beta, "rate": rate, "rounds": rounds,
        "steps": steps, "patience": patience,
        "target_class": "top1" if target < 0 else target,
    }  # fmt: skip
    with photos.results(output, files, force, path) as folder:
        start = time.perf_counter()
        with photos.progress("explaining", engine.work) as step:

            def explained(images: Any) -> tuple[Contrastive, float]:
                begun = time.perf_counter()
                found = engine(images, None if target < 0 else target, progress=step.advance)
                return found, (time.perf_counter() - begun) / len(images)

            for index, prepared, (found, seconds), at in photos.each(
                engine.record, engine.input, batch, explained
            ):
                _one(job, photos, engine, folder, index, prepared, found, at, seconds)
        ran_on = engine.objective.session.provider
        line = photos.timed(time.perf_counter() - start, 1, ran_on, folder)
        about = {
            "model": path,
            **settings,
            "preprocess": preprocess_told(engine.record),
            "providers": engine.objective.session.providers,
        }
        photos.finish(folder, about, line, count=False)


def _delta_file(name: str, kind: str) -> str:
    return f"{name}-{kind}.npy"


def _one(
    job: Scored, photos: PhotoJob, engine: Cem, folder: OutputFolder, index: int,
    prepared: Prepared, found: Contrastive, at: int, seconds: float,
) -> None:  # fmt: skip
    """One photo: written, and told in a line."""
    file, name = photos.files[index], photos.names[index]
    chances = job.probabilities(found.logits[at])
    target = int(found.target[at])
    entry: dict[str, Any] = {
        "file": str(file),
        "panel": f"{name}.png",
        **job.chance(target, chances),
        "seconds": round(seconds, 3),
        "top": None if chances is None else job.top(chances),
    }
    cells = [job.cell(prepared)]
    told = ""
    for one in (found.negative, found.positive):
        if one is None:
            continue
        after = job.probabilities(one.logits[at])
        delta = _delta_file(name, one.kind)
        folder.array(delta, _host(one.delta)[at])
        now = int(one.after[at])
        note = _note(engine, one, at, int(found.top[at]) == target)
        entry[one.kind] = {
            "reached": bool(one.reached[at]),
            "after": job.chance(now, after),
            "class_after": None if after is None else round(float(after[target]), 6),
            "l1": round(float(one.l1[at]), 6),
            "l2": round(float(one.l2[at]), 6),
            "share": round(float(one.share[at]), 6),
            "amount": round(float(one.amount[at]), 6),
            "weight": float(one.c[at]),
            "steps": int(one.steps[at]),
            "delta": delta,
            "note": note,
        }
        cells += _cells(job, engine, one, at, prepared, job.titled(now, after), note)
        told += _told(job, one, at)
    asked = {"negative": "lacks for another class", "positive": "needs for its own"}
    what = ", and ".join(text for kind, text in asked.items() if kind in engine.kinds)
    heading = f"{file.name}: what {job.name(target)} {what}"
    folder.picture(entry["panel"], job.drawn(heading, _look(engine), cells))
    chance = "" if entry["probability"] is None else percent(entry["probability"])
    line = f"{file.name:<20} {job.name(target):<30} {chance:>7}{told} {seconds:6.1f} s"
    photos.add(entry, line)


def _host(values: Any) -> Any:
    from ..runtime import arrays

    return arrays.to_host(arrays.taken(values)[0])


def _told(job: Scored, one: Pertinent, at: int) -> str:
    amount = percent(one.amount[at])
    if one.kind == "negative":
        after = job.name(int(one.after[at]))
        return f"  +{amount} -> {after}" if one.reached[at] else "  stays, whatever is added"
    return f"  {amount} enough" if one.reached[at] else "  no part is enough"


def _note(engine: Cem, one: Pertinent, at: int, is_top: bool) -> str | None:
    """What is to be said of a result that is none, or nothing."""
    tried = f"in {counted(int(one.steps[at]), 'step')}"
    if one.kind == "negative" and not is_top:
        return "the photo's class is another one already: nothing is missing"
    if not one.reached[at]:
        what = "no addition changes the class" if one.kind == "negative" else "no part is enough"
        return f"{what}, {tried}"
    if one.kind == "positive" and one.l1[at] == 0:
        return f"nothing is needed: the baseline alone ({engine.baseline_name}) has the class"
    return None


def _look(engine: Cem) -> str:
    on = {
        "pixels": "pixel by pixel",
        "blur": "contrast against the baseline, smoothly",
        "superpixels": f"contrast against the baseline, {engine.segments.name}",
    }[engine.on]
    how = engine.search
    return f"{on}; baseline {engine.baseline_name}; {how.rounds} x {how.steps} steps"


def _cells(
    job: Scored,
    engine: Cem,
    one: Pertinent,
    at: int,
    prepared: Prepared,
    after: str,
    note: str | None,
) -> list[Cell]:
    """Where it lies, and the picture that the model was shown."""
    import numpy as np

    from ..photos import images
    from ..pictures import heat
    from ..pictures.panel import Cell

    layout = engine.input.layout
    shown = images.to_pixels(_host(one.images)[at], job.preprocess, layout)
    size = f"{percent(one.amount[at])} of what tells the photo from the baseline"
    negative = one.kind == "negative"
    titles = {True: "what to add", False: "what to keep"}
    values = one.map[at]
    full = float(np.abs(values).max())
    if engine.on == "pixels":
        colours = heat.diverging(values, full)
        unit = "red: brighter, blue: darker than " + ("the photo" if negative else "the baseline")
        bar = heat.diverging(np.linspace(-1, 1, 256), 1)
        ends = f"{100 * full / (engine.input.channels or 3):.3g} %"
        ticks = [(0.0, f"-{ends}"), (0.5, "0"), (1.0, f"+{ends}")]
    else:
        colours = heat.sequential(values, 0, full)
        unit = "the gain on contrast" if negative else "how much of the contrast stays"
        bar = heat.sequential(np.linspace(0, 1, 256), 0, 1)
        ticks = [(0.0, "0"), (0.5, f"{50 * full:.3g} %"), (1.0, f"{100 * full:.3g} %")]
    where = heat.with_bar(heat.over_photo(colours, prepared.pixels), bar, ticks)
    lead = "" if note is None else f"{note}; "
    what = "the photo with it" if negative else "what is kept, on the baseline"
    return [
        Cell(where, titles[negative], f"{lead}{unit}; linear, shaded by the photo"),
        Cell(shown, f"{'then' if negative else 'alone'}: {after}", f"{what}: {size}"),
    ]
