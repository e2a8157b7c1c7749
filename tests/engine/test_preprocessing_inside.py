"""Models that resize, cast, turn and normalise images themselves: plain, and as exported files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser
from PIL import Image

import backlight
from backlight.engine.cli import run
from backlight.engine.photos.images import InputSpec, map_layout
from backlight.export.check import check
from backlight.export.preprocess import preset
from backlight.export.saliency import explain_graph

from ..export.harness import run_runtime

RNG = np.random.default_rng(4)
W = {
    "w": RNG.standard_normal((8, 3, 3, 3)).astype(np.float32),
    "v": RNG.standard_normal((8, 5)).astype(np.float32),
    "mean": np.array([0.4, 0.5, 0.6], np.float32).reshape(1, 3, 1, 1),
    "full": np.array(255, np.float32),
    "sides": np.array([12, 10], np.int64),
}
TURN = "Transpose<perm=[0,3,1,2]>"
NORM = "d = Div({}, full) m = Sub(d, mean)"
# The input, the nodes up to m, the tensor that the gradient is by, its map for images of 20 x 30.
FRONTS = {
    "cubic": (
        "float[N,3,H,W]",
        'q = Resize<mode="cubic", axes=[2,3]>(x,,,sides) ' + NORM.format("q"),
        "q",
        (3, 12, 10),
    ),
    "antialiased": (
        "float[N,3,H,W]",
        'q = Resize<mode="linear", antialias=1, axes=[2,3]>(x,,,sides) ' + NORM.format("q"),
        "q",
        (3, 12, 10),
    ),
    "normalised, then cubic": (
        "float[N,3,H,W]",
        NORM.replace("m =", "o =").format("x") + ' m = Resize<mode="cubic", axes=[2,3]>(o,,,sides)',
        "m",
        (3, 12, 10),
    ),
    "turned, then cubic": (
        "float[N,H,W,3]",
        f't = {TURN}(x) q = Resize<mode="cubic", axes=[2,3]>(t,,,sides) ' + NORM.format("q"),
        "q",
        (3, 12, 10),
    ),
    "to sizes made of its own, then cubic": (
        "float[N,3,H,W]",
        "i = Shape<end=2>(x) o = Concat<axis=0>(i, sides) "
        'q = Resize<mode="cubic">(x,,,o) ' + NORM.format("q"),
        "q",
        (3, 12, 10),
    ),
    "linear": (
        "float[N,3,H,W]",
        'q = Resize<mode="linear", axes=[2,3]>(x,,,sides) ' + NORM.format("q"),
        "x",
        (3, 20, 30),
    ),
    "bytes, resized": (
        "uint8[N,H,W,3]",
        f'q = Resize<mode="nearest", axes=[1,2]>(x,,,sides) t = {TURN}(q) a = Cast<to=1>(t) '
        + NORM.format("a"),
        "a",
        (3, 12, 10),
    ),
    "bytes, cast": (
        "uint8[N,H,W,3]",
        f'a = Cast<to=1>(x) t = {TURN}(a) q = Resize<mode="linear", axes=[2,3]>(t,,,sides) '
        + NORM.format("q"),
        "a",
        (20, 30, 3),
    ),
    "bytes, turned": (
        "uint8[N,H,W,3]",
        f't = {TURN}(x) a = Cast<to=1>(t) q = Resize<mode="linear", axes=[2,3]>(a,,,sides) '
        + NORM.format("q"),
        "a",
        (3, 20, 30),
    ),
}


def net(front: str) -> onnx.ModelProto:
    given, nodes, _, _ = FRONTS[front]
    model = parser.parse_model(
        '<ir_version: 9, opset_import: ["": 18]>\n'
        f"g ({given} x) => (float[N,5] y) {{ {nodes} c = Conv<strides=[2,2]>(m, w) r = Relu(c) "
        "p = GlobalAveragePool(r) f = Flatten(p) s = MatMul(f, v) y = Softmax<axis=-1>(s) }"
    )
    model.graph.initializer.extend(numpy_helper.from_array(a, n) for n, a in W.items())
    return model


def batch(front: str) -> np.ndarray:
    shape = (2, 3, 20, 30) if "3,H" in FRONTS[front][0] else (2, 20, 30, 3)
    values = np.random.default_rng(6).integers(0, 256, shape)
    return values.astype(np.uint8 if "uint8" in FRONTS[front][0] else np.float32)


def inner(front: str, x: np.ndarray) -> np.ndarray:
    """The gradient at a tensor whose value the model itself says, by PyTorch."""
    torch = pytest.importorskip("torch")
    by = FRONTS[front][2]
    model = net(front)
    model.graph.output.append(onnx.ValueInfoProto(name=by))
    value = torch.tensor(run_runtime(model, {"x": x})[by].astype(np.float64), requires_grad=True)
    m = value if by == "m" else value / 255 - torch.tensor(W["mean"])
    h = torch.relu(torch.nn.functional.conv2d(m, torch.tensor(W["w"]).double(), stride=2))
    (h.mean((2, 3)) @ torch.tensor(W["v"]).double())[:, 2].sum().backward()
    return value.grad.numpy()


@pytest.mark.parametrize("front", FRONTS)
def test_where_the_gradient_is_taken(front: str) -> None:
    _, _, by, shape = FRONTS[front]
    graph, x = explain_graph(net(front), ("vanilla",)), batch(front)
    assert graph.wrt == by and graph.input == "x"
    report = check(net(front))
    assert report.ok and report.wrt == by and report.input == "x"
    assert any(f"at '{by}'" in note for note in graph.notes) == (by != "x")
    feeds = {"x": x, "target": np.array([2, 2])}
    found = run_runtime(graph.to_proto(), feeds)["saliency_vanilla"]
    assert found.shape[1:] == shape and found.any()
    if shape == (3, 12, 10):
        np.testing.assert_allclose(found, inner(front, x), rtol=0, atol=1e-5)


@pytest.mark.parametrize("front", FRONTS)
def test_the_pictures(front: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Plain and exported: the same maps, drawn with rows and columns as such."""
    from backlight.engine.pictures import reading

    drawn: list[tuple[int, ...]] = []
    kept = reading.saliency_picture

    def watched(*given: object) -> np.ndarray:
        made = kept(*given)  # type: ignore[arg-type]
        drawn.append(made.shape)
        return made

    monkeypatch.setattr(reading, "saliency_picture", watched)
    onnx.save(net(front), tmp_path / "net.onnx")
    photo = tmp_path / "photo.png"
    noise = np.random.default_rng(0).integers(0, 255, (20, 30, 3), np.uint8)
    Image.fromarray(noise).save(photo)
    how = tmp_path / "how.json"
    how.write_text('{"preset": "none", "size": [20, 30]}')
    onnx.save(backlight.export(tmp_path / "net.onnx"), tmp_path / "out.onnx")
    maps = []
    for name in ("net", "out"):
        words = ["explain", "-m", f"{tmp_path}/{name}.onnx", str(photo), "--preprocess", str(how)]
        assert run([*words, "-o", f"{tmp_path}/{name}"]) == 0
        maps.append(np.load(tmp_path / name / "photo-vanilla.npy"))
    np.testing.assert_allclose(*maps, rtol=0, atol=1e-6)
    shape = FRONTS[front][3]
    sides = shape[1:] if shape[0] == 3 else shape[:2]
    assert drawn == [(*sides, 3)] * 6


def test_projections_behind_a_resize_lie_over_the_image(tmp_path: Path) -> None:
    """Of another size and layout than the image's."""
    photo = tmp_path / "photo.png"
    Image.fromarray(RNG.integers(0, 255, (24, 20, 3), np.uint8)).save(photo)
    model = net("turned, then cubic")
    how = replace(preset("none"), size=(24, 20))
    found = backlight.patches(model, [photo], ["r"], preprocess=how)
    (made,) = backlight.deconvnet(model, found, "r", [0])
    high, wide = found.layers["r"].canvas(0)
    assert all(m.shape[1:] == (high, wide, 3) and m.any() for m in made.maps.values())


@pytest.mark.parametrize(
    ("shape", "layout", "channels", "wanted"),
    [
        ((3, 12, 10), "nchw", 3, "nchw"),
        ((3, 12, 10), "nhwc", 3, "nchw"),
        ((12, 10, 3), "nhwc", 3, "nhwc"),
        ((12, 10, 3), "nchw", None, "nhwc"),
        ((5, 12, 10), "nchw", 5, "nchw"),
        ((12, 10), "nchw", 3, "nhw"),
    ],
)
def test_the_layout_of_a_map(
    shape: tuple[int, ...], layout: str, channels: int | None, wanted: str
) -> None:
    spec = InputSpec("x", np.dtype(np.float32), layout, channels, (None, None), None)
    assert map_layout(shape, spec) == wanted


@pytest.mark.parametrize("command", ["explain", "occlude", "rise", "embed", "segment"])
def test_pixels_that_a_preset_would_squash_to_nothing_are_said(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A float model's preset for one that takes bytes: the picture would be all 0 and 1."""
    model = parser.parse_model(
        """<ir_version: 8, opset_import: ["": 18]> m (uint8[N,3,8,8] x) => (float[N,5] y) {
            f = Cast<to=1>(x) d = Div(f, full) c = Conv(d, w) r = Relu(c)
            p = GlobalAveragePool(r) t = Flatten(p) s = MatMul(t, v) y = Softmax(s)
        }"""
    )
    for name in ("full", "w", "v"):
        model.graph.initializer.append(numpy_helper.from_array(W[name], name))
    onnx.save(model, tmp_path / "bytes.onnx")
    photo = str(tmp_path / "photo.png")
    Image.fromarray(RNG.integers(0, 255, (20, 30, 3), np.uint8)).save(photo)
    if command == "embed":
        pytest.importorskip("pyarrow")
    small = ["--window", "4"] if command == "occlude" else []
    words = [command, "-m", str(tmp_path / "bytes.onnx"), photo, *small, "-o"]
    for name, squashed in (("unit", True), ("imagenet-torch", True), ("none", False)):
        run([*words, f"{tmp_path}/{name}", "--preprocess", name])
        assert ("takes whole numbers (uint8)" in capsys.readouterr().err) == squashed
