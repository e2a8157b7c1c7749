"""Counterfactual explanations (Goyal et al. 2019): exact cases, brute force, bounds, command."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

import backlight
from backlight.engine.cli import run
from backlight.engine.cli.options import PHOTOS
from backlight.engine.targeted.cells import Grid
from backlight.errors import ImageError, UsageError

from .. import models
from .exchanging import C2, OTHER, PHOTO, W, c2, dense, exchanged, pictures


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
            ({"search": "sort", "pairs": 5}, "pairs are tried by search 'greedy' and 'auto'"),
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

    def test_distractors_that_cannot_be_read_are_said_to_be_so(self, folders, tmp_path, capsys):
        for file in (tmp_path / "green").iterdir():
            file.write_bytes(b"no photo")
        assert run(self.LINE.format(**folders).split()) == 2
        said = capsys.readouterr().err
        assert "no picture of green (1) among the distractors; expected one at least; " in said
        assert "not an image that can be read" in said and not (tmp_path / "out").exists()

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
