"""Networks that hold what runtimes are known to get wrong, as text, with random weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx

from ..models import images, parsed

SQUEEZENET = Path(__file__).resolve().parents[2] / "engine" / "assets" / "squeezenet1_1.onnx"

# Pools that overlap, tile, are padded, have strides of their own, and are wide; a square dense
# layer.
PLAIN = """<ir_version: 8, opset_import: ["": 18]>
plain (float[N,3,37,38] x) => (float[N,10] prob) {
    c1 = Conv<pads=[1,1,1,1]>(x, w1, b1)
    r1 = Relu(c1)
    p1 = MaxPool<kernel_shape=[3,3], strides=[2,2], pads=[1,1,1,1]>(r1)
    c2 = Conv<pads=[1,1,1,1]>(p1, w2)
    r2 = Clip(c2, low, high)
    p2 = MaxPool<kernel_shape=[2,2], strides=[2,2]>(r2)
    p3 = MaxPool<kernel_shape=[7,7], strides=[1,1], pads=[3,3,3,3]>(p2)
    p4 = MaxPool<kernel_shape=[3,2], strides=[2,3], ceil_mode=1>(c2)
    g4 = GlobalMaxPool(p4)
    m = Mul(p3, g4)
    a = AveragePool<kernel_shape=[3,3], strides=[2,2]>(m)
    f = Flatten(a)
    d1 = Gemm<transB=1>(f, v1)
    r3 = Relu(d1)
    d2 = Gemm<transB=1>(r3, v2)
    r4 = Relu(d2)
    scores = Gemm<transB=1>(r4, v3)
    prob = Softmax(scores)
}"""
PLAIN_WEIGHTS = {
    "w1": (16, 3, 3, 3), "b1": (16,), "w2": (16, 16, 3, 3),
    "v1": (64, 256), "v2": (64, 64), "v3": (10, 64),
}  # fmt: skip


def plain() -> onnx.ModelProto:
    """Convolutions, rectifiers and pools of all kinds, and dense layers."""
    found = _random(PLAIN_WEIGHTS)
    return parsed(PLAIN, {**found, "low": np.float32(0), "high": np.float32(6)})


# kernel, stride, group: of 32 channels in and out each. A group of 32 is depthwise.
LAYERS = [(kernel, stride, 1) for kernel in (1, 3, 5) for stride in (1, 2)]
# In a network of their own: ONNX's evaluator has no transposed convolution in groups.
GROUPED = [
    (kernel, stride, group)
    for group in (2, 32)
    for kernel in (1, 3, 5)
    for stride in (1, 2)
    if (kernel, group) != (1, 32)
]


def grouped() -> onnx.ModelProto:
    """The same in groups, and depthwise."""
    return residual(GROUPED)


def residual(layers: list[tuple[int, int, int]] = LAYERS) -> onnx.ModelProto:
    """Layers of as many channels in as out, of every kernel, stride and group, with a shortcut
    around each; transposed ones as well."""
    lines = ["h0 = Conv<pads=[1,1,1,1]>(x, stem)"]
    shapes: dict[str, tuple[int, ...]] = {"stem": (32, 3, 3, 3)}
    at, size = "h0", 24
    for number, (kernel, stride, group) in enumerate(layers, 1):
        w, pad = f"w{number}", kernel // 2
        shapes[w] = (32, 32 // group, kernel, kernel)
        window = f"pads=[{pad},{pad},{pad},{pad}], strides=[{stride},{stride}], group={group}"
        lines.append(f"r{number} = Relu({at})\nc{number} = Conv<{window}>(r{number}, {w})")
        short = at
        if stride > 1:
            short = f"s{number}"
            lines.append(f"{short} = AveragePool<kernel_shape=[1,1], strides=[2,2]>({at})")
            size = -(-size // 2)
        at = f"h{number}"
        lines.append(f"{at} = Add(c{number}, {short})")
        if stride > 1:  # and up again
            t, u = f"t{number}", f"u{number}"
            shapes[t] = (32, 32 // group, 2, 2)
            lines.append(
                f"{u} = ConvTranspose<strides=[2,2], group={group}>({at}, {t})\n"
                f"g{number} = Relu({u})"
            )
            at = f"g{number}"
            size *= 2
    lines += ["p = GlobalAveragePool(" + at + ")", "f = Flatten(p)", "scores = MatMul(f, v)"]
    shapes["v"] = (32, 10)
    body = "\n    ".join(lines)
    text = f"""<ir_version: 8, opset_import: ["": 18]>
residual (float[N,3,24,24] x) => (float[N,10] scores) {{
    {body}
}}"""
    return parsed(text, _random(shapes))


def squeezenet() -> onnx.ModelProto:
    """The bundled one."""
    return onnx.load(SQUEEZENET)


def _random(shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        name: (rng.standard_normal(s) * (2 / max(1, np.prod(s[1:]))) ** 0.5).astype(np.float32)
        for name, s in shapes.items()
    }


@dataclass(frozen=True)
class Net:
    """A network by name; small ones are in the default suite."""

    name: str
    build: Callable[[], onnx.ModelProto]
    shape: tuple[int, ...]
    small: bool = True
    # Of the noise, of each row its own or one of all: such that no unit lies within rounding of a
    # rectifier's kink or a pool's tie.
    seeds: tuple[int, ...] = (1,)

    def feeds(self, rows: int) -> dict[str, np.ndarray]:
        """Images, and classes: the top one, then the fourth, ..."""
        name = self.build().graph.input[0].name
        each = rows if len(self.seeds) == 1 else 1
        x = np.concatenate([images(each, *self.shape, seed=s) for s in self.seeds[:rows]])
        return {
            name: x,
            "target": np.array([-1, 3, 0, 7][:rows], np.int64),
        }


NETS = (
    Net("plain", plain, (3, 37, 38)),
    Net("ResNet-like", residual, (3, 24, 24), seeds=(110,)),
    Net("grouped", grouped, (3, 24, 24), seeds=(200,)),
    Net("SqueezeNet", squeezenet, (3, 227, 227), small=False, seeds=(25, 93, 107)),
)
