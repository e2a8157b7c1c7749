"""`backlight.Occlusion` against windows hidden one by one, and against captum."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

import backlight
from backlight.engine.masked.occlusion import Occlusion
from backlight.errors import ImageError, ModelError, UsageError
from backlight.export.preprocess import PRESETS
from backlight.kernels import Baseline

from .. import models
from ..export.harness import run_runtime

X = models.images(3, 3, 8, 8)


LOGITS = {"tail": "", "output": "float[N,5] scores"}


# Float32 scores of a few units, from batches of different sizes.
CLOSE = {"rtol": 0, "atol": 2e-6}


def softmax(z):
    e = np.exp(z - z.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def score(x, kind="probability"):
    """What tiny says of a batch [n,3,8,8]: [n,5]."""
    z = run_runtime(models.tiny(**LOGITS), {"x": x})["scores"].astype(np.float64)
    if kind == "logit":
        return z
    return softmax(z) if kind == "probability" else np.log(softmax(z))


def by_hand(x, window, stride, base, kind="probability", overlap="mean", edges="clip"):
    """One image [3,8,8]: the maps of all classes [5,8,8], window by window."""
    (h, w), (dy, dx) = window, stride
    ys, xs = (
        list(range(0, 8 - size + 1, hop))
        + ([] if edges == "valid" or (8 - size) % hop == 0 else [-(-(8 - size) // hop) * hop])
        for size, hop in ((h, dy), (w, dx))
    )
    total, count = np.zeros((5, 8, 8)), np.zeros((8, 8))
    whole = score(x[None], kind)[0]
    for y in ys:
        for x0 in xs:
            hidden = x.copy()
            hidden[:, y : y + h, x0 : x0 + w] = np.asarray(base).reshape(3, 1, 1)
            drop = whole - score(hidden[None], kind)[0]
            total[:, y : y + h, x0 : x0 + w] += drop[:, None, None]
            count[y : y + h, x0 : x0 + w] += 1
    return total if overlap == "sum" else total / np.maximum(count, 1)


@pytest.mark.parametrize("overlap", ["mean", "sum"])
@pytest.mark.parametrize("edges", ["clip", "valid"])
@pytest.mark.parametrize("kind", ["probability", "logit", "logprob"])
def test_the_map_is_what_hiding_costs(kind, edges, overlap):
    occlude = backlight.Occlusion(
        models.tiny(), window=(3, 4), stride=(2, 3), baseline="zero", score=kind, edges=edges,
        overlap=overlap,
    )  # fmt: skip
    heat = occlude(X, classes="all")
    assert heat.shape == (3, 5, 8, 8) and heat.dtype == np.float32
    for i in range(3):
        want = by_hand(X[i], (3, 4), (2, 3), [0, 0, 0], kind, overlap, edges)
        np.testing.assert_allclose(heat[i], want, **CLOSE)


def test_one_class_several_and_all():
    occlude = Occlusion(models.tiny(), window=4, stride=2)
    every = occlude(X, classes="all")
    top = score(X).argmax(axis=1)
    np.testing.assert_array_equal(occlude(X), every[np.arange(3), top])
    np.testing.assert_array_equal(occlude(X, 2), every[:, 2])
    np.testing.assert_array_equal(occlude(X, [4, -1, 0])[[0, 2]], every[[0, 2], [4, 0]])
    np.testing.assert_array_equal(occlude(X, [4, -1, 0])[1], every[1, top[1]])
    several = occlude(X, classes=[3, -1])
    np.testing.assert_array_equal(several[:, 0], every[:, 3])
    np.testing.assert_array_equal(several[:, 1], every[np.arange(3), top])


def test_a_sigmoid_gives_each_class_its_own_probability():
    model = models.tiny(tail="prob = Sigmoid(scores)")
    heat = Occlusion(model, window=8, stride=8, baseline="zero")(X, classes="all")
    p = 1 / (1 + np.exp(-score(np.concatenate([X, 0 * X[:1]]), "logit")))
    np.testing.assert_allclose(heat[:, :, 4, 4], p[:3] - p[3], **CLOSE)


def single(closing, shift):
    """Class 0 of tiny alone, less a number."""
    model = models.tiny(
        tail=f"t = Slice(scores, zero, one, one) s = Sub(t, shift) prob = {closing}(s)",
        output="float[N,1] prob",
    )
    for name, value in (("zero", 0), ("one", 1), ("shift", np.float32(shift))):
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([value]), name))
    return model


def test_a_model_with_a_single_score():
    arguments = {"window": 8, "stride": 8, "baseline": "zero"}
    z = score(np.concatenate([X, 0 * X[:1]]), "logit")[:, 0]
    # Between what hiding all changes least and most: some images keep their sign, some don't.
    changes = z[:3] - z[3]
    least, most = changes[np.abs(changes).argsort()[[0, -1]]]
    shift = z[3] + (abs(least) * np.sign(most) + most) / 2
    z -= shift
    p = 1 / (1 + np.exp(-z))
    closed = Occlusion(single("Sigmoid", shift), **arguments)
    # One logit is two classes: 1, whose probability it gives, and 0, which has the rest.
    np.testing.assert_allclose(closed(X, 1)[:, 0, 0], p[:3] - p[3], **CLOSE)
    np.testing.assert_allclose(closed(X, 0)[:, 0, 0], p[3] - p[:3], **CLOSE)
    np.testing.assert_array_equal(closed(X), closed(X, (z[:3] > 0).astype(int)))
    changes = [n.changes for n in closed.necessity(X)]
    assert changes == (np.sign(z[:3]) != np.sign(z[3])).tolist() and len(set(changes)) == 2
    open_ended = Occlusion(single("Identity", shift), score="logit", **arguments)
    np.testing.assert_allclose(open_ended(X)[:, 0, 0], z[:3] - z[3], **CLOSE)
    with pytest.raises(UsageError, match="predicts no class"):
        open_ended.necessity(X)
    with pytest.raises(UsageError, match="single score; accepted: 'logit'"):
        Occlusion(single("Identity", shift), score="probability", **arguments)(X)
    unasked = Occlusion(single("Identity", shift), **arguments)
    np.testing.assert_array_equal(unasked(X), open_ended(X))
    assert unasked.score == "logit" and "single score" in " ".join(unasked.scorer.notes)


def test_windows_over_some_channels():
    occlude = Occlusion(models.tiny(), window=(1, 8, 8), stride=(1, 8, 8), baseline="zero")
    heat = occlude(X, 1)
    assert heat.shape == (3, 3, 8, 8)
    for c in range(3):
        hidden = X.copy()
        hidden[:, c] = 0
        drop = (score(X) - score(hidden))[:, 1]
        np.testing.assert_allclose(
            heat[:, c], np.broadcast_to(drop[:, None, None], (3, 8, 8)), **CLOSE
        )


def test_channels_last_and_bytes():
    """uint8 [N,H,W,C] into the same network: the map is that of the float planes."""
    head = "y = Cast<to=1>(image) x = Transpose<perm=[0,3,1,2]>(y)"
    model = models.tiny(head=head, dtype="uint8", shape="N,8,8,3")
    pixels = np.random.default_rng(2).integers(0, 256, (2, 8, 8, 3), np.uint8)
    planes = np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)).astype(np.float32)
    colour = (10, 20, 200)
    got = Occlusion(model, window=3, stride=2, baseline=colour)(pixels, 1)
    want = Occlusion(models.tiny(), window=3, stride=2, baseline=colour)(planes, 1)
    np.testing.assert_allclose(got, want, **CLOSE)
    one_channel = Occlusion(model, window=(2, 3, 3), stride=3)(pixels)
    assert one_channel.shape == (2, 3, 8, 8)


def test_images_without_channels():
    head = "x = Unsqueeze(image, axis)"
    model = models.tiny(head=head, shape="N,8,8", channels=1)
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([1]), "axis"))
    x = models.images(2, 8, 8)
    got = Occlusion(model, window=3, baseline=np.zeros((8, 8), np.float32))(x, 0)
    want = Occlusion(models.tiny(shape="N,1,8,8", channels=1), window=3, baseline=0.0)(
        x[:, None], 0
    )
    assert got.shape == (2, 8, 8)
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("batch", [1, 4, 7])
def test_a_batch_bounds_a_run_and_changes_nothing(batch):
    want = Occlusion(models.tiny(), window=3, stride=2)(X)
    runs = []
    occlude = Occlusion(models.tiny(), window=3, stride=2, batch=batch)
    run = occlude.scorer.session.run
    occlude.scorer.session.run = lambda f, o: runs.append(len(f["x"])) or run(f, o)
    np.testing.assert_allclose(occlude(X), want, **CLOSE)
    assert max(runs) <= batch and sum(runs) == 3 + 3 * len(occlude.plan((3, 8, 8)))


@pytest.mark.parametrize("fixed", [1, 2, 5])
def test_batches_that_the_model_fixes_are_filled_up(fixed):
    model = models.tiny(shape=f"{fixed},3,8,8", output=f"float[{fixed},5] prob")
    want = Occlusion(models.tiny(), window=3, stride=2)(X)
    np.testing.assert_allclose(Occlusion(model, window=3, stride=2)(X), want, **CLOSE)


def test_an_exported_file_gives_the_models_own_map():
    want = Occlusion(models.tiny(), window=4)(X)
    exported = Occlusion(backlight.export(models.tiny(), ("guided",)), window=4)
    assert [i.name for i in exported.scorer.session.inputs] == ["x"]
    np.testing.assert_array_equal(exported(X), want)


def test_further_inputs_go_along():
    model = models.parsed(
        """<ir_version: 8, opset_import: ["": 18]>
two (float[N,3,8,8] x, float[N,5] extra) => (float[N,5] prob) {
    f = ReduceMean<keepdims=0>(x, axes)
    z = Gemm<transB=1>(f, v)
    s = Mul(z, extra)
    prob = Softmax(s)
}""",
        {"v": models.weights()["v"][:, :3], "axes": np.array([2, 3])},
    )
    extra = models.images(3, 5, seed=4)
    occlude = Occlusion(model, window=8, stride=8, baseline="zero", score="logit", batch=2)
    heat = occlude({"x": X, "extra": extra}, classes="all")
    want = (X.mean(axis=(2, 3)) @ models.weights()["v"][:, :3].T) * extra
    np.testing.assert_allclose(heat[:, :, 0, 0], want, **CLOSE)
    with pytest.raises(ImageError, match="takes inputs extra, x"):
        occlude(X)


def test_a_baseline_in_pixels_is_brought_into_the_input_space():
    record = PRESETS["imagenet-caffe"]  # BGR, centred
    colour = (124.0, 116.0, 104.0)
    got = Occlusion(models.tiny(), window=4, baseline=colour, space="pixels", preprocess=record)(X)
    inside = (104.0 - 103.939, 116.0 - 116.779, 124.0 - 123.68)
    np.testing.assert_allclose(got, Occlusion(models.tiny(), window=4, baseline=inside)(X), **CLOSE)
    picture = np.tile(np.float32(colour), (8, 8, 1))
    spec = Baseline("image", picture, "pixels")
    again = Occlusion(models.tiny(), window=4, baseline=spec, preprocess="imagenet-caffe")(X)
    np.testing.assert_allclose(again, got, **CLOSE)


def test_measured_says_what_was_seen_on_the_way():
    occlude = Occlusion(models.tiny(), window=4, stride=4)
    steps = []
    found = occlude.measure(X, classes=[0, 2], progress=steps.append)
    assert sum(steps) == 3 * 4
    np.testing.assert_array_equal(found.heat, occlude(X, classes=[0, 2]))
    np.testing.assert_allclose(found.score, score(X)[:, [0, 2]], **CLOSE)
    # Windows don't overlap: the map is the drops themselves.
    np.testing.assert_allclose(found.heat[:, :, ::4, ::4].reshape(3, 2, 4), found.drops, rtol=1e-6)
    hidden = X[0].copy()
    hidden[:, :4, 4:] = X[0].mean(axis=(1, 2), keepdims=True)
    z = np.sort(score(hidden[None], "logit")[0])
    own = score(hidden[None], "logit")[0, found.logits[0].argmax()]
    next_best = z[-2] if own == z[-1] else z[-1]
    np.testing.assert_allclose(found.margins[0, 1], own - next_best, **CLOSE)
    assert found.top[0, 1] == score(hidden[None])[0].argmax()


@pytest.fixture(scope="module")
def peer():
    """A network in torch, the same in ONNX, and images."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("onnxscript")
    from backlight.export.pytorch import from_pytorch

    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Conv2d(3, 6, 3, padding=1), torch.nn.ReLU(), torch.nn.MaxPool2d(2),
        torch.nn.Conv2d(6, 8, 3), torch.nn.Tanh(), torch.nn.Flatten(), torch.nn.Linear(8 * 24, 4),
    ).eval()  # fmt: skip
    x = torch.randn(2, 3, 13, 16)
    return net, from_pytorch(net, x), x


@pytest.mark.parametrize(
    ("shape", "stride"), [((3, 5, 4), (3, 3, 2)), ((1, 3, 3), (1, 2, 2)), ((2, 4, 5), (1, 3, 4))]
)
def test_equals_captum(peer, shape, stride):
    captum = pytest.importorskip("captum.attr")
    net, model, x = peer
    want = captum.Occlusion(net).attribute(
        x, sliding_window_shapes=shape, strides=stride, target=2, baselines=0
    )
    want = want.detach().numpy()
    occlude = Occlusion(
        model, window=shape, stride=stride, baseline="zero", score="logit", overlap="mean"
    )
    # The bound that the contract sets; logits of about 1 in float32.
    np.testing.assert_allclose(occlude(x.numpy(), 2), want, rtol=0, atol=1e-5)
    assert np.abs(want).max() > 1e-2
    if shape[0] == 3:  # all channels at once: one map for all
        flat = Occlusion(model, window=shape[1:], stride=stride[1:], baseline=0.0, score="logit")
        np.testing.assert_allclose(flat(x.numpy(), 2), want[:, 0], rtol=0, atol=1e-5)


def test_tensors_in_a_tensor_out(peer):
    _, model, x = peer
    heat = Occlusion(model, window=5, score="logit")(x)
    assert type(heat) is type(x)
    want = Occlusion(model, window=5, score="logit")(x.numpy())
    np.testing.assert_array_equal(heat.numpy(), want)


def test_half_precision_images():
    model = models.tiny(head="x = Cast<to=1>(image)", dtype="float16")
    x = X.astype(np.float16)
    want = Occlusion(models.tiny(), window=3, stride=2, baseline="zero")(x.astype(np.float32))
    got = Occlusion(model, window=3, stride=2, baseline="zero")(x)
    np.testing.assert_allclose(got, want, **CLOSE)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"window": 9}, "window 9x9 is larger than the image, 8x8"),
        ({"window": (4, 8, 8)}, "larger than the image, 3x8x8"),
        ({"window": 0}, "window 0"),
        ({"stride": 0}, "stride 0; accepted: 1 or more"),
        ({"stride": (2, 0)}, "stride"),
        ({"window": "big"}, "expected a whole number"),
        ({"edges": "wrap"}, "edges 'wrap'"),
        ({"score": "loss"}, "accepted: probability, logit, logprob"),
        ({"overlap": "max"}, "accepted: mean, sum"),
        ({"method": "magic"}, "accepted: auto, dense, incremental, drilldown"),
        ({"baseline": "pink"}, "baseline 'pink'"),
        ({"space": "lab"}, "'input', 'pixels'"),
        ({"memory": "lots"}, "accepted: bytes, or such as"),
        ({"batch": 0}, "batch 0"),
        ({"providers": "tpu"}, "provider 'tpu'"),
        ({"preprocess": "mine"}, "accepted: imagenet-torch"),
        ({"of": "nothing"}, "no tensor 'nothing'"),
    ],
)
def test_what_is_wrong_is_said_before_any_image_comes(arguments, says):
    with pytest.raises(UsageError, match=says):
        Occlusion(models.tiny(), **{"window": 4, **arguments})


@pytest.mark.parametrize(
    ("baseline", "says"),
    [
        (np.zeros((3, 4, 4), np.float32), r"baseline has shape \[3, 4, 4\]"),
        ((1.0, 2.0), r"baseline has shape \[2\]"),
        (np.full((3, 8, 8), np.nan, np.float32), "not finite"),
        (Baseline("colour", (1, 2, 3), "pixels"), "needs the model's preprocessing"),
    ],
)
def test_baselines_that_do_not_fit(baseline, says):
    with pytest.raises(UsageError, match=says):
        Occlusion(models.tiny(), window=4, baseline=baseline)(X)


@pytest.mark.parametrize(
    ("x", "arguments", "says"),
    [
        (X.astype(np.float64), {}, "the input is float64; expected float32"),
        (X[0], {}, r"shaped \[3,8,8\]; expected float32 \[N,3,8,8\]"),
        (X[:0], {}, "shaped"),
        (np.where(X > 2, np.nan, X), {}, "has NaN"),
        (X, {"target": 5}, "class 5 is out of range; expected 0 to 4"),
        (X, {"target": -2}, "class -2"),
        (X, {"target": [1, 2]}, "expected a class number or 3 of them"),
        (X, {"target": 0.5}, "target is float64"),
        (X, {"classes": "some"}, "or 'all'"),
        (X, {"classes": []}, "classes is"),
        (X, {"classes": [1], "target": 1}, "not both"),
    ],
)
def test_bad_calls(x, arguments, says):
    with pytest.raises((ImageError, UsageError), match=says):
        Occlusion(models.tiny(), window=4)(x, **arguments)


def test_models_that_cannot_be_occluded():
    spatial = models.tiny(body="scores = Conv(x, w, b)", tail="", output="float[N,4,6,6] scores")
    with pytest.raises(ModelError, match="positions"):
        Occlusion(spatial, window=4)
