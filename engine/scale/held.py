"""The explaining graph that a file holds already, for what would otherwise export one."""

from __future__ import annotations

import re
from collections.abc import Sequence

import onnx_ir as ir

from ...errors import UsageError
from ...export.explained import ExplainGraph
from ...export.unused import remove_unused
from ..classifier.ready import Ready

__all__ = ["held_graph"]


def held_graph(ready: Ready, methods: Sequence[str] | None, form: str) -> ExplainGraph:
    """The graph of a file that `backlight export` wrote, as it is, with the maps of some of its
    methods (None: all). form: what runs it. Raises UsageError for methods that it lacks, and for
    operators that the form doesn't have."""
    there, meta = ready.exported or (), ready.metadata
    wanted = tuple(methods or there)
    absent = next((name for name in wanted if name not in there), None)
    if absent is not None:
        raise UsageError(
            f"--method '{absent}': {ready.source} was exported with {', '.join(there)}"
        )
    own = meta.get("backlight.for", "portable")
    if form == "tensorrt" != own:
        raise UsageError(
            f"{ready.source} was exported for {own}; TensorRT takes 'backlight export --for "
            "tensorrt', or the model that it was made of"
        )
    model = ready.read.clone()
    keep, ours = _maps(wanted), _maps(there)
    graph = model.graph
    graph.outputs[:] = [
        v for v in graph.outputs if keep.fullmatch(v.name or "") or not ours.fullmatch(v.name or "")
    ]
    if wanted != there:
        remove_unused(model)
        added = meta.get("backlight.inputs", "target").split(",")
        graph.inputs[:] = [v for v in graph.inputs if v.name not in added or v.uses()]
        model.metadata_props["backlight.methods"] = ",".join(wanted)
    outputs = {v.name: v for v in graph.outputs}
    score = meta.get("backlight.score_output", "")
    score_output = score if score in outputs else None
    return ExplainGraph(
        model=model,
        of=meta.get("backlight.of", ""),
        wrt=meta.get("backlight.wrt", ""),
        input=meta.get("backlight.input", ""),
        methods=wanted,
        saliency={n.removeprefix("saliency_"): n for n in outputs if n and keep.fullmatch(n)},
        score_output=score_output,
        classes=_classes(meta.get("backlight.classes", ""), outputs.get(score)),
    )


def _maps(methods: Sequence[str]) -> re.Pattern[str]:
    return re.compile(rf"(saliency|gap)_({'|'.join(map(re.escape, methods))})(_[0-9]+)?")


def _classes(said: str, scores: ir.Value | None) -> int | None:
    if said.isascii() and said.isdecimal() and len(said) < 10:
        return int(said)
    shape = None if scores is None else scores.shape
    last = shape[1] if shape is not None and len(shape) > 1 else None
    return last if isinstance(last, int) else None
