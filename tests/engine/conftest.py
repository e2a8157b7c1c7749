"""What several of these modules are given."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

from .. import models


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """A file of the smallest classifier, with a photo's input of any size."""
    path = tmp_path / "tiny.onnx"
    onnx.save(models.tiny(), path)
    return path


@pytest.fixture
def model(tiny: Path) -> Path:
    """The same, where a test is not about its size."""
    return tiny


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    """A picture of noise, 24 x 20."""
    return models.noise_photo(tmp_path)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder of three pictures of noise: one.png, two.png and three.png, 30 x 20."""
    folder = tmp_path / "photos"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name in ("one", "two", "three"):
        Image.fromarray(rng.integers(0, 255, (20, 30, 3), np.uint8)).save(folder / f"{name}.png")
    return folder
