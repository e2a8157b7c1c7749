"""The exported graph: literal cases, the contract of its inputs and outputs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx.reference import ReferenceEvaluator

import backlight
from backlight.errors import ModelError, UsageError
from backlight.export import seed
from backlight.export.saliency import explain_graph

from .. import models
from .harness import run_reference, run_runtime

M_INPUT = np.arange(16, dtype=np.float32).reshape(1, 1, 4, 4)
M_MAPS = {
    "vanilla": [[0, 1, 1, 1], [0, 1, 1, 1], [0, 1, 1, 1], [0, 0, 0, 0]],
    "deconv": [[2, 3, 3, 1], [3, 5, 5, 2], [3, 5, 5, 2], [1, 2, 2, 1]],
    "guided": [[0, 1, 1, 1], [1, 3, 3, 2], [1, 3, 3, 2], [1, 2, 2, 1]],
}
TARGETS = ("portable", "cpu", "cuda", "tensorrt")


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("run", [run_reference, run_runtime])
def test_model_m_is_exact(run, target):
    graph = backlight.export(models.model_m(), for_=target)
    found = run(graph, {"x": M_INPUT, "target": np.array([0])})
    assert found["y"].tolist() == [[54] * 4]
    for rule, want in M_MAPS.items():
        np.testing.assert_array_equal(found[f"saliency_{rule}"], np.float32([[want]]))


def test_model_m_sums_to_54_for_a_linear_path():
    """vanilla is the gradient: <gradient, x> + what the biases give is the score."""
    found = run_runtime(backlight.export(models.model_m()), {"x": M_INPUT, "target": [0]})
    weighted = float((found["saliency_vanilla"] * M_INPUT).sum())
    # channel 0 is on at positions 1, 2, 3 (weights +1), channel 1 at 2, 3 (weights -1)
    assert weighted + 3 * -50 - 2 * -75 == 54


def test_outputs_are_the_models_own_then_the_maps():
    graph = backlight.export(models.tiny(), rules=("guided", "vanilla"))
    assert [i.name for i in graph.graph.input] == ["x", "target"]
    assert [o.name for o in graph.graph.output] == ["prob", "saliency_guided", "saliency_vanilla"]
    target = graph.graph.input[1].type.tensor_type
    assert target.elem_type == onnx.TensorProto.INT64
    assert len(target.shape.dim) == 1 and target.shape.dim[0].dim_param == "N"
    saliency = graph.graph.output[1].type.tensor_type
    assert [d.dim_param or d.dim_value for d in saliency.shape.dim] == ["N", 3, 8, 8]
    assert saliency.elem_type == onnx.TensorProto.FLOAT
    onnx.checker.check_model(graph, full_check=True)


def test_metadata_says_what_was_done():
    kept = models.tiny()
    kept.metadata_props.add(key="own", value="kept")
    meta = {p.key: p.value for p in backlight.export(kept, ("guided",)).metadata_props}
    assert meta["own"] == "kept"
    assert meta["backlight.rules"] == "guided"
    assert meta["backlight.of"] == "scores"
    assert meta["backlight.wrt"] == "x"
    assert meta["backlight.version"] == backlight.__version__


def test_standard_operators_only():
    graph = backlight.export(models.tiny())
    assert {n.domain for n in graph.graph.node} <= {"", "ai.onnx"}
    assert not graph.functions


def test_scores_are_what_they_were():
    x = models.images(3, 3, 8, 8)
    want = run_runtime(models.tiny(), {"x": x})["prob"]
    got = run_runtime(backlight.export(models.tiny()), {"x": x, "target": [-1] * 3})["prob"]
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)  # float32, the bound promised


@pytest.mark.parametrize("target", TARGETS)
def test_rows_are_independent_and_runs_repeat(target):
    graph = backlight.export(models.tiny(), for_=target)
    x, chosen = models.images(4, 3, 8, 8), np.array([0, -1, 4, 2])
    together = run_runtime(graph, {"x": x, "target": chosen})
    again = run_runtime(graph, {"x": x, "target": chosen})
    for name, values in together.items():
        np.testing.assert_array_equal(values, again[name])
        for row in range(4):
            alone = run_runtime(graph, {"x": x[row : row + 1], "target": chosen[row : row + 1]})
            np.testing.assert_allclose(values[row], alone[name][0], rtol=1e-5, atol=1e-7)


def test_minus_one_is_the_top_class_and_top1_bakes_it_in():
    x = models.images(4, 3, 8, 8)
    graph = backlight.export(models.tiny(), ("vanilla",))
    top = run_runtime(graph, {"x": x, "target": np.array([-1] * 4)})
    named = run_runtime(graph, {"x": x, "target": top["prob"].argmax(1)})
    baked = backlight.export(models.tiny(), ("vanilla",), target_class="top1")
    assert [i.name for i in baked.graph.input] == ["x"]
    np.testing.assert_array_equal(top["saliency_vanilla"], named["saliency_vanilla"])
    np.testing.assert_array_equal(
        top["saliency_vanilla"], run_runtime(baked, {"x": x})["saliency_vanilla"]
    )


def test_a_number_bakes_the_class_in():
    x = models.images(2, 3, 8, 8)
    baked = run_runtime(backlight.export(models.tiny(), target_class=3), {"x": x})
    named = run_runtime(backlight.export(models.tiny()), {"x": x, "target": np.array([3, 3])})
    for rule in M_MAPS:
        np.testing.assert_array_equal(baked[f"saliency_{rule}"], named[f"saliency_{rule}"])


def test_the_class_score_is_before_the_softmax():
    x = models.images(1, 3, 8, 8)
    bare = models.tiny(tail="", output="float[N,5] scores")
    logs = models.tiny(tail="prob = LogSoftmax(scores)")
    feeds = {"x": x, "target": np.array([2])}
    want = run_runtime(backlight.export(bare), feeds)["saliency_vanilla"]
    for closed in (models.tiny(), logs):
        np.testing.assert_array_equal(
            run_runtime(backlight.export(closed), feeds)["saliency_vanilla"], want
        )


def test_of_names_another_tensor():
    """Of the softmax itself, as it is: p_c (e_c - p) replaces the one-hot seed."""
    x = models.images(1, 3, 8, 8)
    feeds = {"x": x, "target": np.array([2])}
    got = run_runtime(backlight.export(models.tiny(), ("vanilla",), of="prob:as-is"), feeds)
    p = got["prob"][0]
    free = backlight.export(models.tiny(), ("vanilla",), of="scores", cotangent="input")
    seed = (p[2] * (np.eye(5)[2] - p))[None].astype(np.float32)
    want = run_runtime(free, {"x": x, "cotangent": seed})["saliency_vanilla"]
    np.testing.assert_allclose(got["saliency_vanilla"], want, rtol=1e-4, atol=1e-7)  # float32


def test_wrt_names_another_tensor():
    graph = backlight.export(models.tiny(), ("vanilla",), wrt="r")
    found = run_runtime(graph, {"x": models.images(1, 3, 8, 8), "target": np.array([1])})
    want = np.broadcast_to(models.weights()["v"][1][:, None, None] / 64, (4, 8, 8))
    np.testing.assert_allclose(found["saliency_vanilla"][0], want, rtol=1e-6)  # one product


def test_several_of_and_wrt():
    graph = explain_graph(
        models.tiny(), ("vanilla",), of=["scores", "f"], wrt=["x", "r"], cotangent="input"
    ).to_proto()
    assert [i.name for i in graph.graph.input] == ["x", "cotangent_0", "cotangent_1"]
    assert [o.name for o in graph.graph.output][1:] == ["saliency_vanilla_0", "saliency_vanilla_1"]
    x = models.images(1, 3, 8, 8)
    seeds = {"cotangent_0": models.images(1, 5), "cotangent_1": models.images(1, 4, seed=2)}
    both = run_runtime(graph, {"x": x, **seeds})
    parts = [
        run_runtime(
            backlight.export(models.tiny(), ("vanilla",), of=of, cotangent="input"),
            {"x": x, "cotangent": seeds[f"cotangent_{i}"]},
        )["saliency_vanilla"]
        for i, of in enumerate(("scores", "f"))
    ]
    np.testing.assert_allclose(both["saliency_vanilla_0"], sum(parts), rtol=1e-4, atol=1e-6)


def test_reduce_maxabs_drops_the_channels():
    x = models.images(2, 3, 8, 8)
    feeds = {"x": x, "target": np.array([0, 1])}
    whole = run_runtime(backlight.export(models.tiny()), feeds)
    small = run_runtime(backlight.export(models.tiny(), reduce="maxabs"), feeds)
    for rule in M_MAPS:
        name = f"saliency_{rule}"
        np.testing.assert_array_equal(small[name], np.abs(whole[name]).max(axis=1))


NHWC = "x = Transpose<perm=[0,3,1,2]>(image)"


def test_nhwc_keeps_the_images_own_layout():
    graph = backlight.export(models.tiny(shape="N,8,8,3", head=NHWC))
    x = models.images(2, 3, 8, 8)
    feeds = {"target": np.array([0, 1])}
    got = run_runtime(graph, {"image": x.transpose(0, 2, 3, 1).copy(), **feeds})
    want = run_runtime(backlight.export(models.tiny()), {"x": x, **feeds})
    for rule in M_MAPS:
        np.testing.assert_allclose(
            got[f"saliency_{rule}"].transpose(0, 3, 1, 2),
            want[f"saliency_{rule}"],
            rtol=1e-5,
            atol=1e-7,
        )
    reduced = backlight.export(models.tiny(shape="N,8,8,3", head=NHWC), reduce="maxabs")
    maps = run_runtime(reduced, {"image": x.transpose(0, 2, 3, 1).copy(), **feeds})
    assert maps["saliency_guided"].shape == (2, 8, 8)


def test_uint8_input_takes_the_gradient_at_the_first_float_tensor():
    graph = explain_graph(models.tiny(dtype="uint8", head="x = Cast<to=1>(image)"), ("vanilla",))
    assert graph.input == "image" and graph.wrt == "x"
    assert "first float tensor" in graph.notes[0]
    image = np.random.default_rng(0).integers(0, 255, (1, 3, 8, 8), np.uint8)
    target = np.array([1])
    got = run_runtime(graph.to_proto(), {"image": image, "target": target})
    want = run_runtime(
        backlight.export(models.tiny()), {"x": image.astype(np.float32), "target": target}
    )
    np.testing.assert_array_equal(got["saliency_vanilla"], want["saliency_vanilla"])


def test_several_heads_need_a_name():
    tail = "prob = Softmax(scores)\n aux = Gemm<transB=1>(f, v)\n more = Softmax(aux)"
    two = models.tiny(tail=tail, output="float[N,5] prob, float[N,5] more")
    with pytest.raises(ModelError, match=r"'prob'.*'more'.*--of"):
        backlight.export(two)
    graph = backlight.export(two, of="aux")
    assert [o.name for o in graph.graph.output][:2] == ["prob", "more"]
    assert {p.key: p.value for p in graph.metadata_props}["backlight.score_output"] == "more"


@pytest.mark.parametrize("batch", [1, 3])
def test_fixed_batch(batch):
    graph = backlight.export(
        models.tiny(shape=f"{batch},3,8,8", output=f"float[{batch},5] prob"), ("guided",)
    )
    assert graph.graph.input[1].type.tensor_type.shape.dim[0].dim_value == batch
    x = models.images(batch, 3, 8, 8)
    got = run_runtime(graph, {"x": x, "target": np.zeros(batch, np.int64)})
    want = run_runtime(
        backlight.export(models.tiny(), ("guided",)),
        {"x": x, "target": np.zeros(batch, np.int64)},
    )
    np.testing.assert_allclose(got["saliency_guided"], want["saliency_guided"], rtol=1e-6)


def test_a_model_with_our_names_inside_keeps_working():
    body = models.BODY.replace("h ", "target ").replace("(h)", "(target)")
    graph = backlight.export(models.tiny(body=body))
    run_runtime(graph, {"x": models.images(1, 3, 8, 8), "target": np.array([0])})


def test_a_model_with_our_numbered_names_inside_keeps_working():
    body = models.BODY
    for theirs, ours in (("h", "saliency_vanilla_0"), ("r", "cotangent_1"), ("p", "cotangent_0")):
        body = body.replace(f"{theirs} =", f"{ours} =").replace(f"({theirs})", f"({ours})")
    model = models.tiny(body=body)
    graph = backlight.export(
        model, ("vanilla",), of=["scores", "f"], wrt=["x", "f"], cotangent="input"
    )
    onnx.checker.check_model(graph, full_check=True)
    feeds = {"x": models.images(1, 3, 8, 8), "cotangent_0": models.images(1, 5)}
    feeds["cotangent_1"] = models.images(1, 4, 1, 1).reshape(1, 4)
    found = run_runtime(graph, feeds)
    want = feeds["cotangent_0"] @ models.weights()["v"] + feeds["cotangent_1"]
    np.testing.assert_allclose(found["saliency_vanilla_1"], want, rtol=1e-5)


def test_an_exported_file_is_not_exported_twice():
    with pytest.raises(ModelError, match="exported one"):
        backlight.export(backlight.export(models.tiny()))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"rules": ("guidde",)}, "guidde.*vanilla, deconv, guided"),
        ({"rules": ()}, "no rule given"),
        ({"target_class": 5}, "class 5 is out of range.*0 to 4"),
        ({"target_class": -1}, "out of range"),
        ({"target_class": "cat"}, "accepted: input, top1 or a number"),
        ({"reduce": "max"}, "none, maxabs"),
        ({"cotangent": "x"}, "class, input"),
        ({"for_": "tpu"}, "portable, cpu, cuda, tensorrt"),
        ({"of": "score"}, "no tensor 'score'.*scores"),
        ({"wrt": "nope"}, "no tensor 'nope'"),
        ({"of": "h", "wrt": "prob"}, "no gradient flows"),
    ],
)
def test_bad_arguments(arguments, says):
    with pytest.raises(UsageError, match=says) as caught:
        backlight.export(models.tiny(), **arguments)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("number", [-1, 2**63, 10**30])
def test_a_class_is_an_int64_where_their_number_is_open(number):
    scores = ir.Value(name="scores", shape=ir.Shape(["N", "K"]))
    seed.check_class(scores, 2**63 - 1)
    with pytest.raises(UsageError, match="out of range; 'scores' has classes 0 and up"):
        seed.check_class(scores, number)


def test_the_given_model_is_not_changed():
    model = models.tiny()
    before = model.SerializeToString(deterministic=True)
    backlight.export(model)
    assert model.SerializeToString(deterministic=True) == before


def test_bytes_paths_and_messages_give_the_same(tmp_path: Path):
    model = models.tiny()
    onnx.save(model, tmp_path / "m.onnx")
    graphs = [
        backlight.export(given)
        for given in (
            model,
            model.SerializeToString(),
            tmp_path / "m.onnx",
            str(tmp_path / "m.onnx"),
        )
    ]
    assert len({g.SerializeToString(deterministic=True) for g in graphs}) == 1


def test_the_file_grows_by_a_tenth_at_most():
    from backlight.engine.cli.options import BUNDLED

    grown = explain_graph(BUNDLED).to_proto().ByteSize()
    assert grown <= 1.1 * BUNDLED.stat().st_size


def test_squeezenet_against_the_reference_evaluator():
    """The bundled model on ONNX Runtime and, in float32 too, on ONNX's own evaluator."""
    from backlight.engine.cli.options import BUNDLED

    graph = explain_graph(BUNDLED, ("guided",)).to_proto()
    x = 50 * models.images(1, 3, 227, 227)
    feeds = {"data": x, "target": np.array([281])}
    got = run_runtime(graph, feeds)["saliency_guided"]
    want = ReferenceEvaluator(graph).run(["saliency_guided"], feeds)[0]
    # float32: a few gates near zero flip between two orders of summation
    assert np.linalg.norm(got - want) <= 1e-3 * np.linalg.norm(want)
