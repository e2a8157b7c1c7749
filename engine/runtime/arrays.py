"""Arrays as callers hold them: NumPy, CuPy, or anything that speaks DLPack."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ...errors import ImageError
from .interface import one_line

if TYPE_CHECKING:
    from .session import Session

__all__ = ["is_cuda", "run_on_cuda", "taken", "to_host"]

_DLPACK_CPU = frozenset((1, 3))  # host memory, pinned host memory
_DLPACK_CUDA = frozenset((2, 13))  # device memory, managed memory

Back = Callable[[Any], Any]


def _library(x: Any) -> str:
    return type(x).__module__.partition(".")[0]


def is_cuda(x: Any) -> bool:
    """Whether an array is a CuPy array."""
    return _library(x) == "cupy"


def taken(x: Any) -> tuple[Any, Back]:
    """An array as NumPy (in host memory) or CuPy (on a GPU), without a copy, and the way back to
    the caller's library. Raises ImageError for what is no array."""
    if isinstance(x, np.ndarray) or is_cuda(x):
        return x, lambda result: result
    if not hasattr(x, "__dlpack__"):
        try:
            return np.asarray(x), lambda result: result
        except ValueError as err:
            raise ImageError(f"the input is no array: {one_line(err)}") from err
    home = importlib.import_module(_library(x))
    if hasattr(x, "detach"):  # a tensor that asks for gradients can't be exported
        x = x.detach()
    back = getattr(home, "from_dlpack", None) or (lambda result: result)
    device = int(x.__dlpack_device__()[0])
    if device in _DLPACK_CPU:
        return np.from_dlpack(x), back
    if device in _DLPACK_CUDA:
        return cupy().from_dlpack(x), back
    raise ImageError(f"the input lives on DLPack device {device}; accepted: CPU, CUDA")


def cupy() -> Any:
    """The module cupy. Raises ImageError, saying how to install it."""
    try:
        return importlib.import_module("cupy")
    except ImportError as err:
        raise ImageError("an input in GPU memory needs CuPy; pip install 'backlight[gpu]'") from err


def to_host(x: Any) -> NDArray[Any]:
    """A NumPy copy of a CuPy array; NumPy arrays as they are."""
    return np.asarray(cupy().asnumpy(x)) if is_cuda(x) else np.asarray(x)


def run_on_cuda(session: Session, feeds: Mapping[str, Any], outputs: list[str]) -> dict[str, Any]:
    """Run with inputs and outputs bound to device memory: CuPy (or NumPy) arrays in, CuPy out."""
    return session.bind(feeds, outputs)
