"""The search of counterfactuals, against brute force and cases by hand."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

import backlight
from backlight.engine.classifier.ready import Ready
from backlight.engine.classifier.scored import Scored
from backlight.engine.targeted.edits import sort
from backlight.engine.targeted.search import Changes

from .. import models
from .exchanging import C2, OTHER, PHOTO, c2, dense, exchanged, pictures


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
