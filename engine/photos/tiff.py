"""TIFF files of any number of bands, in 8 to 64 bits, as arrays; Pillow has them up to four of 8.

Baseline TIFF 6.0 and its tags for planes, tiles, predictors and floats (Adobe's technical notes 2
and 3); uncompressed, PackBits, LZW and Deflate. Nothing is allocated or unpacked beyond the size
that the file declares, which is held against a limit first.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO, Literal

import numpy as np
from numpy.typing import NDArray
from PIL.TiffImagePlugin import ImageFileDirectory_v2

__all__ = ["Page", "array_of", "pages_of"]

_WIDTH, _LENGTH, _BITS, _COMPRESSION = 256, 257, 258, 259
_STRIPS, _SAMPLES, _ROWS, _COUNTS, _PLANAR = 273, 277, 278, 279, 284
_PREDICTOR, _TILE_WIDTH, _TILE_LENGTH, _TILES, _TILE_COUNTS = 317, 322, 323, 324, 325
_FORMAT = 339
_KINDS = {1: "u", 2: "i", 3: "f"}
MOST_BANDS = 4096
# Of what tiles have beyond the picture's border.
_SPARE = 1 << 26


@dataclass(frozen=True)
class Page:
    """One picture of a file. shape: rows, columns, bands. planes: each band by itself.

    pieces: offset and length of each strip or tile; size: rows and columns of one. order: the
    file's bytes, "<" or ">".
    """

    shape: tuple[int, int, int]
    dtype: np.dtype[Any]
    planes: bool
    compression: int
    predictor: int
    tiled: bool
    size: tuple[int, int]
    pieces: tuple[tuple[int, int], ...]
    order: Literal["<", ">"]

    @property
    def bytes(self) -> int:
        """Of its numbers."""
        return math.prod(self.shape) * self.dtype.itemsize


def pages_of(stream: BinaryIO) -> list[Page]:
    """The first page, and those after it that are alike. Raises ValueError with the reason for
    what isn't understood; Pillow's reader of directories raises more kinds."""
    stream.seek(0)
    start = stream.read(8)
    if start[2:4] == b"\x2b\x00" or start[2:4] == b"\x00\x2b":
        start += stream.read(8)
    directory = ImageFileDirectory_v2(start)
    order: Literal["<", ">"] = "<" if start[:2] == b"II" else ">"
    found: list[Page] = []
    seen: set[int] = set()
    at = directory.next
    while at and at not in seen and len(found) < MOST_BANDS:
        seen.add(at)
        stream.seek(at)
        directory = ImageFileDirectory_v2(start)
        directory.load(stream)
        page = _page(directory, order)
        if found and (page.shape, page.dtype) != (found[0].shape, found[0].dtype):
            break  # a thumbnail, a mask, a smaller copy
        found.append(page)
        at = directory.next
    if not found:
        raise ValueError("a TIFF file without a picture")
    return found


def _page(tags: ImageFileDirectory_v2, order: Literal["<", ">"]) -> Page:
    bands = _one(tags, _SAMPLES, 1)
    shape = (_one(tags, _LENGTH), _one(tags, _WIDTH), bands)
    bits, kinds = _all(tags, _BITS, (1,)), _all(tags, _FORMAT, (1,))
    if not all(d > 0 for d in shape) or bands > MOST_BANDS:
        raise ValueError(f"a TIFF picture of {shape[1]} x {shape[0]} x {bands}")
    if len(set(bits)) != 1 or len(set(kinds)) != 1 or kinds[0] not in _KINDS:
        raise ValueError("a TIFF file whose bands differ in type")
    kind = _KINDS[kinds[0]]
    if bits[0] not in (8, 16, 32, 64) or (kind == "f" and bits[0] == 8):
        raise ValueError(f"a TIFF file of {bits[0]} bits a band; read: 8, 16, 32 and 64")
    dtype = np.dtype(f"{kind}{bits[0] // 8}")
    tiled = _TILES in tags
    if tiled:
        size = (_one(tags, _TILE_LENGTH), _one(tags, _TILE_WIDTH))
    else:
        size = (min(_one(tags, _ROWS, shape[0]), shape[0]), shape[1])
    if min(size) < 1:
        raise ValueError("a TIFF file with tiles of no size")
    offsets = _all(tags, _TILES if tiled else _STRIPS, ())
    counts = _all(tags, _TILE_COUNTS if tiled else _COUNTS, ())
    if len(offsets) != len(counts) or not offsets:
        raise ValueError("a TIFF file whose pieces have no places")
    planes = _one(tags, _PLANAR, 1) == 2 and bands > 1
    return Page(
        shape, dtype, planes, _one(tags, _COMPRESSION, 1), _one(tags, _PREDICTOR, 1), tiled, size,
        tuple(zip(offsets, counts, strict=True)), order,
    )  # fmt: skip


def _all(tags: ImageFileDirectory_v2, tag: int, otherwise: Sequence[int]) -> tuple[int, ...]:
    held = tags.get(tag, otherwise)
    values = tuple(held) if isinstance(held, (tuple, list)) else (held,)
    if not all(isinstance(v, int) and not isinstance(v, bool) and v >= 0 for v in values):
        raise ValueError(f"a TIFF file whose tag {tag} is no number")
    return values


def _one(tags: ImageFileDirectory_v2, tag: int, otherwise: int | None = None) -> int:
    values = _all(tags, tag, () if otherwise is None else (otherwise,))
    if not values:
        raise ValueError(f"a TIFF file without tag {tag}")
    return values[0]


def array_of(stream: BinaryIO, page: Page) -> NDArray[Any]:
    """A page's numbers, [H, W, bands], in this machine's byte order. Raises ValueError."""
    if page.compression not in _UNPACKED:
        raise ValueError(
            f"TIFF compression {page.compression}; read: none, PackBits, LZW and Deflate"
        )
    fitting = {1: "uif", 2: "uif", 3: "f"}
    if page.dtype.kind not in fitting.get(page.predictor, ""):
        raise ValueError(f"TIFF predictor {page.predictor} of {page.dtype}")
    height, width, bands = page.shape
    deep = 1 if page.planes else bands
    tall, wide = page.size
    down, across = -(-height // tall), -(-width // wide)
    layers = bands if page.planes else 1
    if len(page.pieces) < down * across * layers:
        raise ValueError("a TIFF file that lacks some of its pieces")
    count = down * across * layers
    if count * math.prod((*page.size, deep)) * page.dtype.itemsize > 4 * page.bytes + _SPARE:
        raise ValueError("a TIFF file whose tiles are much larger than its picture")
    made = np.zeros(page.shape, page.dtype)
    for number in range(count):
        layer, place = divmod(number, down * across)
        row, column = place // across * tall, place % across * wide
        rows = tall if page.tiled else min(tall, height - row)
        piece = _piece(stream, page, page.pieces[number], (rows, wide, deep))
        piece = piece[: height - row, : width - column]
        where = np.s_[row : row + len(piece), column : column + piece.shape[1]]
        if page.planes:
            made[(*where, layer)] = piece[..., 0]
        else:
            made[where] = piece
    return made


def _piece(
    stream: BinaryIO, page: Page, where: tuple[int, int], shape: tuple[int, int, int]
) -> NDArray[Any]:
    """One strip or tile, [rows, columns, bands]."""
    size = math.prod(shape) * page.dtype.itemsize
    offset, count = where
    if offset == 0 and count == 0:  # a piece of nothing, as GDAL writes it
        return np.zeros(shape, page.dtype)
    stream.seek(offset)
    # A piece of noise grows by less than this in any of them.
    packed = stream.read(min(count, 2 * size + 65536))
    data = _UNPACKED[page.compression](packed, size)
    if len(data) < size:
        raise ValueError("a TIFF file that is cut short")
    if page.predictor == 3:
        return _floats(np.frombuffer(data, np.uint8, size), page.dtype, shape)
    held = np.frombuffer(data, page.dtype.newbyteorder(page.order), math.prod(shape))
    values = held.reshape(shape).astype(page.dtype)
    if page.predictor == 2:  # each the difference to the one on its left
        whole = values.view(f"u{page.dtype.itemsize}")
        np.add.accumulate(whole, axis=1, dtype=whole.dtype, out=whole)
    return values


def _floats(
    data: NDArray[np.uint8], dtype: np.dtype[Any], shape: tuple[int, int, int]
) -> NDArray[Any]:
    """The third predictor: of each row the highest bytes of all numbers come first, as
    differences."""
    rows, columns, bands = shape
    flat = data.reshape(rows, dtype.itemsize * columns, bands)
    flat = np.add.accumulate(flat, axis=1, dtype=np.uint8)
    planes = flat.reshape(rows, dtype.itemsize, columns * bands).transpose(0, 2, 1)
    made = np.ascontiguousarray(planes).view(dtype.newbyteorder(">"))
    return made.reshape(shape).astype(dtype)


def _deflated(data: bytes, size: int) -> bytes:
    try:
        return zlib.decompressobj().decompress(data, size)
    except zlib.error as err:
        raise ValueError("a TIFF file whose Deflate data is broken") from err


def _packed_bits(data: bytes, size: int) -> bytes:
    made = bytearray()
    at = 0
    while at < len(data) and len(made) < size:
        count = data[at]
        at += 1
        if count < 128:
            made += data[at : at + count + 1]
            at += count + 1
        elif count > 128:
            made += data[at : at + 1] * (257 - count)
            at += 1
    return bytes(made[:size])


_CLEAR, _END = 256, 257


def _lzw(data: bytes, size: int) -> bytes:
    """TIFF 6.0, section 13: codes of 9 to 12 bits, the highest bit first."""
    first = [bytes((i,)) for i in range(256)] + [b"", b""]
    table, made, before = list(first), bytearray(), b""
    bits, held, width = 0, 0, 9
    for byte in data:
        held, bits = held << 8 | byte, bits + 8
        if bits < width:
            continue
        bits -= width
        code = held >> bits
        held &= (1 << bits) - 1
        if code == _CLEAR:
            table, width, before = list(first), 9, b""
            continue
        if code == _END or len(made) >= size:
            break
        if code < len(table):
            found = table[code]
        elif before and code == len(table):
            found = before + before[:1]
        else:
            raise ValueError("a TIFF file whose LZW data is broken")
        made += found
        if before:
            if len(table) >= 4096:
                raise ValueError("a TIFF file whose LZW data is broken")
            table.append(before + found[:1])
        before = found
        # One code before they run out.
        width = max(9, min((len(table) + 1).bit_length(), 12))
    return bytes(made[:size])


_UNPACKED: dict[int, Callable[[bytes, int], bytes]] = {
    1: lambda data, size: data[:size],
    5: _lzw,
    8: _deflated,
    32946: _deflated,
    32773: _packed_bits,
}
