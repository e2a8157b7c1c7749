"""Other runtimes that run a file on this machine, one function each: a file and feeds, outputs.

What a runtime can't do it says by an exception, whatever its kind: the matrix shows it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx

from ..export.harness import Array, run_reference
from ..web.chromium import opened
from ..web.packages import VERSION, UnavailableError

Feeds = Mapping[str, Array]
WEB = "onnxruntime-web"
Run = Callable[[onnx.ModelProto, Feeds], dict[str, Array]]


class Runtime(NamedTuple):
    """A runtime by name: the distribution that holds it, and how it runs a file. slow: a file takes
    it seconds."""

    name: str
    package: str
    run: Run
    slow: bool = False

    @property
    def version(self) -> str | None:
        """What is installed; None where nothing is."""
        if self.package == WEB:
            return _in_browser()
        try:
            return version(self.package)
        except PackageNotFoundError:
            return None


def onnxruntime(model: onnx.ModelProto, feeds: Feeds) -> dict[str, Array]:
    """ONNX Runtime on the CPU, with all its optimizations."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    names = [o.name for o in session.get_outputs()]
    return dict(zip(names, session.run(names, dict(feeds)), strict=True))


def reference(model: onnx.ModelProto, feeds: Feeds) -> dict[str, Array]:
    """ONNX's own evaluator."""
    return run_reference(model, feeds)


def openvino(model: onnx.ModelProto, feeds: Feeds) -> dict[str, Array]:
    """OpenVINO's CPU plugin in float32: by default it takes bfloat16 where the processor has it."""
    import openvino as ov

    core = ov.Core()
    read = core.read_model(model.SerializeToString(), b"")
    return _compiled(core.compile_model(read, "CPU", _FLOAT32), model, feeds)


def openvino_converted(model: onnx.ModelProto, feeds: Feeds) -> dict[str, Array]:
    """OpenVINO by way of its own files, as `ovc` writes them: equal weights are stored once."""
    import openvino as ov

    with tempfile.TemporaryDirectory() as folder:
        onnx.save(model, Path(folder) / "model.onnx")
        converted = ov.convert_model(Path(folder) / "model.onnx")
        ov.save_model(converted, Path(folder) / "model.xml", compress_to_fp16=False)
        compiled = ov.Core().compile_model(Path(folder) / "model.xml", "CPU", _FLOAT32)
        return _compiled(compiled, model, feeds)


_FLOAT32 = {"INFERENCE_PRECISION_HINT": "f32"}


def _compiled(compiled: object, model: onnx.ModelProto, feeds: Feeds) -> dict[str, Array]:
    names = [o.name for o in model.graph.output]
    results = compiled(dict(feeds))  # type: ignore[operator]
    return {name: np.array(results[name]) for name in names}


def opencv(model: onnx.ModelProto, feeds: Feeds) -> dict[str, Array]:
    """OpenCV's dnn module."""
    import cv2

    net = cv2.dnn.readNetFromONNX(np.frombuffer(model.SerializeToString(), np.uint8))
    for name, value in feeds.items():
        net.setInput(value, name)
    names = [o.name for o in model.graph.output]
    return dict(zip(names, map(np.array, net.forward(names)), strict=True))


def tract(model: onnx.ModelProto, feeds: Feeds) -> dict[str, Array]:
    """tract, by its Python bindings: it gives outputs in order."""
    import tract as module

    with tempfile.TemporaryDirectory() as folder:
        onnx.save(model, Path(folder) / "model.onnx")
        read = module.onnx().load(Path(folder) / "model.onnx")
    runnable = read.into_model().into_runnable()
    results = runnable.run([feeds[v.name] for v in model.graph.input])
    return {o.name: r.to_numpy() for o, r in zip(model.graph.output, results, strict=True)}


def wasm(model: onnx.ModelProto, feeds: Feeds) -> dict[str, Array]:
    """onnxruntime-web in Chromium, on the processor."""
    return opened().run(model, feeds, "wasm")


def webgpu(model: onnx.ModelProto, feeds: Feeds) -> dict[str, Array]:
    """onnxruntime-web in Chromium, on a GPU, be it one in software."""
    return opened().run(model, feeds, "webgpu")


def _in_browser() -> str | None:
    try:
        return VERSION if opened().adapter else None
    except UnavailableError:
        return None


RUNTIMES = (
    Runtime("ONNX Runtime", "onnxruntime", onnxruntime),
    Runtime("ONNX's evaluator", "onnx", reference),
    Runtime("OpenVINO", "openvino", openvino),
    Runtime("OpenVINO, converted", "openvino", openvino_converted, slow=True),
    Runtime("OpenCV", "opencv-python-headless", opencv),
    Runtime("tract", "tract", tract),
    Runtime("onnxruntime-web, WASM", WEB, wasm, slow=True),
    Runtime("onnxruntime-web, WebGPU", WEB, webgpu, slow=True),
)
