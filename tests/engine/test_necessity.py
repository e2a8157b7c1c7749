"""The fewest windows that change the class."""

from __future__ import annotations

import numpy as np
import onnx

from backlight.engine.masked.necessity import margins
from backlight.engine.masked.occlusion import Occlusion

from .. import models


def quadrants():
    """Class 0: the sum over the left half; class 1: the constant 12. 4x4 images, one channel."""
    left = np.zeros((1, 16), np.float32)
    left.reshape(4, 4)[:, :2] = 1
    return models.parsed(
        """<ir_version: 8, opset_import: ["": 18]>
q (float[N,1,4,4] x) => (float[N,2] prob) {
    f = Flatten(x)
    s = Gemm<transB=1>(f, v, c)
    prob = Softmax(s)
}""",
        {"v": np.concatenate([left, 0 * left]), "c": np.array([0, 12], np.float32)},
    )


def test_the_fewest_windows_that_change_the_class():
    """Quadrants of 2x2 pixels; those at the left (0 and 2) hold what class 0 sums up."""
    x = np.full((2, 1, 4, 4), 2.0, np.float32)
    x[1] = 5.0
    occlude = Occlusion(quadrants(), window=2, stride=2, baseline="zero")
    one, other = occlude.necessity(x)
    # 16 against 12: without one quadrant it is 8.
    assert one.predicted == 0 and one.after == 1 and one.changes and one.strongest_changes
    assert one.windows == (0,) and one.share == 0.25 and one.after_strongest == 1
    assert one.boxes.tolist() == [[0, 1, 0, 2, 0, 2]]
    np.testing.assert_array_equal(one.hidden[:, :2, :2], 0)
    # 40 against 12: without one it is 20, without both 0.
    assert other.changes and not other.strongest_changes and set(other.windows) == {0, 2}
    assert other.after_strongest == 0 and other.share == 0.5
    np.testing.assert_array_equal(other.logits, [0, 12])
    (stuck,) = occlude.necessity(x[1:], limit=1)
    assert not stuck.changes and stuck.after == 0 and len(stuck.windows) == 1


def test_windows_that_are_not_needed_are_taken_back():
    """Pixels of a row worth 3, 4, 4, 3: greedy hides the middle two first, then both sides, and
    sees that these alone hide all four."""
    v = np.zeros((2, 16), np.float32)
    v[0, :4] = [3, 4, 4, 3]
    model = quadrants()
    del model.graph.initializer[:]
    for value, name in ((v, "v"), (np.float32([0, 1]), "c")):
        model.graph.initializer.append(onnx.numpy_helper.from_array(value, name))
    x = np.ones((1, 1, 4, 4), np.float32)
    found = Occlusion(model, window=(1, 2), stride=1, baseline="zero").necessity(x)[0]
    assert found.changes and found.share == 4 / 16
    assert sorted(box[4] for box in found.boxes.tolist()) == [0, 2]


def test_margins_of_a_single_score_keep_their_sign():
    z = np.float32([[2.0], [-1.0]])
    np.testing.assert_array_equal(margins(z, np.float32([3.0])), [2, -1])
    np.testing.assert_array_equal(margins(z, np.float32([-3.0])), [-2, 1])
