"""What an image made by gradient descent should look like besides: priors of natural images.

Mahendran and Vedaldi 2016 ("Visualizing Deep CNNs Using Natural Pre-Images", IJCV): with B the
typical size of a pixel and V that of a step between two neighbours, both priors are about 1 for a
photo, whatever its size. All functions take NumPy or CuPy arrays, z: float [N, C, H, W], in pixel
units (-127.5 .. 127.5, 0 is mid-grey), and give a value per image and its gradient by z.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ...errors import UsageError

__all__ = ["Priors", "alpha_norm", "total_variation"]

# A step of this many levels between two pixels is flat: keeps s ** (beta/2 - 1) finite at 0.
_FLAT = 1.0


@dataclass(frozen=True)
class Priors:
    """The alpha-norm and total variation, each with its weight; 0 leaves one out.

    alpha, bound: the exponent and B, in pixel units. beta, step: the exponent and V.
    """

    alpha_weight: float = 1.0
    tv_weight: float = 1.0
    alpha: float = 6.0
    bound: float = 80.0
    beta: float = 2.0
    step: float = 80.0 / 6.5

    def __post_init__(self) -> None:
        for name in ("alpha_weight", "tv_weight"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise UsageError(f"{name} {getattr(self, name)}; expected 0 or more")
        for name in ("alpha", "beta"):
            if not 1 <= getattr(self, name) <= 16:
                raise UsageError(f"{name} {getattr(self, name)}; expected 1 to 16")
        for name in ("bound", "step"):
            if not 0 < getattr(self, name) < float("inf"):
                raise UsageError(f"{name} {getattr(self, name)}; expected more than 0")

    def __call__(self, z: Any) -> tuple[Any, Any]:
        """The weighted sum, [N], and its gradient, shaped like z."""
        value, gradient = 0.0 * z[:, 0, 0, 0], 0.0 * z
        if self.alpha_weight:
            norm, by = alpha_norm(z, self.alpha, self.bound)
            value, gradient = value + self.alpha_weight * norm, gradient + self.alpha_weight * by
        if self.tv_weight:
            variation, by = total_variation(z, self.beta, self.step)
            value, gradient = value + self.tv_weight * variation, gradient + self.tv_weight * by
        return value, gradient


def alpha_norm(z: Any, alpha: float, bound: float) -> tuple[Any, Any]:
    """The mean over pixels of (|pixel| / (bound sqrt(C))) ** alpha, |pixel| over channels."""
    _, depth, height, width = z.shape
    scaled = z / bound
    square = (scaled * scaled).mean(axis=1, keepdims=True)
    pixels = height * width
    value = (square ** (alpha / 2)).sum(axis=(1, 2, 3)) / pixels
    # d square / d scaled = 2 scaled / C; the small number is for alpha < 2 at grey.
    slope = alpha / 2 * (square + 1e-12) ** (alpha / 2 - 1)
    return value, slope * scaled * (2 / (depth * bound * pixels))


def total_variation(z: Any, beta: float, step: float) -> tuple[Any, Any]:
    """The mean over pixels and channels of (dx**2 + dy**2) ** (beta / 2) / step ** beta, with the
    differences to the right and lower neighbours, 0 at the border."""
    right = 0.0 * z
    down = 0.0 * z
    right[..., :-1] = (z[..., 1:] - z[..., :-1]) / step
    down[..., :-1, :] = (z[..., 1:, :] - z[..., :-1, :]) / step
    square = right * right + down * down
    count = z[0].size
    floor = (_FLAT / step) ** 2
    value = ((square + floor) ** (beta / 2) - floor ** (beta / 2)).sum(axis=(1, 2, 3)) / count
    slope = beta * (square + floor) ** (beta / 2 - 1) / (count * step)
    right *= slope
    down *= slope
    gradient = -right - down
    gradient[..., 1:] += right[..., :-1]
    gradient[..., 1:, :] += down[..., :-1, :]
    return value, gradient
