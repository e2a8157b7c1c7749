"""Filters: the weights of a layer, as pictures and as a command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import backlight
from backlight.engine.cli import run
from backlight.engine.inside.taps import layers
from backlight.errors import ModelError, UsageError

from ..models import parsed, tiny
from .nets import patch_embedding


def embedding_module(torch: Any, cut: str) -> Any:
    """A transformer's beginning without a convolution: norm, linear, norm, positions, a head."""

    class Embedding(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.before, self.after = torch.nn.LayerNorm(48), torch.nn.LayerNorm(6)
            self.linear, self.head = torch.nn.Linear(48, 6), torch.nn.Linear(6, 5)
            self.places = torch.nn.Parameter(torch.randn(1, 6, 6))

        def forward(self, x: Any) -> Any:
            n, c, h, w = x.shape
            if cut == "unfold":
                rows = torch.nn.functional.unfold(x, 4, stride=4).transpose(1, 2)
            else:
                cells = x.reshape(n, c, h // 4, 4, w // 4, 4).permute(0, 2, 4, 3, 5, 1)
                rows = cells.reshape(n, (h // 4) * (w // 4), 4 * 4 * c)
            made = self.after(self.linear(self.before(rows))) + self.places
            return self.head(made.mean(1))

    return Embedding()


class TestFilters:
    def test_first_layer_is_in_the_colours_of_the_preprocessing(self) -> None:
        proto = tiny()
        found = backlight.filters(proto)
        assert (found.layer, found.color, found.weights.shape) == ("h", "RGB", (4, 3, 3, 3))
        proto.metadata_props.add(key="backlight.preprocess", value='{"color": "BGR"}')
        turned = backlight.filters(proto, "r")
        assert turned.color == "BGR"
        red, blue = (np.asarray(f.picture()) for f in (found, turned))
        assert red.shape == blue.shape
        # The first tile: mid-grey is 0, the largest |weight| of the filter is full.
        filter_ = found.weights[0]
        want = np.rint(127.5 + 127.5 * filter_[:, 1, 1] / np.abs(filter_).max())
        y, x = _first_tile(red)
        np.testing.assert_array_equal(red[y + 33, x + 33], want)
        np.testing.assert_array_equal(blue[y + 33, x + 33], want[::-1])

    def test_per_layer_shares_one_scale(self) -> None:
        found = backlight.filters(tiny())
        shared = np.asarray(found.picture(per="layer"))
        y, x = _first_tile(shared)
        want = np.rint(127.5 + 127.5 * found.weights[0, :, 1, 1] / np.abs(found.weights).max())
        np.testing.assert_array_equal(shared[y + 33, x + 33], want)

    def test_patch_embeddings_of_transformers(self) -> None:
        found = backlight.filters(patch_embedding())
        assert (found.layer, found.color, found.strides) == ("e", "RGB", (4, 4))
        with pytest.raises(UsageError, match="no convolution makes 'y'"):
            backlight.filters(patch_embedding(), "y")

    @pytest.mark.parametrize("order", ["pixels, colour", "colour, pixels"])
    def test_patch_embeddings_without_a_convolution(self, order: str) -> None:
        """Patches cut out by Reshape and Transpose, a norm, and a linear layer over each: the same
        filters as the convolution that does the same."""
        kernel = np.random.default_rng(0).standard_normal((6, 3, 4, 2)).astype(np.float32)
        last = "0, 2, 4, 3, 5, 1" if order == "pixels, colour" else "0, 2, 4, 1, 3, 5"
        weights = kernel.transpose(0, 2, 3, 1) if order == "pixels, colour" else kernel
        proto = parsed(
            f"""<ir_version: 8, opset_import: ["": 18]>
g (float[N,3,12,6] x) => (float y)
<int64[6] cut = {{0, 3, 3, 4, 3, 2}}, int64[3] rows = {{0, 9, 24}}>
{{ a = Reshape(x, cut)  b = Transpose<perm=[{last}]>(a)  c = Reshape(b, rows)
  d = LayerNormalization(c, gain)  e = MatMul(d, w)  y = Add(e, bias) }}""",
            {
                "w": np.ascontiguousarray(weights.reshape(6, 24).T),
                "gain": np.ones(24, np.float32),
                "bias": np.ones(6, np.float32),
            },
        )
        for layer in (None, "e", "y"):
            found = backlight.filters(proto, layer)
            assert (found.layer, found.color, found.strides) == ("e", "RGB", (4, 2))
            np.testing.assert_array_equal(found.weights, kernel)

    def test_linear_patch_embeddings_are_listed(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """As a convolution would be, and the name in the list is one that --layer takes."""
        kernel = np.random.default_rng(0).standard_normal((6, 3, 4, 2)).astype(np.float32)
        proto = parsed(
            """<ir_version: 8, opset_import: ["": 18]>
g (float[N,3,12,6] x) => (float y) <int64[6] cut = {0, 3, 3, 4, 3, 2}, int64[3] rows = {0, 9, 24}>
{ a = Reshape(x, cut)  b = Transpose<perm=[0, 2, 4, 1, 3, 5]>(a)  c = Reshape(b, rows)
  e = MatMul(c, w)  r = Relu(e)  y = MatMul(r, v) }""",
            {
                "w": np.ascontiguousarray(kernel.reshape(6, 24).T),
                "v": np.ones((6, 6), np.float32),
            },
        )
        path = tmp_path / "vit.onnx"
        onnx.save(proto, path)
        assert run(["filters", str(path), "--list", "--json"]) == 0
        (listed,) = json.loads(capsys.readouterr().out)
        assert (listed["name"], listed["op"]) == ("e", "MatMul")
        assert listed["weights"] == [6, 3, 4, 2]
        assert listed["strides"] == [4, 2]
        assert listed["receptive_field"]["size"] == [4, 2]
        np.testing.assert_array_equal(backlight.filters(path, listed["name"]).weights, kernel)
        with pytest.raises(UsageError, match="no convolution makes 'y'.*there is 'e'"):
            backlight.filters(path, "y")

    def test_patches_of_a_fixed_batch_and_a_padded_border(self) -> None:
        """4 x 4 patches of a 10 x 6 image: those in the padding say nothing of the weights."""
        kernel = np.random.default_rng(0).standard_normal((5, 3, 4, 4)).astype(np.float32)
        proto = parsed(
            """<ir_version: 8, opset_import: ["": 18]>
g (float[2,3,10,6] x) => (float y)
<int64[8] pads = {0, 0, 1, 0, 0, 0, 1, 2}, int64[6] cut = {2, 3, 3, 4, 2, 4},
 int64[3] rows = {2, 6, 48}>
{ o = Pad(x, pads)  a = Reshape(o, cut)  b = Transpose<perm=[0, 2, 4, 1, 3, 5]>(a)
  c = Reshape(b, rows)  y = MatMul(c, w) }""",
            {"w": np.ascontiguousarray(kernel.reshape(5, 48).T)},
        )
        np.testing.assert_array_equal(backlight.filters(proto).weights, kernel)

    @pytest.mark.parametrize("exporter", ["dynamo", "legacy"])
    @pytest.mark.parametrize("cut", ["einops", "unfold"])
    def test_linear_patch_embeddings_from_pytorch(
        self, exporter: str, cut: str, tmp_path: Path
    ) -> None:
        """'b c (h p) (w q) -> b (h w) (p q c)' and nn.Unfold, as PyTorch writes them."""
        torch = pytest.importorskip("torch")
        path = tmp_path / "vit.onnx"
        module = embedding_module(torch, cut).eval()
        x = torch.zeros(2, 3, 12, 8)
        if exporter == "dynamo":
            shapes = ({0: torch.export.Dim("n")},)
            torch.onnx.export(module, (x,), path, dynamo=True, dynamic_shapes=shapes, verbose=False)
        else:
            axes = {"x": {0: "n"}}
            torch.onnx.export(
                module, (x,), path, dynamo=False, input_names=["x"], dynamic_axes=axes
            )
        (listed,) = layers(path, convolutions=True)
        for layer in (None, listed.name):
            found = backlight.filters(path, layer)
            assert (found.layer, found.color, found.strides) == (listed.name, "RGB", (4, 4))
            weights = module.linear.weight.detach().numpy()
            if cut == "einops":
                weights = weights.reshape(6, 4, 4, 3).transpose(0, 3, 1, 2)
            np.testing.assert_array_equal(found.weights, weights.reshape(6, 3, 4, 4))

    def test_a_linear_layer_over_all_pixels(self) -> None:
        w = np.random.default_rng(0).standard_normal((5, 48)).astype(np.float32)
        proto = parsed(
            """<ir_version: 8, opset_import: ["": 18]>
g (float[N,1,8,6] x) => (float y) { f = Flatten(x)  h = Gemm<transB=1>(f, w)  r = Relu(h)
  y = MatMul(r, v) }""",
            {"w": w, "v": np.ones((5, 2), np.float32)},
        )
        found = backlight.filters(proto)
        assert (found.layer, found.color) == ("h", None)
        np.testing.assert_array_equal(found.weights, w.reshape(5, 1, 8, 6))
        with pytest.raises(UsageError, match="no convolution makes 'y'"):
            backlight.filters(proto, "y")

    def test_deeper_and_grouped_layers_are_grey(self) -> None:
        rng = np.random.default_rng(0)
        proto = parsed(
            """<ir_version: 8, opset_import: ["": 18]>
g (float[N,3,9,9] x) => (float y) { h = Conv<group=3>(x, d)  y = Conv(h, w) }""",
            {
                "d": rng.standard_normal((6, 1, 3, 3)).astype(np.float32),
                "w": rng.standard_normal((4, 6, 3, 3)).astype(np.float32),
            },
        )
        assert backlight.filters(proto).color is None
        assert backlight.filters(proto).groups == 3
        deep = backlight.filters(proto, "y")
        assert deep.color is None
        pixels = np.asarray(deep.picture([2], channels=[0, 5]))
        assert (pixels == pixels[..., :1]).sum() > 0.9 * pixels.size
        with pytest.raises(UsageError, match="filter 4 is out of range"):
            deep.picture([4])
        with pytest.raises(UsageError, match="input channel 6 is out of range"):
            deep.picture(channels=[6])

    def test_an_input_of_no_declared_shape(self) -> None:
        """The weights say enough."""
        model = tiny()
        want = backlight.filters(model, preprocess="unit")
        model.graph.input[0].type.tensor_type.ClearField("shape")
        found = backlight.filters(model, preprocess="unit")
        np.testing.assert_array_equal(found.weights, want.weights)

    def test_transposed_convolutions_too(self) -> None:
        w = np.arange(2 * 3 * 4, dtype=np.float32).reshape(2, 3, 2, 2)
        proto = parsed(
            """<ir_version: 8, opset_import: ["": 18]>
g (float[N,2,9,9] x) => (float y) { y = ConvTranspose(x, w) }""",
            {"w": w},
        )
        np.testing.assert_array_equal(backlight.filters(proto).weights, w.swapaxes(0, 1))

    def test_a_model_without_convolutions(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        proto = parsed(
            """<ir_version: 8, opset_import: ["": 18]>
g (float[N,3,4,4] x) => (float[N,48] y) { y = Flatten(x) }"""
        )
        with pytest.raises(ModelError, match="no convolution"):
            backlight.filters(proto)
        onnx.save(proto, tmp_path / "m.onnx")
        assert run(["filters", str(tmp_path / "m.onnx"), "--list"]) == 2
        said = capsys.readouterr()
        assert said.out == "" and "m.onnx: no convolution" in said.err

    def test_an_assumed_order_of_colours_is_said(
        self, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert run(["filters", str(model), "-o", str(tmp_path / "a")]) == 0
        assert "assuming RGB (--preprocess changes it)" in capsys.readouterr().err
        for more in (["--preprocess", "imagenet-caffe"], ["--preprocess", "unit"]):
            assert run(["filters", str(model), "-o", str(tmp_path / more[1]), *more]) == 0
        assert run(["filters", "bundled", "-o", str(tmp_path / "b")]) == 0
        assert capsys.readouterr().err == ""

    def test_input_channels_of_the_first_layer(self, model: Path) -> None:
        """Those that are named are shown, in grey, and there must be such."""
        found = backlight.filters(model)
        alone = found.picture([1], channels=[2])
        assert alone.tobytes() != found.picture([1], channels=[1]).tobytes()
        pixels = np.asarray(alone, int)
        assert np.ptp(pixels, axis=2).max() < 12  # the letters have a tinge of blue
        with pytest.raises(UsageError, match="input channel 9 is out of range"):
            found.picture(channels=[9])

    def test_command(self, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        out = tmp_path / "out"
        assert run(["filters", str(model), "-o", str(out), "--html"]) == 0
        about = json.loads((out / "filters.json").read_text())
        assert about["shape"] == [4, 3, 3, 3]
        np.testing.assert_array_equal(np.load(out / "h.npy"), backlight.filters(model).weights)
        assert b"data:image/png;base64," in (out / "filters.html").read_bytes()
        capsys.readouterr()
        assert run(["filters", str(model), "--list", "--json"]) == 0
        listed = json.loads(capsys.readouterr().out)
        assert [(x["name"], x["receptive_field"]["size"]) for x in listed] == [("h", [3, 3])]
        assert run(["filters", str(model), "-o", str(out)]) == 2  # there already


def _first_tile(picture: np.ndarray) -> tuple[int, int]:
    """Top left corner of the first tile: the heading ends above row 66, the margin is 12."""
    return 66, 12
