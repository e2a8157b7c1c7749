"""A model as ONNX Runtime's optimiser leaves it: for one machine, one version, one provider.

An explaining graph takes its time to load because its backward weights are mirrored, transposed and
blocked then. Stored after that, they need it no more; but the file holds operators and layouts of
this processor's own, and both passes' weights.
"""

from __future__ import annotations

import platform
from pathlib import Path

import onnx

from ...errors import ModelError, OutputError, UsageError
from ...export.explained import ExplainGraph
from ...export.store import PROTO_LIMIT, weight_bytes
from ..photos.outputs import write_bytes
from ..runtime.machine import device
from ..runtime.session import as_it_runs

__all__ = ["save_optimized"]

KEY = "backlight.optimized_for"


def save_optimized(graph: ExplainGraph, path: Path) -> None:
    """Write a graph as the CPU provider of the runtime installed here would run it.

    The metadata key `backlight.optimized_for` says which processor, provider and version. Raises
    UsageError without one, and for a lowering that isn't for its CPU provider; ModelError
    above half of what a message holds, and where the runtime refuses the model; OutputError.
    """
    target = graph.model.metadata_props.get("backlight.for", "portable")
    if target not in ("portable", "cpu"):
        raise UsageError(f"--optimized is for the CPU provider; --for {target} isn't: --for cpu")
    if 2 * weight_bytes(graph.model) > PROTO_LIMIT:  # both passes' weights, in one message
        raise ModelError("the model is too large for --optimized: its weights are above 1 GB")
    try:
        optimized, by = as_it_runs(graph.to_proto().SerializeToString())
    except OSError as err:
        raise OutputError(f"{path}: can't be written: {err.strerror}") from err
    del optimized.metadata_props[:]
    machine = f"{device()}, {platform.machine()}"
    props = {**graph.model.metadata_props, KEY: f"{by}, {machine}"}
    onnx.helper.set_model_props(optimized, props)
    write_bytes(path, optimized.SerializeToString())
