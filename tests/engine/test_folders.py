"""Folders that name the classes of the photos in them."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from backlight.engine.photos.folders import class_folders


def saved(*files: Path) -> None:
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4)).save(file)


def test_two_folders_and_nothing_beside_them_are_classes(tmp_path: Path) -> None:
    cat, dog = tmp_path / "cat" / "old" / "1.png", tmp_path / "dog" / "1.png"
    saved(cat, dog)
    assert class_folders([tmp_path]) == {cat: "cat", dog: "dog"}
    # One alone, or a photo outside of them, says nothing of classes.
    assert class_folders([tmp_path / "cat"]) == {cat: None}
    assert class_folders([cat]) == {cat: None}
    saved(tmp_path / "loose.png")
    assert set(class_folders([tmp_path]).values()) == {None}


def test_a_photo_that_is_named_twice_is_one(tmp_path: Path) -> None:
    saved(tmp_path / "cat" / "1.png", tmp_path / "dog" / "1.png")
    found = class_folders([tmp_path, tmp_path / "cat" / "1.png"])
    assert found[tmp_path / "cat" / "1.png"] == "cat" and len(found) == 2
