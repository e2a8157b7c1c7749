"""`backlight invert`: what a layer keeps of a photo, as an image made from noise."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .layers import (
    Html,
    Layers,
    List,
    ModelArgument,
    file_names,
    list_skipped,
    listed,
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
    inputs_of,
    model_path,
    preprocess_of,
    shapes_of,
    shown_bands,
)
from .photos import PhotoJob, found_photos, preprocess_told, results_of
from .starts import PIXELS, SIDE, Seed, Starts, Steps, settings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..inside.inversion import Inverter
    from ..photos.stream import Group


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("invert")(invert)


def invert(
    model: ModelArgument,
    image: Annotated[
        list[str] | None,
        typer.Argument(metavar="IMAGE…", help="Images and folders. [default: bundled photos]"),
    ] = None,
    layer: Layers = None,
    output: OutputDir = Path("inverted"),
    steps: Steps = None,
    starts: Starts = 1,
    seed: Seed = 0,
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
    """Make the image that a layer can't tell from a photo (Mahendran and Vedaldi 2015).

    For each photo a row in inversion.png: the photo, then its reconstruction from each layer. The
    images themselves (.npy) and summary.json beside it.
    """
    from ..classifier.ready import Ready
    from ..inside.inversion import Inverter
    from ..inside.synthesis import STEPS
    from ..photos import images
    from ..pictures.grid import Row, Tile, figure, sheet
    from ..pictures.page import Page

    path = model_path(model)
    if list_:
        print_layers(listed(path, preprocess, shape), json)
        return
    layers = wanted_layers(layer)
    at_least("--batch", batch)
    listing = ["inversion.png", *(["inversion.html"] if html else [])]
    # The files of the layers once their names are known.
    job = found_photos("invert", image, output, listing, force, json)
    ready = Ready(path, shapes_of(shape), inputs_of(input_))
    record, assumed = preprocess_of(ready, preprocess, bands)
    many = STEPS if steps is None else steps
    how = settings(record, many, starts, seed, provider, threads)
    inverters = [Inverter(ready, name, **how) for name in layers]
    record, spec = inverters[0].preprocess, inverters[0].spec
    job.note(assumed, *(n for i in inverters for n in i.notes))
    names = file_names([i.layer for i in inverters])
    expected = results_of(job, [*listing, *(f"{{}}-{file}.npy" for file in names.values())])
    title = f"Inverted representations of {Path(path).stem}"
    rows: list[Row] = []
    with results_in(output, expected, force) as results:
        with job.progress("inverting", many * len(inverters)) as step:
            for group in job.groups(record, spec, batch):
                good = _invertible(inverters, group, job)
                step.advance(many * len(inverters) * (len(group.index) - len(good)))
                if not good:
                    continue
                made = [i(group.tensor[good], lambda _: step.advance(len(good))) for i in inverters]  # noqa: B023
                for at, row in enumerate(good):
                    index = int(group.index[row])
                    # As the model takes it: grey where its reconstructions are.
                    photo = images.to_pixels(group.tensor[row], record, spec.layout)
                    for start in range(starts):
                        tiles = [Tile(photo, "photo")]
                        for one in made:
                            pixels = images.to_pixels(one.images[at, start], record, spec.layout)
                            error = figure(float(one.errors[at, start]))
                            tiles.append(Tile(pixels, one.layer, f": error {error}"))
                        detail = f"start {start + 1}" if starts > 1 else ""
                        rows.append(Row(tiles, job.files[index].stem, detail))
                    for one, inverter in zip(made, inverters, strict=True):
                        file = f"{job.names[index]}-{names[one.layer]}.npy"
                        results.array(file, one.images[at])
                        entry = {
                            "file": str(job.files[index]),
                            "layer": one.layer,
                            "errors": [round(float(e), 6) for e in one.errors[at]],
                            "best": int(one.best[at]),
                            "first_loss": [round(float(v), 6) for v in one.losses[at, :, 0]],
                            "last_loss": [round(float(v), 6) for v in one.losses[at, :, -1]],
                            "jitter": inverter.jitter,
                            "values": file,
                        }
                        error = figure(float(one.errors[at].min()))
                        line = f"{job.files[index].name:<24} {one.layer:<24} error {error}"
                        job.add(entry, line)
        lead = "Made from noise, so that the layer sees in each what it sees in the photo."
        note = f"Error: |phi(x) - phi0|^2 / |phi0|^2, {many} steps. {PIXELS}"
        if rows:
            picture = sheet(title, [lead], rows, SIDE, note)
            results.picture("inversion.png", picture)
        if rows and html:
            page = Page(title, lead)
            page.picture(picture, title, note)
            page.table(
                ["image", "layer", "error"],
                [[Path(e["file"]).name, e["layer"], min(e["errors"])] for e in job.entries],
            )
            list_skipped(page, job.errors, job.read)
            write_page(results, "inversion.html", page)
        about = {
            "model": path,
            "method": "inversion",
            "layers": [i.layer for i in inverters],
            "error": "|phi(x) - phi0|^2 / |phi0|^2",
            "steps": many,
            "starts": starts,
            "seed": seed,
            "fidelity": inverters[0].fidelity,
            "preprocess": preprocess_told(record),
            "providers": inverters[0].objective.session.providers,
            "picture": "inversion.png",
        }
        made_of = f"{len(rows)} {'row' if len(rows) == 1 else 'rows'}"
        said = shown_bands(record, spec.channels)
        job.finish(results, about, f"{made_of} -> {output / 'inversion.png'}", note=said)


def _invertible(inverters: Sequence[Inverter], group: Group, job: PhotoJob) -> list[int]:
    """The rows of a group that every layer says something of; the others are skipped."""
    good = list(range(len(group.index)))
    for one in inverters:
        if not good:
            break
        fits = one.invertible(group.tensor[good])
        for row, fit in zip(list(good), fits.tolist(), strict=True):
            if not fit:
                file = job.files[int(group.index[row])]
                job.refuse(file, f"{one.blank} there: nothing to invert")
                good.remove(row)
    return good
