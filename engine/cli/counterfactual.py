"""`backlight counterfactual`: which parts of a photo would have to be another for another class."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ...errors import UsageError
from .console import percent
from .masked import Of, Photos
from .options import (
    PHOTOS,
    Bands,
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
    Threads,
    chosen_labels,
    class_asked,
    counted,
    inputs_of,
    model_path,
    named,
    photo_paths,
    preprocess_of,
    shapes_of,
    shown_bands,
)
from .photos import PhotoJob, found_photos, preprocess_told
from .scored import refuse_words

if TYPE_CHECKING:
    from ...export.preprocess import Preprocess
    from ..photos.images import Pixels
    from ..photos.outputs import OutputFolder
    from ..targeted.counterfactual import Counterfactual
    from ..targeted.search import Changes, Seen

Target = Annotated[
    str | None,
    typer.Option(
        "--class", "--target-class", metavar="Q",
        help="The other class: a number, or a name from the labels. [what most --distractors are]",
    ),
]  # fmt: skip
Distractors = Annotated[
    list[str] | None,
    typer.Option(
        "--distractors",
        metavar="FOLDER",
        help="Pictures of Q; repeatable. [the bundled photos and those given]",
    ),
]
LayerOption = Annotated[
    str | None,
    typer.Option(
        "--layer", "-l", metavar="L", help="A tensor or node with rows and columns. [the last]"
    ),
]
SearchOption = Annotated[
    str,
    typer.Option(
        "--search",
        metavar="HOW",
        help="sort: exact, where the head is a mean over places; greedy; auto.",
    ),
]
Edits = Annotated[
    int | None, typer.Option("--edits", metavar="N", help="Cells exchanged, at most. [all]")
]
PairsOption = Annotated[
    int | None,
    typer.Option("--pairs", metavar="N", help="Tried for a greedy exchange, at most. [2500]"),
]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("counterfactual")(counterfactual)


def counterfactual(
    image: Photos = None,
    target_class: Target = None,
    distractors: Distractors = None,
    output: OutputDir = Path("counterfactual"),
    model: Model = None,
    layer: LayerOption = None,
    search: SearchOption = "auto",
    edits: Edits = None,
    pairs: PairsOption = None,
    of: Of = None,
    preprocess: PreprocessOption = None,
    bands: Bands = None,
    labels: Labels = None,
    provider: Provider = None,
    threads: Threads = None,
    batch: Batch = 8,
    shape: Shape = None,
    input_: Extra = None,
    force: Force = False,
    json: Json = False,
) -> None:
    """Which cells of a photo, replaced by which of a picture of Q, make it Q (Goyal et al. 2019).

    For each photo a picture of the pairs with the score after each, and summary.json. Where no
    exchange makes it Q, that is said. Killed, it goes on when started again with the same
    arguments.
    """
    from ..classifier.ready import Ready
    from ..photos import images
    from ..targeted.counterfactual import Counterfactual

    if target_class is None and not distractors:
        raise UsageError(
            "no class given; --class Q (a number, or a name from the labels), or --distractors "
            "FOLDER with pictures of one"
        )
    photos = found_photos("counterfactual", image, output, ("{}.png",), force, json)
    path = model_path(model)
    refuse_words(preprocess, labels)
    ready = Ready.of(path, shapes_of(shape), inputs_of(input_))
    record, assumed = preprocess_of(ready, preprocess, bands)
    change = Counterfactual(
        ready, layer, search=search, edits=edits, pairs=pairs, of=of, preprocess=record,
        providers=provider or None, threads=threads, batch=batch,
    )  # fmt: skip
    names, hint = chosen_labels(labels, change.labels, change.classes, of)
    given = None
    if target_class is not None:
        given = class_asked(target_class, names, change.classes, (), "--class")
    job = Job(path, change, images.fitted(record, change.input), names, photos)
    job.choose(given, distractors, batch)
    photos.note(*change.notes, assumed, hint)
    with photos.results(output, ("{}.png",), force, job.path) as folder:
        each = job.most
        with photos.progress("exchanging", each) as step:
            for group in photos.groups(job.preprocess, job.change.input, batch):
                for rows, looked in photos.at_once(group, job.change.look):
                    for row, seen in zip(rows, looked, strict=True):
                        index = int(group.index[row])
                        photo = Shown(photos.files[index], group.pixels[row], seen)
                        done = job.one(folder, photos.names[index], photo, step.advance)
                        step.advance(max(each - done, 0))
        line = ""
        if photos.entries:
            line = f"{counted(len(photos.entries))} -> {folder.path}/"
        note = shown_bands(job.preprocess, job.change.input.channels)
        photos.finish(folder, job.about(), line, count=False, note=note)


@dataclass(frozen=True)
class Shown:
    """A picture, as it is shown and as the model sees it."""

    file: Path
    pixels: Pixels
    seen: Seen


@dataclass
class Job:
    """The command on some photos. others: the distractors; target: the other class."""

    path: str
    change: Counterfactual
    preprocess: Preprocess
    labels: Sequence[str] | None
    photos: PhotoJob
    others: tuple[Shown, ...] = ()
    target: int = -1

    def name(self, number: int) -> str:
        """A class for people."""
        return named(number, self.labels)

    def choose(self, given: int | None, folders: Sequence[str] | None, batch: int) -> None:
        """Look through the distractors for those of the class; the others are passed over, which is
        said of those that were given. Raises UsageError where none is left."""
        from ..photos.stream import found_files
        from ..targeted.counterfactual import HELD

        own = folders is None
        paths = [*self.photos.files, PHOTOS] if own else photo_paths(folders)
        files, missing = found_files(paths)
        if missing and not own:
            raise missing[0].error
        others = PhotoJob("counterfactual", files, [], [], quiet=True)
        seen: list[Shown] = []
        tops: Counter[int] = Counter()
        for group in others.groups(self.preprocess, self.change.input, batch):
            for rows, looked in others.at_once(group, self.change.look):
                tops.update(one.top for one in looked)
                for row, one in zip(rows, looked, strict=True):
                    file = files[int(group.index[row])]
                    if given is None or one.top == given:
                        seen.append(Shown(file, group.pixels[row], one))
                        continue
                    others.refuse(
                        file,
                        f"taken for {self.name(one.top)}: no distractor, as it is not of "
                        f"{self.name(given)}",
                    )
            # As many as are tried, those surest of their class.
            if given is not None and len(seen) > 2 * HELD:
                seen = self._surest(seen, given, HELD)
        if not own:
            self.photos.skipped += others.skipped
        target = given
        if target is None:
            if not tops:
                raise others.skipped[-1].error
            target = tops.most_common(1)[0][0]
            self.photos.note(f"--class: {self.name(target)}, what most of the distractors are")
        kept = [one for one in seen if one.seen.top == target]
        if not kept:
            found = ", ".join(self.name(number) for number, _ in tops.most_common(3))
            where = "among the bundled photos and those given" if own else "among the distractors"
            more = "" if not found else f", which the model takes for {found}"
            hint = "; --distractors FOLDER gives some" if own else "; expected one at least"
            if not tops and others.skipped:
                hint += f"; {others.skipped[-1].error}"
            raise UsageError(f"no picture of {self.name(target)} {where}{more}{hint}")
        self.target = target
        self.others = tuple(self._surest(kept, target, HELD))

    def _surest(self, seen: Sequence[Shown], target: int, most: int) -> list[Shown]:
        def sure(one: Shown) -> float:
            chance = self.chance(one.seen.scores, target)
            return float(one.seen.scores[target]) if chance is None else chance

        return sorted(seen, key=sure, reverse=True)[:most]

    def chance(self, scores: Any, number: int) -> float | None:
        """A class's probability by the scores [K] of a picture; None where they have none."""
        chances = self.change.scored.probabilities(scores[None])
        return None if chances is None else float(chances[0, number])

    @property
    def most(self) -> int:
        """Swaps of a photo, at most."""
        cells = len(self.change.grid(self.others[0].seen))
        return min(self.change.edits or cells, cells)

    def one(
        self, folder: OutputFolder, name: str, photo: Shown, progress: Callable[[int], None]
    ) -> int:
        """One photo: searched, written, and told in a line. The number of swaps."""
        file = photo.file
        others = [one for one in self.others if one.file != file] or list(self.others)
        seen = [one.seen for one in others]
        # Several distractors are several searches: only one can be followed.
        told = progress if len(seen) == 1 or self.change.search == "greedy" else None
        made = self.change.change(photo.seen, seen, self.target, told)
        other = None if made.distractor < 0 else others[made.distractor]
        entry = self._entry(made, photo, other, f"{name}.png")
        if other is not None:
            from .exchanged import picture

            folder.picture(entry["panel"], picture(self, made, photo, other))
        cells = made.grid[0] * made.grid[1]
        if other is None:
            what = made.note or ""
        else:
            ending = entry["after"]["probability"]
            chance = "" if ending is None else f", {percent(ending)}"
            what = f"{len(made.swaps)} of {cells} cells of {other.file.name}{chance}"
            what += "" if made.note is None else f"  {made.note}"
        line = f"{file.name:<20} {self.name(made.source)} -> {self.name(made.target)}  {what}"
        self.photos.add(entry, line)
        return len(made.swaps) if told is not None else 0

    def _entry(
        self, made: Changes, photo: Shown, other: Shown | None, panel: str
    ) -> dict[str, Any]:
        steps = [self._told(scores, made) for scores in made.scores]
        size = photo.pixels.shape[:2]
        boxes = self.change.boxes(photo.seen, size).round(2).tolist()
        columns = made.grid[1]
        return {
            "file": str(photo.file),
            "panel": None if other is None else panel,
            "class": made.source,
            "name": self._label(made.source),
            "target_class": made.target,
            "target_name": self._label(made.target),
            "distractor": None if other is None else str(other.file),
            "search": made.search,
            "grid": list(made.grid),
            "changed": made.done and other is not None,
            "note": made.note,
            "tried": made.tried,
            "before": steps[0],
            "after": steps[-1],
            "edits": [
                {
                    "cell": [y, x],
                    "distractor_cell": [v, u],
                    "box": boxes[y * columns + x],
                    "distractor_box": boxes[v * columns + u],
                    **told,
                }
                for (y, x, v, u), told in zip(made.swaps.tolist(), steps[1:], strict=True)
            ],
        }

    def _told(self, scores: Any, made: Changes) -> dict[str, Any]:
        now, before = self.chance(scores, made.target), self.chance(scores, made.source)
        return {
            "top": int(scores.argmax()),
            "score": float(scores[made.target]),
            "probability": None if now is None else round(now, 6),
            "source_probability": None if before is None else round(before, 6),
        }

    def _label(self, number: int) -> str | None:
        return None if self.labels is None else self.labels[number]

    def about(self) -> dict[str, Any]:
        """What summary.json says of the run."""
        return {
            "model": self.path,
            "layer": self.change.layer,
            "target_class": self.target,
            "search": self.change.search,
            "distractors": [str(one.file) for one in self.others],
            "preprocess": preprocess_told(self.preprocess),
            "providers": self.change.head.session.providers,
            "boxes": "top, left, bottom, right in pixels of the photo as the model sees it",
        }
