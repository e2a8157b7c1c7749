"""`backlight.Explainer`: a model compiled once with its saliency, called on batches."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ... import arguments as take
from ...errors import ImageError, ModelError, UsageError
from ...export import choose, heads
from ...export import scores as class_scores
from ...export.emit import dim_of
from ...export.graph import ModelLike, read
from ...export.lone import with_batch
from ...export.methods import RULES, asked
from ...export.preprocess import PRESETS, Preprocess, of_metadata, preset
from ...export.preprocess import given as given_preprocess
from ...export.saliency import ExplainGraph, explain_graph
from ...export.sizes import Shapes, fix_shapes
from ..classifier import labels
from ..classifier.intake import shares_batch
from ..classifier.scores import probabilities
from ..photos import images
from ..runtime import arrays
from ..runtime.recorded import CUDA_GRAPH, Recorded, with_fixed_batch
from ..runtime.session import Providers, Session, dims_of, numpy_dtype, provider_names

__all__ = ["Explainer", "Explanation"]


@dataclass(frozen=True)
class Explanation:
    """What an Explainer says about N inputs.

    scores: [N, K], the model's own output that holds the class scores (or their softmax); one
        Sigmoid's [N, 1] is the probability of class 1. `Explainer.probabilities` reads them.
    target: int64 [N], the class that each row explains.
    saliency: per method, such as "vanilla" the gradient of the target's score, shaped like the
    input.
    """

    scores: Any
    target: Any
    saliency: Mapping[str, Any]


@dataclass(frozen=True)
class _Described:
    """What there is to know of a model with saliency outputs."""

    input: str
    channel_axis: int
    saliency: Mapping[str, str]
    scores: str
    classes: int | None
    closing: str | None
    scale: float
    layer: str | None
    whole: bool
    takes_target: bool
    baked: str
    notes: tuple[str, ...]


class Explainer:
    """Scores and saliency of image batches.

    model: a path, bytes or an onnx.ModelProto: a classifier, or a file that `backlight export`
        wrote (used as it is).
    methods: names that `backlight methods` lists. rules: any of "vanilla", "deconv", "guided", in
        front of them. Without either: what an exported file has, else all three rules.
    of, wrt: as in `backlight.export`.
    providers: None or "auto": CUDA where it works, else the CPU; or names, such as "cuda".
    threads: of the runtime's operators; None leaves it to the runtime.
    batch: rows per run; None: all of a call, or what the model fixes.
    for_: the operators chosen for a runtime; None: by the provider.
    shapes: of inputs whose shape the model leaves open, by name: {"x": (1, 3, 224, 224)}.
    cuda_graph: record the run once and replay it (CUDA, shapes fixed: give `batch` where the model
        leaves it open); the fastest way for small batches.

    Raises ModelError, UnsupportedNode or UsageError.
    """

    @take.accepts(
        rules=take.names, of=take.text, wrt=take.text, providers=take.names, threads=take.whole,
        batch=take.whole, for_=take.text, cuda_graph=take.flag,
    )  # fmt: skip
    def __init__(
        self,
        model: ModelLike,
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
        shapes: Shapes | None = None,
    ) -> None:
        if batch is not None and batch < 1:
            raise UsageError(f"batch {batch}; expected 1 or more")
        names, _ = provider_names(providers)
        if cuda_graph and "CUDAExecutionProvider" not in names:
            raise UsageError("cuda_graph needs the CUDA provider; accepted: providers='cuda'")
        names_asked = asked(rules, methods)
        source, name = read(model)
        fix_shapes(source, shapes or {})
        self.metadata: dict[str, str] = dict(source.metadata_props)
        held = choose.exported(self.metadata)
        if held is not None:
            if of is not None or wrt is not None or for_ is not None:
                raise UsageError(f"{name} is exported already; of, wrt and for_ are in the file")
            lone = with_batch(source)
            self._said = _exported(source, name, names_asked or held)
            compiled: Any = model if isinstance(model, (str, Path, bytes)) else source
            compiled = source if lone or shapes else compiled
            if cuda_graph:
                compiled = with_fixed_batch(source, batch)
        else:
            fixed = with_fixed_batch(source, batch) if cuda_graph else model
            graph = explain_graph(
                fixed,
                names_asked,
                of=of,
                wrt=wrt,
                lowering=for_ or _target_of(names),
                shapes=shapes,
            )
            lone = with_batch(graph.model)
            compiled, self._said = graph.model, _described(graph)
        self._lone = lone
        self.name = Path(name).stem if isinstance(model, (str, Path)) else name
        self.methods = tuple(self._said.saliency)
        own = CUDA_GRAPH if cuda_graph else None
        self.session = Session(compiled, providers, threads, provider_options=own)
        self.notes = [*self._said.notes, *self.session.notes]
        declared = {i.name: i for i in self.session.inputs}
        image = declared[self._said.input]
        self._dims = dims_of(image.shape)
        self._dtype = numpy_dtype(image.type)
        self._others = [n for n in declared if n not in (self._said.input, "target")]
        self._whole = {n for n in self._others if not shares_batch(image.shape, declared[n].shape)}
        self._batch = batch
        if len(self._dims) > 0 and self._dims[0] is not None:
            self._batch = self._dims[0]
        self._fixed = len(self._dims) > 0 and self._dims[0] is not None
        self._recorded: Recorded | None = None
        if cuda_graph:
            if self.session.provider != "cuda":
                raise UsageError(
                    f"cuda_graph needs CUDA; this machine runs on {self.session.provider}"
                )
            self._recorded = Recorded(self.session, self._wanted)

    @property
    def _wanted(self) -> list[str]:
        """The outputs that a call reads."""
        return [self._said.scores, *self._said.saliency.values()]

    @property
    def classes(self) -> int | None:
        """The number of classes, None when the graph leaves it open."""
        return self._said.classes

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
        found = probabilities(rows, self._said.closing, self._said.scale)
        if found is None or found.shape[1] != 1 or self.classes != 2:
            return found
        return np.concatenate([1 - found, found], axis=1)

    @property
    def input(self) -> images.InputSpec:
        """The image input. Raises ModelError where pictures can't be fed to it."""
        return images.layout_of(self._said.input, self._dims, self._dtype, self._said.channel_axis)

    @property
    def labels(self) -> list[str] | None:
        """The class names that the model's metadata gives."""
        return labels.of_model(self.metadata, self.name, self.classes)

    @property
    def preprocess(self) -> Preprocess | None:
        """How the model's metadata wants its images, or None."""
        return of_metadata(self.metadata, self.name)

    @take.accepts(paths=take.paths, preprocess=given_preprocess)
    def load(
        self, paths: Sequence[str | Path], preprocess: Preprocess | str | None = None
    ) -> NDArray[Any]:
        """Image files as one batch for this model. preprocess: a preset's name or a record;
        default: the model's own. Raises ImageError, or UsageError when neither says how."""
        if isinstance(preprocess, str):
            preprocess = preset(preprocess)
        chosen = preprocess or self.preprocess
        if chosen is None:
            raise UsageError(
                f"{self.name} doesn't say how it wants its images; "
                f"give preprocess, one of: {', '.join(PRESETS)}"
            )
        spec = self.input
        settled = images.fitted(chosen, spec)
        return np.stack([images.prepare(images.decode(p), settled, spec).tensor for p in paths])

    def __call__(self, inputs: Any, target: Any = None) -> Explanation:
        """Explain a batch. inputs: the image input's shape and dtype, [N, ...], in NumPy, CuPy or
        DLPack memory; or a mapping from input names where the model has several.
        target: None (each row's top class), one class, or N of them; -1 is the row's top class.

        Raises ImageError for a wrong shape or dtype and for NaN, UsageError for a class out of
        range.
        """
        feeds, back = self._feeds(inputs)
        count = len(feeds[self._said.input])
        wanted = self._targets(target, count)
        names = self._wanted
        on_gpu = arrays.is_cuda(feeds[self._said.input])
        bound = on_gpu and self.session.providers[0] == "CUDAExecutionProvider"
        if on_gpu and not bound:
            feeds = {k: arrays.to_host(v) for k, v in feeds.items()}
        parts = [
            self._run({k: v if k in self._whole else v[at : at + step] for k, v in feeds.items()},
                      wanted[at : at + step], names, bound)
            for step in (self._batch or max(count, 1),)
            for at in range(0, count, step)
        ]  # fmt: skip
        xp: Any = arrays.cupy() if on_gpu else np
        found = {n: xp.concatenate([xp.asarray(p[n]) for p in parts]) for n in names}
        scores = found[self._said.scores]
        known = self.classes or (scores.shape[1] if scores.ndim > 1 else 1)
        if wanted.max(initial=-1) >= known:
            raise _out_of_range(int(wanted.max()), known)
        top = self._top(xp, scores)
        chosen = xp.where(xp.asarray(wanted) < 0, top, xp.asarray(wanted)).astype(np.int64)
        maps = {name: found[held] for name, held in self._said.saliency.items()}
        given = inputs[self._said.input] if isinstance(inputs, Mapping) else inputs
        if self._lone and np.ndim(given) < len(self._dims):  # like the input
            maps = {name: m[0] if m.ndim == len(self._dims) else m for name, m in maps.items()}
        saliency = {name: back(m) for name, m in maps.items()}
        return Explanation(back(scores), back(chosen), saliency)

    def _run(
        self, feeds: dict[str, Any], target: NDArray[np.int64], names: list[str], bound: bool
    ) -> dict[str, Any]:
        """One run; a batch that the model fixes is filled up with its last row."""
        count = len(target)
        if self._said.takes_target:
            feeds["target"] = target
        if self._fixed and self._batch is not None and count < self._batch:
            fill = [*range(count), *[count - 1] * (self._batch - count)]
            feeds = {k: v if k in self._whole else v[fill] for k, v in feeds.items()}
        if self._recorded is not None:
            found = self._recorded.run(feeds)
            if not arrays.is_cuda(feeds[self._said.input]):
                found = {k: arrays.to_host(v) for k, v in found.items()}
        elif bound:
            found = arrays.run_on_cuda(self.session, feeds, names)
        else:
            found = self.session.run({k: np.ascontiguousarray(v) for k, v in feeds.items()}, names)
        found = {**found, self._said.scores: self._rows_of(found, feeds)}
        return {k: v[:count] for k, v in found.items()}

    def _rows_of(self, found: Mapping[str, Any], feeds: Mapping[str, Any]) -> Any:
        """The scores of a run, a row an image. Raises ModelError where that isn't so."""
        name, rows = self._said.scores, len(feeds[self._said.input])
        scores = self._rows(found[name])
        have = scores.shape[:1]
        if have and have[0] != rows:  # a text's characters, a detector's boxes
            raise ModelError(
                f"{self.name}: '{name}' has {have[0]} rows for {rows} images; expected [N, K], "
                "or name a tensor with --of"
            )
        return scores

    def _rows(self, scores: Any) -> Any:
        """The scores as [N, K] where the model has them as [K] or [N, 1, …, K]."""
        classes = self.classes
        if classes is None or classes < 2:
            return scores
        if scores.ndim == 1 and len(scores) == classes and self._said.whole:
            return scores.reshape(1, -1)
        if scores.ndim > 2 and scores.shape[1] == 1 and scores[0].size == classes:
            return scores.reshape(len(scores), -1)
        return scores

    def _top(self, xp: Any, scores: Any) -> Any:
        """The top class of each row, as the graph finds it: ties to the first."""
        if self.classes == 2 and (scores.ndim == 1 or scores[0].size == 1):  # one Sigmoid
            reading, flat = self._said, scores.reshape(len(scores))
            if reading.closing == "LogSoftmax":
                flat = xp.exp(flat)
            return (flat > xp.asarray(0.5 * reading.scale, flat.dtype)).astype(np.int64)
        return _top(xp, scores)

    def _feeds(self, inputs: Any) -> tuple[dict[str, Any], arrays.Back]:
        given = dict(inputs) if isinstance(inputs, Mapping) else {self._said.input: inputs}
        wanted = {self._said.input, *self._others}
        if set(given) != wanted:
            need, have = (", ".join(sorted(names)) for names in (wanted, given))
            raise ImageError(f"the model takes inputs {need}; got {have}")
        image, back = arrays.taken(given.pop(self._said.input))
        if self._lone and image.ndim == len(self._dims) - 1:
            image = image[None]  # as the file has it, without a batch
        self._check(image)
        feeds = {self._said.input: image}
        for name, value in given.items():
            other, _ = arrays.taken(value)
            if name not in self._whole and other.shape[:1] != image.shape[:1]:
                raise ImageError(f"input '{name}' has no row per image")
            feeds[name] = other
        return feeds, back

    def _check(self, x: Any) -> None:
        shown = "[" + ",".join("N" if d is None else str(d) for d in self._dims) + "]"
        dims = (None, *self._dims[1:])  # the batch is split and filled up as needed
        shown = shown.replace(str(self._dims[0]), "N", 1) if self._fixed else shown
        if x.dtype != self._dtype:
            raise ImageError(f"the input is {x.dtype}; expected {self._dtype.name} {shown}")
        fits = x.ndim == len(dims) and all(
            d is None or d == have for d, have in zip(dims, x.shape, strict=True)
        )
        if not fits or 0 in x.shape:
            have = "[" + ",".join(map(str, x.shape)) + "]"
            raise ImageError(f"the input is shaped {have}; expected {self._dtype.name} {shown}")
        if self._dtype.kind == "f" and not math.isfinite(float(x.sum(dtype=np.float64))):
            xp: Any = arrays.cupy() if arrays.is_cuda(x) else np
            finite = xp.isfinite(x).reshape(len(x), -1).all(axis=1)
            if not finite.all():
                raise ImageError(f"image {int(xp.argmin(finite))} has NaN or infinite values")

    def _targets(self, target: Any, count: int) -> NDArray[np.int64]:
        if target is not None and not self._said.takes_target:
            raise UsageError(
                f"this file explains class {self._said.baked} only; "
                "export it with --target-class input to choose at run time"
            )
        if not self._said.takes_target:
            # "top1" or the number that was baked in
            number = int(self._said.baked) if self._said.baked.isdecimal() else -1
            return np.full(count, number, np.int64)
        values = np.asarray(-1 if target is None else arrays.to_host(arrays.taken(target)[0]))
        if values.dtype.kind not in "iu" or values.shape not in ((), (count,)):
            raise UsageError(
                f"target is {values.dtype} {list(values.shape)}; "
                f"expected a class number or {count} of them"
            )
        wanted = np.broadcast_to(values, (count,)).astype(np.int64)
        if wanted.min(initial=0) < -1:
            raise _out_of_range(int(wanted.min()), self._said.classes)
        if self._said.classes is not None and wanted.max(initial=-1) >= self._said.classes:
            raise _out_of_range(int(wanted.max()), self._said.classes)
        return wanted


def _out_of_range(target: int, classes: int | None) -> UsageError:
    last = "" if classes is None else f" to {classes - 1}"
    return UsageError(f"class {target} is out of range; expected 0{last}, or -1 for the top class")


def _top(xp: Any, scores: Any) -> Any:
    """The top class of each row, as the graph finds it: ties to the first."""
    if scores.ndim == 1:
        return xp.zeros(len(scores), np.int64)
    flat = scores.reshape(*scores.shape[:2], -1).sum(axis=2) if scores.ndim > 2 else scores
    return flat.argmax(axis=1)


def _target_of(names: Sequence[str]) -> str:
    """The lowering that suits the provider which goes first."""
    if names[0] == "TensorrtExecutionProvider":
        return "tensorrt"
    return "cpu" if "CUDAExecutionProvider" not in _there(names) else "cuda"


def _there(names: Sequence[str]) -> list[str]:
    from ..runtime.session import runtime

    available = runtime().get_available_providers()
    return [n for n in names if n in available]


def _described(graph: ExplainGraph) -> _Described:
    """A fresh export; its class scores become an output where no output holds them."""
    score, layer = graph.score_output, None
    if score is None:
        layer = graph.of
        of = ir.convenience.create_value_mapping(graph.model.graph)[graph.of]
        graph.model.graph.outputs.append(of)
        score = graph.of
    return _Described(
        input=graph.input,
        channel_axis=_channel_axis(graph.model.graph, graph.input),
        saliency=graph.saliency,
        scores=score,
        classes=graph.classes,
        **_read(graph.model.graph, score, layer),
        takes_target=True,
        baked="",
        notes=graph.notes,
    )


def _exported(model: ir.Model, name: str, methods: Sequence[str]) -> _Described:
    """A file that `backlight export` wrote, by its metadata."""
    meta = model.metadata_props
    outputs = {v.name: v for v in model.graph.outputs}
    saliency = {wanted: f"saliency_{wanted}" for wanted in methods}
    absent = [wanted for wanted, output in saliency.items() if output not in outputs]
    if absent:
        there = ", ".join(choose.exported(meta) or ())
        kind = "rule" if absent[0] in RULES else "method"
        raise UsageError(f"{name} has no {kind} '{absent[0]}'; it was exported with {there}")
    if meta.get("backlight.cotangent") == "input":
        raise UsageError(f"{name} takes its cotangent as an input; run it with onnxruntime")
    score = meta.get("backlight.score_output", "")
    if score not in outputs:
        raise ModelError(f"{name}: no output holds the class scores; export it without --of")
    held = outputs[score]
    said = meta.get("backlight.classes", "")
    classes = int(said) if said.isascii() and said.isdecimal() and len(said) < 10 else None
    if classes is None and held.shape is not None and len(held.shape) > 1:
        dim = dim_of(held.shape, 1)
        classes = dim if isinstance(dim, int) else None
    takes = any(v.name == "target" for v in model.graph.inputs)
    return _Described(
        input=meta.get("backlight.input", ""),
        channel_axis=_channel_axis(model.graph, meta.get("backlight.input", "")),
        saliency=saliency,
        scores=score,
        classes=classes,
        **_read(model.graph, score, None),
        takes_target=takes,
        baked=meta.get("backlight.target_class", "top1"),
        notes=(),
    )


def _read(graph: ir.Graph, score: str, layer: str | None) -> dict[str, Any]:
    """How the output `score` gives probabilities, for _Described."""
    output = next(v for v in graph.outputs if v.name == score)
    reading = heads.read(output)
    return {
        "closing": None if reading is None else class_scores.closing_of(reading),
        "scale": 1.0 if reading is None else reading.scale,
        "layer": layer,
        "whole": class_scores.no_batch(graph, output),
    }


def _channel_axis(graph: ir.Graph, name: str) -> int:
    for value in graph.inputs:
        if value.name == name:
            return choose.channel_axis(value)
    raise ModelError(f"the model has no input '{name}'; was its metadata changed?")
