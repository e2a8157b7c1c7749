"""The exported graph: the model's own outputs, then a saliency per method."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import onnx
import onnx_ir as ir
from onnx_ir.passes import common

from .. import __version__, written
from ..arguments import accepts, flag, is_whole, names, refused, text
from ..errors import ModelError, UsageError
from . import choose, half, said, scores, seed
from .backward import refuse_blocked
from .combinations import (
    CONTRASTED,
    against_itself,
    checked_contrast,
    checked_every,
    checked_sampling,
)
from .drawing import Drawing
from .emit import HALVES, Emitter, all_dims
from .explaining import Explaining, Seed
from .finish import Walked
from .finite import Faults
from .front import behind_preprocessing
from .graph import ModelLike, load, opset_of
from .heap import seldom_collected
from .layer import Layer
from .lone import is_lone, unbatched, without_batch
from .lowering import emitter, finish, lowered
from .message import message
from .methods import Method, asked, chosen
from .preprocess import Preprocess, of_metadata
from .rules import RuleMap
from .sampling import Sampling, sampled
from .sizes import Shapes
from .store import fits_message, save_model
from .variants import VARIANTS
from .variations import GAP

# The names that methods which vary the image add to the graph.
VARIED_NAMES: Mapping[str, Sequence[str]] = {
    "": (),
    "noise": ("noise",),
    "path": ("alphas", "weights", "baseline", GAP),
}


@dataclass(frozen=True)
class ExplainGraph:
    """A model with saliency outputs, and what was chosen on the way."""

    model: ir.Model
    of: str
    wrt: str
    input: str
    methods: tuple[str, ...]
    saliency: Mapping[str, str]
    score_output: str | None
    classes: int | None
    notes: tuple[str, ...] = ()
    layers: tuple[Layer, ...] = ()
    added: tuple[str, ...] = ()
    ranking: str = ""

    def to_proto(self) -> onnx.ModelProto:
        """The model as a message, weights included. Raises ModelError above 2 GB."""
        if not fits_message(self.model):
            raise ModelError(
                "the model is larger than 2 GB, more than a ModelProto holds; "
                "write it with 'backlight export', which keeps the weights in a file beside it"
            )
        ir.external_data.load_to_model(self.model)
        return message(self.model)

    def save(self, path: str | os.PathLike[str], *, external: bool = False) -> None:
        """Write the model, whole or not at all; above 2 GB (or with external=True) the weights
        go to `<name>.data` beside it. Raises OutputError."""
        save_model(self.model, Path(path), external)

    def keeps_data_aside(self, external: bool = False) -> bool:
        """Whether `save` writes `<name>.data`: because it was asked to, or above 2 GB."""
        return external or not fits_message(self.model)


@accepts(
    rules=names, methods=names, of=names, wrt=names, cotangent=text, reduce=text, for_=text,
    dtype=text, layer=names, fuse=flag, size=text, signed=flag, contrast_form=text,
)  # fmt: skip
def export(
    model: ModelLike,
    rules: Sequence[str] | None = None,
    *,
    methods: Sequence[str] | None = None,
    of: str | Sequence[str] | None = None,
    wrt: str | Sequence[str] | None = None,
    target_class: str | int = "input",
    cotangent: str = "class",
    reduce: str = "none",
    for_: str = "portable",
    dtype: str = "float32",
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
    shapes: Shapes | None = None,
) -> onnx.ModelProto:
    """Return the model with saliency outputs: an explicit backward pass in standard operators.

    model: a path, bytes or an onnx.ModelProto; it is not changed.
    methods: names that `backlight methods` lists: the outputs `saliency_<name>`.
    rules: any of "vanilla", "deconv", "guided", in front of the methods. Without either: all three.
    of: the tensor(s) to explain; default: the class scores, before a closing Softmax or Sigmoid. An
        output that one of these makes is explained before it; "name:as-is" is the tensor itself.
    wrt: the tensor(s) to take the gradient by; default: the first image input.
    target_class: "input" adds the input `target` (int64 [batch], -1: the row's top class);
        "top1" or a number bakes the choice in. One logit behind a Sigmoid is two classes: 1 its
        score, 0 the negation. "all" gives `saliency_cam` of every class at once, [batch, K, H, W].
    cotangent: "class" seeds with a one-hot vector of the target class; "input" adds the input
        `cotangent`, shaped like `of`, instead of `target`.
    reduce: "none": signed, in the shape of `wrt` (of a model without a batch dimension too, which
        is explained as a batch of one, with `target` [1]); "maxabs": [batch, H, W], the largest
        absolute value over channels (Simonyan et al. 2014).
    for_: "portable", "cpu", "cuda" or "tensorrt": the operators chosen for a runtime.
    dtype: "float32" leaves the model's types alone; "float16" or "bfloat16" makes weights and
        activations half. Inputs and outputs keep their types.
    layer: of class activation maps: tensors or nodes with rows and columns; default: the last one
        before the head. Of several, outputs `saliency_<name>_<i>`, or with fuse one map: the
        largest over the layers of tanh(2 m / max m) (Jiang et al. 2021).
    size: of their maps: "input", [batch, H, W] as the image, or "layer", [batch, h, w].
    signed: leaves out their closing Relu.
    contrast: why this class rather than that one, for every method: "input" adds the input
        `contrast` (int64 [batch], -1: the best class but the target), "second" is that class, or a
        number. contrastcam has "input" without being told.
    contrast_form: "loss", softmax(scores) - one-hot(contrast), or "logit", one-hot(target) -
        one-hot(contrast); heads that a Sigmoid closes have no softmax, and take the second.
    samples, noise: of smoothgrad and its like: how many noisy images (16), and the noise's standard
        deviation by the image's own range (0.15).
    steps, baseline: of integrated_gradients: how many steps (16), and from where: a number in the
        model's input space (0), "black", "grey", "white", "mean" (by the preprocessing that the
        model's metadata says), or "input": adds the input `baseline`, [1, ...].
    shapes: of inputs whose shape the model leaves open, by name: {"x": (1, 3, 224, 224)}.

    Raises ModelError, UnsupportedNode or UsageError. A model above 2 GB does not fit a
    ModelProto: use `backlight export`, which writes external data.
    """
    names = asked(rules, methods)
    return explain_graph(
        model,
        names,
        of=of,
        wrt=wrt,
        target_class=target_class,
        cotangent=cotangent,
        reduce=reduce,
        lowering=for_,
        dtype=dtype,
        layer=layer,
        fuse=fuse,
        size=size,
        signed=signed,
        contrast=contrast,
        contrast_form=contrast_form,
        sampling=sampled(
            chosen(names), samples=samples, noise=noise, steps=steps, baseline=baseline
        ),
        shapes=shapes,
    ).to_proto()


@accepts(methods=names, of=names, wrt=names, cotangent=text, reduce=text, lowering=text, dtype=text)
@seldom_collected
def explain_graph(
    model: ModelLike,
    methods: Sequence[str] | None = None,
    *,
    of: str | Sequence[str] | None = None,
    wrt: str | Sequence[str] | None = None,
    target_class: str | int = "input",
    cotangent: str = "class",
    reduce: str = "none",
    lowering: str = "portable",
    dtype: str = "float32",
    layer: str | Sequence[str] | None = None,
    fuse: bool = False,
    size: str = "input",
    signed: bool = False,
    contrast: str | int | None = None,
    contrast_form: str = "loss",
    sampling: Sampling | None = None,
    preprocess: Preprocess | None = None,
    shapes: Shapes | None = None,
    seed_of: Seed | None = None,
    alone: bool = False,
    by_class: bool = False,
) -> ExplainGraph:
    """Load a model and give it saliency outputs. See `backlight.export` for the arguments.

    methods: names of rows of `methods.METHODS`; None: the three rules.
    sampling: of methods that average over variants of the image.
    preprocess: how pixels become the model's input; default: what its metadata says.
    seed_of: where the walks start from, instead of the methods' own seeds.
    alone: for ourselves: leave out the model's own outputs, and the nodes and inputs that only they
        need; an image that has no batch in the file keeps the one that it was given.
    by_class: with seed_of: of the class scores, [N, K] whatever the file's layout, as classes are
        asked for; else of the tensor as it is.
    """
    rows = chosen(methods)
    if cotangent not in ("class", "input"):
        raise UsageError.unknown("cotangent", cotangent, ("class", "input"))
    if reduce not in ("none", "maxabs"):
        raise UsageError.unknown("reduce", reduce, ("none", "maxabs"))
    narrow_to = half.checked(dtype, lowering)
    target_class = _class_of(target_class)
    sampling = checked_sampling(rows, sampling, cotangent)
    drawn = Drawing.of(rows, _names(layer), fuse=fuse, size=size, signed=signed)
    contrast = checked_contrast(rows, contrast, contrast_form, target_class)
    every = checked_every(rows, target_class, cotangent, contrast)
    start = seed.CALLER_S if cotangent == "input" else seed_of
    maps = {rules: lowered(rules, lowering) for rules in VARIANTS}

    keep = (*_kept(of), *_names(wrt), *_names(layer))
    loaded = load(model, half.opset_for(narrow_to), keep, shapes)
    graph = loaded.graph
    _reserve_names(graph, rows, contrast)
    held = _scores_of(loaded, of, "class" if start is None or by_class else "input")
    ofs, score_output = [s.of for s in held], held[0].output
    refuse_wrt(graph, wrt, rows)
    wrts, image, notes = _tensors_wrt(
        graph, wrt, [maps[row.rules] for row in rows], opset_of(loaded)
    )
    if start is None:
        for tensor in ofs:
            seed.check_class(tensor, target_class)
            if isinstance(contrast, int):
                seed.check_class(tensor, contrast, "contrast")
    own_outputs = {id(v) for v in graph.outputs}

    e = emitter(graph, opset_of(loaded), lowering)
    made = Explaining(
        e=e,
        of=tuple(ofs),
        ranking=tuple(s.ranking for s in held),
        independent=held[0].reading is not None and held[0].reading.each,
        wrt=tuple(wrts),
        image=image,
        target_class=target_class,
        rule_map=maps.__getitem__,
        scaled=narrow_to == ir.DataType.FLOAT16,
        narrowed=narrow_to is not None,
        contrast="input" if contrast is None else contrast,
        contrast_form=contrast_form,
        contrasting=contrast is not None or any(row.seed is seed.CONTRAST for row in rows),
        sampling=sampling,
        preprocess=preprocess or of_metadata(loaded.metadata_props, "the model"),
    )
    notes = (*notes, *against_itself(contrast, target_class, made.independent))
    layers = drawn.layers(made, rows)
    if any(v.shape is None or v.dtype is None for v in ofs):
        ends = wrts if rows[0].by != "layer" else [x.value for x in layers]
        refuse_blocked(ofs, ends, e, maps[rows[0].rules])
    starts = {
        row.name: start or (row.seed if contrast is None else CONTRASTED[row.seed]) for row in rows
    }
    for row in () if every else rows:
        for index in range(len(ofs)):
            made.cotangent(starts[row.name], index)
    faults = Faults.of(made) if start is None else Faults(e, None, None)
    saliency: dict[str, str] = {}
    if alone:
        graph.outputs.clear()
    for row in rows:
        with e.scope(row.name):
            against = contrast is not None or row.seed is seed.CONTRAST
            mark = partial(faults.marked, against=against)
            if row.takes_layer:
                values = drawn.maps(made, row, starts[row.name], layers, mark)
            else:
                values = [
                    mark(_by_image(made, row, starts[row.name], at, reduce), wrt)
                    for at, wrt in enumerate(wrts)
                ]
            if row.shaped_as_image(reduce) and not alone:
                by = wrts[:1] * len(values) if row.takes_layer else wrts
                values = [
                    unbatched(graph, v) if is_lone(wrt) else v
                    for v, wrt in zip(values, by, strict=True)
                ]
            for index, value in enumerate(values):
                name = row.output + (f"_{index}" if len(values) > 1 else "")
                _add_output(e, value, name, own_outputs)
                saliency[name.removeprefix("saliency_")] = name
    for name, value in made.outputs.items():
        _add_output(e, value, name, own_outputs)
    finish(e, lowering)
    common.RemoveUnusedNodesPass()(loaded)
    if alone:
        kept = {image.name if image is not None else "", *made.inputs}
        graph.inputs[:] = [v for v in graph.inputs if v.uses() or v.name in kept]
    # Narrowed, an output's tensor gets another name; and what we made has none in the model.
    of_names = [(s.raw if s.of.name == scores.MADE else s.of).name or "" for s in held]
    classes = seed.class_count(ofs[0])
    score_name = None if score_output is None else score_output.name
    input_name, wrt_names = (image or wrts[0]).name or "", [v.name or "" for v in wrts]
    if narrow_to is not None:
        half.narrow(loaded, narrow_to)
    if not alone:
        without_batch(graph)
    loaded.metadata_props.update(
        {
            "backlight.version": __version__,
            "backlight.methods": ",".join(row.name for row in rows),
            # What readers of version 0.1.0 look for.
            "backlight.rules": ",".join(row.name for row in rows if row.is_rule),
            "backlight.of": ",".join(of_names),
            "backlight.wrt": ",".join(wrt_names),
            "backlight.input": input_name,
            "backlight.target_class": "input" if cotangent == "input" else str(target_class),
            "backlight.cotangent": cotangent,
            "backlight.reduce": reduce,
            "backlight.for": lowering,
            "backlight.dtype": dtype,
            "backlight.score_output": score_name or "",
            "backlight.classes": "" if classes is None else str(classes),
            "backlight.ranked": held[0].ranking.name or "",
            "backlight.inputs": ",".join(made.inputs),
            **drawn.metadata(layers),
            **_contrast_metadata(made, rows, contrast),
        }
    )
    return ExplainGraph(
        model=loaded,
        of=of_names[0],
        wrt=wrt_names[0],
        input=input_name,
        methods=tuple(row.name for row in rows),
        saliency=saliency,
        score_output=score_name,
        classes=classes,
        notes=(*notes, *(note for s in held for note in s.notes)),
        layers=tuple(layers),
        added=tuple(made.inputs),
        ranking=held[0].ranking.name or "",
    )


def _class_of(given: object) -> str | int:
    """`target_class` as "input", "top1" or a number; a number may be NumPy's, or written out."""
    if isinstance(given, str):
        number = written.whole(given)
        return given if number is None or abs(number) >= 1 << 60 else number
    if not is_whole(given):
        raise refused("target_class", given, '"input", "top1" or the number of a class')
    return int(given)  # type: ignore[call-overload,no-any-return]


def _by_image(x: Explaining, row: Method, start: Seed, at: int, reduce: str) -> ir.Value:
    """A method's map by the image, or by one of the tensors that --wrt names."""
    walked = Walked(x, start, row.rules, at)
    if row.varies:
        return _reduced(x.e, row.finish(walked), x.wrt[at], reduce, x.narrowed)
    # Before the finish: no scale of its own may be between the two.
    x.walk(row.rules, start, x.wrt)
    # At its true size a map may be below float16's range.
    with x.e.in_float32():
        return _reduced(x.e, row.finish(walked), x.wrt[at], reduce, x.narrowed)


def _contrast_metadata(
    x: Explaining, rows: Sequence[Method], contrast: str | int | None
) -> dict[str, str]:
    """What says so in the file, where a method has a contrast."""
    if contrast is None and all(row.seed is not seed.CONTRAST for row in rows):
        return {}
    form = "logit" if x.independent else x.contrast_form
    told = [row.name for row in rows if contrast is not None or row.seed is seed.CONTRAST]
    return {
        "backlight.contrast": str(x.contrast),
        "backlight.contrast_form": form,
        "backlight.contrasted": ",".join(told),
    }


def _reserve_names(graph: ir.Graph, rows: Sequence[Method], contrast: str | int | None) -> None:
    """Free the contract's names inside the model; refuse a model whose own ends have them."""
    values = ir.convenience.create_value_mapping(graph)
    reserved = ["target", "cotangent", *(row.output for row in rows)]
    if contrast is not None or any(row.seed is seed.CONTRAST for row in rows):
        reserved.append("contrast")
    for row in rows:
        reserved += VARIED_NAMES[row.varies]
    # With several tensors the names are numbered: cotangent_0, saliency_guided_1.
    ours = {n for n in values if re.fullmatch(rf"({'|'.join(reserved)})(_[0-9]+)?", n)}
    ends = {v.name for v in (*graph.inputs, *graph.outputs)}
    clash = sorted(ours & {name for name in ends if name})
    if clash:
        raise ModelError(
            f"the model has an input or output '{clash[0]}' of its own (is it an exported one?); "
            f"expected a model without {', '.join(dict.fromkeys(reserved))}"
        )
    for name in sorted(ours):
        values[name].name = f"{name}/own"


def _names(given: str | Sequence[str] | None) -> list[str]:
    return [] if given is None else [given] if isinstance(given, str) else list(given)


def _kept(of: str | Sequence[str] | None) -> list[str]:
    """The tensors that names may mean."""
    names = _names(of)
    return [*names, *(n.removesuffix(said.AS_IS) for n in names)]


def _scores_of(
    model: ir.Model, of: str | Sequence[str] | None, cotangent: str
) -> list[scores.Score]:
    """What is explained. A given cotangent is that of a tensor as it is."""
    names = _names(of)
    if cotangent == "class":
        return [scores.score(model, name) for name in names] or [scores.score(model)]
    if not names:
        found = scores.score(model)
        return [replace(found, of=scores.before_quantizing(found.raw), notes=())]
    values = ir.convenience.create_value_mapping(model.graph)
    plain = [scores.plain_name(values, name) for name in names]
    found_as_is = [scores.score(model, name + said.AS_IS) for name in plain]
    return [replace(s, of=s.held) for s in found_as_is]


def refuse_wrt(graph: ir.Graph, wrt: str | Sequence[str] | None, rows: Sequence[Method]) -> None:
    """Raise UsageError for a tensor to take the gradient by where no method is by it: of several
    images of a model, any method's may be named."""
    inputs = {v.name for v in graph.inputs}
    named = [name for name in _names(wrt) if name not in inputs]
    if named and all(row.by == "layer" for row in rows):
        raise UsageError(
            f"--wrt {named[0]}: {rows[0].name} is of a layer, and takes its gradient by that; "
            "accepted: --layer, or an input of the model"
        )


def _tensors_wrt(
    graph: ir.Graph,
    wrt: str | Sequence[str] | None,
    rules: Sequence[RuleMap],
    opset: int,
) -> tuple[list[ir.Value], ir.Value | None, tuple[str, ...]]:
    named = [choose.tensor(graph, name) for name in _names(wrt)]
    try:
        image = choose.image_input(graph)
    except ModelError:
        if not named:
            raise
        return named, None, ()
    if not named:
        image = behind_preprocessing(graph, image, rules, opset)
        return [image.wrt], image.input, image.notes
    return named, image.input, ()


def _reduced(e: Emitter, ct: ir.Value, wrt: ir.Value, reduce: str, narrowed: bool) -> ir.Value:
    """The map of a cotangent, in the dtype of `wrt`: in float32 where that is half and nobody
    asked for halves. A gradient is often below what float16 can tell from 0."""
    dtype = wrt.dtype
    if not narrowed and dtype in HALVES:
        dtype = ir.DataType.FLOAT
    if reduce == "none":
        ct.shape = wrt.shape
        return ct if dtype is None else e.cast(ct, dtype)
    axis = choose.channel_axis(wrt)
    shape = wrt.shape
    if shape is None or len(shape) < 3:
        raise UsageError(f"reduce 'maxabs' needs an image-like tensor; '{wrt.name}' is not")
    left = [d for i, d in enumerate(all_dims(shape)) if i != axis]
    reduced = e.ReduceMax(e.Abs(ct), [axis], keepdims=0, _shape=left)
    return reduced if dtype is None else e.cast(reduced, dtype)


def _add_output(e: Emitter, value: ir.Value, name: str, own: set[int]) -> None:
    """Make a value a graph output under its name; another node where it is one already."""
    taken = value.producer() is None or value.is_graph_output() or id(value) in own
    output = e.op("Identity", [value], _shape=value.shape)[0] if taken else value
    while output.is_graph_output():  # rules that agree: the memo gives the same Identity
        output = e.op("Identity", [output], _shape=value.shape)[0]
    output.name = name
    e.graph.outputs.append(output)
