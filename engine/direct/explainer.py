"""`backlight.Explainer`: a model compiled once with its saliency, called on batches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ... import arguments as take
from ...errors import ModelError, UsageError
from ...export.field import noise_for
from ...export.graph import ModelLike, read
from ...export.methods import RULES, asked, chosen
from ...export.preprocess import Preprocess, looked_up
from ...export.preprocess import given as given_preprocess
from ...export.sampling import Sampling, sampled
from ...export.sizes import Shapes
from ...export.variations import GAP, RISE
from ..classifier.extras import InputsLike
from ..classifier.intake import check_rows
from ..classifier.ready import Ready
from ..runtime import arrays
from ..runtime.recorded import CUDA_GRAPH, Recorded, with_fixed_batch
from ..runtime.session import (
    Providers,
    Session,
    default_lowering,
    provider_names,
    wrong_form,
)
from .classes import Classes
from .compiled import in_the_file, of_a_model, refuse_told
from .describing import Describing
from .variants import varied

__all__ = ["Explainer", "Explanation"]


@dataclass(frozen=True)
class Explanation:
    """What an Explainer says about N inputs.

    scores: [N, K], the model's own output that holds the class scores (or their softmax); one
        Sigmoid's [N, 1] is the probability of class 1. `Explainer.probabilities` reads them.
    target: int64 [N], the class that each row explains.
    saliency: per method, such as "vanilla" the gradient of the target's score, shaped like the
        input; class activation maps are [N, H, W]. Of several layers: "gradcam_0", "gradcam_1" ….
    contrast: int64 [N], the class that each row's target is told from; None without a contrast.
    gap: [N], by how much integrated gradients miss the score's rise; None without them.
    """

    scores: Any
    target: Any
    saliency: Mapping[str, Any]
    contrast: Any = None
    gap: Any = None


class Explainer(Describing):
    """Scores and saliency of image batches.

    model: a path, bytes or an onnx.ModelProto: a classifier, or a file that `backlight export`
        wrote (used as it is).
    methods: names that `backlight methods` lists. rules: any of "vanilla", "deconv", "guided", in
        front of them. Without either: what an exported file has, else all three rules.
    of, wrt: as in `backlight.export`.
    providers: None or "auto": CUDA where it works, else the CPU, or what `backlight bench --store`
        kept beside the model; or names, such as "cuda" or "openvino" (docs/runtimes.md).
    threads: that compute, in all; None: the runtime's choice, one per core.
    batch: rows per run; None: all of a call, or what the model fixes.
    for_: the operators chosen for a runtime; None: by the provider.
    shapes: of inputs whose shape the model leaves open, by name: {"x": (1, 3, 224, 224)}.
    inputs: what is fed beside every image, by name: an array (a row, where the input has one per
        image), an .npy file, or a number for all of it; calls take images alone then.
    cuda_graph: record the run once and replay it (CUDA, shapes fixed: give `batch` where the model
        leaves it open); the fastest way for small batches.
    layer, fuse, size, signed, contrast, contrast_form, samples, noise, steps, baseline: as in
        `backlight.export`; any number of samples or steps, in parts that fit.
    preprocess: a preset's name or a record, by which a baseline may be a colour; default: the
        model's own.

    Raises ModelError, UnsupportedNode or UsageError.
    """

    @take.accepts(
        rules=take.names, of=take.text, wrt=take.text, providers=take.names, threads=take.whole,
        batch=take.whole, for_=take.text, cuda_graph=take.flag, methods=take.names,
        layer=take.names, fuse=take.flag, size=take.text, signed=take.flag,
        contrast_form=take.text, preprocess=given_preprocess,
    )  # fmt: skip
    def __init__(
        self,
        model: ModelLike | Ready,
        rules: Sequence[str] | None = None,
        *,
        methods: Sequence[str] | None = None,
        of: str | None = None,
        wrt: str | None = None,
        providers: Providers = None,
        threads: int | None = None,
        batch: int | None = None,
        for_: str | None = None,
        cuda_graph: bool = False,
        layer: str | Sequence[str] | None = None,
        fuse: bool = False,
        size: str = "input",
        signed: bool = False,
        contrast: str | int | None = None,
        contrast_form: str = "loss",
        samples: int | None = None,
        noise: float | None = None,
        steps: int | None = None,
        baseline: str | float | None = None,
        preprocess: Preprocess | str | None = None,
        shapes: Shapes | None = None,
        inputs: InputsLike | None = None,
    ) -> None:
        if batch is not None and batch < 1:
            raise UsageError(f"batch {batch}; expected 1 or more")
        names, _ = provider_names(providers)
        if cuda_graph and "CUDAExecutionProvider" not in names:
            raise UsageError("cuda_graph needs the CUDA provider; accepted: providers='cuda'")
        names_asked = asked(rules, methods)
        rows = chosen(names_asked)  # what no graph holds is refused, also where a file lacks it
        ready = Ready.of(model, shapes, inputs)
        held, name = ready.exported, ready.source
        form = for_ if held is None else ready.metadata.get("backlight.for")
        placed: list[str] = []
        if not cuda_graph:
            providers, placed = ready.placed(providers, form)
        wrong_form(providers, form)
        # Loaded with what is asked for by name in it: weights, and what is made of them, fold.
        named = any(v is not None for v in (held, of, wrt, layer))
        source: ir.Model = ready.read if named or cuda_graph else ready.loaded
        if cuda_graph:
            source = with_fixed_batch(read(source)[0], batch)
        sampling = sampled(rows, samples=samples, noise=noise, steps=steps, baseline=baseline)
        drawn: dict[str, Any] = {
            "layer": layer, "fuse": fuse, "size": size, "signed": signed,
            "contrast": contrast, "contrast_form": contrast_form,
        }  # fmt: skip
        if held is not None:
            refuse_told(name, source, sampling, drawn, of=of, wrt=wrt, for_=for_)
            graph = in_the_file(ready, source, names_asked or held, recorded=cuda_graph)
        else:
            told: dict[str, Any] = {
                "of": of, "wrt": wrt, "preprocess": looked_up(preprocess),
                "lowering": for_ or default_lowering(providers),
            }  # fmt: skip
            graph = of_a_model(
                source, names_asked or RULES, sampling, drawn, told, providers, threads
            )
        super().__init__(ready, graph.said)
        self._lone, self._variants, self._noise = graph.lone, graph.variants, graph.noise
        self._classes = Classes(self._said)
        own = CUDA_GRAPH if cuda_graph else None
        self.session = Session(graph.model, providers, threads, provider_options=own)
        self.notes = [*self._said.notes, *placed, *self.session.notes]
        self._batch = self.fed.batch or batch
        self._fixed = self.fed.batch is not None
        self._recorded: Recorded | None = None
        if cuda_graph:
            if self.session.provider != "cuda":
                raise UsageError(
                    f"cuda_graph needs CUDA; this machine runs on {self.session.provider}"
                )
            self._recorded = Recorded(self.session, self._read(self._said.saliency))

    def _read(self, maps: Mapping[str, str]) -> list[str]:
        """The outputs that a call which draws these maps reads."""
        apart = {n for n in maps if self._variants is not None and varied(n)}
        path = "integrated_gradients" in maps
        gap = [RISE if "integrated_gradients" in apart else GAP] if path else []
        ranked = [] if self._said.ranked is None else [self._said.ranked]
        here = [held for name, held in maps.items() if name not in apart]
        return list(dict.fromkeys([self._said.scores, *here, *gap, *ranked]))

    def _outputs_of(self, methods: Sequence[str]) -> dict[str, str]:
        """By method, the outputs that a call with these methods reads. Raises UsageError."""
        unknown = [m for m in methods if m not in self.methods]
        if unknown:
            raise UsageError.unknown("method", unknown[0], self.methods)
        return {m: self._said.saliency[m] for m in dict.fromkeys(methods)}

    def choose(
        self, scores: Any, target: Any = None, contrast: Any = None
    ) -> tuple[NDArray[np.int64], NDArray[np.int64] | None]:
        """The classes that a call would explain, and those that it would tell them from (None
        without a contrast), int64 [N]: by what `ranking_output` gives, without a map."""
        return self._classes.choose(scores, target, contrast)

    @take.accepts(paths=take.paths, preprocess=given_preprocess)
    def load(
        self, paths: Sequence[str | Path], preprocess: Preprocess | str | None = None
    ) -> NDArray[Any]:
        """Image files as one batch for this model. preprocess: a preset's name or a record;
        default: the model's own. Raises ImageError, or UsageError when neither says how."""
        return super().load(paths, preprocess)

    def __call__(
        self,
        inputs: Any,
        target: Any = None,
        contrast: Any = None,
        methods: Sequence[str] | None = None,
    ) -> Explanation:
        """Explain a batch. inputs: the image input's shape and dtype, [N, ...], in NumPy, CuPy or
        DLPack memory; or a mapping from input names where the model has several.
        target: None (each row's top class), one class, or N of them; -1 is the row's top class.
        contrast: None or -1 (the best class but the target), one class, or N of them: which class
        the target is told from, for methods with a contrast.
        methods: those of `self.methods` to compute; None: all of them. What only the others need
        isn't run.

        Raises ImageError for a wrong shape or dtype and for NaN, UsageError for a class out of
        range.
        """
        image, beside, back = self.fed.taken(inputs, self._lone, self._check)
        feeds = {self.fed.name: image, **beside}
        count = len(feeds[self.fed.name])
        wanted = self._classes.targets(target, count)
        against = self._classes.contrasts(contrast, count)
        if against is not None:
            feeds["contrast"] = against
        drawn = self._said.saliency if methods is None else self._outputs_of(methods)
        names = self._read(drawn)
        on_gpu = arrays.is_cuda(feeds[self.fed.name])
        bound = on_gpu and self.session.providers[0] == "CUDAExecutionProvider"
        if on_gpu and not bound:
            feeds = {k: arrays.to_host(v) for k, v in feeds.items()}
        whole = self.fed.whole
        parts = [
            self._run({k: v if k in whole else v[at : at + step] for k, v in feeds.items()},
                      wanted[at : at + step], names, bound)
            for step in (self._batch or max(count, 1),)
            for at in range(0, count, step)
        ]  # fmt: skip
        xp: Any = arrays.cupy() if on_gpu else np
        found = {n: xp.concatenate([xp.asarray(p[n]) for p in parts]) for n in names}
        scores = found[self._said.scores]
        self._classes.within(scores, wanted, against)
        ranking = scores if self._said.ranked is None else found[self._said.ranked]
        top = self._classes.top(xp, ranking)
        chosen = xp.where(xp.asarray(wanted) < 0, top, xp.asarray(wanted)).astype(np.int64)
        told = self._classes.told_from(ranking, chosen, against)
        if self._said.takes_target and self._classes.unsure(xp, ranking, wanted, chosen, against):
            rival = None if against is None else told
            return self(inputs, arrays.to_host(chosen), rival, methods)
        if self._variants is not None and any(map(varied, drawn)):
            found |= self._variants.run(
                feeds, tuple(whole), chosen, told, ranking, found.get(RISE),
                lambda on, fed, names: _ran(on, fed, names, bound), xp,
            )  # fmt: skip
        maps = {name: found[held] for name, held in drawn.items()}
        given = inputs[self.fed.name] if isinstance(inputs, Mapping) else inputs
        if self._lone and np.ndim(given) < len(self.fed.dims):  # like the input
            rank = len(self.fed.dims)
            maps = {name: m[0] if m.ndim == rank else m for name, m in maps.items()}
        saliency = {name: back(values) for name, values in maps.items()}
        return Explanation(
            back(scores), back(chosen), saliency,
            contrast=told,
            gap=back(found[GAP]) if GAP in found else None,
        )  # fmt: skip

    def _run(
        self, feeds: dict[str, Any], target: NDArray[np.int64], names: list[str], bound: bool
    ) -> dict[str, Any]:
        """One run; a batch that the model fixes is filled up with its last row."""
        count = len(target)
        if self._said.takes_target:
            feeds["target"] = target
        if self._fixed and self._batch is not None and count < self._batch:
            fill = [*range(count), *[count - 1] * (self._batch - count)]
            feeds = {k: v if k in self.fed.whole else v[fill] for k, v in feeds.items()}
        if self._noise is not None:  # a file whose image's size is open
            image = feeds[self.fed.name]
            samples = noise_for(self._noise, image.shape, image.dtype, 0, Sampling().samples)
            feeds = {**feeds, "noise": samples}
        found = self._once(feeds, names, bound)
        found = {**found, self._said.scores: self._rows_of(found, feeds)}
        return {k: v[:count] for k, v in found.items()}

    def _once(self, feeds: dict[str, Any], names: list[str], bound: bool) -> dict[str, Any]:
        if self._recorded is not None:
            found = self._recorded.run(feeds)
            if arrays.is_cuda(feeds[self.fed.name]):
                return dict(found)
            return {k: arrays.to_host(v) for k, v in found.items()}
        return _ran(self.session, feeds, names, bound)

    def _rows_of(self, found: Mapping[str, Any], feeds: Mapping[str, Any]) -> Any:
        """The scores of a run, a row an image. Raises ModelError where that isn't so."""
        name, rows = self._said.scores, len(feeds[self.fed.name])
        scores = self._classes.rows(found[name])
        have = scores.shape[:1]
        if have and have[0] != rows:  # a text's characters, a detector's boxes
            raise ModelError(
                f"{self.name}: '{name}' has {have[0]} rows for {rows} images; expected [N, K], "
                "or name a tensor with --of"
            )
        return scores

    def _check(self, x: Any) -> None:
        shown = "[" + ",".join("N" if d is None else str(d) for d in self.fed.dims) + "]"
        shown = shown.replace(str(self.fed.dims[0]), "N", 1) if self._fixed else shown
        # Whatever the batch: it is split and filled up as needed.
        expected = f"expected {self.fed.dtype.name} {shown}"
        check_rows(x, self.fed.dtype, self.fed.dims[1:], expected)


def _ran(session: Session, feeds: dict[str, Any], names: list[str], bound: bool) -> dict[str, Any]:
    """One run, on the device where the arrays are there."""
    if bound:
        return dict(arrays.run_on_cuda(session, feeds, names))
    host = {k: np.ascontiguousarray(v) for k, v in feeds.items()}
    return session.run(host, names)
