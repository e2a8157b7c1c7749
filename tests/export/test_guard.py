"""What brings ONNX's C++ passes down: each of these once ended or held the whole process."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import backlight
from backlight.errors import BacklightError, ModelError
from backlight.export.graph import load
from backlight.export.saliency import explain_graph

from .. import models
from .harness import run_reference, run_runtime

HEAD = '<ir_version: 9, opset_import: ["": %d]>\n'
STRAY: dict[str, tuple[int, str]] = {
    "GatherND, batch_dims -7": (18, "g (float[2,3] x, int64[2,1] i) => (float[] y) "
                                    "{ y = GatherND<batch_dims=-7>(x, i) }"),
    "GatherND, batch_dims 9": (13, "g (float[2,3] x, int64[2,1] i) => (float[] y) "
                                   "{ y = GatherND<batch_dims=9>(x, i) }"),
    "GatherND, no shapes": (18, "g (float x, int64 i) => (float[] y) "
                                "{ y = GatherND<batch_dims=3>(x, i) }"),
    "Einsum of symbols": (18, 'g (float[2,3] x) => (float[] y) { y = Einsum<equation="@#$">(x) }'),
    "Einsum of dots": (18, 'g (float[2,3] x) => (float[] y) { y = Einsum<equation="....">(x) }'),
    "Einsum of operands": (18, 'g (float[2,3] x) => (float[] y) { y = Einsum<equation=",,,">(x) }'),
    "Einsum of letters": (12, 'g (float[2,3] x) => (float[] y) { y = Einsum<equation="é">(x) }'),
    "Split in 3, five of them": (18, "g (float[8,1] x) => (float[] a) "
                                     "{ a, b, c, d, e = Split<num_outputs=3>(x) }"),
    "Split in 2^40": (18, "g (float[8,1] x) => (float[] a) "
                          "{ a, b = Split<num_outputs=1099511627776>(x) }"),
    "LayerNormalization's axis": (18, "g (float[8,4] x, float[4] s) => (float[] y) "
                                      "{ y = LayerNormalization<axis=9223372036854775807>(x, s) }"),
    "a sequence for a tensor": (21, "g (int64[2,2] x) => (float[] y) "
                                    "{ s = SequenceConstruct(x, x) y = EyeLike(s) }"),
    "a pattern for what has no type": (22, "g (float[2] x) => (bool[] y) "
                                           '{ o = odd.Op(x) y = RegexFullMatch<pattern="a">(o) }'),
    "a Range of 2^40": (20, "g (int64[1] x) => (float[] y) { a = Constant<value=int64 {0}>() "
                            "b = Constant<value=int64 {1099511627776}>() "
                            "c = Constant<value=int64 {1}>() k = Range(a, b, c) "
                            "y = Cast<to=1>(k) }"),
    "a vector of 2^35": (20, "g (float[1] x) => (float[] y) "
                             "{ n = Constant<value_ints=[34359738368]>() k = Expand(x, n) "
                             "y = Cast<to=1>(k) }"),
    "a vector as long as an input": (20, "g (float[1] x, float[1048576,1048576] h) => (float[] y) "
                                         "{ n = Size(h) r = Constant<value_ints=[1]>() "
                                         "s = Reshape(n, r) k = Expand(x, s) y = Cast<to=1>(k) }"),
    "axes of 2^62": (16, "g (float[4] x, int64[4611686018427387904] a) => (float[] y) "
                         "{ y = Slice(x, a, a, a) }"),
    "sizes of 2^33": (20, "g (float[4] x, int64[8589934592] a) => (float[] y) "
                           "{ y = Reshape(x, a) }"),
    "means of 2^62": (13, "g (float[4611686018427387904] x) => (float[] y) "
                          "{ y = MeanVarianceNormalization(x) }"),
    "strings for repeats": (18, "g (float[4] x) => (float[] y) "
                                '{ r = Constant<value_strings=["a"]>() y = Tile(x, r) }'),
    "strides of 0": (18, "g (float[1,1,4,4] x, float[1,1,2,2] w) => (float[] y) "
                         "{ y = Conv<strides=[0,0]>(x, w) }"),
    "groups of 0": (11, "g (float[1,1,4,4] x, float[1,1,2,2] w) => (float[] y) "
                        "{ y = Conv<group=0>(x, w) }"),
    "blocks of 0": (18, "g (float[1,4,4,4] x) => (float[] y) { y = DepthToSpace<blocksize=0>(x) }"),
}  # fmt: skip


@pytest.mark.parametrize("name", STRAY)
def test_what_contradicts_itself_is_a_model_or_one_line(name: str) -> None:
    opset, text = STRAY[name]
    model = onnx.parser.parse_model(HEAD % opset + text)
    before = [n.op_type for n in model.graph.node if n.op_type != "Constant"]
    try:
        loaded = load(model)
    except ModelError as err:
        assert "\n" not in str(err) and len(str(err)) < 500
        return
    # What was hidden from the passes is there again, as it was.
    kept = [(n.op_type, n.domain) for n in loaded.graph]
    assert (before[-1], "") in kept or kept[-1][0] == "Identity"
    assert not any(domain.startswith("backlight") for _, domain in kept)
    assert set(loaded.opset_imports) <= {"", "odd"}


@pytest.mark.parametrize("opset", [11, 13, 18])
@pytest.mark.parametrize("size", [-1, -7, 2**50])
def test_a_slice_of_a_declared_size_that_is_none(opset: int, size: int) -> None:
    """As Paddle's exporter writes it: ONNX Runtime runs that model, and the maps are those of a
    model that leaves the sizes open."""

    def model(dim: int | None) -> onnx.ModelProto:
        made = models.parsed(
            HEAD % opset
            + """g (float[N,3,8,8] x) => (float[N,5] prob) {
    c = Slice(x, starts, ends, axes)
    h = Conv<pads=[1,1,1,1]>(c, w, b)
    r = Relu(h)
    p = GlobalAveragePool(r)
    f = Flatten(p)
    scores = Gemm<transB=1>(f, v, c5)
    prob = Softmax<axis=1>(scores)
}""",
            {k if k != "c" else "c5": a for k, a in models.weights().items()}
            | {"starts": np.array([1, 2]), "ends": np.array([7, 2**62]), "axes": np.array([2, 3])},
        )
        for value in (*made.graph.input, *made.graph.output):
            for at, d in enumerate(value.type.tensor_type.shape.dim):
                if at != 1:
                    d.Clear()
                    if dim is not None:
                        d.dim_value = dim
        info = helper.make_tensor_value_info("c", 1, ["a", 3, "b", "d"])
        for d in (info.type.tensor_type.shape.dim[i] for i in (0, 2, 3)):
            d.Clear()
            if dim is not None:
                d.dim_value = dim
        made.graph.value_info.append(info)
        return made

    feeds = {"x": models.images(2, 3, 8, 8), "target": np.array([1, 4])}
    rules = ("vanilla", "guided")
    got = run_runtime(backlight.export(model(size), rules), feeds)
    want = run_runtime(backlight.export(model(None), rules), feeds)
    for name, array in want.items():
        np.testing.assert_allclose(got[name], array, rtol=1e-6, atol=1e-8)
    scores = run_reference(model(None), {"x": feeds["x"]})["prob"]
    np.testing.assert_allclose(got["prob"], scores, rtol=1e-5)


def test_weights_of_a_negative_size_with_float16() -> None:
    model = models.tiny()
    model.graph.initializer[0].dims[2] = -3
    with pytest.raises(ModelError, match="'w' has a negative size"):
        explain_graph(model, dtype="float16")
    model = models.tiny()
    weight = model.graph.initializer[0]
    model.graph.initializer.remove(weight)
    model.graph.input.append(helper.make_tensor_value_info("w", 1, [4, 3, -3, -3]))
    with pytest.raises(backlight.BacklightError) as caught:
        explain_graph(model, dtype="float16")
    assert "\n" not in str(caught.value)


def calls(name: str, inner: str, times: int) -> onnx.FunctionProto:
    nodes = [
        helper.make_node(inner, [f"t{i}"], [f"t{i + 1}"], domain="" if inner == "Relu" else "local")
        for i in range(times)
    ]
    imports = [helper.make_opsetid("", 18), helper.make_opsetid("local", 1)]
    return helper.make_function("local", name, ["t0"], [f"t{times}"], nodes, imports)


def with_functions(functions: list[onnx.FunctionProto], first: str) -> onnx.ModelProto:
    model = models.tiny()
    (relu,) = (n for n in model.graph.node if n.op_type == "Relu")
    relu.op_type, relu.domain = first, "local"
    model.functions.extend(functions)
    model.opset_import.append(helper.make_opsetid("local", 1))
    return model


@pytest.mark.parametrize("depth", [17, 60, 400])
def test_functions_that_double_at_each_level(depth: int) -> None:
    levels = [calls(f"f{i}", f"f{i + 1}", 2) for i in range(depth)] + [
        calls(f"f{depth}", "Relu", 1)
    ]
    with pytest.raises(ModelError, match="call each other so often") as caught:
        load(with_functions(levels, "f0"))
    assert len(str(caught.value)) < 300


def test_a_function_whose_bytes_multiply() -> None:
    held = numpy_helper.from_array(np.zeros(2**18, np.float32))
    body = [
        helper.make_node("Constant", [], ["k"], value=held),
        helper.make_node("ReduceMax", ["k"], ["m"], keepdims=0),
        helper.make_node("Max", ["t0", "m"], ["t1"]),
    ]
    imports = [helper.make_opsetid("", 18)]
    last = helper.make_function("local", "g", ["t0"], ["t1"], body, imports)
    with pytest.raises(ModelError, match="bytes of attributes"):
        load(with_functions([calls("f", "g", 2000), last], "f"))


def test_functions_in_a_circle() -> None:
    with pytest.raises(ModelError, match="calls itself"):
        load(with_functions([calls("f", "g", 1), calls("g", "f", 1)], "f"))


def test_a_chain_of_functions_is_inlined() -> None:
    """Each calls the next; what comes out is what the last one does."""
    chain = [calls(f"f{i}", f"f{i + 1}", 1) for i in range(3000)] + [calls("f3000", "Relu", 1)]
    model = with_functions(chain, "f0")
    feeds = {"x": models.images(2, 3, 8, 8), "target": np.array([1, 4])}
    got = run_runtime(backlight.export(model, "guided"), feeds)
    want = run_runtime(backlight.export(models.tiny(), "guided"), feeds)
    np.testing.assert_allclose(got["saliency_guided"], want["saliency_guided"], rtol=1e-6)


FUNCTIONS = """<ir_version: 9, opset_import: ["": 18, "local": 1]>
g (float[N,3,8,8] x) => (float[N,3] scores, float[N,3,8,8] same, float[N,3,8,8] also) {
    flag = Constant<value=int64 {1}>()
    yes = Cast<to=9>(flag)
    a = local.leaky<slope=0.25>(x)
    b = local.leaky(a)
    c = If (yes) <then_branch = t () => (float[N,3,8,8] r) { r = local.leaky<slope=0.5>(b) },
                  else_branch = e () => (float[N,3,8,8] q) { q = Identity(b) }>
    d = local.clipped(c)
    p = GlobalAveragePool(d)
    scores = Flatten(p)
    same, also = local.twice(x)
}
<domain: "local", opset_import: ["": 18]>
leaky <slope: float = 0.125> (t) => (r) { h = LeakyRelu<alpha: float = @slope>(t) r = Identity(h) }
<domain: "local", opset_import: ["": 18]>
clipped (t, low, high) => (r) { r = Clip(t, low, high) }
<domain: "local", opset_import: ["": 18]>
twice (t) => (t, u) { u = Identity(t) }"""


def test_attributes_defaults_and_inputs_left_out_of_functions() -> None:
    model = onnx.parser.parse_model(FUNCTIONS)
    x = models.images(2, 3, 8, 8)
    below = x * np.float32(0.25 * 0.125 * 0.5)
    want = {"scores": np.where(x > 0, x, below).mean((2, 3)), "same": x, "also": x}
    exported = backlight.export(model, "vanilla", of="scores")
    got = run_runtime(exported, {"x": x, "target": np.array([0, 2])})
    for name, array in want.items():
        np.testing.assert_allclose(got[name], array, rtol=1e-5, atol=1e-7)
    slopes = np.where(x > 0, 1, 0.25 * 0.125 * 0.5) / 64
    slopes[0, 1:] = slopes[1, :2] = 0
    np.testing.assert_allclose(got["saliency_vanilla"], slopes, rtol=1e-6)
    assert not exported.functions


TOO_SMALL = {
    "Conv": "c = Conv(x, w)",
    "dilated": "c = Conv<dilations=[1, 1000000000]>(x, w)",
    "MaxPool": "c = MaxPool<kernel_shape=[8, 8]>(x)",
    "AveragePool": "c = AveragePool<kernel_shape=[9, 9]>(x)",
    "ConvTranspose": "c = ConvTranspose<pads=[9, 9, 9, 9]>(x, w)",
    "Pad": "p = Constant<value_ints=[0, 0, 0, -9, 0, 0, 0, 0]>() c = Pad(x, p)",
    "behind a Slice": "d = Slice(x, a, b, i) c = Conv(d, w)",
    "in the middle": "n = Relu(x) c = Conv(n, w)",
}


@pytest.mark.parametrize("opset", [11, 17, 21])
@pytest.mark.parametrize("name", TOO_SMALL)
def test_a_slice_of_a_map_too_small_for_its_window(name, opset):
    """Its size is below 0: an assertion in ONNX's C++ ended the process."""
    before = TOO_SMALL[name]
    if opset < 13 and "value_ints" in before:
        before = "c = Conv(x, w)"
    model = onnx.parser.parse_model(
        f"{HEAD % opset}g (float[1,1,4,4] x) => (float[N,M] y) "
        "<int64[1] a = {0}, int64[1] b = {3}, int64[1] i = {3}> "
        f"{{ {before} s = Slice(c, a, b, i) y = Flatten(s) }}"
    )
    weight = numpy_helper.from_array(np.ones((1, 1, 8, 8), np.float32), "w")
    model.graph.initializer.append(weight)
    try:
        made = backlight.export(model, ("vanilla",))
    except BacklightError as err:
        assert len(str(err).splitlines()) == 1
    else:
        onnx.checker.check_model(made)


def test_slices_behind_windows_have_their_sizes():
    """What fits is inferred as before, over several Slices and windows without padding."""
    chain = " ".join(f"c{i} = Conv(s{i}, w) s{i + 1} = Slice(c{i}, a, b, i)" for i in range(4))
    model = onnx.parser.parse_model(
        f"{HEAD % 17}g (float[1,1,20,20] x) => (float[N,M] y) "
        "<int64[1] a = {0}, int64[1] b = {99}, int64[1] i = {3}> "
        f"{{ s0 = Relu(x) {chain} y = Flatten(s4) }}"
    )
    model.graph.initializer.append(numpy_helper.from_array(np.ones((1, 1, 3, 3), np.float32), "w"))
    shapes = {v.name: list(v.shape) for n in load(model).graph for v in n.outputs}
    assert shapes["s4"] == [1, 1, 12, 12] and shapes["y"] == [1, 144]


def test_pads_that_the_run_computes_hide_no_slice():
    """Swin by the older exporter: a Pad and Slices per block, more of them than there are waves.
    Of such pads inference makes no size, so none below 0."""
    chain = " ".join(
        f"k{i} = Shape(s{i}) l{i} = Sub(k{i}, k{i}) d{i} = Concat<axis=0>(l{i}, l{i}) "
        f"p{i} = Pad(s{i}, d{i}) r{i} = Reshape(p{i}, k{i}) s{i + 1} = Slice(r{i}, a, b, i)"
        for i in range(40)
    )
    model = onnx.parser.parse_model(
        f"{HEAD % 17}g (float[1,1,4,20] x) => (float[1,1,4,19] y) "
        "<int64[1] a = {0}, int64[1] b = {19}, int64[1] i = {3}> "
        f"{{ s0 = Relu(x) {chain} y = Relu(s40) }}"
    )
    shapes = {v.name: v.shape for n in load(model).graph for v in n.outputs}
    assert list(shapes["s40"]) == [1, 1, 4, 19]


@pytest.mark.parametrize("pads", ["Neg(t)", "Mul(t, m)", "Sub(m, t)"])
def test_pads_computed_to_be_below_nothing(pads):
    """They are folded to numbers, and then known."""
    model = onnx.parser.parse_model(
        f"{HEAD % 17}g (float[1,1,4,4] x) => (float[N,M] y) "
        "<int64[1] a = {0}, int64[1] b = {3}, int64[1] i = {3}, int64[4] m = {-2, -2, -2, -2}> "
        f"{{ t = Shape(x) n = {pads} p = Concat<axis=0>(n, n) c = Pad(x, p) "
        "s = Slice(c, a, b, i) y = Flatten(s) }"
    )
    try:
        load(model)
    except BacklightError as err:
        assert len(str(err).splitlines()) == 1
