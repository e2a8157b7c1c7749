"""Image files of every kind, and what preprocessing makes of them."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from backlight.engine.photos import images
from backlight.engine.photos.images import InputSpec
from backlight.errors import ImageError, UsageError
from backlight.export.preprocess import PRESETS, Preprocess, from_json, parse

from .four_colours import COLORS, saved

SPEC = InputSpec("x", np.dtype(np.float32), "nchw", 3, (2, 2), None)


def test_bytes_are_read_as_files_are(tmp_path):
    """Pictures of an archive or a request: the same tensor, the same refusals, by their name."""
    record = images.fitted(PRESETS["unit"], SPEC)
    file = saved(tmp_path, Image.fromarray(COLORS))
    got = images.read_bytes(file.read_bytes(), "in.tar/a.png", record, SPEC)
    want = images.read(file, record, SPEC)
    np.testing.assert_array_equal(got.tensor, want.tensor)
    np.testing.assert_array_equal(got.pixels, want.pixels)
    broken = saved(tmp_path, Image.fromarray(COLORS.repeat(9, 0)), "b.jpg").read_bytes()[:-20]
    for data, says in (
        (b"", "empty"), (b"junk", "not an image"), (broken, "read"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "EPS is a program"),
    ):  # fmt: skip
        with pytest.raises(ImageError, match=rf"^in.tar/a.png: .*{says}"):
            images.read_bytes(data, "in.tar/a.png", record, SPEC)


def settled(preprocess: Preprocess, spec: InputSpec = SPEC) -> Preprocess:
    return images.fitted(preprocess, spec)


def test_presets_by_hand():
    """One white pixel and one of (10, 20, 30), in every preset."""
    pixels = np.array([[[255, 255, 255], [10, 20, 30]]], np.uint8)
    spec = InputSpec("x", np.dtype(np.float32), "nhwc", 3, (1, 2), None)
    wants = {
        "none": [10, 20, 30],
        "unit": np.array([10, 20, 30]) / 255,
        "tf": np.array([10, 20, 30]) / 127.5 - 1,
        "imagenet-caffe": [30 - 103.939, 20 - 116.779, 10 - 123.68],
        "imagenet-torch": (np.array([10, 20, 30]) / 255 - [0.485, 0.456, 0.406])
        / [0.229, 0.224, 0.225],
    }
    assert set(wants) == set(PRESETS)
    for name, want in wants.items():
        record = settled(PRESETS[name], spec)
        tensor = images.to_tensor(pixels, record, spec)
        np.testing.assert_allclose(tensor[0, 1], want, rtol=1e-5, atol=1e-5)  # float32
        np.testing.assert_array_equal(images.to_pixels(tensor, record, "nhwc"), pixels)


def test_layouts_and_integers():
    record = settled(PRESETS["none"])
    nchw = images.prepare(COLORS, Preprocess(crop=1.0, size=(2, 2)), SPEC)
    np.testing.assert_array_equal(nchw.tensor, COLORS.transpose(2, 0, 1))
    np.testing.assert_array_equal(nchw.pixels, COLORS)
    whole = InputSpec("x", np.dtype(np.uint8), "nhwc", 3, (2, 2), 1)
    np.testing.assert_array_equal(images.to_tensor(COLORS, record, whole), COLORS)
    grey = InputSpec("x", np.dtype(np.float32), "nchw", 1, (2, 2), None)
    tensor = images.to_tensor(COLORS, settled(PRESETS["unit"], grey), grey)
    np.testing.assert_allclose(tensor[0, 0, 0], 76 / 255, rtol=1e-6)  # ITU-R 601 luma of red


def test_crop_and_stretch():
    wide = np.zeros((10, 30, 3), np.uint8)
    wide[:, 10:20] = 255  # the middle third is white
    spec = InputSpec("x", np.dtype(np.float32), "nchw", 3, (10, 10), None)
    crop = images.prepare(wide, settled(Preprocess(crop=1.0, interpolation="nearest"), spec), spec)
    assert crop.pixels.min() == 255
    flat = Preprocess(resize="stretch", interpolation="nearest")
    stretched = images.prepare(wide, settled(flat, spec), spec).pixels[..., 0]
    assert 0.25 < (stretched > 127).mean() < 0.45


def test_sizes_that_contradict():
    with pytest.raises(UsageError, match="224x224.*'x'.*2x2"):
        settled(Preprocess(size=(224, 224)))
    loose = InputSpec("x", np.dtype(np.float32), "nchw", 3, (None, None), None)
    assert settled(Preprocess(), loose).size == (224, 224)
    assert settled(Preprocess(size=(5, 7)), loose).size == (5, 7)
    four = InputSpec("x", np.dtype(np.float32), "nchw", 4, (2, 2), None)
    with pytest.raises(UsageError, match="4 channels"):
        settled(PRESETS["imagenet-torch"], four)
    assert settled(Preprocess(), four).std == (1.0,) * 4


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "not JSON"),
        ("[1]", "expected an object"),
        ('{"preset": "caffe"}', "imagenet-caffe"),
        ('{"sise": 3}', "unknown key 'sise'.*size"),
        ('{"size": 0}', "size 0"),
        (f'{{"scale": 1{"0" * 400}}}', "scale"),  # larger than any float
        ('{"size": [1, 2, 3]}', "size"),
        ('{"std": 0}', "std"),
        ('{"mean": [1, 2]}', "mean"),
        ('{"scale": "big"}', "scale"),
        ('{"scale": NaN}', "scale"),
        ('{"color": "HSV"}', "RGB, BGR, L"),
        ('{"crop": 1.5}', "crop"),
    ],
)
def test_bad_records(tmp_path, text, says):
    file = tmp_path / "how.json"
    file.write_text(text)
    with pytest.raises(UsageError, match=says) as caught:
        parse(str(file))
    assert "how.json" in str(caught.value) and "\n" not in str(caught.value)


def test_records_travel_whole():
    for record in (*PRESETS.values(), Preprocess(size=(3, 4), color="L", mean=(1,), std=(2,))):
        assert from_json(record.to_json(), "here") == record
    made = from_json(json.dumps({"preset": "imagenet-caffe", "size": 227, "crop": 1}), "here")
    assert made.color == "BGR" and made.size == (227, 227)
    with pytest.raises(UsageError, match="neither a preset"):
        parse("torch")


def test_resizing_is_pillows_whoever_does_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the native module, without it, and where Pillow goes another way round."""
    values = np.random.default_rng(0).integers(0, 256, (90, 120, 3), np.uint8)
    for source, box in ((values, (3.5, 0, 100, 90)), (values.repeat(6, axis=0), None)):
        image = Image.fromarray(source)
        want = np.array(image.resize((56, 48), Image.Resampling.BICUBIC, box=box))
        np.testing.assert_array_equal(images.resized(source, (48, 56), "bicubic", box), want)
        with monkeypatch.context() as without:
            without.setattr(images, "resample", lambda *_: None)
            for given in (source, image):
                np.testing.assert_array_equal(images.resized(given, (48, 56), "bicubic", box), want)
