"""Image files in, model inputs out: what a `Preprocess` record says of a picture."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ...errors import ImageError, ModelError, UsageError
from ...export.preprocess import Preprocess
from ...kernels.streams.resample import FILTERS, Box, resample
from . import bands
from .decoding import Pixels, decode, opened, opened_bytes, opened_for
from .folders import image_files
from .layouts import InputSpec, channels_last, in_rgb, layout_of, map_layout

# The room's front: what others use of photos, wherever in here it stands.
__all__ = [
    "InputSpec",
    "Pixels",
    "Prepared",
    "bytes_prepared",
    "channels_last",
    "decode",
    "fitted",
    "image_files",
    "in_rgb",
    "layout_of",
    "map_layout",
    "opened",
    "prepare",
    "read",
    "read_bytes",
    "refuse_photos",
    "resized",
    "to_pixels",
]

DEFAULT_SIZE = 224
_FILTERS = {
    "box": Image.Resampling.BOX,
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


def fitted(preprocess: Preprocess, spec: InputSpec) -> Preprocess:
    """The record with its size and colour settled for an input. Raises UsageError where the two
    contradict each other."""
    wanted = preprocess.size or (None, None)
    size = []
    for own, given in zip(spec.size, wanted, strict=True):
        if own is not None and given is not None and own != given:
            raise UsageError(
                f"the preprocessing's size {wanted[0]}x{wanted[1]} doesn't fit input "
                f"'{spec.name}', which takes {spec.size[0]}x{spec.size[1]}"
            )
        size.append(own or given or DEFAULT_SIZE)
    preprocess = replace(preprocess, size=(size[0], size[1]))
    channels = spec.channels or 3
    if preprocess.bands is not None and max(preprocess.bands) > channels:
        raise UsageError(
            f"band {max(preprocess.bands)} is to be shown; input '{spec.name}' takes {channels}"
        )
    if channels == 1 and preprocess.color != "L":
        return replace(preprocess, color="L", mean=preprocess.mean[:1], std=preprocess.std[:1])
    if channels != 1 and preprocess.color == "L":
        preprocess = replace(preprocess, color="RGB")
    mean = _each(preprocess.mean, channels, "mean", spec)
    return replace(preprocess, mean=mean, std=_each(preprocess.std, channels, "std", spec))


def refuse_photos(files: Sequence[Path], spec: InputSpec) -> None:
    """Raise ModelError where a model takes more bands than any of the files can have."""
    channels = spec.channels or 3
    if channels > 4 and files and not any(bands.is_array(f) or bands.is_tiff(f) for f in files):
        raise ModelError(
            f"input '{spec.name}' takes {channels} channels; photos have 1 or 3: .npy files and "
            "TIFF have any number"
        )


def _each(values: tuple[float, ...], channels: int, key: str, spec: InputSpec) -> tuple[float, ...]:
    """A number for each channel. Raises UsageError where there are others."""
    if len(values) == channels:
        return values
    if len(set(values)) == 1:
        return values[:1] * channels
    raise UsageError(
        f"the preprocessing has {len(values)} numbers as its {key}; input '{spec.name}' takes "
        f"{channels} channels: --preprocess names a record with {channels}, or with one"
    )


def bytes_prepared(preprocess: Preprocess, spec: InputSpec) -> int:
    """What an image takes as it is prepared: its pixels, and float32 values twice."""
    assert preprocess.size is not None
    height, width = preprocess.size
    channels = spec.channels or 3
    return height * width * (3 + channels * (8 + spec.dtype.itemsize))


@dataclass(frozen=True)
class Prepared:
    """One image as the model sees it: `pixels` uint8 [H, W, 3] RGB, in grey where the model takes
    one channel, of other bands those that are shown; `tensor` in the input's layout and dtype,
    without the batch."""

    pixels: Pixels
    tensor: NDArray[Any]


def read(path: str | os.PathLike[str], preprocess: Preprocess, spec: InputSpec) -> Prepared:
    """`prepare` of a file, without the detour over an array of its pixels. Raises ImageError."""
    with opened_for(path, spec.channels or 3) as image:
        try:
            return prepare(image, preprocess, spec)
        except ImageError as err:
            raise ImageError(f"{path}: {err}") from err


def read_bytes(data: bytes, name: str, preprocess: Preprocess, spec: InputSpec) -> Prepared:
    """`read` of a file's bytes. name: of the picture, for messages. Raises ImageError."""
    with opened_bytes(data, name) as image:
        return prepare(image, preprocess, spec)


def prepare(
    pixels: Pixels | Image.Image | NDArray[Any], preprocess: Preprocess, spec: InputSpec
) -> Prepared:
    """Crop or stretch, resize, and scale: a photo, [H, W, 3], or an array [H, W, C] of any real
    type -> the model's input. `preprocess` has a size (see `fitted`). Raises ImageError for bands
    that the model doesn't take."""
    assert preprocess.size is not None
    channels = spec.channels or 3
    if not isinstance(pixels, Image.Image) and not _as_photo(pixels, channels):
        return _prepared_bands(pixels, preprocess, spec)
    if isinstance(pixels, np.ndarray):
        pixels = np.ascontiguousarray(np.broadcast_to(pixels, (*pixels.shape[:2], 3)))
    height, width = preprocess.size
    wide, tall = pixels.size if isinstance(pixels, Image.Image) else pixels.shape[1::-1]
    box = _box(preprocess, tall, wide)
    seen = resized(pixels, (height, width), preprocess.interpolation, box)
    if preprocess.color == "L":  # the model sees no colours: nor do pictures, crops and stores
        grey = np.asarray(Image.fromarray(seen).convert("L"), np.uint8)
        seen = np.repeat(grey[..., None], 3, axis=2)
    shown = seen if preprocess.bands is None else bands.in_colours(seen, preprocess.bands, False)
    return Prepared(shown, to_tensor(seen, preprocess, spec))


def _box(preprocess: Preprocess, tall: int, wide: int) -> Box:
    """What of an image is looked at."""
    assert preprocess.size is not None
    if preprocess.resize != "crop":
        return (0, 0, wide, tall)
    height, width = preprocess.size
    factor = min(tall / height, wide / width) * preprocess.crop
    w, h = width * factor, height * factor
    left, top = (wide - w) / 2, (tall - h) / 2
    return (left, top, left + w, top + h)


def _as_photo(values: NDArray[Any], channels: int) -> bool:
    """Whether an array is bytes of a photo, for a model that takes one."""
    return values.dtype == np.uint8 and channels in (1, 3) and values.shape[2] in (1, 3)


def _prepared_bands(values: NDArray[Any], preprocess: Preprocess, spec: InputSpec) -> Prepared:
    """`prepare` of an array of other bands, or of other numbers than bytes."""
    assert preprocess.size is not None
    channels = spec.channels or 3
    tall, wide, depth = values.shape
    if depth != channels and (depth, channels) not in ((1, 3), (3, 1)):
        have = "1 band" if depth == 1 else f"{depth} bands"
        raise ImageError(f"{have}, {wide} x {tall}; the model takes {channels} channels")
    whole = bands.as_bytes(values) if bands.expects_bytes(preprocess) else None
    of_bytes = whole is not None or values.dtype == np.uint8
    seen = bands.resized_bands(
        values if whole is None else whole, preprocess.size, _FILTERS[preprocess.interpolation],
        _box(preprocess, tall, wide),
    )  # fmt: skip
    if whole is not None:  # as bytes are, where a filter goes beyond them
        seen = np.clip(seen, 0, 255)
    if depth != channels:
        seen = bands.grey(seen) if channels == 1 else np.repeat(seen, 3, axis=2)
    shown = bands.in_colours(seen, preprocess.bands, not of_bytes)
    planes = seen.transpose(2, 0, 1)
    if channels == 3 and preprocess.color == "BGR":
        planes = planes[::-1]
    return Prepared(shown, _scaled(planes, preprocess, spec))


def resized(
    image: Pixels | Image.Image, size: tuple[int, int], interpolation: str, box: Box | None = None
) -> Pixels:
    """A picture in RGB, or a box of it, as uint8 [height, width, 3]: what Pillow makes of it."""
    if interpolation in FILTERS:
        made = resample(image, size, interpolation, box)
        if made is not None:
            return made
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    return np.array(image.resize(size[::-1], _FILTERS[interpolation], box=box))


def to_tensor(seen: Pixels, preprocess: Preprocess, spec: InputSpec) -> NDArray[Any]:
    """Pixels of the right size as one input: uint8 [H, W, 3] -> the input's layout and dtype."""
    if preprocess.color == "L":
        planes = np.asarray(Image.fromarray(seen).convert("L"), np.uint8)[None]
    else:
        planes = seen.transpose(2, 0, 1)[:: -1 if preprocess.color == "BGR" else 1]
    return _scaled(planes, preprocess, spec)


def _scaled(planes: NDArray[Any], preprocess: Preprocess, spec: InputSpec) -> NDArray[Any]:
    """[C, H, W] in the model's channel order -> the input's layout and dtype."""
    # Channel by channel: seven times as quick as with three channels side by side.
    mean = np.asarray(preprocess.mean, np.float32).reshape(-1, 1, 1)
    std = np.asarray(preprocess.std, np.float32).reshape(-1, 1, 1)
    values = np.array(planes, np.float32, order="C")
    values *= np.float32(preprocess.scale)
    values -= mean
    values /= std
    if spec.layout == "nhwc":
        values = values.transpose(1, 2, 0)
    elif spec.layout == "nhw":
        values = values[0]
    if spec.dtype.kind in "iu":
        info = np.iinfo(spec.dtype)
        values = np.clip(np.rint(values), info.min, info.max)
    return np.ascontiguousarray(values, spec.dtype)


def to_pixels(tensor: NDArray[Any], preprocess: Preprocess, layout: str) -> Pixels:
    """The inverse of `to_tensor`: an input without its batch -> uint8 [H, W, 3] RGB, clipped; of
    other bands those that are shown, stretched where they aren't 0..255."""
    values = channels_last(np.asarray(tensor, np.float32), layout)
    values = values * np.asarray(preprocess.std) + np.asarray(preprocess.mean)
    values = values / preprocess.scale
    photo = values.shape[2] in (1, 3)
    if not photo or preprocess.bands is not None:
        if photo:
            values = in_rgb(values, preprocess.color)
        beyond = not photo and not (values.min() > -64 and 1 < values.max() < 320)
        return bands.in_colours(values, preprocess.bands, beyond)
    values = np.clip(np.rint(values), 0, 255).astype(np.uint8)
    return in_rgb(values, preprocess.color)
