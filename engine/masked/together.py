"""Methods of both kinds asked for at once: those that a graph holds, in one run of it, and those
that run the model on masked images, image by image. `backlight explain` stands on it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import ImageError, UsageError
from ...export.combinations import checked_contrast
from ...export.drawing import Drawing
from ...export.graph import ModelLike
from ...export.layer import NAMED
from ...export.methods import METHODS, named
from ...export.preprocess import Preprocess
from ...export.sizes import Shapes
from ..classifier.extras import InputsLike
from ..classifier.fed import Fed
from ..classifier.ready import Ready
from ..direct.explainer import Explainer
from ..photos.images import InputSpec
from ..runtime import arrays
from ..runtime.session import Providers, Session
from .methods import Draws, Masking, build
from .scoring import Progress, Scorer, no_progress

__all__ = ["WORK", "Explained", "Together"]

# Of one image and method held by the engine: what its progress is told in.
WORK = 100


@dataclass(frozen=True)
class Explained:
    """What the methods say of N images, in host memory.

    scores, target, contrast, gap: see Explanation. maps: by name, [N, ...] each, in the order
    asked for. facts: for each image by method, for summary.json; says: the same by map, in a line.
    labels: for each image the segments, int32 [H, W], or None. refused: the images of which a
    method can say nothing, and why; their maps are 0.
    """

    scores: NDArray[Any]
    target: NDArray[np.int64]
    maps: Mapping[str, NDArray[Any]]
    contrast: Any = None
    gap: Any = None
    facts: tuple[dict[str, Any], ...] = ()
    says: tuple[dict[str, str], ...] = ()
    labels: tuple[NDArray[np.int32] | None, ...] = ()
    refused: Mapping[int, ImageError] = field(default_factory=dict)


class Together:
    """A model and the methods asked of it.

    names: of methods; None: as in Explainer. masking: what the engine's are told; drawn: what
    both kinds of class activation map are: layer, fuse, size, signed. sampled: samples, noise,
    steps, baseline, of the graph's. preprocess: what a baseline's colour is. contrast,
    contrast_form, of, providers, threads, batch, shapes, inputs, wrt: see Explainer.

    Raises ModelError, UnsupportedNode or UsageError.
    """

    def __init__(
        self,
        model: ModelLike | Ready,
        names: Sequence[str] | None,
        *,
        masking: Masking,
        drawn: Mapping[str, Any],
        sampled: Mapping[str, Any],
        contrast: str | int | None,
        contrast_form: str,
        of: str | None,
        providers: Providers,
        threads: int | None,
        batch: int | None,
        shapes: Shapes | None,
        inputs: InputsLike | None = None,
        wrt: str | None = None,
        preprocess: Preprocess | None = None,
    ) -> None:
        rows = named(names) if names is not None else ()
        held = [row.name for row in rows if row.held == "graph"]
        engines = [row for row in rows if row.held == "engine"]
        masking.check(rows)
        if engines:
            form = {k: drawn[k] for k in ("fuse", "size", "signed")}
            Drawing.of(rows, tuple(drawn["layer"] or ()), **form)
        if engines:
            checked_contrast(rows, contrast, contrast_form, "input")
        if engines and not held and any(v is not None for v in sampled.values()):
            told = next(k for k, v in sampled.items() if v is not None)
            hint = "; --hide says what hides a segment" if told == "baseline" else ""
            raise UsageError(f"{told} is of methods that vary the image, such as smoothgrad{hint}")
        if engines and wrt is not None:
            raise UsageError(f"--wrt is of gradients; method '{engines[0].name}' takes none")
        ready = Ready.of(model, shapes, inputs)
        self.graph: Explainer | None = None
        self.scorer: Scorer | None = None
        if held or not engines:
            by_layer = not engines or any(METHODS[m].takes_layer for m in held)
            self.graph = Explainer(
                ready, methods=tuple(held) or None if engines else names, of=of,
                providers=providers, threads=threads, batch=batch, wrt=wrt,
                contrast=contrast, contrast_form=contrast_form, preprocess=preprocess, **sampled,
                **(drawn if by_layer else {}),
            )  # fmt: skip
        self.draws: list[Draws] = []
        if engines:
            self.scorer = Scorer(ready, of=of, providers=providers, threads=threads)
            self.draws = [build(row.name, self.scorer, masking) for row in engines]
        own = self.graph.methods if self.graph is not None else ()
        made = [*own, *(name for draws in self.draws for name in draws.names)]
        # As asked for: a map of several layers stands where its method does.
        order = [row.name for row in rows]
        self.methods = tuple(sorted(made, key=lambda n: _place(n, order)))

    @property
    def standing(self) -> Explainer | Scorer:
        """Who describes the model."""
        found = self.graph or self.scorer
        assert found is not None
        return found

    @property
    def name(self) -> str:
        return self.standing.name

    @property
    def fed(self) -> Fed:
        return self.standing.fed

    @property
    def input(self) -> InputSpec:
        return self.standing.input

    @property
    def session(self) -> Session:
        return self.standing.session

    @property
    def classes(self) -> int | None:
        return self.standing.classes

    @property
    def closing(self) -> str | None:
        return self.standing.closing

    @property
    def layer(self) -> str | None:
        return self.standing.layer

    @property
    def labels(self) -> list[str] | None:
        return self.standing.labels

    @property
    def layers(self) -> tuple[str, ...]:
        """The layers that class activation maps are drawn of."""
        own = self.graph.layers if self.graph is not None else ()
        return own or next((d.layers for d in self.draws if d.layers), ())

    @property
    def reasons(self) -> dict[str, str]:
        """Why these, by layer, where nobody named them."""
        own = [] if self.graph is None else [(self.graph.layers, self.graph.reasons)]
        pairs = [*own, *((d.layers, d.reasons) for d in self.draws)]
        found = {
            n: why for layers, reasons in pairs for n, why in zip(layers, reasons, strict=False)
        }
        return {name: why for name, why in found.items() if why != NAMED}

    @property
    def contrasted(self) -> tuple[str, ...]:
        return self.graph.contrasted if self.graph is not None else ()

    @property
    def contrast_form(self) -> str:
        return self.graph.contrast_form if self.graph is not None else "loss"

    @property
    def notes(self) -> list[str]:
        both = (self.graph, self.scorer)
        return list(dict.fromkeys(n for one in both if one is not None for n in one.notes))

    @property
    def preprocess(self) -> Preprocess | None:
        return self.standing.preprocess

    @property
    def work(self) -> int:
        """Pieces of work of an image, for progress."""
        return (self.graph is not None) + WORK * len(self.draws)

    @property
    def cuts(self) -> bool:
        """Whether a method switches segments of the image."""
        return any(METHODS[d.name].by == "superpixels" for d in self.draws)

    @property
    def settings(self) -> dict[str, Any]:
        """What the engine's methods were told, by name."""
        return {d.name: d.settings for d in self.draws}

    def prepare(self, preprocess: Preprocess) -> None:
        """How pixels become inputs: superpixels are cut in pixels."""
        if self.scorer is not None:
            self.scorer.preprocess = preprocess

    def probabilities(self, scores: Any) -> NDArray[np.float32] | None:
        """As Explainer.probabilities."""
        return self.standing.probabilities(scores)

    def __call__(
        self, inputs: Any, target: Any = None, contrast: Any = None,
        progress: Progress = no_progress,
    ) -> Explained:  # fmt: skip
        """Explain a batch. See Explainer.__call__. progress: told pieces of work."""
        maps: dict[str, NDArray[Any]] = {}
        told, gap = None, None
        if self.graph is not None:
            found = self.graph(inputs, target, contrast)
            scores, chosen = arrays.to_host(found.scores), arrays.to_host(found.target)
            maps = {k: arrays.to_host(v) for k, v in found.saliency.items()}
            told, gap = found.contrast, found.gap
            progress(len(chosen))
        else:
            assert self.scorer is not None
            taken = self.scorer.take(inputs)
            scores = arrays.to_host(self.scorer.logits(taken))
            top = np.nan_to_num(scores, nan=-np.inf).argmax(axis=1)
            chosen = np.full(len(scores), -1 if target is None else target, np.int64)
            chosen = np.where(chosen < 0, top, chosen)
        return self._engines(inputs, scores, chosen, maps, told, gap, progress)

    def _engines(
        self, inputs: Any, scores: NDArray[Any], chosen: NDArray[np.int64],
        maps: dict[str, NDArray[Any]], contrast: Any, gap: Any, progress: Progress,
    ) -> Explained:  # fmt: skip
        count = len(chosen)
        facts: list[dict[str, Any]] = [{} for _ in range(count)]
        says: list[dict[str, str]] = [{} for _ in range(count)]
        labels: list[NDArray[np.int32] | None] = [None] * count
        refused: dict[int, ImageError] = {}
        rows: dict[str, dict[int, NDArray[np.float32]]] = {}
        for index in range(count if self.draws else 0):
            for draws in self.draws:
                share = _Share(draws.runs, progress)
                try:
                    drawn = draws.draw(self._row(inputs, index), int(chosen[index]), share)
                except ImageError as err:
                    refused.setdefault(index, err)
                    share.close()
                    continue
                share.close()
                facts[index][draws.name] = drawn.facts
                if drawn.labels is not None:
                    labels[index] = drawn.labels
                for name, values in drawn.maps.items():
                    says[index][name] = drawn.says
                    rows.setdefault(name, {})[index] = arrays.to_host(values)
        for name, found in rows.items():
            blank = np.zeros_like(next(iter(found.values())))
            maps[name] = np.stack([found.get(i, blank) for i in range(count)])
        ordered = {name: maps[name] for name in self.methods if name in maps}
        return Explained(
            scores, chosen, ordered, contrast, gap, tuple(facts), tuple(says), tuple(labels),
            refused,
        )  # fmt: skip

    def _row(self, inputs: Any, index: int) -> Any:
        """One image of a batch, and what is fed beside it."""
        assert self.scorer is not None
        if not isinstance(inputs, Mapping):
            return inputs[index : index + 1]
        whole = self.scorer.fed.whole
        return {k: v if k in whole else v[index : index + 1] for k, v in inputs.items()}


def _place(name: str, order: Sequence[str]) -> int:
    stem = name if name in order else name.rpartition("_")[0]
    return order.index(stem) if stem in order else len(order)


class _Share:
    """Variants done, told in parts of WORK: how many there are is known about."""

    def __init__(self, runs: int, progress: Progress) -> None:
        self._runs, self._progress, self._done, self._told = max(runs, 1), progress, 0, 0

    def __call__(self, done: int) -> None:
        self._done += done
        self._tell(min(WORK - 1, WORK * self._done // self._runs))

    def close(self) -> None:
        """All done."""
        self._tell(WORK)

    def _tell(self, upto: int) -> None:
        if upto > self._told:
            self._progress(upto - self._told)
            self._told = upto
