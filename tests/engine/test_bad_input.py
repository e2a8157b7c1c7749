"""Every command on what it can't use: exit code 2, one line that names it, and nothing left."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

from backlight.engine.cli import run

from .. import models


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photo.png"
    pixels = np.random.default_rng(0).integers(0, 256, (20, 24, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(path)
    return path


# {m}: the model, {p}: the photo, {o}: the output.
COMMANDS = {
    "explain": "explain -m {m} {p} -o {o} --preprocess unit",
    "export": "export {m} -o {o}",
    "check": "check {m}",
    "occlude": "occlude -m {m} {p} -o {o} --window 4 --stride 4 --preprocess unit",
    "rise": "rise -m {m} {p} -o {o} --masks 8 --preprocess unit",
    "filters": "filters {m} -o {o} --preprocess unit",
    "list": "filters {m} --list",
    "activations": "activations {m} {p} -l h -o {o} --preprocess unit",
    "patches": "patches {m} {p} -l h -o {o} --preprocess unit",
    "reconstruct": "reconstruct {m} {p} -l h -o {o} --preprocess unit",
    "inversion": "reconstruct {m} {p} --method inversion -l h -o {o} --preprocess unit --steps 2",
    "maximize": "reconstruct {m} --method maximize --target-class 0 -o {o} --preprocess unit"
    " --steps 2",
    "embed": "embed {m} {p} -o {o} --preprocess unit",
}


def call(command: str, model: Path, photo: Path, output: Path) -> int:
    words = COMMANDS[command].split()
    return run([w.format(m=model, p=photo, o=output) for w in words])


def listed(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*"))


@pytest.mark.parametrize("command", COMMANDS)
def test_weights_beside_the_model(command: str, tmp_path: Path, photo: Path, capsys):
    """Every command reads external data from the model's folder, wherever it is started."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    onnx.save(
        models.tiny(), folder / "m.onnx", save_as_external_data=True, location="w.bin",
        size_threshold=0,
    )  # fmt: skip
    assert call(command, folder / "m.onnx", photo, tmp_path / "out") == 0
    assert capsys.readouterr().err == ""
