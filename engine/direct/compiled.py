"""The graph that an Explainer runs: the one in an exported file, or one made of a model."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import onnx_ir as ir

from ...errors import UsageError
from ...export.drawing import USUAL
from ...export.lone import with_batch
from ...export.methods import chosen
from ...export.saliency import explain_graph
from ...export.sampling import Sampling
from ..classifier.ready import Ready
from ..runtime.session import Providers
from .described import Described, described, in_file
from .variants import Variants

__all__ = ["Compiled", "in_the_file", "of_a_model", "refuse_told"]


@dataclass(frozen=True)
class Compiled:
    """A graph that explains.

    model: what a session is made of. said: of its inputs and outputs. lone: whether the model's own
    image has no batch. variants: what runs the methods that vary the image beside it. noise: the
    input that takes it, of a file whose image's size is open.
    """

    model: Any
    said: Described
    lone: bool
    variants: Variants | None = None
    noise: ir.Value | None = None


def refuse_told(
    name: str, source: ir.Model, sampling: Sampling | None, drawn: dict[str, Any],
    *, of: str | None, wrt: str | None, for_: str | None,
) -> None:  # fmt: skip
    """Raise UsageError where a file that was exported is told again what is in it. drawn: the
    options of maps, of `export.drawing`; its contrast is the file's where that takes one."""
    if of is not None or wrt is not None or for_ is not None:
        raise UsageError(f"{name} is exported already; of, wrt and for_ are in the file")
    if drawn["contrast"] == "input" and any(v.name == "contrast" for v in source.graph.inputs):
        drawn = {**drawn, "contrast": None}  # as the file has it
    told = next((k for k, v in drawn.items() if v != USUAL[k]), None)
    if told is not None or sampling is not None:
        raise UsageError(f"{name} is exported already; {told or 'samples'} is in the file")


def in_the_file(
    ready: Ready, source: ir.Model, methods: Sequence[str], *, recorded: bool
) -> Compiled:
    """Of a file that was exported. source: it as it was read, with a batch that is fixed where runs
    are recorded, and then of our own."""
    source = source if recorded else source.clone()
    lone = with_batch(source)
    said = in_file(source, ready.source, methods)
    # The file itself is run where nothing of it was settled here.
    own_outputs = {v.name for v in ready.read.graph.outputs}
    as_it_is = isinstance(ready.given, (str, os.PathLike, bytes)) and ready.as_given
    as_it_is = as_it_is and not recorded and not lone
    as_it_is = as_it_is and (said.ranked or said.scores) in own_outputs
    noise = [v for v in source.graph.inputs if v.name == "noise" and v.name in said.ours]
    return Compiled(
        ready.given if as_it_is else source, said, lone, noise=noise[0] if noise else None
    )


def of_a_model(
    source: ir.Model, methods: Sequence[str], sampling: Sampling | None,
    drawn: Mapping[str, Any], told: Mapping[str, Any], providers: Providers, threads: int | None,
) -> Compiled:  # fmt: skip
    """Of a plain model. drawn, told: options of `explain_graph`, of its maps and of all else; what
    varies the image runs on its own, with the providers and threads."""
    varying = [row.name for row in chosen(methods) if row.varies]
    if varying:
        sampling = replace(sampling or Sampling(), held="elsewhere")
    graph = explain_graph(source, methods, sampling=sampling, **told, **drawn)
    variants = None
    if varying and sampling is not None:
        alone = {k: drawn[k] for k in ("contrast", "contrast_form")} | dict(told)
        variants = Variants(source, varying, sampling, graph.input, providers, threads, alone)
    lone = with_batch(graph.model)
    return Compiled(graph.model, described(graph), lone, variants)
