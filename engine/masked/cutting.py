"""Seeds and colours to a mask: GrabCut (Rother et al. 2004) by OpenCV, or random walks (Grady 2006)
by scikit-image. Neither is there unless its extra is installed."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ...errors import RunError, UsageError

__all__ = ["WAYS", "Cutter", "cutter_for"]

WAYS = ("auto", "grabcut", "random-walker")
# How much a step over an edge costs a walker: scikit-image's own default.
BETA = 130


class Cutter(Protocol):
    """Cuts along colours. name: the way, for people."""

    name: str

    def __call__(self, picture: NDArray[np.uint8], seeds: NDArray[np.int8]) -> NDArray[np.bool_]:
        """The largest connected part of the object. picture: RGB, uint8 [H, W, 3]; seeds: int8
        [H, W], 1 the object, -1 the background, 0 open; some of the first."""
        ...


# GrabCut takes milliseconds for each, and settles within ten.
MOST_ITERATIONS = 10_000


def cutter_for(way: str, iterations: int, seed: int) -> Cutter:
    """What cuts. Raises UsageError where its library is missing."""
    if iterations < 1:
        raise UsageError(f"iterations {iterations}; expected 1 or more")
    if iterations > MOST_ITERATIONS:
        raise UsageError(f"iterations {iterations}; expected at most {MOST_ITERATIONS}")
    if not 0 <= seed < 1 << 31:
        raise UsageError(f"seed {seed}; expected 0 to {(1 << 31) - 1}")
    makers: dict[str, Callable[[], Cutter]] = {
        "grabcut": lambda: GrabCut(iterations, seed),
        "random-walker": RandomWalker,
    }
    missing = {
        "grabcut": "OpenCV; pip install 'backlight[grabcut]'",
        "random-walker": "scikit-image; pip install 'backlight[segments]'",
    }
    for name in makers if way == "auto" else (way,):
        try:
            return makers[name]()
        except ImportError as err:
            if way != "auto":
                raise UsageError(f"way '{way}' needs {missing[way]}") from err
    raise UsageError(f"segmenting needs {', or '.join(missing.values())}")


class GrabCut:
    """Mixtures of colours for object and background, and the cheapest cut between them."""

    name = "grabcut"

    def __init__(self, iterations: int, seed: int) -> None:
        import cv2

        self._cv2: Any = cv2
        self.iterations, self.seed = iterations, seed

    def __call__(self, picture: NDArray[np.uint8], seeds: NDArray[np.int8]) -> NDArray[np.bool_]:
        cv2 = self._cv2
        mask = np.full(seeds.shape, cv2.GC_PR_BGD, np.uint8)
        mask[seeds > 0] = cv2.GC_FGD
        mask[seeds < 0] = cv2.GC_BGD
        if (mask == cv2.GC_FGD).all():
            return np.ones(seeds.shape, bool)
        cv2.setRNGSeed(self.seed)
        colours = np.zeros((1, 65)), np.zeros((1, 65))
        try:
            # OpenCV's own order of channels.
            cv2.grabCut(
                np.ascontiguousarray(picture[..., ::-1]), mask, None, *colours, self.iterations,
                cv2.GC_INIT_WITH_MASK,
            )  # fmt: skip
        except cv2.error as err:
            raise RunError(f"GrabCut failed: {err.err}") from err
        inside = (mask == cv2.GC_FGD) | (mask == cv2.GC_PR_FGD)
        _, labels = cv2.connectedComponents(inside.astype(np.uint8), connectivity=8)
        return largest(labels)


class RandomWalker:
    """Each open pixel is what most walks from it, slow over edges, reach first."""

    name = "random-walker"

    def __init__(self) -> None:
        from skimage import measure, segmentation

        self._measure: Any = measure
        self._segmentation: Any = segmentation

    def __call__(self, picture: NDArray[np.uint8], seeds: NDArray[np.int8]) -> NDArray[np.bool_]:
        labels = np.where(seeds > 0, 1, np.where(seeds < 0, 2, 0))
        if (labels == 0).any() and (labels == 2).any():
            with warnings.catch_warnings():
                # Of a solution that is rough by a thousandth: the larger of two still is.
                warnings.simplefilter("ignore", UserWarning)
                labels = self._segmentation.random_walker(
                    picture / 255.0, labels, beta=BETA, mode="cg_j", channel_axis=-1
                )
        return largest(self._measure.label(labels == 1, connectivity=2))


def largest(labels: NDArray[Any]) -> NDArray[np.bool_]:
    """The label above 0 that most pixels have; of as many, the first."""
    counts = np.bincount(labels.ravel())
    counts[0] = 0
    return np.asarray((labels == int(counts.argmax())) & (labels > 0))
