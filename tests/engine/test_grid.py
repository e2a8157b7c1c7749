"""Grids of tiles with headings and labels."""

from __future__ import annotations

import numpy as np
import pytest

from backlight.engine.pictures import grid
from backlight.engine.pictures.fonts import Face, font

LAYER = "/backbone/features/stage_1/block_2/relu/Relu_output_0"


@pytest.mark.parametrize("label", [LAYER, "a" * 10_000, "fire2", ""])
def test_a_label_keeps_its_figure(label: str):
    face = font(13)
    shown = grid.Tile(None, label, ": error 0.0123").fitted(face, 227)
    assert shown.endswith(": error 0.0123") and face.getlength(shown) <= 227
    if label == LAYER:  # of a layer's name the end says most
        assert shown.startswith("/") and "Relu_output_0: error" in shown and "…" in shown
    if label == "fire2":
        assert shown == "fire2: error 0.0123"


class TestCommonParts:
    def test_a_long_heading_takes_more_lines(self, monkeypatch: pytest.MonkeyPatch) -> None:
        written: list[str] = []
        write = Face.write
        monkeypatch.setattr(
            Face,
            "write",
            lambda self, draw, at, text, ink: [
                written.append(text), write(self, draw, at, text, ink)
            ],
        )  # fmt: skip
        tile = grid.Tile(np.zeros((8, 8, 3), np.uint8))
        heading = "DeconvNet reconstructions of bn_1/FusedBatchNormV3:0 in open-nsfw"
        small = grid.sheet("DeconvNet", ["one"], [grid.Row([tile])], 64)
        large = grid.sheet(heading, ["one"], [grid.Row([tile])], 64)
        assert large.height > small.height
        assert " ".join(written[2:]).startswith(heading)
        written.clear()
        grid.sheet("x" * 400, ["one"], [grid.Row([tile])], 64)
        assert written[0].endswith("…")
