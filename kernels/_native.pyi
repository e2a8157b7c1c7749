# The module that bindings/module.cpp builds. Marshalling only: every array is C-contiguous.
# shape: (planes, height, row elements, inner), as struct Shape in masks.h.
from typing import Any

from numpy import float32, float64, int32, int64, uint8
from numpy.typing import NDArray

def apply_windows(
    image: NDArray[Any],
    base: NDArray[Any],
    out: NDArray[Any],
    shape: tuple[int, int, int, int],
    boxes: NDArray[int32],
    threads: int,
) -> None: ...
def apply_grids(
    image: NDArray[Any],
    base: NDArray[Any],
    out: NDArray[Any],
    shape: tuple[int, int, int, int],
    grids: NDArray[uint8],
    shifts: NDArray[int32],
    step: tuple[float, float],
    threads: int,
) -> None: ...
def apply_maps(
    image: NDArray[Any],
    base: NDArray[Any],
    out: NDArray[Any],
    shape: tuple[int, int, int, int],
    maps: NDArray[float32],
    step: tuple[float, float],
    threads: int,
) -> None: ...
def apply_segments(
    image: NDArray[Any],
    base: NDArray[Any],
    out: NDArray[Any],
    shape: tuple[int, int, int, int],
    labels: NDArray[int32],
    table: NDArray[uint8],
    threads: int,
) -> None: ...
def accumulate_windows(
    total: NDArray[float64], values: NDArray[float64], boxes: NDArray[int32], threads: int
) -> None: ...
def accumulate_grids(
    total: NDArray[float64],
    values: NDArray[float64],
    grids: NDArray[uint8],
    shifts: NDArray[int32],
    step: tuple[float, float],
    threads: int,
) -> None: ...
def accumulate_maps(
    total: NDArray[float64],
    values: NDArray[float64],
    maps: NDArray[float32],
    step: tuple[float, float],
    threads: int,
) -> None: ...
def accumulate_segments(
    total: NDArray[float64], values: NDArray[float64], table: NDArray[uint8]
) -> None: ...
def paint(heat: NDArray[float32], values: NDArray[float64], labels: NDArray[int32]) -> None: ...

# spans: int32 [2, outputs], first and count; weights: int32 [outputs, most]: streams/resample.py.
def resample(
    out: NDArray[uint8],
    pixels: NDArray[uint8],
    y_spans: NDArray[int32],
    y_weights: NDArray[int32],
    x_spans: NDArray[int32],
    x_weights: NDArray[int32],
) -> None: ...
def resample_arrow(
    out: NDArray[uint8],
    pixels: Any,
    height: int,
    width: int,
    y_spans: NDArray[int32],
    y_weights: NDArray[int32],
    x_spans: NDArray[int32],
    x_weights: NDArray[int32],
) -> None: ...
def merge_topk(
    values: NDArray[float32],
    image: NDArray[int64],
    position: NDArray[int64],
    maps: NDArray[float32],
    index: NDArray[int64],
    one_each: bool,
) -> None: ...
def lift_numbers(
    text: bytes | memoryview, least: int
) -> tuple[bytes, list[tuple[NDArray[float64], tuple[int, ...], bool]], int]: ...
