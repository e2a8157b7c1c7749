"""Heads that a cell goes through alone: in closed form, or as a graph."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

import backlight
from backlight.engine.classifier.ready import Ready
from backlight.engine.classifier.scored import Scored
from backlight.engine.targeted.cells import Head
from backlight.errors import UsageError
from backlight.export import choose, scores
from backlight.export.layer import named_layer
from backlight.export.placewise import placewise
from backlight.export.tail import spatial_layer, tail

from .. import models

HEADS = {
    "gemm": ("p = GlobalAveragePool(r)\n f = Flatten(p)\n scores = Gemm<transB=1>(f, v, c)", 5),
    "scaled": (
        "p = GlobalAveragePool(r)\n f = Flatten(p)\n scores = Gemm<alpha=0.5,transB=1>(f,v)", 5
    ),
    "conv": ("p = GlobalAveragePool(r)\n q = Conv(p, k)\n scores = Flatten(q)", 5),
    "map": ("q = Conv(r, k)\n m = Relu(q)\n p = GlobalAveragePool(m)\n scores = Flatten(p)", 0),
    "3x3": (
        "q = Conv<pads=[1,1,1,1]>(r, t)\n m = Relu(q)\n p = GlobalAveragePool(m)\n"
        "scores = Flatten(p)", None,
    ),
    "max": ("p = GlobalMaxPool(r)\n f = Flatten(p)\n scores = Gemm<transB=1>(f, v, c)", None),
}  # fmt: skip


class TestClosedForm:
    @pytest.mark.parametrize("head", HEADS)
    def test_a_mean_over_places(self, head):
        tail_text, kind = HEADS[head]
        net = models.tiny(body="h = Conv<pads=[1,1,1,1]>(x, w, b)\n r = Relu(h)\n" + tail_text)
        rng = np.random.default_rng(2)
        for name, shape in (("k", (5, 4, 1, 1)), ("t", (5, 4, 3, 3))):
            value = rng.standard_normal(shape).astype(np.float32)
            net.graph.initializer.append(onnx.numpy_helper.from_array(value, name))
        ready = Ready(net)
        loaded = ready.loaded
        _, found, _, _ = scores.leave_scores(loaded.clone(), None)
        graph = found.graph
        layer = named_layer(graph, "r", [found], choose.image_input(graph).wrt)
        held = placewise(found, layer)
        assert (held is None) == (kind is None)
        change = backlight.Counterfactual(net, "r", providers="cpu")
        assert change.search == ("greedy" if kind is None else "sort")
        if held is None:
            return
        one, two = change.look(models.images(2, 3, 8, 8))
        own, other = (
            s.adds if held.weight is None else s.adds @ held.weight.T for s in (one, two)
        )  # fmt: skip
        grid = change.grid(one)
        cells = grid.cells(one.values[None])
        cells[0, 3] = grid.cells(two.values[None])[0, 17]
        want = change.head(grid.values(cells, one.values), one.x)[0]
        np.testing.assert_allclose(
            one.scores + (other[17] - own[3]) / 64, want, rtol=1e-4, atol=1e-5
        )

    def test_greedy_by_the_closed_form_is_greedy_by_the_head(self):
        change = backlight.Counterfactual(
            models.tiny(), "r", search="greedy", edits=3, providers="cpu"
        )
        a, b = change.look(models.images(2, 3, 8, 8))
        target = int(a.scores.argsort()[-2])
        closed = change.change(a, [b], target)
        assert len(closed.swaps) == 3
        change.adds = None
        plain = [type(s)(s.x, s.scores, s.values, None) for s in (a, b)]
        by_head = change.change(plain[0], [plain[1]], target)
        assert closed.swaps.tolist() == by_head.swaps.tolist()
        np.testing.assert_allclose(closed.scores, by_head.scores, rtol=1e-5)

    def test_the_head_alone_says_what_the_model_says(self):
        for net in (models.tiny(), models.tiny(shape="2,3,8,8", output="float[2,5] prob")):
            ready = Ready(net)
            head = Head(tail(ready.loaded, "r"), ready, "cpu")
            x = models.images(3, 3, 8, 8)
            logits, values = Scored(ready, ["r"], providers="cpu")(x)
            np.testing.assert_allclose(head(values["r"], x[0]), logits, rtol=1e-6)
            assert head.passes == 3

    def test_a_layer_beside_the_way_is_refused(self):
        body = models.BODY.replace(
            "p = GlobalAveragePool(r)", "s = Add(r, h)\np = GlobalAveragePool(s)"
        )
        with pytest.raises(UsageError, match=r"'r': the score also reads the image .* around it"):
            backlight.Counterfactual(models.tiny(body=body), "r")
        with pytest.raises(UsageError, match="one position"):
            backlight.Counterfactual(models.tiny(), "p")
        with pytest.raises(UsageError, match="no tensor 'rr' in the model; nearest: r"):
            backlight.Counterfactual(models.tiny(), "rr")
        assert spatial_layer(Ready(models.tiny()).loaded, None).name == "r"
