"""The benchmarks' modules still fit the package: they are run by hand, and seldom."""

from __future__ import annotations

import importlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parent.parent
MODULES = sorted(p.stem for p in (ROOT / "benchmarks").glob("*.py") if p.stem != "__init__")


@pytest.mark.parametrize("name", MODULES)
def test_it_can_be_imported(name: str) -> None:
    """Without what only its peers need."""
    importlib.import_module(f"benchmarks.{name}")


def test_the_pictures_are_made_of_the_bundled_photos(tmp_path: Path) -> None:
    from benchmarks.pictures import made_pictures

    made = sorted(made_pictures(tmp_path, 3).iterdir())
    assert len(made) == 3
    assert all(min(Image.open(p).size) > 100 for p in made)
    assert len({p.read_bytes() for p in made}) == 3
    assert all(np.asarray(Image.open(p)).std() > 10 for p in made)
