"""A model as ONNX Runtime's optimiser leaves it: for one machine, one version, one provider.

An explaining graph takes its time to load because its backward weights are mirrored, transposed and
blocked then. Stored after that, they need it no more; but the file holds operators and layouts of
this processor's own, and both passes' weights.
"""

from __future__ import annotations

import platform
import tempfile
from pathlib import Path

import onnx

from ...errors import ModelError, OutputError, UsageError
from ...export.saliency import PROTO_LIMIT, ExplainGraph, weight_bytes
from ..photos.outputs import write_bytes
from ..runtime.machine import device
from ..runtime.session import one_line, remedy, runtime

__all__ = ["save_optimized"]

KEY = "backlight.optimized_for"


def save_optimized(graph: ExplainGraph, path: Path) -> None:
    """Write a graph as the CPU provider of the onnxruntime installed here would run it.

    The metadata key `backlight.optimized_for` says which processor, provider and version. Raises
    UsageError without onnxruntime, and for a lowering that isn't for its CPU provider; ModelError
    above half of what a message holds, and where the runtime refuses the model; OutputError.
    """
    ort = runtime()
    target = graph.model.metadata_props.get("backlight.for", "portable")
    if target not in ("portable", "cpu"):
        raise UsageError(f"--optimized is for the CPU provider; --for {target} isn't: --for cpu")
    if 2 * weight_bytes(graph.model) > PROTO_LIMIT:  # both passes' weights, in one message
        raise ModelError("the model is too large for --optimized: its weights are above 1 GB")
    settings = ort.SessionOptions()
    settings.log_severity_level = 4
    with tempfile.TemporaryDirectory(prefix="backlight-") as folder:
        made = Path(folder) / "optimized.onnx"
        settings.optimized_model_filepath = str(made)
        source = graph.to_proto().SerializeToString()
        try:
            ort.InferenceSession(source, settings, providers=["CPUExecutionProvider"])
            optimized = onnx.load(made)
        except OSError as err:
            raise OutputError(f"{path}: can't be written: {err.strerror}") from err
        except Exception as err:  # the runtime's own exceptions share no documented base
            raise ModelError(
                f"onnxruntime refuses the model: {one_line(err)}{remedy(source, err)}"
            ) from err
    del optimized.metadata_props[:]
    machine = f"{device()}, {platform.machine()}"
    record = f"onnxruntime {ort.__version__}, CPUExecutionProvider, {machine}"
    props = {**graph.model.metadata_props, KEY: record}
    onnx.helper.set_model_props(optimized, props)
    write_bytes(path, optimized.SerializeToString())
