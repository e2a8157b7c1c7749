"""The forms for any runtime are right on all that are installed; those for ONNX Runtime, on it.

SqueezeNet, OpenVINO's files as its converter writes them, and onnxruntime-web in Chromium:
`pytest -m slow tests/runtimes`.
"""

from __future__ import annotations

import numpy as np
import pytest

from backlight.export.lowering import LOWERINGS
from backlight.export.saliency import explain_graph

from ..models import images, parsed
from .matrix import BATCHES, LIMIT, cell
from .nets import NETS, Net
from .runners import RUNTIMES, Runtime, onnxruntime

pytest.importorskip("onnxruntime")

ANYWHERE = ("portable", "tensorrt", "openvino")  # the others are for ONNX Runtime
# What a runtime can't do for a form, and says.
CANNOT = {
    ("ONNX's evaluator", "grouped"): "no transposed convolution in groups",
}


def cases() -> list[object]:
    found = []
    for runtime in RUNTIMES:
        for net in NETS:
            for form in LOWERINGS:
                if form not in ANYWHERE and runtime.name != "ONNX Runtime":
                    continue
                slow = not net.small or runtime.slow
                marks = [pytest.mark.slow] if slow else []
                name = f"{runtime.name}-{net.name}-{form}".replace(" ", "_")
                found.append(pytest.param(runtime, net, form, marks=marks, id=name))
    return found


def installed(runtime: Runtime) -> None:
    if runtime.version is None:
        pytest.skip(f"{runtime.package} is not installed")


@pytest.mark.parametrize("rows", BATCHES)
@pytest.mark.parametrize(("runtime", "net", "form"), cases())
def test_right(runtime: Runtime, net: Net, form: str, rows: int) -> None:
    installed(runtime)
    if (runtime.name, net.name) in CANNOT:
        pytest.skip(CANNOT[runtime.name, net.name])
    found = cell(net, form, rows, runtime)
    assert found.error is not None, found.why
    assert found.error <= LIMIT


@pytest.mark.slow
def test_webgpu_is_no_processor() -> None:
    """It has no Indices: so the runs above are its own."""
    (runtime,) = (r for r in RUNTIMES if r.name.endswith("WebGPU"))
    installed(runtime)
    found = cell(NETS[0], "cuda", 1, runtime)
    assert found.error is None and "Indices" in found.why


LAYERS = [
    (operator, kernel, stride, group)
    for operator in ("Conv", "ConvTranspose")
    for group in (1, 2, 32)
    for kernel in (1, 2, 3, 5)
    for stride in (1, 2)
]


@pytest.mark.parametrize("runtime", [r for r in RUNTIMES if r.name.startswith("OpenVINO")][:1])
@pytest.mark.parametrize("form", ANYWHERE)
@pytest.mark.parametrize(("operator", "kernel", "stride", "group"), LAYERS)
def test_a_layer_of_equal_channels(
    operator: str, kernel: int, stride: int, group: int, form: str, runtime: Runtime
) -> None:
    """Its weights are the same shape read either way: OpenVINO's cache took one for the other."""
    installed(runtime)
    pad = kernel // 2 if operator == "Conv" else 0
    window = f"strides=[{stride},{stride}], pads=[{pad},{pad},{pad},{pad}], group={group}"
    text = f"""<ir_version: 8, opset_import: ["": 18]>
    layer (float[N,32,12,12] x) => (float[N,32] y) {{
        c = {operator}<{window}>(x, w)
        r = Relu(c)
        p = GlobalAveragePool(r)
        y = Flatten(p)
    }}"""
    rng = np.random.default_rng(0)
    w = rng.standard_normal((32, 32 // group, kernel, kernel)).astype(np.float32)
    model = parsed(text, {"w": w})
    feeds = {"x": images(2, 32, 12, 12), "target": np.array([-1, 3])}
    graph = explain_graph(model, ("vanilla",), lowering=form).to_proto()
    want = onnxruntime(explain_graph(model, ("vanilla",), lowering="cuda").to_proto(), feeds)
    got = runtime.run(graph, feeds)
    for name, value in want.items():
        np.testing.assert_allclose(got[name], value, rtol=1e-4, atol=1e-5 * np.abs(value).max())


@pytest.mark.parametrize("form", ANYWHERE)
def test_the_file_does_not_grow(form: str) -> None:
    """The weights are in it once."""
    for net in NETS[:3]:
        model = net.build()
        size = len(explain_graph(model, lowering=form).to_proto().SerializeToString())
        weights = sum(len(w.raw_data) for w in model.graph.initializer)
        nodes = len(explain_graph(model, lowering=form).to_proto().graph.node)
        assert size < 1.05 * weights + 600 * nodes
