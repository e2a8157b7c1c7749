"""Rows of the rule table, and the oracles that they are held against.

A row is one node (or a few) as ONNX text, the shapes of its inputs, and the same in PyTorch:

    Row("Conv", "strided", "y = Conv<strides=[2,2]>(x, w)", {"x": (1, 2, 7, 7), "w": (3, 2, 3, 3)},
        torch=lambda x, w: F.conv2d(x, w, stride=2), opsets=(7, 11, 22))
"""

from __future__ import annotations

import itertools
import math
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import onnx.parser
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

from backlight.export.saliency import explain_graph

from .recurrent import GRU, LSTM, RNN

Array = np.ndarray[Any, Any]
_ONNX = {
    "float64": "double",
    "float32": "float",
    "float16": "float16",
    "int64": "int64",
    "int32": "int32",
    "bool": "bool",
    "uint8": "uint8",
    "int8": "int8",
}


def signed(rng: np.random.Generator, shape: Sequence[int]) -> Array:
    """Normal numbers, kept 0.05 away from 0: no kink within the reach of a finite difference."""
    x = rng.standard_normal(tuple(shape))
    return np.where(np.abs(x) < 0.05, 0.05 + np.abs(x), x)


def positive(rng: np.random.Generator, shape: Sequence[int]) -> Array:
    """Uniform in [0.3, 2]."""
    return rng.uniform(0.3, 2.0, tuple(shape))


def distinct(rng: np.random.Generator, shape: Sequence[int]) -> Array:
    """All different by at least 0.1, signed: no ties for maxima."""
    n = int(np.prod(shape))
    return (rng.permutation(n) - n / 2 + 0.37).reshape(tuple(shape)) * 0.1


def kinked(*points: float) -> Callable[[np.random.Generator, Sequence[int]], Array]:
    """Uniform in [-4, 8], kept 0.02 away from the given points (and 0)."""

    def sample(rng: np.random.Generator, shape: Sequence[int]) -> Array:
        x = rng.uniform(-4, 8, tuple(shape))
        for p in (0.0, *points):
            x = np.where(np.abs(x - p) < 0.02, p + 0.03, x)
        return x

    return sample


@dataclass(frozen=True)
class Row:
    """One case of the table.

    op_type: whose rule it is a row of. text: node lines in ONNX's text form; `y` is the output.
    inputs: shape per name (sampled in float64 by `sample`), or an array: float64 arrays are
    inputs with that value, any other dtype too. consts: arrays that become initializers.
    wrt: names to differentiate by; default: all float inputs given by shape.
    opsets: the opsets that the row is built at (and upgraded from).
    torch: the same function on torch tensors (inputs in order, then none of the consts), or None
    where PyTorch has no such operator: say why in `no_torch`.
    dims: other dimensions to declare for an input, such as {"x": ("N", 3, "H", "W")}.
    rtol: of the elementwise comparison in float64. fd: the step of the finite difference.
    of: the output to differentiate, when not y.
    """

    op_type: str
    name: str
    text: str
    inputs: Mapping[str, Sequence[int] | Array]
    torch: Callable[..., Any] | None = None
    no_torch: str = ""
    consts: Mapping[str, Array] = field(default_factory=dict)
    wrt: Sequence[str] | None = None
    sample: Callable[[np.random.Generator, Sequence[int]], Array] = signed
    opsets: Sequence[int] = (18,)
    dims: Mapping[str, Sequence[int | str]] = field(default_factory=dict)
    rtol: float = 1e-6  # float64, but some attributes and constants are float32 by the standard
    fd: float = 1e-5
    of: str = "y"
    runtime: bool = True  # also run in float32 on ONNX Runtime
    runtime_rtol: float = 1e-4  # float32, sums of up to a few hundred
    no_reference: str = ""  # why ONNX's reference evaluator can't serve as the oracle here
    lowering: str = "portable"

    @property
    def id(self) -> str:
        return f"{self.op_type}-{self.name}".replace(" ", "_")

    def wanted(self) -> list[str]:
        if self.wrt is not None:
            return list(self.wrt)
        return [n for n, v in self.inputs.items() if not isinstance(v, np.ndarray)]

    def values(self) -> dict[str, Array]:
        rng = np.random.default_rng(zlib.crc32(self.id.encode()))
        return {
            n: v if isinstance(v, np.ndarray) else np.asarray(self.sample(rng, v))
            for n, v in self.inputs.items()
        }


def cotangent(row: Row, shape: tuple[int, ...]) -> np.ndarray:
    """Signed: seeded with a rectifier's own output, the three rules could not be told apart."""
    return np.random.default_rng(7).standard_normal(shape)


@dataclass(frozen=True)
class Exact:
    """A kink or tie, exactly: cotangent `ct` of y must give `want` for `wrt` under `rule`."""

    op_type: str
    name: str
    text: str
    inputs: Mapping[str, Array]
    ct: Array
    want: Mapping[str, Array]
    rule: str = "vanilla"
    opset: int = 18
    consts: Mapping[str, Array] = field(default_factory=dict)
    double: bool = True  # False where the operator takes no float64

    @property
    def id(self) -> str:
        return f"{self.op_type}-{self.rule}-{self.name}".replace(" ", "_")


def build(
    text: str,
    values: Mapping[str, Array],
    consts: Mapping[str, Array],
    opset: int,
    dtype: str = "float64",
    dims: Mapping[str, Sequence[int | str]] | None = None,
    output: str = "y",
) -> onnx.ModelProto:
    """A model of the given node lines, its floats in `dtype`."""

    def typed(array: Array) -> Array:
        return np.asarray(array.astype(dtype) if array.dtype.kind == "f" else array)

    heads = []
    for name, value in values.items():
        value = typed(value)
        shape = (dims or {}).get(name, value.shape)
        brackets = f"[{','.join(map(str, shape))}]" if len(shape) else ""
        heads.append(f"{_ONNX[value.dtype.name]}{brackets} {name}")
    source = (
        f'<ir_version: 8, opset_import: ["": {opset}]>\n'
        f"row ({', '.join(heads)}) => ({_ONNX[dtype]} {output}) {{\n{text}\n}}"
    )
    model = onnx.parser.parse_model(source)
    for name, value in consts.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(typed(value), name))
    # `double y` is a scalar in the text form: the shape is for inference to find.
    model.graph.output[0].type.tensor_type.ClearField("shape")
    return model


def vjp_graph(
    model: onnx.ModelProto, wrt: Sequence[str], rule: str = "vanilla", of: str = "y", **kw: Any
) -> onnx.ModelProto:
    return explain_graph(model, (rule,), of=of, wrt=list(wrt), cotangent="input", **kw).to_proto()


class GlobalLpPool(OpRun):
    """ONNX's reference evaluator has none, and no runtime has version 22."""

    op_domain = ""

    def _run(self, x: Array, p: int = 2) -> tuple[Array]:
        axes = tuple(range(2, x.ndim))
        return ((np.abs(x) ** p).sum(axis=axes, keepdims=True) ** (1 / p),)


class GridSample(OpRun):
    """ONNX's reference evaluator keeps places in float32. Neighbour by neighbour, as its text."""

    op_domain = ""

    def _run(
        self,
        x: Array,
        grid: Array,
        mode: str = "linear",
        padding_mode: str = "zeros",
        align_corners: int = 0,
    ) -> tuple[Array]:
        sizes = x.shape[2:]
        y = np.zeros((*x.shape[:2], *grid.shape[1:-1]), x.dtype)
        for at in np.ndindex(*grid.shape[:-1]):
            axes = [
                _neighbours(float(g), size, mode, padding_mode, bool(align_corners))
                for g, size in zip(grid[at][::-1], sizes, strict=True)
            ]
            for taps in itertools.product(*axes):
                if all(index is not None for index, _ in taps):
                    weight = math.prod(w for _, w in taps)
                    pixel = (slice(None), *(index for index, _ in taps))
                    y[(at[0], slice(None), *at[1:])] += weight * x[at[0]][pixel]
        return (y,)


def _neighbours(
    g: float, size: int, mode: str, padding: str, align: bool
) -> list[tuple[int | None, float]]:
    """Index (None: outside) and weight of the pixels that are read along one axis."""
    at = (g + 1) / 2 * (size - 1) if align else ((g + 1) * size - 1) / 2
    low = math.floor(at)
    if mode == "nearest":
        taps = [(int(np.rint(at)), 1.0)]
    elif mode in ("linear", "bilinear"):
        taps = [(low, 1 - (at - low)), (low + 1, at - low)]
    else:
        taps = [(low + k, _keys(abs(at - low - k))) for k in (-1, 0, 1, 2)]
    return [(_inside(index, size, padding, align), weight) for index, weight in taps]


def _keys(d: float, a: float = -0.75) -> float:
    if d <= 1:
        return (a + 2) * d**3 - (a + 3) * d**2 + 1
    return a * d**3 - 5 * a * d**2 + 8 * a * d - 4 * a if d < 2 else 0.0


def _inside(index: int, size: int, padding: str, align: bool) -> int | None:
    if padding == "zeros":
        return index if 0 <= index < size else None
    while padding == "reflection" and not 0 <= index < size and size > 1:
        edge = 0 if align else 1
        index = -index - edge if index < 0 else 2 * (size - 1) - index + edge
    return min(max(index, 0), size - 1)


def evaluator_of(model: onnx.ModelProto) -> ReferenceEvaluator:
    return ReferenceEvaluator(model, new_ops=[GlobalLpPool, GridSample, GRU, LSTM, RNN])


def run_reference(model: onnx.ModelProto, feeds: Mapping[str, Array]) -> dict[str, Array]:
    names = [o.name for o in model.graph.output]
    results = evaluator_of(model).run(None, dict(feeds))
    return dict(zip(names, (np.asarray(r) for r in results), strict=True))


def run_runtime(model: onnx.ModelProto, feeds: Mapping[str, Array]) -> dict[str, Array]:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    names = [o.name for o in session.get_outputs()]
    return dict(zip(names, session.run(None, dict(feeds)), strict=True))


def saliency_names(rule: str, wrt: Sequence[str]) -> list[str]:
    if len(wrt) == 1:
        return [f"saliency_{rule}"]
    return [f"saliency_{rule}_{i}" for i in range(len(wrt))]


def finite_difference(
    model: onnx.ModelProto, feeds: Mapping[str, Array], wrt: str, ct: Array, step: float
) -> Array:
    """d<ct, y>/d wrt, element by element, by central differences in float64."""
    evaluator = evaluator_of(model)
    base = np.array(feeds[wrt])
    gradient = np.zeros(base.shape)
    for index in np.ndindex(*base.shape):
        sides = []
        for sign in (1, -1):
            moved = base.copy()
            moved[index] += sign * step
            y = evaluator.run([model.graph.output[0].name], {**feeds, wrt: moved})[0]
            sides.append(float(np.sum(np.asarray(y) * ct)))
        gradient[index] = (sides[0] - sides[1]) / (2 * step)
    return gradient
