"""Models behind the server: of one image, of so many, of two inputs, with a saturated head."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import backlight
from backlight.engine.cli import run
from backlight.engine.cli.options import PHOTOS

from .. import models
from ..export.lone_models import FRONTS, image, net
from ..export.open_sizes import X as OPEN
from ..export.open_sizes import unranked
from .running import Server, binary

METHODS = ("vanilla", "gradcam")
SIGMOIDS = "far = Mul(scores, hundred) prob = Sigmoid(far)"
# A body that looks at a further input of four numbers beside the image.
BESIDE = models.BODY.replace("Flatten(p)", "Flatten(p) g = Add(f, beside)").replace(
    "(f, v", "(g, v"
)


def _saturated(tail: str = SIGMOIDS, output: str = "float[N,5] prob") -> onnx.ModelProto:
    """A multi-label head: several of its probabilities round to 1, the largest isn't the first."""
    model = models.tiny(tail=tail, output=output)
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.float32(1e3), "hundred"))
    biases = next(i for i in model.graph.initializer if i.name == "c")
    biases.CopyFrom(onnx.numpy_helper.from_array(np.float32([-20, 40, 60, 50, 0]), "c"))
    return model


def _two(batch: str) -> onnx.ModelProto:
    model = models.tiny(body=BESIDE, shape=f"{batch},3,8,8", output=f"float[{batch},5] prob")
    kind = onnx.TensorProto.FLOAT
    dims = [int(batch) if batch.isdigit() else batch, 4]
    model.graph.input.append(onnx.helper.make_tensor_value_info("beside", kind, dims))
    return model


FLAT = "one = Softmax(scores) zero = Constant<value_ints=[0]>() prob = Squeeze(one, zero)"
REST = "s = Softmax(scores) one = Constant<value_float=1.0>() prob = Sub(one, s)"
ROW = """far = Mul(scores, hundred) at = Constant<value_ints=[1]>() row = Unsqueeze(far, at)
    prob = Sigmoid(row)"""
KINDS: dict[str, Any] = {
    **{f"lone{i}": net(front, "[K]") for i, front in enumerate(FRONTS)},
    **{f"lonerow{i}": net(front, "[1,K]") for i, front in enumerate(FRONTS)},
    "bytes": net("[H,W,3]", "[K]", "uint8"),
    "one": models.tiny(shape="1,3,8,8", output="float[1,5] prob"),
    "flat": models.tiny(shape="1,3,8,8", tail=FLAT, output="float[5] prob"),
    "four": models.tiny(shape="4,3,8,8", output="float[4,5] prob"),
    "two": _two("N"),
    "twofour": _two("4"),
    "saturated": _saturated(),
    # Scores that an export lays out as [N,5]: what ranks them is in no plain model.
    "row": _saturated(ROW, "float[N,1,5] prob"),
    "rest": models.tiny(tail=REST),
}
EXPORTED = ("lone0", "lone5", "flat", "four", "twofour", "saturated", "row")


@pytest.fixture(scope="module")
def every(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Path]]:
    folder = tmp_path_factory.mktemp("kinds")
    np.save(folder / "beside.npy", np.float32([[0.1, 0.2, 0.3, 0.4]]))
    for name, model in KINDS.items():
        onnx.save(model, folder / f"{name}.onnx")
    for name in EXPORTED:
        made = backlight.export(folder / f"{name}.onnx", methods=METHODS)
        onnx.save(made, folder / f"{name}-exported.onnx")
    words = ("--preprocess", "unit", "--method", "vanilla", "--method", "gradcam", "--workers", "1")
    beside = ("--input", f"beside={folder / 'beside.npy'}")
    with Server(str(folder), *words, *beside) as running:
        yield running, folder
        assert running.end() == 0
        assert not running.events("failure") and not running.events("reload")


def _images(name: str) -> np.ndarray[Any, Any]:
    if not name.startswith(("lone", "bytes")):
        return models.images(3, 3, 8, 8)
    front = "[H,W,3]" if name == "bytes" else list(FRONTS)[int(name.strip("lonerw"))]
    one = image(front, "uint8" if name == "bytes" else "float")
    return np.stack([one, one[::-1], one[:, ::-1]])


def _asked(server: Server, name: str, x: Any, outputs: tuple[str, ...], **more: Any) -> Any:
    kind = "UINT8" if x.dtype == np.uint8 else "FP32"
    beside = more.pop("beside", None)
    inputs = [("x", kind, x)] + ([] if beside is None else [("beside", "FP32", beside)])
    body, header = binary(inputs, outputs=[{"name": n} for n in outputs], **more)
    answer = server.post(f"/v2/models/{name}/infer", body, header)
    assert answer.status == 200, answer.bytes
    told = {o["name"]: o for o in answer.json()["outputs"]}
    return {n: np.array(o["data"]).reshape(o["shape"]) for n, o in told.items()}


MAPS = ("saliency_vanilla", "saliency_gradcam")


@pytest.mark.parametrize("name", [*KINDS, *(f"{n}-exported" for n in EXPORTED)])
def test_rows_are_served_as_the_engine_explains_them(every: Any, name: str) -> None:
    """Three rows, and the class with a map, without one, and alone: always the same."""
    server, folder = every
    plain = name.removesuffix("-exported")
    x = _images(plain)
    given = {"beside": folder / "beside.npy"} if plain.startswith("two") else None
    want = backlight.Explainer(
        folder / f"{plain}.onnx", methods=METHODS, providers="cpu", inputs=given
    )(x)
    told = server.get(f"/v2/models/{name}").json()
    score = told["parameters"]["scores"]
    shapes = {o["name"]: o["shape"] for o in told["outputs"]}
    assert (
        shapes[score] == ([-1, 1, 5] if plain == "row" else [-1, 5])
        and told["inputs"][0]["shape"][0] == -1
    )
    rows = _asked(server, name, x, (score, "target", *MAPS, "heatmap_gradcam"))
    got = np.reshape(rows[score], (3, 5))
    np.testing.assert_allclose(got, np.reshape(want.scores, (3, 5)), rtol=1e-4, atol=1e-6)
    for method in METHODS:
        values = rows[f"saliency_{method}"]
        assert list(values.shape[1:]) == [
            have if asked == -1 else asked
            for asked, have in zip(shapes[f"saliency_{method}"][1:], values.shape[1:], strict=True)
        ]
        scale = np.abs(want.saliency[method]).max()
        np.testing.assert_allclose(values, want.saliency[method], rtol=1e-3, atol=1e-5 * scale)
    for outputs in ((score, "target"), ("target",), ("target", MAPS[0])):
        got = _asked(server, name, x, outputs)
        assert got["target"].tolist() == want.target.tolist() == rows["target"].tolist()
    assert score in _asked(server, name, x, (score,))


def test_probabilities_are_served_as_the_model_says_them(every: Any) -> None:
    """What is left of a Softmax, and no softmax of that: as `explain` shows it."""
    server, folder = every
    photo = next(PHOTOS.iterdir())
    instances = [{"b64": base64.b64encode(photo.read_bytes()).decode()}]
    body = {"instances": instances, "methods": ["vanilla"]}
    (told,) = server.post("/v1/models/rest:explain", body).json()["explanations"]
    explainer = backlight.Explainer(folder / "rest.onnx", methods=["vanilla"], providers="cpu")
    found = explainer(explainer.load([photo], "unit"))
    said = np.ravel(found.scores)
    assert told["class"] == said.argmax() and said.sum() > 3
    assert told["probability"] == pytest.approx(said.max(), abs=1e-6)


def test_an_input_of_open_shape_is_served_at_the_size_that_is_given(tmp_path: Path) -> None:
    """Refused without it, with what to give; and another model beside it keeps its own."""
    onnx.save(unranked(), tmp_path / "open.onnx")
    onnx.save(models.tiny(shape="N,3,8,8"), tmp_path / "tiny.onnx")
    words = ("--method", "vanilla", "--workers", "1", "--shape", "x=2,3,9,7")
    with Server(str(tmp_path / "open.onnx"), *words) as running:
        x = OPEN.astype(np.float32)
        told = running.get("/v2/models/open").json()
        assert told["inputs"][0]["shape"][1:] == [3, 9, 7]
        score = told["parameters"]["scores"]
        rows = _asked(running, "open", x, (score, "target", MAPS[0]))
        want = backlight.Explainer(tmp_path / "open.onnx", ("vanilla",), shapes={"x": (2, 3, 9, 7)})
        found = want(x)
        assert rows["target"].tolist() == found.target.tolist()
        np.testing.assert_allclose(rows[MAPS[0]], found.saliency["vanilla"], rtol=1e-3, atol=1e-6)


def test_a_saturated_head_has_ties_that_the_first_class_would_win() -> None:
    """Else the test above showed nothing of them."""
    for name in ("saturated", "row"):
        explain = backlight.Explainer(KINDS[name], methods=METHODS, providers="cpu")
        result = explain(_images(name))
        assert (result.target != result.scores.argmax(axis=1)).all()


def test_one_image_may_come_as_the_file_has_it(every: Any) -> None:
    server, _ = every
    x = _images("lone0")
    rows = _asked(server, "lone0", x, ("y", "target", *MAPS))
    alone = _asked(server, "lone0", x[0], ("y", "target", *MAPS))
    for name, values in alone.items():
        assert values.shape == rows[name][:1].shape
        np.testing.assert_allclose(values, rows[name][:1], rtol=1e-5)


def test_what_the_server_feeds_beside_the_image_may_be_sent(every: Any) -> None:
    server, folder = every
    assert server.get("/v2/models/two").json()["parameters"]["given"] == ["beside"]
    x, other = _images("two"), models.images(3, 4, seed=7)
    want = backlight.Explainer(folder / "two.onnx", methods=METHODS, providers="cpu")
    want = want({"x": x, "beside": other})
    for name in ("two", "twofour", "twofour-exported"):
        got = _asked(server, name, x, ("prob", "target", *MAPS), beside=other)
        np.testing.assert_allclose(got["prob"], want.scores, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(
            got["saliency_vanilla"], want.saliency["vanilla"], rtol=1e-3, atol=1e-6
        )


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--input", "besides=1"], "'besides': no such input"),
        (["--input", "beside=absent.npy"], "absent.npy: no such file"),
        (["--input", "beside"], "expected NAME=FILE.npy"),
        (["--shape", "y=1,3,8,8"], "'y': no such input; the models have beside, x"),
        (["--shape", "x=1,3,8"], "doesn't fit input 'x'"),
    ],
)
def test_bad_inputs(words: list[str], says: str, tmp_path: Path, capsys: Any) -> None:
    onnx.save(_two("N"), tmp_path / "two.onnx")
    given = ["serve", str(tmp_path / "two.onnx"), "--port", "0", "--grpc-port", "off"]
    assert run([*given, *words]) == 2
    said = capsys.readouterr()
    lines = [line for line in said.err.splitlines() if not line.startswith("{")]
    assert says in "".join(lines) and len(lines) == 1 and not said.out
