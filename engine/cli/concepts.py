"""`backlight concepts`: what a concept of one's own, given by pictures, is to a class."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ...errors import UsageError
from .console import percent, show, show_json
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
    counted,
    inputs_of,
    model_path,
    named,
    photo_paths,
    preprocess_of,
    say,
    shapes_of,
    shown_bands,
)
from .photos import SUMMARY, preprocess_told, report_skipped, summarised

if TYPE_CHECKING:
    from PIL import Image

    from ...export.preprocess import Preprocess
    from ..inside.concepts import Concepts, ConceptsFound
    from ..inside.testing import ConceptScore
    from ..pictures.bars import Group

STATE = ".concepts-state"
CHART, PAGE = "concepts.png", "concepts.html"
# Pictures of a row, and their size.
EXAMPLES, SIDE = 4, 112

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
        title = f"Concepts and {_class_name(found.target, names)} in {Path(path).stem}"
        chart = _chart(title, found, test, names)
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
            page = _page(title, chart, found, record, test)
            list_skipped(page, [bad.error for bad in found.skipped], read)
            write_page(results, PAGE, page)
        _forgotten(state)
    if json:
        show_json(summary)
    else:
        wide = max(20, *(len(one.concept) for one in found.scores))
        for one in found.scores:
            show(_line(one, wide))
        show(f"{_of_class(found, names)} -> {output / (PAGE if html else CHART)}")
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


def _class_name(number: int, names: Sequence[str] | None) -> str:
    return "each image's own class" if number < 0 else named(number, names)


def _of_class(found: ConceptsFound, names: Sequence[str] | None) -> str:
    if found.target < 0:
        return f"{found.images} images, each of its own class"
    name = _class_name(found.target, names)
    return f"{found.of_class} of {found.images} images are taken for {name}"


def _against(one: ConceptScore) -> str | None:
    """That a concept with a star lowers the class."""
    lowers = one.significant and one.score < float(one.random.mean())
    return "the class falls with it" if lowers else None


def _chance(p: float | None) -> str:
    return "no test" if p is None else "p < 0.0001" if p < 1e-4 else f"p {p:.2g}"


def _line(one: ConceptScore, wide: int) -> str:
    star = "*" if one.significant else " "
    tells = "" if one.accuracy is None else f" accuracy {percent(one.accuracy)}"
    remark = _against(one) or one.note
    note = "" if remark is None else f"  {remark}"
    return (
        f"{one.concept:<{wide}} {one.layer:<24} {one.score:.2f} ± {one.deviation:.2f} {star} "
        f"{_chance(one.p_bonferroni)}{tells}{note}"
    )


def _chart(
    title: str, found: ConceptsFound, test: Concepts, names: Sequence[str] | None
) -> Image.Image:
    from ..pictures.bars import bars

    note = (
        "Bar: the share of the class's images whose score rises along the concept's vector. Error "
        "bar: standard deviation over the random sets. Star: differs from random sets against each "
        "other, two-sided t-tests, Bonferroni-corrected p below 0.05, with pictures enough."
    )
    sizes = " to ".join(str(n) for n in sorted({min(found.sets), max(found.sets)}))
    sets = f"{counted(len(found.sets), 'random set')} of {sizes} images"
    how = "difference of means" if test.cav == "mean" else f"scikit-learn, {test.cav}"
    where = "averaged over positions" if test.positions == "mean" else "all units"
    detail = [f"{_of_class(found, names)}; {sets}; vectors: {how}, {where}"]
    groups = [_group(layer, found) for layer in found.layers]
    return bars(title, detail, groups, note)


def _group(layer: str, found: ConceptsFound) -> Group:
    from ..pictures.bars import Bar, Group

    scores = [one for one in found.scores if one.layer == layer]
    drawn = []
    for one in scores:
        said = [] if one.p_bonferroni is None else [_chance(one.p_bonferroni)]
        if one.accuracy is not None:
            said.append(f"accuracy {percent(one.accuracy)}")
        remark = _against(one) or one.note
        notes = [", ".join(said)] if said else []
        notes += [] if remark is None else [remark]
        drawn.append(Bar(one.concept, one.score, one.deviation, one.significant, notes))
    random = scores[0].random
    if len(random):
        spread = float(random.std(ddof=1)) if len(random) > 1 else 0.0
        pairs = f"{len(random)} pairs of random sets" if len(random) > 1 else "a pair of them"
        drawn.append(
            Bar("random sets", float(random.mean()), spread, notes=[pairs], reference=True)
        )
    return Group(layer, drawn)


def _page(
    title: str, chart: Image.Image, found: ConceptsFound, preprocess: Preprocess, test: Concepts
) -> Any:
    from ..pictures.page import Page

    page = Page(
        title,
        "Does the class depend on these concepts? Each is given by pictures: the direction in a "
        "layer that tells them from random ones is its vector, and the score is the share of the "
        "class's images for which the class rises along it (Kim et al. 2018).",
    )
    page.picture(chart, title)
    page.table(
        ("layer", "concept", "score", "±", "star", "p, corrected", "p", "p of parts", "mean "
         "derivative", "accuracy", "pictures", "remark"),
        [
            (
                one.layer, one.concept, f"{one.score:.3f}", f"{one.deviation:.3f}",
                "★" if one.significant else "", *map(_p, (one.p_bonferroni, one.p, one.p_parts)),
                f"{one.magnitude:.3g}", "" if one.accuracy is None else percent(one.accuracy),
                one.images, _against(one) or one.note or "",
            )
            for one in found.scores
        ],
    )  # fmt: skip
    page.text(
        "p: of the concept against each random set, and of random sets against each other (Welch's "
        "t-test, two-sided). These vectors share the concept's pictures, and lean the same way "
        "whatever it is; so p of parts is of disjoint parts of its pictures, each against a random "
        "set of its own. Corrected: the larger of the two times the number of tests, "
        f"{found.tests}. Accuracy: on a third of the pictures, which the vector hasn't seen; "
        "guessing has 50 %.",
        faint=True,
    )
    for layer in found.layers:
        page.section(f"Pictures, by {layer}", "What a concept was given by, and which of the "
                     "class's images the layer finds most and least of it in.")  # fmt: skip
        page.picture(_examples(layer, found, preprocess, test), f"pictures by concept, {layer}")
    return page


def _p(value: float | None) -> str:
    return "" if value is None else f"{value:.2g}"


def _examples(
    layer: str, found: ConceptsFound, preprocess: Preprocess, test: Concepts
) -> Image.Image:
    """A row for each concept: some of its pictures, and the class's with most and least of it."""
    from ..photos import images
    from ..pictures.grid import Row, Tile, figure, sheet

    settled = images.fitted(preprocess, test.input)

    def tile(file: Path, label: str) -> Tile:
        return Tile(images.read(file, settled, test.input).pixels, label)

    rows = []
    for name, likeness in found.likeness[layer].items():
        order = likeness.argsort()[::-1]
        many = min(EXAMPLES // 2, len(order) // 2) or 1
        tiles = [tile(file, "of the concept") for file in found.files[name][:EXAMPLES]]
        for what, chosen in (("most", order[:many]), ("least", order[::-1][:many])):
            tiles += [
                tile(found.class_files[i], f"{what}: {figure(float(likeness[i]))}") for i in chosen
            ]
        rows.append(Row(tiles, name))
    note = "Most, least: the cosine of an image's features with the concept's vector."
    return sheet(f"Concepts at {layer}", [], rows, SIDE, note)
