"""`backlight.Segment`: a saliency map as the seeds of a mask of the object.

Simonyan, Vedaldi, Zisserman 2014, "Deep Inside Convolutional Networks", section 3.2: the strongest
5 % of the map are the object, the weakest 30 % the background, colours decide the rest, and the
largest connected part is kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ... import arguments as take
from ...errors import ImageError, UsageError
from ...export.graph import ModelLike
from ...export.preprocess import Preprocess
from ...export.preprocess import given as given_preprocess
from ...export.sizes import Shapes
from ..classifier.extras import InputsLike
from ..classifier.intake import finite
from ..classifier.ready import Reading, Ready
from ..direct.explainer import Explainer
from ..photos.images import channels_last
from ..runtime import arrays
from ..runtime.session import Providers
from .cutting import WAYS, Cutter, cutter_for
from .occlusion import Occlusion
from .scoring import Progress, Scorer, no_progress
from .superpixels import picture_of

__all__ = ["METHODS", "Segment", "Segmentation"]

METHODS = ("vanilla", "gradcam", "occlusion")
# A window is this part of a side, and moves by half of itself.
WINDOWS = 7


@dataclass(frozen=True)
class Segmentation:
    """Where the object of a class is in N images.

    mask: Boolean [N, H, W], of the image as the model sees it. box: int64 [N, 4], its bounds: left,
    top, right, bottom, the last two outside. found: Boolean [N]; False where the map is the same
    everywhere, so that it has no seeds, and the mask is empty.
    heat: float32 [N, H, W], the map that the seeds are of. seeds: int8 [N, H, W], 1 the object, -1
    the background, 0 what colours decide. target: int64 [N], the classes. probabilities: float32
    [N, K], the model's; None where it gives none.
    """

    mask: NDArray[np.bool_]
    box: NDArray[np.int64]
    found: NDArray[np.bool_]
    heat: NDArray[np.float32]
    seeds: NDArray[np.int8]
    target: NDArray[np.int64]
    probabilities: NDArray[np.float32] | None


class Segment(Reading):
    """Masks of what a class is seen in (Simonyan et al. 2014).

    model: a path, bytes or an onnx.ModelProto: a classifier.
    method: whose map gives the seeds: "vanilla" (the largest absolute value over channels, as in
        the paper), "gradcam" or "occlusion".
    way: what cuts: "grabcut" (OpenCV), "random-walker" (scikit-image), or "auto": the first that is
        installed.
    foreground, background: quantiles of the map: above the one is the object, up to the other the
        background, as the border of the image is.
    iterations: of GrabCut, 5 unless told otherwise. seed: of its mixtures of colours, 0.
    window, stride: of occlusion, in pixels; None: a seventh of the shorter side, and half of that.
    preprocess: how pixels became inputs; None: what the model says, else the input's own range.
    of, providers, threads, shapes, inputs: see Explainer.

        segment = backlight.Segment("model.onnx")
        found = segment(segment.load(["cat.jpg"]))
        found.mask[0], found.box[0]

    Raises ModelError, UnsupportedNode, or UsageError, for a library that is missing too.
    """

    @take.accepts(
        method=take.text, way=take.text, foreground=take.number, background=take.number,
        iterations=take.whole, seed=take.whole, window=take.whole, stride=take.whole,
        preprocess=given_preprocess, of=take.text, providers=take.names, threads=take.whole,
    )  # fmt: skip
    def __init__(
        self,
        model: ModelLike | Ready,
        *,
        method: Literal["vanilla", "gradcam", "occlusion"] = "gradcam",
        way: Literal["auto", "grabcut", "random-walker"] = "auto",
        foreground: float = 0.95,
        background: float = 0.30,
        iterations: int | None = None,
        seed: int | None = None,
        window: int | None = None,
        stride: int | None = None,
        preprocess: Preprocess | str | None = None,
        of: str | None = None,
        providers: Providers = None,
        threads: int | None = None,
        shapes: Shapes | None = None,
        inputs: InputsLike | None = None,
    ) -> None:
        if method not in METHODS:
            raise UsageError.unknown("method", method, METHODS)
        if way not in WAYS:
            raise UsageError.unknown("way", way, WAYS)
        if not 0 <= background <= foreground < 1:
            raise UsageError(
                f"foreground {foreground:g}, background {background:g}; expected quantiles "
                "0 <= background <= foreground < 1"
            )
        for name, value in (("window", window), ("stride", stride)):
            if value is not None and method != "occlusion":
                raise UsageError(f"{name} goes with method 'occlusion'; '{method}' has none")
        self.iterations, self.seed = 5 if iterations is None else iterations, seed or 0
        self.cutter: Cutter = cutter_for(way, self.iterations, self.seed)
        for name, value in (("iterations", iterations), ("seed", seed)):
            if value is not None and self.cutter.name != "grabcut":
                raise UsageError(f"{name} {value} goes with grabcut; {self.cutter.name} cuts here")
        self.method, self.foreground, self.background = method, foreground, background
        self.window, self.stride = window, stride
        self._occlusions: dict[tuple[int, int], Occlusion] = {}
        ready = Ready.of(model, shapes, inputs).plain()
        how: dict[str, Any] = {"of": of, "providers": providers, "threads": threads}
        self.engine: Explainer | Scorer
        if method == "occlusion":
            self.engine = Scorer(ready, preprocess=preprocess, **how)
        else:
            self.engine = Explainer(ready, methods=(method,), **how)
        super().__init__(ready, self.engine.fed)
        self.classes = self.engine.classes
        self.session, self.notes = self.engine.session, list(self.engine.notes)
        known = preprocess is not None or self.preprocess is not None
        self.record = self.settled(preprocess) if known else None

    @property
    def way(self) -> str:
        """What cuts."""
        return self.cutter.name

    @property
    def layers(self) -> tuple[str, ...]:
        """The layers that Grad-CAM is drawn of."""
        return self.engine.layers if isinstance(self.engine, Explainer) else ()

    def work(self, size: tuple[int, int]) -> int:
        """What `progress` is told of, per image of this height and width: 1, or its windows."""
        if isinstance(self.engine, Explainer):
            return 1
        return len(self._occlusion(size).plan((self.input.channels or 3, *size)))

    def __call__(
        self, inputs: Any, target: Any = None, *, progress: Progress = no_progress
    ) -> Segmentation:
        """Cut the objects of a batch out. inputs: [N, ...] in the input's shape and dtype, in
        NumPy, CuPy or DLPack memory; or a mapping from input names. target: None (each image's top
        class), one class, or N of them. progress: see `work`.

        Everything comes back in host memory. Raises ImageError or UsageError.
        """
        x = inputs[self.input.name] if isinstance(inputs, Mapping) else inputs
        images = arrays.to_host(arrays.taken(x)[0])
        if images.ndim == len(self.input.shape((1, 1))):
            images = images[None]
        heat, chosen, chances = self._seen(inputs, target, images, progress)
        pictures = (picture_of(image, self.input.layout, self.record) for image in images)
        parts = [self.cut(picture, one) for picture, one in zip(pictures, heat, strict=True)]
        seeds = np.stack([one for one, _ in parts])
        masks = np.stack([mask for _, mask in parts])
        boxes = np.stack([_bounds(mask) for mask in masks])
        found = np.asarray(masks.any(axis=(1, 2)))
        return Segmentation(masks, boxes, found, heat, seeds, chosen, chances)

    def cut(
        self, picture: NDArray[np.uint8], heat: NDArray[Any]
    ) -> tuple[NDArray[np.int8], NDArray[np.bool_]]:
        """The seeds, int8 [H, W], and the mask, Boolean [H, W], of a map of one's own over a
        picture, uint8 [H, W, 3]. A map that is the same everywhere has neither. Raises ImageError
        for a map of another size, or with NaN."""
        seeds = seeded(heat, self.foreground, self.background, picture.shape[:2])
        if not (seeds > 0).any():
            return np.zeros_like(seeds), np.zeros(seeds.shape, bool)
        return seeds, self.cutter(np.ascontiguousarray(picture), seeds)

    def _seen(
        self, inputs: Any, target: Any, images: NDArray[Any], progress: Progress
    ) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.float32] | None]:
        """Maps, classes and probabilities."""
        if isinstance(self.engine, Explainer):
            found = self.engine(inputs, target)
            scores = arrays.to_host(found.scores)
            finite(scores.reshape(len(scores), -1))
            maps = arrays.to_host(found.saliency[self.method]).astype(np.float32)
            if self.method == "vanilla":
                layout = self.input.layout
                maps = np.stack([np.abs(channels_last(m, layout)).max(axis=-1) for m in maps])
            progress(len(maps))
            chosen = np.asarray(arrays.to_host(found.target), np.int64)
            return maps, chosen, self.engine.probabilities(found.scores)
        h, w = self.engine.plan_shape(images.shape[1:])[1:]
        made = self._occlusion((h, w)).measure(inputs, target, progress=progress)
        maps = arrays.to_host(made.heat)[:, 0].astype(np.float32)
        return maps, made.target[:, 0], self.engine.probabilities(made.logits)

    def _occlusion(self, size: tuple[int, int]) -> Occlusion:
        assert isinstance(self.engine, Scorer)
        window = max(min(size) // WINDOWS, 1) if self.window is None else self.window
        stride = max(window // 2, 1) if self.stride is None else self.stride
        # Kept: it counts images, and plans and compiles for many.
        if (window, stride) not in self._occlusions:
            made = Occlusion(self.engine, window=window, stride=stride)
            self._occlusions[window, stride] = made
        return self._occlusions[window, stride]


def seeded(
    heat: NDArray[Any], foreground: float, background: float, size: tuple[int, ...]
) -> NDArray[np.int8]:
    """Seeds of a map [H, W], int8: 1 above its `foreground` quantile; -1 up to its `background`
    quantile, and along the border; 0 elsewhere. Raises ImageError."""
    values = np.asarray(heat, np.float64)
    if values.shape != tuple(size):
        raise ImageError(f"the map is {list(values.shape)}; expected {list(size)}, as the picture")
    if not np.isfinite(values).all():
        raise ImageError("the map has NaN or infinite values: there are no seeds in it")
    high, low = np.quantile(values, (foreground, background))
    if not (values > high).any() and values.max() > values.min():
        high = np.nextafter(high, -np.inf)  # a plateau: all of it
    seeds = np.where(values > high, 1, np.where(values <= low, -1, 0)).astype(np.int8)
    edge = np.ones(values.shape, bool)
    edge[1:-1, 1:-1] = False
    seeds[edge & (seeds == 0)] = -1
    return seeds


def _bounds(mask: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Left, top, right, bottom; all 0 of an empty mask."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return np.zeros(4, np.int64)
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], np.int64)
