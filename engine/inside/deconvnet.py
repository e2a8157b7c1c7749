"""DeconvNet: one activation, everything else set to zero, projected back to the image's pixels.

Zeiler and Fergus 2014; with the guided rule, Springenberg et al. 2015. The projection is the
export's backward pass of the layer by the image, under the deconv rule, with the forward pass's own
max-pool switches: there is no second one here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ... import arguments as take
from ...errors import ModelError, UsageError, hint
from ...export import seed
from ...export.graph import ModelLike
from ...export.preprocess import Preprocess
from ...export.saliency import explain_graph
from ...export.sizes import Shapes
from ..classifier.extras import InputsLike
from ..classifier.fed import Fed
from ..classifier.ready import Ready, Standing
from ..photos import images
from ..photos.images import Pixels
from ..pictures.grid import Row, Tile, figure, sheet
from ..pictures.panel import BLANK, signed
from ..runtime.session import Providers, Session, default_lowering
from .activations import refuse_flat
from .crops import LayerPatches
from .patches import SIDE, Patches
from .taps import named

__all__ = ["Projector", "Reconstruction", "deconvnet", "reconstructed"]

RULES = ("deconv", "guided")


class Projector(Standing):
    """A layer's cotangent back to the image, under rules.

    model: a path, bytes or an onnx.ModelProto. layer: a tensor or a node by name.
    Raises UsageError for an unknown layer, UnsupportedNode where an operator on the way has no
    rule.
    """

    def __init__(
        self,
        model: ModelLike | Ready,
        layer: str,
        rules: Sequence[str] = RULES,
        *,
        providers: Providers = None,
        threads: int | None = None,
    ) -> None:
        ready = Ready.of(model)
        self.layer = named(ready.loaded.graph, layer).name or ""
        providers, self.notes = ready.placed(providers)
        exported = explain_graph(
            ready.loaded, rules, of=self.layer, lowering=default_lowering(providers),
            seed_of=seed.CALLER_S, alone=True,
        )  # fmt: skip
        self.rules = exported.methods
        self._names = {rule: exported.saliency[rule] for rule in self.rules}
        graph = exported.model.graph
        super().__init__(ready, Fed.of(graph, exported.input, (seed.GIVEN,)))
        self.fed.needs()
        self.session = Session(exported.model, providers, threads)
        self._dtype = Fed.of(graph, seed.GIVEN).dtype

    def __call__(self, x: NDArray[Any], cotangent: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """x: [N, ...] as the model takes it; cotangent: [N, ...] shaped like the layer.
        The projection by rule, [N, ...] shaped like x."""
        given = cotangent.astype(self._dtype, copy=False)
        parts = []
        for feeds, rows in self.fed.runs({self.fed.name: x, seed.GIVEN: given}):
            host = {k: np.ascontiguousarray(v) for k, v in feeds.items()}
            found = self.session.run(host, list(self._names.values()))
            parts.append({n: v[:rows] for n, v in found.items()})
        return {
            rule: np.concatenate([p[name] for p in parts]) for rule, name in self._names.items()
        }


@dataclass(frozen=True)
class Reconstruction:
    """One channel's strongest activations, projected back.

    place: of the channel in the layer's `LayerPatches`. patches: uint8 [h, w, 3] for each
    activation, None where there is none. maps: by rule, float32 [k, h, w, C]: the projection
    under the receptive field, in the model's channel order, 0 beyond the image's border.
    shown: by rule, the maps as pictures.
    """

    place: int
    patches: tuple[Pixels | None, ...]
    maps: dict[str, NDArray[np.float32]]
    shown: dict[str, tuple[Pixels | None, ...]]


@take.accepts(
    layer=take.text, places=take.several, rules=take.names, batch=take.whole,
    providers=take.names, threads=take.whole,
)  # fmt: skip
def deconvnet(
    model: ModelLike | Ready,
    found: Patches,
    layer: str,
    places: Sequence[int],
    rules: Sequence[str] = RULES,
    *,
    batch: int = 8,
    providers: Providers = None,
    threads: int | None = None,
    shapes: Shapes | None = None,
    inputs: InputsLike | None = None,
) -> Iterator[Reconstruction]:
    """Project the top activations of channels back to pixels, a channel at a time.

    found: what `backlight.patches` found with the same model. layer: one of its layers, or the node
    that makes it. places: of channels in it (`LayerPatches.place`). shapes, inputs: as in
    `backlight.Explainer`, and as they were for `found`.
    Raises UnsupportedNode where an operator on the way has no gradient rule.
    """
    if not isinstance(found, Patches):
        raise take.refused("found", found, "what backlight.patches gave")
    if batch < 1:
        raise UsageError(f"batch {batch}; expected 1 or more")
    ready = Ready.of(model, shapes, inputs)
    layer = named(ready.loaded.graph, layer).name or ""
    if layer not in found.layers:
        raise UsageError(
            f"layer '{layer}' wasn't asked for; there is {', '.join(found.layers)}"
            + hint(layer, found.layers)
        )
    count = len(found.layers[layer].channels)
    for place in places:
        if not 0 <= place < count:
            raise UsageError(f"place {place} is out of range; '{layer}' has 0 to {count - 1}")
    projector = Projector(ready, layer, rules, providers=providers, threads=threads)
    for place in places:
        yield reconstructed(projector, found, place, batch)


def reconstructed(
    projector: Projector, found: Patches, place: int, batch: int = 8
) -> Reconstruction:
    """Project the top activations of one channel of the projector's layer back to pixels."""
    top = found.layers[projector.layer]
    axes = refuse_flat(top.field)
    needed = [int(i) for i in np.unique(top.image[place]) if i >= 0]
    seen = found.prepared(needed)
    ranks = [
        rank
        for rank in range(top.held)
        if int(top.image[place, rank]) in seen and top.values[place, rank] != 0
    ]
    channel = int(top.channels[place])
    high, wide = top.canvas(channel)
    depth = found.spec.channels or 3
    maps = {r: np.zeros((top.held, high, wide, depth), np.float32) for r in projector.rules}
    pictures: dict[str, list[Pixels | None]] = {r: [None] * top.held for r in projector.rules}
    patches: list[Pixels | None] = [None] * top.held
    for at in range(0, len(ranks), batch):
        chunk = ranks[at : at + batch]
        photos = [seen[int(top.image[place, rank])] for rank in chunk]
        pixels, x = [p.pixels for p in photos], np.stack([p.tensor for p in photos])
        cotangent = np.zeros((len(chunk), *top.field.dims[1:]), np.float32)
        for row, rank in enumerate(chunk):
            index = [0] * 4
            where = (channel, int(top.row[place, rank]), int(top.column[place, rank]))
            for axis, number in zip(axes, where, strict=True):
                index[axis] = number
            cotangent[row][tuple(index[1:])] = top.values[place, rank]
        for rule, back in projector(x, cotangent).items():
            if not np.isfinite(back).all():
                raise ModelError(
                    f"'{projector.layer}': channel {channel} projected by {rule} is NaN or "
                    "infinite: nothing to show; expected a model whose values are numbers"
                )
            for row, rank in enumerate(chunk):
                whole = _laid_over(back[row].astype(np.float32), found.spec, pixels[row])
                maps[rule][rank] = top.cut(whole, place, rank, 0)
                pictures[rule][rank] = _picture(whole, top, place, rank, found.preprocess)
        for row, rank in enumerate(chunk):
            patches[rank] = top.cut(pixels[row], place, rank, BLANK)
    return Reconstruction(place, tuple(patches), maps, {r: tuple(p) for r, p in pictures.items()})


def _laid_over(
    back: NDArray[np.float32], spec: images.InputSpec, pixels: Pixels
) -> NDArray[np.float32]:
    """A projection as [H, W, C] of the image's own size: behind a Resize of the model's own that
    has no gradient it is smaller, or larger, and each of its values lies over several pixels."""
    whole: NDArray[np.float32] = images.channels_last(back, images.map_layout(back.shape, spec))
    y, x = (np.arange(pixels.shape[i]) * whole.shape[i] // pixels.shape[i] for i in (0, 1))
    return whole[np.ix_(y, x)]


def _picture(
    whole: NDArray[np.float32], top: LayerPatches, place: int, rank: int, record: Preprocess
) -> Pixels:
    """The part under the receptive field, stretched to its own range."""
    y, x, bottom, right = (int(b) for b in top.boxes[place, rank])
    drawn = np.zeros((*whole.shape[:2], 3), np.uint8)
    drawn[y:bottom, x:right] = signed(whole[y:bottom, x:right], "nhwc", record.color, record.bands)
    return top.cut(drawn, place, rank, BLANK)


def picture(
    found: Patches, layer: str, made: Sequence[Reconstruction], title: str = ""
) -> Image.Image:
    """For each channel a row of patches and, below it, a row of projections for each rule."""
    top = found.layers[layer]
    rows = []
    for one in made:
        high, wide = top.canvas(int(top.channels[one.place]))
        labels = [
            f"{figure(float(top.values[one.place, rank]))}: "
            f"{found.files[int(top.image[one.place, rank])].stem}"
            if pixels is not None
            else ("no more" if top.image[one.place, rank] < 0 else "not active")
            for rank, pixels in enumerate(one.patches)
        ]
        tiles = [Tile(p, label) for p, label in zip(one.patches, labels, strict=True)]
        number = int(top.channels[one.place])
        rows.append(Row(tiles, f"channel {number}", f"{high} x {wide} pixels"))
        for rule, shown in one.shown.items():
            blank = [
                p is not None and not m.any() for p, m in zip(shown, one.maps[rule], strict=True)
            ]
            tiles = [Tile(p, "all 0" if no else "") for p, no in zip(shown, blank, strict=True)]
            rows.append(Row(tiles, "", rule))
    return sheet(
        title or f"DeconvNet reconstructions of {layer}",
        [
            f"{len(made)} of {top.field.dims[refuse_flat(top.field)[0]]} channels; each patch's "
            "one activation alone, projected back to pixels, is under the patch"
        ],
        rows,
        SIDE,
        "Below each patch: activation and file. Each projection is normalised by itself: mid-grey "
        "is 0, full colour the 99.5th percentile of its |value|; light grey lies beyond the "
        "image's border.",
    )
