"""Inputs besides the image on the command line: an .npy file, or a number."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

import backlight
from backlight.engine.cli import run

from ..models import parsed

RNG = np.random.default_rng(0)
W = {
    "w": RNG.standard_normal((4, 3, 3, 3)).astype(np.float32),
    "v": RNG.standard_normal((6, 5)).astype(np.float32),
}
TEXT = """<ir_version: 8, opset_import: ["": 18]>
two (float[N,3,8,6] x, KIND[ROWS] meta) => (float[N,5] y) {
    h = Conv<pads=[1,1,1,1]>(x, w)
    r = Relu(h)
    p = GlobalAveragePool(r)
    f = Flatten(p)
    m = Cast<to=1>(meta)
    q = JOIN
    g = Concat<axis=1>(f, q)
    s = MatMul(g, v)
    y = Softmax(s)
}"""


def two(kind: str = "float", rows: str = "N,2") -> onnx.ModelProto:
    """An image and two numbers; of the numbers a row per image, or one for all."""
    join = "Identity(m)"
    if rows == "2":
        join = "Expand(m, shape)"
    text = TEXT.replace("KIND", kind).replace("ROWS", rows).replace("JOIN", join)
    if rows == "2":
        text = text.replace(
            "    q =",
            "    d = Shape<start=0, end=1>(x)\n    t = Constant<value_ints=[2]>()\n"
            "    shape = Concat<axis=0>(d, t)\n    q =",
        )
    return parsed(text, W)


@pytest.fixture
def photo(tmp_path: Path) -> str:
    file = tmp_path / "photo.png"
    noise = np.random.default_rng(0).integers(0, 255, (8, 6, 3), np.uint8)
    Image.fromarray(noise).save(file)
    return str(file)


def words(command: str, tmp_path: Path, photo: str, *more: str) -> list[str]:
    how = tmp_path / "how.json"
    how.write_text('{"preset": "unit", "crop": 1}')
    own = {"occlude": ["--window", "4"], "rise": ["--masks", "8", "--cells", "3"]}
    line = [command, "-m", f"{tmp_path}/two.onnx", photo, "-o", f"{tmp_path}/{command}"]
    return [*line, "--preprocess", str(how), "--target-class", "2", *own.get(command, []), *more]


@pytest.mark.parametrize("kind", ["float", "int64", "bool"])
@pytest.mark.parametrize("rows", ["N,2", "2"])
@pytest.mark.parametrize("form", ["number", "file", "file of one row"])
def test_a_second_input(rows: str, kind: str, form: str, tmp_path: Path, photo: str) -> None:
    onnx.save(two(kind, rows), tmp_path / "two.onnx")
    values = np.array([1, 1] if form == "number" else [1, 0])
    given = "meta=1"
    if form != "number":
        held = values[None] if form == "file of one row" and rows == "N,2" else values
        np.save(tmp_path / "meta.npy", held)
        given = f"meta={tmp_path}/meta.npy"
    for command in ("explain", "occlude", "rise"):
        assert run(words(command, tmp_path, photo, "--input", given)) == 0, command
    x = np.asarray(Image.open(photo), np.float32).transpose(2, 0, 1)[None] / 255
    dtype = {"float": np.float32, "int64": np.int64, "bool": np.bool_}[kind]
    meta = (values[None] if rows == "N,2" else values).astype(dtype)
    explain = backlight.Explainer(two(kind, rows), rules=("vanilla",))
    want = explain({"x": x, "meta": meta}, 2).saliency["vanilla"][0]
    got = np.load(tmp_path / "explain/photo-vanilla.npy")
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-7)
    occlude = backlight.Occlusion(two(kind, rows), window=4, stride=8)
    heat = occlude({"x": x, "meta": meta}, 2)[0]
    np.testing.assert_allclose(np.load(tmp_path / "occlude/photo.npy"), heat, atol=1e-6)


@pytest.mark.parametrize("command", ["explain", "occlude", "rise"])
@pytest.mark.parametrize(
    ("given", "says"),
    [
        ([], "--input meta=FILE.npy"),
        (["meta"], "expected NAME=FILE.npy"),
        (["other=1"], "no such input; the model has meta"),
        (["meta=1", "meta=2"], "twice"),
        (["meta=none.npy"], "no such file"),
        (["meta=BAD"], "shaped [1, 3]; expected tensor(float) [?,2]"),
    ],
)
def test_what_is_refused(
    command: str,
    given: list[str],
    says: str,
    tmp_path: Path,
    photo: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    onnx.save(two(), tmp_path / "two.onnx")
    np.save(tmp_path / "bad.npy", np.zeros((1, 3), np.float32))
    more = [w for g in given for w in ("--input", g.replace("BAD", f"{tmp_path}/bad.npy"))]
    assert run(words(command, tmp_path, photo, *more)) == 2
    error = capsys.readouterr().err
    assert says in error and len(error.strip().splitlines()) == 1
    assert not (tmp_path / command).exists()
