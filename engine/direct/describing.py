"""What an Explainer says of itself: its outputs, its layers, what its scores are."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..classifier.ready import Reading, Ready
from ..classifier.scores import probabilities
from ..runtime import arrays
from .described import Described

__all__ = ["Describing"]


class Describing(Reading):
    """A classifier with saliency outputs. methods: their names; classes: how many the scores have,
    None where nobody knows."""

    def __init__(self, ready: Ready, said: Described) -> None:
        super().__init__(ready, said.fed)
        self._said = said
        self.classes = said.classes
        self.methods = tuple(said.saliency)

    @property
    def score_output(self) -> str:
        """The model's output that `scores` are."""
        return self._said.scores

    @property
    def ranking_output(self) -> str:
        """The output that classes are ranked by: `score_output`, or the scores before a Sigmoid or
        Softmax that rounds several of them to the same."""
        return self._said.ranked or self._said.scores

    @property
    def takes_target(self) -> bool:
        """Whether a call chooses the class; not so of a file that was exported for one."""
        return self._said.takes_target

    @property
    def map_outputs(self) -> dict[str, str]:
        """By method, the name of its output."""
        return dict(self._said.saliency)

    @property
    def layers(self) -> tuple[str, ...]:
        """The layers that class activation maps are drawn of."""
        return self._said.layers

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why these; none of a file, which doesn't say."""
        return self._said.reasons

    @property
    def contrasted(self) -> tuple[str, ...]:
        """The methods that tell the target from another class."""
        return self._said.contrasted

    @property
    def contrast_form(self) -> str:
        """How two classes are told apart: "loss", or "logit", by the difference of their scores."""
        return self._said.contrast_form

    @property
    def contrasts(self) -> bool:
        """Whether a call takes a contrast."""
        return "contrast" in self._said.ours

    @property
    def closing(self) -> str | None:
        """What closes the head that `scores` come from: Softmax, LogSoftmax, Sigmoid, Probability
        (several operators made them) or None (unknown)."""
        return self._said.closing

    @property
    def layer(self) -> str | None:
        """The tensor that was named, where it is no class score: it has channels, not classes."""
        return self._said.layer

    def probabilities(self, scores: Any) -> NDArray[np.float32] | None:
        """The probabilities [N, K] that a call's scores give, K = `classes`: of one Sigmoid those
        of class 0 and 1. None where there are none to be had."""
        rows = arrays.to_host(scores)
        rows = rows[:, None] if rows.ndim == 1 else rows
        found = probabilities(rows, self._said.closing, self._said.scale, self._said.by)
        if found is None or found.shape[1] != 1 or self.classes != 2:
            return found
        return np.concatenate([1 - found, found], axis=1)
