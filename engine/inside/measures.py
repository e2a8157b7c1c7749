"""What a test of concepts takes from images: a look at each set, and two at the class's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import ImageError, ModelError, UsageError
from ..classifier.scored import Scored
from ..photos.stream import Group, Skipped
from .derivatives import LayerDerivatives
from .looks import ImageSet, Looks
from .testing import Vectors

__all__ = ["Look", "Measures"]

# Of the layer's values that are held for all images, and of the vectors: bytes.
MOST_BYTES = 1 << 31


@dataclass(frozen=True)
class Look:
    """Of the class's images: the top class, int64 [n], -1 where scores are no numbers or nothing
    could be read; of the others their files, and how much of each concept is in them."""

    tops: NDArray[np.int64]
    files: tuple[Path, ...]
    likeness: dict[str, dict[str, NDArray[np.float32]]]


class Measures:
    """layers: by which a class's score is derived. scored: gives it, and their values. looks: where
    they are kept. skipped: what could not be used."""

    def __init__(self, layers: Sequence[LayerDerivatives], scored: Scored, looks: Looks) -> None:
        self._layers, self._scored, self._looks = layers, scored, looks
        self.skipped: list[Skipped] = []

    def features(
        self, one: ImageSet, part: str
    ) -> tuple[dict[str, NDArray[np.float32]], tuple[Path, ...]]:
        """By layer, a row per image that could be read, [n, D], and these images' files. Raises
        ImageError where fewer than two could."""

        def rows_of(group: Group) -> dict[str, NDArray[Any]]:
            _, values = self._scored(group.tensor)
            made: dict[str, NDArray[Any]] = {"index": group.index}
            for at, layer in enumerate(self._layers):
                rows = made[str(at)] = layer.rows(values[layer.name])
                if not np.isfinite(rows).all():
                    raise ModelError(
                        f"'{layer.name}' is NaN or infinite for an image of {one.name}: nothing "
                        "to fit a vector to"
                    )
                if rows[0].nbytes * len(one) > MOST_BYTES:
                    raise UsageError(
                        f"{rows.shape[1]} values of '{layer.name}' for each of {len(one)} images "
                        "don't fit; take positions 'mean', or a smaller layer"
                    )
            return made

        kinds = {str(at): (np.float32, (None,)) for at in range(len(self._layers))}
        held = self._looks.over(one, part, kinds, rows_of, self.skipped)
        done = len(held["index"])
        if done < 2:
            why = f"; {self.skipped[-1].error}" if self.skipped else ""
            have = "no image" if done == 0 else "one image"
            raise ImageError(f"{one.name}: {have} that can be read; expected 2 or more{why}")
        kept = tuple(one.files[i] for i in held["index"].tolist()) if one.files else ()
        return {layer.name: held[str(at)] for at, layer in enumerate(self._layers)}, kept

    def first(self, seen: ImageSet, found: Mapping[str, Vectors]) -> Look:
        """Every image's top class, and how much of each concept is in it."""
        means = [
            np.stack([np.mean([c.normal for c in cavs], axis=0) for cavs in one.whole.values()])
            for one in (found[layer.name] for layer in self._layers)
        ]

        def rows_of(group: Group) -> dict[str, NDArray[Any]]:
            logits, values = self._scored(group.tensor)
            good = self._scored.sound(logits)
            made = {"index": group.index, "top": np.where(good, logits.argmax(axis=1), -1)}
            for at, layer in enumerate(self._layers):
                alike = np.zeros((len(good), len(means[at])), np.float32)
                alike[good] = _cosines(layer.rows(values[layer.name])[good], means[at])
                made[str(at)] = alike
            return made

        kinds: dict[str, Any] = {"top": (np.int64, ())}
        kinds |= {str(at): (np.float32, (len(one),)) for at, one in enumerate(means)}
        held = self._looks.over(seen, "images", kinds, rows_of, self.skipped)
        tops = np.full(len(seen), -1, np.int64)
        tops[held["index"]] = held["top"]
        good = held["top"] >= 0
        for at in held["index"][~good].tolist() if seen.files else ():
            file = seen.files[at]
            why = ImageError(f"{file}: the model's scores are NaN or infinite")
            self.skipped.append(Skipped(str(file), why))
        if not good.any():
            why_not = f"; {self.skipped[-1].error}" if self.skipped else ""
            raise ImageError(f"images: none that can be used{why_not}")
        likeness = {
            layer.name: dict(zip(found[layer.name].whole, held[str(at)][good].T, strict=True))
            for at, layer in enumerate(self._layers)
        }
        kept = tuple(seen.files[i] for i in held["index"][good].tolist()) if seen.files else ()
        return Look(tops, kept, likeness)

    def derivatives(
        self, seen: ImageSet, wanted: int, found: Mapping[str, Vectors], tops: NDArray[np.int64]
    ) -> dict[str, NDArray[np.float32]]:  # fmt: skip
        """By layer, of the class's images along its vectors: [N, T]."""
        stacked = [found[layer.name].stacked for layer in self._layers]

        def rows_of(group: Group) -> dict[str, NDArray[Any]]:
            good = tops[group.index] >= 0
            if not good.any():
                return {}
            classes = np.full(int(good.sum()), wanted, np.int64)
            rows: dict[str, NDArray[Any]] = {"index": group.index[good]}
            for at, layer in enumerate(self._layers):
                made = rows[str(at)] = layer(group.tensor[good], classes, stacked[at])
                if not np.isfinite(made).all():
                    raise ModelError(f"the gradient by '{layer.name}' is NaN or infinite")
            return rows

        kinds = {str(at): (np.float32, (len(one),)) for at, one in enumerate(stacked)}
        held = self._looks.over(seen, "derivatives", kinds, rows_of, [])
        return {layer.name: held[str(at)] for at, layer in enumerate(self._layers)}


def _cosines(rows: NDArray[np.float32], vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """[n, D] and [C, D] -> [n, C]; 0 where one of the two is 0."""
    sizes = np.linalg.norm(rows, axis=1)[:, None] * np.linalg.norm(vectors, axis=1)
    return np.asarray((rows @ vectors.T) / np.where(sizes > 0, sizes, 1), np.float32)
