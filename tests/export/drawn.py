"""Random graphs of a few nodes, with fan-out and broadcasting, each drawn from its number alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import onnx
from onnx import helper

Shape = tuple[int, ...]


class Draw:
    """A graph while it is drawn: tensors by name with their shapes, all that depend on x."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.consts: dict[str, np.ndarray] = {}
        self.shapes: dict[str, Shape] = {}
        self.used: set[str] = set()

    def one(self, choices: Sequence[object]) -> object:
        return choices[int(self.rng.integers(len(choices)))]

    def int(self, low: int, high: int) -> int:
        """low..high, both included."""
        return int(self.rng.integers(low, high + 1))

    def const(self, value: object, kind: type = np.float64) -> str:
        name = f"c{len(self.consts)}"
        self.consts[name] = np.asarray(value, kind)
        return name

    def weights(self, *shape: int) -> str:
        return self.const(self.rng.standard_normal(shape) * 0.7)

    def pick(self, rank: Callable[[int], bool] = lambda r: True) -> str | None:
        """A tensor of such a rank; newer ones are likelier."""
        names = [n for n, s in self.shapes.items() if rank(len(s))]
        if not names:
            return None
        name = names[-1] if self.rng.random() < 0.6 else str(self.one(names))
        self.used.add(name)
        return name

    def add(self, op: str, inputs: Sequence[str], shape: Shape, **attributes: object) -> str:
        return self.several(op, inputs, [shape], **attributes)[0]

    def several(
        self, op: str, inputs: Sequence[str], shapes: Sequence[Shape], **attributes: object
    ) -> list[str]:
        names = [f"t{len(self.nodes)}{'ab'[i]}" for i in range(len(shapes))]
        self.nodes.append(helper.make_node(op, list(inputs), names, **attributes))
        self.shapes.update(zip(names, shapes, strict=True))
        return names


UNARY: list[tuple[str, dict[str, object]]] = [
    ("Relu", {}),
    ("LeakyRelu", {"alpha": 0.2}),
    ("Elu", {}),
    ("Selu", {}),
    ("Tanh", {}),
    ("Sigmoid", {}),
    ("Softplus", {}),
    ("Softsign", {}),
    ("Erf", {}),
    ("Mish", {}),
    ("HardSigmoid", {"alpha": 0.3}),
    ("HardSwish", {}),
    ("Gelu", {"approximate": "tanh"}),
    ("ThresholdedRelu", {"alpha": 0.1}),
    ("Neg", {}),
    ("Abs", {}),
    ("Identity", {}),
]


def unary(d: Draw) -> None:
    x = d.pick()
    op, attributes = d.one(UNARY)  # type: ignore[misc]
    assert x
    d.add(op, [x], d.shapes[x], **attributes)


def binary(d: Draw) -> None:
    a, b = d.pick(), d.pick()
    assert a
    assert b
    op = str(d.one(["Add", "Sub", "Mul", "Max", "Min", "Sum", "Mean", "Where"]))
    try:
        shape = np.broadcast_shapes(d.shapes[a], d.shapes[b])
    except ValueError:
        b = d.weights(*[s if d.rng.random() < 0.5 else 1 for s in d.shapes[a]][d.int(0, 1) :])
        shape = d.shapes[a]
    if np.prod(shape) > 400:
        return
    if op == "Where":
        mask = d.const(d.rng.random(shape[-1:]) < 0.5, bool)
        d.add(op, [mask, a, b], shape)
    else:
        if op == "Mean" and d.shapes[a] != shape:
            op = "Sum"  # the reference's Mean adds in place
        d.add(op, [a, b], shape)


def quotient(d: Draw) -> None:
    x, y = d.pick(), d.pick()
    assert x
    assert y
    square = d.add("Mul", [y, y], d.shapes[y])
    total = d.add("ReduceMean", [square], tuple(1 for _ in d.shapes[y]), keepdims=1)
    below = d.add("Add", [total, d.const(1.0)], d.shapes[total])
    if len(d.shapes[below]) <= len(d.shapes[x]):
        d.add(str(d.one(["Div", "Mul"])), [x, below], d.shapes[x])


def images(r: int) -> bool:
    return r == 4


def conv(d: Draw) -> None:
    x = d.pick(images)
    if x is None:
        return
    n, c, h, w = d.shapes[x]
    if min(h, w) < 2:
        return
    group = c if d.rng.random() < 0.4 else 1
    out = c if group > 1 else d.int(1, 3)
    k, s, p = (
        [d.int(1, 2) for _ in "hw"],
        [d.int(1, 2) for _ in "hw"],
        [d.int(0, 1) for _ in "aaaa"],
    )
    l = [1 if kk == 1 else d.int(1, 2) for kk in k]
    size = [
        (n_ + p[i] + p[i + 2] - (k[i] - 1) * l[i] - 1) // s[i] + 1 for i, n_ in enumerate((h, w))
    ]
    if min(size) < 1:
        return
    weight = d.weights(out, c // group, *k)
    inputs = [x, weight] + ([d.weights(out)] if d.rng.random() < 0.5 else [])
    y = d.add("Conv", inputs, (n, out, *size), strides=s, pads=p, dilations=l, group=group)
    if d.rng.random() < 0.5:
        d.add("Relu", [y], d.shapes[y])


def pool(d: Draw) -> None:
    x = d.pick(images)
    if x is None or min(d.shapes[x][2:]) < 2:
        return
    n, c, h, w = d.shapes[x]
    k, s = [d.int(1, 2) for _ in "hw"], [d.int(1, 2) for _ in "hw"]
    size = [(n_ - k[i]) // s[i] + 1 for i, n_ in enumerate((h, w))]
    op = str(d.one(["MaxPool", "AveragePool", "LpPool"]))
    d.add(op, [x], (n, c, *size), kernel_shape=k, strides=s)


def norm(d: Draw) -> None:
    x = d.pick(images)
    if x is None:
        return
    shape = d.shapes[x]
    c = shape[1]
    op = str(d.one(["BatchNormalization", "InstanceNormalization", "GlobalAveragePool", "Softmax"]))
    if op == "GlobalAveragePool":
        d.add(op, [x], (*shape[:2], 1, 1))
    elif op == "Softmax":
        d.add(str(d.one([op, "LogSoftmax"])), [x], shape, axis=d.int(-2, 3))
    else:
        more = [d.weights(c), d.const(np.abs(d.rng.standard_normal(c)) + 0.5)]
        given = [d.weights(c), d.weights(c)]
        inputs = [x, *given, *(more if op == "BatchNormalization" else [])]
        d.add(op, inputs, shape, epsilon=0.1)


def layer(d: Draw) -> None:
    x = d.pick(lambda r: r >= 1)
    if x is None:
        return
    shape = d.shapes[x]
    axis = d.int(0, len(shape) - 1)
    d.add("LayerNormalization", [x, d.weights(*shape[axis:])], shape, axis=axis, epsilon=0.1)


def reduce(d: Draw) -> None:
    x = d.pick(lambda r: r >= 1)
    if x is None:
        return
    shape = d.shapes[x]
    op = str(
        d.one("ReduceMean ReduceSum ReduceMax ReduceMin ReduceL2 ReduceL1 ReduceLogSumExp".split())
    )
    axes = sorted({d.int(0, len(shape) - 1) for _ in range(2)})
    keep = d.int(0, 1)
    left = tuple(1 if i in axes else s for i, s in enumerate(shape) if keep or i not in axes)
    written = [a - len(shape) if d.rng.random() < 0.5 else a for a in axes]
    d.add(op, [x, d.const(written, np.int64)], left, keepdims=keep)


def move(d: Draw) -> None:
    x = d.pick(lambda r: r >= 1)
    if x is None:
        return
    shape = d.shapes[x]
    rank = len(shape)
    kind = str(d.one(["Transpose", "Flatten", "Reshape", "Unsqueeze", "Tile", "Expand", "Pad"]))
    if kind == "Transpose":
        perm = [int(i) for i in d.rng.permutation(rank)]
        d.add(kind, [x], tuple(shape[i] for i in perm), perm=perm)
    elif kind == "Flatten":
        axis = d.int(0, rank)
        d.add(kind, [x], (int(np.prod(shape[:axis])), int(np.prod(shape[axis:]))), axis=axis)
    elif kind == "Reshape" and rank > 1:
        d.add(kind, [x, d.const([0, -1], np.int64)], (shape[0], int(np.prod(shape[1:]))))
    elif kind == "Unsqueeze" and rank < 4:
        d.add(kind, [x, d.const([1], np.int64)], (shape[0], 1, *shape[1:]))
    elif kind == "Tile" and np.prod(shape) < 100:
        repeats = [d.int(1, 2) for _ in shape]
        tiled = tuple(s * r for s, r in zip(shape, repeats, strict=True))
        d.add(kind, [x, d.const(repeats, np.int64)], tiled)
    elif kind == "Expand" and rank < 4 and np.prod(shape) < 100:
        d.add(kind, [x, d.const([2, *[1] * rank], np.int64)], (2, *shape))
    elif kind == "Pad" and np.prod(shape) < 150 and min(shape) > 1:
        ends = [d.int(0, 1) for _ in range(2 * rank)]
        padded = tuple(s + ends[i] + ends[i + rank] for i, s in enumerate(shape))
        mode = str(d.one(["constant", "edge", "reflect"]))
        d.add(kind, [x, d.const(ends, np.int64)], padded, mode=mode)


def cut(d: Draw) -> None:
    x = d.pick(lambda r: r >= 1)
    if x is None:
        return
    shape = d.shapes[x]
    axis = d.int(0, len(shape) - 1)
    size, written = shape[axis], axis - len(shape) if d.rng.random() < 0.5 else axis

    def with_size(n: int) -> Shape:
        return (*shape[:axis], n, *shape[axis + 1 :])

    kind = str(d.one(["Slice", "Split", "Gather", "Concat", "TopK", "Scatter", "Resize"]))
    if kind == "Slice":
        start, end, step = d.int(-size - 1, size), d.int(-size - 1, size + 1), d.int(-2, 2) or 1
        count = len(range(size)[start:end:step])
        if count:
            given = [d.const([v], np.int64) for v in (start, end, written, step)]
            d.add(kind, [x, *given], with_size(count))
    elif kind == "Split" and size > 1:
        first = d.int(1, size - 1)
        sizes = d.const([first, size - first], np.int64)
        d.several(kind, [x, sizes], [with_size(first), with_size(size - first)], axis=written)
    elif kind == "Gather":
        at = [d.int(-size, size - 1) for _ in range(d.int(1, 5))]
        d.add(kind, [x, d.const(at, np.int64)], with_size(len(at)), axis=written)
    elif kind == "Concat" and np.prod(shape) < 150:
        d.add(kind, [x, d.weights(*shape), x], with_size(3 * size), axis=written)
    elif kind == "TopK":
        k = d.int(1, size)
        inputs = [x, d.const([k], np.int64)]
        shapes = [with_size(k), with_size(k)]
        _, places = d.several(kind, inputs, shapes, axis=written, largest=d.int(0, 1))
        del d.shapes[places]
    elif kind == "Scatter":
        index = np.broadcast_to(d.rng.integers(-size, size), with_size(1))
        how = str(d.one(["none", "add", "mul", "max", "min"]))
        inputs = [x, d.const(index, np.int64), d.weights(*with_size(1))]
        d.add("ScatterElements", inputs, shape, axis=axis, reduction=how)
    elif kind == "Resize" and np.prod(shape) < 100 and len(shape) == 4 and axis > 1:
        scales = np.ones(4, np.float32)
        scales[axis] = float(d.one([2.0, 1.5, 0.6]))
        out = with_size(int(np.floor(size * scales[axis])))
        if min(out):
            inputs = [x, "", d.const(scales, np.float32)]
            d.add(kind, inputs, out, mode=str(d.one(["linear", "nearest"])))


def dense(d: Draw) -> None:
    x = d.pick(lambda r: r >= 2)
    if x is None:
        return
    shape, out = d.shapes[x], d.int(1, 3)
    if len(shape) == 2 and d.rng.random() < 0.5:
        inputs = [x, d.weights(out, shape[1]), d.weights(out)]
        d.add("Gemm", inputs, (shape[0], out), transB=1, alpha=0.5)
    elif d.rng.random() < 0.3:
        # With itself: both operands are of the way.
        turned = d.add(
            "Transpose",
            [x],
            (*shape[:-2], shape[-1], shape[-2]),
            perm=[*range(len(shape) - 2), len(shape) - 1, len(shape) - 2],
        )
        d.add("MatMul", [x, turned], (*shape[:-1], shape[-2]))
    else:
        d.add("MatMul", [x, d.weights(shape[-1], out)], (*shape[:-1], out))


KINDS = [unary, unary, binary, binary, quotient, conv, conv, pool, norm, layer, reduce, move, cut]
KINDS += [cut, dense]


def draw(seed: int) -> tuple[onnx.ModelProto, onnx.ModelProto, np.ndarray]:
    """The graph in float64 and in float32, and an x for it. Its batch may have a mere name."""
    d = Draw(seed)
    shape = (d.int(1, 2), d.int(1, 3), d.int(3, 5), d.int(3, 5))
    d.shapes["x"] = shape
    while len(d.nodes) < 8:
        d.one(KINDS)(d)  # type: ignore[operator]
    # Whatever nobody used joins the last tensor, so that all of the graph is on the way.
    y = list(d.shapes)[-1]
    for name in list(d.shapes)[:-1]:
        if name not in d.used and name != "x":
            mean = d.add("ReduceMean", [name], (), keepdims=0)
            y = d.add("Add", [y, mean], d.shapes[y])
    d.nodes.append(helper.make_node("Identity", [y], ["y"]))
    dims = ("N" if d.rng.random() < 0.5 else shape[0], *shape[1:])
    opset = int(d.one([20, 21, 22]))  # type: ignore[call-overload]

    def model(kind: type) -> onnx.ModelProto:
        element = helper.np_dtype_to_tensor_dtype(np.dtype(kind))
        graph = helper.make_graph(
            d.nodes,
            f"fuzz{seed}",
            [helper.make_tensor_value_info("x", element, dims)],
            [helper.make_tensor_value_info("y", element, None)],
            [
                onnx.numpy_helper.from_array(v.astype(kind) if v.dtype == np.float64 else v, name)
                for name, v in d.consts.items()
            ],
        )
        imports = [helper.make_opsetid("", opset)]
        return helper.make_model(graph, opset_imports=imports, ir_version=10)

    return model(np.float64), model(np.float32), d.rng.standard_normal(shape)
