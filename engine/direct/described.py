"""What an Explainer knows of a model with saliency outputs: a fresh export, or a file."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir

from ...errors import ModelError, UsageError
from ...export import choose, heads
from ...export import scores as class_scores
from ...export.emit import dim_of
from ...export.explained import ExplainGraph
from ...export.methods import RULES
from ...export.score_shapes import no_batch
from ..classifier.fed import Fed

__all__ = ["Described", "described", "in_file"]


@dataclass(frozen=True)
class Described:
    """What there is to know of a model with saliency outputs."""

    fed: Fed
    saliency: Mapping[str, str]
    scores: str
    classes: int | None
    closing: str | None
    scale: float
    by: float
    layer: str | None
    whole: bool
    takes_target: bool
    baked: str
    notes: tuple[str, ...]
    ours: tuple[str, ...]  # the inputs that the export added: target, contrast …
    layers: tuple[str, ...]
    reasons: tuple[str, ...]  # why these; of a file nobody knows
    contrast: str
    contrasted: tuple[str, ...]  # the methods that have one
    contrast_form: str
    ranked: str | None = None  # the output that the graph ranks classes by, where one holds that


def described(graph: ExplainGraph) -> Described:
    """A fresh export; its class scores become an output where no output holds them."""
    score, layer = graph.score_output, None
    if score is None:
        score = layer = graph.of
        held = ir.convenience.create_value_mapping(graph.model.graph)
        graph.model.graph.outputs.append(held[score])
    return Described(
        fed=Fed.of(graph.model.graph, graph.input, _ours(graph.added)),
        saliency=graph.saliency,
        scores=score,
        classes=graph.classes,
        **_read(graph.model.graph, score, layer),
        takes_target=True,
        baked="",
        notes=graph.notes,
        ours=graph.added,
        layers=tuple(layer.name for layer in graph.layers),
        reasons=tuple(layer.reason for layer in graph.layers),
        contrast=graph.model.metadata_props.get("backlight.contrast", ""),
        contrast_form=graph.model.metadata_props.get("backlight.contrast_form", "loss"),
        contrasted=_contrasted(graph.model.metadata_props),
        ranked=_ranked(graph, score),
    )


def _ranked(graph: ExplainGraph, score: str) -> str | None:
    """The output that a fresh export ranks classes by; none of scores that have positions."""
    if graph.ranking == score:
        return score
    return _shown(graph.model, graph.ranking)


def _shown(model: ir.Model, name: str) -> str | None:
    """The tensor that a graph ranks classes by, an output from here on; None where the graph
    doesn't hold it, a row per image."""
    value = ir.convenience.create_value_mapping(model.graph).get(name)
    if value is None or value.shape is None or len(value.shape) != 2:
        return None
    if not value.is_graph_output():  # but probabilities are, several of which may round to 1
        model.graph.outputs.append(value)
    return value.name


def in_file(model: ir.Model, name: str, methods: Sequence[str]) -> Described:
    """A file that `backlight export` wrote, by its metadata. What it ranks classes by becomes an
    output where none is: several probabilities may round to the same."""
    meta = model.metadata_props
    outputs = {v.name: v for v in model.graph.outputs}
    saliency: dict[str, str] = {}
    absent = []
    for wanted in methods:
        several = rf"saliency_{re.escape(wanted)}(_[0-9]+)?"
        found = [name for name in outputs if name and re.fullmatch(several, name)]
        saliency |= {name.removeprefix("saliency_"): name for name in found}
        absent += [] if found else [wanted]
    if absent:
        there = ", ".join(choose.exported(meta) or ())
        kind = "rule" if absent[0] in RULES else "method"
        raise UsageError(f"{name} has no {kind} '{absent[0]}'; it was exported with {there}")
    if meta.get("backlight.cotangent") == "input":
        raise UsageError(f"{name} takes its cotangent as an input; run it in its runtime")
    if meta.get("backlight.target_class") == "all":
        raise UsageError(f"{name} holds the maps of every class; run it in its runtime")
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
    added = tuple(filter(None, meta.get("backlight.inputs", "target" * takes).split(",")))
    return Described(
        fed=Fed.of(model.graph, meta.get("backlight.input", ""), _ours(added)),
        saliency=saliency,
        scores=score,
        classes=classes,
        **_read(model.graph, score, score if meta.get("backlight.channels") else None),
        takes_target=takes,
        baked=meta.get("backlight.target_class", "top1"),
        notes=(),
        ours=added,
        layers=tuple(filter(None, meta.get("backlight.layer", "").split(","))),
        reasons=(),
        contrast=meta.get("backlight.contrast", ""),
        contrast_form=meta.get("backlight.contrast_form", "loss"),
        contrasted=_contrasted(meta),
        ranked=_shown(model, meta.get("backlight.ranked", "")),
    )


def _contrasted(metadata: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(filter(None, metadata.get("backlight.contrasted", "").split(",")))


def _ours(added: Sequence[str]) -> tuple[str, ...]:
    """The inputs that a call doesn't feed by name: a baseline that is an input it does."""
    return tuple(name for name in added if name != "baseline")


def _read(graph: ir.Graph, score: str, layer: str | None) -> dict[str, Any]:
    """How the output `score` gives probabilities, for Described."""
    output = next(v for v in graph.outputs if v.name == score)
    reading = heads.read(output)
    return {
        "closing": None if reading is None else class_scores.closing_of(reading),
        "scale": 1.0 if reading is None else reading.scale,
        "by": 1.0 if reading is None else reading.by,
        "layer": layer,
        "whole": no_batch(graph, output),
    }
