"""`backlight patches`: what each channel likes best in a folder of images."""

from __future__ import annotations

from functools import partial
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
    inputs_of,
    model_path,
    photo_paths,
    preprocess_of,
    say,
    shapes_of,
    shown_bands,
)
from .photos import SUMMARY, report_skipped, summarised

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ...export.sizes import Shapes
    from ..classifier.extras import InputsLike
    from ..classifier.ready import Ready
    from ..inside.patches import Patches

STATE = ".patches-state.npz"
LIMIT = 16

Folder = Annotated[
    list[str] | None,
    typer.Argument(metavar="FOLDER…", help="Folders of images. [default: bundled photos]"),
]
Channels = Annotated[
    str | None, typer.Option("--channels", metavar="LIST", help="Such as 0-15,40. [all]")
]
Limit = Annotated[
    int | None,
    typer.Option("--limit", metavar="N", help="Channels in a picture, in place of --channels."),
]
K = Annotated[int, typer.Option("-k", metavar="K", help="Activations per channel.")]
OnePerImage = Annotated[
    bool, typer.Option("--one-per-image", help="At most one activation of an image.")
]
Decoders = Annotated[
    int | None,
    typer.Option(
        "--decoders",
        metavar="N",
        help="Batches read and run side by side. [one per core, 4 at most]",
    ),
]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("patches")(patches)


def patches(
    model: ModelArgument,
    folder: Folder = None,
    layer: Layers = None,
    output: OutputDir = Path("patches"),
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
    """Show the patches that excite each channel most: a picture per layer, summary.json in DIR.

    One pass over the images for all layers; killed, it goes on where it was when started again
    with the same arguments. Crops are the exact receptive fields. Under each stand the activation
    and its file.
    """
    from ..pictures.page import Page

    path = model_path(model)
    if list_:
        print_layers(listed(path, preprocess, shape), json)
        return
    most = settled_limit(limit, channels, LIMIT)
    names = file_names(wanted_layers(layer))
    expected = [f"{n}.png" for n in names.values()] + [SUMMARY, "patches.json"]
    files = [*expected, *(["patches.html"] if html else [])]
    chosen = numbers(channels, "--channels")
    # While the state is there, a pass that was killed wrote what lies beside it.
    killed = (output / STATE).exists()
    with results_in(output, files, force or killed) as results:
        for name in [*files, STATE] if killed else ():
            for half in output.glob(f".{name[:40]}-*"):
                half.unlink()
        found = found_patches(
            path,
            folder,
            list(names),
            chosen,
            k=k,
            one_per_image=one_per_image,
            preprocess=preprocess,
            bands=bands,
            provider=provider,
            threads=threads,
            batch=batch,
            decoders=decoders,
            shapes=shapes_of(shape),
            inputs=inputs_of(input_),
            state=results.path / STATE,
            fresh=force,
        )
        pictures: dict[str, str] = {}
        page = Page(
            f"Top patches in {Path(path).stem}",
            f"What excites each channel most in {found.count} images: the exact receptive fields "
            f"of its {k} strongest activations.",
        )
        for file, name in zip(names.values(), found.layers, strict=True):
            title = f"Top patches of {name} in {Path(path).stem}"
            picture = found.picture(name, chosen, limit=most, title=title)
            results.picture(f"{file}.png", picture)
            pictures[name] = f"{file}.png"
            if html:
                page.section(name)
                page.picture(picture, title)
            if not json:
                show(f"{name} -> {results.path / file}.png")
        if html:
            page.text(f"All channels, with files and boxes: {SUMMARY}", faint=True)
            list_skipped(page, [bad.error for bad in found.skipped], found.count)
            write_page(results, "patches.html", page)
        summary = summarised(
            "patches", results, {"model": path, "pictures": pictures} | about_patches(found),
            notes=found.notes, read=found.count, skipped=found.skipped,
            old=("patches.json", {"images": found.count}),
        )  # fmt: skip
        (results.path / STATE).unlink(missing_ok=True)
    if json:
        show_json(summary)
    report_skipped([bad.error for bad in found.skipped], found.count)


def settled_limit(given: int | None, channels: str | None, otherwise: int) -> int:
    """--limit. Raises UsageError; beside --channels too, which says how many there are."""
    if given is None:
        return otherwise
    at_least("--limit", given)
    if channels is not None:
        raise UsageError("--limit and --channels exclude each other: --channels shows all it names")
    return given


def about_patches(found: Patches) -> dict[str, Any]:
    """What summary.json says of a pass."""
    told = found.as_dict()
    about = {k: told[k] for k in told if k not in ("images", "skipped", "notes")}
    return about | {"providers": list(found.providers)}


def found_patches(
    model: str | Ready,
    folder: Sequence[str] | None,
    layers: Sequence[str],
    channels: Sequence[int] | None,
    *,
    k: int,
    one_per_image: bool,
    preprocess: str | None,
    bands: str | None = None,
    provider: Sequence[str] | None,
    threads: int | None,
    batch: int,
    decoders: int | None,
    shapes: Shapes | None = None,
    inputs: InputsLike | None = None,
    state: Path | None = None,
    fresh: bool = False,
) -> Patches:
    """The pass, with its progress on the terminal and its notes said."""
    from ..classifier.ready import Ready
    from ..inside.patches import patches
    from .progress import track

    ready = Ready.of(model, shapes, inputs)
    settled, assumed = preprocess_of(ready, preprocess, bands)
    if assumed is not None:
        say(assumed)
    with track(1 << 30, "looking") as step:
        found = patches(
            ready,
            photo_paths(folder),
            layers,
            channels=channels,
            k=k,
            one_per_image=one_per_image,
            preprocess=settled,
            batch=batch,
            state=state,
            fresh=fresh,
            workers=decoders,
            providers=provider or None,
            threads=threads,
            progress=partial(step.reach, "looking"),
        )
    if found.resumed:
        say(f"went on from file {found.resumed} of {len(found.files)}, where a pass was stopped")
    for note in (*found.notes, shown_bands(settled, found.spec.channels)):
        if note is not None:
            say(note)
    return found
