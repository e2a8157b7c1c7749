"""What the claims share: the bundled model, its photos, and exported files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from backlight.engine.cli.options import BUNDLED, PHOTOS
from backlight.engine.runtime.session import Session
from backlight.export.saliency import explain_graph

THREADS = 2
RULES = ("vanilla", "deconv", "guided")


@pytest.fixture(scope="session")
def model() -> Path:
    """The bundled SqueezeNet 1.1."""
    return Path(BUNDLED)


@pytest.fixture(scope="session")
def photo() -> Path:
    """One of the bundled photos."""
    return sorted(Path(PHOTOS).glob("*.jpg"))[0]


@pytest.fixture(scope="session")
def explaining(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Rules -> the model's explaining file for the CPU."""
    folder = tmp_path_factory.mktemp("explaining")

    def made(*rules: str) -> Path:
        path = folder / f"{'-'.join(rules)}.onnx"
        if not path.exists():
            explain_graph(model, rules, target_class="top1", lowering="cpu").save(path)
        return path

    return made


@pytest.fixture
def running() -> Callable[[Path, int], Callable[[], Any]]:
    """(file, batch) -> a call of its session on noise, two threads, once warmed up."""

    def made(path: Path, batch: int) -> Callable[[], Any]:
        session = Session(str(path), "cpu", THREADS)
        (given,) = session.inputs
        x: NDArray[Any] = np.random.default_rng(0).standard_normal((batch, 3, 227, 227))
        feeds = {given.name: x.astype(np.float32)}
        session.run(feeds)
        return lambda: session.run(feeds)

    return made
