"""Ways to cut what the seeds begin: GrabCut, random walks."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest

from backlight.engine.masked.cutting import cutter_for, largest
from backlight.errors import UsageError

from .coloured import LIBRARIES, coloured, disc, overlap


class TestCuts:
    def test_colours_decide_what_seeds_leave_open(self, way: str) -> None:
        want = disc(64, 30, 34, 17)
        seeds = np.where(disc(64, 30, 34, 4), 1, 0).astype(np.int8)
        seeds[[0, -1]] = seeds[:, [0, -1]] = -1
        cut = cutter_for(way, 5, 0)
        found = cut(coloured(want), seeds)
        assert found.dtype == bool and overlap(found, want) > 0.97
        np.testing.assert_array_equal(cut(coloured(want), seeds), found)  # and once more

    def test_the_largest_part_is_kept(self, way: str) -> None:
        large, small = disc(64, 20, 20, 13), disc(64, 50, 50, 7)
        seeds = np.where(disc(64, 20, 20, 3) | disc(64, 50, 50, 2), 1, 0).astype(np.int8)
        seeds[[0, -1]] = seeds[:, [0, -1]] = -1
        found = cutter_for(way, 5, 0)(coloured(large | small), seeds)
        assert overlap(found, large) > 0.95 and not (found & small).any()

    def test_nothing_but_the_object(self, way: str) -> None:
        seeds = np.ones((8, 8), np.int8)
        assert cutter_for(way, 1, 0)(coloured(seeds > 0), seeds).all()

    def test_the_largest_label(self) -> None:
        found = largest(np.array([[0, 0, 0], [1, 1, 2], [0, 3, 3]]))
        np.testing.assert_array_equal(found, [[0, 0, 0], [1, 1, 0], [0, 0, 0]])
        assert not largest(np.zeros((2, 2), int)).any()

    @pytest.mark.parametrize(("name", "extra"), [("grabcut", "grabcut"),
                                                 ("random-walker", "segments")])  # fmt: skip
    def test_a_library_that_is_missing_is_named(self, name: str, extra: str, monkeypatch: Any):
        monkeypatch.setitem(sys.modules, LIBRARIES[name], None)
        with pytest.raises(UsageError, match=rf"pip install 'backlight\[{extra}\]'"):
            cutter_for(name, 5, 0)

    def test_auto_takes_what_is_there(self, monkeypatch: Any) -> None:
        pytest.importorskip("skimage")
        monkeypatch.setitem(sys.modules, "cv2", None)
        assert cutter_for("auto", 5, 0).name == "random-walker"
        monkeypatch.setitem(sys.modules, "skimage", None)
        with pytest.raises(UsageError, match=r"OpenCV.*grabcut.*scikit-image.*segments"):
            cutter_for("auto", 5, 0)
