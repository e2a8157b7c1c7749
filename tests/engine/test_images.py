"""Image files of every kind, and what preprocessing makes of them."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from backlight.engine.photos import images
from backlight.engine.photos.images import InputSpec
from backlight.errors import ImageError, UsageError
from backlight.export.preprocess import PRESETS, Preprocess, from_json, parse

COLORS = np.array([[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [250, 240, 10]]], np.uint8)
SPEC = InputSpec("x", np.dtype(np.float32), "nchw", 3, (2, 2), None)


def saved(tmp_path: Path, image: Image.Image, name: str = "a.png", **how: object) -> Path:
    image.save(tmp_path / name, **how)
    return tmp_path / name


def test_plain(tmp_path):
    np.testing.assert_array_equal(images.decode(saved(tmp_path, Image.fromarray(COLORS))), COLORS)


def test_exif_rotation_is_honoured(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise
    path = saved(tmp_path, Image.fromarray(COLORS), "a.png", exif=exif)
    np.testing.assert_array_equal(images.decode(path), np.rot90(COLORS, -1))


@pytest.mark.parametrize("mode", ["L", "P", "1", "LA", "RGBA", "CMYK", "YCbCr"])
def test_modes(tmp_path, mode):
    image = Image.fromarray(COLORS).convert(mode)
    suffix = "jpg" if mode in ("CMYK", "YCbCr") else "png"
    path = (
        saved(tmp_path, image, f"a.{suffix}", quality=100, subsampling=0)
        if (suffix == "jpg")
        else saved(tmp_path, image)
    )
    found = images.decode(path)
    assert found.shape == (2, 2, 3) and found.dtype == np.uint8
    want = np.asarray(image.convert("RGB"), int)
    assert np.abs(found.astype(int) - want).max() <= (60 if suffix == "jpg" else 0)


def test_transparency_lies_over_white(tmp_path):
    clear = np.dstack([COLORS, np.array([[0, 255], [255, 0]], np.uint8)])
    found = images.decode(saved(tmp_path, Image.fromarray(clear, "RGBA")))
    np.testing.assert_array_equal(found[0, 0], [255, 255, 255])
    np.testing.assert_array_equal(found[0, 1], COLORS[0, 1])
    palette = Image.fromarray(COLORS).convert("P", palette=Image.Palette.ADAPTIVE)
    index = int(np.asarray(palette)[0, 0])
    found = images.decode(saved(tmp_path, palette, "p.png", transparency=index))
    np.testing.assert_array_equal(found[0, 0], [255, 255, 255])


def test_sixteen_bits_become_eight(tmp_path):
    deep = np.array([[0, 257 * 128], [65535, 257 * 7]], np.uint16)
    found = images.decode(saved(tmp_path, Image.fromarray(deep)))
    np.testing.assert_array_equal(found[..., 0], [[0, 128], [255, 7]])
    floats = Image.fromarray(np.array([[0, 0.5], [1, 0.25]], np.float32))
    found = images.decode(saved(tmp_path, floats, "a.tiff"))
    np.testing.assert_array_equal(found[..., 1], [[0, 128], [255, 64]])


def test_values_out_of_range(tmp_path):
    floats = Image.fromarray(np.array([[0, np.nan]], np.float32))
    with pytest.raises(ImageError, match="nan"):
        images.decode(saved(tmp_path, floats, "a.tiff"))


def test_the_first_frame_of_an_animation(tmp_path):
    first, second = Image.fromarray(COLORS), Image.fromarray(255 - COLORS)
    path = saved(tmp_path, first, "a.webp", save_all=True, append_images=[second], lossless=True)
    np.testing.assert_array_equal(images.decode(path), COLORS)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "TIFF", "WEBP"])
def test_truncated(tmp_path, kind):
    rng = np.random.default_rng(0)
    buffer = io.BytesIO()
    Image.fromarray(rng.integers(0, 255, (40, 40, 3), np.uint8)).save(buffer, kind)
    data = buffer.getvalue()
    path = tmp_path / "cut.img"
    for cut in (len(data) // 2, 10):
        path.write_bytes(data[:cut])
        with pytest.raises(ImageError, match=r"cut\.img") as caught:
            images.decode(path)
        assert "\n" not in str(caught.value)


def test_empty_missing_and_no_image(tmp_path):
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.png").write_text("hello")
    for name, says in (("empty.png", "empty"), ("text.png", "not an image"), ("no.png", "no such")):
        with pytest.raises(ImageError, match=says):
            images.decode(tmp_path / name)


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


def test_bombs_are_refused(tmp_path, monkeypatch):
    path = saved(tmp_path, Image.new("RGB", (100, 100)))
    for limit in (9_999, 100):  # Pillow warns at the first, raises at the second
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        with pytest.raises(ImageError, match=str(limit)):
            images.decode(path)


@settings(max_examples=100, deadline=None)
@given(
    st.binary(max_size=300),
    st.sampled_from([b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF89a"]),
)
def test_any_bytes_are_an_image_or_an_image_error(tmp_path_factory, data, start):
    path = tmp_path_factory.mktemp("fuzz") / "a.img"
    path.write_bytes(start + data)
    try:
        assert images.decode(path).ndim == 3
    except ImageError as err:
        assert "\n" not in str(err)


def test_folders(tmp_path):
    (tmp_path / "sub").mkdir()
    one = saved(tmp_path, Image.fromarray(COLORS), "b.png")
    two = saved(tmp_path / "sub", Image.fromarray(COLORS), "a.JPG", format="png")
    (tmp_path / "notes.txt").write_text("no image")
    assert images.image_files([tmp_path]) == [one, two]
    assert images.image_files([one, tmp_path]) == [one, two]
    (tmp_path / "none").mkdir()
    with pytest.raises(ImageError, match="without images"):
        images.image_files([tmp_path / "none"])
    with pytest.raises(ImageError, match="no such file"):
        images.image_files([tmp_path / "absent.png"])


def test_links_are_followed(tmp_path):
    """A folder of classes is often made of links; a link may lead nowhere, or round in a circle."""
    (tmp_path / "elsewhere").mkdir()
    saved(tmp_path / "elsewhere", Image.fromarray(COLORS), "a.png")
    photos = tmp_path / "photos"
    (photos / "folder.png").mkdir(parents=True)
    (photos / "linked").symlink_to(tmp_path / "elsewhere")
    (photos / "round").symlink_to(photos)
    (photos / "self.png").symlink_to(photos / "self.png")
    (photos / "gone.png").symlink_to(tmp_path / "gone.png")
    (photos / "one.png").symlink_to(tmp_path / "elsewhere" / "a.png")
    found = images.image_files([photos])
    names = ["gone.png", "linked/a.png", "one.png", "self.png"]
    assert found == [photos / name for name in names]
    with pytest.raises(ImageError, match="gone.png: no such file"):
        images.decode(found[0])
    with pytest.raises(ImageError, match=r"self.png: can't be read"):
        images.decode(found[3])
    np.testing.assert_array_equal(images.decode(found[1]), COLORS)


def test_a_folder_that_cannot_be_listed_is_not_passed_over(tmp_path, monkeypatch):
    (tmp_path / "closed").mkdir()
    one = saved(tmp_path, Image.fromarray(COLORS), "b.png")
    for name in ("scandir", "listdir"):
        listed = getattr(os, name)

        def refuse(path, listed=listed):
            if Path(path).name == "closed":
                raise PermissionError(13, "Permission denied")
            return listed(path)

        monkeypatch.setattr(os, name, refuse)
    assert images.image_files([tmp_path]) == [one, tmp_path / "closed"]
    with pytest.raises(ImageError, match="closed: can't be read: Permission denied"):
        images.decode(tmp_path / "closed")


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
