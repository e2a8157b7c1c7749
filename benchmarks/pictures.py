"""What the benchmarks over folders of pictures share: the pictures, the network, the runs in turn.

Pictures are JPEG files of 500 x 375, cut from the bundled photos; the network is PyTorch's
ResNet-18 with random weights (or --model FILE).
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from backlight.engine.photos import images
from backlight.lanes import cores

PHOTOS = Path(images.__file__).parents[1] / "assets" / "photos"
PICTURE = (500, 375)


def made_pictures(folder: Path, count: int) -> Path:
    """Crops and flips of the bundled photos, of one size."""
    rng = np.random.default_rng(0)
    photos = [Image.open(p).convert("RGB") for p in sorted(PHOTOS.glob("*.jpg"))]
    for number in range(count):
        photo = photos[number % len(photos)]
        share = rng.uniform(0.5, 0.95)
        w, h = (int(s * share) for s in photo.size)
        left, top = rng.integers(photo.width - w), rng.integers(photo.height - h)
        part = photo.crop((left, top, left + w, top + h)).resize(PICTURE)
        part = ImageOps.mirror(part) if number % 2 else part
        part.save(folder / f"{number:05d}.jpg", quality=88)
    return folder


def resnet18(folder: Path) -> Path:
    """ResNet-18 with random weights, as the newer of PyTorch's exporters writes it."""
    from tests.networks import nets

    net = next(n for n in nets.NETS if n.name == "resnet18")
    path = folder / "resnet18.onnx"
    nets.export(nets.build(net), net, "dynamo", path)
    return path


def alternate(tasks: dict[str, Callable[[], object]], runs: int) -> dict[str, list[float]]:
    """Seconds of each task, in turn; one round before that does not count."""
    seen: dict[str, list[float]] = {name: [] for name in tasks}
    for number in range(runs + 1):
        for name, task in tasks.items():
            start = time.perf_counter()
            task()
            if number:
                seen[name].append(time.perf_counter() - start)
    return seen


def machine() -> dict[str, Any]:
    model = platform.processor()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        model = next(
            (v.partition(":")[2].strip() for v in lines if v.startswith("model na")), model
        )
    packages = ("onnxruntime", "numpy", "pillow", "faiss-cpu", "pyarrow")
    return {
        "cpu": model,
        "cores": cores(),
        "python": platform.python_version(),
        **{p: metadata.version(p) for p in packages},
    }


def options(doc: str | None) -> argparse.ArgumentParser:
    """What every such benchmark can be told."""
    parser = argparse.ArgumentParser(description=(doc or "").splitlines()[0])
    parser.add_argument("--model", type=Path)
    parser.add_argument("--pictures", type=int, default=256)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--json", type=Path)
    return parser


@contextmanager
def reporting(given: argparse.Namespace) -> Iterator[tuple[Path, Path, dict[str, Any]]]:
    """A folder to work in, the model, and a report, which goes to --json in the end."""
    report: dict[str, Any] = {"machine": machine()}
    print(", ".join(f"{k} {v}" for k, v in report["machine"].items()))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        yield folder, given.model or resnet18(folder), report
    if given.json:
        given.json.write_text(json.dumps(report, indent=1), encoding="utf-8")
