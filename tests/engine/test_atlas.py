"""The picture of a map: dots, thumbnails and names where the points are."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from backlight.engine.pictures.fonts import Face
from backlight.engine.similar import atlas
from backlight.engine.similar.atlas import Colors, scatter, thumbnails


class TestPictures:
    def test_dots_are_where_the_points_are(self) -> None:
        points = np.array([[0.0, 0.0], [10.0, 0.0], [10.0, 10.0]])
        picture = np.asarray(scatter(points, [None] * 3, "three", "points"))
        coloured = (picture.astype(int) - picture.min(axis=2, keepdims=True)).max(axis=2) > 60
        ys, xs = np.nonzero(coloured)
        # The lower left, the lower right and the upper right corner of the plot.
        for x, y in ((xs.min(), ys.max()), (xs.max(), ys.max()), (xs.max(), ys.min())):
            assert coloured[max(y - 12, 0) : y + 12, max(x - 12, 0) : x + 12].any()
        assert not coloured[: ys.min() + 12, : xs.max() - 20].any()

    def test_a_name_does_not_hide_what_it_names(self) -> None:
        """A few points close together: the name is below them."""
        points = np.array([[0.0, 0.0], [0.02, 0.0], [10.0, 0.0], [10.02, 0.0]])
        picture = np.asarray(scatter(points, ["left name"] * 2 + ["right name"] * 2, "", ""), int)
        for color in Colors(["left name", "right name"]).values():
            seen = np.abs(picture - color).max(axis=2) < 40
            seen[:, 900 + 24 :] = False  # the legend
            assert seen.sum() > 0.7 * np.pi * 5.5**2

    def test_names_do_not_overlap(self) -> None:
        """Not at the lower edge either, where there is no room below."""
        count = 12
        points = np.array([[5.0, 0.01 * i] for i in range(count)] + [[0.0, 9.0], [9.0, 9.0]])
        labels = [f"name {i}" for i in range(count)] + ["a", "b"]
        plot = Image.new("RGB", (900, 900))
        taken: list[tuple[float, float]] = []
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Face, "write", lambda _, draw, at, text, ink, **more: taken.append(at))
            placed, _ = atlas._fitted(points, 900, 24)
            atlas._names(plot, placed, labels, Colors(labels), 5.0)
        tops = sorted(top for left, top in taken if 300 < left < 600)
        assert len(tops) == count and np.diff(tops).min() >= 18
        assert tops[0] > 0 and tops[-1] <= 900 - 22

    def test_a_file_that_is_gone_has_the_stored_pixels(self, tmp_path: Path) -> None:
        red = np.zeros((8, 8, 3), np.uint8)
        red[..., 0] = 255
        gone = str(tmp_path / "gone.png")
        stored, grey = thumbnails([gone, gone], 16, lambda i: red if i == 0 else None)
        assert (stored == (255, 0, 0)).all()
        assert (grey == 200).all()


def test_a_scatter_without_labels_names_the_files(monkeypatch):
    written: list[str] = []
    monkeypatch.setattr(
        atlas, "font", lambda size: SimpleNamespace(
            getlength=lambda text: 7.0 * len(text),
            write=lambda draw, at, text, ink, **_: written.append(text),
        ),
    )  # fmt: skip
    points = np.random.default_rng(0).normal(size=(12, 2))
    files = [f"/a/photo-{i}.png" for i in range(12)]
    atlas.scatter(points, [None] * 12, "h", "d", None, files)
    assert {f"photo-{i}" for i in range(12)} <= set(written)
    written.clear()
    atlas.scatter(points, ["a", "b"] * 6, "h", "d", None, files)
    assert not any(text.startswith("photo") for text in written)
    written.clear()
    many = np.random.default_rng(0).normal(size=(101, 2))
    atlas.scatter(many, [None] * 101, "h", "d", None, [f"{i}.png" for i in range(101)])
    assert " ".join(written) == "h d; which file is where: map.json"
