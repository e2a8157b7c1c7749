"""The input of a model that takes images: its shape, and where the channels are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import ModelError

__all__ = ["InputSpec", "channels_last", "in_rgb", "layout_of", "map_layout"]


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


def map_layout(shape: Sequence[int], spec: InputSpec) -> str:
    """The layout of a map without its batch: the input's, but where the gradient was taken behind a
    Transpose of the model's own, the other; "nhw" for one without channels."""
    if len(shape) != 3:
        return "nhw"
    own, other = ("nhwc", "nchw") if spec.layout == "nhwc" else ("nchw", "nhwc")
    known = (1, 3, 4) if spec.channels is None else (spec.channels,)
    at = {"nchw": shape[0], "nhwc": shape[2]}
    return other if at[own] not in known and at[other] in known else own


def channels_last(values: NDArray[Any], layout: str) -> NDArray[Any]:
    """One image or map, without its batch, as [H, W, C]."""
    if layout == "nhw":
        return values[..., None]
    return values.transpose(1, 2, 0) if layout == "nchw" else values


def in_rgb(values: NDArray[Any], color: str) -> NDArray[Any]:
    """[H, W, C] in the model's channel order -> [H, W, 3] RGB."""
    if values.shape[-1] == 1:
        return np.repeat(values, 3, axis=-1)
    return values[..., ::-1] if color == "BGR" else values
