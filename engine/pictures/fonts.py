"""The letters on pictures: Pillow's own font, and others for what it lacks.

Pillow's font has the letters of English and a few signs, looks the same on every machine and stays
in use for them. Text with other letters is written in the part of DejaVu Sans that comes along
(Latin, Greek, Cyrillic; tools/make_font.py), a letter that is not in it (Chinese, Arabic …) in a
font of the system, and one that no font has as its number, such as \\u4e2d.
"""

from __future__ import annotations

import unicodedata
from functools import lru_cache
from pathlib import Path
from typing import Any

from PIL import ImageFont

__all__ = ["Face", "font"]

DEJAVU = Path(__file__).parent.parent / "assets" / "dejavu-sans-part.ttf"
# By file name: Pillow knows where Linux, macOS and Windows keep their fonts.
SYSTEM = (
    "NotoSansCJK-Regular.ttc",
    "NotoSansCJKsc-Regular.otf",
    "wqy-microhei.ttc",
    "wqy-zenhei.ttc",
    "DroidSansFallbackFull.ttf",
    "PingFang.ttc",
    "Hiragino Sans GB.ttc",
    "msyh.ttc",
    "YuGothM.ttc",
    "msgothic.ttc",
    "malgun.ttf",
    "Arial Unicode.ttf",
    "DejaVuSans.ttf",
    "FreeSans.ttf",
    "unifont.otf",
)
# DejaVu's letters are larger than those of Pillow's font.
SCALE = 0.9


@lru_cache(maxsize=64)
def _inner(name: str, size: float) -> Any:
    """A font of Pillow's: "" is its own; None where the system lacks it."""
    if not name:
        return ImageFont.load_default(size)
    try:
        return ImageFont.truetype(name, size)
    except OSError:
        return None


@lru_cache(maxsize=4096)
def _has(name: str, letter: str) -> bool:
    """Whether a font has a letter: what it lacks looks as U+FFFF does, which is none."""
    face = _inner(name, 16)
    if face is None or not letter.isprintable():  # controls, and bytes of a name that is no text
        return False
    return letter == " " or bytes(face.getmask(letter)) != bytes(face.getmask("\uffff"))


@lru_cache(maxsize=1024)
def _runs(text: str) -> tuple[tuple[str, str], ...]:
    """Text as pieces, each with the font that it is written in."""
    text = unicodedata.normalize("NFC", text)  # macOS keeps file names taken apart
    for name in ("", str(DEJAVU)):
        if all(_has(name, letter) for letter in text):
            return ((name, text),)
    pieces: list[tuple[str, str]] = []
    for letter in text:
        name = next((n for n in (str(DEJAVU), *SYSTEM) if _has(n, letter)), "")
        written = letter if name else letter.encode("unicode_escape").decode("ascii")
        if pieces and pieces[-1][0] == name:
            pieces[-1] = (name, pieces[-1][1] + written)
        else:
            pieces.append((name, written))
    return tuple(pieces)


class Face:
    """Letters of one size."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.own: Any = _inner("", size)

    def _faces(self, text: str) -> list[tuple[Any, str]]:
        return [
            (self.own if not name else _inner(name, self.size * SCALE), piece)
            for name, piece in _runs(text)
        ]

    def getlength(self, text: str) -> float:
        """The width of a text in pixels."""
        return float(sum(face.getlength(piece) for face, piece in self._faces(text)))

    def write(
        self, draw: Any, at: tuple[float, float], text: str, ink: Any, **options: Any
    ) -> None:
        """Write a text with its upper left corner at a place; options: of Pillow's text."""
        left, baseline = at[0], at[1] + self.own.getmetrics()[0]
        for face, piece in self._faces(text):
            draw.text((left, baseline), piece, ink, face, anchor="ls", **options)
            left += face.getlength(piece)


@lru_cache(maxsize=8)
def font(size: int) -> Face:
    """The letters of a size."""
    return Face(size)
