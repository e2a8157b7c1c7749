"""Makes the README's pictures from the bundled model and photos.

python tools/make_docs_pictures.py docs
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from backlight import Explainer
from backlight.engine.classifier.scores import probabilities
from backlight.engine.cli.options import BUNDLED, PHOTOS
from backlight.engine.photos import images
from backlight.engine.pictures import panel as pictures


def main(folder: str) -> None:
    """explained.png: one photo, three rules. two-classes.png: one photo, asked for two classes."""
    out = Path(folder)
    explain = Explainer(BUNDLED)
    assert explain.preprocess is not None and explain.labels is not None
    settled = images.fitted(explain.preprocess, explain.input)
    prepared = images.prepare(images.decode(PHOTOS / "chelsea.jpg"), settled, explain.input)
    layout, color = explain.input.layout, settled.color

    def cell(rule: str, values: np.ndarray, title: str) -> pictures.Cell:
        picture = pictures.saliency_picture(rule, values, layout, color)
        return pictures.Cell(picture, title, pictures.caption_of(rule, layout))

    photo = pictures.Cell(prepared.pixels, "photo", "as the model sees it, 227 x 227")
    x = prepared.tensor[None]
    found = explain(x)
    chances = probabilities(found.scores, explain.closing)
    assert chances is not None
    best = int(found.target[0])
    name = explain.labels[best]
    cells = [photo, *(cell(r, found.saliency[r][0], r) for r in explain.methods)]
    heading = f"chelsea.jpg: why {name} ({best})?"
    detail = f"SqueezeNet 1.1: {100 * chances[0, best]:.1f} %"
    pictures.panel(heading, detail, cells).save(out / "explained.png")

    other = explain.labels.index("espresso")
    espresso = explain(x, other)
    cells = [photo]
    alike = {}
    for rule in ("vanilla", "guided"):
        one, two = found.saliency[rule][0], espresso.saliency[rule][0]
        alike[rule] = float(
            np.corrcoef(np.abs(one).max(0).ravel(), np.abs(two).max(0).ravel())[0, 1]
        )
        cells.append(cell(rule, one, f"{rule}: {name}"))
        cells.append(cell(rule, two, f"{rule}: espresso"))
    detail = "correlation of the two maps: " + ", ".join(f"{r} {c:.2f}" for r, c in alike.items())
    pictures.panel("Asked for a cat, asked for an espresso", detail, cells).save(
        out / "two-classes.png"
    )
    print(detail)


if __name__ == "__main__":
    main(sys.argv[1])
