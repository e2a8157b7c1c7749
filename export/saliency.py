"""The exported graph: the model's own outputs, then a saliency per method."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx
import onnx_ir as ir
from onnx_ir.passes import common

from .. import __version__
from ..errors import ModelError, UsageError
from . import choose, half, seed
from .backward import refuse_blocked
from .emit import Emitter, dim_of
from .explaining import Explaining, Seed
from .finish import Walked
from .graph import ModelLike, load, opset_of
from .lowering import emitter, finish, lowered
from .methods import Method, asked, chosen
from .store import save_model

# Protobuf ends at 2 GiB; the rest is for the graph beside its weights.
PROTO_LIMIT = 2**31 - 2**26


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

    def to_proto(self) -> onnx.ModelProto:
        """The model as a message, weights included. Raises ModelError above 2 GB."""
        if weight_bytes(self.model) > PROTO_LIMIT:
            raise ModelError(
                "the model is larger than 2 GB, more than a ModelProto holds; "
                "write it with 'backlight export', which keeps the weights in a file beside it"
            )
        ir.external_data.load_to_model(self.model)
        return ir.to_proto(self.model)

    def save(self, path: str | os.PathLike[str], *, external: bool = False) -> None:
        """Write the model, whole or not at all; above 2 GB (or with external=True) the weights
        go to `<name>.data` beside it. Raises OutputError."""
        save_model(self.model, Path(path), self.keeps_data_aside(external))

    def keeps_data_aside(self, external: bool = False) -> bool:
        """Whether `save` writes `<name>.data`: because it was asked to, or above 2 GB."""
        return external or weight_bytes(self.model) > PROTO_LIMIT


def weight_bytes(model: ir.Model) -> int:
    """Bytes of all initializers."""
    values = model.graph.initializers.values()
    return sum(v.const_value.nbytes for v in values if v.const_value is not None)


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
) -> onnx.ModelProto:
    """Return the model with saliency outputs: an explicit backward pass in standard operators.

    model: a path, bytes or an onnx.ModelProto; it is not changed.
    methods: names that `backlight methods` lists: the outputs `saliency_<name>`.
    rules: any of "vanilla", "deconv", "guided", in front of the methods. Without either: all three.
    of: the tensor(s) to explain; default: the class scores, before a closing Softmax.
    wrt: the tensor(s) to take the gradient by; default: the first image input.
    target_class: "input" adds the input `target` (int64 [batch], -1: the row's top class);
        "top1" or a number bakes the choice in.
    cotangent: "class" seeds with a one-hot vector of the target class; "input" adds the input
        `cotangent`, shaped like `of`, instead of `target`.
    reduce: "none": signed, in the shape of `wrt`; "maxabs": [batch, H, W], the largest
        absolute value over channels (Simonyan et al. 2014).
    for_: "portable", "cpu", "cuda" or "tensorrt": the operators chosen for a runtime.
    dtype: "float32" leaves the model's types alone; "float16" or "bfloat16" makes weights and
        activations half. Inputs and outputs keep their types.

    Raises ModelError, UnsupportedNode or UsageError. A model above 2 GB does not fit a
    ModelProto: use `backlight export`, which writes external data.
    """
    return explain_graph(
        model,
        asked(rules, methods),
        of=of,
        wrt=wrt,
        target_class=target_class,
        cotangent=cotangent,
        reduce=reduce,
        lowering=for_,
        dtype=dtype,
    ).to_proto()


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
    seed_of: Seed | None = None,
    alone: bool = False,
) -> ExplainGraph:
    """Load a model and give it saliency outputs. See `backlight.export` for the arguments.

    methods: names of rows of `methods.METHODS`; None: the three rules.
    seed_of: where the walks start from, instead of the methods' own seeds.
    alone: leave out the model's own outputs, and the nodes and inputs that only they need.
    """
    rows = chosen(methods)
    if cotangent not in ("class", "input"):
        raise UsageError(f"cotangent '{cotangent}'; accepted: class, input")
    if reduce not in ("none", "maxabs"):
        raise UsageError(f"reduce '{reduce}'; accepted: none, maxabs")
    narrow_to = half.checked(dtype, lowering)
    if isinstance(target_class, str) and re.fullmatch(r"-?[0-9]{1,18}", target_class):
        target_class = int(target_class)
    start = seed.CALLER_S if cotangent == "input" else seed_of
    maps = {row.rules: lowered(row.rules, lowering) for row in rows}

    loaded = load(model, half.opset_for(narrow_to), (*_names(of), *_names(wrt)))
    graph = loaded.graph
    _reserve_names(graph, rows)
    ofs, score_output = _tensors_of(graph, of)
    wrts, image, notes = _tensors_wrt(graph, wrt)
    if start is None:
        for tensor in ofs:
            seed.check_class(tensor, target_class)
    own_outputs = {id(v) for v in graph.outputs}

    e = emitter(graph, opset_of(loaded), lowering)
    if any(v.shape is None for v in ofs):
        refuse_blocked(ofs, wrts, e, maps[rows[0].rules])
    made = Explaining(
        e=e,
        of=tuple(ofs),
        output=score_output,
        wrt=tuple(wrts),
        image=image,
        target_class=target_class,
        rule_map=maps.__getitem__,
        scaled=narrow_to == ir.DataType.FLOAT16,
    )
    for index in range(len(ofs)):
        made.cotangent(start or rows[0].seed, index)
    saliency: dict[str, str] = {}
    if alone:
        graph.outputs.clear()
    for row in rows:
        with e.scope(row.name):
            found = made.walk(row.rules, start or row.seed, wrts)
            for index, (tensor, ct) in enumerate(zip(wrts, found, strict=True)):
                name = row.output + (f"_{index}" if len(wrts) > 1 else "")
                # At its true size a map may be below float16's range.
                with e.in_float32():
                    value = row.finish(Walked(made, tensor, ct))
                    _add_output(e, _reduced(e, value, tensor, reduce), name, own_outputs)
                saliency.setdefault(row.name, name)
    for name, value in made.outputs.items():
        _add_output(e, value, name, own_outputs)
    finish(e, lowering)
    common.RemoveUnusedNodesPass()(loaded)
    if alone:
        kept = {image.name if image is not None else "", *made.inputs}
        graph.inputs[:] = [v for v in graph.inputs if v.uses() or v.name in kept]
    of_names = [v.name or "" for v in ofs]  # narrowed, an output's tensor gets another name
    classes = seed.class_count(ofs[0])
    score_name = None if score_output is None else score_output.name
    if narrow_to is not None:
        half.narrow(loaded, narrow_to)
    loaded.metadata_props.update(
        {
            "backlight.version": __version__,
            "backlight.methods": ",".join(row.name for row in rows),
            # What readers of version 0.1.0 look for.
            "backlight.rules": ",".join(row.name for row in rows if row.is_rule),
            "backlight.of": ",".join(of_names),
            "backlight.wrt": ",".join(v.name or "" for v in wrts),
            "backlight.input": (image or wrts[0]).name or "",
            "backlight.target_class": "input" if cotangent == "input" else str(target_class),
            "backlight.cotangent": cotangent,
            "backlight.reduce": reduce,
            "backlight.for": lowering,
            "backlight.dtype": dtype,
            "backlight.score_output": score_name or "",
        }
    )
    return ExplainGraph(
        model=loaded,
        of=of_names[0],
        wrt=wrts[0].name or "",
        input=(image or wrts[0]).name or "",
        methods=tuple(row.name for row in rows),
        saliency=saliency,
        score_output=score_name,
        classes=classes,
        notes=notes,
    )


def _reserve_names(graph: ir.Graph, rows: Sequence[Method]) -> None:
    """Free the contract's names inside the model; refuse a model whose own ends have them."""
    values = ir.convenience.create_value_mapping(graph)
    # With several tensors the names are numbered: cotangent_0, saliency_guided_1.
    names = "|".join(row.output for row in rows)
    ours = {n for n in values if re.fullmatch(rf"target|(cotangent|{names})(_[0-9]+)?", n)}
    ends = {v.name for v in (*graph.inputs, *graph.outputs)}
    clash = sorted(ours & {name for name in ends if name})
    if clash:
        raise ModelError(
            f"the model has an input or output '{clash[0]}' of its own (is it an exported one?); "
            f"expected a model without target, cotangent, {names.replace('|', ', ')}"
        )
    for name in sorted(ours):
        values[name].name = f"{name}/own"


def _names(names: str | Sequence[str] | None) -> list[str]:
    return [] if names is None else [names] if isinstance(names, str) else list(names)


def _tensors_of(
    graph: ir.Graph, of: str | Sequence[str] | None
) -> tuple[list[ir.Value], ir.Value | None]:
    named = [choose.tensor(graph, name) for name in _names(of)]
    if not named:
        score = choose.class_scores(graph)
        choose.refuse_maps(score.of)
        return [score.of], score.output
    return named, choose.holding_output(graph, named[0])


def _tensors_wrt(
    graph: ir.Graph, wrt: str | Sequence[str] | None
) -> tuple[list[ir.Value], ir.Value | None, tuple[str, ...]]:
    named = [choose.tensor(graph, name) for name in _names(wrt)]
    try:
        image = choose.image_input(graph)
    except ModelError:
        if not named:
            raise
        return named, None, ()
    if not named:
        return [image.wrt], image.input, image.notes
    return named, image.input, ()


def _reduced(e: Emitter, ct: ir.Value, wrt: ir.Value, reduce: str) -> ir.Value:
    if reduce == "none":
        ct.shape = wrt.shape
        return ct if wrt.dtype is None else e.cast(ct, wrt.dtype)
    axis = choose.channel_axis(wrt)
    shape = wrt.shape
    if shape is None or len(shape) < 3:
        raise UsageError(f"reduce 'maxabs' needs an image-like tensor; '{wrt.name}' is not")
    left = [dim_of(shape, i) for i in range(len(shape)) if i != axis]
    reduced = e.ReduceMax(e.Abs(ct), [axis], keepdims=0, _shape=left)
    return reduced if wrt.dtype is None else e.cast(reduced, wrt.dtype)


def _add_output(e: Emitter, value: ir.Value, name: str, own: set[int]) -> None:
    """Make a value a graph output under its name; another node where it is one already."""
    taken = value.producer() is None or value.is_graph_output() or id(value) in own
    output = e.op("Identity", [value], _shape=value.shape)[0] if taken else value
    while output.is_graph_output():  # rules that agree: the memo gives the same Identity
        output = e.op("Identity", [output], _shape=value.shape)[0]
    output.name = name
    e.graph.outputs.append(output)
