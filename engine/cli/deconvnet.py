"""`backlight deconvnet`: the strongest activations, projected back to pixels."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Annotated

import typer

from .console import show, show_json
from .layers import (
    Html,
    Layers,
    List,
    ModelArgument,
    file_names,
    list_skipped,
    listed,
    numbers,
    print_layers,
    results_in,
    wanted_layers,
    write_page,
)
from .options import (
    Bands,
    Batch,
    Extra,
    Force,
    Json,
    OutputDir,
    PreprocessOption,
    Provider,
    Shape,
    Threads,
    inputs_of,
    model_path,
    shapes_of,
)
from .patches import (
    Channels,
    Decoders,
    Folder,
    K,
    Limit,
    OnePerImage,
    about_patches,
    found_patches,
    settled_limit,
)
from .photos import SUMMARY, report_skipped, summarised

LIMIT = 8


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("deconvnet")(deconvnet)


def deconvnet(
    model: ModelArgument,
    folder: Folder = None,
    layer: Layers = None,
    output: OutputDir = Path("deconvnet"),
    rule: Annotated[
        list[str] | None,
        typer.Option("--rule", metavar="RULE", help="deconv, guided, vanilla. [deconv, guided]"),
    ] = None,
    channels: Channels = None,
    k: K = 9,
    one_per_image: OnePerImage = False,
    limit: Limit = None,
    preprocess: PreprocessOption = None,
    bands: Bands = None,
    provider: Provider = None,
    threads: Threads = None,
    batch: Batch = 8,
    decoders: Decoders = None,
    shape: Shape = None,
    input_: Extra = None,
    list_: List = False,
    html: Html = False,
    force: Force = False,
    json: Json = False,
) -> None:
    """Project channels' strongest activations back to pixels: a picture and raw maps per layer.

    Each activation alone, everything else set to zero, back through the network (Zeiler and
    Fergus 2014), beside its patch. In DIR: a picture and the maps (.npz) per layer, summary.json.
    """
    import numpy as np

    from ...export.variants import variant
    from ..classifier.ready import Ready
    from ..inside import deconvnet as room
    from ..photos.outputs import refuse_results
    from ..pictures.page import Page

    path = model_path(model)
    if list_:
        print_layers(listed(path, preprocess, shape), json)
        return
    most = settled_limit(limit, channels, LIMIT)
    layers, chosen = wanted_layers(layer), numbers(channels, "--channels")
    rules = list(dict.fromkeys(rule or room.RULES))
    for name in rules:
        variant(name)
    names = file_names(layers)
    expected = [f"{n}{end}" for n in names.values() for end in (".png", ".npz")]
    expected += [SUMMARY, *(["deconvnet.html"] if html else [])]
    refuse_results(output, expected, force)  # before the model is loaded
    ready = Ready(path, shapes_of(shape), inputs_of(input_))
    # Before the pass over the images: an operator without a rule is found out at once.
    projectors = [
        room.Projector(ready, n, rules, providers=provider or None, threads=threads) for n in layers
    ]
    with results_in(output, expected, force) as results:
        found = found_patches(
            ready,
            folder,
            layers,
            chosen,
            k=k,
            one_per_image=one_per_image,
            preprocess=preprocess,
            bands=bands,
            provider=provider,
            threads=threads,
            batch=batch,
            decoders=decoders,
        )
        stem = Path(path).stem
        page = Page(
            f"DeconvNet reconstructions in {stem}",
            "Each patch's activation alone, projected back to pixels; mid-grey is 0.",
        )
        pictures: dict[str, str] = {}
        for file, projector in zip(names.values(), projectors, strict=True):
            name = projector.layer
            places = found.shown(name, chosen, most)
            made = [room.reconstructed(projector, found, p, batch) for p in places]
            title = f"DeconvNet reconstructions of {name} in {stem}"
            picture = room.picture(found, name, made, title)
            results.picture(f"{file}.png", picture)
            buffer = io.BytesIO()
            numbered = found.layers[name].channels
            maps = {
                f"{rule}-{numbered[one.place]}": values
                for one in made
                for rule, values in one.maps.items()
            }
            np.savez(buffer, **maps)  # type: ignore[arg-type]
            results.data(f"{file}.npz", buffer.getvalue())
            pictures[name] = f"{file}.png"
            if html:
                page.section(name)
                page.picture(picture, title, f"The maps: {file}.npz")
            if not json:
                show(f"{name} -> {results.path / file}.png")
        if html:
            list_skipped(page, [bad.error for bad in found.skipped], found.count)
            write_page(results, "deconvnet.html", page)
        head = {"model": path, "method": "deconvnet", "rules": rules, "pictures": pictures}
        summary = summarised(
            "deconvnet", results, head | about_patches(found),
            notes=found.notes, read=found.count, skipped=found.skipped,
        )  # fmt: skip
    if json:
        show_json(summary)
    report_skipped([bad.error for bad in found.skipped], found.count)
