"""`backlight segment`: the object that a class is seen in, cut out of a photo."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .console import percent
from .masked import Of, Photos
from .options import (
    Batch,
    Extra,
    Force,
    Json,
    Labels,
    Model,
    OutputDir,
    PreprocessOption,
    Provider,
    Shape,
    TargetClass,
    Threads,
    at_least,
    chosen_labels,
    class_asked,
    class_entry,
    inputs_of,
    model_path,
    named,
    preprocess_of,
    shapes_of,
)
from .photos import PhotoJob, found_photos, preprocess_told, seen_as
from .scored import refuse_names, refuse_words

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..masked.segmentation import Segment, Segmentation
    from ..photos.images import Prepared
    from ..photos.outputs import OutputFolder
    from ..pictures.panel import Cell

# Of each photo: the panel, the mask and the cut-out.
RESULTS = ("{}.png", "{}-mask.png", "{}-cutout.png")
NO_SEEDS = "the map is the same everywhere: there are no seeds in it"


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("segment")(segment)


def segment(
    image: Photos = None,
    output: OutputDir = Path("segmented"),
    model: Model = None,
    method: Annotated[
        str,
        typer.Option(
            "--method",
            "--seeds",
            metavar="M",
            help="Whose map gives the seeds: vanilla, gradcam or occlusion.",
        ),
    ] = "gradcam",
    way: Annotated[
        str,
        typer.Option(
            metavar="HOW",
            help="What cuts: grabcut (OpenCV), random-walker (scikit-image), or auto: the first "
            "that is installed.",
        ),
    ] = "auto",
    target_class: TargetClass = "top1",
    foreground: Annotated[
        float, typer.Option(metavar="Q", help="Above this quantile of the map is the object.")
    ] = 0.95,
    background: Annotated[
        float, typer.Option(metavar="Q", help="Up to this one, and at the border, is not.")
    ] = 0.3,
    iterations: Annotated[int | None, typer.Option(metavar="N", help="Of grabcut. [5]")] = None,
    seed: Annotated[
        int | None, typer.Option(metavar="N", help="Of grabcut's mixtures. [0]")
    ] = None,
    window: Annotated[
        int | None,
        typer.Option(metavar="W", help="Of occlusion, in pixels. [a seventh of the side]"),
    ] = None,
    stride: Annotated[
        int | None, typer.Option(metavar="S", help="Between windows. [half a window]")
    ] = None,
    of: Of = None,
    shape: Shape = None,
    input_: Extra = None,
    preprocess: PreprocessOption = None,
    labels: Labels = None,
    batch: Batch = 8,
    provider: Provider = None,
    threads: Threads = None,
    force: Force = False,
    json: Json = False,
) -> None:
    """Cut out of photos what their class is seen in (Simonyan et al. 2014): the strongest places of
    a saliency map are seeds of the object, the weakest of the background; colours decide the rest.

    A panel, the mask (black and white) and the cut-out (transparent around it) as PNG, of the photo
    as the model sees it, and a summary with the box.
    """
    from ..classifier.ready import Ready
    from ..masked.segmentation import Segment

    path = model_path(model)
    refuse_words(preprocess, labels)
    at_least("--batch", batch)
    photos = found_photos("segment", image, output, RESULTS, force, json)
    ready = Ready(path, shapes_of(shape), inputs_of(input_))
    refuse_names(ready, labels, [target_class])
    record, assumed = preprocess_of(ready, preprocess)
    engine = Segment(
        ready, method=method, way=way,  # type: ignore[arg-type]
        foreground=foreground, background=background, iterations=iterations, seed=seed,
        window=window, stride=stride, preprocess=record, of=of, providers=provider or None,
        threads=threads,
    )  # fmt: skip
    engine.fed.needs()
    names, hint = chosen_labels(labels, engine.labels, engine.classes, of)
    job = _Job(path, engine, photos, names)
    target = class_asked(target_class, names, engine.classes)
    photos.note(*engine.notes, assumed, hint)
    settings = {
        "method": method, "way": engine.way, "layers": list(engine.layers),
        "target_class": "top1" if target < 0 else target,
        "foreground": foreground, "background": background,
        "iterations": engine.iterations if engine.way == "grabcut" else None,
        "seed": engine.seed if engine.way == "grabcut" else None,
    }  # fmt: skip
    assert engine.record is not None and engine.record.size is not None
    each = engine.work(engine.record.size)
    with photos.results(output, RESULTS, force, path) as folder:
        start = time.perf_counter()
        with photos.progress("segmenting", each) as step:

            def cut(images: Any) -> Segmentation:
                return engine(images, None if target < 0 else target, progress=step.advance)

            for index, prepared, found, at in photos.each(engine.record, engine.input, batch, cut):
                job.one(folder, index, prepared, found, at)
        line = photos.timed(time.perf_counter() - start, 2, engine.session.provider, folder)
        about = {
            "model": path,
            **settings,
            "preprocess": preprocess_told(engine.record),
            "providers": engine.session.providers,
        }
        photos.finish(folder, about, line, count=False)


@dataclass
class _Job:
    path: str
    engine: Segment
    photos: PhotoJob
    labels: Sequence[str] | None

    def one(
        self, folder: OutputFolder, index: int, prepared: Prepared, found: Segmentation, at: int
    ) -> None:
        """One photo: written, and told in a line."""
        from ..pictures.panel import panel

        file, name = self.photos.files[index], self.photos.names[index]
        if not found.found[at]:
            self.photos.refuse(file, NO_SEEDS)
            return
        target, mask = int(found.target[at]), found.mask[at]
        chances = None if found.probabilities is None else found.probabilities[at]
        shown_class = named(target, self.labels)
        box = [int(v) for v in found.box[at]]
        entry: dict[str, Any] = {
            "file": str(file),
            **class_entry(target, self.labels, chances),
            "box": dict(zip(("left", "top", "right", "bottom"), box, strict=True)),
            "share": round(float(mask.mean()), 6),
            "size": [mask.shape[1], mask.shape[0]],
            "panel": f"{name}.png",
            "mask": f"{name}-mask.png",
            "cutout": f"{name}-cutout.png",
        }
        folder.picture(entry["mask"], _grey(mask))
        folder.picture(entry["cutout"], _cutout(prepared.pixels, mask, box))
        known = "" if chances is None else percent(float(chances[target]))
        heading = f"{file.name}: where {shown_class} is"
        seeds = f"seeds: the strongest {100 * (1 - self.engine.foreground):.3g} % of "
        seeds += self.engine.method
        detail = f"{self.engine.name}{f': {known}' if known else ''}; {seeds}"
        cells = self._cells(prepared, found, at, box)
        folder.picture(entry["panel"], panel(heading, detail, cells))
        shown = f"{box[2] - box[0]} x {box[3] - box[1]} at {box[0]},{box[1]}"
        told = f"{file.name:<24} {shown_class:<32} {known:>7}"
        self.photos.add(entry, f"{told}  {percent(mask.mean()):>6}  {shown}")

    def _cells(
        self, prepared: Prepared, found: Segmentation, at: int, box: list[int]
    ) -> list[Cell]:
        """The photo, the seeds, the mask with its box, and the cut-out."""
        from ..pictures.panel import Cell

        mask = found.mask[at]
        by = self.engine.way
        assert self.engine.record is not None
        seen = seen_as(prepared.pixels.shape, self.engine.record, self.engine.input)
        return [
            Cell(prepared.pixels, "photo", seen),
            Cell(
                _seeds(prepared.pixels, found.seeds[at]), "seeds",
                f"red: the object, blue: the background, as {self.engine.method} says; colours "
                "decide the rest",
            ),
            Cell(
                _boxed(prepared.pixels, mask, box), "mask and box",
                f"the largest part of what {by} finds: {percent(mask.mean())} of the photo",
            ),
            Cell(_on_paper(prepared.pixels, mask), "cut out", "transparent around it in the file"),
        ]  # fmt: skip


def _grey(mask: Any) -> Any:
    import numpy as np
    from PIL import Image

    return Image.fromarray(np.where(mask, 255, 0).astype(np.uint8))


def _cutout(pixels: Any, mask: Any, box: list[int]) -> Any:
    """RGBA, within the box."""
    import numpy as np
    from PIL import Image

    alpha = np.where(mask, 255, 0).astype(np.uint8)[..., None]
    left, top, right, bottom = box
    return Image.fromarray(np.concatenate([pixels, alpha], axis=2)[top:bottom, left:right])


def _seeds(pixels: Any, seeds: Any) -> Any:
    """The photo with its seeds in colour."""
    import numpy as np

    red, blue = np.array([200, 30, 45]), np.array([43, 110, 205])
    shown = pixels.astype(np.float64)
    for value, colour, part in ((1, red, 0.75), (-1, blue, 0.55)):
        at = seeds == value
        shown[at] = (1 - part) * shown[at] + part * colour
    return np.rint(shown).astype(np.uint8)


def _boxed(pixels: Any, mask: Any, box: list[int]) -> Any:
    """The photo, dark outside the mask, and the box around it."""
    import numpy as np

    shown = np.where(mask[..., None], pixels, pixels // 4)
    left, top, right, bottom = box
    edge = np.zeros(mask.shape, bool)
    edge[top:bottom, left:right] = True
    edge[top + 2 : bottom - 2, left + 2 : right - 2] = False
    shown[edge] = (255, 196, 0)
    return shown


def _on_paper(pixels: Any, mask: Any) -> Any:
    """The cut-out on grey squares, as transparency is drawn."""
    import numpy as np

    y, x = np.indices(mask.shape) // 8
    squares = np.where((y + x) % 2 == 0, 255, 226)[..., None]
    return np.where(mask[..., None], pixels, squares).astype(np.uint8)
