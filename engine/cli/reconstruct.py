"""`backlight reconstruct`: from inside the model back to pixels, by several methods."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from ...errors import UsageError
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
    report_skipped,
    results_in,
    wanted_layers,
    write_page,
)
from .options import (
    Batch,
    Force,
    Json,
    Labels,
    OutputDir,
    PreprocessOption,
    Provider,
    Threads,
    model_path,
)
from .patches import (
    Channels,
    Decoders,
    Folder,
    K,
    Limit,
    OnePerImage,
    found_patches,
)


@dataclass(frozen=True)
class Asked:
    """What the command line says, for every method."""

    model: str
    images: list[str] | None
    layers: list[str]
    output: Path
    channels: list[int] | None
    k: int
    one_per_image: bool
    limit: int
    rules: list[str] | None
    preprocess: str | None
    provider: list[str] | None
    threads: int | None
    batch: int
    decoders: int | None
    html: bool
    force: bool
    json: bool
    classes: list[str] | None = None
    labels: str | None = None
    unit: str = "mean"
    start: str = "noise"
    steps: int | None = None
    starts: int = 1
    seed: int = 0


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("reconstruct")(reconstruct)


def reconstruct(
    model: ModelArgument,
    image: Folder = None,
    method: Annotated[
        str, typer.Option(metavar="METHOD", help="deconvnet, inversion or maximize.")
    ] = "deconvnet",
    layer: Layers = None,
    output: OutputDir = Path("reconstructed"),
    channels: Channels = None,
    k: K = 9,
    one_per_image: OnePerImage = False,
    limit: Limit = 8,
    rule: Annotated[
        list[str] | None,
        typer.Option("--rule", metavar="RULE", help="deconv, guided, vanilla. [deconv, guided]"),
    ] = None,
    preprocess: PreprocessOption = None,
    provider: Provider = None,
    threads: Threads = None,
    batch: Batch = 8,
    decoders: Decoders = None,
    target_class: Annotated[
        list[str] | None,
        typer.Option(metavar="C", help="maximize: a class number or name; repeatable."),
    ] = None,
    labels: Labels = None,
    unit: Annotated[
        str, typer.Option(metavar="UNIT", help="maximize: a channel's mean, or its centre.")
    ] = "mean",
    start: Annotated[
        str, typer.Option(metavar="FROM", help="maximize: from noise or grey.")
    ] = "noise",
    steps: Annotated[
        int | None, typer.Option(metavar="N", help="Steps of inversion, maximize. [200]")
    ] = None,
    starts: Annotated[
        int, typer.Option(metavar="N", help="Random starts of inversion, maximize.")
    ] = 1,
    seed: Annotated[int, typer.Option(metavar="N", help="Of the random starts.")] = 0,
    list_: List = False,
    html: Html = False,
    force: Force = False,
    json: Json = False,
) -> None:
    """Reconstruct pixels from inside the model: pictures, raw maps and reconstruct.json in DIR.

    deconvnet: each channel's strongest activations in the images, everything else set to zero,
    projected back through the network (Zeiler and Fergus 2014), beside the patches.
    inversion: for each image the one whose representation at a layer is nearest to it, for several
    layers in a row (Mahendran and Vedaldi 2015).
    maximize: images that excite classes (--target-class) or channels (--layer, --channels) most.
    """

    if method not in METHODS:
        raise UsageError.unknown("--method", method, METHODS)
    path = model_path(model)
    if list_:
        print_layers(listed(path, preprocess), json)
        return
    if limit < 1:
        raise UsageError(f"--limit {limit}; expected 1 or more")
    METHODS[method](
        Asked(
            model=path,
            images=image,
            layers=layer or [] if method == "maximize" else wanted_layers(layer),
            output=output,
            channels=numbers(channels, "--channels"),
            k=k,
            one_per_image=one_per_image,
            limit=limit,
            rules=rule,
            preprocess=preprocess,
            provider=provider,
            threads=threads,
            batch=batch,
            decoders=decoders,
            html=html,
            force=force,
            json=json,
            classes=target_class,
            labels=labels,
            unit=unit,
            start=start,
            steps=steps,
            starts=starts,
            seed=seed,
        )
    )


def _deconvnet(asked: Asked) -> None:
    import numpy as np

    from ...export.variants import variant
    from ..classifier.ready import Ready
    from ..inside import deconvnet as room
    from ..photos.outputs import refuse_results
    from ..pictures.page import Page

    rules = list(dict.fromkeys(asked.rules or room.RULES))
    for rule in rules:
        variant(rule)
    names = file_names(asked.layers)
    expected = [f"{n}{end}" for n in names.values() for end in (".png", ".npz")]
    expected += ["reconstruct.json", *(["reconstruct.html"] if asked.html else [])]
    refuse_results(asked.output, expected, asked.force)  # before the model is loaded
    ready = Ready(asked.model)
    # Before the pass over the images: an operator without a rule is found out at once.
    projectors = [
        room.Projector(ready, n, rules, providers=asked.provider or None, threads=asked.threads)
        for n in asked.layers
    ]
    with results_in(asked.output, expected, asked.force) as results:
        found = found_patches(
            ready,
            asked.images,
            asked.layers,
            asked.channels,
            k=asked.k,
            one_per_image=asked.one_per_image,
            preprocess=asked.preprocess,
            provider=asked.provider,
            threads=asked.threads,
            batch=asked.batch,
            decoders=asked.decoders,
        )
        stem = Path(asked.model).stem
        page = Page(
            f"DeconvNet reconstructions in {stem}",
            "Each patch's activation alone, projected back to pixels; mid-grey is 0.",
        )
        pictures: dict[str, str] = {}
        head = {"model": asked.model, "method": "deconvnet", "rules": rules, "pictures": pictures}
        summary = head | found.as_dict()
        for file, projector in zip(names.values(), projectors, strict=True):
            name = projector.layer
            places = found.shown(name, asked.channels, asked.limit)
            made = [room.reconstructed(projector, found, p, asked.batch) for p in places]
            title = f"DeconvNet reconstructions of {name} in {stem}"
            picture = room.picture(found, name, made, title)
            results.picture(f"{file}.png", picture)
            buffer = io.BytesIO()
            channels = found.layers[name].channels
            maps = {
                f"{rule}-{channels[one.place]}": values
                for one in made
                for rule, values in one.maps.items()
            }
            np.savez(buffer, **maps)  # type: ignore[arg-type]
            results.data(f"{file}.npz", buffer.getvalue())
            pictures[name] = f"{file}.png"
            if asked.html:
                page.section(name)
                page.picture(picture, title, f"The maps: {file}.npz")
            if not asked.json:
                show(f"{name} -> {results.path / file}.png")
        results.json("reconstruct.json", summary)
        if asked.html:
            list_skipped(page, [bad.error for bad in found.skipped], found.count)
            write_page(results, "reconstruct.html", page)
    if asked.json:
        show_json(summary)
    report_skipped([bad.error for bad in found.skipped], found.count)


def _inversion(asked: Asked) -> None:
    from .inversion import inversion

    inversion(asked)


def _maximize(asked: Asked) -> None:
    from .inversion import maximize

    maximize(asked)


METHODS: dict[str, Callable[[Asked], None]] = {
    "deconvnet": _deconvnet,
    "inversion": _inversion,
    "maximize": _maximize,
}
