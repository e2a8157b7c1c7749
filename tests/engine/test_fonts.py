"""Letters on pictures: none of them a box."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from backlight.engine.pictures import fonts, grid
from backlight.engine.pictures.fonts import DEJAVU, _has, font


def drawn(text: str, size: int = 20) -> np.ndarray:
    picture = Image.new("L", (600, 60), 0)
    font(size).write(ImageDraw.Draw(picture), (5, 5), text, 255)
    return np.asarray(picture)


def box() -> np.ndarray:
    picture = Image.new("L", (600, 60), 0)
    face = fonts._inner(str(fonts.DEJAVU), 20 * fonts.SCALE)
    ImageDraw.Draw(picture).text(
        (5, 5 + font(20).own.getmetrics()[0]), "\uffff", 255, face, anchor="ls"
    )
    return np.asarray(picture)


def test_english_stays_in_pillows_own_font() -> None:
    picture = Image.new("L", (600, 60), 0)
    ImageDraw.Draw(picture).text((5, 5), "Top patches, 3 x 3: 0.5 …", 255, font(20).own)
    np.testing.assert_array_equal(drawn("Top patches, 3 x 3: 0.5 …"), np.asarray(picture))


@pytest.mark.parametrize("letter", "éßčžřąłñøŐΑωЖяЇ×–²→ẞ")
def test_letters_of_europe_come_along(letter: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fonts, "SYSTEM", ())
    fonts._runs.cache_clear()
    seen = drawn(letter)
    fonts._runs.cache_clear()
    assert seen.any()
    assert not np.array_equal(seen, box())


def test_letters_that_no_font_has_are_written_as_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fonts, "SYSTEM", ("no-such-font.ttf",))
    fonts._runs.cache_clear()
    pieces = fonts._runs("kočka 中\U0001f408")
    fonts._runs.cache_clear()
    assert "".join(text for _, text in pieces) == "kočka \\u4e2d\\U0001f408"


def test_a_letter_taken_apart_is_the_same() -> None:
    """macOS gives file names so."""
    np.testing.assert_array_equal(drawn("kočička"), drawn(unicodedata.normalize("NFD", "kočička")))


def test_the_length_is_what_is_written() -> None:
    for text in ("cat", "kočička", "кошка и cat"):
        columns = np.nonzero(drawn(text).any(axis=0))[0]
        assert abs(columns[-1] - 5 - font(20).getlength(text)) < 4


class TestCommonParts:
    def test_the_fonts_have_every_character_that_is_written(self) -> None:
        """Without one of the system's: elsewhere there may be none."""
        package = Path(grid.__file__).parent
        texts = [file.read_text(encoding="utf-8") for file in package.rglob("*.py")]
        beyond = sorted({c for c in "".join(texts) if ord(c) > 127})
        lacking = [c for c in beyond if not (_has("", c) or _has(str(DEJAVU), c))]
        assert "…" in beyond and not lacking, lacking
