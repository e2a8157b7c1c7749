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

from .. import arguments as take
from ..errors import ImageError, ModelError, UsageError
from ..export import choose
from ..export.emit import dim_of
from ..export.graph import ModelLike, read
from ..export.preprocess import PRESETS, Preprocess, of_metadata
from ..export.preprocess import given as given_preprocess
from ..export.saliency import RULES, ExplainGraph, explain_graph
from . import arrays, images, labels
from .recorded import CUDA_GRAPH, Recorded, with_fixed_batch
from .session import Providers, Session, dims_of, numpy_dtype, provider_names

__all__ = ["Explainer", "Explanation"]


@dataclass(frozen=True)
class Explanation:
    """What an Explainer says about N inputs.

    scores: [N, K], the model's own output that holds the class scores (or their softmax).
    target: int64 [N], the class that each row explains.
    saliency: per rule, the gradient of the target's score, shaped like the input.
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
    takes_target: bool
    baked: str
    notes: tuple[str, ...]


class Explainer:
    """Scores and saliency of image batches.

    model: a path, bytes or an onnx.ModelProto: a classifier, or a file that `backlight export`
        wrote (used as it is).
    rules: any of "vanilla", "deconv", "guided".
    of, wrt: as in `backlight.export`.
    providers: None or "auto": CUDA where it works, else the CPU; or names, such as "cuda".
    threads: of the runtime's operators; None leaves it to the runtime.
    batch: rows per run; None: all of a call, or what the model fixes.
    for_: the operators chosen for a runtime; None: by the provider.
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
        rules: Sequence[str] = RULES,
        *,
        of: str | None = None,
        wrt: str | None = None,
        providers: Providers = None,
        threads: int | None = None,
        batch: int | None = None,
        for_: str | None = None,
        cuda_graph: bool = False,
    ) -> None:
        if batch is not None and batch < 1:
            raise UsageError(f"batch {batch}; expected 1 or more")
        names, _ = provider_names(providers)
        if cuda_graph and "CUDAExecutionProvider" not in names:
            raise UsageError("cuda_graph needs the CUDA provider; accepted: providers='cuda'")
        rules = (rules,) if isinstance(rules, str) else tuple(dict.fromkeys(rules))
        source, name = read(model)
        self.metadata: dict[str, str] = dict(source.metadata_props)
        if "backlight.rules" in self.metadata:
            if of is not None or wrt is not None or for_ is not None:
                raise UsageError(f"{name} is exported already; of, wrt and for_ are in the file")
            self._said = _exported(source, name, rules)
            compiled: Any = model if isinstance(model, (str, Path, bytes)) else source
            if cuda_graph:
                compiled = with_fixed_batch(source, batch)
        else:
            fixed = with_fixed_batch(source, batch) if cuda_graph else model
            graph = explain_graph(fixed, rules, of=of, wrt=wrt, lowering=for_ or _target_of(names))
            compiled, self._said = graph.model, _described(graph)
        self.name = Path(name).stem if isinstance(model, (str, Path)) else name
        self.rules = rules
        own = CUDA_GRAPH if cuda_graph else None
        self.session = Session(compiled, providers, threads, provider_options=own)
        self.notes = [*self._said.notes, *self.session.notes]
        declared = {i.name: i for i in self.session.inputs}
        image = declared[self._said.input]
        self._dims = dims_of(image.shape)
        self._dtype = numpy_dtype(image.type)
        self._others = [n for n in declared if n not in (self._said.input, "target")]
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
        return [self._said.scores, *(self._said.saliency[r] for r in self.rules)]

    @property
    def classes(self) -> int | None:
        """The number of classes, None when the graph leaves it open."""
        return self._said.classes

    @property
    def closing(self) -> str | None:
        """What closes the head that `scores` come from: Softmax, LogSoftmax, Sigmoid or None."""
        return self._said.closing

    @property
    def input(self) -> images.InputSpec:
        """The image input. Raises ModelError where pictures can't be fed to it."""
        return images.layout_of(self._said.input, self._dims, self._dtype, self._said.channel_axis)

    @property
    def labels(self) -> list[str] | None:
        """The class names that the model's metadata gives."""
        return labels.from_metadata(self.metadata.get(labels.KEY), self.name)

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
            preprocess = PRESETS.get(preprocess)
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
            self._run({k: v[at : at + step] for k, v in feeds.items()}, wanted[at : at + step],
                      names, bound)
            for step in (self._batch or max(count, 1),)
            for at in range(0, count, step)
        ]  # fmt: skip
        xp: Any = arrays.cupy() if on_gpu else np
        found = {n: xp.concatenate([xp.asarray(p[n]) for p in parts]) for n in names}
        scores = found[self._said.scores]
        if scores.ndim > 1 and wanted.max(initial=-1) >= scores.shape[1]:
            raise _out_of_range(int(wanted.max()), scores.shape[1])
        top = _top(xp, scores)
        chosen = xp.where(xp.asarray(wanted) < 0, top, xp.asarray(wanted)).astype(np.int64)
        saliency = {rule: back(found[self._said.saliency[rule]]) for rule in self.rules}
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
            feeds = {k: v[fill] for k, v in feeds.items()}
        if self._recorded is not None:
            found = self._recorded.run(feeds)
            if not arrays.is_cuda(feeds[self._said.input]):
                found = {k: arrays.to_host(v) for k, v in found.items()}
        elif bound:
            found = arrays.run_on_cuda(self.session, feeds, names)
        else:
            found = self.session.run({k: np.ascontiguousarray(v) for k, v in feeds.items()}, names)
        return {k: v[:count] for k, v in found.items()}

    def _feeds(self, inputs: Any) -> tuple[dict[str, Any], arrays.Back]:
        given = dict(inputs) if isinstance(inputs, Mapping) else {self._said.input: inputs}
        wanted = {self._said.input, *self._others}
        if set(given) != wanted:
            need, have = (", ".join(sorted(names)) for names in (wanted, given))
            raise ImageError(f"the model takes inputs {need}; got {have}")
        image, back = arrays.taken(given.pop(self._said.input))
        self._check(image)
        feeds = {self._said.input: image}
        for name, value in given.items():
            other, _ = arrays.taken(value)
            if other.shape[:1] != image.shape[:1]:
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
    from .session import runtime

    available = runtime().get_available_providers()
    return [n for n in names if n in available]


def _described(graph: ExplainGraph) -> _Described:
    """A fresh export; its class scores become an output where no output holds them."""
    score = graph.score_output
    if score is None:
        of = ir.convenience.create_value_mapping(graph.model.graph)[graph.of]
        graph.model.graph.outputs.append(of)
        score = graph.of
    return _Described(
        input=graph.input,
        channel_axis=_channel_axis(graph.model.graph, graph.input),
        saliency=graph.saliency,
        scores=score,
        classes=graph.classes,
        closing=_closing(graph.model.graph, score),
        takes_target=True,
        baked="",
        notes=graph.notes,
    )


def _exported(model: ir.Model, name: str, rules: Sequence[str]) -> _Described:
    """A file that `backlight export` wrote, by its metadata."""
    meta = model.metadata_props
    outputs = {v.name: v for v in model.graph.outputs}
    saliency = {rule: f"saliency_{rule}" for rule in rules}
    absent = [rule for rule, output in saliency.items() if output not in outputs]
    if absent:
        raise UsageError(
            f"{name} has no rule '{absent[0]}'; it was exported with {meta['backlight.rules']}"
        )
    if meta.get("backlight.cotangent") == "input":
        raise UsageError(f"{name} takes its cotangent as an input; run it with onnxruntime")
    score = meta.get("backlight.score_output", "")
    if score not in outputs:
        raise ModelError(f"{name}: no output holds the class scores; export it without --of")
    held = outputs[score]
    classes = None
    if held.shape is not None and len(held.shape) > 1:
        dim = dim_of(held.shape, 1)
        classes = dim if isinstance(dim, int) else None
    takes = any(v.name == "target" for v in model.graph.inputs)
    return _Described(
        input=meta.get("backlight.input", ""),
        channel_axis=_channel_axis(model.graph, meta.get("backlight.input", "")),
        saliency=saliency,
        scores=score,
        classes=classes,
        closing=_closing(model.graph, score),
        takes_target=takes,
        baked=meta.get("backlight.target_class", "top1"),
        notes=(),
    )


def _closing(graph: ir.Graph, score: str) -> str | None:
    """The operator that closes the head at the output `score`."""
    output = next(v for v in graph.outputs if v.name == score)
    node = choose.closing(output)
    return None if node is None else node.op_type


def _channel_axis(graph: ir.Graph, name: str) -> int:
    for value in graph.inputs:
        if value.name == name:
            return choose.channel_axis(value)
    raise ModelError(f"the model has no input '{name}'; was its metadata changed?")
