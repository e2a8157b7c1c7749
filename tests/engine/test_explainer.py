"""`backlight.Explainer`: batches, targets, errors, where arrays live."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

import backlight
from backlight.engine.cli import run
from backlight.engine.cli.options import BUNDLED, PHOTOS
from backlight.errors import ImageError, UsageError

from .. import models
from ..export.harness import run_runtime

X = models.images(5, 3, 8, 8)


def test_scores_targets_and_maps():
    explain = backlight.Explainer(models.tiny())
    result = explain(X)
    assert result.scores.shape == (5, 5) and result.target.shape == (5,)
    np.testing.assert_array_equal(result.target, result.scores.argmax(axis=1))
    assert set(result.saliency) == {"vanilla", "deconv", "guided"}
    graph = backlight.export(models.tiny(), for_="cpu")
    want = run_runtime(graph, {"x": X, "target": np.full(5, -1)})
    for rule, values in result.saliency.items():
        assert values.shape == X.shape and values.dtype == np.float32
        np.testing.assert_allclose(values, want[f"saliency_{rule}"], rtol=1e-5, atol=1e-7)


def test_one_class_and_a_class_per_row():
    explain = backlight.Explainer(models.tiny(), ("vanilla",))
    same = explain(X, 3)
    each = explain(X, [3, 3, -1, 0, 3])
    assert same.target.tolist() == [3] * 5 and each.target[[0, 1, 3, 4]].tolist() == [3, 3, 0, 3]
    np.testing.assert_array_equal(same.saliency["vanilla"][4], each.saliency["vanilla"][4])
    assert not np.array_equal(same.saliency["vanilla"][3], each.saliency["vanilla"][3])


@pytest.mark.parametrize("fixed", [1, 2, 4, 7])
def test_fixed_batches_are_split_and_filled_up(fixed):
    model = models.tiny(shape=f"{fixed},3,8,8", output=f"float[{fixed},5] prob")
    got = backlight.Explainer(model, ("guided",))(X, [0, 1, 2, 3, -1])
    want = backlight.Explainer(models.tiny(), ("guided",))(X, [0, 1, 2, 3, -1])
    assert got.scores.shape == (5, 5)
    np.testing.assert_allclose(got.saliency["guided"], want.saliency["guided"], rtol=1e-5)
    np.testing.assert_array_equal(got.target, want.target)


def test_batch_bounds_the_rows_of_a_run():
    want = backlight.Explainer(models.tiny())(X)
    got = backlight.Explainer(models.tiny(), batch=2)(X)
    for rule, values in want.saliency.items():
        np.testing.assert_allclose(got.saliency[rule], values, rtol=1e-5, atol=1e-7)


def test_an_exported_file_is_used_as_it_is(tmp_path: Path):
    file = tmp_path / "e.onnx"
    onnx.save(backlight.export(models.tiny(), ("guided",)), file)
    explain = backlight.Explainer(file, ("guided",))
    np.testing.assert_allclose(
        explain(X).saliency["guided"],
        backlight.Explainer(models.tiny(), ("guided",))(X).saliency["guided"],
        rtol=1e-5,
        atol=1e-7,
    )
    assert explain.closing == "Softmax" and explain.classes == 5
    with pytest.raises(UsageError, match="no rule 'vanilla'.*guided"):
        backlight.Explainer(file, ("vanilla",))
    onnx.save(backlight.export(models.tiny(), ("guided",), target_class=2), file)
    baked = backlight.Explainer(file, ("guided",))
    with pytest.raises(UsageError, match="class 2 only"):
        baked(X, 1)
    baked(X)


def test_what_an_exported_file_says_of_a_baked_class(tmp_path: Path):
    file = tmp_path / "e.onnx"
    onnx.save(backlight.export(models.tiny(), ("guided",), target_class=2), file)
    assert backlight.Explainer(file, ("guided",))(X).target.tolist() == [2] * 5


def test_of_another_tensor_becomes_the_score():
    explain = backlight.Explainer(models.tiny(), ("vanilla",), of="f")
    result = explain(X, 1)
    assert result.scores.shape == (5, 4)
    with pytest.raises(UsageError, match="class 4 is out of range.*0 to 3"):
        explain(X, 4)


def test_dlpack_arrays_come_back_to_their_library():
    torch = pytest.importorskip("torch")
    explain = backlight.Explainer(models.tiny(), ("guided",))
    result = explain(torch.from_numpy(X), torch.tensor([0, 1, 2, 3, 4]))
    assert isinstance(result.saliency["guided"], torch.Tensor)
    assert isinstance(result.scores, torch.Tensor) and isinstance(result.target, torch.Tensor)
    np.testing.assert_array_equal(
        result.saliency["guided"].numpy(), explain(X, [0, 1, 2, 3, 4]).saliency["guided"]
    )
    asks = torch.from_numpy(X.copy()).requires_grad_()
    np.testing.assert_array_equal(explain(asks).scores.numpy(), explain(X).scores)


def test_views_and_sublists():
    explain = backlight.Explainer(models.tiny(shape="N,8,8,3", head=NHWC), ("guided",))
    flipped = X.transpose(0, 2, 3, 1)
    assert not flipped.flags.c_contiguous
    np.testing.assert_array_equal(
        explain(flipped).saliency["guided"], explain(flipped.copy()).saliency["guided"]
    )


NHWC = "x = Transpose<perm=[0,3,1,2]>(image)"


@pytest.mark.parametrize(
    ("inputs", "says"),
    [
        (X.astype(np.float64), r"float64; expected float32 \[N,3,8,8\]"),
        (X[0], r"\[3,8,8\]; expected float32 \[N,3,8,8\]"),
        (X[:, :2], r"\[5,2,8,8\]"),
        (X[:, :, :7], r"\[5,3,7,8\]"),
        (X[:0], r"\[0,3,8,8\]"),
        (np.where(X > 3, np.inf, X).astype(np.float32), "image 1 has NaN or infinite"),
        ([["a"]], "expected float32"),
        ({"y": X}, "takes inputs x; got y"),
    ],
)
def test_bad_inputs(inputs, says):
    explain = backlight.Explainer(models.tiny())
    with pytest.raises(ImageError, match=says) as caught:
        explain(inputs)
    assert "\n" not in str(caught.value)


def test_nan_names_the_image():
    bad = X.copy()
    bad[3, 1, 2, 2] = np.nan
    with pytest.raises(ImageError, match="image 3 has NaN"):
        backlight.Explainer(models.tiny())(bad)


@pytest.mark.parametrize(
    ("target", "says"),
    [
        (5, "class 5 is out of range.*0 to 4"),
        ([0, 1, 2, 3, 5], "class 5"),
        (-2, "class -2"),
        ([0, 1], r"expected a class number or 5"),
        (0.5, "float64"),
        ("cat", "expected a class number"),
        ([[1]] * 5, "expected a class number"),
    ],
)
def test_bad_targets(target, says):
    with pytest.raises(UsageError, match=says):
        backlight.Explainer(models.tiny())(X, target)


def test_a_class_out_of_range_where_the_graph_leaves_it_open():
    tail = "k = Shape(scores)\n free = Reshape(scores, k)\n prob = Softmax(free)"
    explain = backlight.Explainer(models.tiny(tail=tail, output="float[N,K] prob"))
    with pytest.raises(UsageError, match="class 9 is out of range"):
        explain(X, 9)


def test_load_prepares_photos():
    explain = backlight.Explainer(BUNDLED, ("guided",))
    x = explain.load([PHOTOS / "chelsea.jpg", PHOTOS / "coffee.jpg"])
    result = explain(x)
    assert x.shape == (2, 3, 227, 227)
    assert result.target[0] in (281, 282, 285) and result.target[1] == 967
    with pytest.raises(UsageError, match="imagenet-torch"):
        backlight.Explainer(models.tiny()).load([PHOTOS / "chelsea.jpg"])
    tiny = backlight.Explainer(models.tiny()).load([PHOTOS / "chelsea.jpg"], "unit")
    assert tiny.shape == (1, 3, 8, 8) and tiny.min() >= 0 and tiny.max() <= 1


@pytest.mark.parametrize("closing", ["Sigmoid", "Softmax"])
def test_the_class_said_is_the_class_explained(closing: str):
    """Of scores of 20 to 200 several probabilities round to 1, others to 0. A file chooses by the
    scores before; what it chose must be what is said, whether it was exported now or earlier."""
    model = models.tiny(tail=f"prob = {closing}(scores)")
    (bias,) = (t for t in model.graph.initializer if tuple(t.dims) == (5,))
    values = np.array([20, 300, 30, 150, 0], np.float32)
    bias.CopyFrom(onnx.numpy_helper.from_array(values, bias.name))
    x = models.images(3, 3, 8, 8)
    methods = ("vanilla", "contrastcam")
    earlier = backlight.Explainer(backlight.export(model, methods=methods, contrast_form="logit"))
    now = backlight.Explainer(model, methods=methods, contrast_form="logit")
    for explain in (now, earlier):
        found = explain(x)
        again = explain(x, target=found.target, contrast=found.contrast)
        for name in methods:
            np.testing.assert_array_equal(found.saliency[name], again.saliency[name])
        assert again.target.tolist() == found.target.tolist()
    alone = backlight.Explainer(backlight.export(model, methods=["vanilla"]))
    found = alone(x)
    np.testing.assert_array_equal(
        found.saliency["vanilla"], alone(x, target=found.target).saliency["vanilla"]
    )
    # By the scores themselves, which both files hold: of the probabilities class 0 ties.
    for explain in (now, earlier):
        assert explain(x).target.tolist() == [1, 1, 1] and explain(x).contrast.tolist() == [3, 3, 3]
    assert found.target.tolist() == [1, 1, 1]
    other = now(x, target=0)
    assert np.abs(other.saliency["vanilla"] - now(x).saliency["vanilla"]).max() > 0.01


def test_of_codes_that_tie_the_class_said_is_the_class_explained():
    """The score of a quantised model is taken before its codes, and its top class from them: of
    equal ones the first, whatever the scores before say."""
    model = models.tiny(
        tail="""step = Constant<value_float=1000.0>()
    zero = Constant<value_int=0>()
    middle = Cast<to=2>(zero)
    codes = QuantizeLinear(scores, step, middle)
    last = DequantizeLinear(codes, step, middle)""",
        output="float[N,5] last",
    )
    (bias,) = (t for t in model.graph.initializer if tuple(t.dims) == (5,))
    values = np.array([10, 30, 20, 0, 0], np.float32)
    bias.CopyFrom(onnx.numpy_helper.from_array(values, bias.name))
    x = models.images(2, 3, 8, 8)
    explain = backlight.Explainer(model, ("vanilla",))
    found = explain(x)
    assert not found.scores.any() and found.target.tolist() == [0, 0]
    told, other = (explain(x, target=k).saliency["vanilla"] for k in (0, 1))
    np.testing.assert_array_equal(found.saliency["vanilla"], told)
    assert np.abs(told - other).max() > 0.01


def test_scores_that_tie_are_asked_for_once(monkeypatch):
    """What a model compiled here ranks by is known: only of an earlier file a tie is in doubt."""
    model = models.tiny(tail="flat = Sub(scores, scores)", output="float[N,5] flat")
    explain = backlight.Explainer(model, ("vanilla",))
    runs = []
    own = explain.session.run
    monkeypatch.setattr(explain.session, "run", lambda *a: runs.append(a) or own(*a))
    assert explain(models.images(2, 3, 8, 8)).target.tolist() == [0, 0]
    assert len(runs) == 1


def test_a_colour_as_baseline_is_what_preprocess_makes_of_it(tmp_path, capsys):
    """The model doesn't say how pixels become its input; what is given does: white is 1."""
    model, x = models.tiny(), models.images(2, 3, 8, 8)
    how = {"methods": ["integrated_gradients"], "steps": 3, "providers": "cpu"}
    white, one, zero = (
        backlight.Explainer(model, baseline=b, preprocess="unit", **how)(x).saliency[
            "integrated_gradients"
        ]
        for b in ("white", 1.0, 0.0)
    )
    np.testing.assert_allclose(white, one, rtol=1e-5, atol=1e-7)
    assert not np.allclose(white, zero)
    with pytest.raises(UsageError, match="give --preprocess"):
        backlight.Explainer(model, baseline="white", **how)
    onnx.save(model, tmp_path / "tiny.onnx")
    words = ["explain", "-m", str(tmp_path / "tiny.onnx"), "-o", str(tmp_path / "out"), "--method",
             "integrated_gradients", "--steps", "3", "--baseline", "white"]  # fmt: skip
    assert run([*words, str(PHOTOS / "coffee.jpg"), "--preprocess", "unit"]) == 0
