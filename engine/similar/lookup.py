"""Pictures like a picture: its neighbours among a store's vectors, and among its plain pixels."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ...errors import ImageError, UsageError
from ...export.preprocess import Preprocess
from ..inside.crops import FRAME
from ..photos import images
from ..photos.stream import Skipped
from ..pictures.grid import Row, Tile, sheet
from .embed import Embedder, small
from .neighbors import METRICS, Index
from .store import Embeddings

__all__ = ["PIXELS", "Found", "Similar", "Space", "strip"]

PIXELS = "pixels"
THUMBNAIL = 112
_NAMES = {"l2": "features, L2", "cosine": "features, cosine", PIXELS: "pixels, L2"}


@dataclass(frozen=True)
class Found:
    """A row of the store and how far it is."""

    row: int
    path: str
    label: str | None
    distance: float

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"file": self.path, "label": self.label, "distance": round(self.distance, 6)}


@dataclass(frozen=True)
class Similar:
    """The neighbours of one picture in each space. seen: as the model sees the picture.
    itself: whether the picture is in the store (it is left out of its neighbours then)."""

    file: str
    seen: images.Pixels
    spaces: dict[str, list[Found]]
    itself: bool


class Space:
    """A store that pictures are looked up in.

    embedder, preprocess: see `embed.embedder_of`. metrics: any of "l2", "cosine"; distances in
    pixel space are Euclidean, of the store's small pictures (RGB in 0..1).
    """

    def __init__(
        self,
        store: Embeddings,
        embedder: Embedder,
        preprocess: Preprocess,
        metrics: Sequence[str] = METRICS,
        method: str = "auto",
    ) -> None:
        self.store, self.embedder, self.preprocess = store, embedder, preprocess
        self._vectors = {m: Index(store.vectors, m, method) for m in metrics}

    @cached_property
    def _pixels(self) -> Index:
        return Index(self.store.pixels.reshape(len(self.store), -1))

    def most(self, files: Sequence[Path]) -> tuple[int, list[Path]]:
        """How many pictures the store has beside any of the files, and which of them it holds."""
        there = set(self.store.paths)
        inside = [f for f in files if os.path.abspath(f) in there]
        return len(self.store) - (1 if inside else 0), inside

    def check(self, files: Sequence[Path], k: int) -> None:
        """Raise UsageError where the store has fewer than k pictures beside one of the files."""
        most, inside = self.most(files)
        if not 1 <= k <= most:
            beside = f" beside {inside[0]}" if inside else ""
            raise UsageError(
                f"-k {k}; {self.store.path} has {most} pictures{beside}: expected 1 to {most}"
            )

    def similar(self, files: Sequence[Path], k: int) -> tuple[list[Similar], list[Skipped]]:
        """The k nearest of each picture, itself left out; and what could not be read."""
        self.check(files, k)
        good: list[tuple[Path, images.Prepared]] = []
        bad: list[Skipped] = []
        for file in files:
            try:
                seen = images.read(file, self.preprocess, self.embedder.input)
                good.append((file, seen))
            except ImageError as err:
                bad.append(Skipped(str(file), err))
        if not good:
            return [], bad
        vectors = self.embedder(np.stack([seen.tensor for _, seen in good]))
        sound = np.asarray(np.isfinite(vectors).all(axis=1))
        tensor = self.embedder.tensor
        bad += [
            Skipped(
                str(file), ImageError(f"{file}: the model's '{tensor}' has NaN or infinite values")
            )
            for (file, _), fine in zip(good, sound, strict=True)
            if not fine
        ]
        good = [one for one, fine in zip(good, sound, strict=True) if fine]
        if not good:
            return [], bad
        vectors = vectors[sound]
        tiny = np.stack([small(seen.pixels, self.store.source.side) for _, seen in good])
        paths = self.store.paths
        asked = [os.path.abspath(file) for file, _ in good]
        inside = set(paths).intersection(asked)
        # One more than asked for makes up for the picture itself.
        wanted = k + 1 if inside else k
        nearest = {m: index.search(vectors, wanted) for m, index in self._vectors.items()}
        nearest[PIXELS] = self._pixels.search(tiny.reshape(len(tiny), -1), wanted)
        found = []
        for row, (file, seen) in enumerate(good):
            spaces = {}
            for space, near in nearest.items():
                scale = 255.0 if space == PIXELS else 1.0
                pairs = zip(near.indices[row].tolist(), near.distances[row].tolist(), strict=True)
                spaces[space] = [
                    Found(i, paths[i], self.store.labels[i], d / scale)
                    for i, d in pairs
                    if paths[i] != asked[row]
                ][:k]
            found.append(Similar(str(file), seen.pixels, spaces, asked[row] in inside))
        return found, bad

    def strip(self, similar: Similar) -> Image.Image:
        """A row of pictures per space: the query, then its neighbours."""
        return strip(similar, self.store, self.preprocess, self.embedder)


def strip(
    similar: Similar, store: Embeddings, preprocess: Preprocess, embedder: Embedder
) -> Image.Image:
    """See Space.strip."""
    source = store.source
    rows = []
    for space, found in similar.spaces.items():
        tiles = [Tile(_framed(similar.seen), "the query")]
        for one in found:
            name = one.label or Path(one.path).stem
            tiles.append(Tile(shown(store, one.row, preprocess, embedder.input),
                              f"{one.distance:.3g} · {name}"))  # fmt: skip
        detail = f"{source.width} numbers" if space != PIXELS else f"{source.side} x {source.side}"
        rows.append(Row(tiles, _NAMES[space], detail))
    pooling = f", {source.pooling}" if source.pooling else ""
    left_out = "; the query itself is in the store and left out" if similar.itself else ""
    return sheet(
        f"The pictures nearest to {Path(similar.file).name}",
        [f"of {len(store)}, by '{source.tensor}' of {Path(source.model).stem or 'the model'}"],
        rows,
        THUMBNAIL,
        f"Under each picture: its distance and its label (or file). Features: '{source.tensor}'"
        f"{pooling}. Cosine: 1 - cosine. Pixels: Euclidean, RGB in 0..1, of what the model sees "
        f"made {source.side} x {source.side}{left_out}.",
    )


def _framed(pixels: images.Pixels) -> images.Pixels:
    """A copy with a frame: the query isn't taken for its own first neighbour."""
    drawn = pixels.copy()
    wide = max(min(drawn.shape[:2]) // 36, 1)
    for edge in (drawn[:wide], drawn[-wide:], drawn[:, :wide], drawn[:, -wide:]):
        edge[...] = FRAME
    return drawn


def shown(
    store: Embeddings, row: int, preprocess: Preprocess, spec: images.InputSpec
) -> images.Pixels:
    """A picture of the store as the model sees it; the stored pixels where its file is gone or
    lies in no folder that was given."""
    file = store.picture(store.paths[row])
    try:
        if file is None:
            raise ImageError(f"{store.paths[row]}: in no folder that was given")
        return images.read(file, preprocess, spec).pixels
    except ImageError:
        side = store.source.side
        factor = -(-THUMBNAIL // side)
        tiny = Image.fromarray(store.pixels[row])
        return np.asarray(tiny.resize((side * factor, side * factor), Image.Resampling.BICUBIC))
