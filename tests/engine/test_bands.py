"""Images of any number of bands: .npy files and multi-band TIFF, hostile ones too."""

from __future__ import annotations

import io
import json
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

import backlight
from backlight.engine.cli import run
from backlight.engine.photos import bands, images, room
from backlight.errors import ImageError, UsageError
from backlight.export.preprocess import PRESETS, Preprocess

from ..models import parsed
from .tiffs import written


def net(depth: int) -> onnx.ModelProto:
    rng = np.random.default_rng(depth)
    return parsed(
        f"""<ir_version: 8, opset_import: ["": 18]>
net (float[N,{depth},16,16] x) => (float[N,4] y) {{
    c = Conv<pads=[1,1,1,1]>(x, w)
    h = Relu(c)
    p = GlobalAveragePool(h)
    f = Flatten(p)
    s = MatMul(f, v)
    y = Softmax(s)
}}""",
        {
            "w": rng.standard_normal((6, depth, 3, 3)).astype(np.float32),
            "v": rng.standard_normal((6, 4)).astype(np.float32),
        },
    )


def scene(depth: int, dtype: str = "uint16") -> np.ndarray:
    values = np.random.default_rng(depth).integers(0, 250, (16, 16, depth))
    scale = {"float32": 1 / 250, "uint16": 40, "uint8": 1}[dtype]
    return (values * scale).astype(dtype)


def spec(depth: int, layout: str = "nchw") -> images.InputSpec:
    return images.InputSpec("x", np.dtype(np.float32), layout, depth, (16, 16), None)


RECORD = images.fitted(Preprocess(size=(16, 16), crop=1.0), spec(13))


@pytest.mark.parametrize("depth", [1, 2, 4, 13])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("form", ["HWC", "CHW", "Fortran", "big-endian", "tiff", "tiff planes"])
def test_what_the_model_is_fed(depth: int, dtype: str, form: str, tmp_path: Path) -> None:
    values = scene(depth, dtype)
    file = tmp_path / ("a.tif" if "tiff" in form else "a.npy")
    if "tiff" in form:
        if depth == 1:
            pytest.skip("a grey TIFF is a photo")
        file.write_bytes(written(values, planar="planes" in form, floats=dtype == "float32"))
    else:
        held = values.transpose(2, 0, 1) if form == "CHW" else values
        held = np.asfortranarray(held) if form == "Fortran" else held
        np.save(file, held.astype(held.dtype.newbyteorder(">")) if "big" in form else held)
    mean, std = tuple(np.arange(depth) + 0.5), tuple(np.arange(depth) + 2.0)
    record = Preprocess(scale=0.5, mean=mean, std=std, size=(16, 16), crop=1.0)
    seen = images.read(file, images.fitted(record, spec(depth)), spec(depth))
    want = (values.astype(np.float64) * 0.5 - mean) / std
    if depth == 1 and dtype == "uint8":
        assert images.fitted(record, spec(1)).color == "L"
    np.testing.assert_allclose(seen.tensor, want.transpose(2, 0, 1), rtol=1e-5, atol=1e-5)
    assert seen.pixels.shape == (16, 16, 3) and seen.pixels.dtype == np.uint8


def test_bytes_of_an_array_are_a_photo(tmp_path: Path) -> None:
    """The same pixels as a PNG and as an array are the same to a model of photos."""
    pixels = np.random.default_rng(0).integers(0, 256, (40, 30, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    np.save(tmp_path / "a.npy", pixels)
    np.save(tmp_path / "b.npy", pixels.transpose(2, 0, 1))
    np.save(tmp_path / "c.npy", pixels.astype(np.uint16) * 257)
    for color in ("RGB", "BGR"):
        record = Preprocess(color=color, scale=1 / 255, size=(16, 16))
        want = images.read(tmp_path / "a.png", record, spec(3))
        for name, near in (("a", 0), ("b", 0), ("c", 6)):  # rounded but once
            got = images.read(tmp_path / f"{name}.npy", record, spec(3))
            np.testing.assert_allclose(got.tensor, want.tensor, rtol=0, atol=near / 255)
            np.testing.assert_allclose(got.pixels.astype(int), want.pixels, rtol=0, atol=near)


def test_what_is_shown(tmp_path: Path) -> None:
    values = scene(5, "uint8")
    np.save(tmp_path / "a.npy", values)
    for shown in ((3, 2, 1), (5,), None):
        record = Preprocess(size=(16, 16), crop=1.0, bands=shown)
        seen = images.read(tmp_path / "a.npy", images.fitted(record, spec(5)), spec(5)).pixels
        picked = [b - 1 for b in shown or (1, 2, 3)]
        np.testing.assert_array_equal(seen, np.broadcast_to(values[..., picked], (16, 16, 3)))
    stretched = bands.in_colours(np.arange(300.0).reshape(10, 30, 1), None, True)
    assert stretched.min() == 0 and stretched.max() == 255
    assert (bands.in_colours(np.full((4, 4, 2), 9.0), None, True) == 128).all()
    with pytest.raises(UsageError, match="band 6"):
        images.fitted(Preprocess(bands=(6,)), spec(5))


@pytest.mark.parametrize("depth", [1, 2, 4, 13])
def test_commands(depth: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The commands over images, with nothing said: explained, and what is shown is said."""
    onnx.save(net(depth), tmp_path / "net.onnx")
    folder = tmp_path / "scenes"
    folder.mkdir()
    for number in range(3):
        np.save(folder / f"{number}.npy", scene(depth + number)[..., :depth])
    model, place = str(tmp_path / "net.onnx"), str(folder)
    words = {
        "explain": ["explain", place, "-m", model],
        "occlude": ["occlude", place, "-m", model, "--window", "8", "--stride", "8"],
        "rise": ["rise", place, "-m", model, "--masks", "8"],
        "activations": ["activations", model, place, "-l", "h", "--overlay"],
        "patches": ["patches", model, place, "-l", "h"],
        "deconvnet": ["deconvnet", model, place, "-l", "h", "-k", "1", "--limit", "1"],
        "invert": ["invert", model, place, "-l", "h", "--steps", "1"],
        "embed": ["embed", model, place],
    }
    for name, line in words.items():
        assert run([*line, "-o", str(tmp_path / name)]) == 0, capsys.readouterr().err
        said = capsys.readouterr().err
        assert ("--bands" in said) == (depth != 1), said
    vectors = str(tmp_path / "embed")
    near = ["neighbors", vectors, place, "-o", str(tmp_path / "near"), "-k", "1"]
    assert run(near) == 0 and (tmp_path / "near" / "0.png").exists()
    if depth == 4:
        record = json.loads((tmp_path / "explain" / "summary.json").read_text())["preprocess"]
        x = np.stack([np.load(folder / f"{n}.npy") for n in range(3)]).astype(np.float32)
        assert record["mean"] == [0.0] * 4
        want = backlight.Explainer(net(4), rules=("vanilla",))
        seen = want.load([folder / "0.npy"], Preprocess(size=(16, 16), crop=1.0))
        np.testing.assert_array_equal(seen[0], x[0].transpose(2, 0, 1))


def test_bands_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    onnx.save(net(4), tmp_path / "net.onnx")
    np.save(tmp_path / "a.npy", scene(4))
    line = ["explain", f"{tmp_path}/a.npy", "-m", f"{tmp_path}/net.onnx", "-o", f"{tmp_path}/o"]
    for given, says in (
        ("3,2", "three of them"), ("a", "three of them"), ("0,1,2", "three of them"),
        ("5,2,1", "band 5"),
    ):  # fmt: skip
        assert run([*line, "--bands", given]) == 2
        error = capsys.readouterr().err
        assert says in error and len(error.strip().splitlines()) <= 2
    assert run([*line, "--bands", "3,2,1"]) == 0
    assert "are shown" not in capsys.readouterr().err
    summary = json.loads((tmp_path / "o" / "summary.json").read_text())
    assert summary["preprocess"]["bands"] == [3, 2, 1] and "bands 3, 2, 1" in str(summary)


def test_a_preprocessing_for_other_channels(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    onnx.save(net(4), tmp_path / "net.onnx")
    np.save(tmp_path / "a.npy", scene(4))
    line = ["explain", f"{tmp_path}/a.npy", "-m", f"{tmp_path}/net.onnx", "-o", f"{tmp_path}/o"]
    assert run([*line, "--preprocess", "imagenet-torch"]) == 2
    assert "3 numbers as its mean" in capsys.readouterr().err
    how = tmp_path / "how.json"
    how.write_text(json.dumps({"scale": 0.1, "mean": [1, 2, 3, 4], "std": 5, "crop": 1}))
    assert run([*line, "--preprocess", str(how)]) == 0
    for preset in ("unit", "tf", "none"):
        fitted = images.fitted(PRESETS[preset], spec(4))
        assert len(fitted.mean) == len(fitted.std) == 4


def test_a_folder_of_arrays(tmp_path: Path) -> None:
    """Beside pictures an array is something else's result; alone it is an image."""
    np.save(tmp_path / "a.npy", scene(3))
    assert [f.name for f in images.image_files([tmp_path])] == ["a.npy"]
    Image.new("RGB", (4, 4)).save(tmp_path / "b.png")
    assert [f.name for f in images.image_files([tmp_path])] == ["b.png"]
    assert images.image_files([tmp_path / "a.npy"])


def _huge(file: Path) -> None:
    buffer = io.BytesIO()
    np.save(buffer, np.zeros((3, 4, 4), np.float32))
    file.write_bytes(buffer.getvalue().replace(b"(3, 4, 4), }", b"(3,99999,9999),}"))


def _tags(**changed: int) -> Callable[[Path], None]:
    """A TIFF with one of its numbers changed."""
    places = {"width": 256, "height": 257, "bits": 258, "packed": 259, "bands": 277,
              "rows": 278, "predictor": 317}  # fmt: skip

    def write(file: Path) -> None:
        data = bytearray(written(scene(4)))
        at = struct.unpack_from("<I", data, 4)[0] + 2
        for _ in range(12):
            tag = struct.unpack_from("<H", data, at)[0]
            for name, value in changed.items():
                if tag == places[name]:
                    struct.pack_into("<II", data, at + 4, 1, value)
            at += 12
        file.write_bytes(bytes(data))

    return write


def _circle(file: Path) -> None:
    data = bytearray(written(scene(1)))
    first = struct.unpack_from("<I", data, 4)[0]
    struct.pack_into("<I", data, first + 2 + 12 * 12, first)
    file.write_bytes(bytes(data))


def _bomb(file: Path) -> None:
    import zlib

    data = written(np.zeros((16, 16, 4), np.uint16), deflate=True)
    file.write_bytes(data.replace(zlib.compress(bytes(2048)), zlib.compress(bytes(1 << 24))[:14]))


HOSTILE: dict[str, tuple[str, Callable[[Path], object]]] = {
    "objects": ("npy", lambda p: np.save(p, np.array([[{}]], object), allow_pickle=True)),
    "huge": ("npy", _huge),
    "cut": ("npy", lambda p: p.write_bytes(b"\x93NUMPY\x01\x00")),
    "empty": ("npy", lambda p: np.save(p, np.zeros((4, 0, 4)))),
    "flat": ("npy", lambda p: np.save(p, np.zeros(16))),
    "truth": ("npy", lambda p: np.save(p, np.zeros((4, 16, 16), bool))),
    "NaN": ("npy", lambda p: np.save(p, np.full((4, 16, 16), np.nan))),
    "too large": ("npy", lambda p: np.save(p, np.full((4, 16, 16), 1e300))),
    "other bands": ("npy", lambda p: np.save(p, scene(7))),
    "a photo": ("png", lambda p: Image.new("RGB", (9, 9)).save(p)),
    "wide": ("tif", _tags(width=1 << 31)),
    "no bands": ("tif", _tags(bands=0)),
    "many bands": ("tif", _tags(bands=1 << 30)),
    "12 bits": ("tif", _tags(bits=12)),
    "JPEG inside": ("tif", _tags(packed=7)),
    "not packed so": ("tif", _tags(packed=8)),
    "LZW": ("tif", _tags(packed=5)),
    "predictor": ("tif", _tags(predictor=9)),
    "no rows": ("tif", _tags(rows=0)),
    "circle": ("tif", _circle),
    "bomb": ("tif", _bomb),
    "words": ("tif", lambda p: p.write_bytes(b"II*\0nothing of the kind")),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_file(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    onnx.save(net(4), tmp_path / "net.onnx")
    ending, write = HOSTILE[kind]
    file = tmp_path / f"bad.{ending}"
    write(file)
    line = ["explain", str(file), "-m", f"{tmp_path}/net.onnx", "-o", f"{tmp_path}/o"]
    assert run([*line, "--preprocess", "none"]) == 2
    error = capsys.readouterr().err
    lines = error.strip().splitlines()
    assert len(lines) == 1 and str(file) in lines[0] and "Traceback" not in error
    assert not (tmp_path / "o").exists()


def test_an_array_is_held_to_the_pictures_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[int] = []
    held = room.DECODED.held
    monkeypatch.setattr(room.DECODED, "held", lambda size: (taken.append(size), held(size))[1])
    np.save(tmp_path / "a.npy", scene(13))
    images.read(tmp_path / "a.npy", RECORD, spec(13))
    (tmp_path / "b.tif").write_bytes(written(scene(13)))
    images.read(tmp_path / "b.tif", RECORD, spec(13))
    assert len(taken) == 2 and all(size >= scene(13).nbytes for size in taken)
    monkeypatch.setattr(bands, "BUDGET", 1000)
    for name in ("a.npy", "b.tif"):
        with pytest.raises(ImageError, match="at most 1000"):
            images.read(tmp_path / name, RECORD, spec(13))
