"""`backlight neighbors`: the pictures of a store that are most like a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ...errors import UsageError
from .layers import (
    Html,
    Pictures,
    list_skipped,
    opened_store,
    results_in,
    write_page,
)
from .options import (
    Extra,
    Force,
    Json,
    OutputDir,
    Provider,
    Shape,
    inputs_of,
    model_path,
    path_given,
    renamed,
    say_renamed,
    shapes_of,
)
from .photos import found_photos, preprocess_told, results_of

NEAREST = 8


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("neighbors")(neighbors)


def neighbors(
    store: Annotated[
        Path,
        typer.Argument(metavar="STORE", help="What 'backlight embed' wrote.", parser=path_given),
    ],
    image: Annotated[list[str], typer.Argument(metavar="IMAGE…", help="Images and folders.")],
    k: Annotated[
        int | None,
        typer.Option("-k", metavar="K", help="Neighbours of each image. [8, or all of a few]"),
    ] = None,
    metric: Annotated[
        list[str] | None,
        typer.Option("--metric", metavar="M", help="l2 or cosine; repeatable. [both]"),
    ] = None,
    search: Annotated[
        str | None,
        typer.Option(metavar="HOW", help="auto, numpy or faiss; all are exact. [auto]"),
    ] = None,
    method: Annotated[str | None, typer.Option("--method", hidden=True)] = None,
    output: OutputDir = Path("neighbors"),
    model: Annotated[
        str | None,
        typer.Option(
            "--model", "-m", metavar="MODEL", help="STORE's model. [default: where it was]"
        ),
    ] = None,
    pictures: Pictures = None,
    provider: Provider = None,
    shape: Shape = None,
    input_: Extra = None,
    html: Html = False,
    force: Force = False,
    json: Json = False,
) -> None:
    """Show the nearest pictures, by what the model sees in them and by their pixels alone.

    For each IMAGE a strip with a row per distance, and all of them with paths in neighbors.json.
    MODEL is needed only where its file has moved since STORE was made; --shape and --input as they
    were then.
    """
    from ..pictures.page import Page
    from ..similar.embed import embedder_of
    from ..similar.lookup import Space
    from ..similar.neighbors import METRICS, SEARCHES

    metrics = list(dict.fromkeys(metric or METRICS))
    for name in metrics:
        if name not in METRICS:
            raise UsageError.unknown("--metric", name, METRICS)
    how = renamed("--search", search, "--method", method, SEARCHES)
    held = opened_store(store, pictures)
    chosen = None if model is None else model_path(model)
    listed = ["neighbors.json", *(["neighbors.html"] if html else []), "{}.png"]
    job = found_photos("neighbors", image, output, listed, force, json)
    files, names = job.files, job.names
    embedder, preprocess = embedder_of(
        held, chosen, providers=provider or None, shapes=shapes_of(shape), inputs=inputs_of(input_)
    )
    space = Space(held, embedder, preprocess, metrics, how)
    if k is None:
        k = max(min(NEAREST, space.most(files)[0]), 1)
    space.check(files, k)
    page = Page(f"Nearest pictures in {store}", f"{len(held)} pictures, '{held.source.tensor}'")
    with results_in(output, results_of(job, listed), force) as folder:
        with job.progress("searching") as step:
            for at in range(0, len(files), _BATCH):
                here = dict(zip(files[at : at + _BATCH], names[at : at + _BATCH], strict=True))
                found, bad = space.similar(list(here), k)
                job.skipped += bad
                for one in found:
                    name = here[Path(one.file)]
                    picture = space.strip(one)
                    folder.picture(f"{name}.png", picture)
                    if html:
                        page.section(Path(one.file).name)
                        page.picture(picture, f"the pictures nearest to {one.file}")
                    spaces = {s: [n.as_dict() for n in near] for s, near in one.spaces.items()}
                    entry = {"file": one.file, "picture": f"{name}.png", "nearest": spaces}
                    line = f"{Path(one.file).name}: {_first(spaces)} -> {output}/{name}.png"
                    job.add(entry, line)
                step.advance(len(here))
        if job.entries and html:
            list_skipped(page, job.errors, job.read)
            write_page(folder, "neighbors.html", page)
        about = {
            "store": str(store),
            "pictures": len(held),
            "tensor": held.source.tensor,
            "k": k,
            "metrics": metrics,
            "preprocess": preprocess_told(preprocess),
            "providers": embedder.providers,
        }
        job.finish(folder, about, old=("neighbors.json", {}))
    say_renamed("--search", "--method", method)


_BATCH = 16


def _first(spaces: dict[str, list[dict[str, Any]]]) -> str:
    """The nearest picture of each space, for the terminal."""
    return ", ".join(
        f"{space} {Path(near[0]['file']).name} ({near[0]['distance']:.3g})"
        for space, near in spaces.items()
    )
