"""Layers on the command line: their numbers, and files named after them."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest
from PIL import Image

from backlight.engine.cli import run
from backlight.engine.cli.layers import file_names, numbers
from backlight.errors import UsageError

from ..models import BODY, tiny


class TestCommonParts:
    def test_numbers(self) -> None:
        assert numbers("0-3,7,2", "--channels") == [0, 1, 2, 3, 7]
        assert numbers(None, "--channels") is None
        for wrong in ("", "3-1", "a", "-1", "1,,2", "1-2-3"):
            with pytest.raises(UsageError, match="--channels"):
                numbers(wrong, "--channels")

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

    def test_file_names_are_plain_and_no_two_the_same(self) -> None:
        names = file_names(["a/b", "a_b", "/model/Conv:0", "///"])
        assert list(names.values()) == ["a_b", "a_b-2", "model_Conv_0", "layer"]
