"""`backlight concepts`: what a concept of one's own, given by pictures, is to a class."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from ...errors import UsageError
from .conceptpage import chart_of, class_title, line, of_class, page_of
from .console import show, show_json
from .layers import (
    Layers,
    List,
    ModelArgument,
    list_skipped,
    listed,
    print_layers,
    results_in,
    write_page,
)
from .masked import Of
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
    chosen_labels,
    class_asked,
    inputs_of,
    model_path,
    photo_paths,
    preprocess_of,
    say,
    shapes_of,
    shown_bands,
)
from .photos import SUMMARY, preprocess_told, report_skipped, summarised

STATE = ".concepts-state"
CHART, PAGE = "concepts.png", "concepts.html"

Html = Annotated[bool, typer.Option("--html/--no-html", help="Also write one self-contained page.")]
Given = Annotated[
    list[str] | None,
    typer.Option("--concept", metavar="NAME=FOLDER", help="Pictures of a concept; repeatable."),
]
Random = Annotated[
    list[str] | None,
    typer.Option(
        "--random",
        metavar="FOLDER",
        help="Pictures of anything; one folder is split, of several each is a set; repeatable.",
    ),
]
Images = Annotated[
    list[str] | None,
    typer.Option("--images", metavar="FOLDER", help="Pictures of the class; repeatable."),
]
Target = Annotated[
    str | None,
    typer.Option(
        "--target-class", "--class", metavar="C",
        help="A class number or name; top1: each image's own. [what most --images are taken for]",
    ),
]  # fmt: skip
Positions = Annotated[
    str,
    typer.Option(
        "--positions",
        metavar="P",
        help="mean: a vector has a number per channel; all: per unit, and needs more pictures.",
    ),
]
CavOption = Annotated[
    str,
    typer.Option(
        "--cav",
        metavar="HOW",
        help="mean: the difference of means; sgd, logistic, svm: scikit-learn's classifiers.",
    ),
]
Runs = Annotated[
    int, typer.Option("--runs", metavar="N", help="Random sets that one folder is split into.")
]
Seed = Annotated[int, typer.Option("--seed", metavar="N", help="Of sets and pictures held back.")]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("concepts")(concepts)


def concepts(
    model: ModelArgument,
    concept: Given = None,
    random: Random = None,
    images: Images = None,
    layer: Layers = None,
    target_class: Target = None,
    output: OutputDir = Path("concepts"),
    positions: Positions = "mean",
    cav: CavOption = "mean",
    runs: Runs = 10,
    seed: Seed = 0,
    of: Of = None,
    preprocess: PreprocessOption = None,
    bands: Bands = None,
    labels: Labels = None,
    provider: Provider = None,
    threads: Threads = None,
    batch: Batch = 8,
    shape: Shape = None,
    input_: Extra = None,
    list_: List = False,
    html: Html = True,
    force: Force = False,
    json: Json = False,
) -> None:
    """Test whether a class depends on concepts given by pictures (TCAV, Kim et al. 2018).

    The share of the class's images whose score rises with each concept, against random pictures: a
    chart with error bars (concepts.png), a page and summary.json. A star stands where the
    difference is no chance; where there are too few pictures to tell, that is said. Killed, it goes
    on when started again with the same arguments.
    """
    from ..classifier.ready import Ready
    from ..inside.concepts import Concepts
    from ..photos.stream import found_files
    from .progress import track

    path = model_path(model)
    if list_:
        print_layers(listed(path, preprocess, shape), json)
        return
    given = named_folders(concept)
    others, seen = _folders("--random", random), _folders("--images", images)
    files = [SUMMARY, CHART, *([PAGE] if html else [])]
    killed = (output / STATE).exists() and not force
    with results_in(output, files, force or killed) as results:
        state = results.path / STATE
        if force:
            _forgotten(state)
        ready = Ready.of(path, shapes_of(shape), inputs_of(input_))
        record, assumed = preprocess_of(ready, preprocess, bands)
        test = Concepts(
            ready, layer, positions=positions, cav=cav, of=of, runs=runs, seed=seed,
            preprocess=record, providers=provider or None, threads=threads, batch=batch,
        )  # fmt: skip
        names, hint = chosen_labels(labels, test.labels, test.classes, of)
        target = None if target_class is None else class_asked(target_class, names, test.classes)
        shown = shown_bands(record, test.input.channels)
        notes = [n for n in (*test.notes, assumed, hint, shown) if n is not None]
        for note in notes:
            say(note)
        # Pictures of concepts and of anything are looked at once, those of the class twice.
        paths = [path for folder in given.values() for path in folder] + others + seen + seen
        with track(sum(len(found_files([path])[0]) for path in paths), "looking") as step:
            found = test(
                seen, target, concepts=given, random=others if len(others) > 1 else others[0],
                state=state, progress=step.advance,
            )  # fmt: skip
        if found.resumed:
            say(f"went on from image {found.resumed}, where a run was stopped")
        title = f"Concepts and {class_title(found.target, names)} in {Path(path).stem}"
        chart = chart_of(title, found, test, names)
        results.picture(CHART, chart)
        read = found.images + sum(found.sets) + sum(map(len, found.files.values()))
        about = {
            "model": path,
            "layers": list(found.layers),
            "target_class": "top1" if found.target < 0 else found.target,
            "name": None if names is None or found.target < 0 else names[found.target],
            "class_images": found.images,
            "of_class": found.of_class,
            "random_sets": list(found.sets),
            "tests": found.tests,
            "positions": positions,
            "cav": cav,
            "seed": seed,
            "concepts": [one.as_dict() for one in found.scores],
            "preprocess": preprocess_told(record),
            "providers": test.scored.session.providers,
            "picture": CHART,
        }
        summary = summarised(
            "concepts", results, about, notes=notes, read=read, skipped=found.skipped
        )
        if html:
            page = page_of(title, chart, found, record, test)
            list_skipped(page, [bad.error for bad in found.skipped], read)
            write_page(results, PAGE, page)
        _forgotten(state)
    if json:
        show_json(summary)
    else:
        wide = max(20, *(len(one.concept) for one in found.scores))
        for one in found.scores:
            show(line(one, wide))
        show(f"{of_class(found, names)} -> {output / (PAGE if html else CHART)}")
    report_skipped([bad.error for bad in found.skipped], read)


def _forgotten(state: Path) -> None:
    """Remove what a run keeps while it goes."""
    from ..photos.rows import RowStore

    if not state.is_dir():
        return
    for part in state.iterdir():
        RowStore(part, {}, {}).remove()
    with suppress(OSError):
        state.rmdir()


def named_folders(given: Sequence[str] | None) -> dict[str, list[str]]:
    """What --concept says: folders by name. Raises UsageError."""
    if not given:
        raise UsageError(
            "no concept given; --concept NAME=FOLDER, such as --concept striped=zebra/"
        )
    found: dict[str, list[str]] = {}
    for text in given:
        name, equals, folder = text.partition("=")
        name = name.strip()
        if not (name and equals and folder):
            raise UsageError(f"--concept '{text}'; expected NAME=FOLDER, such as striped=stripes/")
        if name in found:
            raise UsageError(f"--concept '{name}' is given twice; a concept is one folder")
        found[name] = photo_paths([folder])
    return found


def _folders(option: str, given: Sequence[str] | None) -> list[str]:
    if not given:
        what = "pictures of the class" if option == "--images" else "pictures of anything"
        raise UsageError(f"no {option} given; expected a folder with {what}")
    return photo_paths(given)
