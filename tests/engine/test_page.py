"""A page that loads nothing."""

from __future__ import annotations

import re

from PIL import Image

from backlight.engine.pictures.page import Page


class TestCommonParts:
    def test_a_page_escapes_its_text_and_loads_nothing(self) -> None:
        page = Page("<b>", "a & b")
        page.section('"one"')
        page.section("two")
        page.picture(Image.new("RGB", (2, 2)), 'alt "quoted"', "<caption>")
        page.table(("h<",), [("c>",)])
        text = page.to_bytes().decode()
        for raw in ("<b>", "<caption>", 'alt "quoted"', "h<", "c>"):
            assert raw not in text.replace("<td>c&gt;", "")
        assert not re.search(r'(?:src|href)="(?!data:|#)', text)
        assert "default-src 'none'" in text
