"""`backlight filters`: what a layer's filters look like."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ...errors import ModelError, UsageError
from .console import show, show_json
from .layers import (
    Html,
    List,
    ModelArgument,
    Per,
    file_name,
    listed,
    numbers,
    print_layers,
    write_page,
)
from .options import (
    Force,
    Json,
    OutputDir,
    PreprocessOption,
    Shape,
    at_least,
    model_path,
    preprocess_of,
    say,
    shapes_of,
)
from .photos import SUMMARY, summarised


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("filters")(filters)


def filters(
    model: ModelArgument = "bundled",
    output: OutputDir = Path("filters"),
    layer: Annotated[
        str | None,
        typer.Option("--layer", "-l", metavar="L", help="One of --list. [default: the first]"),
    ] = None,
    which: Annotated[
        str | None, typer.Option("--filters", metavar="LIST", help="Such as 0-15,40. [first ones]")
    ] = None,
    channels: Annotated[
        str | None,
        typer.Option(
            "--channels", metavar="LIST", help="Input channels, in grey. [0-15 of a deeper layer]"
        ),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(metavar="N", help="Filters at most. [256 in colour, 16 in grey]")
    ] = None,
    per: Per = "filter",
    preprocess: PreprocessOption = None,
    shape: Shape = None,
    list_: List = False,
    html: Html = False,
    force: Force = False,
    json: Json = False,
) -> None:
    """Show a layer's filters: a picture, the weights (.npy) and summary.json in DIR.

    The first layer is in colour; a deeper layer has a row per filter and a grey tile per input
    channel. --per filter (or layer) is what shares a scale. --list prints the convolutions, and a
    patch embedding that is none, with their shapes, strides and receptive fields.
    """
    from ...export.preprocess import parse
    from ..classifier.ready import Ready
    from ..inside import filters as room
    from ..photos.outputs import OutputFolder, refuse_results
    from ..pictures.page import Page

    path = model_path(model)
    if list_:
        found = listed(path, preprocess, shape, convolutions=True)
        if not found and not json:
            raise ModelError(f"{path}: {room.NONE}")
        print_layers(found, json)
        return
    if limit is not None:
        at_least("--limit", limit)
    if limit is not None and which is not None:
        raise UsageError("--limit and --filters exclude each other: --filters shows all it names")
    always = [SUMMARY, "filters.json", *(["filters.html"] if html else [])]
    refuse_results(output, always, force)  # before the model is loaded
    record = None if preprocess is None else parse(preprocess)
    ready = Ready(path, shapes_of(shape))
    shown = room.filters(ready, layer, preprocess=record)
    notes = []
    if shown.color is not None and record is None and preprocess_of(ready, None)[1] is not None:
        notes.append(
            f"{path} doesn't say in which order colours come: assuming {shown.color} "
            "(--preprocess changes it)"
        )
        say(notes[0])
    name = file_name(shown.layer)
    title = f"Filters of {shown.layer} in {Path(path).stem}"
    picture = shown.picture(
        numbers(which, "--filters"),
        per=per,
        limit=limit,
        channels=numbers(channels, "--channels"),
        title=title,
    )
    files = [f"{name}.png", f"{name}.npy", *always]
    folder = OutputFolder(output, files, force)
    folder.picture(files[0], picture)
    folder.array(files[1], shown.weights)
    count, depth, height, width = shown.weights.shape
    about: dict[str, Any] = {
        "model": path,
        "layer": shown.layer,
        "weights": files[1],
        "shape": list(shown.weights.shape),
        "strides": list(shown.strides),
        "groups": shown.groups,
        "color": shown.color,
        "normalised_per": per,
        "picture": files[0],
    }
    summary = summarised("filters", folder, about, notes=notes, old=("filters.json", {}))
    if html:
        page = Page(title, f"{count} filters of {depth} x {height} x {width}.")
        page.picture(picture, f"The filters of {shown.layer} as tiles", f"The weights: {files[1]}")
        convolutions = listed(ready, preprocess, convolutions=True)
        page.section("Filters of this model")
        page.table(
            ("layer", "weights", "stride", "receptive field"),
            [
                (
                    x.name,
                    " x ".join(map(str, x.weights or ())),
                    " x ".join(map(str, x.strides or ())),
                    x.field,
                )
                for x in convolutions
            ],
        )
        write_page(folder, "filters.html", page)
    if json:
        show_json(summary)
    else:
        show(f"{shown.layer}: {count} x {depth} x {height} x {width} -> {folder.path / files[0]}")
