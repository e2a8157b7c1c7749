"""Superpixels: numbered, cut from the picture, or read from files."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from backlight.engine.masked.superpixels import as_superpixels, picture_of
from backlight.engine.photos.decoding import label_map
from backlight.export.preprocess import preset

RNG = np.random.default_rng(5)


@pytest.fixture
def photo():
    from backlight.engine.cli.options import PHOTOS

    return np.array(Image.open(PHOTOS / "coffee.jpg").convert("RGB").resize((120, 90)))


@pytest.mark.parametrize("how", ["slic:40", "slic", "quickshift", "felzenszwalb:200", "grid:4x5"])
def test_segments_are_numbered_from_0_without_gaps(photo, how):
    if not how.startswith("grid"):
        pytest.importorskip("skimage", reason="scikit-image is not installed")
    labels = as_superpixels(how).cut(photo)
    assert labels.shape == (90, 120) and labels.dtype == np.int32
    np.testing.assert_array_equal(np.unique(labels), np.arange(labels.max() + 1))
    assert 5 <= labels.max() < 400
    np.testing.assert_array_equal(labels, as_superpixels(how).cut(photo))


def test_segments_follow_the_picture_and_not_the_normalised_input(photo):
    """What is cut is the photo in pixels, told from the input by the preprocessing."""
    record = preset("imagenet-torch")
    tensor = (photo / 255 - record.mean) / record.std
    planes = tensor.transpose(2, 0, 1).astype(np.float32)
    assert np.abs(picture_of(planes, "nchw", record).astype(int) - photo).max() <= 1
    plain = picture_of(planes[:1], "nchw", None)
    assert plain.shape == photo.shape and plain.min() == 0 and plain.max() == 255
    assert picture_of(np.zeros((5, 4, 6)), "nchw", None).shape == (4, 6, 3)
    assert not picture_of(np.zeros((4, 6)), "nhw", None).any()


def test_maps_in_files(tmp_path):
    labels = RNG.integers(0, 5, (8, 8))
    Image.fromarray(labels.astype(np.uint8)).save(tmp_path / "grey.png")
    Image.fromarray((labels * 1000).astype(np.uint16)).save(tmp_path / "deep.png")
    colours = RNG.integers(0, 256, (5, 3)).astype(np.uint8)
    Image.fromarray(colours[labels]).save(tmp_path / "colours.png")
    for name in ("grey", "deep", "colours"):
        cut = as_superpixels(label_map(tmp_path / f"{name}.png")).cut(np.zeros((8, 8, 3), "u1"))
        for k in range(5):  # the same partition, whatever the numbers
            assert len(np.unique(cut[labels == k])) == 1
        assert cut.max() == 4
