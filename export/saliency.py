"""The exported graph: the model's own outputs, then a saliency per method."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import onnx
import onnx_ir as ir

from .. import __version__, written
from ..arguments import accepts, flag, is_whole, names, refused, text
from ..errors import UsageError
from . import half, scores, seed
from .asked_of import kept_names, names_of, refuse_wrt, scores_of, tensors_wrt
from .backward import refuse_blocked
from .combinations import (
    CONTRASTED,
    against_itself,
    checked_contrast,
    checked_every,
    checked_sampling,
)
from .drawing import Drawing
from .explained import ExplainGraph, contrast_metadata
from .explaining import Explaining, Seed
from .finish import Walked
from .finite import Faults
from .graph import ModelLike, load, opset_of
from .heap import seldom_collected
from .lone import is_lone, unbatched, without_batch
from .lowering import emitter, finish, lowered
from .methods import asked, chosen
from .outputs import add_output, by_image, reserve_names
from .preprocess import Preprocess, of_metadata
from .sampling import Sampling, sampled
from .sizes import Shapes
from .unused import remove_unused
from .variants import VARIANTS
from .variations import rise


@accepts(
    rules=names, methods=names, of=names, wrt=names, cotangent=text, reduce=text, for_=text,
    dtype=text, layer=names, fuse=flag, size=text, signed=flag, contrast_form=text,
)  # fmt: skip
@seldom_collected  # what writes the message too: behind it the graph is garbage
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
    drawn = Drawing.of(rows, names_of(layer), fuse=fuse, size=size, signed=signed)
    contrast = checked_contrast(rows, contrast, contrast_form, target_class)
    every = checked_every(rows, target_class, cotangent, contrast)
    start = seed.CALLER_S if cotangent == "input" else seed_of
    maps = {rules: lowered(rules, lowering) for rules in VARIANTS}

    keep = (*kept_names(of), *names_of(wrt), *names_of(layer))
    loaded = load(model, half.opset_for(narrow_to), keep, shapes)
    graph = loaded.graph
    reserve_names(graph, rows, contrast)
    held = scores_of(loaded, of, "class" if start is None or by_class else "input")
    ofs, score_output = [s.of for s in held], held[0].output
    refuse_wrt(graph, wrt, rows)
    wrts, image, notes = tensors_wrt(
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
        if row.varies and sampling.held == "elsewhere":
            saliency[row.name] = row.output
            if row.varies == "path":
                rise(Walked(made, starts[row.name], row.rules))
            continue
        with e.scope(row.name):
            against = contrast is not None or row.seed is seed.CONTRAST
            mark = partial(faults.marked, against=against)
            if row.takes_layer:
                values = drawn.maps(made, row, starts[row.name], layers, mark)
            else:
                values = [
                    mark(by_image(made, row, starts[row.name], at, reduce), wrt)
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
                add_output(e, value, name, own_outputs)
                saliency[name.removeprefix("saliency_")] = name
    for name, value in made.outputs.items():
        add_output(e, value, name, own_outputs)
    finish(e, lowering)
    remove_unused(loaded)
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
            **contrast_metadata(made, rows, contrast),
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
