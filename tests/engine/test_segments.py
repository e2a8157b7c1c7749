"""`backlight.Segments` against superpixels switched off one by one."""

from __future__ import annotations

import itertools
from math import factorial

import numpy as np
import pytest

import backlight
from backlight.errors import UsageError

from .. import models
from ..export.harness import run_runtime

X = models.images(2, 3, 8, 8)
LABELS = np.arange(8)[:, None] // 4 * 2 + np.arange(8) // 4  # four quadrants
EVERY = np.array(list(itertools.product((0, 1), repeat=4)))  # all 16 coalitions


def logits(x):
    model = models.tiny(tail="", output="float[N,5] scores")
    return run_runtime(model, {"x": x})["scores"].astype(np.float64)


def hidden(x, label, row):
    return np.where(row[label] != 0, x, x.mean(axis=(1, 2), keepdims=True)).astype(np.float32)


@pytest.mark.parametrize("batch", [None, 3])
def test_scores_are_those_of_images_with_segments_hidden(batch):
    switch = backlight.Segments(models.tiny(), score="logit", batch=batch)
    steps = []
    got = switch(X, LABELS, EVERY, classes="all", progress=steps.append)
    assert got.shape == (2, 5, 16) and sum(steps) == 32
    for i in range(2):
        want = logits(np.stack([hidden(X[i], LABELS, row) for row in EVERY])).T
        np.testing.assert_allclose(got[i], want, rtol=0, atol=2e-6)  # float32 scores of a few units
    np.testing.assert_array_equal(switch(X, LABELS, EVERY, [4, 0]), got[[0, 1], [4, 0]])
    top = logits(X).argmax(axis=1)
    np.testing.assert_array_equal(switch(X, LABELS, EVERY), got[[0, 1], top])
    np.testing.assert_array_equal(switch(X, LABELS[None], EVERY, [4, 0]), got[[0, 1], [4, 0]])
    odd = np.stack([LABELS, LABELS.T])  # a map for each image
    each = switch(X, odd, EVERY, 1)
    np.testing.assert_array_equal(each[0], got[0, 1])
    want = logits(np.stack([hidden(X[1], LABELS.T, row) for row in EVERY]))[:, 1]
    np.testing.assert_allclose(each[1], want, rtol=0, atol=2e-6)


def test_exact_shapley_values_add_up():
    """All coalitions of four segments: the values sum to what hiding everything costs."""
    f = backlight.Segments(models.tiny())(X[:1], LABELS, EVERY, 2)[0]
    place = {tuple(row): k for k, row in enumerate(EVERY)}
    values = np.zeros(4)
    for row in EVERY:
        size = int(row.sum())
        for s in np.flatnonzero(row == 0):
            weight = factorial(size) * factorial(3 - size) / factorial(4)
            values[s] += weight * (
                f[place[tuple(row + np.eye(4, dtype=int)[s])]] - f[place[tuple(row)]]
            )
    assert values.sum() == pytest.approx(f[-1] - f[0], abs=1e-12)
    assert np.abs(values).min() > 0
    heat = backlight.Segments(models.tiny()).paint(values, LABELS)
    assert heat.dtype == np.float32 and heat.shape == (8, 8)
    np.testing.assert_array_equal(heat[::4, ::4].ravel(), values.astype(np.float32))


@pytest.mark.parametrize(
    ("labels", "table", "says"),
    [
        (LABELS[:7], EVERY, r"segment map has shape \[7, 8\]; accepted: the image's \[8, 8\]"),
        (LABELS, EVERY[:, :3], "segment labels 0..3; accepted: 0..2"),
        (LABELS, EVERY * 2, "other values than 0"),
        (np.stack([LABELS] * 3), EVERY, "3 segment maps; accepted: 1, or 2"),
        (LABELS / 2, EVERY, "dtype float64"),
    ],
)
def test_maps_and_tables_that_do_not_fit(labels, table, says):
    with pytest.raises(UsageError, match=says):
        backlight.Segments(models.tiny())(X, labels, table)


def test_other_bad_arguments():
    with pytest.raises(UsageError, match="score 'loss'"):
        backlight.Segments(models.tiny(), score="loss")
    with pytest.raises(UsageError, match="values"):
        backlight.Segments(models.tiny()).paint(np.zeros((1, 1, 4)), LABELS)
