"""The exported graph: the model's own outputs, then a saliency per rule."""

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
from . import choose, finite, half, seed
from .backward import backward, refuse_blocked
from .emit import Emitter, dim_of
from .graph import ModelLike, load, opset_of
from .lowering import emitter, finish, lowered
from .scaling import Scaling
from .store import save_model
from .variants import variant

RULES = ("vanilla", "deconv", "guided")
# Protobuf ends at 2 GiB; the rest is for the graph beside its weights.
PROTO_LIMIT = 2**31 - 2**26


@dataclass(frozen=True)
class ExplainGraph:
    """A model with saliency outputs, and what was chosen on the way."""

    model: ir.Model
    of: str
    wrt: str
    input: str
    rules: tuple[str, ...]
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


def explain_graph(
    model: ModelLike,
    rules: Sequence[str] = RULES,
    *,
    of: str | Sequence[str] | None = None,
    wrt: str | Sequence[str] | None = None,
    target_class: str | int = "input",
    cotangent: str = "class",
    reduce: str = "none",
    lowering: str = "portable",
    dtype: str = "float32",
) -> ExplainGraph:
    """Load a model and give it saliency outputs. See `backlight.export` for the arguments."""
    rules = _checked_rules(rules)
    if cotangent not in ("class", "input"):
        raise UsageError(f"cotangent '{cotangent}'; accepted: class, input")
    if reduce not in ("none", "maxabs"):
        raise UsageError(f"reduce '{reduce}'; accepted: none, maxabs")
    narrow_to = half.checked(dtype, lowering)
    if isinstance(target_class, str) and re.fullmatch(r"-?[0-9]{1,18}", target_class):
        target_class = int(target_class)
    maps = {rule: lowered(rule, lowering) for rule in rules}

    loaded = load(model, half.opset_for(narrow_to), (*_names(of), *_names(wrt)))
    graph = loaded.graph
    _reserve_names(graph, rules)
    ofs, score_output = _tensors_of(graph, of)
    wrts, image, notes = _tensors_wrt(graph, wrt)
    for tensor in ofs:
        if cotangent == "class":
            seed.check_class(tensor, target_class)
    own_outputs = {id(v) for v in graph.outputs}

    e = emitter(graph, opset_of(loaded), lowering)
    if any(v.shape is None for v in ofs):
        refuse_blocked(ofs, wrts, e, maps[rules[0]])
    with e.scope("seed"):
        seeds = _seeds(e, ofs, cotangent, target_class, image, score_output)
    fault = None
    if cotangent == "class":
        with e.scope("finite"), e.in_float32():
            target = e.graph.inputs[-1] if target_class == "input" else None
            fault = finite.faults(e, image, seeds, target)
    saliency: dict[str, str] = {}
    for rule in rules:
        with e.scope(rule):
            scaling = _scaling(e, ofs, image, cotangent, narrow_to)
            found = backward(e, seeds, wrts, maps[rule], scaling)
            for index, (tensor, ct) in enumerate(zip(wrts, found, strict=True)):
                if ct is None:
                    names = ", ".join(f"'{v.name}'" for v in ofs)
                    raise UsageError(f"no gradient flows from {names} to '{tensor.name}'")
                name = f"saliency_{rule}" + (f"_{index}" if len(wrts) > 1 else "")
                # At its true size a map may be below float16's range.
                with e.in_float32():
                    found_map = _reduced(e, ct, tensor, reduce)
                    found_map = finite.with_faults(e, found_map, tensor, fault)
                    _add_output(e, found_map, name, own_outputs)
                saliency.setdefault(rule, name)
    finish(e, lowering)
    common.RemoveUnusedNodesPass()(loaded)
    of_names = [v.name or "" for v in ofs]  # narrowed, an output's tensor gets another name
    classes = seed.class_count(ofs[0])
    score_name = None if score_output is None else score_output.name
    if narrow_to is not None:
        half.narrow(loaded, narrow_to)
    loaded.metadata_props.update(
        {
            "backlight.version": __version__,
            "backlight.rules": ",".join(rules),
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
        rules=rules,
        saliency=saliency,
        score_output=score_name,
        classes=classes,
        notes=notes,
    )


def _scaling(
    e: Emitter,
    ofs: Sequence[ir.Value],
    image: ir.Value | None,
    cotangent: str,
    narrow_to: ir.DataType | None,
) -> Scaling | None:
    """How one walk keeps its cotangents within float16's range, where they are float16."""
    half_already = any(v.dtype == ir.DataType.FLOAT16 for v in ofs)
    if narrow_to != ir.DataType.FLOAT16 and not half_already:
        return None
    known = None if image is None or image.shape is None else dim_of(image.shape, 0)
    return Scaling(e, known, measured=cotangent == "input")


def _checked_rules(rules: Sequence[str]) -> tuple[str, ...]:
    names = (rules,) if isinstance(rules, str) else tuple(dict.fromkeys(rules))
    if not names:
        raise UsageError(f"no rule given; one or more of: {', '.join(RULES)}")
    for name in names:
        variant(name)
    return names


def _reserve_names(graph: ir.Graph, rules: Sequence[str]) -> None:
    """Free the contract's names inside the model; refuse a model whose own ends have them."""
    values = ir.convenience.create_value_mapping(graph)
    # With several tensors the names are numbered: cotangent_0, saliency_guided_1.
    names = "|".join(f"saliency_{rule}" for rule in rules)
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


def _seeds(
    e: Emitter,
    ofs: Sequence[ir.Value],
    cotangent: str,
    target_class: str | int,
    image: ir.Value | None,
    output: ir.Value | None,
) -> list[tuple[ir.Value, ir.Value]]:
    if cotangent == "input":
        seeds = []
        for index, of in enumerate(ofs):
            name = "cotangent" + (f"_{index}" if len(ofs) > 1 else "")
            given = ir.Value(name=name, shape=of.shape, type=of.type)
            e.graph.inputs.append(given)
            seeds.append((of, given))
        return seeds
    target: ir.Value | str | int = target_class
    if target_class == "input":
        target = ir.Value(
            name="target",
            shape=ir.Shape([_batch(ofs[0], image)]),
            type=ir.TensorType(ir.DataType.INT64),
        )
        e.graph.inputs.append(target)
    tops = [choose.ranking(of, output if of is ofs[0] else None) for of in ofs]
    pairs = zip(ofs, tops, strict=True)
    return [(of, seed.class_seed(e, of, target, top)) for of, top in pairs]


def _batch(of: ir.Value, image: ir.Value | None) -> int | str | None:
    """The batch dimension: the scores' own when a number, else the image's name for it."""
    dim = None if of.shape is None or not len(of.shape) else dim_of(of.shape, 0)
    if isinstance(dim, int) or image is None or image.shape is None:
        return dim
    return dim_of(image.shape, 0)


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
