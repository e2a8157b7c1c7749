"""Image files in, model inputs out: decoding, and what a `Preprocess` record says."""

from __future__ import annotations

import io
import os
import stat
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from ...errors import ImageError, ModelError, UsageError
from ...export.preprocess import Preprocess
from ...kernels.streams.resample import FILTERS, Box, resample
from .room import DECODED

__all__ = [
    "InputSpec",
    "Pixels",
    "Prepared",
    "bytes_prepared",
    "decode",
    "fitted",
    "image_files",
    "layout_of",
    "map_layout",
    "opened",
    "prepare",
    "read",
    "read_bytes",
    "resized",
    "to_pixels",
]

Pixels = NDArray[np.uint8]

SUFFIXES = frozenset(".bmp .gif .jfif .jpeg .jpg .png .ppm .tif .tiff .webp .avif".split())
# What Pillow hands to Ghostscript, whatever the file is called.
PROGRAMS = frozenset(("EPS", "WMF"))
DEFAULT_SIZE = 224
# Larger files are left to Pillow to read as it goes.
_AT_ONCE = 1 << 26
_FILTERS = {
    "box": Image.Resampling.BOX,
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


def image_files(paths: Iterable[str | os.PathLike[str]]) -> list[Path]:
    """The files themselves, and in place of each folder the images anywhere under it, sorted; links
    are followed. What turns out to be none (a link to nothing, a folder that can't be listed) is
    among them: `opened` says why.

    Raises ImageError for a path that isn't there and for a folder without images, UsageError for
    a model.
    """
    found: list[Path] = []
    for given in paths:
        path = Path(given)
        if not os.fspath(given):  # an unset variable of a script; to Path it is the folder here
            raise ImageError("an empty path; expected an image or a folder of images")
        if path.is_dir():
            inside = sorted(_under(path))
            if not inside:
                known = ", ".join(sorted(SUFFIXES))
                raise ImageError(f"{path}: a folder without images; looked for {known}")
            found += inside
        elif path.suffix.lower() == ".onnx":  # else the bundled model would explain the rest
            raise UsageError(f"{path}: a model where an image is expected; see --model")
        elif path.exists():
            found.append(path)
        else:
            raise ImageError(f"{path}: no such file; expected an image or a folder of images")
    return list(dict.fromkeys(found))


def _under(folder: Path) -> Iterator[Path]:
    waiting: list[tuple[Path, frozenset[str]]] = [(folder, frozenset())]
    while waiting:
        at, above = waiting.pop()
        real = os.path.realpath(at)
        if real in above:  # a link to a folder that holds it
            continue
        try:
            found = list(os.scandir(at))
        except OSError:
            yield at
            continue
        for entry in found:
            if os.path.isdir(entry.path):
                waiting.append((Path(entry.path), above | {real}))
            elif Path(entry.name).suffix.lower() in SUFFIXES:
                yield Path(entry.path)


def decode(path: str | os.PathLike[str]) -> Pixels:
    """Read an image file as RGB pixels, uint8 [H, W, 3]; see `opened`. Raises ImageError."""
    with _opened(path) as image:
        return np.array(image)


def opened(path: str | os.PathLike[str]) -> Image.Image:
    """Read an image file as Pillow's RGB image.

    Turned as EXIF says; CMYK, grey and palette become RGB; 16 bits become 8; transparency is laid
    over white; of an animation, the first frame. Raises ImageError for a file that is missing,
    empty, truncated, no image, or larger than Pillow's limit for decompression bombs. Threads wait
    for each other where their pictures together are larger than `room.BUDGET`.
    """
    with _opened(path) as image:
        return image


@contextmanager
def _opened(given: str | os.PathLike[str]) -> Iterator[Image.Image]:
    """`opened`, with room in memory for as long as the image is in use."""
    path = Path(given)
    with ExitStack() as stack:
        yield _decoded(path, lambda size: stack.enter_context(DECODED.held(size)))


def label_map(path: str | os.PathLike[str]) -> NDArray[np.int64]:
    """A picture whose values or colours are numbers of segments -> int64 [H, W].

    Grey values of 8 or 16 bits and palette indices as they are; colours as 256^2 R + 256 G + B.
    Raises ImageError as `opened`.
    """
    with ExitStack() as stack:
        image = _decoded(Path(path), lambda size: stack.enter_context(DECODED.held(size)), _plain)
        values = np.asarray(image).astype(np.int64)
    return values @ (65536, 256, 1) if values.ndim == 3 else values


def _plain(image: Image.Image, name: str | Path) -> Image.Image:
    grey = image.mode in ("1", "L", "P", "I") or image.mode.startswith("I;16")
    return image.copy() if grey else _rgb(image, name)


def _decoded(
    path: Path, wait: Callable[[int], None],
    form: Callable[[Image.Image, str | Path], Image.Image] | None = None,
) -> Image.Image:  # fmt: skip
    try:
        about = path.stat()
        if stat.S_ISDIR(about.st_mode):
            os.listdir(path)  # one that can't be listed says so
        if not stat.S_ISREG(about.st_mode):
            raise ImageError(f"{path}: a folder, pipe or device; expected an image file")
        size = about.st_size
        if size == 0:
            raise ImageError(f"{path}: empty; expected an image")
        # At once: Pillow reads a JPEG file in dozens of small pieces.
        source = io.BytesIO(path.read_bytes()) if size <= _AT_ONCE else path
    except FileNotFoundError:
        raise ImageError(f"{path}: no such file; expected an image") from None
    except OSError as err:
        raise _unreadable(path, err) from err
    except MemoryError:
        raise ImageError(f"{path}: too large for memory") from None
    return _image_of(source, path, wait, form)


def _image_of(
    source: io.BytesIO | Path, name: str | Path, wait: Callable[[int], None],
    form: Callable[[Image.Image, str | Path], Image.Image] | None = None,
) -> Image.Image:  # fmt: skip
    try:
        with warnings.catch_warnings():
            # Above the limit Pillow warns, above twice the limit it raises: here both are refused.
            warnings.simplefilter("ignore")
            with Image.open(source) as image:
                if image.format in PROGRAMS:
                    raise ImageError(
                        f"{name}: {image.format} is a program to run; expected JPEG, PNG …"
                    )
                limit = Image.MAX_IMAGE_PIXELS
                if limit is not None and image.width * image.height > limit:
                    raise ImageError(
                        f"{name}: {image.width} x {image.height} pixels; at most {limit} are read"
                    )
                wait(image.width * image.height * _bytes_of(image))
                image.load()
                ImageOps.exif_transpose(image, in_place=True)
                return (form or _rgb)(image, name)
    except ImageError:
        raise
    except UnidentifiedImageError:
        raise ImageError(f"{name}: not an image that can be read; expected JPEG, PNG …") from None
    except Image.DecompressionBombError:
        raise ImageError(
            f"{name}: too many pixels; at most {Image.MAX_IMAGE_PIXELS} are read"
        ) from None
    except MemoryError:
        raise ImageError(f"{name}: too large for memory") from None
    except Exception as err:  # Pillow's decoders raise many kinds on broken files
        raise _unreadable(name, err) from err


def _unreadable(name: str | Path, err: Exception) -> ImageError:
    told = err.strerror if isinstance(err, OSError) and err.strerror else str(err)
    return ImageError(f"{name}: can't be read: {' '.join(told.split()) or type(err).__name__}")


def _bytes_of(image: Image.Image) -> int:
    """What a pixel takes while a picture becomes RGB, as Pillow has it: 4 bytes a copy."""
    if image.mode == "F" or image.mode.startswith("I"):
        return 16
    # Its palette or its own colours, all four layers of `_rgb`, RGB.
    clear = image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info
    return 24 if clear else 12


def _rgb(image: Image.Image, path: str | Path) -> Image.Image:
    if image.mode == "F" or image.mode.startswith("I"):
        return Image.fromarray(_deep(np.asarray(image), path)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        over = image.convert("RGBA")
        white = Image.new("RGBA", over.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, over)
    return image if image.mode == "RGB" else image.convert("RGB")


def _deep(values: NDArray[Any], path: str | Path) -> Pixels:
    """Grey values of more than 8 bits, [H, W] -> uint8: integers from 16 bits, floats from 0..1
    or 0..255."""
    low, high = float(values.min()), float(values.max())
    if not np.isfinite([low, high]).all() or low < 0 or high > 65535:
        raise ImageError(f"{path}: values from {low:g} to {high:g}; expected 0..255 or 0..65535")
    if values.dtype.kind == "f":
        scale = 255.0 if high <= 1 else 1.0 if high <= 255 else 1 / 257
    else:
        # Files of 16 bits come as such whatever they hold; 32-bit ones may hold bytes.
        scale = 1 / 257 if values.dtype.itemsize == 2 or high > 255 else 1.0
    made = np.empty(values.shape, np.uint8)
    for at in range(0, len(values), 256):  # float64 of a whole picture would be eight times it
        made[at : at + 256] = np.rint(values[at : at + 256].astype(np.float64) * scale)
    return made


@dataclass(frozen=True)
class InputSpec:
    """An image input as the runtime declares it.

    layout: "nchw", "nhwc", or "nhw" (no channel axis). size: (height, width), None where dynamic.
    """

    name: str
    dtype: np.dtype[Any]
    layout: str
    channels: int | None
    size: tuple[int | None, int | None]
    batch: int | None

    def shape(self, size: tuple[int, int]) -> tuple[int, ...]:
        """The shape of one image, without the batch."""
        channels = self.channels or 3
        if self.layout == "nhw":
            return size
        return (channels, *size) if self.layout == "nchw" else (*size, channels)


def layout_of(
    name: str, dims: tuple[int | None, ...], dtype: np.dtype[Any], channel_axis: int
) -> InputSpec:
    """The spec of an input of these dimensions (None: dynamic). Raises ModelError."""
    if len(dims) == 3:
        return InputSpec(name, dtype, "nhw", 1, (dims[1], dims[2]), dims[0])
    if len(dims) != 4:
        raise ModelError(
            f"input '{name}' has {len(dims)} dimensions; pictures need [N,C,H,W] or [N,H,W,C]"
        )
    if channel_axis == 3:
        return InputSpec(name, dtype, "nhwc", dims[3], (dims[1], dims[2]), dims[0])
    return InputSpec(name, dtype, "nchw", dims[1], (dims[2], dims[3]), dims[0])


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
    if channels == 1 and preprocess.color != "L":
        return replace(preprocess, color="L", mean=preprocess.mean[:1], std=preprocess.std[:1])
    if channels == 3 and preprocess.color == "L":
        return replace(preprocess, mean=preprocess.mean * 3, std=preprocess.std * 3, color="RGB")
    if channels not in (1, 3):
        raise ModelError(f"input '{spec.name}' takes {channels} channels; pictures have 1 or 3")
    return preprocess


def bytes_prepared(preprocess: Preprocess, spec: InputSpec) -> int:
    """What an image takes as it is prepared: its pixels, and float32 values twice."""
    assert preprocess.size is not None
    height, width = preprocess.size
    channels = spec.channels or 3
    return height * width * (3 + channels * (8 + spec.dtype.itemsize))


@dataclass(frozen=True)
class Prepared:
    """One image as the model sees it: `pixels` uint8 [H, W, 3] RGB, in grey where the model takes
    one channel; `tensor` in the input's layout and dtype, without the batch."""

    pixels: Pixels
    tensor: NDArray[Any]


def read(path: str | os.PathLike[str], preprocess: Preprocess, spec: InputSpec) -> Prepared:
    """`prepare` of a file, without the detour over an array of its pixels. Raises ImageError."""
    with _opened(path) as image:
        return prepare(image, preprocess, spec)


def read_bytes(data: bytes, name: str, preprocess: Preprocess, spec: InputSpec) -> Prepared:
    """`read` of a file's bytes. name: of the picture, for messages. Raises ImageError."""
    if not data:
        raise ImageError(f"{name}: empty; expected an image")
    with ExitStack() as stack:
        image = _image_of(
            io.BytesIO(data), name, lambda size: stack.enter_context(DECODED.held(size))
        )
        return prepare(image, preprocess, spec)


def prepare(pixels: Pixels | Image.Image, preprocess: Preprocess, spec: InputSpec) -> Prepared:
    """Crop or stretch, resize, and scale: [H, W, 3] -> the model's input. `preprocess` has a size
    (see `fitted`)."""
    assert preprocess.size is not None
    height, width = preprocess.size
    wide, tall = pixels.size if isinstance(pixels, Image.Image) else pixels.shape[1::-1]
    box: Box = (0, 0, wide, tall)
    if preprocess.resize == "crop":
        factor = min(tall / height, wide / width) * preprocess.crop
        w, h = width * factor, height * factor
        left, top = (wide - w) / 2, (tall - h) / 2
        box = (left, top, left + w, top + h)
    seen = resized(pixels, (height, width), preprocess.interpolation, box)
    if preprocess.color == "L":  # the model sees no colours: nor do pictures, crops and stores
        grey = np.asarray(Image.fromarray(seen).convert("L"), np.uint8)
        seen = np.repeat(grey[..., None], 3, axis=2)
    return Prepared(seen, to_tensor(seen, preprocess, spec))


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
    # Channel by channel: seven times as quick as with three channels side by side.
    mean = np.asarray(preprocess.mean, np.float32).reshape(-1, 1, 1)
    std = np.asarray(preprocess.std, np.float32).reshape(-1, 1, 1)
    values = np.ascontiguousarray(planes).astype(np.float32)
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
    """The inverse of `to_tensor`: an input without its batch -> uint8 [H, W, 3] RGB, clipped."""
    values = channels_last(np.asarray(tensor, np.float32), layout)
    values = values * np.asarray(preprocess.std) + np.asarray(preprocess.mean)
    values = np.clip(np.rint(values / preprocess.scale), 0, 255).astype(np.uint8)
    return in_rgb(values, preprocess.color)


def channels_last(values: NDArray[Any], layout: str) -> NDArray[Any]:
    """One image or map, without its batch, as [H, W, C]."""
    if layout == "nhw":
        return values[..., None]
    return values.transpose(1, 2, 0) if layout == "nchw" else values


def map_layout(shape: Sequence[int], spec: InputSpec) -> str:
    """The layout of a map without its batch: the input's, but where the gradient was taken behind a
    Transpose of the model's own, the other; "nhw" for one without channels."""
    if len(shape) != 3:
        return "nhw"
    own, other = ("nhwc", "nchw") if spec.layout == "nhwc" else ("nchw", "nhwc")
    known = (1, 3, 4) if spec.channels is None else (spec.channels,)
    at = {"nchw": shape[0], "nhwc": shape[2]}
    return other if at[own] not in known and at[other] in known else own


def in_rgb(values: NDArray[Any], color: str) -> NDArray[Any]:
    """[H, W, C] in the model's channel order -> [H, W, 3] RGB."""
    if values.shape[-1] == 1:
        return np.repeat(values, 3, axis=-1)
    return values[..., ::-1] if color == "BGR" else values
