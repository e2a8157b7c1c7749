"""The model that a file which `backlight export` wrote was made of."""

from __future__ import annotations

import re

import onnx_ir as ir

from . import choose
from .unused import remove_unused

__all__ = ["bare", "forget"]

# What a file says of its model, exported or not.
OF_THE_MODEL = ("backlight.preprocess", "backlight.labels")


def bare(model: ir.Model, but: str = "") -> None:
    """Take out, in place, what an export added: outputs, the nodes behind them, and the inputs that
    these read. A model that says nothing of an export stays as it is. but: an output that stays."""
    methods = choose.exported(model.metadata_props)
    if methods is None:
        return
    maps = "|".join(map(re.escape, methods))
    ours = re.compile(rf"(saliency|gap)_({maps})(_[0-9]+)?|backlight.*")
    graph = model.graph
    kept = [v for v in graph.outputs if v.name == but or not ours.fullmatch(v.name or "")]
    graph.outputs[:] = kept
    remove_unused(model)
    theirs = set(model.metadata_props.get("backlight.inputs", "target").split(","))
    graph.inputs[:] = [v for v in graph.inputs if v.name not in theirs or v.uses()]


def forget(model: ir.Model) -> None:
    """Take out, in place, what the metadata says of an export, so that a model made bare is as any
    other; what it says of the model itself stays."""
    for name in list(model.metadata_props):
        if name.startswith("backlight.") and name not in OF_THE_MODEL:
            del model.metadata_props[name]
