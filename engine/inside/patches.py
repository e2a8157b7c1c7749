"""What each channel likes best in a folder of images: the crops under its strongest activations.

Yosinski et al. 2014; Springenberg et al. 2015.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ... import arguments as take
from ...errors import ImageError, UsageError, hint
from ...export.graph import ModelLike
from ...export.preprocess import Preprocess
from ...export.preprocess import given as given_preprocess
from ...export.receptive import ReceptiveField
from ...export.sizes import Shapes
from ...kernels.streams.topk import TopK
from ...lanes import in_lanes
from ..classifier.extras import InputsLike
from ..classifier.ready import Ready
from ..photos import images
from ..photos.images import Pixels
from ..photos.outputs import finite
from ..photos.passes import PassState, listing_of
from ..photos.room import BATCHES
from ..photos.stream import (
    Group,
    Skipped,
    fitting,
    found_files,
    group_of,
    lanes_of,
    turn_of,
)
from ..pictures.grid import Row, Tile, figure, sheet
from ..pictures.panel import BLANK
from ..runtime.session import Providers
from .activations import maps_of, refuse_flat
from .crops import LayerPatches
from .taps import Taps

__all__ = ["LayerPatches", "Patches", "patches"]

SIDE = 96
# Seconds between two savings of the state.
EVERY = 5.0


@dataclass(frozen=True)
class Patches:
    """What `patches` found. files: all images, in order; skipped: those that couldn't be read;
    count: how many could;
    resumed: how many an earlier, stopped pass had done. placed: notes of where it ran. providers:
    what it ran on, by the runtime's names."""

    files: tuple[Path, ...]
    layers: dict[str, LayerPatches]
    skipped: tuple[Skipped, ...]
    count: int
    k: int
    one_per_image: bool
    preprocess: Preprocess
    spec: images.InputSpec = field(repr=False)
    resumed: int = 0
    placed: tuple[str, ...] = ()
    providers: tuple[str, ...] = ()

    @property
    def notes(self) -> list[str]:
        """What a reader should know: where it ran by a stored choice, fewer activations than were
        asked for."""
        held = max(found.held for found in self.layers.values())
        if held >= self.k:
            return [*self.placed]
        plural = "image" if self.count == 1 else "images"
        return [*self.placed, f"k is {self.k}, but {self.count} {plural} give {held} for a channel"]

    def pixels(self, index: Sequence[int], workers: int = 2) -> dict[int, Pixels]:
        """Images as the model sees them, by their place in `files`; without those that have
        become unreadable since."""

        return {at: seen.pixels for at, seen in self.prepared(index, workers).items()}

    def prepared(self, index: Sequence[int], workers: int = 2) -> dict[int, images.Prepared]:
        """The same with their tensors."""

        def read(at: int) -> images.Prepared | None:
            try:
                return images.read(self.files[at], self.preprocess, self.spec)
            except ImageError:
                return None

        found = zip(index, in_lanes(read, index, workers), strict=True)
        return {at: seen for at, seen in found if seen is not None}

    def shown(self, layer: str, channels: Sequence[int] | None, limit: int) -> list[int]:
        """The places of the channels to show. Raises UsageError."""
        found = self.layers[layer]
        if channels is not None:
            return [found.place(c) for c in channels]
        return list(range(min(len(found.channels), limit)))

    def rows(self, layer: str, places: Sequence[int]) -> list[Row]:
        """A row of crops per channel."""
        found = self.layers[layer]
        needed = np.unique(found.image[list(places)])
        seen = self.pixels([int(i) for i in needed if i >= 0])
        rows = []
        for at in places:
            tiles = []
            for rank in range(found.held):
                image, value = int(found.image[at, rank]), float(found.values[at, rank])
                if image < 0:
                    tiles.append(Tile(None, "no more"))
                elif value == 0:  # behind a Relu: nothing there to see
                    tiles.append(Tile(None, "0: not active"))
                elif image not in seen:
                    tiles.append(Tile(None, "file is gone"))
                else:
                    crop = found.cut(seen[image], at, rank, BLANK)
                    if found.field.is_whole:
                        crop = found.framed(crop, at, rank)
                    tiles.append(Tile(crop, f"{figure(value)}: {self.files[image].stem}"))
            channel = int(found.channels[at])
            high, wide = found.canvas(channel)
            rows.append(Row(tiles, f"channel {channel}", f"{high} x {wide} pixels"))
        return rows

    def picture(
        self,
        layer: str,
        channels: Sequence[int] | None = None,
        *,
        limit: int = 16,
        title: str = "",
    ) -> Image.Image:
        """A row per channel, its strongest patches from left to right. channels: None: the first
        `limit`. Raises UsageError for a layer or channel that wasn't asked for."""
        if layer not in self.layers:
            raise UsageError(
                f"layer '{layer}' wasn't asked for; there is {', '.join(self.layers)}"
                + hint(layer, self.layers)
            )
        found = self.layers[layer]
        places = self.shown(layer, channels, limit)
        total = found.field.dims[refuse_flat(found.field)[0]]
        kind = "one per image at most" if self.one_per_image else "several per image allowed"
        return sheet(
            title or f"Top patches of {layer}",
            [
                f"{len(places)} of {total} channels; the {found.held} strongest activations in "
                f"{self.count} images, {kind}; receptive field: {_seen(found.field)}"
            ],
            self.rows(layer, places),
            SIDE,
            "Below: activation and file. Each crop is what the unit can see of the image as the "
            "model sees it, colours unchanged; light grey lies beyond the border."
            + (" A frame marks the unit's place." if found.field.is_whole else ""),
        )

    def as_dict(self) -> dict[str, Any]:
        """For JSON: every channel's activations with file, place and box."""
        layers = {}
        for name, found in self.layers.items():
            size = found.field
            layers[name] = {
                "receptive_field": {"size": size.size, "jump": size.jump, "offset": size.offset},
                "channels": [
                    {
                        "channel": int(channel),
                        "patches": [
                            {
                                "file": str(self.files[int(found.image[at, rank])]),
                                "activation": finite(float(found.values[at, rank])),
                                "row": int(found.row[at, rank]),
                                "column": int(found.column[at, rank]),
                                "box": found.boxes[at, rank].tolist(),
                            }
                            for rank in range(self.k)
                            if found.image[at, rank] >= 0
                        ],
                    }
                    for at, channel in enumerate(found.channels)
                ],
            }
        return {
            "k": self.k,
            "one_per_image": self.one_per_image,
            "images": self.count,
            "preprocess": json.loads(self.preprocess.to_json()),
            "box": "top, left, bottom, right in pixels of the image as the model sees it",
            "layers": layers,
            "skipped": [bad.as_dict() for bad in self.skipped],
            "notes": self.notes,
        }


def _seconds(name: str, value: Any) -> float:
    found = take.number(name, value)
    if found < 0:
        raise UsageError(f"{name} {found}; expected seconds, 0 or more")
    return found


@take.accepts(
    folder=take.paths, layers=take.names, channels=take.several, k=take.whole,
    one_per_image=take.flag, preprocess=given_preprocess, batch=take.whole,
    state=take.path, fresh=take.flag,
    every=_seconds, workers=take.whole, providers=take.names, threads=take.whole,
)  # fmt: skip
def patches(
    model: ModelLike | Ready,
    folder: str | Path | Sequence[str | Path],
    layers: str | Sequence[str],
    *,
    channels: Sequence[int] | None = None,
    k: int = 9,
    one_per_image: bool = False,
    preprocess: Preprocess | str | None = None,
    batch: int = 8,
    state: str | Path | None = None,
    fresh: bool = False,
    every: float = EVERY,
    workers: int | None = None,
    providers: Providers = None,
    threads: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    shapes: Shapes | None = None,
    inputs: InputsLike | None = None,
) -> Patches:
    """The k strongest activations of each channel over a folder of any size, in one pass.

    folder: of images, anywhere under it; or files and folders. layers: tensors or nodes by name,
    all in the same pass. channels: which; None: all.
    state: a file to save the pass in, every so many seconds. A pass that was killed goes on from
    there, with the same result as if it hadn't been; fresh: don't.
    workers: threads that each read a batch and run it; None: one per core, at most 4 on the CPU.
    threads: in all; None: one per core. progress: called with the number of files done and of all.
    shapes: of inputs whose shape the model leaves open, by name; inputs: what is fed beside every
    image, by name (see `backlight.Explainer`).

    Images that can't be read are skipped and listed. Raises UsageError for an unknown layer or
    one without rows and columns, ImageError when no image can be read, OutputError for the state
    of a pass with other arguments.
    """
    wanted = [layers] if isinstance(layers, str) else list(layers)
    for name, number in (("k", k), ("batch", batch)):
        if number < 1:
            raise UsageError(f"{name} {number}; expected 1 or more")
    ready = Ready.of(model, shapes, inputs)
    providers, placed = ready.placed(providers)
    lanes, own = lanes_of(providers, threads, workers)
    taps = Taps(ready, wanted, providers=providers, threads=own, lanes=lanes)
    settled = taps.settled(preprocess)
    if taps.input.batch is None:
        batch = fitting(batch, settled, taps.input)
    fields = taps.fields(settled.size)
    axes = {name: refuse_flat(fields[name]) for name in taps.names}
    kept = {name: _kept(fields[name], axes[name][0], channels) for name in taps.names}
    given = [folder] if isinstance(folder, (str, Path)) else list(folder)
    files, skipped = found_files(given)
    if not files:
        raise skipped[0].error if skipped else ImageError("no images given; expected a folder")
    images.refuse_photos(files, taps.input)
    try:
        tops = {name: TopK(len(kept[name]), k, one_per_image) for name in taps.names}
    except (MemoryError, ValueError) as err:  # ValueError: more than an array can be
        total = sum(map(len, kept.values()))
        raise UsageError(f"k {k}: too many to hold for {total} channels") from err
    saved = PassState(state, {"model": ready.hash, "layers": list(taps.names), "k": k,
        "channels": None if channels is None else list(channels), "one_per_image": one_per_image,
        "preprocess": settled.to_json(), "batch": batch, "files": listing_of(files)},
        every)  # fmt: skip
    positions = {n: fields[n].dims[axes[n][1]] * fields[n].dims[axes[n][2]] for n in tops}
    start = 0 if fresh else saved.restore(tops, skipped, files, positions)
    turn = turn_of(providers)
    size = batch * images.bytes_prepared(settled, taps.input)

    def one(at: int) -> tuple[Group, dict[str, NDArray[Any]]]:
        with BATCHES.held(size):
            group = group_of(files, at, batch, settled, taps.input)
            if not len(group.index):
                return group, {}
            with turn:
                found = taps(group.tensor)
        return group, {
            name: maps if channels is None else maps[:, kept[name]]
            for name, maps in ((n, maps_of(found[n], axes[n])) for n in tops)
        }

    # One batch more than run at a time: maps of a wide layer are large.
    for group, found in in_lanes(one, range(start, len(files), batch), lanes, lanes + 1):
        skipped += group.skipped
        for name, maps in found.items():
            tops[name].merge(maps, group.index)
        saved.save(tops, skipped, group.stop, last=group.stop == len(files))
        if progress is not None:
            progress(group.stop, len(files))
    missing = {bad.file for bad in skipped}
    count = sum(str(f) not in missing for f in files)
    if count == 0:
        if state is not None:  # nothing in it to go on from
            Path(state).unlink(missing_ok=True)
        raise skipped[-1].error
    result = {
        name: _placed(name, fields[name], axes[name], kept[name], top) for name, top in tops.items()
    }
    return Patches(
        tuple(files), result, tuple(skipped), count, k, one_per_image, settled, taps.input, start,
        tuple(placed), tuple(taps.session.providers),
    )  # fmt: skip


def _seen(field: ReceptiveField) -> str:
    """After a Concat the channels' fields differ: then the largest is said to be that."""
    axes = refuse_flat(field)
    sizes = {field.size_of(channel) for channel in range(field.dims[axes[0]])}
    return str(field) if field.is_whole or len(sizes) == 1 else f"up to {field}"


def _kept(field: ReceptiveField, axis: int, channels: Sequence[int] | None) -> NDArray[np.int64]:
    count = field.dims[axis]
    if channels is None:
        return np.arange(count)
    if not len(channels):
        raise UsageError(f"no channel given; '{field.tensor}' has 0 to {count - 1}")
    for channel in channels:
        if not 0 <= channel < count:
            raise UsageError(
                f"channel {channel} is out of range; '{field.tensor}' has 0 to {count - 1}"
            )
    return np.array(list(dict.fromkeys(channels)), np.int64)


def _placed(
    name: str,
    field: ReceptiveField,
    axes: tuple[int, int, int],
    channels: NDArray[np.int64],
    top: TopK,
) -> LayerPatches:
    width = field.dims[axes[2]]
    row, column = np.divmod(np.maximum(top.position, 0), width)
    boxes = field.boxes(np.broadcast_to(channels[:, None], row.shape), row, column)
    return LayerPatches(name, field, channels, top.values, top.image, row, column, boxes)
