"""What a segment is hidden by, and one table for many images."""

from __future__ import annotations

import numpy as np
import pytest

import backlight
from backlight.engine.masked import tables
from backlight.engine.masked.attributed import segment_means
from backlight.errors import UsageError

from .. import models
from .games import X, logits


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
