"""`backlight explain`: pictures of a model's reasons on photos."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .asking import (
    SAMPLED,
    Baseline,
    Contrast,
    ContrastForm,
    Fuse,
    Hide,
    Layer,
    Masks,
    Noise,
    Samples,
    Seed,
    Segments,
    Signed,
    Size,
    Steps,
    asking,
)
from .console import lasted
from .explaining import SEGMENT_FILE, Run, map_file
from .masked import Of, ScoreOption, masking
from .options import (
    Bands,
    Batch,
    Extra,
    Force,
    Json,
    Labels,
    Methods,
    Model,
    OutputDir,
    PreprocessOption,
    Provider,
    Rules,
    Shape,
    TargetClass,
    Threads,
    Wrt,
    at_least,
    chosen_labels,
    chosen_preprocess,
    class_asked,
    counted,
    inputs_of,
    model_path,
    shapes_of,
    shown_bands,
)
from .photos import found_photos
from .scored import refuse_names, refuse_words


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("explain")(explain)


def explain(
    image: Annotated[
        list[str] | None,
        typer.Argument(metavar="IMAGE…", help="Images and folders. [default: bundled photos]"),
    ] = None,
    output: OutputDir = Path("explained"),
    model: Model = None,
    rule: Rules = None,
    method: Methods = None,
    target_class: TargetClass = "top1",
    layer: Layer = None,
    fuse: Fuse = False,
    size: Size = "input",
    signed: Signed = False,
    contrast: Contrast = None,
    contrast_form: ContrastForm = "loss",
    samples: Samples = None,
    noise: Noise = None,
    steps: Steps = None,
    baseline: Baseline = None,
    segments: Segments = None,
    hide: Hide = None,
    masks: Masks = None,
    seed: Seed = None,
    score: ScoreOption = None,
    of: Of = None,
    wrt: Wrt = None,
    shape: Shape = None,
    input_: Extra = None,
    preprocess: PreprocessOption = None,
    bands: Bands = None,
    labels: Labels = None,
    provider: Provider = None,
    threads: Threads = None,
    batch: Batch = 8,
    force: Force = False,
    json: Json = False,
) -> None:
    """Explain photos: a panel, the raw maps and a summary for each, in DIR.

    Panels show the crop that the model saw beside each method's map. Raw maps (.npy) are signed, in
    the input's layout. MODEL may be a file that `backlight export` wrote. Guided and
    deconv maps hardly depend on the class asked for: to tell classes apart, look at vanilla ones.
    Methods that run the model on masked images take a second or more for each.
    """
    from ...export.methods import asked
    from ...export.preprocess import parse
    from ..classifier.ready import Ready
    from ..masked.together import Together

    path = model_path(model)
    refuse_words(preprocess, labels)
    at_least("--batch", batch)
    names_asked = asked(rule, method)
    job = found_photos("explain", image, output, ["{}.png"], force, json)
    told = asking(
        layer=layer, fuse=fuse, size=size, signed=signed, contrast_form=contrast_form,
        samples=samples, noise=noise, steps=steps, baseline=baseline,
        methods=names_asked, contrast=contrast,
    )  # fmt: skip
    # Held by nobody here: a session has weights of its own.
    explainer = Together(
        refuse_names(Ready(path, shapes_of(shape), inputs_of(input_)), labels, [target_class],
                     contrast),
        names_asked, of=of, providers=provider or None, threads=threads, batch=batch, shapes=None,
        wrt=wrt,
        contrast=None if contrast is None else "input",
        contrast_form=told.pop("contrast_form"),
        sampled={key: told.pop(key) for key in SAMPLED}, drawn=told,
        preprocess=None if preprocess is None else parse(preprocess),
        masking=masking(segments, hide, masks, seed, score, layer, fuse, size, signed),
    )  # fmt: skip
    explainer.fed.needs()
    record, assumed = chosen_preprocess(
        preprocess, explainer.preprocess, path, explainer.input.dtype, explainer.input.channels,
        bands,
    )  # fmt: skip
    own = None if explainer.layer is not None else explainer.labels
    names_of_classes, hint = chosen_labels(labels, own, explainer.classes, of)
    run = Run(job, explainer, record, names_of_classes, wrt)
    run.target = class_asked(target_class, names_of_classes, explainer.classes)
    run.against = run.rival_of(contrast)
    why = [f"class activation maps are of '{n}': {r}" for n, r in explainer.reasons.items()]
    job.note(*explainer.notes, *why, assumed, hint)
    cut = [SEGMENT_FILE] if explainer.cuts else []
    expected = ["{}.png", *(map_file("{}", m) for m in explainer.methods), *cut]
    with job.results(output, expected, force, path, numbers=["ms"]) as folder:
        run.all(folder, batch)
        line = ""
        if job.entries:
            ms = sum(e["ms"] for e in job.entries) / len(job.entries)
            line = (
                f"{counted(len(job.entries))}, {lasted(ms)} each on {explainer.session.provider} "
                f"(score and {counted(len(explainer.methods), 'map')}) -> {folder.path}/"
            )
        note = shown_bands(run.preprocess, explainer.input.channels)
        job.finish(folder, run.about(path), line, count=False, note=note)
