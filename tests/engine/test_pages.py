"""Pages in headless Chromium: nothing loaded, nothing complained of, nothing out of the window."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from backlight.engine.pictures.page import Page

from .browser import CHROMEDRIVER, CHROMIUM, Browser, browser

pytestmark = pytest.mark.skipif(CHROMIUM is None or CHROMEDRIVER is None, reason="no Chromium")

NAMES = [
    "two words.png", 'quo"te\'.png', "ha#sh.png", "per%20cent.png", "</script><script>alert(1)//",
    "日本語 ñ.png", "$data ${x}.png", "&amp;.png", "x" * 250, "ü" * 120,
]  # fmt: skip


@pytest.mark.parametrize("width", [1200, 500])
def test_names_and_pictures_of_any_width(width: int, tmp_path: Path) -> None:
    page = Page("x" * 250, "y" * 250)
    for number in range(30):
        for name in NAMES:
            page.section(f"{number} {name}")
    page.picture(Image.new("RGB", (600, 20)), "narrow", "z" * 250)
    page.picture(Image.new("RGB", (4000, 20)), "wide")
    page.table(("file", "why"), [(name, "unreadable") for name in NAMES])
    file = tmp_path / "p'a #g%20e.html"
    file.write_bytes(page.to_bytes())
    with browser() as view:
        view.resize(width, 900)
        view.open(file)
        _is_quiet(view, file)
        seen = "return [document.documentElement.scrollWidth, innerWidth]"
        needs, has = view.run(seen)
        assert needs <= has, "the page is wider than the window"
        assert view.run("return document.querySelector('nav').clientHeight") < 200
        # Letters of 13 pixels stay above 11: what is wider is scrolled.
        shown = view.run("return [...document.images].map(i => i.clientWidth / i.naturalWidth)")
        assert min(shown) > 0.85
        heads = view.run("return [...document.querySelectorAll('h2')].map(h => h.textContent)")
        assert heads == [f"{number} {name}" for number in range(30) for name in NAMES]


def _is_quiet(view: Browser, file: Path) -> None:
    """No error, no warning, and nothing asked for but the page itself."""
    assert view.console() == []
    asked = view.requests()
    assert asked[0] == file.resolve().as_uri()
    assert all(a.startswith("data:") for a in asked[1:])
