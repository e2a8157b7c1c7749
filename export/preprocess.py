"""How a model wants its images: a small record that travels in the model's metadata.

No image is touched here; engine/photos/images.py does what the record says.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import onnx_ir as ir

from .. import written
from ..arguments import refused
from ..errors import UsageError, hint

KEY = "backlight.preprocess"
# float32 holds what comes of the largest and the smallest: 255 * 1e18 / 1e-18.
MAX, LEAST = 1e18, 1e-18
_MOST = 1 << 20
# More than any sensor has bands.
CHANNELS = 4096


@dataclass(frozen=True)
class Preprocess:
    """From an image file to a model's input: (pixel * scale - mean) / std, per channel.

    color: "RGB" or "BGR" (or "L", one channel). Pixels are 0..255; values of arrays and of TIFF
        files with other bands are what they are.
    mean, std: a number for each channel; where all are the same, they do for any number of them.
    size: (height, width), or None: the model's own, else 224.
    resize: "crop": the short side is scaled so that a centre crop of `size` is the fraction
        `crop` of it; "stretch": the whole image is scaled to `size`.
    interpolation: "bicubic", "bilinear", "nearest" or "lanczos".
    bands: which bands are shown as red, green and blue, counted from 1, or one in grey; None: the
        colours, of other images the first three.
    """

    color: str = "RGB"
    scale: float = 1.0
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)
    size: tuple[int, int] | None = None
    resize: str = "crop"
    crop: float = 0.875
    interpolation: str = "bicubic"
    bands: tuple[int, ...] | None = None

    def to_json(self) -> str:
        """As one line of JSON; `from_json` reads it back."""
        return json.dumps({k: v for k, v in asdict(self).items() if v is not None})


PRESETS: dict[str, Preprocess] = {
    # torchvision, timm: RGB in 0..1, standardized with ImageNet's statistics
    "imagenet-torch": Preprocess(
        scale=1 / 255, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)
    ),
    # Caffe, Keras' "caffe" mode: BGR in 0..255, centred
    "imagenet-caffe": Preprocess(color="BGR", mean=(103.939, 116.779, 123.68)),
    # TensorFlow: RGB in -1..1
    "tf": Preprocess(scale=1 / 127.5, mean=(1.0, 1.0, 1.0)),
    "unit": Preprocess(scale=1 / 255),
    "none": Preprocess(),
}

# What a file that says nothing most often wants; used only after saying so.
ASSUMED = "imagenet-torch"

_CHOICES = {
    "color": ("RGB", "BGR", "L"),
    "resize": ("crop", "stretch"),
    "interpolation": ("bicubic", "bilinear", "nearest", "lanczos"),
}


def parse_bands(given: str) -> tuple[int, ...]:
    """`--bands 3,2,1`, or one. Raises UsageError."""
    parts = [written.whole(part) for part in given.split(",")]
    bands = tuple(band for band in parts if band is not None and 1 <= band <= CHANNELS)
    if len(parts) not in (1, 3) or len(bands) < len(parts):
        raise UsageError(
            f"--bands '{given}'; expected three of them as red, green and blue, counted from 1, "
            "such as 3,2,1, or one in grey"
        )
    return bands


def preset(name: str) -> Preprocess:
    """A preset by its name. Raises UsageError with the nearest names."""
    if name not in PRESETS:
        raise UsageError.unknown("preprocess", name, PRESETS, ", or a record")
    return PRESETS[name]


def looked_up(given: Preprocess | str | None) -> Preprocess | None:
    """A record, or a preset by its name; None of None. Raises UsageError."""
    return preset(given) if isinstance(given, str) else given


def given(name: str, value: object) -> Preprocess:
    """The check of an argument `preprocess` (see `arguments`): a preset's name, looked up at once,
    or a record."""
    if isinstance(value, Preprocess):
        return value
    if not isinstance(value, str):
        raise refused(name, value, f"a Preprocess, or one of: {', '.join(PRESETS)}")
    return preset(value)


def parse(given: str) -> Preprocess:
    """A preset's name, or the path of a JSON file. Raises UsageError, naming what is wrong."""
    if given in PRESETS:
        return PRESETS[given]
    path = Path(given)
    if not path.is_file():
        near = hint(given, PRESETS)
        raise UsageError(
            f"--preprocess '{given}': neither a preset ({', '.join(PRESETS)}) nor a JSON file{near}"
        )
    if path.stat().st_size > _MOST:
        raise UsageError(f"{path}: larger than {_MOST >> 20} MB; expected a record, as JSON")
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as err:
        reason = err.strerror if isinstance(err, OSError) else "not UTF-8 text"
        raise UsageError(f"{path}: can't be read: {reason}; expected a JSON file") from err
    return from_json(text, str(path))


def from_json(text: str, source: str) -> Preprocess:
    """Read a record; `source` is named in errors. A key "preset" gives what is left out."""
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as err:
        raise UsageError(f"{source}: not JSON: {err}") from err
    if not isinstance(data, dict):
        raise UsageError(f'{source}: expected an object such as {{"preset": "unit"}}')
    base = Preprocess()
    if "preset" in data:
        name = data.pop("preset")
        if not isinstance(name, str) or name not in PRESETS:
            raise UsageError.unknown(f"{source}: preset", name, PRESETS)
        base = PRESETS[name]
    known = [f.name for f in fields(Preprocess)]
    unknown = sorted(set(data) - set(known))
    if unknown:
        raise UsageError.unknown(f"{source}: unknown key", unknown[0], known)
    values = {key: _checked(key, value, source) for key, value in data.items()}
    for key, other in (("mean", "std"), ("std", "mean")):
        # Two numbers are three of which one was forgotten, but where the other has two as well.
        if len(values.get(key, ())) == 2 and len(values.get(other, ())) not in (1, 2):
            raise UsageError(
                f"{source}: {key} {data[key]!r}; expected three numbers, or {other} with as many "
                "as the model has channels"
            )
    if values.get("color", base.color) == "L":
        values.setdefault("mean", base.mean[:1])
        values.setdefault("std", base.std[:1])
    return replace(base, **values)


def _checked(key: str, value: Any, source: str) -> Any:
    if key in _CHOICES:
        if value not in _CHOICES[key]:
            raise UsageError.unknown(f"{source}: {key}", value, _CHOICES[key])
        return value
    if key == "size":
        sides = [value, value] if isinstance(value, int) else value
        if not _numbers(sides, 2) or any(int(s) != s or not 0 < s <= 16384 for s in sides):
            raise UsageError(f"{source}: size {value!r}; expected one or two whole numbers")
        return int(sides[0]), int(sides[1])
    if key == "bands":
        parts = [value] if isinstance(value, int) else value
        known = _numbers(parts, 3) or _numbers(parts, 1)
        if not known or any(int(p) != p or not 1 <= p <= CHANNELS for p in parts):
            raise UsageError(f"{source}: bands {value!r}; expected one or three, counted from 1")
        return tuple(int(p) for p in parts)
    if key in ("mean", "std"):
        parts = [value] * 3 if _numbers([value], 1) else value
        many = len(parts) if isinstance(parts, Sequence) else 0
        known = 1 <= many <= CHANNELS and _numbers(parts, many)
        if not known or (key == "std" and min(parts) < LEAST):
            raise UsageError(
                f"{source}: {key} {value!r}; expected a number, or one for each channel: three "
                "numbers for a photo (std above 0)"
            )
        return tuple(float(p) for p in parts)
    if not _numbers([value], 1) or abs(value) < LEAST or (key == "crop" and not 0 < value <= 1):
        wanted = "a number above 0, up to 1" if key == "crop" else "a number other than 0"
        raise UsageError(f"{source}: {key} {value!r}; expected {wanted}")
    return float(value)


def _numbers(value: Any, count: int) -> bool:
    return (
        isinstance(value, Sequence)
        and not isinstance(value, str)
        and len(value) == count
        and all(
            # Finite; and an int may be larger than any float.
            isinstance(v, (int, float)) and not isinstance(v, bool) and abs(v) <= MAX
            for v in value
        )
    )


def of_metadata(metadata: Mapping[str, str], source: str) -> Preprocess | None:
    """What a model's own metadata says, or None: our record, else what Ultralytics' exporter
    writes of a classifier."""
    text = metadata.get(KEY)
    if text is None:
        return _of_ultralytics(metadata)
    return from_json(text, f"{source} (metadata {KEY})")


def _of_ultralytics(metadata: Mapping[str, str]) -> Preprocess | None:
    """RGB in 0..1, the short side scaled (bilinear) to `imgsz` and the centre cropped; where the
    two sides differ, the whole image scaled. Ultralytics, data/augment.py, classify_transforms."""
    if not {"names", "imgsz", "stride"} <= set(metadata):
        return None
    if metadata.get("task", "classify") != "classify":
        return None
    try:
        sides = json.loads(metadata["imgsz"])
        record = from_json(json.dumps({"preset": "unit", "size": sides}), "imgsz")
    except (ValueError, RecursionError):  # written by somebody else: it says nothing
        return None
    assert record.size is not None
    square = record.size[0] == record.size[1]
    return replace(
        record, resize="crop" if square else "stretch", crop=1.0, interpolation="bilinear"
    )


def attach(model: ir.Model, preprocess: Preprocess) -> None:
    """Write the record into a model's metadata."""
    model.metadata_props[KEY] = preprocess.to_json()
