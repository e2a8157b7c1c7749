"""Which edits change the class: fewest, and greedily."""

from __future__ import annotations

import numpy as np
import pytest

import backlight
from backlight.engine.targeted.edits import fewest, greedy
from backlight.errors import UsageError

from .. import models
from .exchanging import c2, dense


class TestGreedy:
    def test_a_shortlist_where_there_are_too_many_pairs(self):
        """What a swap changes is a sum here, so the shortlist has the best pair in it."""
        rng = np.random.default_rng(0)
        gone, comes = rng.standard_normal((2, 12))
        comes = np.append(comes, comes.mean())
        tried = []

        def rate(done, pairs):
            tried.append(len(pairs))
            base = sum(comes[j] - gone[i] for i, j in done)
            return base + comes[pairs[:, 1]] - gone[pairs[:, 0]]

        whole = [swap for swap, _ in greedy(12, 12, rate, 0.0, 144)]
        assert tried[0] == 144
        tried.clear()
        few = [swap for swap, _ in greedy(12, 12, rate, 0.0, fewest(12, 12))]
        assert few == whole and tried[:3] == [12, 12, 1]
        assert len({i for i, _ in few}) == len({j for _, j in few}) == len(few)

    def test_ends_where_no_swap_raises_it(self):
        """Two cells at once would do: one alone changes nothing."""
        text = """<ir_version: 8, opset_import: ["": 18]>
        both (float[N,1,1,2] x) => (float[N,2] scores) {
            h = Relu(x)
            f = Flatten(h)
            m = ReduceMin<keepdims=1>(f, axes)
            scores = Gemm(m, w, b)
        }"""
        net = models.parsed(
            text,
            {
                "axes": np.array([1]), "w": np.array([[0, 2]], np.float32),
                "b": np.array([1, 0], np.float32),
            },
        )  # fmt: skip
        photo, other = np.zeros((1, 1, 1, 2), np.float32), np.ones((1, 1, 1, 2), np.float32)
        found = backlight.Counterfactual(net, "h", providers="cpu")(photo, other)[0]
        assert not found.done and len(found.swaps) == 0
        assert found.note == "no swap raises it any more" and found.scores.shape == (1, 2)

    def test_bounded(self):
        change = backlight.Counterfactual(c2(), "h", edits=1, providers="cpu")
        photo = np.array([[[0, 0], [0, 0]], [[3, 3], [3, 3]]], np.float32)
        other = np.array([[[2, 2], [2, 2]], [[0, 0], [0, 0]]], np.float32)
        found = change(photo[None], other[None])[0]
        assert not found.done and found.note == "not by 1 swap" and len(found.swaps) == 1
        whole = backlight.Counterfactual(c2(), "h", providers="cpu")(photo[None], other[None])[0]
        assert whole.done and len(whole.swaps) == 3

    def test_pairs_that_are_too_few_are_refused(self):
        change = backlight.Counterfactual(dense(), "h", pairs=12, providers="cpu")
        with pytest.raises(UsageError, match="pairs 12; for the 2 x 3 cells of 'h' expected 13"):
            change.look(np.ones((1, 2, 2, 3), np.float32))
