"""What the parts of looking inside have in common: arguments, names, headings, pages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import backlight
from backlight.engine.inside.taps import Taps
from backlight.errors import ImageError, UsageError


class TestCommonParts:
    def test_nothing_to_show_is_said(self, model: Path, photo: Path) -> None:
        held = backlight.filters(model)
        one = backlight.activations(model, photo, "r", preprocess="unit")
        top = backlight.patches(model, photo, "r", preprocess="unit", k=2)
        for picture in (
            lambda: held.picture(limit=0),
            lambda: held.picture([]),
            lambda: one.picture(limit=0),
            lambda: one.picture([]),
            lambda: top.picture("r", limit=0),
            lambda: top.picture("r", []),
            lambda: backlight.patches(model, photo, "r", preprocess="unit", channels=[]),
        ):
            with pytest.raises(UsageError, match="expected a limit|expected 1 or more|given"):
                picture()

    @pytest.mark.parametrize(
        "image",
        [
            np.zeros((9, 9), np.uint8),
            np.zeros((9, 9, 4), np.uint8),
            np.zeros((0, 9, 3), np.uint8),
            np.zeros((), np.float32),
            np.zeros((3, 8, 8), np.float32),
            np.zeros((2, 3, 8, 8), np.float32),
        ],
        ids=lambda x: str(x.shape),
    )
    def test_arrays_that_are_no_image(self, model: Path, image: Any) -> None:
        with pytest.raises(ImageError, match="expected one image: pixels"):
            backlight.activations(model, image, "r", preprocess="unit")

    def test_nothing_given_is_said(self, model: Path, photo: Path) -> None:
        options: dict[str, Any] = {"preprocess": "unit"}
        with pytest.raises(UsageError, match="no layer given"):
            backlight.patches(model, photo, [], **options)
        with pytest.raises(UsageError, match="no layer given"):
            Taps(model, [])
        with pytest.raises(ImageError, match="no image"):
            backlight.invert(model, [], "r", **options)
        with pytest.raises(UsageError, match="no class or channel"):
            backlight.maximize(model, [], **options)
        one = backlight.maximize(model, np.int64(1), steps=1, **options)  # type: ignore[arg-type]
        assert one.channels.tolist() == [1]
