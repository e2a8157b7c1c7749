"""`backlight maximize`: images that excite a class or a channel most."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ...errors import UsageError
from .console import show, show_json
from .layers import (
    Html,
    Layers,
    List,
    ModelArgument,
    file_names,
    listed,
    numbers,
    print_layers,
    results_in,
    write_page,
)
from .options import (
    Bands,
    Batch,
    Extra,
    Force,
    Json,
    Labels,
    OutputDir,
    PreprocessOption,
    Provider,
    Shape,
    Threads,
    at_least,
    chosen_labels,
    class_asked,
    counted,
    inputs_of,
    model_path,
    named,
    preprocess_of,
    say,
    shapes_of,
    shown_bands,
)
from .patches import Limit, settled_limit
from .photos import SUMMARY, preprocess_told, summarised
from .starts import PIXELS, SIDE, Seed, Starts, Steps, settings

if TYPE_CHECKING:
    from ..classifier.ready import Ready
    from ..inside.maximization import Maximizer

LIMIT = 8


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("maximize")(maximize)


def maximize(
    model: ModelArgument,
    target_class: Annotated[
        list[str] | None,
        typer.Option(metavar="C", help="A class number, or a name from the labels; repeatable."),
    ] = None,
    layer: Layers = None,
    channels: Annotated[
        str | None,
        typer.Option("--channels", metavar="LIST", help="Of --layer: 0-15,40. [first ones]"),
    ] = None,
    limit: Limit = None,
    unit: Annotated[
        str | None,
        typer.Option(metavar="UNIT", help="Of a channel: mean, or centre."),
    ] = None,
    output: OutputDir = Path("maximized"),
    start: Annotated[str, typer.Option(metavar="FROM", help="noise or grey.")] = "noise",
    steps: Steps = None,
    starts: Starts = 1,
    seed: Seed = 0,
    preprocess: PreprocessOption = None,
    bands: Bands = None,
    labels: Labels = None,
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
    """Make images that excite classes (--target-class) or channels (--layer) most.

    A picture and the images themselves (.npy) per layer, and summary.json. It takes no photos.
    """
    from ..classifier.ready import Ready
    from ..inside.synthesis import STEPS
    from ..photos.outputs import refuse_results
    from ..pictures.grid import Tile, figure, sheet, tiled
    from ..pictures.page import Page
    from .progress import track

    path = model_path(model)
    if list_:
        print_layers(listed(path, preprocess, shape), json)
        return
    _check_goal(target_class, layer, {"--channels": channels, "--limit": limit, "--unit": unit})
    if labels is not None and not target_class:
        raise UsageError("--labels names the classes of --target-class; channels have no names")
    most, unit = settled_limit(limit, channels, LIMIT), unit or "mean"
    chosen = numbers(channels, "--channels")
    at_least("--batch", batch)
    many = STEPS if steps is None else steps
    listing = [SUMMARY, *(["maximize.html"] if html else [])]
    # Before the model is loaded; the pictures of the layers once their names are known.
    refuse_results(output, listing, force)
    ready = Ready(path, shapes_of(shape), inputs_of(input_))
    record, assumed = preprocess_of(ready, preprocess, bands)
    how = settings(record, many, starts, seed, provider, threads)
    makers = _makers(ready, layer or [], unit, start, how)
    notes = list(dict.fromkeys([*([assumed] if assumed else ()), *_noted(makers)]))
    names = None
    if target_class:
        own = makers[0].taps.labels
        # A head of one logit has two names and one channel.
        of = None if own is None else ""
        names, hint = chosen_labels(labels, own, makers[0].channels, of)
        notes += [hint] if hint else []
    units = [_units(m, target_class, names, chosen, most) for m in makers]
    for note in notes:
        say(note)
    files = file_names([m.layer for m in makers])
    expected = listing + [f"{f}{end}" for f in files.values() for end in (".png", ".npy")]
    stem = Path(path).stem
    page = Page(f"What excites {stem}", PIXELS)
    entries: list[dict[str, Any]] = []
    with results_in(output, expected, force) as results:
        with track(many * len(makers), "maximizing") as step:
            for maker, wanted, file in zip(makers, units, files.values(), strict=True):
                kind = "score" if target_class else f"{unit} of the channel"
                tiles, values = [], []
                for at in range(0, len(wanted), batch):
                    some = wanted[at : at + batch]
                    step.describe(f"maximizing {maker.layer}", many * -(-len(wanted) // batch))
                    made = maker(some, lambda _: step.advance())
                    values.append(made.images)
                    for row, number in enumerate(some):
                        name = _named(number, bool(target_class), names)
                        for shown, value in zip(made.images[row], made.values[row], strict=True):
                            pixels = _seen(maker, shown)
                            tiles.append(Tile(pixels, name, f": {figure(float(value))}"))
                        entries.append(
                            {
                                "layer": maker.layer,
                                "channel": number,
                                "name": name,
                                "values": [round(float(v), 6) for v in made.values[row]],
                                "best": int(made.best[row]),
                            }
                        )
                        if not json:
                            best = figure(float(made.values[row].max()))
                            step.print(f"{maker.layer:<24} {name:<36} {best:>8}")
                what = f"channels of {maker.layer} in {stem}"
                title = f"Images that excite {f'classes of {stem}' if target_class else what} most"
                detail = [f"Images made from {start}; under each its {kind}."]
                note = f"{many} steps, seed {seed}. {PIXELS}"
                columns = starts if starts > 1 else min(len(tiles), 4)
                picture = sheet(title, detail, tiled(tiles, columns), SIDE, note)
                results.picture(f"{file}.png", picture)
                results.array(f"{file}.npy", _stacked(values))
                if html:
                    page.section(maker.layer)
                    page.picture(picture, title, f"The images: {file}.npy")
        if html:
            write_page(results, "maximize.html", page)
        about = {
            "model": path,
            "method": "maximize",
            "unit": unit,
            "start": start,
            "steps": many,
            "starts": starts,
            "seed": seed,
            "preprocess": preprocess_told(makers[0].preprocess),
            "providers": makers[0].objective.session.providers,
            "pictures": {m.layer: f"{f}.png" for m, f in zip(makers, files.values(), strict=True)},
        }
        summary = summarised("maximize", results, about, notes=notes, images=entries)
    if json:
        show_json(summary)
    else:
        show(f"{counted(len(entries))} -> {output}/")
        if (shown := shown_bands(record, makers[0].spec.channels)) is not None:
            show(shown)


def _check_goal(
    classes: Sequence[str] | None, layers: Sequence[str] | None, of_layer: dict[str, Any]
) -> None:
    """Raise UsageError unless it is classes, or layers and what goes with those."""
    if classes and layers:
        raise UsageError("--target-class and --layer; give classes, or a layer and --channels")
    if not classes and not layers:
        raise UsageError("nothing to maximize; --target-class C, or --layer NAME and --channels")
    for option, given in of_layer.items():
        if classes and given is not None:
            raise UsageError(f"{option} goes with --layer; --target-class has no channels")


def _makers(
    ready: Ready, layers: Sequence[str], unit: str, start: str, how: dict[str, Any]
) -> list[Maximizer]:
    """For each layer one; for the class scores, where none is given."""
    from ..inside.maximization import Maximizer

    wanted: list[str | None] = [*dict.fromkeys(layers)] or [None]
    return [Maximizer(ready, layer, unit=unit, start=start, **how) for layer in wanted]


def _noted(makers: Sequence[Maximizer]) -> list[str]:
    return [note for maker in makers for note in maker.notes]


def _units(
    maker: Maximizer,
    classes: Sequence[str] | None,
    names: Sequence[str] | None,
    chosen: list[int] | None,
    most: int,
) -> list[int]:
    """What is to be excited; a class or channel out of range is found out at once."""
    if classes:  # no top1: there is no photo
        units = list(dict.fromkeys(class_asked(c, names, maker.channels, ()) for c in classes))
    else:
        units = chosen or list(range(maker.channels))[:most]
    maker.seeds(units)
    return units


def _named(number: int, is_class: bool, names: Sequence[str] | None) -> str:
    return named(number, names) if is_class else f"channel {number}"


def _seen(maker: Maximizer, image: Any) -> Any:
    from ..photos import images

    return images.to_pixels(image, maker.preprocess, maker.spec.layout)


def _stacked(values: list[Any]) -> Any:
    import numpy as np

    return np.concatenate(values)
