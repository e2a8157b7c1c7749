"""One image file to pixels: whatever a stranger sends is an image or an ImageError."""

from __future__ import annotations

import io
import logging
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from ...errors import ImageError, InputError
from . import bands
from .hushed import hushed
from .room import DECODED

__all__ = ["Pixels", "decode", "label_map", "opened", "opened_bytes", "opened_for"]

Pixels = NDArray[np.uint8]

# What Pillow hands to Ghostscript, whatever the file is called.
PROGRAMS = frozenset(("EPS", "WMF"))
# Larger files are left to Pillow to read as it goes.
_AT_ONCE = 1 << 26
# What is made of a picture as Pillow has it.
Form = Callable[[Image.Image, str | Path], "Image.Image | NDArray[Any]"]


def decode(path: str | os.PathLike[str]) -> Pixels:
    """Read an image file as RGB pixels, uint8 [H, W, 3]; see `opened`. Of an array or a TIFF of
    other bands, the picture that is shown of it. Raises ImageError."""
    with opened_for(path, 3) as image:
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
    with opened_for(path, 3) as image:
        return image if isinstance(image, Image.Image) else Image.fromarray(decode(path))


@contextmanager
def opened_for(
    given: str | os.PathLike[str], channels: int
) -> Iterator[Image.Image | NDArray[Any]]:
    """An image with room in memory for as long as it is in use: what a photo is, as Pillow's RGB;
    others as an array [H, W, C]. channels: that are wanted."""
    path = Path(given)
    with ExitStack() as stack:
        form = None if channels in (1, 3) else _own_bands
        yield _decoded(path, lambda size: stack.enter_context(DECODED.held(size)), form, channels)


@contextmanager
def opened_bytes(data: bytes, name: str) -> Iterator[Image.Image]:
    """`opened_for` of a photo's bytes. name: of the picture, for messages. Raises ImageError."""
    if not data:
        raise ImageError(f"{name}: empty; expected an image")
    with ExitStack() as stack:
        image = _image_of(
            io.BytesIO(data), name, lambda size: stack.enter_context(DECODED.held(size))
        )
        assert isinstance(image, Image.Image)  # no form was given
        yield image


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
        # Above the limit Pillow warns, above twice the limit it raises: here both are refused.
        with hushed(), Image.open(source) as image:
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
        with hushed(), Image.open(path):
            return True
    except UnidentifiedImageError:
        return False


def _array(path: Path, channels: int, wait: Callable[[int], None]) -> NDArray[Any]:
    """An .npy or TIFF file as [H, W, C]. Raises ImageError, or what Pillow raises of a TIFF."""
    try:
        with hushed():
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
