"""LIME and KernelSHAP on superpixels: the tables, their constant matrices, the segments, the
command."""

from __future__ import annotations

import itertools
import json
import re
import sys
from math import comb, factorial

import numpy as np
import pytest
from PIL import Image

import backlight
from backlight.engine.cli import run
from backlight.engine.masked import tables
from backlight.engine.masked.attributed import segment_means
from backlight.engine.masked.superpixels import as_superpixels, picture_of
from backlight.engine.photos.images import label_map
from backlight.errors import ImageError, UsageError
from backlight.export.preprocess import preset

from .. import models
from ..export.cases import APART, FEATURES, layers3
from ..export.harness import run_runtime

X = models.images(2, 3, 8, 8)
RNG = np.random.default_rng(5)


def logits(x):
    model = models.tiny(tail="", output="float[N,5] scores")
    return run_runtime(model, {"x": x})["scores"].astype(np.float64)


# --- tables and matrices -------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [40, 301])
def test_lime_s_matrix_is_a_weighted_ridge_regression_by_hand(rows):
    made = tables.lime_regression(12, rows, seed=3)
    z = made.table.astype(float)
    assert z.shape == (rows, 12) and z[0].all() and not z[1].any() and not made.exact
    pairs = z[: rows // 2 * 2].reshape(-1, 2, 12)
    assert (pairs.sum(axis=1) == 1).all(), "each row with its opposite"
    d = 1 - z.sum(axis=1) / np.sqrt(12 * np.maximum(z.sum(axis=1), 1))
    np.testing.assert_allclose(made.weights, np.exp(-(d**2) / 0.25**2) ** 0.5)
    y = RNG.normal(size=(rows, 3)) + z @ RNG.normal(size=(12, 3))
    fit = made.fit(y)
    # Ridge with an unpenalised intercept, as one system of normal equations.
    full = np.c_[z, np.ones(rows)]
    ridge = np.diag([1.0] * 12 + [0.0])
    want = np.linalg.solve((full.T * made.weights) @ full + ridge, (full.T * made.weights) @ y)
    np.testing.assert_allclose(fit.values, want[:-1], rtol=0, atol=1e-10)
    np.testing.assert_allclose(fit.intercept, want[-1], rtol=0, atol=1e-10)
    np.testing.assert_allclose(fit.gap, want[:-1].sum(axis=0) - (y[0] - y[1]), atol=1e-9)
    w, mean = made.weights[:, None], (made.weights @ y) / made.weights.sum()
    r2 = 1 - (w * (y - full @ want) ** 2).sum(axis=0) / (w * (y - mean) ** 2).sum(axis=0)
    np.testing.assert_allclose(fit.r2, r2, rtol=1e-9)


def test_lime_s_fit_is_scikit_learn_s():
    linear = pytest.importorskip("sklearn.linear_model", reason="scikit-learn is not installed")
    made = tables.lime_regression(20, 200, seed=1)
    y = RNG.random((200, 2))
    model = linear.Ridge(1.0).fit(made.table, y, sample_weight=made.weights)
    fit = made.fit(y)
    np.testing.assert_allclose(fit.values.T, model.coef_, atol=1e-8)
    np.testing.assert_allclose(fit.intercept, model.intercept_, atol=1e-8)
    for k in range(2):
        one = linear.Ridge(1.0).fit(made.table, y[:, k], sample_weight=made.weights)
        assert fit.r2[k] == pytest.approx(one.score(made.table, y[:, k], made.weights))


def test_lime_s_fit_is_the_authors_own_on_the_same_rows():
    base = pytest.importorskip("lime.lime_base", reason="lime is not installed")
    pairwise = pytest.importorskip("sklearn.metrics", reason="scikit-learn is not installed")
    made = tables.lime_regression(15, 120, seed=6)
    z, y = made.table.astype(float), RNG.random((120, 2))
    distances = pairwise.pairwise_distances(z, z[:1], metric="cosine").ravel()
    theirs = base.LimeBase(lambda d: np.sqrt(np.exp(-(d**2) / 0.25**2)))
    fit = made.fit(y)
    for k in range(2):
        intercept, values, r2, _ = theirs.explain_instance_with_data(
            z, y, distances, k, 15, feature_selection="none"
        )
        np.testing.assert_allclose(fit.values[:, k], [v for _, v in sorted(values)], atol=1e-8)
        assert fit.intercept[k] == pytest.approx(intercept)
        assert fit.r2[k] == pytest.approx(r2)


def test_all_subsets_give_what_shap_gives():
    shap = pytest.importorskip("shap", reason="shap is not installed")
    weights = RNG.normal(size=(6, 4))

    def game(z):
        return np.tanh(z @ weights).sum(axis=1)

    made = tables.shap_regression(6, None, seed=0)
    found = made.fit(game(made.table.astype(float))[:, None]).values[:, 0]
    explainer = shap.KernelExplainer(game, np.zeros((1, 6)))
    want = explainer.shap_values(np.ones((1, 6)), nsamples=64, l1_reg=False, silent=True)[0]
    np.testing.assert_allclose(found, want, atol=1e-8)


def shapley(values, segments):
    """By the definition, over all subsets. values: from a tuple of 0/1 to a number."""
    found = np.zeros(segments)
    for s in range(segments):
        for row in itertools.product((0, 1), repeat=segments):
            if not row[s]:
                size = sum(row)
                weight = factorial(size) * factorial(segments - size - 1) / factorial(segments)
                more = (*row[:s], 1, *row[s + 1 :])
                found[s] += weight * (values[more] - values[row])
    return found


def test_all_subsets_give_the_shapley_values_of_the_definition():
    made = tables.shap_regression(6, None, seed=0)
    assert made.exact and len(made.table) == 64 and len(np.unique(made.table, axis=0)) == 64
    game = {row: float(v) for row, v in zip(map(tuple, made.table.tolist()),
                                            RNG.normal(size=64), strict=True)}  # fmt: skip
    fit = made.fit(np.array([[game[tuple(row)]] for row in made.table.tolist()]))
    np.testing.assert_allclose(fit.values[:, 0], shapley(game, 6), atol=1e-12)
    assert abs(fit.gap[0]) < 1e-12
    # And the same by weighted least squares under the kernel, through both ends.
    solved = tables._constrained(made.table, made.weights)
    np.testing.assert_allclose(solved, made.matrix, atol=1e-12)


@pytest.mark.parametrize(("segments", "rows"), [(2, 4), (12, 4096), (13, 2074), (50, 2148)])
def test_how_many_subsets_kernelshap_takes(segments, rows):
    made = tables.shap_regression(segments, None, seed=0)
    assert made.table.shape == (rows, segments) and made.exact == (segments <= 12)
    assert made.table[0].all() and not made.table[1].any() and (made.weights[:2] == 0).all()
    assert len(np.unique(made.table, axis=0)) == rows


def test_the_kernel_s_masses_by_size_are_the_paper_s():
    """(M - 1) / (s (M - s)): 1, 2/3, 2/3, 1 for M = 5, in proportion; and of a sampled table the
    sizes that are enumerated, and all of them together, keep theirs."""
    made = tables.shap_regression(5, None, seed=0)
    sizes = made.table.sum(axis=1)
    mass = np.array([made.weights[sizes == s].sum() for s in range(1, 5)])
    np.testing.assert_allclose(mass, [1, 2 / 3, 2 / 3, 1], rtol=1e-12)
    sampled = tables.shap_regression(20, 2000, seed=0)
    sizes = sampled.table.sum(axis=1)
    share = 1 / (np.arange(1, 20) * (20 - np.arange(1, 20)))
    share /= share.sum()
    for s in (1, 2, 18, 19):
        assert (sizes == s).sum() == comb(20, int(s))
        assert sampled.weights[sizes == s].sum() == pytest.approx(share[s - 1])
    assert sampled.weights.sum() == pytest.approx(1)
    drawn = sampled.table[(sizes > 2) & (sizes < 18)]
    both = {tuple(r) for r in drawn.tolist()}
    assert sum(tuple(1 - np.array(r)) in both for r in drawn) >= len(drawn) - 1


@pytest.mark.parametrize("rows", [2, 5, 30, 400, 3000])
def test_sampled_values_always_sum_to_the_whole(rows):
    made = tables.shap_regression(30, rows, seed=2)
    assert len(made.table) == rows
    fit = made.fit(RNG.normal(size=(rows, 4)))
    np.testing.assert_allclose(fit.gap, 0, atol=1e-12)
    assert np.isfinite(fit.values).all()


def test_a_linear_game_is_found_exactly_whatever_is_sampled():
    weights = RNG.normal(size=(25, 2))
    for made in (tables.shap_regression(25, 200, seed=1), tables.shap_regression(25, 200, seed=9)):
        fit = made.fit(made.table @ weights + 3)
        np.testing.assert_allclose(fit.values, weights, atol=1e-10)
        np.testing.assert_allclose(fit.r2, 1, atol=1e-10)


def test_scores_that_never_change_have_no_fit_to_speak_of():
    for made in (tables.lime_regression(9, 100, 0), tables.shap_regression(9, None, 0)):
        fit = made.fit(np.full((len(made.table), 2), 0.3))
        assert not fit.values.any() and not fit.gap.any() and np.isnan(fit.r2).all()


def test_opposite_rows_say_more_than_as_many_single_ones():
    """Of a game with pairs in it: half the variance, or less, that independent coins give."""
    a, b = RNG.normal(size=12), RNG.normal(size=(12, 12)) / 4

    def game(z):
        return (z @ a + np.einsum("ni,ij,nj->n", z, b, z))[:, None]

    def spread(coins):
        found = []
        for seed in range(60):
            z = tables.lime_regression(12, 200, seed).table
            if coins:
                z = np.random.default_rng(seed).integers(0, 2, z.shape)
                z[0] = 1
            w = np.ones(len(z))
            c = z - z.mean(axis=0)
            found.append(np.linalg.solve((c.T * w) @ c + np.eye(12), c.T @ game(z))[:, 0])
        return np.var(found, axis=0).sum()

    assert spread(coins=False) < 0.75 * spread(coins=True)


# --- the classes ---------------------------------------------------------------------------------


def test_values_intercept_and_fit_of_captum_s_model():
    found = backlight.Lime(layers3(), segments=APART["segments"], baseline="zero",
                           score="logit").measure(FEATURES, 0)  # fmt: skip
    np.testing.assert_allclose(found.values[0][0], [81.620324, 21.519089, 41.552834], atol=1e-5)
    assert found.intercept[0, 0] == pytest.approx(168.163091, abs=1e-5)
    assert found.exact[0] and found.masks[0] == 8
    assert found.labels[0].tolist() == [[1, 0, 2]], "7, 3, 9 are counted 0..2"
    np.testing.assert_allclose(found.heat[0, 0, 0], found.values[0][0][[1, 0, 2]], rtol=1e-6)
    assert found.heat.shape == (1, 1, 1, 3) and found.heat.dtype == np.float32


def test_all_classes_at_once_are_each_class_alone():
    lime = backlight.Lime(models.tiny(), segments="grid:3", masks=200, seed=4)
    every = lime.measure(X, classes="all")
    assert every.heat.shape == (2, 5, 8, 8) and every.values[0].shape == (5, 9)
    for k in range(5):
        np.testing.assert_allclose(lime(X, k), every.heat[:, k], atol=1e-7)
    top = logits(X).argmax(axis=1)
    np.testing.assert_array_equal(lime(X), every.heat[[0, 1], top])
    assert (every.r2 <= 1).all()


def test_shapley_values_of_an_image_by_the_definition():
    """Six segments of a photo, each hidden by its own mean colour."""
    shap = backlight.KernelShap(models.tiny(), segments="grid:2x3", score="logit")
    found = shap.measure(X[:1], 2)
    labels = found.labels[0]
    base = segment_means(X[0], labels, "nchw")
    rows = list(itertools.product((0, 1), repeat=6))
    shown = np.stack([np.where(np.array(r)[labels] == 1, X[0], base) for r in rows])
    scores = logits(shown.astype(np.float32))[:, 2]
    want = shapley(dict(zip(rows, scores, strict=True)), 6)
    np.testing.assert_allclose(found.values[0][0], want, atol=2e-6)  # float32 scores
    assert found.exact[0] and found.masks[0] == 64 and abs(found.gap[0, 0]) < 1e-12
    np.testing.assert_allclose(found.values[0].sum(), scores[-1] - scores[0], atol=2e-6)


def test_a_seed_is_a_map_and_few_masks_are_enough_to_ask():
    def heat(seed):
        return backlight.KernelShap(models.tiny(), segments="grid:4", masks=100, seed=seed)(X)

    np.testing.assert_array_equal(heat(1), heat(1))
    assert np.abs(heat(1) - heat(2)).max() > 1e-6


@pytest.mark.parametrize("baseline", ["segment", "mean", 0.5, "blur:2"])
def test_what_hides_a_segment(baseline):
    lime = backlight.Lime(models.tiny(), segments="grid:2", baseline=baseline, score="logit")
    found = lime.measure(X[:1], 1)
    if baseline == "segment":
        base = segment_means(X[0], found.labels[0], "nchw")
    else:
        base = lime.scorer.baseline(X[0], lime.baseline)
        base = base[:, None, None] if base.ndim == 1 else base
    table = lime.regression(4).table
    shown = np.stack([np.where(row[found.labels[0]] == 1, X[0], base) for row in table])
    want = lime.regression(4).fit(logits(shown.astype(np.float32))[:, 1:2]).values[:, 0]
    np.testing.assert_allclose(found.values[0][0], want, atol=2e-6)


def test_segment_means_in_both_layouts_and_in_bytes():
    labels = np.array([[0, 0, 1], [1, 1, 1]], np.int32)
    image = np.arange(12, dtype=np.float32).reshape(2, 2, 3)
    want = np.stack([np.where(labels == 0, p[labels == 0].mean(), p[labels == 1].mean())
                     for p in image])  # fmt: skip
    np.testing.assert_allclose(segment_means(image, labels, "nchw"), want)
    turned = np.ascontiguousarray(image.transpose(1, 2, 0))
    np.testing.assert_allclose(segment_means(turned, labels, "nhwc"), want.transpose(1, 2, 0))
    assert segment_means(image.astype(np.uint8), labels, "nchw")[0, 0, 0] == 1  # 0.5, up


def test_images_with_maps_of_their_own():
    one = np.arange(8)[:, None] // 4 * 2 + np.arange(8) // 4
    lime = backlight.Lime(models.tiny(), segments=np.stack([one, one.T * 5 - 3]), masks=50)
    found = lime.measure(X)
    np.testing.assert_array_equal(found.labels[1], one.T)
    with pytest.raises(UsageError, match="segments 'own map': 2 maps; accepted: 1, or 1"):
        lime(X[:1])


def test_a_table_is_made_once_however_many_images_there_are(monkeypatch):
    """More numbers of segments than tables are kept: what is said of each image is its own."""
    made = []
    inner = tables.lime_regression
    monkeypatch.setattr(
        "backlight.engine.masked.lime.lime_regression",
        lambda segments, *rest: (made.append(segments), inner(segments, *rest))[1],
    )
    x = np.repeat(X[:1], 10, axis=0)
    labels = np.stack([np.arange(64).reshape(8, 8) % count for count in range(2, 12)])
    found = backlight.Lime(models.tiny(), segments=labels, masks=16).measure(x, 0)
    assert made == list(range(2, 12))
    assert found.masks.tolist() == [4, 8, *[16] * 8]
    assert found.exact.tolist() == [True] * 3 + [False] * 7


# --- superpixels ---------------------------------------------------------------------------------


@pytest.fixture
def photo():
    from backlight.engine.cli.options import PHOTOS

    return np.array(Image.open(PHOTOS / "coffee.jpg").convert("RGB").resize((120, 90)))


@pytest.mark.parametrize("how", ["slic:40", "slic", "quickshift", "felzenszwalb:200", "grid:4x5"])
def test_segments_are_numbered_from_0_without_gaps(photo, how):
    if not how.startswith("grid"):
        pytest.importorskip("skimage", reason="scikit-image is not installed")
    labels = as_superpixels(how).cut(photo)
    assert labels.shape == (90, 120) and labels.dtype == np.int32
    np.testing.assert_array_equal(np.unique(labels), np.arange(labels.max() + 1))
    assert 5 <= labels.max() < 400
    np.testing.assert_array_equal(labels, as_superpixels(how).cut(photo))


def test_segments_follow_the_picture_and_not_the_normalised_input(photo):
    """What is cut is the photo in pixels, told from the input by the preprocessing."""
    record = preset("imagenet-torch")
    tensor = (photo / 255 - record.mean) / record.std
    planes = tensor.transpose(2, 0, 1).astype(np.float32)
    assert np.abs(picture_of(planes, "nchw", record).astype(int) - photo).max() <= 1
    plain = picture_of(planes[:1], "nchw", None)
    assert plain.shape == photo.shape and plain.min() == 0 and plain.max() == 255
    assert picture_of(np.zeros((5, 4, 6)), "nchw", None).shape == (4, 6, 3)
    assert not picture_of(np.zeros((4, 6)), "nhw", None).any()


def test_maps_in_files(tmp_path):
    labels = RNG.integers(0, 5, (8, 8))
    Image.fromarray(labels.astype(np.uint8)).save(tmp_path / "grey.png")
    Image.fromarray((labels * 1000).astype(np.uint16)).save(tmp_path / "deep.png")
    colours = RNG.integers(0, 256, (5, 3)).astype(np.uint8)
    Image.fromarray(colours[labels]).save(tmp_path / "colours.png")
    for name in ("grey", "deep", "colours"):
        cut = as_superpixels(label_map(tmp_path / f"{name}.png")).cut(np.zeros((8, 8, 3), "u1"))
        for k in range(5):  # the same partition, whatever the numbers
            assert len(np.unique(cut[labels == k])) == 1
        assert cut.max() == 4


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("slick", r"segments 'slick'; accepted: 'slic' or 'slic:COUNT'"),
        ("slic:", "segments 'slic:'"),
        ("slic:1", "accepted: slic:2 to slic:2000"),
        ("slic:99999", "accepted: slic:2 to slic:2000"),
        ("slic:12.5", "segments 'slic:12.5'"),
        ("slic:nan", "segments 'slic:nan'"),
        ("quickshift:0", "accepted: quickshift:0.5 to quickshift:20"),
        ("felzenszwalb:x", "segments 'felzenszwalb:x'"),
        ("grid", "segments 'grid'"),
        ("grid:1", "accepted: 2 to 2000 cells"),
        ("grid:60", "accepted: 2 to 2000 cells"),
        (np.zeros((2, 2)), r"own map': float64 \[2, 2\]; accepted: whole numbers \[H,W\]"),
        (np.zeros(3, int), r"own map': int64 \[3\]"),
    ],
)
def test_what_is_no_way_to_cut_is_said_before_any_image_comes(given, says):
    with pytest.raises(UsageError, match=says):
        backlight.Lime(models.tiny(), segments=given)


def test_segments_that_do_not_fit_the_image():
    with pytest.raises(UsageError, match="more than the image's 64 pixels"):
        backlight.Lime(models.tiny(), segments="slic:65")(X)
    with pytest.raises(UsageError, match="at most the image's 8x8"):
        backlight.Lime(models.tiny(), segments="grid:9x2")(X)
    with pytest.raises(UsageError, match="a map of 4x8; accepted: 8x8"):
        backlight.Lime(models.tiny(), segments=np.arange(32).reshape(4, 8))(X)
    with pytest.raises(ImageError, match="one segment in all"):
        backlight.Lime(models.tiny(), segments=np.full((8, 8), 3))(X)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"masks": 1}, "1 masks; accepted: 2 or more"),
        ({"masks": 10**9}, "1000000000 masks of 49 segments; accepted: at most"),
        ({"seed": -1}, "seed -1"),
        ({"seed": 1.5}, "seed is 1.5"),
        ({"baseline": "pink"}, "baseline 'pink'; accepted: 'segment', 'zero'"),
        ({"score": "loss"}, "accepted: probability, logit, logprob"),
    ],
)
def test_bad_arguments(arguments, says):
    with pytest.raises(UsageError, match=says):
        backlight.Lime(models.tiny(), segments="grid:7", **arguments)(X)


def test_without_scikit_image_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "skimage", None)
    with pytest.raises(UsageError, match=r"pip install 'backlight\[segments\]', or take 'grid:7'"):
        backlight.Lime(models.tiny(), segments="slic:5")(X)
    assert backlight.Lime(models.tiny(), segments="grid:2", masks=8)(X).shape == (2, 8, 8)


# --- the command ---------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    for k in range(2):
        pixels = RNG.integers(0, 256, (8, 8, 3)).astype(np.uint8)
        Image.fromarray(pixels).resize((32, 32)).save(photos / f"p{k}.png")
    path = tmp_path / "tiny.onnx"
    path.write_bytes(models.tiny().SerializeToString())
    return tmp_path


def explain(folder, *more):
    return run(["explain", str(folder / "photos"), "-m", str(folder / "tiny.onnx"),
                "--preprocess", "unit", "-o", str(folder / "out"), *more])  # fmt: skip


def test_explain_mixes_methods_of_both_kinds(folder, capsys):
    more = ["--segments", "grid:2x2", "--masks", "9", "--seed", "3"]
    assert explain(folder, "--method", "lime", "--method", "gradcam", "--rule", "vanilla",
                   "--method", "kernelshap", *more) == 0  # fmt: skip
    told = capsys.readouterr().out
    assert (
        len(re.findall(r"lime: 4 segments \(grid:2x2\), 9 masks, seed 3, probability, R2", told))
        == 2
    )
    assert len(re.findall(r"kernelshap: 4 .* 9 masks, seed 3, probability, .*gap \+0\n", told)) == 2
    summary = json.loads((folder / "out/summary.json").read_text())
    assert summary["methods"] == ["vanilla", "lime", "gradcam", "kernelshap"]
    assert summary["lime"] == {"segments": "grid:2x2", "masks": 9, "seed": 3, "hide": "segment",
                               "score": "probability"}  # fmt: skip
    made = backlight.KernelShap(models.tiny(), segments="grid:2x2", masks=9, seed=3)
    explainer = backlight.Explainer(models.tiny(), ["vanilla"])
    for entry in summary["images"]:
        x = explainer.load([entry["file"]], "unit")
        want = made.measure(x, entry["class"])
        facts = entry["kernelshap"]
        assert facts["r2"] == pytest.approx(want.r2[0, 0], abs=1e-5)
        assert facts["seed"] == 3 and facts["segments"] == 4 and facts["masks"] == 9
        np.testing.assert_allclose(facts["values"], want.values[0][0], atol=1e-6)
        heat = np.load(folder / "out" / entry["maps"]["kernelshap"])
        np.testing.assert_allclose(heat, want.heat[0, 0], atol=1e-6)
        np.testing.assert_array_equal(np.load(folder / "out" / entry["segments"]), want.labels[0])
        assert np.load(folder / "out" / entry["maps"]["gradcam"]).shape == (8, 8)
        assert Image.open(folder / "out" / entry["panel"]).width > 600
    assert set(summary["pictures"]) == {"vanilla", "lime", "gradcam", "kernelshap"}


def test_explain_with_the_engine_s_methods_alone(folder, capsys):
    assert explain(folder, "--method", "lime", "--segments", "grid:2", "--target-class", "3",
                   "--json", "--score", "logit", "--hide", "zero") == 0  # fmt: skip
    summary = json.loads(capsys.readouterr().out)
    (first, _) = summary["images"]
    assert first["class"] == 3 and 0 < first["probability"] < 1 and len(first["top"]) == 5
    assert first["lime"]["score"] == "logit" and first["lime"]["exact"]
    x = backlight.Explainer(models.tiny(), ["vanilla"]).load([first["file"]], "unit")
    p = run_runtime(models.tiny(), {"x": x})["prob"][0]
    assert first["probability"] == pytest.approx(p[3], abs=1e-5)
    want = backlight.Lime(models.tiny(), segments="grid:2", baseline="zero", score="logit")(x, 3)
    np.testing.assert_allclose(np.load(folder / "out" / first["maps"]["lime"]), want[0], atol=1e-5)


def test_an_exported_file_is_explained_by_both(folder):
    exported = backlight.export(str(folder / "tiny.onnx"), methods=["gradcam"])
    (folder / "tiny.onnx").write_bytes(exported.SerializeToString())
    assert explain(folder, "--method", "gradcam", "--method", "lime", "--segments", "grid:2") == 0
    assert (folder / "out/p0-lime.npy").exists() and (folder / "out/p0-gradcam.npy").exists()


def test_a_map_of_one_s_own_from_a_file(folder):
    labels = np.arange(64).reshape(8, 8) // 16 + 1
    np.save(folder / "map.npy", labels)
    Image.fromarray(labels.astype(np.uint8)).save(folder / "map.png")
    made = []
    for name in ("map.npy", "map.png"):
        assert explain(folder, "--method", "lime", "--segments", str(folder / name), "--force") == 0
        np.testing.assert_array_equal(np.load(folder / "out/p0-segments.npy"), labels - 1)
        made.append(np.load(folder / "out/p0-lime.npy"))
    np.testing.assert_array_equal(*made)


@pytest.mark.parametrize(
    ("name", "made", "says"),
    [
        ("small.npy", np.arange(16).reshape(4, 4), "a map of 4x4; accepted: 8x8"),
        ("real.npy", np.zeros((8, 8)), "float64 [8, 8]; accepted: whole numbers"),
        ("cut.npy", b"\x93NUMPY\x01\x00", "no .npy file that can be read"),
        ("cut.png", b"\x89PNG", "not an image that can be read"),
    ],
)
def test_a_file_that_is_no_map_is_named(folder, capsys, name, made, says):
    file = folder / name
    if isinstance(made, bytes):
        file.write_bytes(made)
    else:
        np.save(file, made)
    assert explain(folder, "--method", "lime", "--segments", str(file)) == 2
    err = capsys.readouterr().err
    assert str(file) in err and says in err and err.count("\n") == 1
    assert not (folder / "out").exists()


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--method", "lime", "--segments", "slick"], "--segments 'slick'; accepted: 'slic'"),
        (["--method", "lime", "--segments", "slic:100"], "more than the image's 64 pixels"),
        (["--method", "lime", "--masks", "1"], "1 masks; accepted: 2 or more"),
        (["--method", "lime", "--hide", "pink"], "--hide 'pink'; accepted: 'segment'"),
        (["--method", "lime", "--seed", "-1"], "seed -1"),
        (["--method", "lime", "--score", "loss"], "score 'loss'"),
        (["--method", "lime", "--layer", "r"], "layer, fuse, size and signed"),
        (["--method", "lime", "--versus", "2"], "method 'lime' takes no contrast"),
        (["--method", "lime", "--samples", "4"], "samples is of methods that vary the image"),
        (["--method", "lime", "--baseline", "black"], "--hide says what hides a segment"),
        (["--method", "gradcam", "--segments", "slic"], "segments is of methods on superpixels"),
        (["--method", "gradcam", "--seed", "1"], "seed is of methods on superpixels: lime"),
        (["--rule", "vanilla", "--score", "logit"], "score is of methods that run the model"),
    ],
)  # fmt: skip
def test_what_does_not_go_together_is_one_line(folder, capsys, more, says):
    assert explain(folder, *more) == 2
    told = capsys.readouterr()
    assert says in told.err and told.err.count("\n") == 1 and "Traceback" not in told.err
    assert not (folder / "out").exists()


def test_a_photo_of_one_segment_does_not_stop_the_others(folder, capsys):
    pytest.importorskip("skimage", reason="scikit-image is not installed")
    Image.new("RGB", (8, 8), (9, 90, 200)).save(folder / "photos" / "plain.png")
    more = ["--method", "lime", "--segments", "felzenszwalb:1", "--masks", "20"]
    assert explain(folder, *more) == 2
    told = capsys.readouterr()
    summary = json.loads((folder / "out/summary.json").read_text())
    alone = {skipped["file"] for skipped in summary["skipped"]}
    assert str(folder / "photos" / "plain.png") in alone
    assert "plain.png: " in told.err and "one segment in all" in told.err
