"""Taps, filters and activations: what a model computes, by name."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from PIL import Image

import backlight
from backlight.engine.cli import run
from backlight.engine.cli.layers import file_names, numbers
from backlight.engine.inside.activations import Activations
from backlight.engine.inside.taps import Taps, layers, tap
from backlight.engine.photos.outputs import numbered
from backlight.engine.pictures import grid
from backlight.engine.pictures.fonts import DEJAVU, Face, _has
from backlight.engine.pictures.page import Page
from backlight.engine.runtime.session import Session
from backlight.errors import ImageError, ModelError, UsageError

from ..models import BODY, images, parsed, tiny


def patch_embedding() -> onnx.ModelProto:
    """The beginning of a vision transformer, and a dense end."""
    rng = np.random.default_rng(0)
    return parsed(
        """<ir_version: 8, opset_import: ["": 18]>
vit (float[N,3,16,16] x) => (float[N,16,6] y) {
    e = Conv<strides=[4,4]>(x, w)
    s = Constant<value_ints=[0,6,16]>()
    f = Reshape(e, s)
    t = Transpose<perm=[0,2,1]>(f)
    y = MatMul(t, m)
}""",
        {
            "w": rng.standard_normal((6, 3, 4, 4)).astype(np.float32),
            "m": rng.standard_normal((6, 6)).astype(np.float32),
        },
    )


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


class TestTaps:
    def test_gives_what_the_whole_model_computes(self) -> None:
        proto, x = tiny(), images(3, 3, 8, 8)
        whole = tiny()
        whole.graph.output.append(onnx.helper.make_empty_tensor_value_info("r"))
        want = Session(whole, "cpu", 1).run({"x": x}, ["r", "prob"])
        before = proto.SerializeToString(deterministic=True)
        got = Taps(proto, ["r"], providers="cpu", threads=1)(x)
        assert list(got) == ["r"]
        np.testing.assert_array_equal(got["r"], want["r"])
        kept = Taps(proto, ["r"], keep=True, providers="cpu", threads=1)(x)
        np.testing.assert_array_equal(kept["prob"], want["prob"])
        assert proto.SerializeToString(deterministic=True) == before

    def test_leaves_out_what_the_tensor_does_not_need(self) -> None:
        tapped, names = tap(tiny(), ["h"])
        assert names == ("h",)
        assert [n.op_type for n in tapped.graph] == ["Conv"]

    def test_the_input_itself_can_be_asked_for(self) -> None:
        x = images(2, 3, 8, 8)
        got = Taps(tiny(), ["x"], providers="cpu", threads=1)(x)
        assert list(got) == ["x"]
        np.testing.assert_array_equal(got["x"], x)

    def test_a_fixed_batch_is_filled_up(self) -> None:
        x = images(3, 3, 8, 8)
        want = Taps(tiny(), ["r"], providers="cpu", threads=1)(x)["r"]
        fixed = tiny(shape="2,3,8,8", output="float[2,5] prob")
        got = Taps(fixed, ["r"], providers="cpu", threads=1)(x)["r"]
        # Another batch may be summed in another order.
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)

    @pytest.mark.parametrize(
        ("name", "want"),
        [
            ("score", "nearest: scores"),
            ("R", "nearest: r"),
            ("w", "'w' is a weight of the model, not a tensor it computes"),
            ("zzzzzz", "for instance"),
        ],
    )
    def test_a_mistake_is_met_with_the_nearest_names(self, name: str, want: str) -> None:
        with pytest.raises(UsageError, match=want):
            tap(tiny(), [name])

    def test_nodes_go_by_their_names_too(self) -> None:
        proto = tiny()
        proto.graph.node[1].name = "/features/act"
        assert tap(proto, ["/features/act"])[1] == ("r",)

    def test_layers_are_listed_with_their_fields(self) -> None:
        found = {x.name: x for x in layers(tiny())}
        assert found["h"].weights == (4, 3, 3, 3)
        assert found["h"].strides == (1, 1)
        assert found["h"].dims == (4, 8, 8)
        assert found["h"].field.size == (3, 3)
        assert found["p"].field.is_whole
        assert [x.name for x in layers(tiny(), convolutions=True)] == ["h"]


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


# Of one tile of 80 pixels: the heading and two lines of detail end above row 86.
TILE = (slice(86, 166), slice(12, 92))


class TestActivations:
    def test_maps_of_a_photo(self, model: Path, photo: Path) -> None:
        found = backlight.activations(model, photo, "r", preprocess="unit", threads=1)
        taps = Taps(model, ["r"], providers="cpu", threads=1)
        np.testing.assert_array_equal(found.values, taps(taps.load([photo], "unit"))["r"][0])
        assert found.pixels is not None
        assert found.pixels.shape == (8, 8, 3)
        order = found.channels(sort=True)
        assert sorted(order) == [0, 1, 2, 3]
        assert (np.diff(found.strength[order]) <= 0).all()

    def test_picture_says_black_is_zero_or_mid_grey_is(self, model: Path, photo: Path) -> None:
        rectified = backlight.activations(model, photo, "r", preprocess="unit", threads=1)
        tile = np.asarray(rectified.picture([2]))[TILE]
        want = np.rint(255 * rectified.values[2] / rectified.values[2].max())
        np.testing.assert_array_equal(tile[5::10, 5::10, 0], want)
        signed = backlight.activations(model, photo, "h", preprocess="unit", threads=1)
        assert signed.values.min() < 0
        tile = np.asarray(signed.picture([2], per="layer"))[TILE]
        want = np.rint(127.5 + 127.5 * signed.values[2] / np.abs(signed.values).max())
        np.testing.assert_array_equal(tile[5::10, 5::10, 0], want)

    def test_nhwc_tensors_come_channels_first(self, photo: Path) -> None:
        rng = np.random.default_rng(0)
        w = rng.standard_normal((4, 3, 3, 3)).astype(np.float32)
        proto = parsed(
            """<ir_version: 8, opset_import: ["": 18]>
g (float[N,8,8,3] x) => (float[N,6,6,4] y) {
    t = Transpose<perm=[0,3,1,2]>(x)
    h = Conv(t, w)
    y = Transpose<perm=[0,2,3,1]>(h)
}""",
            {"w": w},
        )
        last, first = (
            backlight.activations(proto, photo, name, preprocess="unit", threads=1)
            for name in ("y", "h")
        )
        np.testing.assert_array_equal(last.values, first.values)
        assert first.values.shape == (4, 6, 6)

    @pytest.mark.parametrize(
        ("layer", "want"), [("f", "no spatial extent"), ("p", "no spatial extent")]
    )
    def test_a_layer_without_rows_and_columns(
        self, model: Path, photo: Path, layer: str, want: str
    ) -> None:
        with pytest.raises(UsageError, match=want):
            backlight.activations(model, photo, layer, preprocess="unit", threads=1)

    def test_what_is_no_number_is_null_in_json(self, photo: Path, tmp_path: Path) -> None:
        """JSON has no NaN: other languages refuse the file."""
        onnx.save(tiny(body=BODY.replace("Relu", "Log")), tmp_path / "m.onnx")
        for command in ("activations", "patches"):
            out = tmp_path / command
            given = [command, str(tmp_path / "m.onnx"), str(photo), "-l", "r", "-o", str(out)]
            assert run([*given, "--preprocess", "none", "--html"]) == 0
            text = (out / f"{command}.json").read_text(encoding="utf-8")
            json.loads(text, parse_constant=pytest.fail)

    def test_strength_passes_over_nan(self) -> None:
        values = np.float32([[[np.nan, 2], [1, 0]], [[np.nan] * 2] * 2])
        assert np.array_equal(
            Activations("r", values, None).strength, np.float32([2, np.nan]), equal_nan=True
        )

    def test_tokens_lie_in_a_line(self, photo: Path) -> None:
        with pytest.raises(UsageError, match=r"\[N,16,6\]: its positions lie in a line"):
            backlight.activations(patch_embedding(), photo, "t", preprocess="unit", threads=1)

    def test_command(
        self, model: Path, photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        broken = tmp_path / "broken.png"
        broken.write_bytes(photo.read_bytes()[:60])
        out = tmp_path / "out"
        command = ["activations", str(model), str(photo), str(broken), "-l", "r", "-l", "h"]
        command += ["--preprocess", "unit", "--threads", "1", "-o", str(out), "--html"]
        assert run([*command, "--sort", "--overlay"]) == 2  # one photo is broken
        assert "broken.png" in capsys.readouterr().err
        assert {f.name for f in out.iterdir()} == {
            "photo-r.png", "photo-r.npy", "photo-h.png", "photo-h.npy",
            "activations.json", "activations.html",
        }  # fmt: skip
        about = json.loads((out / "activations.json").read_text())
        assert [m["layer"] for m in about["maps"]] == ["r", "h"]
        assert len(about["skipped"]) == 1
        new = tmp_path / "new"
        assert run(["activations", str(model), str(photo), "-l", "R", "-o", str(new)]) == 2
        err = capsys.readouterr().err
        assert err.startswith("backlight: no tensor 'R' in the model; nearest: r")
        assert err.count("\n") == 1
        assert not new.exists()


class TestCommonParts:
    def test_nothing_to_show_is_said(self, model: Path, photo: Path) -> None:
        held = backlight.filters(model)
        one = backlight.activations(model, photo, "r", preprocess="unit")
        top = backlight.patches(model, photo, "r", preprocess="unit", k=2)
        for picture in (
            lambda: held.picture(limit=0),
            lambda: held.picture([]),
            lambda: one.picture(limit=0),
            lambda: one.picture([]),
            lambda: top.picture("r", limit=0),
            lambda: top.picture("r", []),
            lambda: backlight.patches(model, photo, "r", preprocess="unit", channels=[]),
        ):
            with pytest.raises(UsageError, match="expected a limit|expected 1 or more|given"):
                picture()

    @pytest.mark.parametrize(
        "image",
        [
            np.zeros((9, 9), np.uint8),
            np.zeros((9, 9, 4), np.uint8),
            np.zeros((0, 9, 3), np.uint8),
            np.zeros((), np.float32),
            np.zeros((3, 8, 8), np.float32),
            np.zeros((2, 3, 8, 8), np.float32),
        ],
        ids=lambda x: str(x.shape),
    )
    def test_arrays_that_are_no_image(self, model: Path, image: Any) -> None:
        with pytest.raises(ImageError, match="expected one image: pixels"):
            backlight.activations(model, image, "r", preprocess="unit")

    def test_nothing_given_is_said(self, model: Path, photo: Path) -> None:
        options: dict[str, Any] = {"preprocess": "unit"}
        with pytest.raises(UsageError, match="no layer given"):
            backlight.patches(model, photo, [], **options)
        with pytest.raises(UsageError, match="no layer given"):
            Taps(model, [])
        with pytest.raises(ImageError, match="no image"):
            backlight.invert(model, [], "r", **options)
        with pytest.raises(UsageError, match="no class or channel"):
            backlight.maximize(model, [], **options)
        one = backlight.maximize(model, np.int64(1), steps=1, **options)  # type: ignore[arg-type]
        assert one.channels.tolist() == [1]

    def test_numbers(self) -> None:
        assert numbers("0-3,7,2", "--channels") == [0, 1, 2, 3, 7]
        assert numbers(None, "--channels") is None
        for wrong in ("", "3-1", "a", "-1", "1,,2", "1-2-3"):
            with pytest.raises(UsageError, match="--channels"):
                numbers(wrong, "--channels")

    def test_photo_a_layer_b_c_is_not_photo_a_b_layer_c(self) -> None:
        assert numbered(["a-b-c", "a-b", "A-B-c", "a-b-c-2"]) == [
            "a-b-c", "a-b", "A-B-c-2", "a-b-c-2-2",
        ]  # fmt: skip

    def test_file_names_are_plain_and_no_two_the_same(self) -> None:
        names = file_names(["a/b", "a_b", "/model/Conv:0", "///"])
        assert list(names.values()) == ["a_b", "a_b-2", "model_Conv_0", "layer"]

    @pytest.mark.parametrize("letter", ["x", "é", "日"])
    def test_long_names_fit_into_file_names(
        self, letter: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """One file with a long name would otherwise end the run when its turn comes."""
        layer = letter * 200
        body = BODY.replace("r = Relu(h)", "r = Relu(h)\n    r2 = Relu(h)")
        named = tiny(body=body)
        for node in named.graph.node:
            node.output[:] = [layer if o == "r2" else o for o in node.output]
        onnx.save(named, tmp_path / "m.onnx")
        photos = tmp_path / "photos"
        photos.mkdir()
        stem = letter * (251 // len(letter.encode()))
        for name in (stem, stem[:-1] + "y", "a"):
            Image.new("RGB", (9, 9), "red").save(photos / f"{name}.png")
        out = tmp_path / "out"
        given = ["activations", str(tmp_path / "m.onnx"), str(photos), "-l", layer, "-o", str(out)]
        assert run([*given, "--preprocess", "unit"]) == 0, capsys.readouterr().err
        entries = json.loads((out / "activations.json").read_bytes())["maps"]
        assert len({e["picture"] for e in entries}) == 3
        assert all((out / e["picture"]).exists() for e in entries)

    def test_a_long_heading_takes_more_lines(self, monkeypatch: pytest.MonkeyPatch) -> None:
        written: list[str] = []
        write = Face.write
        monkeypatch.setattr(
            Face,
            "write",
            lambda self, draw, at, text, ink: [
                written.append(text), write(self, draw, at, text, ink)
            ],
        )  # fmt: skip
        tile = grid.Tile(np.zeros((8, 8, 3), np.uint8))
        heading = "DeconvNet reconstructions of bn_1/FusedBatchNormV3:0 in open-nsfw"
        small = grid.sheet("DeconvNet", ["one"], [grid.Row([tile])], 64)
        large = grid.sheet(heading, ["one"], [grid.Row([tile])], 64)
        assert large.height > small.height
        assert " ".join(written[2:]).startswith(heading)
        written.clear()
        grid.sheet("x" * 400, ["one"], [grid.Row([tile])], 64)
        assert written[0].endswith("…")

    def test_the_fonts_have_every_character_that_is_written(self) -> None:
        """Without one of the system's: elsewhere there may be none."""
        package = Path(grid.__file__).parent
        texts = [file.read_text(encoding="utf-8") for file in package.rglob("*.py")]
        beyond = sorted({c for c in "".join(texts) if ord(c) > 127})
        lacking = [c for c in beyond if not (_has("", c) or _has(str(DEJAVU), c))]
        assert "…" in beyond and not lacking, lacking

    def test_a_page_escapes_its_text_and_loads_nothing(self) -> None:
        page = Page("<b>", "a & b")
        page.section('"one"')
        page.section("two")
        page.picture(Image.new("RGB", (2, 2)), 'alt "quoted"', "<caption>")
        page.table(("h<",), [("c>",)])
        text = page.to_bytes().decode()
        for raw in ("<b>", "<caption>", 'alt "quoted"', "h<", "c>"):
            assert raw not in text.replace("<td>c&gt;", "")
        assert not re.search(r'(?:src|href)="(?!data:|#)', text)
        assert "default-src 'none'" in text
