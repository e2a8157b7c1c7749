"""Makes the pictures of docs/indirect.md from bundled model and photos, by its commands.

python tools/make_inside_pictures.py docs [looked mapped linked inverted maximized tested]
"""

from __future__ import annotations

import json
import runpy
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from backlight.engine.cli import run
from backlight.engine.cli.options import PHOTOS

CAT = PHOTOS / "chelsea.jpg"
LIMIT = 300_000
CROPS = 40


def crops(folder: Path) -> None:
    """Parts of the bundled photos, a folder for each: a set that a map can be drawn of."""
    rng = np.random.default_rng(0)
    for photo in sorted(PHOTOS.glob("*.jpg")):
        whole = Image.open(photo).convert("RGB")
        (folder / photo.stem).mkdir(parents=True)
        for number in range(CROPS):
            side = int(min(whole.size) * rng.uniform(0.35, 0.8))
            left, top = rng.integers(whole.width - side), rng.integers(whole.height - side)
            part = whole.crop((left, top, left + side, top + side)).resize((256, 256))
            part = ImageOps.mirror(part) if number % 2 else part
            part.save(folder / photo.stem / f"{photo.stem}-{number:02}.jpg", quality=90)


def save(source: Path, target: Path, width: int = 1000) -> None:
    """A copy that is at most `width` wide; JPEG, where PNG would be too large."""
    picture = Image.open(source).convert("RGB")
    if picture.width > width:
        picture = picture.resize(
            (width, round(picture.height * width / picture.width)), Image.Resampling.LANCZOS
        )
    picture.save(target, quality=85, optimize=True)
    size = target.stat().st_size
    if size > LIMIT:
        raise SystemExit(f"{target}: {size} bytes; at most {LIMIT}")
    print(f"{target}: {picture.width} x {picture.height}, {size} bytes")


def made(*arguments: str | Path) -> None:
    code = run([str(a) for a in arguments])
    if code:
        raise SystemExit(f"backlight {' '.join(map(str, arguments))}: exit code {code}")


def looked(out: Path, work: Path) -> None:
    """Filters, activations, patches, DeconvNet."""
    made("filters", "bundled", "-o", work / "filters")
    save(work / "filters" / "conv1_c.png", out / "inside-filters.png")
    made("activations", "bundled", CAT, "-l", "fire4", "--sort", "--overlay", "--limit", "16",
         "-o", work / "activations")  # fmt: skip
    save(work / "activations" / "chelsea-fire4.png", out / "inside-activations.jpg")
    made("patches", "bundled", work / "crops", "-l", "fire6", "--channels", "3,40,60,200,300",
         "--one-per-image", "-o", work / "patches")  # fmt: skip
    save(work / "patches" / "fire6.png", out / "inside-patches.jpg")
    made("deconvnet", "bundled", work / "crops", "-l", "fire4", "--channels", "0,1,4",
         "--one-per-image", "-o", work / "deconvnet")  # fmt: skip
    save(work / "deconvnet" / "fire4.png", out / "inside-deconvnet.jpg")


def mapped(out: Path, work: Path) -> None:
    """Neighbours and maps."""
    made("embed", "bundled", work / "crops", "-o", work / "store")
    query = work / "crops" / "chelsea" / "chelsea-00.jpg"
    made("neighbors", work / "store", query, "-o", work / "neighbors")
    save(work / "neighbors" / "chelsea-00.png", out / "inside-neighbors.jpg")
    made("map", work / "store", "-o", work / "map")
    save(work / "map" / "scatter.png", out / "inside-scatter.png")
    save(work / "map" / "pictures.png", out / "inside-map.jpg")


def linked(out: Path, work: Path) -> None:
    """The explanatory graph of 60 crops of the cat."""
    rng = np.random.default_rng(0)
    whole, folder = Image.open(CAT).convert("RGB"), work / "cats"
    folder.mkdir()
    for number in range(60):
        side = int(min(whole.size) * rng.uniform(0.75, 1))
        left, top = rng.integers(whole.width - side), rng.integers(whole.height - side + 1)
        part = whole.crop((left, top, left + side, top + side)).resize((256, 256))
        part.save(folder / f"cat-{number:02}.jpg", quality=90)
    made("graph", "bundled", folder, "--layers", "fire9,fire6,fire4", "-o", work / "graph")
    save(work / "graph" / "graph.png", out / "inside-graph.jpg")
    names = json.loads((work / "graph" / "summary.json").read_bytes())["pictures"]
    strongest = next(name for key, name in names.items() if key.startswith("fire6/"))
    save(work / "graph" / strongest, out / "inside-pattern.jpg")


def inverted(out: Path, work: Path) -> None:
    """Inversion."""
    layers = [a for n in ("conv1", "fire2", "fire4", "fire6", "fire9") for a in ("-l", n)]
    made("invert", "bundled", CAT, *layers, "-o", work / "inversion")
    save(work / "inversion" / "inversion.png", out / "inside-inversion.jpg", 1200)


def maximized(out: Path, work: Path) -> None:
    """Maximization."""
    names = ("espresso", "281")
    classes = [a for n in names for a in ("--target-class", n)]
    made("maximize", "bundled", *classes, "-o", work / "maximize")
    save(work / "maximize" / "logits.png", out / "inside-maximize.jpg")


def tested(out: Path, work: Path) -> None:
    """Concepts."""
    folders = runpy.run_path(str(Path(__file__).parent / "make_concept_folders.py"))
    folders["main"](work / "concepts")
    given = [a for n in ("fur", "striped", "dotted")
             for a in ("--concept", f"{n}={work / 'concepts' / n}")]  # fmt: skip
    layers = ("-l", "fire4", "-l", "fire9")
    made("concepts", "bundled", *given, "--random", work / "concepts" / "anything", "--images",
         work / "concepts" / "cats", *layers, "-o", work / "tested")  # fmt: skip
    save(work / "tested" / "concepts.png", out / "inside-concepts.png")


PARTS = {f.__name__: f for f in (looked, mapped, linked, inverted, maximized, tested)}


def main(folder: str, *parts: str) -> None:
    """inside-*.jpg and inside-*.png; all, or the parts that are named."""
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        crops(work / "crops")
        for part in parts or PARTS:
            PARTS[part](Path(folder), work)


if __name__ == "__main__":
    main(*sys.argv[1:])
