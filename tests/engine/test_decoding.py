"""One image file to pixels: turned, in RGB, in 8 bits, or an error in a line."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from backlight.engine.photos import images
from backlight.errors import ImageError

from .four_colours import COLORS, saved


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
