"""Random small networks and windows: the scores on boxes are those of whole variants.

pytest tests/incremental/test_fuzz.py               # 40 networks
pytest tests/incremental/test_fuzz.py -m slow       # 1500
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

pytest.importorskip("onnxruntime")

from backlight.export import incremental
from backlight.kernels.families import sliding

from .occlude import dense_scores, incremental_scores, network

# Of the range of scores: float32, a few layers of some hundred terms in another order.
LIMIT = 2e-5
CHANNELS = 4


@dataclass
class Net:
    """A network while it is drawn: lines of ONNX text, weights, and tensors by size."""

    size: tuple[int, int]
    lines: list[str] = field(default_factory=list)
    weights: list[str] = field(default_factory=list)
    # (name, channels, (h, w)), the newest last
    made: list[tuple[str, int, tuple[int, int]]] = field(default_factory=list)

    def weight(self, *dims: int, stem: str = "w") -> str:
        name = f"{stem}{len(self.weights)}"
        self.weights.append(f"float[{','.join(map(str, dims))}] {name}, ")
        return name

    def add(self, text: str, count: int, size: tuple[int, int]) -> None:
        name = f"t{len(self.lines)}"
        self.lines.append(f"{name} = {text}")
        self.made.append((name, count, size))


def _sweep(
    draw: st.DrawFn, size: tuple[int, int], dilations: bool, pooled: bool
) -> tuple[str, tuple[int, int], tuple[int, int], bool]:
    """Attributes, kernel, output size, ceil_mode of a convolution or pool."""
    kernel = draw(st.tuples(st.integers(1, 4), st.integers(1, 4)))
    stride = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    dilation = draw(st.tuples(st.integers(1, 3), st.integers(1, 3))) if dilations else (1, 1)
    # A pool's padding has to be below its kernel.
    most = [k - 1 if pooled else 3 for k in kernel]
    pads = draw(st.tuples(*(st.integers(0, m) for m in (*most, *most))))
    ceil = pooled and draw(st.booleans())
    out = []
    for axis in (0, 1):
        span = (kernel[axis] - 1) * dilation[axis] + 1
        room = size[axis] + pads[axis] + pads[2 + axis] - span
        assume(room >= 0)
        count = room // stride[axis] + 1
        if ceil and room % stride[axis]:
            # Runtimes differ over windows that start behind the map.
            assume(count * stride[axis] < size[axis] + pads[axis])
            count += 1
        out.append(count)
    text = f"strides={list(stride)},pads={list(pads)}"
    if dilations:
        text += f",dilations={list(dilation)}"
    return text, kernel, (out[0], out[1]), ceil


@st.composite
def networks(draw: st.DrawFn) -> tuple[Net, str]:
    net = Net(draw(st.tuples(st.integers(9, 22), st.integers(9, 22))))
    net.made.append(("x", 3, net.size))
    for _ in range(draw(st.integers(2, 7))):
        name, count, size = net.made[
            draw(st.integers(max(0, len(net.made) - 3), len(net.made) - 1))
        ]
        kinds = ["conv", "conv", "depthwise", "max", "average", "relu", "norm", "add", "concat"]
        kind = draw(st.sampled_from(kinds)) if len(net.made) > 1 else "conv"
        if kind in ("conv", "depthwise"):
            text, kernel, out, _ = _sweep(draw, size, draw(st.booleans()), False)
            groups = count if kind == "depthwise" else 1
            made = count if kind == "depthwise" else CHANNELS
            w, b = net.weight(made, count // groups, *kernel), net.weight(made)
            net.add(f"Conv<group={groups},{text}>({name}, {w}, {b})", made, out)
        elif kind in ("max", "average"):
            text, kernel, out, ceil = _sweep(draw, size, False, True)
            text += f",kernel_shape={list(kernel)},ceil_mode={int(ceil)}"
            if kind == "average":
                text += f",count_include_pad={draw(st.integers(0, 1))}"
            net.add(f"{'MaxPool' if kind == 'max' else 'AveragePool'}<{text}>({name})", count, out)
        elif kind == "relu":
            op = draw(st.sampled_from(["Relu", "Sigmoid", "HardSwish", "Neg"]))
            net.add(f"{op}({name})", count, size)
        elif kind == "norm":
            gains = ", ".join(net.weight(count) for _ in range(3))
            var = net.weight(count, stem="var")
            net.add(f"BatchNormalization({name}, {gains}, {var})", count, size)
        else:
            others = [m for m in net.made if m[2] == size and m[0] != name]
            if kind == "add":
                others = [m for m in others if m[1] == count]
            if not others:
                continue
            other = draw(st.sampled_from(others))
            text = "Add" if kind == "add" else "Concat<axis=1>"
            made = count if kind == "add" else count + other[1]
            net.add(f"{text}({name}, {other[0]})", made, size)
    last, count, size = net.made[-1]
    assume(len(net.made) > 2)
    if draw(st.booleans()):
        dense = net.weight(count, 5)
        net.lines.append(f"m = GlobalAveragePool({last}) v = Flatten(m) y = MatMul(v, {dense})")
    else:
        dense = net.weight(count * size[0] * size[1], 5)
        net.lines.append(f"v = Flatten({last}) y = MatMul(v, {dense})")
    h, w = net.size
    weights = "".join(net.weights)[:-2]
    return net, (
        f"net (float[N,3,{h},{w}] x, {weights}) => (float[N,5] y) {{ {' '.join(net.lines)} }}"
    )


@st.composite
def windows(draw: st.DrawFn, size: tuple[int, int]) -> tuple[object, object]:
    window = draw(st.tuples(st.integers(1, size[0]), st.integers(1, size[1])))
    stride = draw(st.tuples(st.integers(2, 6), st.integers(2, 6)))
    if draw(st.booleans()):
        return window, stride
    return (draw(st.integers(1, 3)), *window), (draw(st.integers(1, 2)), *stride)


def check(data: st.DataObject) -> None:
    net, text = data.draw(networks())
    window, stride = data.draw(windows(net.size))
    cut = data.draw(st.sampled_from([10_000, 10_000, 2, 4, None]))
    model = network(text, seed=data.draw(st.integers(0, 9)))
    edges = data.draw(st.sampled_from(["clip", "valid"]))
    boxes = sliding((3, *net.size), window, stride, edges=edges).boxes  # type: ignore[arg-type]
    random = np.random.default_rng(0)
    image = random.normal(size=(3, *net.size)).astype(np.float32)
    baseline = random.normal(size=image.shape).astype(np.float32)
    plan = incremental.plan(model, boxes, image.shape, cut=cut)
    ours = incremental_scores(plan, image, baseline)["y"]
    want = dense_scores(model, "y", image, baseline, boxes)
    scale = max(float(np.ptp(want)), float(np.abs(want).max()) / 10, 1e-6)
    assert np.abs(ours - want).max() <= LIMIT * scale, (text, window, stride, cut)


QUIET = [HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large]


@given(data=st.data())
@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=QUIET)
def test_random_networks(data: st.DataObject) -> None:
    check(data)


@pytest.mark.slow
@given(data=st.data())
@settings(max_examples=1500, deadline=None, suppress_health_check=QUIET)
def test_many_random_networks(data: st.DataObject) -> None:
    check(data)
