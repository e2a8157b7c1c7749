"""`backlight activations`: a layer's feature maps for photos."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ...errors import UsageError
from .layers import (
    Html,
    Layers,
    List,
    ModelArgument,
    Per,
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
    at_least,
    chosen_preprocess,
    inputs_of,
    model_path,
    shapes_of,
    shown_bands,
)
from .patches import Limit, settled_limit
from .photos import found_photos, preprocess_told, results_of


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("activations")(activations)


def activations(
    model: ModelArgument,
    image: Annotated[
        list[str] | None,
        typer.Argument(metavar="IMAGE…", help="Images and folders. [default: bundled photos]"),
    ] = None,
    layer: Layers = None,
    output: OutputDir = Path("activations"),
    channels: Annotated[
        str | None, typer.Option("--channels", metavar="LIST", help="Such as 0-15,40. [first ones]")
    ] = None,
    limit: Limit = None,
    sort: Annotated[bool, typer.Option("--sort", help="The strongest channels first.")] = False,
    overlay: Annotated[
        bool, typer.Option("--overlay", help="Lay the maps over the photo.")
    ] = False,
    per: Per = "channel",
    preprocess: PreprocessOption = None,
    bands: Bands = None,
    provider: Provider = None,
    threads: Threads = None,
    batch: Batch = 8,
    shape: Shape = None,
    input_: Extra = None,
    list_: List = False,
    html: Html = False,
    force: Force = False,
    json: Json = False,
) -> None:
    """Show feature maps: a grid and the values (.npy) for each photo and layer in DIR.

    Under each map stand its channel and its largest activation. --per channel (or layer) is what
    shares a grey scale. --list prints all tensors with their shapes and receptive fields.
    """
    from ..inside.activations import LIMIT, PER, Activations, maps_of, refuse_flat
    from ..inside.taps import Taps
    from ..photos import images
    from ..photos.outputs import finite, numbered
    from ..pictures.page import Page

    path = model_path(model)
    if list_:
        print_layers(listed(path, preprocess, shape), json)
        return
    at_least("--batch", batch)
    most = settled_limit(limit, channels, LIMIT)
    if sort and channels is not None:
        raise UsageError("--sort and --channels exclude each other: --channels gives the order")
    if per not in PER:
        raise UsageError.unknown("--per", per, PER)
    chosen = numbers(channels, "--channels")
    listed_files = ["activations.json", *(["activations.html"] if html else [])]
    # The layers' pictures once their names are known.
    job = found_photos("activations", image, output, listed_files, force, json)
    taps = Taps(
        path,
        wanted_layers(layer),
        providers=provider or None,
        threads=threads,
        shapes=shapes_of(shape),
        inputs=inputs_of(input_),
    )
    record, assumed = chosen_preprocess(
        preprocess, taps.preprocess, path, taps.input.dtype, taps.input.channels, bands
    )
    record = images.fitted(record, taps.input)
    job.note(*taps.notes, assumed)
    fields = taps.fields(record.size)
    axes = {name: refuse_flat(fields[name]) for name in taps.names}
    for name in taps.names:
        count = fields[name].dims[axes[name][0]]
        if chosen is not None and max(chosen) >= count:
            raise UsageError(
                f"channel {max(chosen)} is out of range; '{name}' has 0 to {count - 1}"
            )
    stems, short = job.names, file_names(taps.names)
    each = [(stem, name) for stem in stems for name in taps.names]
    # Photo a, layer b-c and photo a-b, layer c are two.
    made = numbered(f"{stem}-{short[name]}" for stem, name in each)
    bases = dict(zip(each, made, strict=True))
    expected = [*results_of(job, listed_files), *(f"{base}.png" for base in made)]
    page = Page(
        f"Activations of {Path(path).stem}",
        "What each layer makes of a photo: a tile per channel, with its number and its largest "
        "activation below.",
    )
    with results_in(output, expected, force) as folder:
        with job.progress("running") as step:
            for group in job.groups(record, taps.input, batch):
                found = taps(group.tensor) if len(group.index) else {}
                for row, index in enumerate(group.index.tolist()):
                    file = job.files[index]
                    if html:
                        page.section(file.name)
                    for name in taps.names:
                        base = bases[stems[index], name]
                        maps = maps_of(found[name], axes[name])[row]
                        one = Activations(name, maps, group.pixels[row])
                        title = f"{name} of {Path(path).stem} on {file.name}"
                        picture = one.picture(
                            chosen, sort=sort, overlay=overlay, per=per, limit=most, title=title
                        )
                        folder.picture(f"{base}.png", picture)
                        folder.array(f"{base}.npy", maps)
                        if html:
                            page.picture(picture, title, f"The values: {base}.npy")
                        strongest = one.channels(5, sort=True)
                        entry = {
                            "file": str(file),
                            "layer": name,
                            "shape": list(maps.shape),
                            "picture": f"{base}.png",
                            "values": f"{base}.npy",
                            "strongest": [
                                {"channel": c, "activation": finite(float(one.strength[c]), 6)}
                                for c in strongest
                            ],
                        }
                        shown = ", ".join(map(str, strongest))
                        job.add(entry, f"{base}.png: strongest channels {shown}")
                step.advance(len(group.index))
        if job.entries and html:
            list_skipped(page, job.errors, job.read)
            write_page(folder, "activations.html", page)
        about = {
            "model": path,
            "layers": taps.names,
            "normalised_per": per,
            "preprocess": preprocess_told(record),
            "providers": taps.session.providers,
        }
        note = shown_bands(record, taps.input.channels)
        old = ("activations.json", {"maps": job.entries})
        job.finish(folder, about, old=old, note=note)
