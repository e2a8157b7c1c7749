"""`backlight triton`: a model repository for Triton."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .asking import Layer
from .console import show, show_json
from .layers import ModelArgument
from .options import (
    Force,
    Json,
    Labels,
    Methods,
    PreprocessOption,
    Rules,
    Shape,
    model_path,
    path_given,
    say,
    shapes_of,
)
from .photos import summary_of


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("triton")(triton)


def triton(
    model: ModelArgument,
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            metavar="DIR",
            help="The repository, new or to grow.",
            parser=path_given,
        ),
    ] = Path("repository"),
    rule: Rules = None,
    method: Methods = None,
    layer: Layer = None,
    name: Annotated[
        str | None, typer.Option(metavar="NAME", help="Of the model there. [the file's]")
    ] = None,
    backend: Annotated[
        str, typer.Option(metavar="B", help="onnxruntime, or tensorrt (a plan, built there).")
    ] = "onnxruntime",
    device: Annotated[str, typer.Option(metavar="D", help="gpu or cpu.")] = "gpu",
    instances: Annotated[int, typer.Option(metavar="N", help="Of the model, on each device.")] = 1,
    max_batch: Annotated[int, typer.Option(metavar="N", help="Images of a batch, at most.")] = 8,
    delay: Annotated[
        int, typer.Option(metavar="US", help="Microseconds to wait for a fuller batch.")
    ] = 2000,
    queue: Annotated[
        int, typer.Option(metavar="N", help="Requests that wait; the next are refused.")
    ] = 64,
    timeout: Annotated[
        int, typer.Option(metavar="US", help="Microseconds that a request waits, at most.")
    ] = 2_000_000,
    shape: Shape = None,
    preprocess: PreprocessOption = None,
    labels: Labels = None,
    force: Force = False,
    json: Json = False,
) -> None:
    """Write MODEL as a repository for Triton: explaining, plain, and the scores alone.

    DIR holds NAME (scores and maps), NAME_plain (the model as it was) and NAME_scores (an ensemble
    that shows the class scores alone).
    """
    from ...export.methods import asked
    from ...export.preprocess import parse
    from ..classifier.labels import load_labels
    from ..scale.triton import Serving, repository

    path = model_path(model)
    serving = Serving(backend, device, instances, max_batch, delay, queue, timeout)
    made = repository(
        path, output, asked(rule, method), name=name, serving=serving, layer=layer or None,
        preprocess=None if preprocess is None else parse(preprocess),
        labels=None if labels is None else load_labels(labels), shapes=shapes_of(shape),
        force=force,
    )  # fmt: skip
    for note in made.notes:
        say(note)
    if json:
        about = {
            "model": path, "output": str(made.folder), "methods": list(made.methods),
            "models": made.models,
        }  # fmt: skip
        show_json(summary_of("triton", about, made.notes))
        return
    show(f"{', '.join(made.models)} ({', '.join(made.methods)}) -> {made.folder}/")
    show(f"tritonserver --model-repository={made.folder.absolute()}")
