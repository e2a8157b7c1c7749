"""`backlight.Rise` against masks summed one by one."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest

import backlight
from backlight.engine.cli import run
from backlight.engine.masked.rise import Rise
from backlight.engine.masked.scoring import Scorer
from backlight.errors import UsageError
from backlight.kernels.reference import kept

from .. import models
from ..export.harness import run_runtime

X = models.images(2, 3, 8, 8)
# Float32 sums of a few hundred masked scores, in other batches.
CLOSE = {"rtol": 0, "atol": 5e-6}


# What counts is in one corner: maps that settle early.
CORNER = X.copy()
CORNER[:, :, 4:] = CORNER[:, :, :, 4:] = 0


def scores(x):
    return run_runtime(models.tiny(), {"x": x})["prob"].astype(np.float64)


@pytest.mark.parametrize("batch", [1, 7, None])
def test_the_map_is_the_mean_score_where_a_pixel_is_kept(batch):
    rise = backlight.Rise(models.tiny(), masks=50, cells=3, probability=0.4, seed=3, batch=batch)
    heat = rise(X, classes="all")
    assert heat.shape == (2, 5, 8, 8) and heat.dtype == np.float32
    masks = kept(rise.plan((3, 8, 8)))[:, 0].astype(np.float64)
    for i in range(2):
        p = scores((X[i][None] * masks[:, None]).astype(np.float32))
        want = np.einsum("nk,nhw->khw", p, masks) / (50 * 0.4)
        np.testing.assert_allclose(heat[i], want, **CLOSE)
    np.testing.assert_allclose(rise(X, [2, 4]), heat[[0, 1], [2, 4]], **CLOSE)
    top = scores(X).argmax(axis=1)
    np.testing.assert_allclose(rise(X), heat[[0, 1], top], **CLOSE)


def test_the_baseline_stands_where_the_mask_hides():
    rise = Rise(models.tiny(), masks=20, cells=2, baseline=0.5, score="logit")
    masks = kept(rise.plan((3, 8, 8)))
    mixed = (X[:1] * masks + 0.5 * (1 - masks)).astype(np.float32)
    z = run_runtime(models.tiny(tail="", output="float[N,5] scores"), {"x": mixed})["scores"]
    want = np.einsum("n,nhw->hw", z[:, 1].astype(np.float64), masks[:, 0]) / (20 * 0.5)
    np.testing.assert_allclose(rise(X[:1], 1)[0], want, **CLOSE)


def test_a_seed_is_a_map():
    one, same, other = (Rise(models.tiny(), masks=40, seed=s)(X) for s in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert np.abs(one - other).max() > 1e-3


def test_4000_masks_by_default():
    rise = Rise(models.tiny())
    assert len(rise.plan((3, 8, 8))) == 4000


def test_it_stops_when_the_map_no_longer_changes():
    steps = []
    rise = Rise(models.tiny(), masks=6000, cells=2, tolerance=0.1, batch=50)
    found = rise.measure(CORNER, progress=steps.append)
    assert (found.masks < 6000).all() and (found.masks % 200 == 0).all()
    assert (found.change <= 0.1).all() and sum(steps) == 2 * 6000
    finer = Rise(models.tiny(), masks=6000, cells=2, tolerance=0.06, batch=50).measure(CORNER)
    assert (finer.masks > found.masks).all()
    # The map it stops at is the mean over the masks used, and near that of all.
    n = int(found.masks[0])
    used = Rise(models.tiny(), masks=6000, cells=2, batch=50)
    masks = kept(used.plan((3, 8, 8)), 0, n)
    p = scores((CORNER[:1] * masks).astype(np.float32))[:, found.target[0, 0]]
    want = np.einsum("n,nhw->hw", p, masks[:, 0].astype(np.float64)) / (n * 0.5)
    np.testing.assert_allclose(found.heat[0, 0], want, **CLOSE)


def test_the_error_it_states_is_the_one_that_single_masks_give():
    """Eight group means say it within a third or so: seven degrees of freedom, times the map's
    few independent values."""
    found = Rise(models.tiny(), masks=4000, cells=2).measure(CORNER[:1])
    plan = Rise(models.tiny(), masks=4000, cells=2).plan((3, 8, 8))
    masks = kept(plan)
    p = scores((CORNER[:1] * masks).astype(np.float32))[:, found.target[0, 0]]
    each = p[:, None, None] * masks[:, 0] / 0.5
    each -= each.mean(axis=(1, 2), keepdims=True)
    error = np.sqrt((each.var(axis=0) / 4000).mean())
    assert found.change[0] == pytest.approx(error / np.ptp(found.heat[0]), rel=0.4)


def test_a_map_that_never_changes_is_settled_at_once():
    """A constant class score: the masks cover pixels unevenly, but hiding changes nothing."""
    found = Rise(models.tiny(), masks=400, cells=1, tolerance=0.5, probability=1.0, batch=40)
    got = found.measure(X)
    assert got.masks.tolist() == [200, 200] and got.change.tolist() == [0, 0]


def test_a_map_of_the_masks_alone_is_said_to_be_one(tmp_path, capsys):
    """A score that no mask moves: what is drawn is how often each pixel happened to be kept."""
    from PIL import Image

    model = models.tiny()
    for held in model.graph.initializer:
        if held.name == "v":
            flat = np.zeros(onnx.numpy_helper.to_array(held).shape, np.float32)
            held.CopyFrom(onnx.numpy_helper.from_array(flat, "v"))
    got = Rise(model, masks=20).measure(X)
    assert got.spread.shape == (2, 1) and (got.spread < 1e-6).all()
    assert np.ptp(got.heat) > 0.05
    moved = Rise(models.tiny(), masks=20).measure(X)
    assert (moved.spread > 1e-3).all()
    onnx.save(model, tmp_path / "still.onnx")
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "p.png")
    words = ["rise", "-m", str(tmp_path / "still.onnx"), str(tmp_path / "p.png"), "--masks", "20"]
    assert run([*words, "--preprocess", "unit", "-o", str(tmp_path / "o")]) == 0
    said = capsys.readouterr().out
    assert "what is shown is how often each pixel was kept" in said
    told = json.loads((tmp_path / "o/summary.json").read_text())["images"][0]["classes"][0]
    assert told["note"].startswith("masks change ") and told["note"] in said


def test_one_mask_has_no_error_to_state():
    found = Rise(models.tiny(), masks=1, cells=2).measure(X)
    assert np.isinf(found.change).all() and np.isfinite(found.heat).all()


def test_one_session_serves_both():
    scorer = Scorer(models.tiny(), batch=16)
    rise, occlude = Rise(scorer, masks=20), backlight.Occlusion(scorer, window=4)
    assert rise.scorer is occlude.scorer
    assert rise(X).shape == occlude(X).shape == (2, 8, 8)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"masks": 0}, "0 masks"),
        ({"cells": 9}, "cells; accepted: 1 to the image's 8x8"),
        ({"cells": 0}, "cells"),
        ({"probability": 0}, "mask probability 0"),
        ({"probability": 1.5}, "mask probability 1.5"),
        ({"tolerance": 0}, "tolerance 0"),
        ({"tolerance": 2}, "tolerance 2"),
        ({"seed": -1}, "seed -1"),
        ({"score": "loss"}, "accepted: probability, logit, logprob"),
        ({"baseline": "pink"}, "baseline 'pink'"),
        ({"providers": "tpu"}, "provider 'tpu'"),
    ],
)
def test_what_is_wrong_is_said_before_any_image_comes(arguments, says):
    with pytest.raises(UsageError, match=says):
        Rise(models.tiny(), **arguments)


def test_a_budget_that_is_too_small():
    with pytest.raises(UsageError, match="too small for one variant"):
        Rise(models.tiny(), memory=1000)(X)
