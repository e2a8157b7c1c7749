"""The metrics of `engine/measure/compare.py`, against themselves written out."""

from __future__ import annotations

import math

import numpy as np
import onnx
import pytest

import backlight
from backlight.engine.measure import compare

from .. import models


def test_between_reads_the_layout():
    want = np.zeros((2, 12, 12))
    want[0, 3, 4], want[1, 5, 6] = -2.0, 1.0
    got = want.copy()
    got[1] = 0
    drift = compare.between(got, want, "nchw", "a.jpg", "guided")
    assert (drift.image, drift.rule) == ("a.jpg", "guided")
    assert drift.cosine == pytest.approx(2 / math.sqrt(5))
    assert drift.top == 1  # 1% of 144 is one position, and -2 is on top in both
    last = compare.between(got.transpose(1, 2, 0), want.transpose(1, 2, 0), "nhwc", "", "")
    assert (last.cosine, last.ssim, last.top) == (drift.cosine, drift.ssim, drift.top)


def test_both_are_told_from_the_same_class():
    """Where the second class is another in the candidate, its own choice would be another map."""
    reference, moved = models.tiny(), models.tiny()
    x = models.images(2, 3, 8, 8)
    plain = backlight.Explainer(reference, methods=("contrastcam",), contrast_form="logit")
    first = plain(x[:1])
    (bias,) = (t for t in moved.graph.initializer if tuple(t.dims) == (5,))
    values = onnx.numpy_helper.to_array(bias).copy()
    other = next(c for c in range(5) if c not in (first.target[0], first.contrast[0]))
    gap = float(np.asarray(first.scores)[0].max())
    values[other] += 1e3 * gap
    values[int(first.target[0])] += 2e3 * gap
    bias.CopyFrom(onnx.numpy_helper.from_array(values, bias.name))
    candidate = backlight.Explainer(moved, methods=("contrastcam",), contrast_form="logit")
    assert candidate(x[:1]).contrast[0] == other != first.contrast[0]
    (drift,) = compare.explained(candidate, plain, x[:1], ["one"])
    assert drift.cosine == pytest.approx(1, abs=1e-6)
