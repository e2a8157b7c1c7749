"""What a small file may make the loader do: fold arithmetic alone, and no more than its budget."""

from __future__ import annotations

import contextlib
import math
import tracemalloc
from collections.abc import Mapping

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import helper, numpy_helper

from backlight.errors import BacklightError, ModelError
from backlight.export import arithmetic, fold
from backlight.export.graph import load
from backlight.export.saliency import explain_graph

from .harness import run_runtime


def constants(body: str, given: Mapping[str, object], opset: int = 20) -> onnx.ModelProto:
    """A graph of constants, whose last tensor `k` is added up and to the scores."""
    model = onnx.parser.parse_model(
        f"""<ir_version: 9, opset_import: ["": {opset}]>
g (float[N,3] x) => (float[N,3] y) {{
{body}
    kf = Cast<to=1>(k)
    total = ReduceSum<keepdims=0>(kf)
    y = Add(x, total)
}}"""
    )
    for name, value in given.items():
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
    return model


def left(model: onnx.ModelProto) -> list[str]:
    return [n.op_type for n in load(model).graph]


IMAGE = np.zeros((1, 1, 8, 8), np.float32)
BIG = np.array([2**31])
# Each of a few bytes. Evaluated, they take minutes or gigabytes, or would start other work.
GREEDY: dict[str, tuple[str, dict[str, object]]] = {
    "Range": ("k = Range(a, b, c)", {"a": 0, "b": 2**40, "c": 1}),
    "Range of floats": ("k = Range(a, b, c)",
                        {"a": np.float32(0), "b": np.float32(1), "c": np.float32(1e-12)}),
    "MaxPool": ("k = MaxPool<kernel_shape=[60000,60000],pads=[60000,60000,60000,60000]>(a)",
                {"a": IMAGE}),
    "AveragePool": ("k = AveragePool<kernel_shape=[9999,9999],pads=[9998,9998,9998,9998]>(a)",
                    {"a": IMAGE}),
    "LpPool": ("k = LpPool<kernel_shape=[9999,9999],pads=[9998,9998,9998,9998]>(a)", {"a": IMAGE}),
    "RoiAlign": ("k = RoiAlign<output_height=8,output_width=8,sampling_ratio=100000>(a, r, i)",
                 {"a": IMAGE, "r": np.float32([[0, 0, 8, 8]]), "i": np.array([0])}),
    "Conv": ("k = Conv<dilations=[99999,99999],pads=[99999,99999,99999,99999]>(a, w)",
             {"a": IMAGE, "w": np.zeros((1, 1, 2, 2), np.float32)}),
    "ConvTranspose": ("k = ConvTranspose<strides=[99999,99999]>(a, w)",
                      {"a": IMAGE, "w": np.zeros((1, 1, 2, 2), np.float32)}),
    "TopK": ("k, at = TopK(a, n)", {"a": np.zeros(4000, np.float32), "n": np.array([4000])}),
    "Resize": ("k = Resize(a, , s)", {"a": IMAGE, "s": np.float32([1, 1, 8, 8])}),
    "GridSample": ("k = GridSample(a, g)",
                   {"a": IMAGE, "g": np.zeros((1, 64, 32, 2), np.float32)}),
    "Split": ("k, j = Split<num_outputs=2>(a)", {"a": np.zeros((5000, 1), np.float32)}),
    "ConstantOfShape": ("k = ConstantOfShape(a)", {"a": np.array([2**20, 2**20])}),
    "Expand": ("k = Expand(a, n)", {"a": np.float32([1]), "n": np.array([2**35])}),
    "Tile": ("k = Tile(a, n)", {"a": np.float32([1]), "n": BIG}),
    "Pad": ("k = Pad(a, n)", {"a": np.float32([1]), "n": np.array([0, 2**34])}),
    "OneHot": ("k = OneHot(a, n, v)", {"a": np.array([1]), "n": BIG, "v": np.float32([0, 1])}),
    "MatMul": ("k = MatMul(a, b)", {"a": np.ones((4000, 1), np.float32),
                                    "b": np.ones((1, 4000), np.float32)}),
    "Gemm": ("k = Gemm(a, b)", {"a": np.ones((4000, 1), np.float32),
                                "b": np.ones((1, 4000), np.float32)}),
    "Einsum": ('k = Einsum<equation="a,b,c,d->abcd">(a, a, a, a)',
               {"a": np.ones(1000, np.float32)}),
    "Add": ("k = Add(a, b)", {"a": np.ones((4000, 1), np.float32),
                              "b": np.ones((1, 4000), np.float32)}),
    "Gather": ("k = Gather(a, b)", {"a": np.ones((2, 2000), np.float32),
                                    "b": np.zeros(4000, np.int64)}),
    "GatherND": ("k = GatherND(a, b)", {"a": np.ones((2, 2000), np.float32),
                                        "b": np.zeros((4000, 1), np.int64)}),
    "ScatterND": ("k = ScatterND(a, b, c)",
                  {"a": np.ones(4, np.float32), "b": np.zeros((2**40, 0), np.int64),
                   "c": np.zeros((2**40, 0), np.float32)}),
    "EyeLike": ("k = EyeLike(a)", {"a": np.zeros((2**40, 0), np.float32)}),
    "DFT": ("k = DFT(a)", {"a": np.ones((1, 4000, 1), np.float32)}),
    "RegexFullMatch": ('k = RegexFullMatch<pattern="(a*)*b">(a)', {}),
    "RandomNormal": ("k = RandomNormal<shape=[4]>()", {}),
    "Bernoulli": ("k = Bernoulli(a)", {"a": np.float32([0.5])}),
    "Loop": ("""k = Loop(n, c, a) <body = b (int64 i, bool ci, float p) => (bool co, float q)
             { co = Identity(ci) q = Identity(p) }>""",
             {"n": 2**60, "c": True, "a": np.float32(1)}),
}  # fmt: skip


@pytest.mark.parametrize("name", GREEDY)
def test_what_is_over_budget_or_no_arithmetic_stays_a_node(name: str, monkeypatch) -> None:
    computed = []
    monkeypatch.setattr(fold, "evaluate", lambda node, *_: computed.append(node.op_type) or [])
    body, given = GREEDY[name]
    model = constants(body, given)
    if name == "RegexFullMatch":
        model.graph.initializer.append(helper.make_tensor("a", 8, [1], [b"a" * 30]))
    assert name.partition(" ")[0] in left(model)
    assert not computed


def test_a_picture_is_never_decoded(monkeypatch) -> None:
    """Pillow hands PostScript to a program."""
    from PIL import Image

    monkeypatch.setattr(Image, "open", lambda *_a, **_k: pytest.fail("decoded"))
    postscript = np.frombuffer(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", np.uint8)
    assert "ImageDecoder" in left(constants("k = ImageDecoder(a)", {"a": postscript}))
    node = ir.Node("", "ImageDecoder", [ir.Value(name="a")])
    assert arithmetic.work(node, [postscript]) is None
    with pytest.raises(ValueError, match="not computed here"):
        arithmetic.evaluate(node, [postscript], 20)


def test_the_list_is_of_arithmetic_alone() -> None:
    """Whatever a later version of the standard adds isn't on it."""
    known = {s.name for s in onnx.defs.get_all_schemas() if s.domain == ""}
    listed = set(arithmetic._COSTS)
    assert listed <= known
    assert not listed & set(
        "ImageDecoder RegexFullMatch StringConcat StringSplit StringNormalizer TfIdfVectorizer If "
        "Loop Scan SequenceMap Bernoulli Multinomial RandomNormal RandomNormalLike RandomUniform "
        "RandomUniformLike Dropout Unique Det Einsum Conv ConvTranspose ConvInteger DeformConv "
        "MaxPool AveragePool LpPool RoiAlign MaxRoiPool GridSample Resize TopK STFT DFT Col2Im "
        "MaxUnpool LSTM GRU RNN Attention NonMaxSuppression".split()
    )


FOLDS: dict[str, tuple[str, dict[str, object]]] = {
    "Range": ("k = Range(a, b, c)", {"a": 10, "b": -3, "c": -3}),
    "Slice": ("k = Slice(a, b, c, d, e)", {"a": np.arange(9), "b": np.array([7]),
              "c": np.array([-100]), "d": np.array([0]), "e": np.array([-2])}),
    "Gather": ("k = Gather<axis=1>(a, b)", {"a": np.arange(6).reshape(2, 3), "b": [[0, -1]]}),
    "GatherND": ("k = GatherND<batch_dims=1>(a, b)",
                 {"a": np.arange(8).reshape(2, 2, 2), "b": np.array([[1], [0]])}),
    "ScatterND": ("k = ScatterND(a, b, c)",
                  {"a": np.arange(4), "b": np.array([[1], [3]]), "c": np.array([7, 8])}),
    "Expand": ("k = Expand(a, n)", {"a": np.arange(2).reshape(2, 1), "n": np.array([3, 1, 4])}),
    "Tile": ("k = Tile(a, n)", {"a": np.arange(4).reshape(2, 2), "n": np.array([2, 3])}),
    "Pad": ("k = Pad(a, n, , d)",
            {"a": np.arange(4).reshape(2, 2), "n": np.array([1, 2]), "d": np.array([1])}),
    "Split": ("k, j = Split<axis=1,num_outputs=2>(a)", {"a": np.arange(10).reshape(2, 5)}),
    "ConstantOfShape": ("k = ConstantOfShape<value=int64[1] {3}>(a)", {"a": np.array([2, 2])}),
    "OneHot": ("k = OneHot(a, n, v)",
               {"a": np.array([1, 2]), "n": np.array(4), "v": np.array([0, 5])}),
    "Where": ("k = Where(c, a, b)",
              {"c": np.array([[True], [False]]), "a": np.arange(3), "b": np.array(9)}),
    "MatMul": ("k = MatMul(a, a)", {"a": np.arange(9).reshape(3, 3)}),
    "Gemm": ("k = Gemm<transA=1>(a, a)", {"a": np.arange(6, dtype=np.float32).reshape(2, 3)}),
    "Div": ("k = Div(a, b)", {"a": np.array([-7, 7]), "b": np.array([2])}),
    "CumSum": ("k = CumSum(a, b)", {"a": np.arange(5.0), "b": np.array(0)}),
}  # fmt: skip


@pytest.mark.parametrize("name", FOLDS)
def test_arithmetic_folds_to_what_the_runtime_says(name: str) -> None:
    body, given = FOLDS[name]
    model = constants(body, given)
    assert left(model) == ["Add"]
    x = np.zeros((1, 3), np.float32)
    want = run_runtime(model, {"x": x})["y"]
    folded = ir.to_proto(load(model))
    np.testing.assert_allclose(run_runtime(folded, {"x": x})["y"], want, rtol=1e-6)


def test_all_nodes_together_have_a_budget(monkeypatch) -> None:
    taken = []
    monkeypatch.setattr(fold, "TOTAL", 20_000)
    monkeypatch.setattr(fold.Budget.__init__, "__defaults__", (20_000,))
    plain = fold.evaluate
    monkeypatch.setattr(
        fold, "evaluate", lambda n, a, o: taken.append(arithmetic.work(n, a)) or plain(n, a, o)
    )
    names = [f"k{i}" for i in range(40)]
    body = "\n".join(f"{name} = Expand(a, n{i})" for i, name in enumerate(names))
    sizes = {f"n{i}": np.array([1000 + i]) for i in range(40)}
    model = constants(f"{body}\n k = Concat<axis=0>({', '.join(names)})", {"a": [1], **sizes})
    kept = left(model)
    assert 20 < kept.count("Expand") < 40
    assert sum(taken) <= 20_000


def sparse(dims: list[int], values: np.ndarray, places: np.ndarray) -> onnx.ModelProto:
    model = constants("k = Identity(w)", {})
    held = (numpy_helper.from_array(v, n) for v, n in ((values, "w"), (places, "w/at")))
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(*held, dims))
    return model


ONE = np.float32([1])


@pytest.mark.parametrize(
    ("dims", "values", "places", "says"),
    [
        ([2**40], ONE, np.array([0]), "more than a file of this size"),
        ([2**31, 2**31, 2**31], ONE, np.array([0]), "more than a file of this size"),
        ([2**28], ONE, np.array([0]), "more than a file of this size"),
        ([-4], ONE, np.array([0]), "its shape is none"),
        ([4], ONE, np.array([4]), "none of its places"),
        ([4], ONE, np.array([-1]), "none of its places"),
        ([2, 2], ONE, np.array([[0, 2]]), "none of its places"),
        ([2, 2], ONE, np.array([[0, 1, 1]]), "none of its places"),
        ([4], ONE, np.array([0, 1]), "none of its places"),
        ([4], ONE, np.float32([0]), "none of its places"),
    ],
)
def test_sparse_tensors_over_declared_sizes(dims, values, places, says: str) -> None:
    with pytest.raises(ModelError, match=says) as caught:
        load(sparse(dims, values, places))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("places", [np.array([1, 5]), np.array([[0, 1], [1, 2]])])
def test_sparse_tensors_are_what_they_say(places: np.ndarray) -> None:
    model = load(sparse([2, 3], np.float32([7, 9]), places))
    held = next(v for v in model.graph.initializers.values() if v.shape == ir.Shape([2, 3]))
    assert held.const_value is not None
    np.testing.assert_array_equal(held.const_value.numpy(), [[0, 7, 0], [0, 0, 9]])


def test_shapes_and_sizes_of_declared_giants() -> None:
    """The shape of an input of 2^80 elements folds; its size is no int64 and doesn't."""
    text = """<ir_version: 9, opset_import: ["": 20]>
g (float[N,3] x, float[1099511627776,1099511627776] h) => (float[N,3] y) {
    k = Size(h) z = Shape(h) a = ReduceMax<keepdims=0>(z)
    s = Add(k, a) f = Cast<to=1>(s) y = Add(x, f)
}"""
    kept = left(onnx.parser.parse_model(text))
    assert "Size" in kept and "Shape" not in kept
    assert math.prod([2**40, 2**40]) > 2**63


def test_a_pool_of_a_declared_giant_without_rows() -> None:
    """No rows of 134 million columns: no array of the columns is made."""
    text = """<ir_version: 9, opset_import: ["": 20]>
g (float[N,16,1,536870911] x) => (float[N,M] y) {
    p = MaxPool<kernel_shape=[3,3], strides=[2,2]>(x) r = Relu(p)
    q = MaxPool<kernel_shape=[3,3], strides=[2,2]>(r) m = GlobalAveragePool(q) y = Flatten(m)
}"""
    tracemalloc.start()
    try:
        with contextlib.suppress(BacklightError):
            explain_graph(onnx.parser.parse_model(text), ("vanilla",), lowering="cpu")
        assert tracemalloc.get_traced_memory()[1] < 2**28
    finally:
        tracemalloc.stop()
