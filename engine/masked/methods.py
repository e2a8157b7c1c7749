"""The methods that the engine holds, by their names in the registry: what makes their maps.

`export/methods.py` has the row, this table what `backlight explain` calls for it; a test holds the
two together.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ...errors import UsageError
from ...export.methods import METHODS, Method
from ...kernels import BaselineLike
from ..classifier.intake import Score
from .ablationcam import AblationCam
from .attributed import OWN_MEAN, Attribution
from .cams import ChannelCam, Weighted
from .kernelshap import KernelShap
from .lime import Lime
from .scorecam import ScoreCam
from .scoring import Progress, Scorer
from .superpixels import SuperpixelsLike

__all__ = ["BUILDERS", "Drawn", "Draws", "Masking", "build"]


@dataclass(frozen=True)
class Masking:
    """What these methods are told; None: each one's default.

    segments, masks, seed, hide: of LIME and KernelSHAP, see Lime; hide is their baseline. score: of
    all.
    layer, fuse, size, signed: of class activation maps, see `backlight.export`.
    """

    segments: SuperpixelsLike | None = None
    masks: int | None = None
    seed: int | None = None
    hide: BaselineLike | None = None
    score: Score | None = None
    layer: Sequence[str] = ()
    fuse: bool = False
    size: str = "input"
    signed: bool = False

    def check(self, rows: Sequence[Method]) -> None:
        """Refuse what none of the methods asked for listens to. Raises UsageError."""
        cut = any(row.by == "superpixels" for row in rows)
        given = {"segments": self.segments, "masks": self.masks, "seed": self.seed,
                 "hide": self.hide}  # fmt: skip
        alone = next((name for name, value in given.items() if value is not None), None)
        if alone is not None and not cut:
            have = [m.name for m in METHODS.values() if m.by == "superpixels"]
            raise UsageError(f"{alone} is of methods on superpixels: {', '.join(have)}")
        if self.score is not None and not any(row.held == "engine" for row in rows):
            have = [m.name for m in METHODS.values() if m.held == "engine"]
            raise UsageError(f"score is of methods that run the model on masked images: "
                             f"{', '.join(have)}")  # fmt: skip


@dataclass(frozen=True)
class Drawn:
    """One image's maps by one method.

    maps: by name, [H, W]. facts: for summary.json. says: for captions and the terminal, in a line.
    labels: int32 [H, W], the segments, where there are any.
    """

    maps: Mapping[str, NDArray[np.float32]]
    facts: dict[str, Any]
    says: str
    labels: NDArray[np.int32] | None = None


class Draws(Protocol):
    """A method, ready. name: its row's; names: of its maps. layers: of class activation maps, with
    the reasons. runs: about how many variants an image takes. settings: for summary.json."""

    @property
    def name(self) -> str: ...

    @property
    def names(self) -> tuple[str, ...]: ...

    @property
    def layers(self) -> tuple[str, ...]: ...

    @property
    def reasons(self) -> tuple[str, ...]: ...

    @property
    def runs(self) -> int: ...

    @property
    def settings(self) -> dict[str, Any]: ...

    def draw(self, inputs: Any, target: int, progress: Progress) -> Drawn:
        """One image, [1, ...]. Raises ImageError."""


@dataclass(frozen=True)
class _Segmented:
    """LIME or KernelSHAP."""

    name: str
    made: Attribution
    layers: tuple[str, ...] = ()
    reasons: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        return (self.name,)

    @property
    def runs(self) -> int:
        return self.made.masks or 2048

    @property
    def settings(self) -> dict[str, Any]:
        own = self.made.baseline
        return {
            "segments": self.made.segments.name,
            "masks": self.made.masks,
            "seed": self.made.seed,
            "hide": OWN_MEAN if own is None else own.kind,
            "score": self.made.score,
        }

    def draw(self, inputs: Any, target: int, progress: Progress) -> Drawn:
        found = self.made.measure(inputs, target, progress=progress)
        values, labels = found.values[0][0], found.labels[0]
        r2, gap = float(found.r2[0, 0]), float(found.gap[0, 0])
        exact, masks = bool(found.exact[0]), int(found.masks[0])
        facts = {
            "segments": len(values),
            "masks": masks,
            "exact": exact,
            "seed": self.made.seed,
            "score": self.made.score,
            "r2": None if np.isnan(r2) else round(r2, 6),
            "gap": gap,
            "values": [float(v) for v in values],
        }
        every = "every one of " if exact else ""
        seed = "" if exact else f", seed {self.made.seed}"
        fit = "nothing to fit" if np.isnan(r2) else f"R2 {r2:.2f}"
        if not exact and masks <= len(values) and not np.isnan(r2):
            fit += " (of no more masks than segments: it says little)"
        near = 0.0 if abs(gap) < 1e-12 else gap  # float64's rounding is no gap
        says = (
            f"{len(values)} segments ({self.made.segments.name}), {every}{masks} masks{seed}, "
            f"{self.made.score}, {fit}, gap {near:+.2g}"
        )
        return Drawn({self.name: found.heat[0, 0]}, facts, says, labels)


def _segmented(made: Callable[..., Attribution], name: str, scorer: Scorer, told: Masking) -> Draws:
    given = {
        "segments": told.segments, "masks": told.masks, "seed": told.seed, "baseline": told.hide,
        "score": told.score,
    }  # fmt: skip
    options = {k: v for k, v in given.items() if v is not None}
    return _Segmented(name, made(scorer, **options))


@dataclass(frozen=True)
class _Weighing:
    """Score-CAM or Ablation-CAM, of each layer asked for."""

    name: str
    made: tuple[ChannelCam, ...]
    fuse: bool

    @property
    def names(self) -> tuple[str, ...]:
        if self.fuse or len(self.made) == 1:
            return (self.name,)
        return tuple(f"{self.name}_{i}" for i in range(len(self.made)))

    @property
    def layers(self) -> tuple[str, ...]:
        return tuple(cam.layer for cam in self.made)

    @property
    def reasons(self) -> tuple[str, ...]:
        return tuple(cam.reason for cam in self.made)

    @property
    def runs(self) -> int:
        return 512 * len(self.made)

    @property
    def settings(self) -> dict[str, Any]:
        first = self.made[0]
        return {"layers": list(self.layers), "score": first.score, "signed": first.signed,
                "size": first.size, "fuse": self.fuse}  # fmt: skip

    def draw(self, inputs: Any, target: int, progress: Progress) -> Drawn:
        found = [cam.measure(inputs, target, progress=progress) for cam in self.made]
        maps = [one.heat[0, 0] for one in found]
        facts = {
            "score": self.made[0].score,
            "layers": [
                {"layer": one.layer, "channels": one.weights.shape[2], "runs": int(one.runs[0]),
                 "dead": int(one.dead[0])}
                for one in found
            ],
        }  # fmt: skip
        if self.fuse:
            maps = [np.maximum.reduce([_scaled(one) for one in maps])]
        says = f"{self.made[0].score}, {', '.join(_told(one) for one in found)}"
        return Drawn(dict(zip(self.names, maps, strict=True)), facts, says)


def _told(found: Weighted) -> str:
    channels, runs = found.weights.shape[2], int(found.runs[0])
    how = f"{runs} runs" if runs else "in closed form"
    return f"{channels} channels, {how}"


def _scaled(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """tanh(2 m / max m), as maps of several layers are fused (Jiang et al. 2021)."""
    top = float(values.max())
    return np.asarray(np.tanh(2 * values / (top if top > 0 else 1)), np.float32)


def _weighing(made: Callable[..., ChannelCam], name: str, scorer: Scorer, told: Masking) -> Draws:
    options = {"size": told.size, "signed": told.signed, "score": told.score}
    layers = tuple(dict.fromkeys(told.layer)) or (None,)
    return _Weighing(name, tuple(made(scorer, layer=one, **options) for one in layers), told.fuse)


BUILDERS: Mapping[str, Callable[[str, Scorer, Masking], Draws]] = {
    "lime": partial(_segmented, Lime),
    "kernelshap": partial(_segmented, KernelShap),
    "scorecam": partial(_weighing, ScoreCam),
    "ablationcam": partial(_weighing, AblationCam),
}


def build(name: str, scorer: Scorer, told: Masking) -> Draws:
    """What draws the maps of a method that the engine holds. Raises UsageError, ModelError."""
    return BUILDERS[name](name, scorer, told)
