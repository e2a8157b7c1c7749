"""LIME and KernelSHAP on superpixels: the tables, their constant matrices, the segments, the
command."""

from __future__ import annotations

import itertools
import json
import re
import sys

import numpy as np
import pytest
from PIL import Image

import backlight
from backlight.engine.cli import run
from backlight.engine.masked.attributed import segment_means
from backlight.errors import ImageError, UsageError

from .. import models
from ..export.cases import APART, FEATURES, layers3
from ..export.harness import run_runtime
from .games import X, logits, shapley

RNG = np.random.default_rng(5)


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


def test_a_fit_of_too_few_masks_is_said_to_be_one(folder, capsys):
    """As many unknowns as rows: R2 is near 1 whatever the model does."""
    for masks, said in ((9, True), (10, False)):
        assert explain(folder, "--method", "lime", "--segments", "grid:3", "--masks", str(masks),
                       "--force") == 0  # fmt: skip
        assert (
            "(of no more masks than segments: it says little)" in capsys.readouterr().out
        ) is said


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
        (["--method", "lime", "--segments", "gone.png"], "--segments 'gone.png': no such file"),
        (["--method", "lime", "--segments", "no/thing"], "--segments 'no/thing': no such file"),
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


class TestRowsThatAreRun:
    """No picture is run twice: not the whole one, nor rows that show the same."""

    def measured(self, method: type, x: np.ndarray, **given: object) -> tuple[object, int]:
        made = method(models.tiny(), providers="cpu", threads=1, **given)
        session, rows = made.scorer.session, []
        inner = session.run

        def counted(feeds: dict[str, np.ndarray], *more: object) -> object:
            rows.append(len(feeds["x"]))
            return inner(feeds, *more)

        session.run = counted
        told: list[int] = []
        found = made.measure(x, classes="all", progress=told.append)
        assert sum(told) == found.masks.sum(), "all rows are told of, run or not"
        return found, sum(rows) - len(x)  # without the whole images

    @pytest.mark.parametrize("method", [backlight.Lime, backlight.KernelShap])
    def test_equal_rows_are_one(self, method: type) -> None:
        found, rows = self.measured(method, X[:1], segments="grid:2x5", masks=1000)
        made = method(models.tiny(), segments="grid:2x5", masks=1000)
        table = made.regression(10).table
        assert found.masks[0] == len(table)
        assert rows == len(np.unique(table, axis=0)) - 1 < len(table)
        base = segment_means(X[0], found.labels[0], "nchw")
        every = np.where(table[:, found.labels[0]][:, None] == 1, X[0], base).astype(np.float32)
        z = np.exp(logits(every))
        fit = made.regression(10).fit(z / z.sum(axis=1, keepdims=True))
        np.testing.assert_allclose(found.values[0].T, fit.values, atol=1e-6)
        np.testing.assert_allclose(found.r2[0], fit.r2, rtol=1e-4)

    def test_what_hides_nothing_is_not_run(self) -> None:
        """A drawing on one colour, behind its means: 3 of 16 parts have anything in them."""
        x = np.zeros((1, 3, 8, 8), np.float32)
        x[..., 0, 0], x[..., 3, 3], x[..., 7, 0] = 1, 2, 3
        found, rows = self.measured(backlight.KernelShap, x, segments="grid:4", masks=300)
        assert rows == 2**3 - 1
        assert (found.values[0][:, [0, 5, 12]] != 0).all()
        rest = np.delete(found.values[0], [0, 5, 12], axis=1)
        assert np.abs(rest).max() < 0.01 * np.abs(found.values[0]).max()  # 300 of 65,536 subsets
        empty, rows = self.measured(backlight.Lime, x * 0, segments="grid:4", masks=300)
        assert rows == 0 and (empty.values[0] == 0).all() and np.isnan(empty.r2).all()

    @pytest.mark.parametrize("baseline", ["zero", "mean", "blur:2"])
    def test_of_any_baseline(self, baseline: str) -> None:
        x = np.zeros((1, 3, 8, 8), np.float32)
        x[..., :4, :4] = X[0, :, :4, :4]
        found, rows = self.measured(
            backlight.KernelShap, x, segments="grid:2", baseline=baseline, score="logit"
        )
        assert rows == (1 if baseline == "zero" else 15)
        assert np.abs(found.gap).max() < 1e-12
