"""A method's map as a picture with a caption: its row in the registry says how it is read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ...export.methods import METHODS, Method
from ..photos.images import InputSpec, Pixels, channels_last, map_layout
from . import heat
from .grid import figure
from .panel import NO_GRADIENT, Cell, caption_of, nothing, saliency_picture

__all__ = ["DOUBT", "Asked", "base", "cell", "empty"]

NO_SEGMENT = "no segment matters"
# What a map is of, where a class is told from itself.
DOUBT = "what keeps it from certainty"


@dataclass(frozen=True)
class Asked:
    """What the pictures of one image say beside its maps.

    spec: of the image input. layers: of class activation maps. bands: of the image that are shown;
    None: the colours.
    against: the name of the class that the target is told from, None without a contrast;
    contrasted: the methods that tell it so. says: of a map by its name, what its caption adds.
    itself: whether that class is the target, so that the map is of what keeps the model from being
    certain of it.
    """

    spec: InputSpec
    color: str
    layers: Sequence[str] = ()
    against: str | None = None
    contrasted: Sequence[str] = ()
    says: Mapping[str, str] = field(default_factory=dict)
    bands: Sequence[int] | None = None
    itself: bool = False


def base(name: str) -> tuple[Method, int]:
    """The row of a map's name, and which of several layers it is of: "gradcam_1" is the second."""
    if name in METHODS:
        return METHODS[name], 0
    stem, _, number = name.rpartition("_")
    return METHODS[stem], int(number)


def empty(name: str, layers: Sequence[str]) -> str:
    """What a map that is all 0 says."""
    row, at = base(name)
    if row.by == "superpixels":
        return NO_SEGMENT
    if not row.takes_layer:
        return NO_GRADIENT
    where = layers[at] if at < len(layers) else "the layer"
    return f"no positive evidence at {where}"


def cell(name: str, values: NDArray[Any], photo: Pixels, asked: Asked) -> Cell:
    """One map, without batch, as a picture. photo: as the model sees it, [H, W, 3]."""
    row, _ = base(name)
    shape, channels = map_layout(values.shape, asked.spec), asked.spec.channels
    if row.picture == "heat":
        made = _heat(name, values, photo, asked)
    else:
        depth = channels_last(values, shape).shape[2]
        inner = channels is not None and depth != channels and shape != "nhw"
        picture = saliency_picture(row.name, values, shape, asked.color, asked.bands, channels)
        # A tensor inside the model has channels that are no colours: drawn as a magnitude is.
        told = "vanilla" if inner and row.picture == "colours" else row.name
        made = Cell(picture, name, caption_of(told, shape, not values.any(), channels, asked.bands))
    tall, wide = photo.shape[:2]
    if row.picture != "heat":
        tall, wide = channels_last(values, shape).shape[:2]
    if (tall, wide) != photo.shape[:2]:
        behind = f"{made.caption}; {wide} x {tall}: taken behind the model's own resizing"
        made = Cell(made.pixels, made.title, behind)
    if name in asked.says:
        return Cell(made.pixels, made.title, f"{made.caption}; {asked.says[name]}")
    if asked.against is None or row.name not in asked.contrasted:
        return made
    if asked.itself:
        return Cell(made.pixels, made.title, made.caption.replace("for the class", DOUBT))
    return Cell(made.pixels, made.title, f"{made.caption}; rather than {asked.against}")


def _heat(name: str, values: NDArray[Any], photo: Pixels, asked: Asked) -> Cell:
    """A class activation map over the photo, with a scale from 0 to its largest value."""
    row, at = base(name)
    height, width = photo.shape[:2]
    of_layer = row.takes_layer and at < len(asked.layers)
    where = f"at {asked.layers[at]}" if of_layer else ""
    if not np.any(values):
        text = "no positive evidence" if row.takes_layer else NO_SEGMENT
        return Cell(nothing(height, width, text), name, f"all 0: {text} {where}".rstrip())
    shown = np.asarray(values, np.float32)
    if shown.shape != (height, width):  # at the layer's own size
        enlarged = Image.fromarray(shown).resize((width, height), Image.Resampling.BILINEAR)
        shown = np.asarray(enlarged)
    top = float(np.abs(shown).max())
    line = np.linspace(0, 1, 100)
    colours = heat.diverging(shown, top)
    if shown.min() < 0:
        bar, ticks = heat.diverging(2 * line - 1, 1.0), [(1.0, figure(top)), (0.0, figure(-top))]
        says = f"red: {row.red}, blue: {'for' if row.red.startswith('against') else 'against'} it"
    else:
        bar, ticks = heat.diverging(line, 1.0), [(1.0, figure(top)), (0.0, "0")]
        says = f"red: {row.red}"
    picture = heat.with_bar(heat.over_photo(colours, photo), bar, ticks)
    return Cell(
        picture,
        row.name if at == 0 and name == row.name else name,
        ", ".join(filter(None, (says, where))),
    )
