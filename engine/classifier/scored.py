"""Class scores of images together with tensors from inside the model, in one run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import ModelError
from ...export import choose, scores
from ...export.graph import load
from ...export.lone import is_lone
from ...export.seed import class_count
from ..runtime.session import Providers, Session
from .fed import Fed
from .intake import as_score, sound_rows
from .ready import Reading, Ready
from .scores import has_none

__all__ = ["Scored"]


class Scored(Reading):
    """A model that gives its class scores, before what closes them, and inner tensors.

    layers: tensors or nodes by name; `layers` then holds the tensors' full names. of: the tensor
    that holds the scores, as in `backlight.export`; None: the class scores.
    Raises ModelError, or UsageError for an unknown tensor.
    """

    def __init__(
        self,
        ready: Ready,
        layers: Sequence[str],
        *,
        of: str | None = None,
        providers: Providers = None,
        threads: int | None = None,
    ) -> None:
        loaded = load(ready.loaded)
        graph = loaded.graph
        # Named before what the scores don't need is taken away.
        found = [choose.tensor(graph, name, weights=False) for name in layers]
        self.layers = tuple(v.name or "" for v in found)
        kept = load(ready.loaded)
        image, of_scores, self.closing, held = scores.leave_scores(kept, of)
        made = {v.name: v for node in kept.graph for v in node.outputs}
        inside = [made.get(name) for name in self.layers]
        outside = [n for n, v in zip(self.layers, inside, strict=True) if v is None]
        if outside:
            raise ModelError(
                f"layer '{outside[0]}' has no way to the score '{of_scores.name}'; expected a "
                "tensor that the score is computed from"
            )
        outputs = [v for v in dict.fromkeys(inside) if v is not None and v is not of_scores]
        kept.graph.outputs[:] = [of_scores, *outputs]
        self.classes = class_count(of_scores)
        self.scores = str(of_scores.name)
        self.notes = list(held.notes)
        super().__init__(ready, Fed.of(kept.graph, image))
        self.fed.needs()
        self._lone = is_lone(image)
        self.session = Session(kept, providers, threads)
        self.notes += self.session.notes

    def __call__(self, x: NDArray[Any]) -> tuple[NDArray[np.float32], dict[str, NDArray[Any]]]:
        """Scores float32 [N, K], and the layers by their full names, [N, ...] each. x: [N, ...] as
        the model takes it. Raises ModelError for tensors without a row per image."""
        parts: list[dict[str, NDArray[Any]]] = []
        for feeds, count in self.fed.runs({self.fed.name: x}):
            rows = np.ascontiguousarray(feeds[self.fed.name])
            found = self.session.run({**feeds, self.fed.name: rows})
            for name, value in found.items():
                if self._lone and value.shape[:1] != (1,):
                    found[name] = value[None]
                elif value.ndim == 0 or len(value) != len(rows):
                    raise ModelError(
                        f"'{name}' has no row per image: {list(value.shape)} for {len(rows)}"
                    )
            parts.append({name: value[:count] for name, value in found.items()})
        joined = {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}
        logits = joined[self.scores].reshape(len(x), -1).astype(np.float32)
        return logits, {name: joined[name] for name in self.layers}

    def sound(self, logits: NDArray[Any]) -> NDArray[np.bool_]:
        """Which rows of scores are numbers, [N]."""
        return np.asarray(sound_rows(logits))

    def probabilities(self, logits: NDArray[Any]) -> NDArray[np.float64] | None:
        """Scores [N, K] -> probabilities; None where they give none."""
        if has_none(logits.shape[1], self.closing):
            return None
        return np.asarray(as_score(logits, "probability", self.closing))
