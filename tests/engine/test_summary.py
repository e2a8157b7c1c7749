"""summary.json: one shape for all commands, as docs/summary.md has it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from PIL import Image

import backlight
from backlight.engine.cli import run

from .. import models

# {m}: the model, {p}: photos, one of them broken, {o}: the output; and how many results are images.
LINES = {
    "explain": ("{m} {p} -o {o} --rule vanilla", 2),
    "occlude": ("{m} {p} -o {o} --window 4 --stride 4", 2),
    "rise": ("{m} {p} -o {o} --masks 8", 2),
    "segment": ("{m} {p} -o {o} --method vanilla", 2),
    "cem": ("{m} {p} -o {o} --steps 2", 2),
    "counterfactual": ("{m} {p} --distractors {g} -l r -o {o}", 2),
    "activations": ("{m} {p} -l r -l h -o {o}", 4),
    "patches": ("{m} {p} -l h -o {o}", 0),
    "deconvnet": ("{m} {p} -l h -o {o}", 0),
    "invert": ("{m} {p} -l h -o {o} --steps 2", 2),
    "bias": ("{m} {p} -o {o}", None),
    "graph": ("{m} {p} --layers r,h -o {o}", None),
    "concepts": ("{m} --concept a={p} --random {g} --images {g} -l h -o {o}", 0),
    "embed": ("{m} {p} -o {o}", 0),
    "batch": ("{m} {p} -o {o} --rule vanilla", 0),
    "maximize": ("{m} --target-class 1 -o {o} --steps 2", 1),
    "filters": ("{m} -o {o}", 0),
}
WITHOUT_PHOTOS = ("maximize", "filters")


@pytest.fixture
def given(tmp_path: Path) -> dict[str, str]:
    onnx.save(models.tiny(), tmp_path / "m.onnx")
    random = np.random.default_rng(0)
    for folder, count in (("p", 2), ("g", 5)):
        (tmp_path / folder).mkdir()
        for i in range(count):
            pixels = random.integers(0, 256, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / folder / f"{folder}{i}.png")
    (tmp_path / "p" / "torn.png").write_bytes(b"\x89PNG\r\n\x1a\nno picture")
    return {"m": str(tmp_path / "m.onnx"), "p": str(tmp_path / "p"), "g": str(tmp_path / "g"),
            "o": str(tmp_path / "x")}  # fmt: skip


def strictly(text: str) -> Any:
    """JSON as the standard has it: NaN and Infinity are none."""

    def refused(word: str) -> None:
        raise AssertionError(f"{word} is no JSON")

    return json.loads(text, parse_constant=refused)


def holds(about: dict[str, Any]) -> None:
    """The keys that docs/summary.md promises, with their types."""
    assert about["backlight"] == backlight.__version__
    assert isinstance(about["command"], str)
    assert isinstance(about.get("model", about.get("store")), str)
    assert all(isinstance(note, str) and "\n" not in note for note in about["notes"])
    assert type(about["read"]) is int and about["read"] >= 0
    assert isinstance(about["images"], list)
    for image in about["images"]:
        assert isinstance(image, dict) and isinstance(image.get("file", ""), str)
    for skipped in about["skipped"]:
        assert set(skipped) == {"file", "error"}
        assert all(isinstance(word, str) and word for word in skipped.values())


@pytest.mark.parametrize("command", LINES)
def test_it_is_of_one_shape(command, given, tmp_path, capsys):
    if command in ("embed", "batch"):
        pytest.importorskip("pyarrow")
    if command == "graph":
        pytest.importorskip("networkx")
    line, images = LINES[command]
    words = [command, *line.format(**given).split(), "--preprocess", "unit", "--json"]
    code = run(words)
    out, err = capsys.readouterr()
    about = strictly(out)
    holds(about)
    assert about["command"] == command and about["model"] == given["m"]
    assert code == (0 if command in WITHOUT_PHOTOS else 2), err
    names = [Path(one["file"]).name for one in about["skipped"]]
    whole = command in WITHOUT_PHOTOS or command == "batch"  # there a row says it
    assert names == ([] if whole else ["torn.png"])
    assert command != "batch" or about["errors"] == 1
    assert images is None or len(about["images"]) == images
    if command != "filters":  # no model runs
        assert isinstance(about["preprocess"], dict) and about["providers"] == [
            "CPUExecutionProvider"
        ]
    written = tmp_path / "x" / "summary.json"
    assert written.exists() == (command not in ("embed", "batch"))
    if written.exists():
        assert strictly(written.read_text("utf-8")) == about


@pytest.mark.parametrize("command", ["neighbors", "map"])
def test_of_a_store(command, given, tmp_path, capsys):
    pytest.importorskip("pyarrow")
    store = tmp_path / "store"
    assert run(["embed", given["m"], given["g"], "-o", str(store), "--preprocess", "unit"]) == 0
    capsys.readouterr()
    words = [str(store), given["p"]] if command == "neighbors" else [str(store), "--layout", "pca"]
    code = run([command, *words, "-o", str(tmp_path / "x"), "--json"])
    about = strictly(capsys.readouterr().out)
    holds(about)
    assert about["store"] == str(store)
    assert code == (2 if command == "neighbors" else 0)
    assert len(about["skipped"]) == (command == "neighbors")
    assert len(about["images"]) == (2 if command == "neighbors" else 0)
    assert strictly((tmp_path / "x" / "summary.json").read_text("utf-8")) == about


def test_every_command_that_writes_a_folder_is_tried():
    from backlight.engine.cli import COMMANDS

    others = {"export", "check", "bench", "methods", "triton", "serve", "neighbors", "map"}
    assert set(COMMANDS) - others == set(LINES)
