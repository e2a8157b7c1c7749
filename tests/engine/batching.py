"""Shards of small real pictures: the bundled photos, cut and made small."""

from __future__ import annotations

import io
import json
import tarfile
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from backlight.engine.cli.options import PHOTOS
from backlight.engine.scale.asked import Asked
from backlight.engine.scale.core import Explaining
from backlight.engine.scale.local import OnRows, Outcome
from backlight.engine.scale.shards import Shard
from backlight.engine.scale.worker import described
from backlight.errors import BacklightError


@cache
def _photos() -> tuple[Image.Image, ...]:
    made = []
    for path in sorted(PHOTOS.glob("*.jpg")):
        photo = Image.open(path).convert("RGB")
        photo.thumbnail((400, 400))
        made.append(photo)
    return tuple(made)


def thumbnail(number: int, side: int = 64) -> bytes:
    """A JPEG file: a part of a bundled photo, another one for every number."""
    rng = np.random.default_rng(number)
    photo = _photos()[number % len(_photos())]
    share = rng.uniform(0.4, 0.95)
    w, h = (int(s * share) for s in photo.size)
    left, top = rng.integers(photo.width - w), rng.integers(photo.height - h)
    part = photo.crop((left, top, left + w, top + h)).resize((side, side))
    made = io.BytesIO()
    (ImageOps.mirror(part) if number % 2 else part).save(made, "JPEG", quality=85)
    return made.getvalue()


def tar(path: Path, pictures: dict[str, bytes]) -> Path:
    """A tar file, with what else is in such files beside the pictures."""
    with tarfile.open(path, "w") as archive:
        for name, data in pictures.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
        label = tarfile.TarInfo("0000.cls")
        label.size = 1
        archive.addfile(label, io.BytesIO(b"1"))
    return path


def tars(folder: Path, count: int, each: int, side: int = 64) -> list[str]:
    """So many shards of so many thumbnails, one in a hundred broken; the keys of all."""
    folder.mkdir(parents=True, exist_ok=True)
    keys = []
    for shard in range(count):
        numbers = range(shard * each, (shard + 1) * each)
        pictures = {
            f"{n:06d}.jpg": thumbnail(n, side) if n % 100 != 99 else b"no picture" for n in numbers
        }
        keys += list(pictures)
        tar(folder / f"{shard:04d}.tar", pictures)
    return keys


class Here:
    """A worker in this process: see `local.Worker`."""

    def __init__(self, asked: Asked) -> None:
        self._explaining = Explaining(asked)
        self.ready = described(self._explaining)

    def explain(self, shard: Shard, folder: Path, on_rows: OnRows) -> Outcome:
        try:
            done = self._explaining.explain(shard, folder, on_rows)
            return Outcome(shard, done.record, done.reasons)
        except BacklightError as err:
            return Outcome(shard, None, why=str(err))

    def end(self) -> None:
        """Nothing to end."""


def rows_of(folder: Path) -> list[dict[str, Any]]:
    """All rows of the parts in a folder, in the order of the parts' names."""
    import pyarrow.parquet as pq

    return [
        row for part in sorted(folder.glob("*.parquet")) for row in pq.read_table(part).to_pylist()
    ]


def manifest_of(folder: Path) -> dict[str, Any]:
    """What the manifest says."""
    return dict(json.loads((folder / "_manifest.json").read_bytes()))
