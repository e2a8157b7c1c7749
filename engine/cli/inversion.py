"""The methods inversion and maximize of `backlight reconstruct`."""

from __future__ import annotations

import json as jsonlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import ImageError, UsageError
from .console import show, show_json
from .layers import file_names, list_skipped, report_skipped, results_in, write_page
from .options import chosen_labels, chosen_preprocess, counted, photo_paths, say

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ...export.preprocess import Preprocess
    from ..classifier.ready import Ready
    from ..inside.inversion import Inverter
    from ..photos.stream import Group, Skipped
    from .reconstruct import Asked

SIDE = 227
PIXELS = "Pixels as the model's preprocessing says: 0 is black, 255 is white, nothing is stretched."


def inversion(asked: Asked) -> None:
    """For each image a row: the photo, then its reconstruction from each layer."""
    from ..classifier.ready import Ready
    from ..inside.inversion import INVERT_STEPS, Inverter
    from ..photos import images
    from ..photos.outputs import names_of, refuse_results
    from ..photos.stream import found_files, groups
    from ..pictures.grid import Row, Tile, figure, sheet
    from ..pictures.page import Page
    from .progress import track

    if asked.batch < 1:
        raise UsageError(f"--batch {asked.batch}; expected 1 or more")
    listed = ["inversion.png", "inversion.json", *(["inversion.html"] if asked.html else [])]
    # Before the model is loaded; the files of the layers once their names are known.
    refuse_results(asked.output, listed, asked.force)
    files, skipped = found_files(photo_paths(asked.images))
    if not files:
        raise skipped[0].error
    ready = Ready(asked.model)
    record = _record(asked, ready)
    steps = INVERT_STEPS if asked.steps is None else asked.steps
    inverters = [
        Inverter(ready, layer, **_settings(asked, record, steps)) for layer in asked.layers
    ]
    record, spec = inverters[0].preprocess, inverters[0].spec
    for note in dict.fromkeys(n for i in inverters for n in i.notes):
        say(note)
    names = file_names([i.layer for i in inverters])
    stems = names_of(files)
    expected = listed + [f"{stem}-{file}.npy" for stem in stems for file in names.values()]
    stem = Path(asked.model).stem
    title = f"Inverted representations of {stem}"
    rows: list[Row] = []
    entries: list[dict[str, Any]] = []
    total = steps * len(inverters) * -(-len(files) // asked.batch)
    with (
        results_in(asked.output, expected, asked.force) as results,
        track(total, "inverting") as step,
    ):
        for group in groups(files, record, spec, asked.batch):
            skipped += group.skipped
            good = _invertible(inverters, group, files, skipped)
            if not good:
                step.advance(steps * len(inverters))
                continue
            made = [i(group.tensor[good], lambda _: step.advance()) for i in inverters]
            for at, row in enumerate(good):
                index = int(group.index[row])
                # As the model takes it: grey where its reconstructions are.
                photo = images.to_pixels(group.tensor[row], record, spec.layout)
                for start in range(asked.starts):
                    tiles = [Tile(photo, "photo")]
                    for one in made:
                        pixels = images.to_pixels(one.images[at, start], record, spec.layout)
                        error = figure(float(one.errors[at, start]))
                        tiles.append(Tile(pixels, one.layer, f": error {error}"))
                    detail = f"start {start + 1}" if asked.starts > 1 else ""
                    rows.append(Row(tiles, files[index].stem, detail))
                for one, inverter in zip(made, inverters, strict=True):
                    file = f"{stems[index]}-{names[one.layer]}.npy"
                    results.array(file, one.images[at])
                    entries.append(
                        {
                            "file": str(files[index]),
                            "layer": one.layer,
                            "errors": [round(float(e), 6) for e in one.errors[at]],
                            "best": int(one.best[at]),
                            "first_loss": [round(float(v), 6) for v in one.losses[at, :, 0]],
                            "last_loss": [round(float(v), 6) for v in one.losses[at, :, -1]],
                            "jitter": inverter.jitter,
                            "values": file,
                        }
                    )
                    if not asked.json:
                        error = figure(float(one.errors[at].min()))
                        step.print(f"{files[index].name:<24} {one.layer:<24} error {error}")
        errors, read = [bad.error for bad in skipped], len(rows) // asked.starts
        if not rows:
            report_skipped(errors, read)
        summary = {
            "model": asked.model,
            "method": "inversion",
            "error": "|phi(x) - phi0|^2 / |phi0|^2",
            "steps": steps,
            "starts": asked.starts,
            "seed": asked.seed,
            "fidelity": inverters[0].fidelity,
            "preprocess": jsonlib.loads(record.to_json()),
            "picture": "inversion.png",
            "images": entries,
            "skipped": [bad.as_dict() for bad in skipped],
        }
        lead = "Made from noise, so that the layer sees in each what it sees in the photo."
        note = f"Error: |phi(x) - phi0|^2 / |phi0|^2, {steps} steps. {PIXELS}"
        picture = sheet(title, [lead], rows, SIDE, note)
        results.picture("inversion.png", picture)
        results.json("inversion.json", summary)
        if asked.html:
            page = Page(title, lead)
            page.picture(picture, title, note)
            page.table(
                ["image", "layer", "error"],
                [[Path(e["file"]).name, e["layer"], min(e["errors"])] for e in entries],
            )
            list_skipped(page, errors, read)
            write_page(results, "inversion.html", page)
    if asked.json:
        show_json(summary)
    else:
        rows_made = f"{len(rows)} {'row' if len(rows) == 1 else 'rows'}"
        show(f"{rows_made} -> {asked.output / 'inversion.png'}")
    report_skipped(errors, read)


def _invertible(
    inverters: Sequence[Inverter], group: Group, files: Sequence[Path], skipped: list[Skipped]
) -> list[int]:
    """The rows of a group that every layer says something of; the others are skipped."""
    from ..photos.stream import Skipped

    good = list(range(len(group.index)))
    for one in inverters:
        if not good:
            break
        fits = one.invertible(group.tensor[good])
        for row, fit in zip(list(good), fits.tolist(), strict=True):
            if not fit:
                file = str(files[int(group.index[row])])
                why = f"{file}: {one.blank} there: nothing to invert"
                skipped.append(Skipped(file, ImageError(why)))
                good.remove(row)
    return good


def maximize(asked: Asked) -> None:
    """An image for each class or channel, in one picture per layer."""
    from ..classifier.labels import class_number
    from ..classifier.ready import Ready
    from ..inside.inversion import MAXIMIZE_STEPS, Maximizer
    from ..photos import images
    from ..photos.outputs import refuse_results
    from ..pictures.grid import Tile, figure, sheet, tiled
    from ..pictures.page import Page
    from .progress import track

    if asked.classes and asked.layers:
        raise UsageError("--target-class and --layer; give classes, or a layer and --channels")
    if asked.images:
        raise UsageError(f"'{asked.images[0]}': maximize takes no images; it makes them")
    if asked.batch < 1:
        raise UsageError(f"--batch {asked.batch}; expected 1 or more")
    if not asked.classes and not asked.layers:
        raise UsageError("nothing to maximize; --target-class C, or --layer NAME and --channels")
    steps = MAXIMIZE_STEPS if asked.steps is None else asked.steps
    listed = ["maximize.json", *(["maximize.html"] if asked.html else [])]
    # Before the model is loaded; the pictures of the layers once their names are known.
    refuse_results(asked.output, listed, asked.force)
    wanted: list[str | None] = [*asked.layers] or [None]
    ready = Ready(asked.model)
    record = _record(asked, ready)
    makers = [
        Maximizer(
            ready,
            layer,
            unit=asked.unit,
            start=asked.start,
            **_settings(asked, record, steps),
        )
        for layer in wanted
    ]
    for note in dict.fromkeys(n for m in makers for n in m.notes):
        say(note)
    labels = None
    if asked.classes:
        labels = chosen_labels(asked.labels, makers[0].taps.labels, makers[0].channels, "")
        if any(c in ("top1", "input", "-1") for c in asked.classes):
            raise UsageError("--target-class of maximize: expected a class number or name")
        numbers = [class_number(c, labels) for c in asked.classes]
    for maker in makers:
        if not asked.classes:
            numbers = asked.channels or list(range(maker.channels))[: asked.limit]
        maker.seeds(numbers)  # a channel out of range is found out at once
    files = file_names([m.layer for m in makers])
    expected = listed + [f"{f}{end}" for f in files.values() for end in (".png", ".npy")]
    stem = Path(asked.model).stem
    page = Page(f"What excites {stem}", PIXELS)
    entries: list[dict[str, Any]] = []
    with (
        results_in(asked.output, expected, asked.force) as results,
        track(steps * len(makers), "maximizing") as step,
    ):
        for maker, file in zip(makers, files.values(), strict=True):
            if not asked.classes:
                numbers = asked.channels or list(range(maker.channels))[: asked.limit]
            kind = "score" if asked.classes else f"{asked.unit} of the channel"
            tiles, values = [], []
            for at in range(0, len(numbers), asked.batch):
                some = numbers[at : at + asked.batch]
                step.describe(f"maximizing {maker.layer}", steps * -(-len(numbers) // asked.batch))
                made = maker(some, lambda _: step.advance())
                values.append(made.images)
                for row, number in enumerate(some):
                    name = f"channel {number}"
                    if asked.classes:
                        known = None if labels is None else labels[number].split(",")[0]
                        name = f"class {number}" if known is None else f"{known} ({number})"
                    for start in range(asked.starts):
                        value = float(made.values[row, start])
                        pixels = images.to_pixels(
                            made.images[row, start], maker.preprocess, maker.spec.layout
                        )
                        tiles.append(Tile(pixels, name, f": {figure(value)}"))
                    entries.append(
                        {
                            "layer": maker.layer,
                            "channel": number,
                            "name": name,
                            "values": [round(float(v), 6) for v in made.values[row]],
                            "best": int(made.best[row]),
                        }
                    )
                    if not asked.json:
                        best = figure(float(made.values[row].max()))
                        step.print(f"{maker.layer:<24} {name:<36} {best:>8}")
            what = f"classes of {stem}" if asked.classes else f"channels of {maker.layer} in {stem}"
            title = f"Images that excite {what} most"
            detail = [f"Images made from {asked.start}; under each its {kind}."]
            note = f"{steps} steps, seed {asked.seed}. {PIXELS}"
            columns = asked.starts if asked.starts > 1 else min(len(tiles), 4)
            picture = sheet(title, detail, tiled(tiles, columns), SIDE, note)
            results.picture(f"{file}.png", picture)
            results.array(f"{file}.npy", _stacked(values))
            if asked.html:
                page.section(maker.layer)
                page.picture(picture, title, f"The images: {file}.npy")
        summary = {
            "model": asked.model,
            "method": "maximize",
            "unit": asked.unit,
            "start": asked.start,
            "steps": steps,
            "starts": asked.starts,
            "seed": asked.seed,
            "preprocess": jsonlib.loads(makers[0].preprocess.to_json()),
            "pictures": {m.layer: f"{f}.png" for m, f in zip(makers, files.values(), strict=True)},
            "images": entries,
        }
        results.json("maximize.json", summary)
        if asked.html:
            write_page(results, "maximize.html", page)
    if asked.json:
        show_json(summary)
    else:
        show(f"{counted(len(entries))} -> {asked.output}/")


def _stacked(values: list[Any]) -> Any:
    import numpy as np

    return np.concatenate(values)


def _settings(asked: Asked, record: Preprocess, steps: int) -> dict[str, Any]:
    """What both methods are told."""
    return {
        "steps": steps,
        "starts": asked.starts,
        "seed": asked.seed,
        "preprocess": record,
        "providers": asked.provider or None,
        "threads": asked.threads,
    }


def _record(asked: Asked, ready: Ready) -> Preprocess:
    """How images become inputs: --preprocess, the model's own, or an assumption, said aloud."""
    import numpy as np

    from ...export.preprocess import of_metadata

    own = of_metadata(ready.metadata, ready.name)
    record, assumed = chosen_preprocess(asked.preprocess, own, asked.model, np.dtype(np.float32))
    if assumed is not None:
        say(assumed)
    return record
