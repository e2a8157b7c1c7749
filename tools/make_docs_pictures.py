"""Makes the pictures of the README and of docs/targeted.md from the bundled model and photos.

python tools/make_docs_pictures.py docs
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from backlight import Explainer
from backlight.engine.cli import run
from backlight.engine.cli.options import BUNDLED, PHOTOS
from backlight.engine.photos import images
from backlight.engine.pictures import panel as pictures
from backlight.engine.pictures import reading

CAT = PHOTOS / "chelsea.jpg"


class Cat:
    """The cat's photo, explained: cells of panels, by method and class."""

    def __init__(self, **options: object) -> None:
        self.explain = Explainer(BUNDLED, **options)  # type: ignore[arg-type]
        assert self.explain.preprocess is not None and self.explain.labels is not None
        self.labels = self.explain.labels
        self.settled = images.fitted(self.explain.preprocess, self.explain.input)
        self.prepared = images.prepare(images.decode(CAT), self.settled, self.explain.input)
        self.x = self.prepared.tensor[None]

    def number(self, name: str) -> int:
        """A class by its first name."""
        return next(i for i, text in enumerate(self.labels) if text.split(",")[0] == name)

    def cells(self, target: str | None = None, against: str | None = None) -> list[pictures.Cell]:
        """A cell for each method. target, against: classes by name."""
        chosen = None if target is None else self.number(target)
        rival = None if against is None else self.number(against)
        found = self.explain(self.x, chosen, rival)
        self.top = self.labels[int(found.target[0])].split(",")[0]
        told = None
        if found.contrast is not None:
            told = self.labels[int(found.contrast[0])].split(",")[0]
        chances = self.explain.probabilities(found.scores)
        assert chances is not None
        self.chance = float(chances[0, int(found.target[0])])
        asked = reading.Asked(
            self.explain.input, self.settled.color, self.explain.layers, told,
            self.explain.contrasted,
        )  # fmt: skip
        self.found = found
        return [
            reading.cell(name, values[0], self.prepared.pixels, asked)
            for name, values in found.saliency.items()
        ]

    def photo(self) -> pictures.Cell:
        """The photo itself."""
        return pictures.Cell(self.prepared.pixels, "photo", "as the model sees it, 227 x 227")


def titled(cell: pictures.Cell, title: str) -> pictures.Cell:
    """A cell under another title."""
    return pictures.Cell(cell.pixels, title, cell.caption)


def blank(cell: pictures.Cell) -> pictures.Cell:
    """An empty place, as large as a cell."""
    return pictures.Cell(np.full_like(cell.pixels, 255), "", "")


def explained(out: Path) -> None:
    """One photo, Grad-CAM and the three rules."""
    cat = Cat(methods=("gradcam", "vanilla", "deconv", "guided"))
    cells = [cat.photo(), *cat.cells()]
    heading = f"chelsea.jpg: why {cat.top} ({cat.number(cat.top)})?"
    detail = f"SqueezeNet 1.1: {100 * cat.chance:.1f} %"
    pictures.panel(heading, detail, cells).save(out / "explained.png")


def two_classes(out: Path) -> None:
    """One photo, asked for two classes, by methods that tell them apart and one that doesn't."""
    cat = Cat(methods=("vanilla", "guided", "gradcam"))
    one, first = cat.cells(), cat.found.saliency
    name = cat.top
    two, second = cat.cells("espresso"), cat.found.saliency
    above, below, alike = [cat.photo()], [blank(cat.photo())], {}
    for at, method in enumerate(first):
        maps = [np.abs(s[method][0]) for s in (first, second)]
        flat = [(m.max(0) if m.ndim == 3 else m).ravel() for m in maps]
        alike[method] = float(np.corrcoef(*flat)[0, 1])
        above.append(titled(one[at], f"{method}: {name}"))
        below.append(titled(two[at], f"{method}: espresso"))
    detail = "correlation of the two maps: " + ", ".join(f"{r} {c:.2f}" for r, c in alike.items())
    heading = "Asked for a cat, asked for an espresso"
    pictures.panel(heading, detail, [*above, *below], len(above)).save(out / "two-classes.png")
    print(detail)


def targeted(out: Path) -> None:
    """docs/targeted.md: why P, why P rather than Q, what if not P."""
    cat = Cat(methods=("gradcam",))
    cells = [cat.photo()]
    for name in ("Egyptian cat", "tiger cat", "espresso"):
        (cell,) = cat.cells(name)
        cells.append(titled(cell, f"{name}, {100 * cat.chance:.1f} %"))
    pictures.panel("Why P? Grad-CAM of one photo for three classes", "", cells).save(
        out / "targeted-why.png"
    )

    cells = [Cat(methods=("gradcam",)).photo()]
    for form in ("loss", "logit"):
        cat = Cat(methods=("gradcam",), contrast="input", contrast_form=form, signed=True)
        (cell,) = cat.cells("Egyptian cat", "tiger cat")
        cells.append(titled(cell, f"signed, by {form}"))
    cat = Cat(methods=("contrastcam", "causalcam"))
    one, other = cat.cells("Egyptian cat", "tiger cat")
    (espresso, _) = cat.cells("Egyptian cat", "espresso")
    cells += [
        titled(one, "contrastcam: than tiger cat"),
        titled(espresso, "contrastcam: than espresso"),
        titled(other, "causalcam"),
    ]
    pictures.panel("Why P, rather than Q? Egyptian cat against others", "", cells, 3).save(
        out / "targeted-contrast.png"
    )

    cat = Cat(methods=("gradcam",), signed=True)
    (grad,) = cat.cells("espresso")
    cells = [cat.photo(), titled(grad, "gradcam: espresso, signed")]
    cat = Cat(methods=("counterfactualcam",))
    (of_espresso,) = cat.cells("espresso")
    (of_cat,) = cat.cells("Egyptian cat")
    cells += [
        titled(of_espresso, "counterfactualcam: espresso"),
        titled(of_cat, "counterfactualcam: Egyptian cat"),
    ]
    pictures.panel("What if not P? What speaks against a class", "", cells).save(
        out / "targeted-counterfactual.png"
    )


def exchanged(out: Path) -> None:
    """docs/targeted.md: which cells make it another class, by the command shown there."""
    with tempfile.TemporaryDirectory() as work:
        words = ["counterfactual", str(CAT), "--class", "espresso", "-o", work]
        if run(words):
            raise SystemExit(f"backlight {' '.join(words)} failed")
        picture = Image.open(Path(work) / "chelsea.png").convert("RGB")
    size = (1000, round(picture.height * 1000 / picture.width))
    picture = picture.resize(size, Image.Resampling.LANCZOS)
    picture.save(out / "targeted-exchange.jpg", quality=76, optimize=True)


def main(folder: str) -> None:
    """All of them."""
    out = Path(folder)
    out.mkdir(parents=True, exist_ok=True)
    explained(out)
    two_classes(out)
    targeted(out)
    exchanged(out)


if __name__ == "__main__":
    main(sys.argv[1])
