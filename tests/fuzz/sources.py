"""Small valid models of many operators, each drawn from a number."""

from __future__ import annotations

import importlib
import pkgutil
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

import backlight

from .. import models
from ..export import table
from ..export.drawn import KINDS, Draw
from ..export.harness import Row, build

NARROWER = 16  # the bundled network's channels, divided by this


@dataclass
class Source:
    """A model, what to explain of it and by what (None: as found), and the files beside it."""

    model: onnx.ModelProto
    of: str | None = None
    wrt: str | None = None
    files: dict[str, bytes] = field(default_factory=dict)


@cache
def rows() -> list[Row]:
    """The rows of the rules' tests: every operator, every family of its attributes."""
    found: list[Row] = []
    for module in pkgutil.iter_modules(table.__path__):
        found += importlib.import_module(f"{table.__name__}.{module.name}").ROWS
    return found


def one_operator(rng: random.Random) -> Source:
    row = rng.choice(rows())
    dtype = rng.choice(("float32", "float32", "float32", "float16", "float64"))
    opset = rng.choice(list(row.opsets))
    model = build(row.text, row.values(), row.consts, opset, dtype, row.dims, row.of)
    return Source(model, row.of, rng.choice(row.wanted()))


def random_graph(rng: random.Random) -> Source:
    """A classifier of up to eight random nodes."""
    number = rng.randrange(2**31)
    draw = Draw(number)
    shape = (draw.int(1, 2), draw.int(1, 3), draw.int(3, 5), draw.int(3, 5))
    draw.shapes["x"] = shape
    while len(draw.nodes) < 6:
        draw.one(KINDS)(draw)  # type: ignore[operator]
    last = list(draw.shapes)[-1]
    if not draw.shapes[last]:
        last = draw.add("Unsqueeze", [last, draw.const([0], np.int64)], (1,))
    across = draw.shapes[last]
    flat = draw.add("Flatten", [last], (across[0], int(np.prod(across[1:]))), axis=1)
    dense = draw.add("MatMul", [flat, draw.weights(draw.shapes[flat][1], 5)], (across[0], 5))
    draw.nodes.append(helper.make_node("Softmax", [dense], ["y"], axis=1))
    initializers = [
        numpy_helper.from_array(v.astype(np.float32) if v.dtype == np.float64 else v, name)
        for name, v in draw.consts.items()
    ]
    ends = [
        helper.make_tensor_value_info("x", 1, ("N" if rng.random() < 0.5 else shape[0], *shape[1:]))
    ]
    outs = [helper.make_tensor_value_info("y", 1, (None, 5))]
    graph = helper.make_graph(draw.nodes, f"g{number}", ends, outs, initializers)
    imports = [helper.make_opsetid("", rng.choice((20, 21, 22)))]
    return Source(helper.make_model(graph, opset_imports=imports, ir_version=10))


@cache
def _squeezenet() -> bytes:
    path = Path(backlight.__file__).parent / "engine" / "assets" / "squeezenet1_1.onnx"
    model = onnx.load(path)
    for tensor in model.graph.initializer:
        weights = numpy_helper.to_array(tensor)
        # The image keeps its three channels; all others are fewer.
        keep = [n if n == 3 else -(-n // NARROWER) for n in weights.shape[:2]]
        cut = weights[tuple(slice(k) for k in keep)]
        tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(cut), tensor.name))
    for value, dims in (
        (model.graph.input[0], ["N", 3, 35, 35]),
        (model.graph.output[0], ["N", 63]),
    ):
        value.CopyFrom(helper.make_tensor_value_info(value.name, 1, dims))
    del model.graph.value_info[:]
    return model.SerializeToString()


def squeezenet(rng: random.Random) -> Source:
    """The bundled network's structure, a sixteenth as wide."""
    model = onnx.ModelProto()
    model.ParseFromString(_squeezenet())
    return Source(model)


FUNCTIONS = """<ir_version: 9, opset_import: ["": 18, "local": 1]>
g (float[N,3,8,8] x) => (float[N,5] prob) {
    h = Conv<pads=[1,1,1,1]>(x, w, b)
    r = local.block(h)
    q = local.scaled<alpha=0.5>(r)
    p = GlobalAveragePool(q)
    f = Flatten(p)
    scores = Gemm<transB=1>(f, v, c)
    prob = Softmax(scores)
}
<domain: "local", opset_import: ["": 18]>
scaled <alpha: float = 1.0> (a) => (z) { z = LeakyRelu<alpha: float = @alpha>(a) }
<domain: "local", opset_import: ["": 18, "local": 1]>
block (a) => (z) { one = Constant<value=float {1.0}>() s = Add(a, one) z = local.inner(s) }
<domain: "local", opset_import: ["": 18]>
inner (a) => (z) { s = Sigmoid(a) z = Mul(a, s) }
"""
BRANCHES = """<ir_version: 9, opset_import: ["": 18]>
g (float[N,3,8,8] x, bool flag) => (float[N,5] prob) {
    h = Conv<pads=[1,1,1,1]>(x, w, b)
    always = Constant<value=bool {1}>()
    r = If (always) <
        then_branch = one () => (float[N,4,8,8] t) { t = Relu(h) },
        else_branch = two () => (float[N,4,8,8] e) { e = Neg(h) }
    >
    s = If (flag) <
        then_branch = three () => (float k2) { k2 = Constant<value=float {2.0}>() },
        else_branch = four () => (float k3) { k3 = Identity(three) }
    >
    again = Mul(r, s)
    p = GlobalAveragePool(again)
    f = Flatten(p)
    scores = Gemm<transB=1>(f, v, c)
    prob = Softmax(scores)
}"""
QUANTISED = """<ir_version: 9, opset_import: ["": 18]>
g (float[N,3,8,8] x) => (float[N,5] prob) {
    q = QuantizeLinear(x, scale, zero)
    xd = DequantizeLinear(q, scale, zero)
    wd = DequantizeLinear<axis=0>(wq, ws)
    h = Conv<pads=[1,1,1,1], strides=[2,2]>(xd, wd, b)
    r = Clip(h, low, high)
    a = AveragePool<kernel_shape=[2,2], strides=[2,2], ceil_mode=1>(r)
    p = ReduceMean<keepdims=0>(a, axes)
    scores = Gemm<transB=1>(p, v, c)
    prob = Softmax(scores)
}"""
LATER = """<ir_version: 9, opset_import: ["": 18]>
g (uint8[N,10,10,3] image) => (float[N,5] prob) {
    x0 = Cast<to=1>(image)
    x1 = Transpose<perm=[0,3,1,2]>(x0)
    x = Div(x1, scale)
    h = Conv<kernel_shape=[3,3], group=1, dilations=[2,2]>(x, w, b)
    g = HardSigmoid(h)
    t = Mul(h, g)
    z = Resize<mode="linear">(t, , scales)
    m = MaxPool<kernel_shape=[3,3], strides=[2,2], pads=[1,1,1,1]>(z)
    j = Concat<axis=1>(m, m)
    sl = Slice(j, starts, ends, axes1)
    n = InstanceNormalization(sl, b, b)
    p = ReduceMean<keepdims=0>(n, axes)
    scores = Gemm<transB=1>(p, v, c)
    prob = Sigmoid(scores)
}"""


def _written(text: str, **more: np.ndarray) -> Callable[[random.Random], Source]:
    def made(rng: random.Random) -> Source:
        return Source(models.parsed(text, {**models.weights(), **more}))

    return made


def older(rng: random.Random) -> Source:
    """As the older exporters wrote."""
    return Source(models.older())


functions = _written(FUNCTIONS)
branches = _written(BRANCHES, three=np.float32(3))
quantised = _written(
    QUANTISED, scale=np.float32(0.1), zero=np.uint8(128), wq=np.ones((4, 3, 3, 3), np.int8),
    ws=np.full(4, 0.1, np.float32), low=np.float32(0), high=np.float32(6), axes=np.array([2, 3]),
)  # fmt: skip
later = _written(
    LATER, scale=np.float32(255), scales=np.array([1, 1, 2, 1.5], np.float32),
    starts=np.array([2]), ends=np.array([6]), axes1=np.array([1]), axes=np.array([2, 3]),
)  # fmt: skip


def plain(rng: random.Random) -> Source:
    return Source(models.tiny())


def data_aside(rng: random.Random) -> Source:
    """A classifier whose weights lie in a file beside it."""
    model = models.tiny()
    data = b""
    for tensor in model.graph.initializer:
        raw = numpy_helper.to_array(tensor).tobytes()
        tensor.ClearField("float_data")
        tensor.ClearField("raw_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        entries = {"location": "weights.data", "offset": len(data), "length": len(raw)}
        for key, value in entries.items():
            tensor.external_data.add(key=key, value=str(value))
        data += raw
    return Source(model, files={"weights.data": data})


SOURCES: list[tuple[Callable[[random.Random], Source], int]] = [
    (one_operator, 40),
    (random_graph, 15),
    (squeezenet, 5),
    (older, 6),
    (functions, 6),
    (branches, 6),
    (quantised, 6),
    (later, 8),
    (plain, 4),
    (data_aside, 4),
]


def drawn(rng: random.Random) -> Source:
    """Any of them."""
    kinds, weights = zip(*SOURCES, strict=True)
    return rng.choices(kinds, weights)[0](rng)
