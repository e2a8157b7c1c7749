"""The page of a map: alone, harmless, and working in a browser."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from backlight.engine.cli import run
from backlight.engine.similar.mappage import map_page

from .browser import CHROMEDRIVER, CHROMIUM, Browser, browser

# The middle pixel of the card's picture, read from a copy: Chromium warns of reading the original.
MIDDLE = """
const copy = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
copy.drawImage(byId("large"), -190, -190);
return [...copy.getImageData(0, 0, 1, 1).data];
"""


@pytest.fixture(scope="module")
def page(map_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("page") / "map"
    assert run(["map", str(map_store), "-o", str(out), "--html"]) == 0
    return out / "map.html"


class TestPage:
    def test_names_cannot_end_the_script(self) -> None:
        page = map_page(
            "</script>", "</script>", np.zeros((1, 2)), np.zeros((1, 2), np.int64), (1, 1),
            ["/a/</script><script>alert(1)</script>.png"], ["</script>"],
            [np.zeros((8, 8, 3), np.uint8)], np.zeros(1, bool),
        ).decode()  # fmt: skip
        assert len(re.findall("</script>", page)) == 2
        assert "alert(1)</script" not in page

    @pytest.mark.skipif(CHROMIUM is None or CHROMEDRIVER is None, reason="no Chromium")
    def test_labels_that_share_the_grey_keep_their_names(self, tmp_path: Path) -> None:
        labels = [*(f"label {i:02}" for i in range(30)), None, "<b>'\"${x}"]
        count = len(labels)
        places = np.stack([np.arange(count), np.arange(count) % 2], axis=1)
        page = map_page(
            "many", "labels", places.astype(float), places[:, ::-1], (2, count),
            [f"/a/{i} #%20日本.png" for i in range(count)], labels,
            [np.zeros((8, 8, 3), np.uint8)] * count, np.zeros(count, bool),
        )  # fmt: skip
        file = tmp_path / "map.html"
        file.write_bytes(page)
        with browser() as view:
            view.open(file)
            shown = view.run(
                "return data.names.map((n, i) => { show(-1); show(i, 9, 9);"
                " return [byId('name').textContent, byId('label').textContent] })"
            )
            assert view.console() == []
        want = [label or "other labels" for label in labels]
        assert shown == [[f"{i} #%20日本.png", label] for i, label in enumerate(want)]

    @pytest.mark.skipif(CHROMIUM is None or CHROMEDRIVER is None, reason="no Chromium")
    def test_in_a_browser(self, page: Path) -> None:
        with browser() as view:
            view.open(page)
            view.until("return sheets.every(s => s.complete && s.naturalWidth > 0)")
            assert view.run("return data.names.length") == 24
            for mode in ("points", "pictures", "grid"):
                view.run("modes.find(b => b.dataset.mode === arguments[0]).click()", mode)
                self.hovers(view, mode)
            self.pans_and_zooms(view)
            self.filters(view)
            assert view.console() == []
            view.run("console.error('seen')")  # the log works
            assert len(view.console()) == 1
            asked = view.requests()
            assert asked[0] == page.resolve().as_uri()
            assert all(a.startswith("data:") for a in asked[1:])

    def hovers(self, view: Browser, mode: str) -> None:
        """The card shows the picture, the name and the label of what is under the pointer."""
        for index in (2, 13, 20):
            x, y = self.place(view, index)
            view.move(x, y)
            view.until("return !byId('card').hidden")
            shown = int(view.run("return under"))
            if mode == "grid":  # elsewhere a neighbour may be as near
                assert shown == index
            name, label = view.run("return [byId('name').textContent, byId('label').textContent]")
            assert re.fullmatch(rf"{label}/\d & <b>\.png", name)
            color = view.run(MIDDLE)
            assert ("red", "green", "blue")[int(np.argmax(color[:3]))] == label
        view.move(5, 5)
        view.until("return byId('card').hidden")

    def pans_and_zooms(self, view: Browser) -> None:
        x, y = self.place(view, 7)
        view.scroll(round(x), round(y), -400)
        view.until("return view.zoom > 1.5")
        at = self.place(view, 7)
        assert np.hypot(at[0] - x, at[1] - y) < 3  # what is under the pointer stays there
        view.drag(600, 500, 700, 560)
        moved = self.place(view, 7)
        assert np.hypot(moved[0] - at[0] - 100, moved[1] - at[1] - 60) < 2
        view.run("byId('reset').click()")
        assert view.run("return view.zoom") == 1
        before = view.run("return view.x")
        view.run("canvas.dispatchEvent(new KeyboardEvent('keydown', {key: 'ArrowRight'}))")
        assert view.run("return view.x") > before
        view.run("byId('reset').click()")

    def filters(self, view: Browser) -> None:
        """A label of the legend leaves the others out."""
        index = int(view.run("return data.labels.findIndex(l => l !== data.labels[0])"))
        x, y = self.place(view, index)
        view.run("byId('legend').children[data.labels[0]].click()")
        view.move(x, y)
        assert view.run("return byId('card').hidden")
        view.run("byId('legend').children[data.labels[0]].click()")
        view.move(x + 1, y)
        view.until("return !byId('card').hidden")

    def place(self, view: Browser, index: int) -> tuple[float, float]:
        """Where a picture is in the window."""
        x, y = view.run(
            "const p = onScreen(arguments[0]), r = canvas.getBoundingClientRect();"
            "return [p[0] + r.left, p[1] + r.top]",
            index,
        )
        return float(x), float(y)
