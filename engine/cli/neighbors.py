"""`backlight neighbors`: the pictures of a store that are most like a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ...errors import UsageError
from .console import show_json
from .layers import (
    Html,
    Pictures,
    list_skipped,
    opened_store,
    report_skipped,
    results_in,
    write_page,
)
from .options import Force, Json, OutputDir, Provider, model_path, path_given, photo_paths

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
    method: Annotated[
        str, typer.Option(metavar="HOW", help="auto, numpy or faiss; all are exact.")
    ] = "auto",
    output: OutputDir = Path("neighbors"),
    model: Annotated[
        str | None,
        typer.Option(
            "--model", "-m", metavar="MODEL", help="STORE's model. [default: where it was]"
        ),
    ] = None,
    pictures: Pictures = None,
    provider: Provider = None,
    html: Html = False,
    force: Force = False,
    json: Json = False,
) -> None:
    """Show the nearest pictures, by what the model sees in them and by their pixels alone.

    For each IMAGE a strip with a row per distance, and all of them with paths in neighbors.json.
    MODEL is needed only where its file has moved since STORE was made.
    """
    from ..photos.outputs import names_of, refuse_results
    from ..photos.stream import found_files
    from ..pictures.page import Page
    from ..similar.embed import embedder_of
    from ..similar.lookup import Space
    from ..similar.neighbors import METRICS
    from .progress import track

    metrics = list(dict.fromkeys(metric or METRICS))
    for name in metrics:
        if name not in METRICS:
            raise UsageError.unknown("--metric", name, METRICS)
    held = opened_store(store, pictures)
    files, skipped = found_files(photo_paths(image))
    if not files:
        raise skipped[0].error
    chosen = None if model is None else model_path(model)
    names = names_of(files)
    expected = ["neighbors.json", *(f"{n}.png" for n in names)]
    if html:
        expected.append("neighbors.html")
    refuse_results(output, expected, force)  # before the model is loaded
    embedder, preprocess = embedder_of(held, chosen, providers=provider or None)
    space = Space(held, embedder, preprocess, metrics, method)
    if k is None:
        k = max(min(NEAREST, space.most(files)[0]), 1)
    space.check(files, k)
    page = Page(f"Nearest pictures in {store}", f"{len(held)} pictures, '{held.source.tensor}'")
    entries: list[dict[str, Any]] = []
    with results_in(output, expected, force) as folder:
        with track(len(files), "searching") as step:
            for at in range(0, len(files), _BATCH):
                here = dict(zip(files[at : at + _BATCH], names[at : at + _BATCH], strict=True))
                found, bad = space.similar(list(here), k)
                skipped += bad
                for one in found:
                    name = here[Path(one.file)]
                    picture = space.strip(one)
                    folder.picture(f"{name}.png", picture)
                    if html:
                        page.section(Path(one.file).name)
                        page.picture(picture, f"the pictures nearest to {one.file}")
                    spaces = {s: [n.as_dict() for n in near] for s, near in one.spaces.items()}
                    entries.append({"file": one.file, "picture": f"{name}.png", "nearest": spaces})
                    if not json:
                        first = _first(spaces)
                        step.print(f"{Path(one.file).name}: {first} -> {output}/{name}.png")
                step.advance(len(here))
        summary = {
            "store": str(store),
            "pictures": len(held),
            "tensor": held.source.tensor,
            "k": k,
            "images": entries,
            "skipped": [bad.as_dict() for bad in skipped],
        }
        errors = [bad.error for bad in skipped]
        if entries:
            folder.json("neighbors.json", summary)
        if entries and html:
            list_skipped(page, errors, len(entries))
            write_page(folder, "neighbors.html", page)
        if json:
            show_json(summary)
        report_skipped(errors, len(entries))


_BATCH = 16


def _first(spaces: dict[str, list[dict[str, Any]]]) -> str:
    """The nearest picture of each space, for the terminal."""
    return ", ".join(
        f"{space} {Path(near[0]['file']).name} ({near[0]['distance']:.3g})"
        for space, near in spaces.items()
    )
