"""Baselines: what stands where a mask hides the image.

A baseline is given in the model's input space or in pixels (0..255, RGB), said by name, and is
resolved once per image to what the kernels read: a colour [C] or an image, in the image's dtype.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from .. import written
from ..errors import UsageError, hint

__all__ = ["Baseline", "BaselineLike", "InputSpace", "Layout", "as_baseline", "resolve"]

Kind: TypeAlias = Literal["zero", "constant", "colour", "mean", "image", "blur", "noise"]
Space: TypeAlias = Literal["input", "pixels"]
Layout: TypeAlias = Literal["nchw", "nhwc"]

KINDS = (
    "'zero', 'mean', 'blur' or 'blur:SIGMA', 'noise' or 'noise:SEED', a number, a colour, an image"
)
_NAMES = ("zero", "mean", "blur", "noise")


@dataclass(frozen=True)
class InputSpace:
    """How pixels become the model's input: (pixel * scale - mean) / std, per channel.

    scale: a number. mean, std: one number, or one per channel in the model's channel order.
    order: the model's channel order. Pixels are 0..255, RGB.
    """

    scale: float = 1.0
    mean: Sequence[float] = (0.0,)
    std: Sequence[float] = (1.0,)
    order: Literal["rgb", "bgr"] = "rgb"

    def from_pixels(self, pixels: NDArray[Any]) -> NDArray[np.float32]:
        """Pixels with RGB channels last, [..., C] -> input values in the model's order."""
        channels = pixels.astype(np.float64)
        if self.order == "bgr":
            channels = channels[..., ::-1]
        with np.errstate(over="ignore"):  # the caller sees what isn't finite
            scaled = (channels * self.scale - np.asarray(self.mean)) / np.asarray(self.std)
            return np.asarray(scaled, np.float32)


@dataclass(frozen=True, eq=False)
class Baseline:
    """kind, and what it needs.

    zero: 0 in `space`: in "input", the mean colour after centring; in "pixels", black.
    constant: `value`, one number. colour: `value`, one number per channel.
    image: `value`, an image in the layout of the input ("input"), or [H, W, C] ("pixels").
    mean: the image's own mean per channel. blur: the image after a Gaussian of `sigma` pixels,
    edges repeated. noise: Gaussian with the image's own mean and deviation per channel, from
    `seed`, the same for every variant. These three are the same in either space.
    """

    kind: Kind
    value: float | Sequence[float] | NDArray[Any] | None = None
    space: Space = "input"
    sigma: float = 10.0
    seed: int = 0


BaselineLike: TypeAlias = Baseline | str | float | Sequence[float] | NDArray[Any]


def as_baseline(given: BaselineLike, space: Space = "input") -> Baseline:
    """A Baseline from what people write: 'mean', 'blur:5', 'noise:7', 0.5, (124, 116, 104), an
    image (NumPy, CuPy or DLPack). Raises UsageError for an unknown name or parameter."""
    if space not in ("input", "pixels"):
        near = hint(space, ("input", "pixels"))
        raise UsageError(f"baseline space {space!r}; accepted: 'input', 'pixels'{near}")
    if isinstance(given, Baseline):
        return given
    if isinstance(given, str):
        return _named(given, space)
    if isinstance(given, bool):
        raise UsageError(f"baseline {given}; accepted: {KINDS}")
    try:
        if isinstance(given, int | float | np.number):
            return Baseline("constant", float(given), space)
        value = _array(given)
    except (BufferError, OverflowError, RuntimeError, TypeError, ValueError):
        raise UsageError(f"baseline {given!r}; accepted: {KINDS}") from None
    except ImportError as err:
        raise UsageError(f"a baseline in GPU memory needs CuPy ({err})") from None
    kinds: dict[int, Kind] = {0: "constant", 1: "colour"}
    return Baseline(kinds.get(value.ndim, "image"), value, space)


def _array(given: Any) -> Any:
    """Numbers as float64; NumPy and CuPy arrays as they are, others by DLPack without a copy."""
    if given is None:
        raise TypeError
    if isinstance(given, np.ndarray) or type(given).__module__.partition(".")[0] == "cupy":
        return given
    if not hasattr(given, "__dlpack__"):
        return np.asarray(given, np.float64)
    if hasattr(given, "detach"):  # a tensor that asks for gradients can't be exported
        given = given.detach()
    host = int(given.__dlpack_device__()[0]) in (1, 3)  # plain, or pinned
    return (np if host else importlib.import_module("cupy")).from_dlpack(given)


def _named(text: str, space: Space) -> Baseline:
    name, _, parameter = text.partition(":")
    if name in ("zero", "mean") and not parameter:
        return Baseline("zero" if name == "zero" else "mean", space=space)
    sigma, seed = written.number(parameter or "10"), written.whole(parameter or "0")
    if name == "blur" and sigma is not None:
        return Baseline("blur", space=space, sigma=sigma)
    if name == "noise" and seed is not None:
        return Baseline("noise", space=space, seed=seed)
    read = [written.number(v) for v in text.split(",")]
    numbers = [v for v in read if v is not None]
    if len(numbers) < len(read):
        raise UsageError(f"baseline {text!r}; accepted: {KINDS}{hint(name, _NAMES)}")
    if len(numbers) == 1:
        return Baseline("constant", numbers[0], space)
    return Baseline("colour", numbers, space)


def resolve(
    baseline: BaselineLike,
    image: Any,
    *,
    layout: Layout = "nchw",
    space: InputSpace | None = None,
    xp: Any = np,
) -> Any:
    """The baseline of one image as the kernels read it.

    image: [C, H, W] or, with layout="nhwc", [H, W, C]; float32, float16 or uint8; an array of
    `xp` (numpy or cupy), where the result lives too. space: needed for a baseline in pixels.
    Returns a contiguous colour [C] or an array shaped like the image, in the image's dtype.

    Raises UsageError: a baseline of another shape, not finite, outside the range of the image's
    dtype, a blur of sigma <= 0, a seed below 0, a baseline in pixels without `space`.
    """
    spec = as_baseline(baseline)
    last = layout == "nhwc"
    channels = image.shape[2 if last else 0]
    axes = (0, 1) if last else (1, 2)
    if spec.kind == "mean":
        return _cast(image.mean(axis=axes, dtype=np.float64), image.dtype, xp)
    if spec.kind == "blur":
        return _cast(_blur(image.astype(np.float32), spec.sigma, axes, xp), image.dtype, xp)
    if spec.kind == "noise":
        if spec.seed < 0:
            raise UsageError(f"noise seed {spec.seed}; accepted: 0 or more")
        # Drawn on the host: the same seed is then the same noise on every backend.
        pixels = np.random.default_rng(spec.seed).standard_normal(
            tuple(image.shape), dtype=np.float32
        )
        values = image.astype(np.float32)
        mean, deviation = (f(axis=axes, keepdims=True) for f in (values.mean, values.std))
        return _cast(xp.asarray(pixels) * deviation + mean, image.dtype, xp)
    return _given(spec, tuple(image.shape), channels, image.dtype, last, space, xp)


def _given(
    spec: Baseline,
    shape: tuple[int, ...],
    channels: int,
    dtype: np.dtype[Any],
    last: bool,
    space: InputSpace | None,
    xp: Any,
) -> Any:
    """A baseline that does not depend on the image: zero, constant, colour, image."""
    value: Any = 0.0 if spec.kind == "zero" else spec.value
    if value is None:
        raise UsageError(f"baseline {spec.kind!r} needs a value")
    if not hasattr(value, "ndim"):
        value = np.asarray(value, np.float64)
    if value.dtype.kind not in "iuf":
        raise UsageError(f"baseline is {value.dtype}; accepted: real numbers")
    pixels = spec.space == "pixels"
    if pixels and space is None:
        raise UsageError("a baseline in pixels needs the model's preprocessing; accepted: 'input'")
    want = shape
    if value.ndim == 0:
        value = np.full(channels, float(value))
    if value.ndim == 1:
        want = (channels,)
    elif pixels and not last:
        want = (*shape[1:], shape[0])
    if value.shape != want:
        raise UsageError(
            f"baseline has shape {list(value.shape)}; accepted: a number, [{channels}] or "
            f"{list(want if value.ndim == 3 else shape)}"
        )
    if pixels and space is not None:
        value = value if isinstance(value, np.ndarray) else value.get()
        value = space.from_pixels(value)
        if value.ndim == 3 and not last:
            value = value.transpose(2, 0, 1)
    value = xp.asarray(value)
    if not xp.isfinite(value).all():
        raise UsageError("baseline has values that are not finite")
    if dtype.kind == "f" and abs(value).max() > np.finfo(dtype).max:
        raise UsageError(f"baseline is outside the range of a {dtype} image")
    if dtype == np.uint8 and (value.min() < 0 or value.max() > 255):
        raise UsageError("baseline is outside 0..255, the range of a uint8 image")
    return _cast(value, dtype, xp)


def _cast(value: Any, dtype: np.dtype[Any], xp: Any) -> Any:
    if dtype == np.uint8:
        value = xp.floor(xp.clip(value, 0, 255) + 0.5)
    return xp.ascontiguousarray(value.astype(dtype))


def _blur(image: Any, sigma: float, axes: tuple[int, int], xp: Any) -> Any:
    """A separable Gaussian, cut at three sigma, edges repeated."""
    if not (0 < sigma < float("inf")):
        raise UsageError(f"blur sigma {sigma}; accepted: above 0 pixels")
    for axis in axes:
        radius = min(int(3 * sigma + 0.5), image.shape[axis] - 1)
        offsets = np.arange(-radius, radius + 1)
        kernel = np.exp(-0.5 * (offsets / sigma) ** 2)
        kernel /= kernel.sum()
        widths = [(radius, radius) if a == axis else (0, 0) for a in range(image.ndim)]
        padded = xp.pad(image, widths, mode="edge")
        total = xp.zeros_like(image)
        for i, weight in enumerate(kernel):
            window = [slice(None)] * image.ndim
            window[axis] = slice(i, i + image.shape[axis])
            total += np.float32(weight) * padded[tuple(window)]
        image = total
    return image
