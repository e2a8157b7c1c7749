"""Counterfactual explanations (Goyal et al. 2019): exact cases, brute force, bounds, command."""

from __future__ import annotations

import itertools
import json
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

import backlight
from backlight.engine.classifier.ready import Ready
from backlight.engine.classifier.scored import Scored
from backlight.engine.cli import run
from backlight.engine.cli.options import PHOTOS
from backlight.engine.targeted.cells import Grid, Head
from backlight.engine.targeted.edits import fewest, greedy, sort
from backlight.engine.targeted.search import Changes
from backlight.errors import ImageError, UsageError
from backlight.export import choose, scores
from backlight.export.layer import named_layer
from backlight.export.placewise import placewise
from backlight.export.tail import spatial_layer, tail

from .. import models

# The case C2 of the class activation maps: features as they come, pooled, W = [[4,0],[0,4],[2,2]].
C2 = """<ir_version: 8, opset_import: ["": 18]>
c2 (float[N,2,2,2] x) => (float[N,3] prob) {
    h = Relu(x)
    p = GlobalAveragePool(h)
    f = Flatten(p)
    scores = Gemm<transB=1>(f, w)
    prob = Softmax(scores)
}"""
W = {"w": np.array([[4, 0], [0, 4], [2, 2]], np.float32)}
PHOTO = np.array([[[1, 0], [0, 0]], [[0, 0], [0, 2]]], np.float32)  # z = 1, 2, 1.5
OTHER = np.array([[[0, 3], [0, 0]], [[0, 0], [0, 0]]], np.float32)  # z = 3, 0, 1.5
# A head that is no mean over places: a dense layer with a rectifier, over all units.
DENSE = """<ir_version: 8, opset_import: ["": 18]>
dense (float[N,2,2,3] x) => (float[N,3] prob) {
    h = Relu(x)
    f = Flatten(h)
    d = Gemm(f, a)
    r = Relu(d)
    scores = Gemm(r, b)
    prob = Softmax(scores)
}"""


def c2() -> onnx.ModelProto:
    return models.parsed(C2, W)


def dense(seed: int = 0) -> onnx.ModelProto:
    rng = np.random.default_rng(seed)
    return models.parsed(
        DENSE,
        {
            "a": rng.standard_normal((12, 8)).astype(np.float32),
            "b": rng.standard_normal((8, 3)).astype(np.float32),
        },
    )


def pictures(net: onnx.ModelProto, count: int, shape: tuple[int, ...], seed: int):
    """Random pictures, and what the model takes them for."""
    x = np.random.default_rng(seed).uniform(0, 2, (count, *shape)).astype(np.float32)
    logits, _ = Scored(Ready(net), [], providers="cpu")(x)
    return x, logits.argmax(axis=1)


def exchanged(photo: np.ndarray, other: np.ndarray, swaps: np.ndarray) -> np.ndarray:
    """The photo with cells of the other: of a network whose layer is the image itself."""
    made = photo.copy()
    for y, x, v, u in swaps:
        made[:, y, x] = other[:, v, u]
    return made


class TestExact:
    def test_planted(self):
        """Against class 0 speaks the last cell most (2 of channel 1), for it the second of the
        distractor (3 of channel 0): z = 4, 0, 2 then."""
        change = backlight.Counterfactual(c2(), "h", providers="cpu")
        assert change.search == "sort"
        found = change(PHOTO[None], OTHER[None])[0]
        assert isinstance(found, Changes)
        assert (found.source, found.target, found.distractor) == (1, 0, 0)
        assert found.grid == (2, 2) and found.done and found.note is None
        assert found.swaps.tolist() == [[1, 1, 0, 1]]
        np.testing.assert_allclose(found.scores, [[1, 2, 1.5], [4, 0, 2]], rtol=1e-6)
        same = backlight.Counterfactual(c2(), "h", search="greedy", providers="cpu")
        assert same(PHOTO[None], OTHER[None])[0].swaps.tolist() == [[1, 1, 0, 1]]

    def test_the_order_of_a_sort(self):
        assert sort(np.array([0, -2, 5, -2]), np.array([1, 9, 1, -4])) == [
            (1, 1), (3, 0), (0, 2), (2, 3)
        ]  # fmt: skip

    @pytest.mark.parametrize("seed", range(6))
    def test_no_fewer_swaps_would_do(self, seed):
        """Of all sets of cells that go and come, on 2 x 3 cells and two classes."""
        body = C2.replace("2,2,2", "3,2,3").replace("N,3] prob", "N,2] prob")
        w = np.random.default_rng(seed).standard_normal((2, 3)).astype(np.float32)
        w[1] -= (w[1] - w[0]).mean()  # so that there are pictures of both
        net = models.parsed(body, {"w": w})
        x, tops = pictures(net, 40, (3, 2, 3), seed)
        photo, other = x[tops == 0][0], x[tops == 1][0]
        found = backlight.Counterfactual(net, "h", providers="cpu")(photo[None], other[None], 1)[0]
        assert found.done
        gains = [(w[1] - w[0]) @ one.reshape(3, 6) for one in (photo, other)]
        margin = gains[0].sum()

        def best(count: int) -> float:
            """The largest margin that so many swaps can reach."""
            sets = list(itertools.combinations(range(6), count))
            return margin + max(
                gains[1][list(b)].sum() - gains[0][list(a)].sum() for a in sets for b in sets
            )

        assert best(len(found.swaps)) > 0
        assert len(found.swaps) == 1 or best(len(found.swaps) - 1) <= 0
        np.testing.assert_allclose(
            np.diff(found.scores[-1] / 1)[0] * 6, best(len(found.swaps)), rtol=1e-4
        )

    @pytest.mark.parametrize("seed", [1, 2, 3])
    def test_greedy_takes_the_best_pair_each_time(self, seed):
        """By the whole model, on pictures with the cells exchanged."""
        net = dense(seed)
        x, tops = pictures(net, 60, (2, 2, 3), seed)
        a, b = np.unique(tops)[:2]
        photo, other = x[tops == a][0], x[tops == b][0]
        change = backlight.Counterfactual(net, "h", providers="cpu")
        assert change.search == "greedy"
        found = change(photo[None], other[None], int(b))[0]
        whole = Scored(Ready(net), [], providers="cpu")
        done: list[list[int]] = []
        for at in range(len(found.swaps)):
            used, taken = {tuple(s[:2]) for s in done}, {tuple(s[2:]) for s in done}
            cells = list(itertools.product(range(2), range(3)))
            pairs = [
                [*i, *j] for i in cells for j in cells if i not in used and j not in taken
            ]  # fmt: skip
            tries = np.stack([exchanged(photo, other, np.array([*done, p])) for p in pairs])
            logits, _ = whole(tries)
            rates = logits[:, b] - np.logaddexp.reduce(logits, axis=1)
            assert found.swaps[at].tolist() == pairs[int(rates.argmax())]
            np.testing.assert_allclose(found.scores[at + 1], logits[rates.argmax()], rtol=1e-4)
            done.append(found.swaps[at].tolist())
        assert found.done == (int(found.scores[-1].argmax()) == b)
        assert found.scores[:-1].argmax(axis=1).tolist().count(b) == 0

    def test_a_third_class_on_the_way_is_no_end(self):
        """The first swap takes the photo past its own class, and to another."""
        net = models.parsed(C2, {"w": np.array([[4, 0], [0, 4], [3.5, 1.5]], np.float32)})
        photo = np.array([[[0, 0], [0, 0]], [[2, 2], [1, 1]]], np.float32)
        other = np.array([[[3, 3], [3, 3]], [[0, 0], [0, 0]]], np.float32)
        found = backlight.Counterfactual(net, "h", providers="cpu")(photo[None], other[None])[0]
        tops = found.scores.argmax(axis=1).tolist()
        assert tops[0] == 1 and 2 in tops[1:-1] and tops[-1] == 0 and found.done


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


class TestThirdClass:
    def test_auto_takes_the_fewer_cells(self):
        """The cell that says most against the photo's class says even more for a third one."""
        net = models.parsed(
            C2.replace("N,2,2,2", "N,3,2,2"),
            {"w": np.array([[4, 0, 0], [0, 4, 0], [4, 0, 9]], np.float32)},
        )
        photo = np.zeros((3, 2, 2), np.float32)
        photo[1] = 1
        other = np.zeros((3, 2, 2), np.float32)
        other[0] = [[2, 2], [1.9, 1.9]]
        # Third-class evidence beside the strongest cells, made up for by none of the weaker ones.
        other[2] = [[0.5, 0.5], [-1, -1]]
        tried = {}
        for search in ("sort", "greedy", "auto"):
            change = backlight.Counterfactual(net, "h", search=search, providers="cpu")
            seen = change.look(np.stack([photo, other]))
            tried[search] = change.change(seen[0], [seen[1]], 0)
        lengths = {k: (not c.done, len(c.swaps)) for k, c in tried.items()}
        assert lengths["auto"] == min(lengths["sort"], lengths["greedy"])
        assert lengths["sort"] > lengths["greedy"]


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


class TestCounterfactual:
    def test_several_photos_and_distractors(self):
        x, tops = pictures(c2(), 30, (2, 2, 2), 1)
        change = backlight.Counterfactual(c2(), "h", providers="cpu")
        found = change(x[:8], x, 0)
        for row, one in enumerate(found):
            assert one.source == tops[row]
            if tops[row] == 0:
                assert one.distractor == -1 and one.note == "is of that class already"
                assert one.done and len(one.swaps) == 0
                continue
            assert tops[one.distractor] == 0 and one.done
            # By the plain model, on a picture with the cells exchanged.
            made = exchanged(x[row], x[one.distractor], one.swaps)
            logits, _ = change.scored(made[None])
            np.testing.assert_allclose(logits[0], one.scores[-1], rtol=1e-5)
            assert logits[0].argmax() == 0
            alone = [change(x[row : row + 1], x[[k]], 0)[0] for k in np.flatnonzero(tops == 0)]
            assert len(one.swaps) == min(len(a.swaps) for a in alone)

    def test_the_class_is_the_distractors(self):
        change = backlight.Counterfactual(c2(), "h", providers="cpu")
        other = np.stack([OTHER, PHOTO, OTHER])
        assert change(PHOTO[None], other)[0].target == 0
        with pytest.raises(
            UsageError, match="no distractor is of class 2: the model takes them for"
        ):
            change(PHOTO[None], other, 2)

    @pytest.mark.parametrize("reading", ["class", "pooled", "patches"])
    def test_tokens_of_a_transformer(self, reading):
        net = models.transformer(reading=reading)
        change = backlight.Counterfactual(net, providers="cpu")
        a, b = change.look(models.images(2, 3, 8, 8))
        target = int(a.scores.argsort()[-2])
        grid = change.grid(a)
        assert (grid.rows, grid.columns) == (2, 4)
        assert grid.extra == (0 if reading == "patches" else 1)
        found = change.change(a, [b], target)
        assert len(found.swaps) > 0 and found.grid == (2, 4) and found.search == "greedy"
        cells = grid.cells(a.values[None])
        np.testing.assert_array_equal(grid.values(cells, a.values)[0], a.values)
        for y, x, v, u in found.swaps:
            cells[0, y * 4 + x] = grid.cells(b.values[None])[0, v * 4 + u]
        logits = change.head(grid.values(cells, a.values), a.x)
        np.testing.assert_allclose(logits[0], found.scores[-1], rtol=1e-4)

    def test_channels_last(self):
        text = C2.replace("N,2,2,2", "N,2,2,2").replace(
            "p = GlobalAveragePool(h)\n    f = Flatten(p)", "f = ReduceMean<keepdims=0>(g, places)"
        )
        text = text.replace("h = Relu(x)", "h = Relu(x)\n    g = MatMul(h, eye)")
        net = models.parsed(text, W | {"places": np.array([1, 2]), "eye": np.eye(2, dtype="f")})
        change = backlight.Counterfactual(net, "g", providers="cpu")
        assert change.search == "sort" and change.grid(change.look(
            PHOTO.transpose(1, 2, 0)[None])[0]).channel_axis == 3  # fmt: skip
        found = change(PHOTO.transpose(1, 2, 0)[None], OTHER.transpose(1, 2, 0)[None])[0]
        assert found.swaps.tolist() == [[1, 1, 0, 1]]

    def test_one_logit_behind_a_sigmoid(self):
        text = C2.replace("N,3] prob", "N,1] prob").replace("Softmax", "Sigmoid")
        net = models.parsed(text, {"w": np.array([[4, -4]], np.float32)})
        change = backlight.Counterfactual(net, "h", providers="cpu")
        found = change(PHOTO[None], OTHER[None])[0]
        assert (found.source, found.target) == (0, 1) and found.done
        assert found.swaps.tolist() == [[1, 1, 0, 1]]

    def test_an_input_besides_the_image(self):
        text = C2.replace("] x)", "] x, float[N,3] k)").replace(
            "prob = Softmax(scores)", "sum = Add(scores, k)\n    prob = Softmax(sum)"
        )
        net = models.parsed(text, W)
        change = backlight.Counterfactual(net, "h", inputs={"k": 0.0}, providers="cpu")
        found = change(PHOTO[None], OTHER[None])[0]
        assert found.swaps.tolist() == [[1, 1, 0, 1]] and found.done
        # One that holds class 0 back by 4.5: after that swap it is 4 to 0 no more.
        back = np.array([[-4.5, 0, 0]], np.float32)
        other = OTHER[None] * 4
        change = backlight.Counterfactual(net, "h", inputs={"k": back}, providers="cpu")
        found = change(PHOTO[None], other)[0]
        np.testing.assert_allclose(found.scores[0], [-3.5, 2, 1.5])
        np.testing.assert_allclose(found.scores[1], [4 + 9 - 4.5, 0, 2 + 4.5])
        with pytest.raises(UsageError, match="--input k="):
            backlight.Counterfactual(net, "h", providers="cpu")

    def test_where_cells_are(self):
        net = models.tiny(
            body=models.BODY.replace("pads=[1,1,1,1]", "strides=[2,2]"), shape="N,3,9,9"
        )
        change = backlight.Counterfactual(net, "r", providers="cpu")
        seen = change.look(models.images(1, 3, 9, 9))[0]
        # 3 x 3 fields every 2 pixels: their middles are at 1.5, 3.5, 5.5, 7.5.
        boxes = change.boxes(seen, (9, 9))
        assert boxes.shape == (16, 4)
        assert boxes[0].tolist() == [0.5, 0.5, 2.5, 2.5]
        assert boxes[7].tolist() == [2.5, 6.5, 4.5, 8.5]

    @pytest.mark.parametrize(
        ("given", "says"),
        [
            ({"search": "best"}, "accepted: auto, sort, greedy"),
            ({"edits": 0}, "edits 0; expected 1 or more"), ({"pairs": 0}, "pairs 0"),
            ({"batch": 0}, "batch 0"), ({"layer": 5}, "layer is 5"), ({"edits": "2"}, "edits is"),
        ],
    )  # fmt: skip
    def test_wrong_arguments(self, given, says):
        with pytest.raises(UsageError, match=says):
            backlight.Counterfactual(c2(), **{"layer": "h", "providers": "cpu"} | given)

    def test_what_does_not_fit(self):
        with pytest.raises(UsageError, match="search 'sort' needs scores that are a mean"):
            backlight.Counterfactual(dense(), "h", search="sort")
        one = models.parsed(C2.replace("N,3] prob", "N,1] scores").replace(
            "prob = Softmax(scores)", ""), {"w": W["w"][:1]})  # fmt: skip
        with pytest.raises(UsageError, match="has one class: nothing to change to"):
            backlight.Counterfactual(one, "h")
        change = backlight.Counterfactual(c2(), "h", providers="cpu")
        with pytest.raises(UsageError, match="class 3 is out of range; expected 0 to 2"):
            change(PHOTO[None], OTHER[None], 3)
        with pytest.raises(ImageError, match="NaN"):
            change(PHOTO[None] * np.nan, OTHER[None])
        with pytest.raises(ImageError, match=r"expected float32 \[N,2,2,2\]"):
            change(PHOTO[None], OTHER[None, :1])

    def test_a_grid(self):
        grid = Grid(2, 2, 3, extra=2)
        values = np.arange(2 * 8 * 4, dtype=np.float32).reshape(2, 8, 4)
        cells = grid.cells(values)
        np.testing.assert_array_equal(cells, values[:, 2:])
        np.testing.assert_array_equal(grid.values(cells, values[0])[0], values[0])
        assert len(grid) == 6 and grid.place(5) == (1, 2)

    def test_one_cell_is_no_grid(self):
        body = models.BODY.replace("pads=[1,1,1,1]", "strides=[9,9]")
        change = backlight.Counterfactual(models.tiny(body=body, shape="N,3,h,w"), "r")
        with pytest.raises(UsageError, match="one cell"):
            change.look(models.images(1, 3, 8, 8))


CAT, COFFEE = PHOTOS / "chelsea.jpg", PHOTOS / "coffee.jpg"


class TestCommand:
    def test_the_cat(self, tmp_path: Path, capsys):
        out = tmp_path / "out"
        assert run(["counterfactual", str(CAT), "--class", "espresso", "-o", str(out)]) == 0
        said = capsys.readouterr()
        assert said.err.startswith("backlight: layer 'fire9'") and said.err.count("\n") == 1
        first, last = said.out.splitlines()
        assert "Egyptian cat (285) -> espresso (967)" in first and "cells of coffee.jpg" in first
        assert last == f"1 image -> {out}/"
        summary = json.loads((out / "summary.json").read_bytes())
        assert summary["target_class"] == 967 and summary["layer"] == "fire9"
        assert [Path(d).name for d in summary["distractors"]] == ["coffee.jpg"]
        entry = summary["images"][0]
        assert entry["changed"] and entry["after"]["top"] == 967 and entry["before"]["top"] == 285
        assert entry["grid"] == [13, 13] and 0 < len(entry["edits"]) < 60
        assert entry["edits"][-1]["probability"] == entry["after"]["probability"] > 0.1
        cells = [tuple(e["cell"]) for e in entry["edits"]]
        assert len(set(cells)) == len(cells)
        assert Image.open(out / entry["panel"]).width > 900

    @pytest.fixture
    def folders(self, tmp_path: Path) -> dict[str, str]:
        """Red photos are class 0, green ones class 1."""
        text = C2.replace("N,2,2,2", "N,3,8,8").replace("N,3] prob", "N,2] prob")
        net = models.parsed(text, {"w": np.array([[4, 0, 0], [0, 4, 0]], np.float32)})
        onnx.save(net, tmp_path / "m.onnx")
        rng = np.random.default_rng(0)
        for folder, channel, count in (("red", 0, 3), ("green", 1, 3)):
            (tmp_path / folder).mkdir()
            for at in range(count):
                pixels = rng.integers(0, 80, (8, 8, 3))
                pixels[..., channel] += 90
                Image.fromarray(pixels.astype(np.uint8)).save(
                    tmp_path / folder / f"{folder}{at}.png"
                )
        (tmp_path / "names").write_text("red\ngreen\n")
        return {"d": str(tmp_path)}

    LINE = (
        "counterfactual {d}/red -m {d}/m.onnx --class green --distractors {d}/green "
        "--labels {d}/names --preprocess unit --layer h -o {d}/out"
    )

    def test_a_folder(self, folders, tmp_path, capsys):
        assert run([*self.LINE.format(**folders).split(), "--json"]) == 0
        summary = json.loads(capsys.readouterr().out)
        assert summary["read"] == 3 and len(summary["distractors"]) == 3
        for entry in summary["images"]:
            assert entry["changed"] and entry["name"] == "red" and entry["target_name"] == "green"
            assert (tmp_path / "out" / entry["panel"]).exists()
        assert len(list((tmp_path / "out").iterdir())) == 4

    def test_what_the_distractors_are(self, folders, tmp_path, capsys):
        line = self.LINE.format(**folders).replace("--class green ", "")
        assert run([*line.split(), "--search", "greedy", "--edits", "2"]) == 0
        said = capsys.readouterr()
        assert "--class: green (1), what most of the distractors are" in said.err
        assert "2 of 64 cells of green" in said.out and "not by 2 swaps" in said.out
        entry = json.loads((tmp_path / "out" / "summary.json").read_bytes())["images"][0]
        assert not entry["changed"] and entry["note"] == "not by 2 swaps"

    def test_one_that_is_the_class_already(self, folders, tmp_path, capsys):
        line = self.LINE.format(**folders).replace(
            "/red ", "/red {d}/green/green0.png ".format(**folders), 1
        )
        assert run(line.split()) == 0
        assert "is of that class already" in capsys.readouterr().out
        entry = json.loads((tmp_path / "out" / "summary.json").read_bytes())["images"][-1]
        assert entry["panel"] is None and entry["edits"] == [] and not entry["changed"]

    def test_a_distractor_of_another_class_is_passed_over(self, folders, tmp_path, capsys):
        (tmp_path / "red" / "red0.png").rename(tmp_path / "green" / "no.png")
        assert run(self.LINE.format(**folders).split()) == 2
        said = capsys.readouterr().err
        assert "green/no.png: taken for red (0): no distractor, as it is not of green (1)" in said
        summary = json.loads((tmp_path / "out" / "summary.json").read_bytes())
        assert len(summary["images"]) == 2 and len(summary["skipped"]) == 1

    @pytest.mark.parametrize(
        ("change", "says"),
        [
            (("--class green --distractors {d}/green", ""), "no class given; --class Q"),
            (("--class green", "--class gren"), "--class 'gren'; accepted: a class"),
            (("--class green", "--class 2"), "class 2 is out of range"),
            (("--class green", "--class top1"), "--class 'top1'; accepted: a class number or name"),
            (("{d}/green", "{d}/none"), "{d}/none: no such file"),
            (("{d}/green", "{d}/red"), "no picture of green (1) among the distractors, which"),
            (("--distractors {d}/green", ""), "no picture of green (1) among the bundled photos"),
            (("--layer h", "--layer f"), "no rows and columns"),
            (("--layer h", "--layer hh"), "no tensor 'hh'"),
            (("--layer h", "--search best"), "accepted: auto, sort, greedy"),
            (("--layer h", "--edits 0"), "edits 0"),
            (("{d}/red", "{d}/nothing"), "{d}/nothing: no such file"),
        ],
    )
    def test_what_cannot_be_used(self, change, says, folders, tmp_path, capsys):
        line = self.LINE.replace("--class green --distractors {d}/green", "--class green "
                                 "--distractors {d}/green").replace(*change)  # fmt: skip
        if "among the bundled" in says:  # red all of them, so that it holds of any photos
            net = onnx.load(tmp_path / "m.onnx")
            net.graph.initializer[0].CopyFrom(
                onnx.numpy_helper.from_array(np.float32([[4, 4, 4], [0, 0, 0]]), "w")
            )
            onnx.save(net, tmp_path / "m.onnx")
        assert run(line.format(**folders).split()) == 2
        said = capsys.readouterr()
        lines = said.err.splitlines()
        assert said.out == "" and says.format(**folders) in said.err, said.err
        assert len([s for s in lines if "skipped:" not in s]) <= 1
        assert not (tmp_path / "out").exists()

    def test_photos_that_are_all_broken_leave_nothing(self, folders, tmp_path, capsys):
        for file in (tmp_path / "red").iterdir():
            file.write_bytes(b"no photo")
        assert run(self.LINE.format(**folders).split()) == 2
        said = capsys.readouterr().err.splitlines()
        assert len(said) == 3 and all("not an image" in line for line in said)
        assert not (tmp_path / "out").exists()

    def test_the_model_is_read_and_loaded_once(self, folders, monkeypatch):
        graph = sys.modules["backlight.export.graph"]
        calls: list[str] = []
        for name in ("read_message", "check_nodes"):
            inner = getattr(graph, name)
            monkeypatch.setattr(
                graph, name, lambda *a, n=name, f=inner: (calls.append(n), f(*a))[1]
            )
        assert run(self.LINE.format(**folders).split()) == 0
        assert sorted(calls) == ["check_nodes", "read_message"]
