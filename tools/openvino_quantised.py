"""The smallest quantised file that OpenVINO's CPU plugin gets silently wrong: two int8 tensors
joined before a convolution.

    python tools/openvino_quantised.py [FILE]

Writes the file, and prints how far OpenVINO is from ONNX Runtime (its optimisations off): with its
integer kernels, and with LP_TRANSFORMS_MODE=NO, which `--provider openvino` sets for such files.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
import onnx.parser

TEXT = """<ir_version: 8, opset_import: ["": 18]>
quantised (float[1,16,8,8] x, float[1,16,8,8] z) => (float[1,8,8,8] y)
<float s = {0.02}, int8 zero = {0}, float t = {0.01}> {
    qx = QuantizeLinear(x, s, zero)
    dx = DequantizeLinear(qx, s, zero)
    qz = QuantizeLinear(z, s, zero)
    dz = DequantizeLinear(qz, s, zero)
    c = Concat<axis=1>(dx, dz)
    dw = DequantizeLinear(w, t, zero)
    y = Conv(c, dw)
}"""


def model() -> onnx.ModelProto:
    """Quantised activations and weights in int8, symmetric."""
    made = onnx.parser.parse_model(TEXT)
    w = np.random.default_rng(0).integers(-64, 64, (8, 32, 1, 1)).astype(np.int8)
    made.graph.initializer.append(onnx.numpy_helper.from_array(w, "w"))
    return made


def feeds() -> dict[str, np.ndarray]:
    """Within what int8 holds at that scale."""
    rng = np.random.default_rng(1)
    return {n: rng.uniform(0, 2.5, (1, 16, 8, 8)).astype(np.float32) for n in ("x", "z")}


def wanted() -> np.ndarray:
    """ONNX Runtime's output, node by node."""
    import onnxruntime as ort

    settings = ort.SessionOptions()
    settings.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(
        model().SerializeToString(), settings, providers=["CPUExecutionProvider"]
    )
    return np.asarray(session.run(None, feeds())[0])


def difference(settings: dict[str, str]) -> str:
    """OpenVINO against that, by norm."""
    import openvino

    core = openvino.Core()
    read = core.read_model(model().SerializeToString(), b"")
    compiled = core.compile_model(read, "CPU", {"INFERENCE_PRECISION_HINT": "f32", **settings})
    got, want = compiled(feeds())["y"], wanted()
    return f"{np.linalg.norm(got - want) / np.linalg.norm(want):.1e}"


if __name__ == "__main__":
    path = Path(sys.argv[1] if len(sys.argv) > 1 else "openvino-quantised.onnx")
    onnx.save(model(), path)
    print(f"{path}: {path.stat().st_size} bytes")
    print("as it is:             ", difference({}))
    print("LP_TRANSFORMS_MODE=NO:", difference({"LP_TRANSFORMS_MODE": "NO"}))
