"""Folders of pictures for `backlight concepts`, made of what comes along: patterns that are drawn,
and crops of the bundled photos.

    python tools/make_concept_folders.py concept-pictures
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

PHOTOS = Path(__file__).parent.parent / "engine" / "assets" / "photos"
SIDE = 224
Pixels = np.ndarray[Any, Any]


def mixed(share: Pixels, rng: np.random.Generator) -> Pixels:
    """Two random colours, mixed in shares [H, W]."""
    one, two = rng.uniform(0, 255, (2, 3))
    return (share[..., None] * one + (1 - share[..., None]) * two).astype(np.uint8)


def stripes(rng: np.random.Generator) -> Pixels:
    """Stripes of any width, direction and colours."""
    y, x = np.mgrid[:SIDE, :SIDE]
    angle, often = rng.uniform(0, np.pi), rng.uniform(0.1, 0.5)
    wave = np.sin(often * (x * np.cos(angle) + y * np.sin(angle)) + rng.uniform(0, 6))
    return mixed(0.5 + 0.5 * np.tanh(3 * wave), rng)


def dots(rng: np.random.Generator) -> Pixels:
    """Dots of any size and colours."""
    y, x = np.mgrid[:SIDE, :SIDE]
    step = rng.uniform(14, 40)
    far = np.hypot(*((v + rng.uniform(0, step)) % step - step / 2 for v in (x, y)))
    return mixed(1 / (1 + np.exp(far - step * rng.uniform(0.2, 0.4))), rng)


def crop(photo: Pixels, smallest: int, largest: int, rng: np.random.Generator) -> Pixels:
    """A square of a photo."""
    side = min(int(rng.integers(smallest, largest)), *photo.shape[:2])
    y, x = (int(rng.integers(0, size - side + 1)) for size in photo.shape[:2])
    return photo[y : y + side, x : x + side]


def main(folder: Path) -> None:
    """Write the folders."""
    rng = np.random.default_rng(0)
    photos = {f.stem: np.asarray(Image.open(f).convert("RGB")) for f in sorted(PHOTOS.iterdir())}
    cat = photos.pop("chelsea")
    others = list(photos.values())
    made: dict[str, tuple[int, Callable[[int], Pixels]]] = {
        "striped": (40, lambda _: stripes(rng)),
        "dotted": (40, lambda _: dots(rng)),
        "fur": (40, lambda _: crop(cat[:, 60:400], 60, 110, rng)),
        "cats": (24, lambda _: crop(cat[:, 60:420], 230, 300, rng)),
        "anything": (100, lambda i: crop(others[i % len(others)], 60, 200, rng)),
    }
    for name, (count, make) in made.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        for at in range(count):
            picture = Image.fromarray(make(at)).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
            picture.save(folder / name / f"{at:02}.jpg", quality=90)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "concept-pictures"))
