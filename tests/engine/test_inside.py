"""What the parts of looking inside have in common: arguments, names, headings, pages."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from PIL import Image

import backlight
from backlight.engine.cli import run
from backlight.engine.cli.layers import file_names, numbers
from backlight.engine.inside.taps import Taps
from backlight.engine.photos.outputs import numbered
from backlight.engine.pictures import grid
from backlight.engine.pictures.fonts import DEJAVU, Face, _has
from backlight.engine.pictures.page import Page
from backlight.errors import ImageError, UsageError

from ..models import BODY, tiny


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

    def test_numbers(self) -> None:
        assert numbers("0-3,7,2", "--channels") == [0, 1, 2, 3, 7]
        assert numbers(None, "--channels") is None
        for wrong in ("", "3-1", "a", "-1", "1,,2", "1-2-3"):
            with pytest.raises(UsageError, match="--channels"):
                numbers(wrong, "--channels")

    def test_photo_a_layer_b_c_is_not_photo_a_b_layer_c(self) -> None:
        assert numbered(["a-b-c", "a-b", "A-B-c", "a-b-c-2"]) == [
            "a-b-c", "a-b", "A-B-c-2", "a-b-c-2-2",
        ]  # fmt: skip

    def test_file_names_are_plain_and_no_two_the_same(self) -> None:
        names = file_names(["a/b", "a_b", "/model/Conv:0", "///"])
        assert list(names.values()) == ["a_b", "a_b-2", "model_Conv_0", "layer"]

    @pytest.mark.parametrize("letter", ["x", "é", "日"])
    def test_long_names_fit_into_file_names(
        self, letter: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """One file with a long name would otherwise end the run when its turn comes."""
        layer = letter * 200
        body = BODY.replace("r = Relu(h)", "r = Relu(h)\n    r2 = Relu(h)")
        named = tiny(body=body)
        for node in named.graph.node:
            node.output[:] = [layer if o == "r2" else o for o in node.output]
        onnx.save(named, tmp_path / "m.onnx")
        photos = tmp_path / "photos"
        photos.mkdir()
        stem = letter * (251 // len(letter.encode()))
        for name in (stem, stem[:-1] + "y", "a"):
            Image.new("RGB", (9, 9), "red").save(photos / f"{name}.png")
        out = tmp_path / "out"
        given = ["activations", str(tmp_path / "m.onnx"), str(photos), "-l", layer, "-o", str(out)]
        assert run([*given, "--preprocess", "unit"]) == 0, capsys.readouterr().err
        entries = json.loads((out / "activations.json").read_bytes())["maps"]
        assert len({e["picture"] for e in entries}) == 3
        assert all((out / e["picture"]).exists() for e in entries)

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

    def test_the_fonts_have_every_character_that_is_written(self) -> None:
        """Without one of the system's: elsewhere there may be none."""
        package = Path(grid.__file__).parent
        texts = [file.read_text(encoding="utf-8") for file in package.rglob("*.py")]
        beyond = sorted({c for c in "".join(texts) if ord(c) > 127})
        lacking = [c for c in beyond if not (_has("", c) or _has(str(DEJAVU), c))]
        assert "…" in beyond and not lacking, lacking

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
