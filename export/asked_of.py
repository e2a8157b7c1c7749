"""The tensors that a caller names: what is explained, and what the gradient is taken by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import onnx_ir as ir

from ..errors import ModelError, UsageError
from . import choose, said, scores
from .front import behind_preprocessing
from .methods import Method
from .rules import RuleMap

__all__ = ["kept_names", "names_of", "refuse_wrt", "scores_of", "tensors_wrt"]


def names_of(given: str | Sequence[str] | None) -> list[str]:
    return [] if given is None else [given] if isinstance(given, str) else list(given)


def kept_names(of: str | Sequence[str] | None) -> list[str]:
    """The tensors that names may mean."""
    names = names_of(of)
    return [*names, *(n.removesuffix(said.AS_IS) for n in names)]


def scores_of(
    model: ir.Model, of: str | Sequence[str] | None, cotangent: str
) -> list[scores.Score]:
    """What is explained. A given cotangent is that of a tensor as it is."""
    names = names_of(of)
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
    named = [name for name in names_of(wrt) if name not in inputs]
    if named and all(row.by == "layer" for row in rows):
        raise UsageError(
            f"--wrt {named[0]}: {rows[0].name} is of a layer, and takes its gradient by that; "
            "accepted: --layer, or an input of the model"
        )


def tensors_wrt(
    graph: ir.Graph,
    wrt: str | Sequence[str] | None,
    rules: Sequence[RuleMap],
    opset: int,
) -> tuple[list[ir.Value], ir.Value | None, tuple[str, ...]]:
    named = [choose.tensor(graph, name) for name in names_of(wrt)]
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
