"""Methods that average over variants of the image: noise, or the way from a baseline.

The variants are run as one batch, a second forward pass with the weights shared: no Loop, in which
ONNX Runtime leaves its blocked layout, and no random operator, which no two runtimes agree on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ..errors import UsageError
from . import choose, seed
from .clone import between, copied, refuse_fixed_batch
from .emit import all_dims
from .explaining import Explaining
from .field import CHANNELS, Field, channel_axis
from .finish import Walked
from .preprocess import Preprocess

__all__ = ["GAP", "RISE", "integral", "mean", "mean_square", "path", "rise", "variance"]

GAP = "gap_integrated_gradients"
RISE = "rise_integrated_gradients"
Array = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Varied:
    """Images [N, n, ...] run as one batch. x: the export of the copies, whose wrt is [N n, ...].
    weights: of the average, [1, n, 1, ...]. step: of a path, the image less its baseline, and
    baseline: where it begins, [1, ...]."""

    x: Explaining
    many: ir.Value
    weights: ir.Value
    step: ir.Value | None = None
    baseline: ir.Value | None = None

    def gradients(self, w: Walked) -> ir.Value:
        """The cotangents of all variants, [N, n, ...], in float32."""
        e = self.x.e
        ct = self.x.walk(w.rules, w.seed, self.x.wrt)[0]
        with e.in_float32():
            wide = e.cast(ct, ir.DataType.FLOAT)
            return e.Reshape(wide, e.Shape(self.many), _shape=self.many.shape)

    def average(self, values: ir.Value) -> ir.Value:
        """Over the variants: [N, n, ...] -> [N, ...]."""
        e = self.x.e
        with e.in_float32():
            weighted = e.Mul(values, self.weights, _shape=values.shape)
            return e.ReduceSum(weighted, [1], keepdims=0)


def mean(w: Walked) -> ir.Value:
    """The mean gradient of noisy images (Smilkov et al. 2017)."""
    v = noisy(w.x)
    return v.average(v.gradients(w))


def mean_square(w: Walked) -> ir.Value:
    """The mean of the squared gradients of noisy images (Hooker et al. 2019)."""
    v = noisy(w.x)
    found = v.gradients(w)
    with w.x.e.in_float32():
        return v.average(w.x.e.Mul(found, found))


def variance(w: Walked) -> ir.Value:
    """The variance of the gradients of noisy images (Adebayo et al. 2018), about their mean."""
    e, v = w.x.e, noisy(w.x)
    found = v.gradients(w)
    with e.in_float32():
        apart = e.Sub(found, e.Unsqueeze(v.average(found), [1]))
        return v.average(e.Mul(apart, apart))


def integral(w: Walked) -> ir.Value:
    """The gradient's average on the straight way from the baseline, times the way (Sundararajan et
    al. 2017). Beside it the output `gap_integrated_gradients`, [N]: its sum less what the score
    rises by, 0 for an exact integral."""
    e, v = w.x.e, path(w.x)
    assert v.step is not None and v.baseline is not None
    found = v.average(v.gradients(w))
    with e.in_float32():
        made = e.Mul(found, e.cast(v.step, ir.DataType.FLOAT), _shape=w.primal.shape)
    if w.x.sampling.held == "parts":
        return made  # its gap is the whole's
    risen = _risen(w, v.baseline)
    with e.in_float32():
        rank = 0 if w.primal.shape is None else len(w.primal.shape)
        total = e.ReduceSum(made, list(range(1, rank)), keepdims=0, _shape=[w.x.batch])
        w.x.outputs[GAP] = e.Sub(total, risen, _shape=[w.x.batch])
    return made


def rise(w: Walked) -> None:
    """The output `rise_integrated_gradients`, [N]: what integrated gradients should sum to."""
    with w.x.e.rooted(), w.x.e.scope("path"):
        w.x.outputs[RISE] = w.x.e.op("Identity", [_risen(w, _baseline(w.x))], _shape=[w.x.batch])[0]


def _risen(w: Walked, baseline: ir.Value) -> ir.Value:
    """What the score is at the image less what it is at the baseline, [N], in float32."""
    x, e = w.x, w.x.e
    start = x.wrt[0]
    shape = start.shape
    assert shape is not None
    dims = all_dims(shape)[1:]
    if all(isinstance(d, int) for d in dims):
        whole: Any = [1, *dims]
    else:
        whole = e.Concat(np.array([1]), e.Shape(start, start=1), axis=0, _dtype=ir.DataType.INT64)
    dark = e.Expand(baseline, whole, _shape=[1, *dims])
    nodes = between(x.of, start)
    there = copied(e, nodes, {start: dark}, 1)
    with e.in_float32():
        return e.Sub(seed.value_of(x, w.seed, x.of[0]), seed.value_of(x, w.seed, there[x.of[0]]))


def noisy(x: Explaining) -> Varied:
    """The images with noise: the same for every row of a batch, and for every run."""
    if "noise" not in x.varied:
        with x.e.rooted(), x.e.scope("noise"):
            x.varied["noise"] = _noisy(x)
    return x.varied["noise"]  # type: ignore[return-value]


def _noisy(x: Explaining) -> Varied:
    e, start, asked = x.e, x.wrt[0], x.sampling
    noise, count = _noise(x)
    rank = 0 if start.shape is None else len(start.shape)
    axes = list(range(1, rank))
    wide = e.cast(start, ir.DataType.FLOAT)
    span = e.Sub(e.ReduceMax(wide, axes, keepdims=1), e.ReduceMin(wide, axes, keepdims=1))
    size = e.cast(e.Mul(span, float(asked.noise)), start.dtype)
    moved = e.Mul(e.Unsqueeze(size, [1]), e.Unsqueeze(noise, [0]))
    many = e.Add(e.Unsqueeze(start, [1]), moved)
    each = e.Reciprocal(e.cast(count, ir.DataType.FLOAT)) if isinstance(count, ir.Value) else None
    weights = e.const(np.full([1] * (rank + 1), 1 / asked.samples, np.float32))
    return _run(x, many, count, weights if each is None else e.Reshape(each, [1] * (rank + 1)))


def _noise(x: Explaining) -> tuple[ir.Value, ir.Value | int]:
    """Unit normals [n, ...] in the image's shape and type, and n.

    Parts of one stored field, shifted: each is white noise, and the field is all that the file
    holds. Every part is followed by its negative: their mean is exactly 0.
    """
    e, start, asked = x.e, x.wrt[0], x.sampling
    assert start.shape is not None and start.dtype is not None
    dims = all_dims(start.shape)[1:]
    fixed = [d for d in dims if isinstance(d, int)]
    if asked.held == "parts" or len(fixed) < len(dims):
        shape = ir.Shape(["samples", *dims])
        given = x.input("noise", shape, ir.TensorType(start.dtype))
        given.meta[CHANNELS] = channel_axis(start)
        return given, e.Shape(given, start=0, end=1)
    stored = Field.of(fixed, channel_axis(start))
    field = e.cast(e.const(stored.values), start.dtype)
    parts: list[ir.Value] = []
    while len(parts) < asked.samples:
        begins = stored.begins(len(parts) // 2)
        ends = [b + fixed[a] for a, b in zip(stored.places, begins, strict=True)]
        part = e.Unsqueeze(e.Slice(field, begins, ends, stored.places, _shape=fixed), [0])
        parts += [part, e.Neg(part)]
    kept = parts[: asked.samples]
    shape = ir.Shape([len(kept), *fixed])
    return e.op("Concat", kept, axis=0, _shape=shape)[0], len(kept)


def path(x: Explaining) -> Varied:
    """The images on the straight way from the baseline."""
    if "path" not in x.varied:
        with x.e.rooted(), x.e.scope("path"):
            x.varied["path"] = _path(x)
    return x.varied["path"]  # type: ignore[return-value]


def _path(x: Explaining) -> Varied:
    e, start, asked = x.e, x.wrt[0], x.sampling
    assert start.shape is not None and start.dtype is not None
    rank = len(start.shape)
    baseline = _baseline(x)
    count: ir.Value | int = asked.steps
    if asked.held == "parts":
        line = ir.Shape(["steps"])
        places = x.input("alphas", line, ir.TensorType(ir.DataType.FLOAT))
        weights = x.input("weights", line, ir.TensorType(ir.DataType.FLOAT))
        count = e.Shape(places, start=0, end=1)
    else:
        places, weights = (e.const(v.astype(np.float32)) for v in asked.nodes())
    along = [1, -1, *[1] * (rank - 1)]
    step = e.Sub(start, baseline, _shape=start.shape)
    at = e.cast(e.Reshape(places, along), start.dtype)
    many = e.Add(e.Unsqueeze(baseline, [1]), e.Mul(at, e.Unsqueeze(step, [1])))
    return _run(x, many, count, e.Reshape(weights, along), step, baseline)


def _baseline(x: Explaining) -> ir.Value:
    """Where the way begins: [1, ...] in the image's type."""
    e, start, asked = x.e, x.wrt[0], x.sampling.baseline
    assert start.shape is not None and start.dtype is not None
    rank = len(start.shape)
    if asked == "input":
        dims = all_dims(start.shape)[1:]
        return x.input("baseline", ir.Shape([1, *dims]), start.type)
    if not isinstance(asked, str):
        return e.const(np.full([1] * rank, asked, np.float64), start.dtype)
    if x.preprocess is None:
        raise UsageError(
            f"baseline '{asked}' is a colour of pixels, and the model doesn't say how pixels "
            "become its input; give --preprocess, or a number in its input space"
        )
    colour = colour_of(asked, x.preprocess)
    shape = [1] * rank
    axis = choose.channel_axis(start)
    if rank > 3:
        shape[axis] = len(colour)
    return e.const(np.asarray(colour if rank > 3 else colour[:1]).reshape(shape), start.dtype)


def colour_of(name: str, how: Preprocess) -> Array:
    """A colour of pixels in the model's input space, per channel."""
    mean_, std = np.asarray(how.mean, np.float64), np.asarray(how.std, np.float64)
    if name == "mean":
        return np.zeros_like(mean_)
    pixel = {"black": 0.0, "grey": 127.5, "white": 255.0}[name]
    return np.asarray((pixel * how.scale - mean_) / std)


def _run(
    x: Explaining,
    many: ir.Value,
    count: ir.Value | int,
    weights: ir.Value,
    step: ir.Value | None = None,
    baseline: ir.Value | None = None,
) -> Varied:
    """The forward pass over the variants [N, n, ...], as one batch."""
    e, start = x.e, x.wrt[0]
    assert start.shape is not None
    nodes = between(x.of, start)
    refuse_fixed_batch(nodes, start)
    dims = all_dims(start.shape)[1:]
    many.shape = ir.Shape([x.batch, count if isinstance(count, int) else None, *dims])
    # A name of its own: runtimes take axes of one name for equal, and reuse a buffer for another.
    batch = f"{x.batch} x {count}" if isinstance(count, int) else f"variants of {many.name}"
    if sum(not isinstance(d, int) for d in dims):
        tail = e.Concat(np.array([-1]), e.Shape(start, start=1), axis=0, _dtype=ir.DataType.INT64)
        flat = e.Reshape(many, tail, _shape=[batch, *dims])
    else:
        flat = e.Reshape(many, [-1, *(int(str(d)) for d in dims)], _shape=[batch, *dims])
    made = copied(e, nodes, {start: flat}, batch)
    inner = Explaining(
        e=e,
        of=tuple(made[v] for v in x.of),
        ranking=tuple(made[v] for v in x.of),
        independent=x.independent,
        wrt=(flat,),
        image=None,
        target_class=x.target_class,
        rule_map=x.rule_map,
        scaled=x.scaled,
        contrast=x.contrast,
        contrast_form=x.contrast_form,
        chosen=None if isinstance(x.target_class, int) else _repeated(x, _class(x), count, batch),
        inputs=x.inputs,
    )
    if x.contrasting and not isinstance(x.contrast, int):
        inner.rival = _repeated(x, _rival(x), count, batch)
    return Varied(inner, many, weights, step, baseline)


def _class(x: Explaining) -> ir.Value:
    """The class of each image, int64 [N, 1]: chosen on the image itself."""
    if x.sampling.held != "parts":
        return seed.picked(x)
    return _column(x, "target")


def _rival(x: Explaining) -> ir.Value:
    """The class that it is told from, int64 [N, 1]."""
    if x.sampling.held != "parts":
        return seed.second_class(x)
    return _column(x, "contrast")


def _column(x: Explaining, name: str) -> ir.Value:
    given = x.input(name, ir.Shape([x.batch]), ir.TensorType(ir.DataType.INT64))
    return x.e.Unsqueeze(given, [1], _shape=[x.batch, 1])


def _repeated(x: Explaining, rows: ir.Value, count: ir.Value | int, batch: str) -> ir.Value:
    """A class per image [N, 1] as a class per variant [N n, 1]: that of the image itself."""
    e = x.e
    if isinstance(count, int):
        wanted: Any = [1, count, 1]
    else:
        wanted = e.Concat(np.array([1]), count, np.array([1]), axis=0, _dtype=ir.DataType.INT64)
    spread = e.Expand(e.Unsqueeze(rows, [1]), wanted, _dtype=ir.DataType.INT64)
    return e.Reshape(spread, [-1, 1], _shape=[batch, 1])
