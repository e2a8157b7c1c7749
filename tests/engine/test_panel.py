"""Panels: a photo beside its maps, and what is written on them."""

from __future__ import annotations

import numpy as np
import pytest

from backlight.engine.pictures import panel
from backlight.engine.pictures.fonts import font
from backlight.engine.pictures.panel import shortened, wrapped

LAYER = "/backbone/features/stage_1/block_2/relu/Relu_output_0"


@pytest.mark.parametrize("width", range(0, 300, 7))
def test_a_text_cut_inside_fits_or_is_an_ellipsis(width: int):
    face = font(13)
    shown = panel.shortened_inside(LAYER, face, width)
    assert face.getlength(shown) <= width or shown == "…"
    longer = panel.shortened_inside(LAYER, face, width + 40)
    assert len(longer) >= len(shown)


def test_an_empty_map_is_words():
    for rule, layout in (("vanilla", "nchw"), ("guided", "nchw"), ("guided", "nhwc")):
        shape = (3, 60, 90) if layout == "nchw" else (60, 90, 3)
        empty = panel.saliency_picture(rule, np.zeros(shape, np.float32), layout, "RGB")
        assert np.percentile(empty, 50) == panel.BLANK[0] and empty.min() < 60
        assert empty.shape[1] == 270  # enlarged, as the others are
        assert "all 0" in panel.caption_of(rule, layout, blank=True)
        some = np.zeros(shape, np.float32)
        some.flat[0] = 1e-30
        assert not np.array_equal(panel.saliency_picture(rule, some, layout, "RGB"), empty)


def test_a_question_takes_a_second_line_in_place_of_an_ellipsis():
    """Of one map the panel is narrow; the question is what the picture answers."""
    cells = [panel.Cell(np.zeros((227, 227, 3), np.uint8), "gradcam", "")]
    short = panel.panel("why espresso?", "", cells)
    long = panel.panel("why espresso (967), rather than tiger cat (282)?", "", cells)
    assert (long.width, long.height) == (short.width, short.height + 26)
    assert panel.panel("w" * 10_000, "", cells).height == short.height


def test_a_panel_in_rows() -> None:
    """Cells of a column are below each other, and a row is as tall as its tallest."""
    colours = [(200, 0, 0), (0, 200, 0), (0, 0, 200), (90, 90, 0), (0, 90, 90)]
    cells = [
        panel.Cell(np.full((240 + 20 * at, 230, 3), colour, np.uint8), "", "")
        for at, colour in enumerate(colours)
    ]
    line = np.asarray(panel.panel("five", "", cells))
    rows = np.asarray(panel.panel("five", "", cells, 2))
    assert line.shape[1] > 2 * rows.shape[1]
    for at, colour in enumerate(colours):
        ys, xs = np.nonzero((rows == colour).all(2))
        assert (np.ptp(ys) + 1, np.ptp(xs) + 1) == cells[at].pixels.shape[:2]
        assert xs.min() == panel.MARGIN + at % 2 * (230 + panel.MARGIN)
        if at:
            before = np.nonzero((rows == colours[at - 1]).all(2))[0]
            assert ys.min() == before.min() if at % 2 else ys.min() > before.max()


def test_a_name_without_spaces_stays_within_its_column() -> None:
    """A layer's, in a caption: the columns beside it are as blank as ever."""
    pixels = np.full((240, 230, 3), 200, np.uint8)
    name = "/features/stage4/block11/depthwise_separable_conv/conv_pw/LeakyRelu_output_0"
    made = np.asarray(
        panel.panel("p", "", [panel.Cell(pixels, "cam", f"red: for it, at {name}")] * 2)
    )
    ends = [panel.MARGIN + 230, 2 * panel.MARGIN + 2 * 230]
    below = made[panel.MARGIN + 300 :]
    assert (below != 255).any()
    for end in ends:
        assert (below[:, end : end + panel.MARGIN // 2] == 255).all()


def test_a_long_label_is_cut_by_halving(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is cut is what cutting letter by letter gives, in few measurements."""
    face = font(13)
    rng = np.random.default_rng(0)
    for width in (0, 1, 5, 40, 200, 900):
        for length in (0, 1, 3, 20, 60, 200):
            for letters in ("iW. m", "abc é", "中文", "\u0301a"):
                text = "".join(rng.choice(list(letters), length))
                want = text
                if face.getlength(text) > width:
                    while want and face.getlength(want + "…") > width:
                        want = want[:-1]
                    want = want.rstrip() + "…"
                got = shortened(text, face, width)
                assert got == want or face.getlength(got) <= width, (text, width)
                assert "\u0301" in letters or got == want, (text, width)
    count = 0
    real = type(face).getlength

    def counted(self: object, text: str) -> float:
        nonlocal count
        count += len(text)
        return real(self, text)  # type: ignore[arg-type]

    monkeypatch.setattr(type(face), "getlength", counted)
    for text in ("W" * 100_000, "\u0301" * 100_000, "W " * 50_000):
        shortened(text, face, 200)
        wrapped(text, face, 200)
        lines = wrapped("word " * 100_000, face, 200)
        assert sum(map(len, lines)) <= 4000
    assert count < 2_000_000
