"""Maps as columns of a table: a grid of numbers, float16 values, or a PNG.

    grid      list<float32> of side x side: the means of the map's cells, of its largest value over
              channels (absolute, as Simonyan et al. 2014); class activation maps as they are
    float16   the map as it is, signed, in its own shape: bytes of little-endian float16
    png       an 8-bit grey picture: 0 is 0 and 255 the largest absolute value over channels; of a
              map without channels that has negative values too, 128 is 0: the file's text `zero`

float16 has five decimal digits of range below 1 and saliency has no range of its own: float16 and
png hold a map by its largest absolute value, which stands beside it in `scale_<method>`.
"""

from __future__ import annotations

import importlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from ...errors import UsageError
from ..photos.images import InputSpec, channels_last, map_layout

__all__ = ["FORMS", "SIDE", "MapColumns", "decoded"]

FORMS = ("grid", "float16", "png")
SIDE = 16
_MOST_SIDE = 256
ZERO = "zero"  # of a PNG's own texts: the grey that stands for 0, where it isn't 0
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class MapColumns:
    """The columns of one method's maps. form: see above; side: of a grid; spec: of the image
    input, which says where a map's channels are. Raises UsageError."""

    method: str
    form: str
    side: int
    spec: InputSpec

    def __post_init__(self) -> None:
        if self.form not in FORMS:
            raise UsageError.unknown("maps", self.form, FORMS)
        if not 1 <= self.side <= _MOST_SIDE:
            raise UsageError(f"grid {self.side}; expected 1 to {_MOST_SIDE}")

    @property
    def names(self) -> tuple[str, ...]:
        """Of the columns."""
        map_, scale = f"saliency_{self.method}", f"scale_{self.method}"
        return (map_,) if self.form == "grid" else (map_, scale)

    def fields(self, shape: Sequence[int]) -> list[Any]:
        """Of the schema. shape: of a map, without the batch."""
        pa: Any = importlib.import_module("pyarrow")
        kind, says = pa.binary(), {"form": self.form, "shape": ",".join(map(str, shape))}
        if self.form == "grid":
            number = pa.field("element", pa.float32(), nullable=False)
            kind = pa.list_(number, self.side * self.side)
            says["shape"] = f"{self.side},{self.side}"
        kinds = (kind, pa.float32())
        return [
            pa.field(name, k, metadata=says) for name, k in zip(self.names, kinds, strict=False)
        ]

    def cells(self, values: Floats) -> dict[str, Any]:
        """One map, [H, W] or with channels -> a value for each column."""
        if self.form == "grid":
            plane = Image.fromarray(self._plane(values))
            grid = plane.resize((self.side, self.side), Image.Resampling.BOX)
            return {self.names[0]: np.asarray(grid, np.float32).reshape(-1)}
        scale = float(np.abs(values).max(initial=0))
        held = values / np.float32(scale) if scale else values
        data = held.astype("<f2").tobytes() if self.form == "float16" else _png(self._plane(held))
        return {self.names[0]: data, self.names[1]: scale}

    def _plane(self, values: Floats) -> Floats:
        """A map as [H, W]: the largest absolute value over its channels, if it has any."""
        shape = map_layout(values.shape, self.spec)
        if shape == "nhw":
            return np.ascontiguousarray(values, np.float32)
        return np.ascontiguousarray(np.abs(channels_last(values, shape)).max(axis=2), np.float32)


def _png(plane: Floats) -> bytes:
    """-1..1 -> a picture. Where 0 is not 0 the file says so, in a text of its own."""
    signed = plane.min(initial=0) < 0
    grey = np.rint(128 + 127 * plane if signed else 255 * plane).astype(np.uint8)
    says = PngInfo()
    if signed:
        says.add_text(ZERO, "128")
    made = io.BytesIO()
    Image.fromarray(grey).save(made, "PNG", pnginfo=says, compress_level=3)
    return made.getvalue()


def decoded(cell: Any, scale: float | None, form: str, shape: Sequence[int]) -> Floats:
    """A map again, float32, from its column's value. form, shape: what the field's metadata says.
    Raises ValueError for bytes that are none."""
    if form == "grid":
        return np.asarray(cell, np.float32).reshape(tuple(shape))
    factor = np.float32(0 if scale is None else scale)
    if form == "float16":
        return np.frombuffer(cell, "<f2").reshape(tuple(shape)).astype(np.float32) * factor
    with Image.open(io.BytesIO(cell), formats=["PNG"]) as image:
        zero = float(image.info.get(ZERO, 0))
        grey = np.asarray(image, np.float32)
    return (grey - zero) / (255 - zero) * factor
