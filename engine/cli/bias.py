"""`backlight bias`: which classes of a model go by the background."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ...errors import UsageError
from .console import show, show_json
from .layers import ModelArgument, drop_older, file_name, results_in, write_page
from .options import (
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
    counted,
    inputs_of,
    model_path,
    path_given,
    photo_paths,
    preprocess_of,
    say,
    shapes_of,
)
from .photos import SUMMARY, preprocess_told, report_skipped, some_files, summarised
from .scored import refuse_words

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from PIL import Image

    from ..evidence.bias import BiasFinder
    from ..evidence.biasreport import BiasReport, ClassBias
    from ..photos.outputs import OutputFolder

STATE = ".bias-state"
CLASSES = "classes"
FILES = ("bias.json", "bias.html")
LIMIT = 20


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("bias")(bias)


def bias(
    model: ModelArgument,
    folder: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="FOLDER…",
            help="Photos; folders in it are their classes, else the predicted ones are. "
            "[default: bundled photos]",
        ),
    ] = None,
    output: OutputDir = Path("bias"),
    masks: Annotated[
        Path | None,
        typer.Option(
            "--masks", metavar="DIR", help="A mask per photo, white: the object.", parser=path_given
        ),
    ] = None,
    object_: Annotated[
        str | None,
        typer.Option(
            "--object", metavar="HOW", help="Without masks: centre, seeded or none. [centre]"
        ),
    ] = None,
    method: Annotated[
        str | None,
        typer.Option("--method", metavar="NAME", help="Of the evidence. [gradcam]"),
    ] = None,
    layer: Annotated[
        str | None,
        typer.Option("--layer", "-l", metavar="L", help="Of class activation maps."),
    ] = None,
    tests: Annotated[
        int | None,
        typer.Option(
            metavar="N", help="Photos of a class that get another background; 0: none. [24]"
        ),
    ] = None,
    exchanges: Annotated[int, typer.Option(metavar="N", help="Backgrounds for each of them.")] = 2,
    clusters: Annotated[
        int | None,
        typer.Option(metavar="K", help="Of a class's maps. [what their likeness suggests]"),
    ] = None,
    limit: Annotated[
        int, typer.Option("--limit", metavar="N", help="Classes with a picture.")
    ] = LIMIT,
    preprocess: PreprocessOption = None,
    labels: Labels = None,
    provider: Provider = None,
    threads: Threads = None,
    batch: Batch = 8,
    shape: Shape = None,
    input_: Extra = None,
    html: Annotated[bool, typer.Option("--html/--no-html", help="The report as a page.")] = True,
    force: Force = False,
    json: Json = False,
) -> None:
    """Find classes that go by the background: is it the snow (Ribeiro et al. 2016)?

    For each class how much of the evidence lies outside the object, what becomes of it with the
    background exchanged, blurred and alone, and clusters of like maps. In DIR: the ranked report as
    bias.html and bias.json, a picture per class in classes/. Killed, it goes on when started again
    with the same arguments.
    """
    from ..classifier.ready import Ready
    from ..evidence.bias import BiasFinder

    path = model_path(model)
    refuse_words(preprocess, labels)
    at_least("--limit", limit, 0)
    photos = photo_paths(folder)
    files = some_files(folder)[0]
    if clusters is not None and clusters > len(files):
        raise UsageError(
            f"--clusters {clusters}: the set has {counted(len(files), 'photo')}; expected at most "
            "that"
        )
    names = [SUMMARY, *(FILES if html else FILES[:1])]
    killed = (output / STATE).exists() and not force
    with results_in(output, [*names, CLASSES], force or killed) as results:
        state = results.path / STATE
        if force:
            _forgotten(state)
        ready = Ready(path, shapes_of(shape), inputs_of(input_))
        record, assumed = preprocess_of(ready, preprocess)
        finder = BiasFinder(
            ready, masks=masks, object=object_, method=method, layer=layer, tests=tests,
            exchanges=exchanges, clusters=clusters, preprocess=record, providers=provider or None,
            threads=threads, batch=batch,
        )  # fmt: skip
        finder.labels, hint = chosen_labels(labels, finder.labels, finder.classes)
        notes = [n for n in (assumed, hint, *finder.notes) if n is not None]
        for note in notes:
            say(note)
        try:
            found = _found(finder, photos, state)
        finally:  # where nothing is in it, it isn't left
            with suppress(OSError):
                state.rmdir()
        for note in found.notes:
            say(note)
        notes += found.notes
        about = _written(found, results, limit, html, json)
        summary = summarised(
            "bias", results,
            {"model": path, **about, "preprocess": preprocess_told(finder.preprocess),
             "providers": finder.providers},
            notes=notes, read=len(found.measured.index), images=found.images(),
            skipped=found.skipped,
        )  # fmt: skip
        _forgotten(state)
    if json:
        show_json(summary)
    report_skipped([bad.error for bad in found.skipped], len(found.measured.index))


def _found(finder: BiasFinder, photos: Sequence[str], state: Path) -> BiasReport:
    from .progress import track

    with track(1 << 30, "explaining") as step:
        found = finder(photos, state=state, progress=step.reach)
    if found.resumed:
        say(f"went on from photo {found.resumed}, where a run was stopped")
    return found


def _written(
    found: BiasReport, results: OutputFolder, limit: int, html: bool, quiet: bool
) -> dict[str, Any]:
    """All files but the summary; what it says of them."""
    from ..evidence.biaspictures import page_of
    from ..photos.outputs import numbered
    from .progress import track

    shown = found.classes[:limit]
    files = [f"{CLASSES}/{n}.png" for n in numbered(file_name(one.name) for one in shown)]
    (results.path / CLASSES).mkdir(exist_ok=True)
    drop_older(results, "bias.json", files)
    told = found.as_dict()
    for one, file in zip(told["classes"], files, strict=False):
        one["picture"] = file
    results.json("bias.json", told)
    with track(len(shown), "drawing") as step:

        def drawn() -> Iterator[tuple[ClassBias, Image.Image]]:
            for at, file in enumerate(files):
                picture = found.picture(at)
                results.picture(file, picture)
                step.advance()
                yield shown[at], picture

        if html:
            write_page(results, "bias.html", page_of(found, drawn()))
        else:
            for _ in drawn():
                pass
    if not quiet:
        _told(found, results)
    return {
        k: [{n: v for n, v in one.items() if n != "clusters"} for one in told[k]]
        if k == "classes"
        else told[k]
        for k in told
    }


def _told(found: BiasReport, results: OutputFolder) -> None:
    """The ranking, for people."""
    for one in found.classes[:LIMIT]:
        mark = "suspect" if one.suspect else ""
        show(f"{one.name:<30} {one.suspicion:5.2f}  {mark}".rstrip())
        for reason in one.reasons if one.suspect else ():
            show(f"    {reason}")
    more = len(found.classes) - LIMIT
    if more > 0:
        show(f"and {more} more in bias.json")
    show(f"object: {found.finder.about()['object_is']}")
    show(f"{counted(len(found.suspects), 'suspect')} -> {results.path}/")


def _forgotten(state: Path) -> None:
    """Remove what a run keeps while it goes."""
    from ..photos.rows import RowStore

    for part in ("explained", "tested"):
        RowStore(state / part, {}, {}).remove()
    with suppress(OSError):
        state.rmdir()
