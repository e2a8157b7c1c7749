"""DeconvNet: the top patches of a layer, projected back to pixels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

import backlight
from backlight.engine.cli import run
from backlight.engine.inside.deconvnet import Projector
from backlight.engine.inside.patches import patches
from backlight.export.preprocess import Preprocess

from .. import models
from ..models import model_m, parsed

# Grey values as they are.
PLAIN = Preprocess(
    color="L", mean=(0.0,), std=(1.0,), resize="stretch", interpolation="nearest", size=(4, 4)
)


class TestDeconvNet:
    """Model M: a convolution of ones with biases -50 and -75, a Relu, a dense layer, a Relu."""

    @pytest.fixture
    def ramp(self, tmp_path: Path) -> Path:
        """0 to 15, as a picture."""
        folder = tmp_path / "ramp"
        folder.mkdir()
        Image.fromarray(np.arange(16, dtype=np.uint8).reshape(4, 4)).save(folder / "ramp.png")
        return folder

    def test_literal_case(self) -> None:
        x = np.arange(16, dtype=np.float32).reshape(1, 1, 4, 4)
        seed = np.array([[1, 0, 0, 0]], np.float32)
        back = Projector(model_m(), "y", providers="cpu", threads=1)(x, seed)
        deconv = [[2, 3, 3, 1], [3, 5, 5, 2], [3, 5, 5, 2], [1, 2, 2, 1]]
        guided = [[0, 1, 1, 1], [1, 3, 3, 2], [1, 3, 3, 2], [1, 2, 2, 1]]
        np.testing.assert_array_equal(back["deconv"][0, 0], deconv)
        np.testing.assert_array_equal(back["guided"][0, 0], guided)

    def test_each_activation_alone(self, ramp: Path) -> None:
        found = patches(model_m(), ramp, "r", k=4, preprocess=PLAIN, threads=1)
        top = found.layers["r"]
        # 3x3 sums of 0..15 are 45, 54, 81, 90; the biases take 50 and 75.
        np.testing.assert_array_equal(top.values, [[40, 31, 4, 0], [15, 6, 0, 0]])
        np.testing.assert_array_equal(top.boxes[0, 0], [1, 1, 4, 4])
        proto = model_m()
        node = next(n for n in proto.graph.node if "r" in n.output)
        node.name = "rectified"
        made = list(backlight.deconvnet(proto, found, "rectified", [0, 1], threads=1))
        for rule in ("deconv", "guided"):
            # A row of ones times the activation, under its 3x3 field; nothing for one that is 0.
            want = np.array([40, 31, 4, 0], np.float32)[:, None, None, None]
            np.testing.assert_array_equal(made[0].maps[rule], np.broadcast_to(want, (4, 3, 3, 1)))
        np.testing.assert_array_equal(
            made[0].patches[0][..., 0], [[5, 6, 7], [9, 10, 11], [13, 14, 15]]
        )
        assert made[0].patches[3] is None

    def test_switches_are_those_of_the_forward_pass(self, ramp: Path) -> None:
        proto = parsed(
            """<ir_version: 8, opset_import: ["": 18]>
g (float[N,1,4,4] x) => (float[N,1,2,2] y) { y = MaxPool<kernel_shape=[2,2], strides=[2,2]>(x) }"""
        )
        found = patches(proto, ramp, "y", k=2, preprocess=PLAIN, threads=1)
        made = next(backlight.deconvnet(proto, found, "y", [0], ["deconv"], threads=1))
        np.testing.assert_array_equal(
            made.maps["deconv"][..., 0], [[[0, 0], [0, 15]], [[0, 0], [0, 13]]]
        )

    def test_command(
        self, model: Path, folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        out = tmp_path / "out"
        command = ["reconstruct", str(model), str(folders), "-l", "r", "-k", "3", "-o", str(out)]
        command += ["--preprocess", "unit", "--threads", "1", "--limit", "2", "--html"]
        assert run(command) == 2  # two files can't be read
        assert {f.name for f in out.iterdir()} == {
            "r.png", "r.npz", "reconstruct.json", "reconstruct.html",
        }  # fmt: skip
        with np.load(out / "r.npz") as maps:
            assert set(maps) == {"deconv-0", "deconv-1", "guided-0", "guided-1"}
            assert maps["deconv-1"].shape == (3, 3, 3, 3)
            assert np.abs(maps["deconv-1"]).max() > 0
        capsys.readouterr()
        assert run([*command, "--method", "magic"]) == 2
        assert "--method 'magic'; accepted: deconvnet" in capsys.readouterr().err
        assert run([*command, "--force", "--rule", "magic"]) == 2
        assert "magic" in capsys.readouterr().err


def test_activations_that_are_no_numbers(tmp_path: Path, photo: Path, capsys) -> None:
    """A picture of an infinite projection would be any picture: one line, and none is written."""
    body = models.BODY.replace("h = Conv", "g = Conv").replace("r = ", "h = Mul(g, huge) r = ")
    model = models.tiny(body=body)
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.float32(3e38), "huge"))
    onnx.save(model, tmp_path / "huge.onnx")
    words = ["deconvnet", str(tmp_path / "huge.onnx"), str(photo), "-l", "r", "-k", "4"]
    assert run([*words, "--preprocess", "unit", "-o", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert "NaN or infinite" in said and said.count("\n") == 1
    assert not (tmp_path / "out").exists()
