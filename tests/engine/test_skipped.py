"""What the commands that look inside cannot use: skipped, counted, listed; it costs no more."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

from backlight.engine.cli import run

from .. import models
from .commands import COMMANDS, SRC

# The page that lists what was skipped; {m}: the model, {p}: photos, {o}: output.
LISTING = {
    "activations": "activations",
    "patches": "patches",
    "deconvnet": "deconvnet",
    "invert": "inversion",
}


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(2):
        pixels = np.random.default_rng(number).integers(0, 256, (9, 9, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    (folder / "broken.png").write_bytes(b"no picture")
    return folder


@pytest.mark.parametrize("command", LISTING)
def test_counted_and_listed(command: str, model: Path, photos: Path, tmp_path: Path, capsys):
    out = tmp_path / "out"
    words = COMMANDS[command].format(m=model, p=photos, o=out).split()
    assert run([*words, "--html"]) == 2
    said = capsys.readouterr().err.splitlines()
    assert [line for line in said if "broken.png: not an image" in line]
    assert said[-1] == "backlight: 1 skipped, 2 read"
    listed = json.loads((out / "summary.json").read_bytes())["skipped"]
    assert [Path(one["file"]).name for one in listed] == ["broken.png"]
    page = (out / f"{LISTING[command]}.html").read_text(encoding="utf-8")
    assert "1 skipped, 2 read." in page and "broken.png: not an image" in page


def test_neighbours(model: Path, photos: Path, tmp_path: Path, capsys):
    pytest.importorskip("pyarrow")
    store, out = str(tmp_path / "store"), tmp_path / "out"
    assert run(["embed", str(model), str(photos), "-o", store, "--preprocess", "unit"]) == 2
    capsys.readouterr()
    assert run(["neighbors", store, str(photos), "-o", str(out), "--html"]) == 2
    assert capsys.readouterr().err.splitlines()[-1] == "backlight: 1 skipped, 2 read"
    assert "broken.png: not an image" in (out / "neighbors.html").read_text(encoding="utf-8")
    only = str(photos / "broken.png")
    assert run(["neighbors", store, only, "-o", str(tmp_path / "a" / "b"), "--html"]) == 2
    assert not (tmp_path / "a").exists()


def test_a_photo_with_nothing_to_invert_costs_the_others_nothing(
    model: Path, photos: Path, tmp_path: Path, capsys
):
    """Behind a Relu a black photo is 0 everywhere."""
    onnx.save(models.tiny(body=models.BODY.replace("x, w, b", "x, w")), model)
    Image.new("RGB", (9, 9)).save(photos / "black.png")
    out = tmp_path / "out"
    words = COMMANDS["invert"].format(m=model, p=photos, o=out).split()
    assert run([*words, "-l", "r"]) == 2
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 3 and said[-1] == "backlight: 2 skipped, 2 read"
    assert [s for s in said if "black.png: 'h' is all 0" in s]
    found = json.loads((out / "summary.json").read_bytes())
    assert [Path(e["file"]).name for e in found["images"]] == ["0.png"] * 2 + ["1.png"] * 2
    assert (out / "inversion.png").exists()
    assert not list(out.glob("black*"))


@pytest.mark.parametrize("command", ["neighbors {s} {p}/0.png -o {o}", "map {s} -o {o} --html"])
def test_a_store_of_nothing(command: str, model: Path, photos: Path, tmp_path: Path, capsys):
    """Where nothing could be embedded."""
    pytest.importorskip("pyarrow")
    store, out = tmp_path / "store", tmp_path / "out"
    words = ["embed", str(model), str(photos / "broken.png"), "-o", str(store)]
    assert run([*words, "--preprocess", "unit"]) == 2
    capsys.readouterr()
    assert run(command.format(s=store, p=photos, o=out).split()) == 2
    said = capsys.readouterr().err
    assert f"{store}: a store without pictures; 1 could not be used" in said
    assert said.count("\n") == 1 and not out.exists()


def test_a_map_of_too_few_leaves_no_folder(model: Path, photos: Path, tmp_path: Path, capsys):
    pytest.importorskip("pyarrow")
    store, out = str(tmp_path / "store"), tmp_path / "new" / "map"
    assert run(["embed", str(model), str(photos), "-o", store, "--preprocess", "unit"]) == 2
    capsys.readouterr()
    assert run(["map", store, "-o", str(out)]) == 2
    assert "needs 4 pictures" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_names_do_not_reach_the_terminal_as_they_are(
    model: Path, photos: Path, tmp_path: Path, capsys
):
    (photos / "broken.png").rename(photos / "a\x1b[31m\nb\x9b.png")
    words = COMMANDS["activations"].format(m=model, p=photos, o=tmp_path / "out").split()
    assert run(words) == 2
    said = capsys.readouterr().err
    assert "a?[31m b?.png: not an image" in said
    assert run(["activations", str(model), str(photos / "a\x1b[31m\nb\x9b.png"), "-l", "h"]) == 2
    assert "\x1b" not in said + capsys.readouterr().err


@pytest.mark.skipif(sys.platform == "win32", reason="no pty")
def test_lines_reach_a_file_beside_a_progress_bar(model: Path, photos: Path, tmp_path: Path):
    """stderr is a terminal, stdout is not, as in `backlight … > list.txt`."""
    import pty

    bar, end = pty.openpty()
    words = COMMANDS["activations"].format(m=model, p=photos, o=tmp_path / "out").split()
    done = subprocess.run(
        [sys.executable, "-m", "backlight", *words], stdout=subprocess.PIPE, stderr=end,
        text=True, check=False, env=os.environ | {"PYTHONPATH": SRC, "TERM": "xterm"},
    )  # fmt: skip
    os.close(end)
    shown = os.read(bar, 1 << 16)
    os.close(bar)
    assert done.returncode == 2
    assert [line.split(":")[0] for line in done.stdout.splitlines()] == ["0-h.png", "1-h.png"]
    assert b"running" in shown and b"strongest" not in shown
