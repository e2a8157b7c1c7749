"""What several of these modules are given."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

from .. import models
from .coloured import LIBRARIES
from .nets import COUNT


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


@pytest.fixture(scope="module")
def map_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures of three colours with noise, by a tiny model."""
    pytest.importorskip("pyarrow")
    pytest.importorskip("openTSNE")
    from backlight.engine.similar.embed import embed

    folder = tmp_path_factory.mktemp("map")
    rng = np.random.default_rng(0)
    for label, color in {"red": (200, 20, 20), "green": (20, 200, 20), "blue": (9, 9, 240)}.items():
        for index in range(8):
            file = folder / "pictures" / label / f"{index} & <b>.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            noise = rng.integers(0, 16, (12, 12, 3))
            Image.fromarray((np.array(color) + noise).astype(np.uint8)).save(file)
    embed(models.tiny(), folder / "pictures", folder / "store", layer="x", preprocess="unit")
    return folder / "store"


@pytest.fixture(params=LIBRARIES)
def way(request: pytest.FixtureRequest) -> str:
    """Each of the libraries that cut."""
    pytest.importorskip(LIBRARIES[request.param], reason="in an extra of its own")
    return str(request.param)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Noise of several sizes in two folders, and two files that are no pictures."""
    path = tmp_path_factory.mktemp("pictures")
    (path / "more").mkdir()
    rng = np.random.default_rng(5)
    for index in range(COUNT):
        size = (*rng.integers(8, 30, 2), 3)
        picture = Image.fromarray(rng.integers(0, 256, size).astype(np.uint8))
        picture.save(path / ("more" if index % 3 else ".") / f"{index:02}.png")
    (path / "05-empty.png").touch()
    (path / "more" / "99-broken.jpg").write_bytes(b"no picture")
    return path
