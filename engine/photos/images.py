"""Image files in, model inputs out: decoding, and what a `Preprocess` record says."""

from __future__ import annotations

import io
import logging
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

from ...errors import ImageError, InputError, ModelError, UsageError
from ...export.preprocess import Preprocess
from ...kernels.streams.resample import FILTERS, Box, resample
from . import bands
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
    "refuse_photos",
    "resized",
    "to_pixels",
]

Pixels = NDArray[np.uint8]

ARRAYS = bands.ARRAYS
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
            # Beside pictures an array is a result, a mask, a vector.
            pictures = [f for f in inside if f.suffix.lower() not in ARRAYS or f.is_dir()]
            inside = pictures or inside
            if not inside:
                known = ", ".join(sorted(SUFFIXES | ARRAYS))
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
            elif Path(entry.name).suffix.lower() in SUFFIXES | ARRAYS:
                yield Path(entry.path)


# What is made of a picture as Pillow has it.
Form = Callable[[Image.Image, str | Path], "Image.Image | NDArray[Any]"]


def decode(path: str | os.PathLike[str]) -> Pixels:
    """Read an image file as RGB pixels, uint8 [H, W, 3]; see `opened`. Of an array or a TIFF of
    other bands, the picture that is shown of it. Raises ImageError."""
    with _opened(path, 3) as image:
        if isinstance(image, Image.Image):
            return np.array(image)
        whole = bands.as_bytes(image) if image.dtype.kind == "f" else None
        values = image if whole is None else whole
        return bands.in_colours(values, None, image.dtype != np.uint8 and whole is None)


def opened(path: str | os.PathLike[str]) -> Image.Image:
    """Read an image file as Pillow's RGB image.

    Turned as EXIF says; CMYK, grey and palette become RGB; 16 bits become 8; transparency is laid
    over white; of an animation, the first frame. Raises ImageError for a file that is missing,
    empty, truncated, no image, or larger than Pillow's limit for decompression bombs. Threads wait
    for each other where their pictures together are larger than `room.BUDGET`.
    """
    with _opened(path, 3) as image:
        return image if isinstance(image, Image.Image) else Image.fromarray(decode(path))


@contextmanager
def _opened(given: str | os.PathLike[str], channels: int) -> Iterator[Image.Image | NDArray[Any]]:
    """An image with room in memory for as long as it is in use: what a photo is, as Pillow's RGB;
    others as an array [H, W, C]. channels: that are wanted."""
    path = Path(given)
    with ExitStack() as stack:
        form = None if channels in (1, 3) else _own_bands
        yield _decoded(path, lambda size: stack.enter_context(DECODED.held(size)), form, channels)


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
    path: Path, wait: Callable[[int], None], form: Form | None = None, channels: int | None = None,
) -> Image.Image | NDArray[Any]:  # fmt: skip
    """channels: that are wanted of a file which is no photo; None: it has to be one."""
    try:
        about = path.stat()
        if stat.S_ISDIR(about.st_mode):
            os.listdir(path)  # one that can't be listed says so
        if not stat.S_ISREG(about.st_mode):
            raise ImageError(f"{path}: a folder, pipe or device; expected an image file")
        size = about.st_size
        if size == 0:
            raise ImageError(f"{path}: empty; expected an image")
        photo = form is None and bands.is_tiff(path) and _is_photo(path)
        if channels is not None and not photo and (bands.is_array(path) or bands.is_tiff(path)):
            return _array(path, channels, wait)
        # At once: Pillow reads a JPEG file in dozens of small pieces.
        source = io.BytesIO(path.read_bytes()) if size <= _AT_ONCE else path
    except FileNotFoundError:
        raise ImageError(f"{path}: no such file; expected an image") from None
    except OSError as err:
        raise _unreadable(path, err) from err
    except MemoryError:
        raise ImageError(f"{path}: too large for memory") from None
    except InputError:
        raise
    except Exception as err:  # as Pillow's decoders, its reader of directories
        raise _unreadable(path, err) from err
    return _image_of(source, path, wait, form)


def _image_of(
    source: io.BytesIO | Path, name: str | Path, wait: Callable[[int], None],
    form: Form | None = None,
) -> Image.Image | NDArray[Any]:  # fmt: skip
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


def _is_photo(path: Path) -> bool:
    """Whether Pillow reads a TIFF: what it doesn't, has other bands than a photo."""
    # It says what it lacks past us, on stderr.
    logging.getLogger("PIL.TiffImagePlugin").setLevel(logging.CRITICAL)
    try:
        with Image.open(path):
            return True
    except UnidentifiedImageError:
        return False


def _array(path: Path, channels: int, wait: Callable[[int], None]) -> NDArray[Any]:
    """An .npy or TIFF file as [H, W, C]. Raises ImageError, or what Pillow raises of a TIFF."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of Pillow, about what we refuse
            found = bands.laid_out(bands.read_bands(path, wait), channels)
    except ValueError as err:
        raise ImageError(f"{path}: can't be read: {err}") from err
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and found.shape[0] * found.shape[1] > limit:
        raise ImageError(
            f"{path}: {found.shape[1]} x {found.shape[0]} pixels; at most {limit} are read"
        )
    return found


def _own_bands(image: Image.Image, path: str | Path) -> Pixels:
    """The bands that a picture's file has, for a model that takes others than a photo's."""
    if image.mode in ("P", "PA", "1", "CMYK", "YCbCr", "LAB", "HSV"):
        image = image.convert("RGBA" if "transparency" in image.info else "RGB")
    values = np.asarray(image)
    if values.dtype != np.uint8:
        values = _deep(values, path)
    return values if values.ndim == 3 else values[..., None]


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
    with _opened(path, spec.channels or 3) as image:
        try:
            return prepare(image, preprocess, spec)
        except ImageError as err:
            raise ImageError(f"{path}: {err}") from err


def read_bytes(data: bytes, name: str, preprocess: Preprocess, spec: InputSpec) -> Prepared:
    """`read` of a file's bytes. name: of the picture, for messages. Raises ImageError."""
    if not data:
        raise ImageError(f"{name}: empty; expected an image")
    with ExitStack() as stack:
        image = _image_of(
            io.BytesIO(data), name, lambda size: stack.enter_context(DECODED.held(size))
        )
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
