"""Score-CAM and Ablation-CAM against their definitions, channel by channel."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

import backlight
from backlight.engine.cli import run
from backlight.errors import ImageError, UnsupportedNode, UsageError
from backlight.export.enlarge import interpolation
from backlight.export.parted import parted

from .. import models
from ..export.harness import run_runtime

X = models.images(2, 3, 8, 8)
NET = models.weights()
# Maps of 4 x 4, so that masks are enlarged, and two layers behind them.
DEEP = """
    h = Conv<pads=[1,1,1,1], strides=[2,2]>(x, w, b)
    r = Relu(h)
    h2 = Conv<pads=[1,1,1,1]>(r, w2, b)
    r2 = Relu(h2)
    {head}
"""
FLAT = """f = Flatten(r2)
    s = Gemm<transB=1>(f, v2, c)
    scores = Mul(s, s)"""
PAST = """skip = GlobalAveragePool(r)
    both = Concat<axis=1>(r2, r)
    p = GlobalAveragePool(both)
    f = Flatten(p)
    scores = Gemm<transB=1>(f, v8, c)"""


def deep(head=FLAT, **more):
    rng = np.random.default_rng(7)
    model = models.tiny(body=DEEP.format(head=head), **more)
    for name, shape in (("w2", (4, 4, 3, 3)), ("v2", (5, 64)), ("v8", (5, 8))):
        value = (rng.standard_normal(shape) / 3).astype(np.float32)
        model.graph.initializer.append(models.onnx.numpy_helper.from_array(value, name))
    return model


def tapped(model, name, x):
    """A tensor inside, by ONNX Runtime."""
    found = backlight.engine.inside.taps.Taps(model, [name])(x)
    return found[name]


def softmax(z):
    e = np.exp(z - z.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def probabilities(model, x):
    return run_runtime(model, {"x": x.astype(np.float32)})["prob"].astype(np.float64)


@pytest.fixture(autouse=True)
def _taps():
    import backlight.engine.inside.taps  # noqa: F401


def by_definition(model, layer, x, classes, signed=False):
    """Score-CAM of one image [1, ...]: linear half_pixel, min-max, products, softmax."""
    maps = tapped(model, layer, x)[0].astype(np.float64)
    up = interpolation(maps.shape[1], 8).astype(np.float64)
    wide = up @ maps @ up.T
    low, high = (f(axis=(1, 2), keepdims=True) for f in (wide.min, wide.max))
    masks = (wide - low) / np.where(high > low, high - low, 1)
    p = probabilities(model, x * masks[:, None])
    weights = softmax(p[:, classes].T)
    made = np.einsum("tk,khw->thw", weights, maps)
    return weights, up @ (made if signed else np.maximum(made, 0)) @ up.T


@pytest.mark.parametrize("batch", [None, 3])
@pytest.mark.parametrize("signed", [False, True])
def test_score_cam_is_its_definition(batch, signed):
    model = deep()
    cam = backlight.ScoreCam(model, layer="r2", signed=signed, batch=batch)
    found = cam.measure(X, classes=[0, 3, 4])
    for i in range(2):
        weights, heat = by_definition(model, "r2", X[i : i + 1], [0, 3, 4], signed)
        np.testing.assert_allclose(found.weights[i], weights, atol=1e-6)
        np.testing.assert_allclose(found.heat[i], heat, atol=1e-5)
    assert found.heat.dtype == np.float32 and found.heat.shape == (2, 3, 8, 8)
    assert found.layer == "r2" and (found.runs <= 5).all()
    top = probabilities(model, X).argmax(axis=1)
    np.testing.assert_array_equal(cam(X), cam(X, top))


def test_channels_that_are_off_share_one_run():
    """The first layer's bias turned down: channels without a single place that is on."""
    model = deep()
    bias = next(i for i in model.graph.initializer if i.name == "b")
    bias.CopyFrom(models.onnx.numpy_helper.from_array(np.float32([0.5, -99, 0.2, -99]), "b"))
    found = backlight.ScoreCam(model, layer="r2").measure(X[:1])
    weights, heat = by_definition(model, "r2", X[:1], found.target[0])
    np.testing.assert_allclose(found.weights[0], weights, atol=1e-6)
    np.testing.assert_allclose(found.heat[0], heat, atol=1e-5)
    assert found.dead[0] == 2 and found.runs[0] == 3


def test_score_cam_s_baseline_stands_where_a_channel_is_low():
    model = deep()
    grey = backlight.ScoreCam(model, layer="r2", baseline=0.5).measure(X[:1], 1)
    maps = tapped(model, "r2", X[:1])[0]
    up = interpolation(4, 8).astype(np.float64)
    wide = up @ maps @ up.T
    low, high = (f(axis=(1, 2), keepdims=True) for f in (wide.min, wide.max))
    masks = ((wide - low) / np.where(high > low, high - low, 1))[:, None]
    p = probabilities(model, X[:1] * masks + 0.5 * (1 - masks))
    np.testing.assert_allclose(grey.weights[0, 0], softmax(p[:, 1]), atol=1e-6)


def ablated(model, layer, head, x, k, kind, classes):
    """(f - f_k) / |f| by running a model whose layer is an input."""
    maps = tapped(model, layer, x)
    rows = np.repeat(maps, len(k) + 1, axis=0)
    for row, channel in enumerate(k):
        rows[row + 1, channel] = 0
    z = head(rows)
    f = (softmax(z) if kind == "probability" else z)[:, classes]
    return ((f[0] - f[1:]) / np.abs(f[0])).T


@pytest.mark.parametrize("kind", ["probability", "logit"])
@pytest.mark.parametrize("batch", [None, 3])
def test_ablation_cam_runs_the_head_alone(kind, batch):
    model = deep()
    weight = {i.name: models.onnx.numpy_helper.to_array(i) for i in model.graph.initializer}

    def head(rows):
        return (rows.reshape(len(rows), -1) @ weight["v2"].T.astype(np.float64) + weight["c"]) ** 2

    cam = backlight.AblationCam(model, layer="r2", score=kind, batch=batch)
    assert not cam.closed
    steps = []
    found = cam.measure(X, classes=[0, 2], progress=steps.append)
    assert sum(steps) == 8 and found.runs.tolist() == [4, 4]
    for i in range(2):
        want = ablated(model, "r2", head, X[i : i + 1], range(4), kind, [0, 2])
        np.testing.assert_allclose(found.weights[i], want, rtol=1e-4, atol=1e-5)
        maps = tapped(model, "r2", X[i : i + 1])[0].astype(np.float64)
        up = interpolation(4, 8).astype(np.float64)
        heat = up @ np.maximum(np.einsum("tk,khw->thw", want, maps), 0) @ up.T
        np.testing.assert_allclose(found.heat[i], heat, atol=1e-4)


@pytest.mark.parametrize("kind", ["probability", "logit", "logprob"])
def test_the_closed_form_is_what_running_the_head_gives(kind, monkeypatch):
    """z without a channel is z - W mean(A): with and without the closed form."""
    closed = backlight.AblationCam(models.tiny(), score=kind)
    assert closed.closed and closed.layer == "r"
    want = closed.measure(X, classes="all")
    assert want.runs.tolist() == [0, 0]
    monkeypatch.setattr("backlight.export.parted._linear", lambda of, layer: None)
    run_alone = backlight.AblationCam(models.tiny(), score=kind)
    assert not run_alone.closed
    found = run_alone.measure(X, classes="all")
    np.testing.assert_allclose(found.weights, want.weights, rtol=2e-4, atol=2e-6)


def test_ablation_by_logits_of_a_pooled_linear_head_is_its_weights():
    """W_ck mean(A_k) / |z_c|: METHODS of this kind agree with class activation maps."""
    found = backlight.AblationCam(models.tiny(), score="logit").measure(X, classes="all")
    means = tapped(models.tiny(), "r", X).mean(axis=(2, 3), dtype=np.float64)
    z = means @ NET["v"].T + NET["c"]
    want = NET["v"][None] * means[:, None] / np.abs(z)[:, :, None]
    np.testing.assert_allclose(found.weights, want, rtol=1e-4, atol=1e-6)


def test_what_goes_past_the_layer_is_fed_to_the_rest():
    model = deep(PAST)
    cam = backlight.AblationCam(model, layer="r2")
    assert cam.parts.reads == ("r2", "r") and not cam.closed
    weight = {i.name: models.onnx.numpy_helper.to_array(i) for i in model.graph.initializer}
    found = cam.measure(X[:1], 1)
    r, r2 = (tapped(model, n, X[:1]).mean(axis=(2, 3), dtype=np.float64) for n in ("r", "r2"))
    rows = [np.r_[r2[0] * (np.arange(4) != k), r[0]] for k in range(-1, 4)]
    p = softmax(np.stack(rows) @ weight["v8"].T + weight["c"])[:, 1]
    np.testing.assert_allclose(found.weights[0, 0], (p[0] - p[1:]) / p[0], rtol=1e-4, atol=1e-6)


def test_a_rest_that_reads_a_shape_from_before_the_layer_is_refused():
    head = """n = Shape<start=0, end=1>(r)
    to = Concat<axis=0>(n, flat)
    f = Reshape(r2, to)
    scores = Gemm<transB=1>(f, v2, c)"""
    model = deep(head)
    model.graph.initializer.append(models.onnx.numpy_helper.from_array(np.array([64]), "flat"))
    with pytest.raises(UnsupportedNode, match=r"Reshape.*computed before the layer.*take scorecam"):
        backlight.AblationCam(model, layer="r2")
    assert backlight.ScoreCam(model, layer="r2")(X).shape == (2, 8, 8)


@pytest.mark.parametrize("shape", ["1,3,8,8", "3,3,8,8"])
def test_a_batch_that_the_model_fixes(shape):
    rows = int(shape[0])
    fixed = deep(shape=shape, output=f"float[{rows},5] prob")
    for made in (backlight.ScoreCam, backlight.AblationCam):
        want = made(deep(), layer="r2")(X[:1], 2)
        np.testing.assert_allclose(made(fixed, layer="r2")(X[:1], 2), want, atol=1e-5)


@pytest.mark.parametrize("reading", ["class", "pooled"])
def test_the_tokens_of_a_transformer(reading):
    model = models.transformer(reading=reading)
    x = models.images(2, 3, 8, 8)
    grad = backlight.Explainer(model, methods=["gradcam"], size="layer")
    for made in (backlight.ScoreCam, backlight.AblationCam):
        cam = made(model, size="layer", signed=True)
        assert (cam.layer,) == grad.layers
        found = cam.measure(x)
        assert found.heat.shape[2:] == grad(x).saliency["gradcam"].shape[1:]
        assert np.isfinite(found.heat).all() and np.ptp(found.heat) > 0


def test_the_default_layer_is_grad_cam_s_and_size_is_the_layer_s():
    for made in (backlight.ScoreCam, backlight.AblationCam):
        cam = made(deep(), size="layer")
        assert cam.layer == "r2" and cam(X).shape == (2, 4, 4)
    front = parted(deep(), "scores")
    assert [v.name for v in front.front.graph.outputs] == ["r2"] and front.rest is None


def test_one_sigmoid_is_two_classes():
    tail = """one = Slice(scores, at0, at1, axis)
    prob = Sigmoid(one)"""
    model = deep(tail=tail, output="float[N,1] prob")
    for name, value in (("at0", [0]), ("at1", [1]), ("axis", [1])):
        model.graph.initializer.append(models.onnx.numpy_helper.from_array(np.array(value), name))
    for made in (backlight.ScoreCam, backlight.AblationCam):
        found = made(model, layer="r2", signed=True).measure(X, classes=[0, 1])
        assert found.heat.shape == (2, 2, 8, 8) and np.isfinite(found.heat).all()
        np.testing.assert_allclose(found.score.sum(axis=1), 1, atol=1e-6)


@pytest.mark.parametrize("made", [backlight.ScoreCam, backlight.AblationCam])
def test_bad_arguments(made):
    with pytest.raises(UsageError, match="layer 'f' has .*no rows and columns"):
        made(deep(), layer="f")
    with pytest.raises(UsageError, match="nearest: "):
        made(deep(), layer="r22")
    with pytest.raises(UsageError, match="size 'half'; accepted: input, layer"):
        made(deep(), size="half")
    with pytest.raises(UsageError, match="score 'loss'"):
        made(deep(), score="loss")
    with pytest.raises(ImageError, match="the input is float64"):
        made(deep())(X.astype(np.float64))


def test_they_are_drawn_beside_the_others(tmp_path, capsys):
    rng = np.random.default_rng(3)
    Image.fromarray(rng.integers(0, 256, (8, 8, 3)).astype(np.uint8)).save(tmp_path / "p.png")
    (tmp_path / "m.onnx").write_bytes(deep().SerializeToString())
    methods = [w for m in ("scorecam", "gradcam", "ablationcam") for w in ("--method", m)]
    call = ["explain", str(tmp_path / "p.png"), "-m", str(tmp_path / "m.onnx"), *methods,
            "--preprocess", "unit", "-o", str(tmp_path / "out"), "--force"]  # fmt: skip
    assert run(call) == 0
    told = capsys.readouterr().out
    assert "  scorecam: probability, 4 channels, " in told
    assert "  ablationcam: probability, 4 channels, 4 runs\n" in told
    summary = json.loads((tmp_path / "out/summary.json").read_text())
    assert summary["methods"] == ["scorecam", "gradcam", "ablationcam"]
    (entry,) = summary["images"]
    assert entry["ablationcam"]["layers"][0] == {
        "layer": "r2", "channels": 4, "runs": 4, "dead": entry["scorecam"]["layers"][0]["dead"]
    }  # fmt: skip
    x = backlight.Explainer(deep(), ["vanilla"]).load([tmp_path / "p.png"], "unit")
    want = backlight.AblationCam(deep())(x, entry["class"])
    np.testing.assert_allclose(np.load(tmp_path / "out/p-ablationcam.npy"), want[0], atol=1e-5)

    # Of two layers: a map each, or the larger of both.
    assert run([*call, "--layer", "r", "--layer", "r2", "--signed"]) == 0
    names = json.loads((tmp_path / "out/summary.json").read_text())["methods"]
    both = [f"{m}_{i}" for m in ("scorecam", "gradcam", "ablationcam") for i in (0, 1)]
    assert names == both and all((tmp_path / f"out/p-{n}.npy").exists() for n in both)
    assert run([*call, "--layer", "r", "--layer", "r2", "--fuse"]) == 0
    fused = np.load(tmp_path / "out/p-scorecam.npy")
    each = [backlight.ScoreCam(deep(), layer=n)(x, entry["class"])[0] for n in ("r", "r2")]
    want = np.maximum(*(np.tanh(2 * m / m.max()) for m in each))
    np.testing.assert_allclose(fused, want, atol=1e-4)
    capsys.readouterr()
    assert run([*call, "--layer", "f"]) == 2
    err = capsys.readouterr().err
    assert "no rows and columns" in err and err.count("\n") == 1
