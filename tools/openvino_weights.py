"""The smallest file that OpenVINO's CPU plugin gets silently wrong: one weight, two layers.

    python tools/openvino_weights.py [FILE]

A Conv and a ConvTranspose of 16 channels in and out read one initializer. The plugin packs it once
and uses it for both. Writes the file, and prints how far OpenVINO is from ONNX Runtime: with the
weight shared, and with a copy of it under another name.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
import onnx.parser

TEXT = """<ir_version: 8, opset_import: ["": 18]>
shared (float[1,16,8,8] x, float[1,16,4,4] g) => (float[1,16,4,4] y, float[1,16,8,8] d) {{
    y = Conv<strides=[2,2], pads=[1,1,1,1]>(x, w)
    d = ConvTranspose<strides=[2,2], pads=[1,1,1,1], output_padding=[1,1]>(g, {name})
}}"""


def model(name: str) -> onnx.ModelProto:
    """The file whose ConvTranspose reads the weight `name`; each has the same numbers."""
    made = onnx.parser.parse_model(TEXT.format(name=name))
    w = np.random.default_rng(0).standard_normal((16, 16, 3, 3)).astype(np.float32)
    for each in sorted({"w", name}):
        made.graph.initializer.append(onnx.numpy_helper.from_array(w, each))
    return made


def differences(made: onnx.ModelProto) -> list[str]:
    """OpenVINO against ONNX Runtime, by norm, per output."""
    import onnxruntime
    import openvino

    rng = np.random.default_rng(1)
    feeds = {
        "x": rng.standard_normal((1, 16, 8, 8)).astype(np.float32),
        "g": rng.standard_normal((1, 16, 4, 4)).astype(np.float32),
    }
    want = onnxruntime.InferenceSession(made.SerializeToString()).run(None, feeds)
    core = openvino.Core()
    hint = {"INFERENCE_PRECISION_HINT": "f32"}
    compiled = core.compile_model(core.read_model(made.SerializeToString(), b""), "CPU", hint)
    got = [compiled(feeds)[name] for name in ("y", "d")]
    pairs = zip(("Conv", "ConvTranspose"), got, want, strict=True)
    return [f"{n} {np.linalg.norm(a - b) / np.linalg.norm(b):.1e}" for n, a, b in pairs]


if __name__ == "__main__":
    path = Path(sys.argv[1] if len(sys.argv) > 1 else "openvino-shared-weight.onnx")
    onnx.save(model("w"), path)
    print(f"{path}: {path.stat().st_size} bytes")
    print("one weight, read by both:", ", ".join(differences(model("w"))))
    print("a copy for the second:   ", ", ".join(differences(model("copy"))))
