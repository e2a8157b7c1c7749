"""`backlight embed`: a folder of pictures into a store of vectors."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .console import show, show_json
from .layers import List, ModelArgument, listed, print_layers
from .options import (
    Bands,
    Extra,
    Json,
    PreprocessOption,
    Provider,
    Shape,
    Threads,
    at_least,
    chosen_preprocess,
    inputs_of,
    model_path,
    path_given,
    photo_paths,
    say,
    shapes_of,
    shown_bands,
)
from .photos import preprocess_told, summary_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from .progress import Step


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("embed")(embed)


def embed(
    model: ModelArgument,
    folder: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="FOLDER…",
            help="Pictures; folders in it are their labels. [default: bundled photos]",
        ),
    ] = None,
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            metavar="STORE",
            help="The store, new or to grow.",
            parser=path_given,
        ),
    ] = Path("embeddings"),
    layer: Annotated[
        str | None,
        typer.Option(
            "--layer",
            "-l",
            metavar="L",
            help="Tensor or node to embed. [default: the one before the classifier]",
        ),
    ] = None,
    preprocess: PreprocessOption = None,
    bands: Bands = None,
    provider: Provider = None,
    threads: Threads = None,
    batch: Annotated[int, typer.Option(metavar="N", help="Images per run.")] = 16,
    shape: Shape = None,
    input_: Extra = None,
    force: Annotated[bool, typer.Option("--force", help="Start the store anew.")] = False,
    list_: List = False,
    json: Json = False,
) -> None:
    """Write a vector per picture to STORE, a folder of Parquet files.

    Pictures that STORE holds already, by their paths, are passed over, so a run that was stopped
    goes on where it was. Exit code 2 when pictures could not be read; the others are in the store
    then.
    """
    from ..photos.images import image_files
    from ..similar import embed as engine
    from ..similar.store_writer import refuse_foreign
    from .progress import track

    path = model_path(model)
    if list_:
        print_layers(listed(path, preprocess, shape), json)
        return
    at_least("--batch", batch)
    given = photo_paths(folder)
    count = len(image_files(given))
    refuse_foreign(output)  # before the model is loaded
    embedder = engine.Embedder(
        path, layer, providers=provider or None, threads=threads, shapes=shapes_of(shape),
        inputs=inputs_of(input_),
    )  # fmt: skip
    record, assumed = chosen_preprocess(
        preprocess, embedder.preprocess, path, embedder.input.dtype, embedder.input.channels, bands
    )
    if assumed is not None:
        say(assumed)
    with track(count, "embedding") as step:
        result = engine.embed(
            embedder,
            given,
            output,
            preprocess=record,
            batch=batch,
            force=force,
            on_batch=_reporter(step),
        )
    if result.added and (shown := shown_bands(record, embedder.input.channels)) is not None:
        result.notes.append(shown)
    for note in result.notes:
        say(note)
    for error in result.skipped.values():
        say(f"skipped: {error}")
    pooled = f" ({embedder.pooling})" if embedder.pooling else ""
    if json:
        # As a summary.json has it; the store's folder holds Parquet alone.
        about = {
            "model": path,
            "store": str(result.store),
            "tensor": embedder.tensor,
            "pooling": embedder.pooling,
            "width": embedder.width,
            "model_sha256": embedder.hash,
            "preprocess": preprocess_told(record),
            "providers": embedder.providers,
            "added": result.added,
            "known": result.known,
            "newer": result.newer,
            "seconds": round(result.seconds, 3),
            "images_per_second": round(result.rate, 2),
        }
        notes = [*([] if assumed is None else [assumed]), *result.notes]
        skipped = [{"file": f, "error": e} for f, e in result.skipped.items()]
        show_json(summary_of("embed", about, notes, result.added, skipped=skipped))
    else:
        before = f", {result.known} were there already" if result.known else ""
        left = f", {len(result.skipped)} skipped" if result.skipped else ""
        show(
            f"{result.added} pictures as {embedder.width} numbers each, '{embedder.tensor}'"
            f"{pooled}: {result.rate:.1f} images/s on {embedder.provider}{before}{left} "
            f"-> {result.store}/"
        )
    if result.skipped:
        sys.stdout.flush()
        raise typer.Exit(2)


def _reporter(step: Step) -> Callable[[int, int], None]:
    """What moves the bar to what is done, with the rate beside it: called with each batch."""
    import time

    start = time.perf_counter()

    def report(done: int, total: int) -> None:
        rate = done / max(time.perf_counter() - start, 1e-9)
        step.reach(f"embedding, {rate:.1f} images/s", done, total)

    return report
