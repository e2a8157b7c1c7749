"""Folders that name the classes of the photos in them."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from backlight.engine.photos import images
from backlight.engine.photos.folders import class_folders
from backlight.errors import ImageError

from .four_colours import COLORS, saved


def placed(*files: Path) -> None:
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4)).save(file)


def test_two_folders_and_nothing_beside_them_are_classes(tmp_path: Path) -> None:
    cat, dog = tmp_path / "cat" / "old" / "1.png", tmp_path / "dog" / "1.png"
    placed(cat, dog)
    assert class_folders([tmp_path]) == {cat: "cat", dog: "dog"}
    # One alone, or a photo outside of them, says nothing of classes.
    assert class_folders([tmp_path / "cat"]) == {cat: None}
    assert class_folders([cat]) == {cat: None}
    placed(tmp_path / "loose.png")
    assert set(class_folders([tmp_path]).values()) == {None}


def test_a_photo_that_is_named_twice_is_one(tmp_path: Path) -> None:
    placed(tmp_path / "cat" / "1.png", tmp_path / "dog" / "1.png")
    found = class_folders([tmp_path, tmp_path / "cat" / "1.png"])
    assert found[tmp_path / "cat" / "1.png"] == "cat" and len(found) == 2


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
