"""Images of any number of bands, .npy files and multi-band TIFF: as they are and as they are shown.

A photo has three bands of bytes. What a satellite, a microscope or a scanner writes has one to
hundreds, of other types: their values are the model's business, and a picture of them is made of a
few bands.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ...errors import ImageError
from ...export.preprocess import Preprocess
from ...kernels.streams.resample import Box
from . import tiff
from .arrays import Header, array_in
from .room import BUDGET

__all__ = [
    "as_bytes",
    "default_bands",
    "expects_bytes",
    "in_colours",
    "is_array",
    "is_tiff",
    "laid_out",
    "read_bands",
    "resized_bands",
]

ARRAYS = frozenset((".npy",))
TIFFS = frozenset((".tif", ".tiff"))
# What is left out on either side where bands are stretched into a picture, in percent.
STRETCH = 2.0
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)

# Called with the bytes that an image will take, before they are taken.
Wait = Callable[[int], None]


def is_array(path: Path) -> bool:
    """Whether a file's name says that it is an array."""
    return path.suffix.lower() in ARRAYS


def is_tiff(path: Path) -> bool:
    """Whether a file's name says that it is a TIFF."""
    return path.suffix.lower() in TIFFS


def read_bands(path: Path, wait: Wait) -> NDArray[Any]:
    """An .npy or TIFF file's numbers, [H, W] or three axes of which one is the bands, in this
    machine's byte order. Raises OSError, and ValueError with the reason for anything else."""
    return _from_npy(path, wait) if is_array(path) else _from_tiff(path, wait)


def _from_npy(path: Path, wait: Wait) -> NDArray[Any]:
    def checked(header: Header) -> None:
        shape = _squeezed(header.shape)
        if not 2 <= len(shape) <= 3 or 0 in shape:
            shown = ",".join(map(str, header.shape))
            raise ValueError(f"shaped [{shown}]; expected [H,W,C], [C,H,W] or [H,W]")
        if header.dtype.kind == "b":
            raise ValueError("an array of truth values; expected numbers")
        wait(_needs(header.bytes))

    values = array_in(path, BUDGET, checked)
    return values.reshape(_squeezed(values.shape))


def _squeezed(shape: Sequence[int]) -> tuple[int, ...]:
    """A batch of one is an image."""
    return tuple(shape[1:]) if len(shape) == 4 and shape[0] == 1 else tuple(shape)


def _from_tiff(path: Path, wait: Wait) -> NDArray[Any]:
    with path.open("rb") as file:
        stream: Any = _Counted(file)
        pages = tiff.pages_of(stream)
        first = pages[0]
        if first.shape[2] > 1:
            pages = pages[:1]  # of an animation, the first frame
        total = len(pages) * first.bytes
        if total > BUDGET:
            raise ValueError(f"{total} bytes of numbers; at most {BUDGET} are read")
        wait(_needs(total))
        if len(pages) == 1:
            made = tiff.array_of(stream, first)
            return made[..., 0] if first.shape[2] == 1 else made
        # Bands, or rows, a page each: which of them, `laid_out` tells.
        return np.stack([tiff.array_of(stream, page)[..., 0] for page in pages])


class _Counted:
    """A file of which no more is read than a few times its size: directories may all point at the
    same megabytes."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._left = 4 * os.fstat(file.fileno()).st_size + (1 << 20)

    def read(self, count: int = -1) -> bytes:
        data = self._file.read(count)
        self._left -= len(data)
        if self._left < 0:
            raise ValueError("a TIFF file that says the same many times")
        return data

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()


def _needs(size: int) -> int:
    """What an image of so many bytes takes on its way: itself twice, and float32 of a part."""
    return 3 * size


def laid_out(values: NDArray[Any], channels: int) -> NDArray[Any]:
    """[H, W], [H, W, C] or [C, H, W] -> [H, W, C]. channels: of the model, which tell the last two
    apart; where neither or both fit, the shorter of the two axes is the bands, the last of equals.
    """
    if values.ndim == 2:
        return values[..., None]
    first, last = values.shape[0], values.shape[2]
    fits = [n == channels for n in (first, last)]
    ahead = fits[0] if fits[0] != fits[1] else first < last
    return values.transpose(1, 2, 0) if ahead else values


def expects_bytes(preprocess: Preprocess) -> bool:
    """Whether a preprocessing is made for 0..255: the usual scales, or Caffe's means."""
    if any(abs(preprocess.scale * whole - 1) < 0.02 for whole in (255, 127.5)):
        return True
    return (
        preprocess.scale == 1
        and len(preprocess.mean) == 3
        and all(80 < m < 160 for m in preprocess.mean)
    )


def as_bytes(values: NDArray[Any]) -> NDArray[Any] | None:
    """Values as if they were 0..255, as photos of more than 8 bits are read: 16 bits by 257, floats
    from 0..1 by 255. None for others, which stand for themselves."""
    if values.dtype == np.uint16:
        return values.astype(np.float32) / np.float32(257)
    if values.dtype.kind == "f" and float(values.min()) >= 0 and float(values.max()) <= 1:
        return values.astype(np.float32) * np.float32(255)
    return None


def grey(values: NDArray[Any]) -> NDArray[np.float32]:
    """[H, W, 3] of any type -> [H, W, 1], weighed as eyes do (ITU-R BT.601)."""
    return np.asarray((values.astype(np.float32) @ _LUMA)[..., None], np.float32)


def resized_bands(
    values: NDArray[Any], size: tuple[int, int], filter_: Image.Resampling, box: Box
) -> NDArray[np.float32]:
    """Each band of [H, W, C] resampled by itself: float32 [height, width, C]. Bytes are rounded to
    bytes again, as those of a photo are. Raises ImageError for NaN, infinity and what float32
    doesn't hold."""
    height, width = size
    tall, wide, depth = values.shape
    made = np.empty((height, width, depth), np.float32)
    same = size == (tall, wide) and box == (0, 0, wide, tall)
    with np.errstate(over="ignore"):
        for band in range(depth):
            if values.dtype == np.uint8:
                plane = np.ascontiguousarray(values[..., band])
            else:
                plane = np.ascontiguousarray(values[..., band], np.float32)
            if not np.isfinite(plane).all():
                raise ImageError(f"band {band + 1} has NaN, infinite or too large values")
            if not same:
                plane = np.asarray(Image.fromarray(plane).resize((width, height), filter_, box=box))
            made[..., band] = plane
    return made


def default_bands(depth: int) -> tuple[int, ...]:
    """The bands that are shown where nobody says which, counted from 1: three, or one in grey."""
    return (1, 2, 3) if depth >= 3 else (1,)


def in_colours(
    values: NDArray[Any], bands: Sequence[int] | None, stretched: bool
) -> NDArray[np.uint8]:
    """[H, W, C] as a picture, uint8 [H, W, 3]: three bands, or one in grey. stretched: from the
    2nd to the 98th percentile of what is shown; else they are 0..255."""
    shown = default_bands(values.shape[2]) if bands is None else bands
    picked = values[..., [b - 1 for b in shown]].astype(np.float32)
    if stretched:
        low, high = (float(v) for v in np.percentile(picked, (STRETCH, 100 - STRETCH)))
        if high <= low:
            low, high = float(picked.min()), float(picked.max())
        span = high - low  # divided by first: 255 times a number may be none
        picked = 255 * ((picked - low) / span) if span > 0 else np.full_like(picked, 127.5)
    made = np.clip(np.rint(picked), 0, 255).astype(np.uint8)
    return np.ascontiguousarray(np.broadcast_to(made, (*made.shape[:2], 3)))
