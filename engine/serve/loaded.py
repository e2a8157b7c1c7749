"""A model in a worker: its two sessions, and what a batch makes of them.

The plain session answers for scores alone: of the explaining graph, they would cost all of it.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import ImageError
from ..classifier.intake import sound_rows
from ..direct.explainer import Explainer
from ..photos import images
from ..runtime import arrays
from ..runtime.session import Session
from .described import Described
from .sizes import MAGIC

__all__ = ["Loaded", "Pass"]


@dataclass(frozen=True)
class Pass:
    """What is asked of a batch. methods: whose maps are computed; heatmaps: those that are drawn;
    maps: those that are given as numbers; outputs: the model's own. chosen: whether the classes
    are asked for that the maps are of."""

    outputs: tuple[str, ...]
    maps: tuple[str, ...]
    heatmaps: tuple[str, ...]
    chosen: bool = False

    @property
    def methods(self) -> tuple[str, ...]:
        """The maps that are computed."""
        return tuple(dict.fromkeys((*self.maps, *self.heatmaps)))


class Loaded:
    """The two sessions. Raises ModelError."""

    def __init__(
        self, described: Described, providers: Sequence[str] | None, threads: int | None
    ) -> None:
        self.described = described
        self.plain = Session(described.plain, providers, threads)
        self.explainer = Explainer(
            described.explaining, providers=providers, threads=threads, inputs=described.given
        )
        self.fed = self.explainer.fed

    @cached_property
    def _preprocess(self) -> Any:
        from ...export.preprocess import from_json

        assert self.described.preprocess is not None
        return from_json(self.described.preprocess, "the model")

    def picture(self, data: bytes, row: int) -> images.Prepared:
        """A picture as the model sees it. Raises ImageError."""
        name = f"image {row}"
        if not data.startswith(MAGIC):
            raise ImageError(f"{name}: neither JPEG nor PNG")
        return images.read_bytes(data, name, self._preprocess, self.explainer.input)

    def run(
        self, wanted: Pass, feeds: Mapping[str, NDArray[Any]], target: NDArray[np.int64],
        contrast: NDArray[np.int64], pixels: Sequence[images.Pixels | None],
    ) -> dict[str, Any]:  # fmt: skip
        """Outputs by name: arrays, a row each; pictures as lists of PNG bytes."""
        found: dict[str, Any] = {}
        scores_only = wanted.outputs == (self.described.scores,)
        if not wanted.methods:
            return self._scored(wanted, feeds, target, contrast)
        taken = {name: self._placed(value) for name, value in feeds.items()}
        image = taken[self.fed.name]
        given: Any = image if len(taken) == 1 else taken
        result = self.explainer(
            given,
            target if self.explainer.takes_target else None,
            contrast if self.explainer.contrasts else None,
            methods=wanted.methods,
        )
        scores = arrays.to_host(result.scores)
        _sound(scores)
        declared = next(o for o in self.described.outputs if o.name == self.described.scores)
        if scores_only and len(declared.dims) == scores.ndim:
            found[self.described.scores] = scores
        elif wanted.outputs:
            found |= self._plain(feeds, wanted.outputs)
        found["target"] = arrays.to_host(result.target)
        found |= self._chance(scores, found["target"])
        if result.contrast is not None:
            found["contrast"] = arrays.to_host(result.contrast)
        maps = {m: arrays.to_host(v) for m, v in result.saliency.items()}
        found |= {self.described.maps[m].name: maps[m] for m in wanted.maps}
        for method in wanted.heatmaps:
            found[f"heatmap_{method}"] = [
                self._drawn(method, maps[method][row], seen, feeds[self.fed.name][row], found, row)
                for row, seen in enumerate(pixels)
            ]
        return found

    def _scored(
        self, wanted: Pass, feeds: Mapping[str, NDArray[Any]], target: NDArray[np.int64],
        contrast: NDArray[np.int64],
    ) -> dict[str, Any]:  # fmt: skip
        """Without a map: the class that one would be of costs no explaining pass."""
        if not wanted.chosen:
            return self._plain(feeds, wanted.outputs)
        scores, explainer = self.described.scores, self.explainer
        ranking = self.described.ranked or scores
        found = self._plain(feeds, tuple(dict.fromkeys((*wanted.outputs, scores, ranking))))
        _sound(found[scores])
        chosen, against = explainer.choose(
            found[ranking],
            target if explainer.takes_target else None,
            contrast if explainer.contrasts else None,
        )
        found |= {"target": chosen, **self._chance(found[scores], chosen)}
        return found if against is None else {**found, "contrast": against}

    def _chance(self, scores: NDArray[Any], chosen: NDArray[np.int64]) -> dict[str, Any]:
        """The classes' probabilities, where the scores give any."""
        found = self.explainer.probabilities(scores)
        if found is None or len(found) != len(chosen):
            return {}
        return {"target probability": found[np.arange(len(found)), chosen]}

    def _plain(
        self, feeds: Mapping[str, NDArray[Any]], outputs: Sequence[str]
    ) -> dict[str, NDArray[Any]]:
        parts = []
        for part, rows in self.fed.runs(feeds):
            if self.plain.providers[0] == "CUDAExecutionProvider" and _has_cupy():
                on_gpu = {k: self._placed(v) for k, v in part.items()}
                got = arrays.run_on_cuda(self.plain, on_gpu, list(outputs))
                got = {k: arrays.to_host(v) for k, v in got.items()}
            else:
                host = {k: np.ascontiguousarray(v) for k, v in part.items()}
                got = self.plain.run(host, outputs)
            parts.append({n: self._rows(n, got[n], rows) for n in outputs})
        if len(parts) == 1:
            return parts[0]
        return {n: self._joined(n, [p[n] for p in parts]) for n in outputs}

    def _joined(self, name: str, values: Sequence[NDArray[Any]]) -> NDArray[Any]:
        if name not in self.whole:
            return np.concatenate(values)
        if not all(np.array_equal(values[0], value) for value in values):
            raise ImageError(f"output '{name}' has no row per image: ask for one image at a time")
        return values[0]

    def _rows(self, name: str, values: NDArray[Any], rows: int) -> NDArray[Any]:
        return values if name in self.whole else values[:rows]

    @cached_property
    def whole(self) -> frozenset[str]:
        """Outputs without a row per image."""
        return frozenset(o.name for o in self.described.outputs if not o.rows)

    def _placed(self, value: NDArray[Any]) -> Any:
        """Where the model runs: on a GPU, inputs and outputs are bound to its memory."""
        if self.plain.providers[0] != "CUDAExecutionProvider" or not _has_cupy():
            return value
        return arrays.cupy().asarray(value)

    def _drawn(
        self, method: str, values: NDArray[Any], seen: images.Pixels | None,
        tensor: NDArray[Any], found: Mapping[str, Any], row: int,
    ) -> bytes:  # fmt: skip
        from PIL import Image

        from ..pictures import reading

        spec = self.explainer.input
        if seen is None:
            seen = images.to_pixels(tensor, self._preprocess, spec.layout)
        against = None
        if "contrast" in found:
            against = self._class(int(found["contrast"][row]))
        asked = reading.Asked(spec, self._preprocess.color, self.explainer.layers, against,
                              self.explainer.contrasted)  # fmt: skip
        cell = reading.cell(method, values.astype(np.float32), seen, asked)
        made = io.BytesIO()
        Image.fromarray(cell.pixels).save(made, "PNG", compress_level=1)
        return made.getvalue()

    def _class(self, number: int) -> str:
        names = self.described.labels
        if names is None or number >= len(names):
            return f"class {number}"
        return f"{names[number].split(',')[0]} ({number})"


def _sound(scores: NDArray[Any]) -> None:
    """Raise ImageError where there is nothing to explain: finite pixels may overflow on the way."""
    rows = scores.reshape(len(scores), -1) if scores.size else scores
    sound = sound_rows(rows)
    if not sound.all():
        raise ImageError(
            f"row {int(sound.argmin())}: the model's scores of it are NaN or infinite: there is "
            "nothing to explain"
        )


def _has_cupy() -> bool:
    import importlib.util

    return importlib.util.find_spec("cupy") is not None


def described_of(text: str) -> Described:
    """What the server says of a model."""
    return Described.from_dict(json.loads(text))
