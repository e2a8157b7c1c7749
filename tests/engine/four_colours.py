"""A picture of four colours, as a file of any kind."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

COLORS = np.array([[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [250, 240, 10]]], np.uint8)


def saved(tmp_path: Path, image: Image.Image, name: str = "a.png", **how: object) -> Path:
    image.save(tmp_path / name, **how)
    return tmp_path / name
