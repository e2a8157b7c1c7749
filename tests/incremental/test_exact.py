"""The scores of all variants, computed on boxes, equal those computed whole, operator by operator.

Windows of 5 at a stride of 3, clipped: they reach every border and corner.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

pytest.importorskip("onnxruntime")

from backlight.export import incremental
from backlight.kernels.families import sliding

from .occlude import dense_scores, incremental_scores, network

# Of the range of scores; float32 sums of some hundred terms in another order.
LIMIT = 1e-5


@dataclass(frozen=True)
class Row:
    """A network over float[N,3,H,W] x; `layers` ends in a tensor `f`, that a mean and a dense
    layer of `features` inputs close. local: how many nodes go on boxes at least."""

    name: str
    layers: str
    features: int
    local: int
    weights: str = ""
    size: tuple[int, int] = (26, 23)
    batch: str = "N"

    def model(self):  # type: ignore[no-untyped-def]
        h, w = self.size
        return network(
            f"net (float[{self.batch},3,{h},{w}] x, float[8,3,3,3] w0, float[8] b0, {self.weights}"
            f"float[{self.features},5] dense) => (float[{self.batch},5] y) {{"
            f"{self.layers} m = GlobalAveragePool(f) v = Flatten(m) y = MatMul(v, dense) }}"
        )


STEM = "a = Conv<pads=[1,1,1,1]>(x, w0, b0) s = Relu(a)"
W1 = "float[8,8,3,3] w1, float[8] b1, "
ROWS = [
    Row("same pads", f"{STEM} f = Conv<pads=[1,1,1,1]>(s, w1, b1)", 8, 4, W1),
    Row("no pads", f"{STEM} f = Conv(s, w1, b1)", 8, 4, W1),
    Row("asymmetric pads", f"{STEM} f = Conv<pads=[2,0,1,3]>(s, w1, b1)", 8, 4, W1),
    Row("stride 2", f"{STEM} f = Conv<pads=[1,1,1,1],strides=[2,2]>(s, w1, b1)", 8, 4, W1),
    Row("stride 3 by 1", f"{STEM} f = Conv<pads=[1,2,0,1],strides=[3,1]>(s, w1, b1)", 8, 4, W1),
    Row("dilation", f"{STEM} f = Conv<pads=[2,3,2,3],dilations=[2,3]>(s, w1, b1)", 8, 4, W1),
    Row(
        "pointwise, strided over gaps",
        f"{STEM} c = Conv<strides=[4,4]>(s, w1) f = Conv<pads=[1,1,1,1]>(c, w2)",
        8,
        5,
        "float[8,8,1,1] w1, float[8,8,3,3] w2, ",
    ),
    Row(
        "auto_pad",
        f'{STEM} c = Conv<auto_pad="SAME_UPPER",strides=[2,2]>(s, w1) '
        'f = Conv<auto_pad="SAME_LOWER",strides=[2,2]>(c, w1)',
        8,
        5,
        W1,
    ),
    Row(
        "depthwise and grouped",
        f"{STEM} c = Conv<group=8,pads=[1,1,1,1]>(s, w1) f = Conv<group=2,pads=[1,1,1,1]>(c, w2)",
        8,
        5,
        "float[8,1,3,3] w1, float[8,4,3,3] w2, ",
    ),
    Row(
        "batch norm",
        f"{STEM} c = Conv<pads=[1,1,1,1]>(s, w1) n = BatchNormalization(c, g, b, mu, var) "
        "f = Relu(n)",
        8,
        6,
        "float[8,8,3,3] w1, float[8] g, float[8] b, float[8] mu, float[8] var, ",
    ),
    Row(
        "max pool, everything negative",
        f"{STEM} o = Neg(s) p = MaxPool<kernel_shape=[3,3],strides=[2,2],pads=[1,1,1,1]>(o) "
        "f = Conv(p, w1)",
        8,
        6,
        W1,
    ),
    Row(
        "max pool, ceil_mode",
        f"{STEM} p = MaxPool<kernel_shape=[3,3],strides=[2,2],ceil_mode=1>(s) "
        "f = Conv<pads=[1,1,1,1]>(p, w1)",
        8,
        5,
        W1,
    ),
    *(
        Row(
            f"average pool, pads {'counted' if count else 'left out'}"
            + (", ceil_mode" if ceil else ""),
            f"{STEM} p = AveragePool<kernel_shape=[3,2],strides=[2,2],pads=[1,1,1,0],"
            f"count_include_pad={count},ceil_mode={ceil}>(s) f = Conv<pads=[1,1,1,1]>(p, w1)",
            8,
            5,
            W1,
        )
        for count in (0, 1)
        for ceil in (0, 1)
    ),
    Row(
        "residual",
        f"{STEM} c = Conv<pads=[1,1,1,1]>(s, w1) r = Relu(c) d = Conv<pads=[1,1,1,1]>(r, w1) "
        "e = Add(s, d) f = Relu(e)",
        8,
        7,
        W1,
    ),
    Row(
        "strided residual, of unequal branches",
        f"{STEM} c = Conv<pads=[2,2,2,2],strides=[2,2]>(s, w1) d = Conv<strides=[2,2]>(s, w2) "
        "e = Add(d, c) f = Conv<pads=[1,1,1,1]>(e, w3)",
        8,
        6,
        "float[8,8,5,5] w1, float[8,8,1,1] w2, float[8,8,3,3] w3, ",
    ),
    Row(
        "concat of branches",
        f"{STEM} c = Conv(s, w1) d = Conv<pads=[2,1,2,1]>(s, w2) "
        "p = MaxPool<kernel_shape=[3,3],pads=[1,1,1,1]>(s) e = Concat<axis=1>(c, d, p) "
        "f = Conv<pads=[1,1,1,1]>(e, w3)",
        8,
        7,
        "float[8,8,1,1] w1, float[8,8,5,3] w2, float[8,24,3,3] w3, ",
    ),
    Row(
        "split and its parts, swapped",
        f"{STEM} l, r = Split<axis=1,num_outputs=2>(s) c = Conv<pads=[1,1,1,1]>(r, w1) "
        "f = Concat<axis=1>(c, l)",
        8,
        5,
        "float[4,4,3,3] w1, ",
    ),
    Row(
        "explicit Pad",
        "pads = Constant<value_ints=[0,0,2,1,0,0,1,2]>() "
        f"{STEM} q = Pad(s, pads) f = Conv<strides=[2,2]>(q, w1)",
        8,
        5,
        W1,
    ),
    Row(
        "gates and clips",
        f"{STEM} h = HardSwish(a) c = Conv<pads=[1,1,1,1]>(h, w1) g = Sigmoid(c) d = Mul(c, g) "
        "z = Constant<value_float=0.0>() six = Constant<value_float=6.0>() f = Clip(d, z, six)",
        8,
        7,
        W1,
    ),
    Row(
        "a slope per channel, a scale per channel",
        f"{STEM} c = Conv<pads=[1,1,1,1]>(s, w1) p = PRelu(c, slope) q = Mul(p, scale) "
        "f = Conv<pads=[1,1,1,1]>(q, w1)",
        8,
        7,
        W1 + "float[8,1,1] slope, float[1,8,1,1] scale, ",
    ),
    Row(
        "local response normalization",
        f"{STEM} n = LRN<size=5>(s) f = Conv<pads=[1,1,1,1]>(n, w1)",
        8,
        5,
        W1,
    ),
    Row(
        "squeeze and excite: everything changes after it",
        f"{STEM} q = GlobalAveragePool(s) t = Conv(q, w1) g = HardSigmoid(t) e = Mul(s, g) "
        "f = Conv<pads=[1,1,1,1]>(e, w2)",
        8,
        3,
        "float[8,8,1,1] w1, float[8,8,3,3] w2, ",
    ),
    Row(
        "a bias per position: whole maps from there",
        f"{STEM} e = Add(s, place) f = Conv<pads=[1,1,1,1]>(e, w1)",
        8,
        2,
        W1 + "float[1,8,26,23] place, ",
    ),
    Row("a batch of 1", f"{STEM} f = Conv<pads=[1,1,1,1]>(s, w1)", 8, 4, W1, batch="1"),
    Row(
        "pixelwise preprocessing",
        "u = Sub(x, mean) t = Div(u, var) c = Conv<pads=[1,1,1,1],strides=[2,2]>(t, w0, b0) "
        "s = Relu(c) p = Conv<pads=[1,1,1,1]>(s, w1) r = Conv(t, w2) "
        "q = MaxPool<kernel_shape=[2,2],strides=[2,2],ceil_mode=1>(r) f = Add(p, q)",
        8,
        6,
        W1 + "float[8,3,1,1] w2, float[1,3,26,23] mean, float[3,1,1] var, ",
    ),
]


def worst(row: Row, cut: int | None, window: object = 5, stride: object = 3) -> float:
    """The largest difference of scores over their range; the maps end where the model says."""
    model = row.model()
    boxes = sliding((3, *row.size), window, stride).boxes  # type: ignore[arg-type]
    plan = incremental.plan(model, boxes, (3, *row.size), cut=cut)
    if cut == EVERY:
        assert plan.local_nodes >= row.local
    random = np.random.default_rng(1)
    image = random.normal(size=(3, *row.size)).astype(np.float32)
    baseline = random.normal(size=(3, 1, 1)).astype(np.float32)
    ours = incremental_scores(plan, image, baseline)["y"]
    want = dense_scores(model, "y", image, baseline, boxes)
    assert np.abs(want - want[0]).max() > 1e-3 * np.ptp(want), "the windows matter"
    return float(np.abs(ours - want).max() / np.ptp(want))


EVERY = 10_000


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
@pytest.mark.parametrize("cut", [EVERY, 3, None], ids=["boxes", "cut at 3", "cost model"])
def test_equals_dense(row: Row, cut: int | None) -> None:
    assert worst(row, cut) <= LIMIT


@pytest.mark.parametrize(
    ("window", "stride"),
    [(1, 7), ((26, 3), 4), ((4, 23), (5, 1)), (23, 2), ((1, 5, 5), (1, 6, 6)), ((2, 3, 9), 4)],
    ids=str,
)
def test_any_window(window: object, stride: object) -> None:
    """Pixels, whole columns and rows, windows that fill the map, windows over some channels."""
    row = next(r for r in ROWS if r.name == "strided residual, of unequal branches")
    assert worst(row, EVERY, window, stride) <= LIMIT


def test_windows_of_mixed_sizes() -> None:
    """Boxes needn't come from sliding: any selection, in any order, repeated ones too."""
    row = next(r for r in ROWS if r.name == "concat of branches")
    random = np.random.default_rng(3)
    low = random.integers(0, 20, (60, 2))
    high = np.minimum(low + random.integers(1, 12, (60, 2)), row.size)
    zeros, threes = np.zeros(60, int), np.full(60, 3)
    boxes = np.stack([zeros, threes, low[:, 0], high[:, 0], low[:, 1], high[:, 1]], axis=1)
    boxes = np.concatenate([boxes, boxes[:3]]).astype(np.int32)
    model = row.model()
    plan = incremental.plan(model, boxes, (3, *row.size), cut=EVERY)
    image = random.normal(size=(3, *row.size)).astype(np.float32)
    behind = random.normal(size=image.shape).astype(np.float32)
    want = dense_scores(model, "y", image, behind, boxes)
    ours = incremental_scores(plan, image, behind)["y"]
    assert np.abs(ours - want).max() <= LIMIT * np.ptp(want)


def test_several_tensors() -> None:
    """A probability and a map in the middle, asked for by name."""
    model = network(
        "net (float[N,3,16,16] x, float[8,3,3,3] w0, float[8,6] dense) => (float[N,6] p) {"
        "a = Conv<pads=[1,1,1,1]>(x, w0) s = Relu(a) m = ReduceMean<keepdims=0>(s, axes) "
        "z = MatMul(m, dense) p = Softmax(z) }".replace(
            "{a =", "{axes = Constant<value_ints=[2,3]>() a ="
        )
    )
    boxes = sliding((3, 16, 16), 4, 5).boxes
    plan = incremental.plan(model, boxes, (3, 16, 16), of=["p", "s", "z"], cut=EVERY)
    image = np.random.default_rng(0).normal(size=(3, 16, 16)).astype(np.float32)
    ours = incremental_scores(plan, image, np.zeros((3, 1, 1), np.float32))
    for name in ("p", "s", "z"):
        want = dense_scores(model, name, image, np.zeros((3, 1, 1)), boxes)
        assert np.abs(ours[name] - want).max() <= LIMIT * np.ptp(want)


def test_channels_last_input() -> None:
    model = network(
        "net (float[N,18,20,3] x, float[8,3,3,3] w0, float[8,6] dense) => (float[N,6] y) {"
        "t = Transpose<perm=[0,3,1,2]>(x) a = Conv<pads=[1,1,1,1]>(t, w0) f = Relu(a) "
        "m = GlobalAveragePool(f) v = Flatten(m) y = MatMul(v, dense) }"
    )
    boxes = sliding((3, 18, 20), (2, 5, 5), (1, 4, 4)).boxes
    plan = incremental.plan(model, boxes, (3, 18, 20), cut=EVERY)
    image = np.random.default_rng(0).normal(size=(18, 20, 3)).astype(np.float32)
    baseline = np.array([1.0, -1.0, 2.0], np.float32)
    ours = incremental_scores(plan, image, baseline)["y"]
    want = dense_scores(model, "y", image, baseline, boxes, channels_last=True)
    assert np.abs(ours - want).max() <= LIMIT * np.ptp(want)
