"""A file that `backlight export` wrote is taken for the model in it, by whatever walks it again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

import backlight
from backlight.engine.classifier.ready import Ready
from backlight.engine.cli import run
from backlight.engine.inside.derivatives import LayerDerivatives

from .. import models

KINDS = [
    {"rules": ["vanilla"]},
    {"rules": ["vanilla", "guided"], "target_class": 1},
    {"methods": ["gradcam", "hirescam"], "layer": ["r", "h"]},
    {"methods": ["gradcam"], "contrast": "input"},
    {"methods": ["integrated_gradients", "smoothgrad"], "steps": 3, "samples": 2},
    {"cotangent": "input"},
]


@pytest.fixture(params=range(len(KINDS)))
def exported(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    onnx.save(backlight.export(models.tiny(), **KINDS[request.param]), tmp_path / "e.onnx")
    return tmp_path / "e.onnx"


def test_only_the_model_is_left(exported: Path) -> None:
    plain, made = (Ready(m).loaded.graph for m in (models.tiny(), exported))
    for have, want in ((made.inputs, plain.inputs), (made.outputs, plain.outputs)):
        assert [v.name for v in have] == [v.name for v in want]
    assert [n.op_type for n in made] == [n.op_type for n in plain]


def test_what_walks_it_again_finds_the_same(exported: Path) -> None:
    x = models.images(2, 3, 8, 8)
    way = np.random.default_rng(1).standard_normal((2, 4)).astype(np.float32)
    target = np.array([2, 4])
    options = {"steps": 5, "rounds": 1, "preprocess": "unit", "providers": "cpu", "threads": 1}
    found = []
    for model in (models.tiny(), exported):
        layer = LayerDerivatives(Ready(model), "r", None, True, "cpu", None)
        contrast = backlight.Cem(model, on="blur", **options)(x)
        concepts = backlight.Concepts(model, "r", providers="cpu", runs=2)
        tested = concepts(
            x, 2, concepts={"a": models.images(4, 3, 8, 8)}, random=np.tile(x, (2, 1, 1, 1))
        )
        found.append([
            layer(x, target, way), contrast.negative.delta, contrast.positive.map,
            [one.magnitude for one in tested.scores],
        ])  # fmt: skip
    for have, want in zip(found[1], found[0], strict=True):
        np.testing.assert_array_equal(have, want)


def test_commands_list_and_take_the_model_itself(exported: Path, tmp_path: Path, capsys) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for at in range(3):
        pixels = np.random.default_rng(at).integers(0, 255, (8, 8, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(photos / f"{at}.png")
    common = [str(exported), str(photos), "--preprocess", "unit"]
    assert run(["graph", *common, "--list"]) == 0
    assert "saliency" not in capsys.readouterr().out
    assert run(["graph", *common, "--layers", "r", "-o", str(tmp_path / "g")]) == 0
    capsys.readouterr()
    cem = ["cem", str(photos), "-m", str(exported), "--preprocess", "unit", "--steps", "2"]
    assert run([*cem, "-o", str(tmp_path / "c")]) == 0


@pytest.mark.parametrize("method", ["gradcam", "vanilla", "occlusion"])
def test_an_object_is_cut_out_by_any_method(exported: Path, method: str) -> None:
    pytest.importorskip("skimage")
    x = models.images(3, 3, 8, 8)
    found = []
    for model in (models.tiny(), exported):
        options = {"way": "random-walker", "preprocess": "unit", "providers": "cpu", "threads": 1}
        found.append(backlight.Segment(model, method=method, **options)(x, target=2))
    assert found[0].found.any()
    np.testing.assert_array_equal(found[1].heat, found[0].heat)
    np.testing.assert_array_equal(found[1].mask, found[0].mask)


@pytest.mark.parametrize("options", [{}, {"layer": "h"}, {"method": "input_x_gradient"}])
def test_a_bias_is_looked_for_by_any_method(exported: Path, options: dict, tmp_path: Path) -> None:
    for at in range(4):
        pixels = np.random.default_rng(at).integers(0, 255, (8, 8, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{at}.png")
    onnx.save(models.tiny(), tmp_path / "plain.onnx")
    found = []
    for model in (tmp_path / "plain.onnx", exported):
        finder = backlight.BiasFinder(model, preprocess="unit", providers="cpu", **options)
        report = finder([tmp_path / f"{at}.png" for at in range(4)])
        found.append((finder.about(), [one.as_dict() for one in report.classes]))
    assert found[1] == found[0]
    # Of the file as it is: a run that goes on isn't taken for one of another model.
    assert finder.hash == Ready(exported).hash


class TestALayerThatNoScoreNeeds:
    """One line, and the same one, whichever command is asked."""

    def model(self, folder: Path) -> Path:
        """`dead` leads to an output that is no score."""
        made = models.tiny()
        made.graph.node.append(onnx.helper.make_node("Relu", ["h"], ["dead"], "dead"))
        made.graph.node.append(onnx.helper.make_node("Sqrt", ["dead"], ["aside"], "aside"))
        shape = ["N", 4, None, None]
        made.graph.output.append(onnx.helper.make_tensor_value_info("aside", 1, shape))
        onnx.save(made, folder / "m.onnx")
        return folder / "m.onnx"

    def test_a_line_says_what_is_accepted(self, tmp_path: Path, capsys) -> None:
        path = str(self.model(tmp_path))
        Image.new("RGB", (8, 8), (9, 99, 200)).save(tmp_path / "p.png")
        Image.new("RGB", (8, 8), (99, 9, 20)).save(tmp_path / "q.png")
        given = str(tmp_path / "p.png"), str(tmp_path / "q.png")
        out = tmp_path / "out"
        told = []
        for words in (
            ["graph", path, *given, "--layers", "dead"],
            ["concepts", path, "--concept", f"a={tmp_path}", "--random", str(tmp_path), "--images",
             str(tmp_path), "--layer", "dead"],
            ["explain", *given, "-m", path, "--method", "gradcam", "--layer", "dead"],
            ["explain", *given, "-m", path, "--method", "scorecam", "--layer", "dead"],
            ["explain", *given, "-m", path, "--method", "ablationcam", "--layer", "dead"],
            ["bias", path, *given, "--layer", "dead"],
            ["counterfactual", *given, "-m", path, "--class", "1", "--distractors", str(tmp_path),
             "--layer", "dead"],
        ):  # fmt: skip
            assert run([*words, "--preprocess", "unit", "-o", str(out)]) == 2
            told.append(capsys.readouterr().err)
            assert not out.exists()
        for line in told:
            assert line.count("\n") == 1
            assert "'dead' has no way to the score" in line
            assert line.endswith("; expected a tensor that the score is computed from\n")
