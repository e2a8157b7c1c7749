"""Inputs besides the image on the command line: an .npy file, or a number."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

import backlight
from backlight.engine.cli import run
from backlight.engine.photos.arrays import array_in

from ..models import parsed
from .nets import TWO, two


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


EVERY = {
    "activations": ["-l", "r"],
    "patches": ["-l", "r"],
    "deconvnet": ["-l", "r"],
    "invert": ["-l", "s", "--steps", "2"],
    "maximize": ["--target-class", "1", "--steps", "2"],
    "embed": ["-l", "s"],
    "bench": ["--runs", "1", "--batch", "1", "--method", "vanilla"],
}


def every(command: str, tmp_path: Path, photo: str, *more: str) -> list[str]:
    """A command on the two-input model; what it asks for needs the second input, where it can."""
    how = tmp_path / "how.json"
    how.write_text('{"preset": "unit", "crop": 1}')
    line = [command, f"{tmp_path}/two.onnx"]
    line += [] if command in ("maximize", "bench") else [photo]
    if command != "bench":
        line += ["-o", f"{tmp_path}/{command}", "--preprocess", str(how)]
    return [*line, *EVERY[command], *more]


@pytest.mark.parametrize("command", EVERY)
def test_every_command_takes_a_second_input(
    command: str, tmp_path: Path, photo: str, capsys: pytest.CaptureFixture[str]
) -> None:
    onnx.save(two(), tmp_path / "two.onnx")
    needed = command in ("invert", "maximize", "embed")
    if needed:
        assert run(every(command, tmp_path, photo)) == 2
        error = capsys.readouterr().err
        assert "--input meta=FILE.npy" in error and len(error.strip().splitlines()) == 1
    assert run(every(command, tmp_path, photo, "--input", "mata=1")) == 2
    assert "nearest: meta" in capsys.readouterr().err
    assert run(every(command, tmp_path, photo, "--input", "meta=1")) == 0, capsys.readouterr().err


def test_what_the_second_input_says_counts(tmp_path: Path, photo: str) -> None:
    """A layer behind both: its activations, embeddings and maxima follow from what was given."""
    from backlight.engine.inside.maximization import Maximizer
    from backlight.engine.inside.taps import Taps

    model, x = two(), np.random.default_rng(1).random((3, 3, 8, 6), np.float32)
    for meta in (0.0, 1.0, np.array([1, 0.5])):
        row = np.broadcast_to(np.asarray(meta, np.float32), (3, 2))
        want = backlight.Explainer(model, rules=("vanilla",))({"x": x, "meta": row}, 1)
        got = backlight.Explainer(model, rules=("vanilla",), inputs={"meta": meta})(x, 1)
        np.testing.assert_array_equal(got.saliency["vanilla"], want.saliency["vanilla"])
        np.testing.assert_allclose(Taps(model, ["y"], inputs={"meta": meta})(x)["y"], want.scores)
        vectors = backlight.Embedder(model, "s", inputs={"meta": meta})(x)
        shifted = np.exp(vectors - vectors.max(axis=1, keepdims=True))
        np.testing.assert_allclose(
            shifted / shifted.sum(axis=1, keepdims=True), want.scores, atol=1e-6
        )
        heat = backlight.Occlusion(model, window=4, stride=4)({"x": x, "meta": row}, 1)
        same = backlight.Occlusion(model, window=4, stride=4, inputs={"meta": meta})(x, 1)
        np.testing.assert_allclose(heat, same, atol=1e-7)
        made = Maximizer(model, steps=1, preprocess="unit", inputs={"meta": meta})([1])
        back = Taps(model, ["s"], inputs={"meta": meta})(made.images[:, 0])["s"][0, 1]
        np.testing.assert_allclose(made.values[0, 0], back, rtol=1e-5)


def test_a_given_input_is_not_the_image(tmp_path: Path, photo: str) -> None:
    """Of two inputs that look like images, the one that is given is fed; --wrt names the other."""
    text = """<ir_version: 8, opset_import: ["": 18]>
pair (float[N,3,8,6] left, float[N,3,8,6] right) => (float[N,5] y) {
    d = Sub(left, right)
    h = Conv<pads=[1,1,1,1]>(d, w)
    r = Relu(h)
    p = GlobalAveragePool(r)
    f = Flatten(p)
    y = MatMul(f, u)
}"""
    model = parsed(text, {"w": TWO["w"], "u": TWO["v"][:4]})
    onnx.save(model, tmp_path / "two.onnx")
    np.save(tmp_path / "l.npy", np.full((3, 8, 6), 0.25, np.float32))
    np.save(tmp_path / "r.npy", np.full((3, 8, 6), 0.75, np.float32))
    x = np.asarray(Image.open(photo), np.float32).transpose(2, 0, 1)[None] / 255
    for image, other, file in (("right", "left", "l"), ("left", "right", "r")):
        more = ["--input", f"{other}={tmp_path}/{file}.npy", "--force", "--wrt", image]
        assert run(words("explain", tmp_path, photo, *more)) == 0
        fixed = np.load(tmp_path / f"{file}.npy")[None]
        want = backlight.Explainer(model, rules=("vanilla",), wrt=image)(
            {image: x, other: fixed}, 2
        )
        got = np.load(tmp_path / "explain/photo-vanilla.npy")
        np.testing.assert_allclose(got, want.saliency["vanilla"][0], rtol=1e-5, atol=1e-7)


def test_neighbors_are_looked_up_with_what_the_store_was_fed(
    tmp_path: Path, photo: str, capsys: pytest.CaptureFixture[str]
) -> None:
    onnx.save(two(), tmp_path / "two.onnx")
    other = tmp_path / "other.png"
    Image.fromarray(np.random.default_rng(5).integers(0, 255, (8, 6, 3), np.uint8)).save(other)
    assert run([*every("embed", tmp_path, photo, "--input", "meta=1"), str(other)]) == 0
    look = ["neighbors", f"{tmp_path}/embed", photo, "-o", f"{tmp_path}/near"]
    for given in ([], ["--input", "meta=0"]):
        assert run([*look, *given]) == 2
        assert "with the same --input meta" in capsys.readouterr().err
    assert run([*look, "--input", "meta=1"]) == 0


HOSTILE = {
    "objects": lambda p: np.save(p, np.array([{}, {}], object), allow_pickle=True),
    "archive": lambda p: np.savez(p.open("wb"), a=np.zeros(2)),
    "words": lambda p: np.save(p, np.array(["a", "b"])),
    "complex": lambda p: np.save(p, np.zeros(2, np.complex64)),
    "cut short": lambda p: p.write_bytes(_npy(np.zeros(2, np.float32))[:-3]),
    "huge": lambda p: p.write_bytes(_npy(np.zeros(2)).replace(b"(2,), }", b"(999999999999,),}")),
    "header": lambda p: p.write_bytes(b"\x93NUMPY\x02\x00\xff\xff\xff\x7f" + b"{" * 1000),
    "deep": lambda p: p.write_bytes(b"\x93NUMPY\x01\x00\x00\x20" + b"[" * 8192),
    "NaN": lambda p: np.save(p, np.array([0, np.nan])),
    "empty": lambda p: p.write_bytes(b""),
}


def _npy(values: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, values)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_array(
    kind: str, tmp_path: Path, photo: str, capsys: pytest.CaptureFixture[str]
) -> None:
    onnx.save(two(), tmp_path / "two.onnx")
    HOSTILE[kind](tmp_path / "bad.npy")
    given = ["--input", f"meta={tmp_path}/bad.npy"]
    assert run(words("explain", tmp_path, photo, *given)) == 2
    error = capsys.readouterr().err
    assert "--input meta" in error and len(error.strip().splitlines()) == 1


@pytest.mark.parametrize("form", ["big-endian", "Fortran", "float16", "int8"])
def test_arrays_of_every_form(form: str, tmp_path: Path) -> None:
    values = np.arange(-6, 6).reshape(3, 4)
    held = {
        "big-endian": values.astype(">f4"),
        "Fortran": np.asfortranarray(values.astype(np.float64)),
        "float16": values.astype(np.float16),
        "int8": values.astype(np.int8),
    }[form]
    np.save(tmp_path / "a.npy", held)
    got = array_in(tmp_path / "a.npy")
    np.testing.assert_array_equal(got, values)
    assert got.flags.c_contiguous and got.dtype.isnative
