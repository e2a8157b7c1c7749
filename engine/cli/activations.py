"""`backlight activations`: a layer's feature maps for photos."""

from __future__ import annotations

import json as jsonlib
from pathlib import Path
from typing import Annotated, Any

import typer

from ...errors import UsageError
from .console import show_json
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
    report_skipped,
    results_in,
    wanted_layers,
    write_page,
)
from .options import (
    Batch,
    Force,
    Json,
    OutputDir,
    PreprocessOption,
    Provider,
    Shape,
    Threads,
    chosen_preprocess,
    model_path,
    photo_paths,
    say,
    shapes_of,
)


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
    limit: Annotated[int, typer.Option(metavar="N", help="Channels at most.")] = 64,
    sort: Annotated[bool, typer.Option("--sort", help="The strongest channels first.")] = False,
    overlay: Annotated[
        bool, typer.Option("--overlay", help="Lay the maps over the photo.")
    ] = False,
    per: Per = "channel",
    preprocess: PreprocessOption = None,
    provider: Provider = None,
    threads: Threads = None,
    batch: Batch = 8,
    shape: Shape = None,
    list_: List = False,
    html: Html = False,
    force: Force = False,
    json: Json = False,
) -> None:
    """Show feature maps: a grid and the values (.npy) for each photo and layer in DIR.

    Under each map stand its channel and its largest activation. --per channel (or layer) is what
    shares a grey scale. --list prints all tensors with their shapes and receptive fields.
    """
    from ..inside.activations import PER, Activations, maps_of, refuse_flat
    from ..inside.taps import Taps
    from ..photos import images
    from ..photos.outputs import finite, names_of, numbered, refuse_results
    from ..photos.stream import found_files, groups
    from ..pictures.page import Page
    from .progress import track

    path = model_path(model)
    if list_:
        print_layers(listed(path, preprocess, shape), json)
        return
    for option, number in (("--batch", batch), ("--limit", limit)):
        if number < 1:
            raise UsageError(f"{option} {number}; expected 1 or more")
    if per not in PER:
        raise UsageError.unknown("--per", per, PER)
    chosen = numbers(channels, "--channels")
    # Before the model is loaded; the layers' pictures once their names are known.
    refuse_results(output, ["activations.json"], force)
    taps = Taps(
        path,
        wanted_layers(layer),
        providers=provider or None,
        threads=threads,
        shapes=shapes_of(shape),
    )
    record, assumed = chosen_preprocess(preprocess, taps.preprocess, path, taps.input.dtype)
    record = images.fitted(record, taps.input)
    for note in [*taps.notes, *([] if assumed is None else [assumed])]:
        say(note)
    fields = taps.fields(record.size)
    axes = {name: refuse_flat(fields[name]) for name in taps.names}
    for name in taps.names:
        count = fields[name].dims[axes[name][0]]
        if chosen is not None and max(chosen) >= count:
            raise UsageError(
                f"channel {max(chosen)} is out of range; '{name}' has 0 to {count - 1}"
            )
    files, skipped = found_files(photo_paths(image))
    if not files:
        raise skipped[0].error
    stems, short = names_of(files), file_names(taps.names)
    each = [(stem, name) for stem in stems for name in taps.names]
    # Photo a, layer b-c and photo a-b, layer c are two.
    made = numbered(f"{stem}-{short[name]}" for stem, name in each)
    bases = dict(zip(each, made, strict=True))
    expected = [f"{base}.png" for base in made]
    expected += ["activations.json", *(["activations.html"] if html else [])]
    page = Page(
        f"Activations of {Path(path).stem}",
        "What each layer makes of a photo: a tile per channel, with its number and its largest "
        "activation below.",
    )
    entries: list[dict[str, Any]] = []
    with results_in(output, expected, force) as folder:
        with track(len(files), "running") as step:
            for group in groups(files, record, taps.input, batch):
                skipped += group.skipped
                found = taps(group.tensor) if len(group.index) else {}
                for row, index in enumerate(group.index.tolist()):
                    if html:
                        page.section(files[index].name)
                    for name in taps.names:
                        base = bases[stems[index], name]
                        maps = maps_of(found[name], axes[name])[row]
                        one = Activations(name, maps, group.pixels[row])
                        title = f"{name} of {Path(path).stem} on {files[index].name}"
                        picture = one.picture(
                            chosen, sort=sort, overlay=overlay, per=per, limit=limit, title=title
                        )
                        folder.picture(f"{base}.png", picture)
                        folder.array(f"{base}.npy", maps)
                        if html:
                            page.picture(picture, title, f"The values: {base}.npy")
                        strongest = one.channels(5, sort=True)
                        entries.append(
                            {
                                "file": str(files[index]),
                                "layer": name,
                                "shape": list(maps.shape),
                                "picture": f"{base}.png",
                                "values": f"{base}.npy",
                                "strongest": [
                                    {"channel": c, "activation": finite(float(one.strength[c]), 6)}
                                    for c in strongest
                                ],
                            }
                        )
                        if not json:
                            shown = ", ".join(map(str, strongest))
                            step.print(f"{base}.png: strongest channels {shown}")
                step.advance(group.stop - group.start)
        summary = {
            "model": path,
            "normalised_per": per,
            "preprocess": jsonlib.loads(record.to_json()),
            "maps": entries,
            "skipped": [bad.as_dict() for bad in skipped],
        }
        if entries:
            folder.json("activations.json", summary)
        errors, read = [bad.error for bad in skipped], len(entries) // len(taps.names)
        if entries and html:
            list_skipped(page, errors, read)
            write_page(folder, "activations.html", page)
        if json:
            show_json(summary)
        report_skipped(errors, read)
