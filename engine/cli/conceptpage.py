"""What `concepts` has found, told: a line each, the chart, and the page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .console import percent
from .options import counted, named

if TYPE_CHECKING:
    from PIL import Image

    from ...export.preprocess import Preprocess
    from ..inside.concepts import Concepts, ConceptsFound
    from ..inside.testing import ConceptScore
    from ..pictures.bars import Group


# Pictures of a row, and their size.
EXAMPLES, SIDE = 4, 112


def class_title(number: int, names: Sequence[str] | None) -> str:
    return "each image's own class" if number < 0 else named(number, names)


def of_class(found: ConceptsFound, names: Sequence[str] | None) -> str:
    if found.target < 0:
        return f"{found.images} images, each of its own class"
    name = class_title(found.target, names)
    return f"{found.of_class} of {found.images} images are taken for {name}"


def _against(one: ConceptScore) -> str | None:
    """That a concept with a star lowers the class."""
    lowers = one.significant and one.score < float(one.random.mean())
    return "the class falls with it" if lowers else None


def _chance(p: float | None) -> str:
    return "no test" if p is None else "p < 0.0001" if p < 1e-4 else f"p {p:.2g}"


def line(one: ConceptScore, wide: int) -> str:
    star = "*" if one.significant else " "
    tells = "" if one.accuracy is None else f" accuracy {percent(one.accuracy)}"
    remark = _against(one) or one.note
    note = "" if remark is None else f"  {remark}"
    return (
        f"{one.concept:<{wide}} {one.layer:<24} {one.score:.2f} ± {one.deviation:.2f} {star} "
        f"{_chance(one.p_bonferroni)}{tells}{note}"
    )


def chart_of(
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
    detail = [f"{of_class(found, names)}; {sets}; vectors: {how}, {where}"]
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


def page_of(
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
