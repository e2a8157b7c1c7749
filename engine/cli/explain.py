"""`backlight explain`: pictures of a model's reasons on photos."""

from __future__ import annotations

import json as jsonlib
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ...errors import BacklightError, ImageError, UsageError
from .console import show, show_json
from .layers import results_in
from .options import (
    Batch,
    Force,
    Json,
    Labels,
    Methods,
    Model,
    OutputDir,
    PreprocessOption,
    Provider,
    Rules,
    Threads,
    chosen_labels,
    chosen_preprocess,
    counted,
    labels_hint,
    model_path,
    photo_paths,
    say,
)

if TYPE_CHECKING:
    from ...export.preprocess import Preprocess
    from ..direct.explainer import Explainer
    from ..photos.images import Prepared
    from ..photos.outputs import OutputFolder

NOT_FINITE = "the model's scores of it are NaN or infinite: there is nothing to explain"

ALREADY = (
    "the scores are probabilities by their values, and the graph doesn't say of what: they are "
    "shown as they are, and the gradient is theirs; --of names a tensor before them"
)


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("explain")(explain)


def explain(
    image: Annotated[
        list[str] | None,
        typer.Argument(metavar="IMAGE…", help="Images and folders. [default: bundled photos]"),
    ] = None,
    output: OutputDir = Path("explained"),
    model: Model = None,
    rule: Rules = None,
    method: Methods = None,
    target_class: Annotated[
        str, typer.Option(metavar="C", help="top1, a class number, or a name from the labels.")
    ] = "top1",
    of: Annotated[
        str | None,
        typer.Option(
            metavar="T", help="Tensor to explain; T:as-is: not before its Softmax. [class scores]"
        ),
    ] = None,
    preprocess: PreprocessOption = None,
    labels: Labels = None,
    provider: Provider = None,
    threads: Threads = None,
    batch: Batch = 8,
    force: Force = False,
    json: Json = False,
) -> None:
    """Explain photos: a panel, the raw maps and a summary for each, in DIR.

    Panels show the crop that the model saw beside each method's map. Raw maps (.npy) are signed, in
    the input's layout. MODEL may be a file that `backlight export` wrote. Guided and
    deconv maps hardly depend on the class asked for: to tell classes apart, look at vanilla ones.
    """
    from ...export.methods import asked
    from ..direct.explainer import Explainer
    from ..photos.outputs import names_of, refuse_results

    path = model_path(model)
    if batch < 1:
        raise UsageError(f"--batch {batch}; expected 1 or more")
    names_asked = asked(rule, method)
    files, bad = _files(photo_paths(image))
    if not files:
        raise bad[0].error
    names = names_of(files)
    expected = ["summary.json", *(f"{n}.png" for n in names)]
    refuse_results(output, expected, force)  # before the model is loaded
    explainer = Explainer(
        path, methods=names_asked, of=of, providers=provider or None, threads=threads, batch=batch
    )
    expected += [_map_file(n, m) for n in names for m in explainer.methods]
    record, assumed = chosen_preprocess(
        preprocess, explainer.preprocess, path, explainer.input.dtype
    )
    own = None if explainer.layer is not None else explainer.labels
    names_of_classes = chosen_labels(labels, own, explainer.classes, of)
    hint = None if of is not None else labels_hint(names_of_classes, explainer.classes)
    run = _Run(explainer, record, names_of_classes)
    run.target = run.class_of(target_class)
    run.notes = [*explainer.notes, *(n for n in (assumed, hint) if n is not None)]
    for note in run.notes:
        say(note)
    with results_in(output, expected, force) as folder:
        entries, skipped = run.all(files, names, folder, batch, quiet=json)
        bad += skipped
        for failed in bad:
            say(f"skipped: {failed.error}")
        summary = run.summary(path, entries, bad)
        if entries:
            folder.json("summary.json", summary)
        if json:
            show_json(summary)
        elif entries:
            ms = sum(e["ms"] for e in entries) / len(entries)
            show(
                f"{counted(len(entries))}, {ms:.1f} ms each on {explainer.session.provider} "
                f"(score and {len(explainer.methods)} maps) -> {folder.path}/"
            )
        if bad:
            sys.stdout.flush()
            raise typer.Exit(2)


@dataclass(frozen=True)
class _Bad:
    file: str
    error: BacklightError


def _files(given: Sequence[str]) -> tuple[list[Path], list[_Bad]]:
    """The images found, and the paths that give none. One bad path doesn't stop the others."""
    from ..photos.images import image_files

    found: list[Path] = []
    bad: list[_Bad] = []
    for path in given:
        try:
            found += image_files([path])
        except ImageError as err:
            bad.append(_Bad(path, err))
    return list(dict.fromkeys(found)), bad


@dataclass
class _Run:
    explainer: Explainer
    preprocess: Preprocess
    labels: Sequence[str] | None
    target: int = -1
    notes: list[str] = field(default_factory=list)

    def class_of(self, given: str) -> int:
        from ..classifier.labels import class_number

        number = class_number(given, self.labels)
        classes = self.explainer.classes
        if classes is not None and number >= classes:
            raise UsageError(
                f"--target-class {number} is out of range; the model has classes 0 to {classes - 1}"
            )
        return number

    def name(self, number: int) -> str:
        if self.explainer.layer is not None and self.labels is None:
            return f"channel {number} of {self.explainer.layer}"
        if self.labels is None or number >= len(self.labels):
            return f"class {number}"
        return f"{self.labels[number].split(',')[0]} ({number})"

    def all(
        self, files: Sequence[Path], names: Sequence[str], folder: OutputFolder, batch: int,
        quiet: bool,
    ) -> tuple[list[dict[str, Any]], list[_Bad]]:  # fmt: skip
        """Decode, explain and write; the next images are decoded while one batch runs."""
        from ..photos import images
        from ..photos.stream import fitting
        from .progress import track

        spec = self.explainer.input
        self.preprocess = images.fitted(self.preprocess, spec)
        batch = fitting(batch, self.preprocess, spec, 2)
        entries: list[dict[str, Any]] = []
        bad: list[_Bad] = []

        def read(file: Path) -> Prepared | ImageError:
            try:
                return images.read(file, self.preprocess, spec)
            except ImageError as err:
                return err

        with track(len(files), "explaining") as step, ThreadPoolExecutor(2) as pool:
            for group in _batches(pool, read, list(zip(files, names, strict=True)), batch):
                good = []
                for (file, name), prepared in group:
                    if isinstance(prepared, ImageError):
                        bad.append(_Bad(str(file), prepared))
                    else:
                        good.append((file, name, prepared))
                if good:
                    made = self._batch(good, folder, bad)
                    entries += made
                    if not quiet:
                        for entry in made:
                            step.print(self.line(entry))
                step.advance(len(group))
        return entries, bad

    def _batch(
        self,
        good: Sequence[tuple[Path, str, Prepared]],
        folder: OutputFolder,
        bad: list[_Bad],
    ) -> list[dict[str, Any]]:
        import numpy as np

        from ..classifier.intake import sound_rows

        tensors = np.stack([prepared.tensor for _, _, prepared in good])
        target = None if self.target < 0 else self.target
        start = time.perf_counter()
        result = self.explainer(tensors, target)
        run = len(good)
        ms = 1000 * (time.perf_counter() - start) / run  # of an image, as far as it can be told
        # The channels of a layer compete for nothing.
        layer = self.explainer.layer is not None
        chances = None if layer else self.explainer.probabilities(result.scores)
        if chances is not None:
            self._note_probabilities(result.scores)
        finite = sound_rows(result.scores.reshape(len(good), -1))
        made = []
        for row, (file, name, prepared) in enumerate(good):
            if not finite[row]:
                bad.append(_Bad(str(file), ImageError(f"{file}: {NOT_FINITE}")))
                continue
            chance = None if chances is None else chances[row]
            maps = {method: values[row] for method, values in result.saliency.items()}
            entry = self._entry(file, name, int(result.target[row]), chance, ms)
            entry["images_in_run"] = run
            entry["no_gradient"] = [method for method, values in maps.items() if not values.any()]
            self._write(folder, name, entry, prepared, maps)
            made.append(entry)
        return made

    def _note_probabilities(self, scores: Any) -> None:
        """Say once that scores are probabilities where their values tell and the graph doesn't."""
        from ..classifier.scores import is_distribution

        if self.explainer.closing is not None or ALREADY in self.notes:
            return
        if scores.ndim == 2 and is_distribution(scores).any():
            self.notes.append(ALREADY)
            say(ALREADY)

    def _entry(self, file: Path, name: str, target: int, chances: Any, ms: float) -> dict[str, Any]:
        entry: dict[str, Any] = {
            "file": str(file),
            "class": target,
            "name": None if self.labels is None else self.labels[target],
            "probability": None if chances is None else round(float(chances[target]), 6),
            "ms": round(ms, 3),
            "panel": f"{name}.png",
            "maps": {method: _map_file(name, method) for method in self.explainer.methods},
        }
        if chances is not None:
            entry["top"] = [
                {
                    "class": int(c),
                    "name": None if self.labels is None else self.labels[int(c)],
                    "probability": round(float(chances[c]), 6),
                }
                for c in chances.argsort()[::-1][:5]
            ]
        return entry

    def _write(
        self, folder: OutputFolder, name: str, entry: dict[str, Any], prepared: Prepared,
        maps: dict[str, Any],
    ) -> None:  # fmt: skip
        from ..pictures import panel as pictures

        layout, color = self.explainer.input.layout, self.preprocess.color
        height, width = prepared.pixels.shape[:2]
        seen = f"as the model sees it, {width} x {height}"
        cells = [pictures.Cell(prepared.pixels, "photo", seen)]
        for rule, values in maps.items():
            folder.array(entry["maps"][rule], values)
            # Exported with --reduce maxabs: a map without channels.
            flat = values.ndim != len(self.explainer.input.shape((height, width)))
            shape = "nhw" if flat else layout
            picture = pictures.saliency_picture(rule, values, shape, color)
            blank, channels = rule in entry["no_gradient"], self.explainer.input.channels
            caption = pictures.caption_of(rule, shape, blank, channels)
            cells.append(pictures.Cell(picture, rule, caption))
        heading = Path(entry["file"]).name + ": why " + self.name(entry["class"]) + "?"
        folder.picture(entry["panel"], pictures.panel(heading, self.detail(entry), cells))

    def detail(self, entry: dict[str, Any]) -> str:
        """What the model says of the image, in a line."""
        if entry["probability"] is None:
            return self.explainer.name
        text = f"{self.explainer.name}: {_percent(entry['probability'])}"
        top = entry["top"][0]
        if top["class"] == entry["class"]:
            rest = [t for t in entry["top"][1:3] if t["probability"] >= 0.01]
        else:
            rest = [top]
        others = ", ".join(f"{self.name(t['class'])} {_percent(t['probability'])}" for t in rest)
        return (
            text
            + (f"; then {others}" if rest and top["class"] == entry["class"] else "")
            + (f"; its top class is {others}" if top["class"] != entry["class"] else "")
        )

    def line(self, entry: dict[str, Any]) -> str:
        """An image's line on the terminal."""
        chance = "" if entry["probability"] is None else _percent(entry["probability"])
        # A run has one time for all its images: it is no image's own.
        alone = entry["images_in_run"] == 1
        took = f" {entry['ms']:8.1f} ms" if alone else ""
        blank = entry["no_gradient"]
        return (
            f"{Path(entry['file']).name:<24} {self.name(entry['class']):<36} {chance:>7}{took}"
            + (f"  no gradient: {', '.join(blank)} all 0" if blank else "")
        )

    def summary(
        self, model: str, entries: list[dict[str, Any]], bad: Sequence[_Bad]
    ) -> dict[str, Any]:
        """summary.json."""
        from ... import __version__
        from ...export.methods import RULES
        from ..pictures.panel import caption_of

        layout, channels = self.explainer.input.layout, self.explainer.input.channels
        return {
            "backlight": __version__,
            "model": model,
            "methods": list(self.explainer.methods),
            "rules": [m for m in self.explainer.methods if m in RULES],
            "target_class": "top1" if self.target < 0 else self.target,
            "preprocess": jsonlib.loads(self.preprocess.to_json()),
            "providers": self.explainer.session.providers,
            "ms": "of an image: its run's time by the number of images in it",
            "pictures": {
                m: caption_of(m, layout, channels=channels) for m in self.explainer.methods
            },
            "notes": self.notes,
            "images": entries,
            "skipped": [{"file": b.file, "error": str(b.error)} for b in bad],
        }


def _map_file(name: str, rule: str) -> str:
    return f"{name}-{rule}.npy"


def _percent(probability: float) -> str:
    return f"{100 * probability:.1f} %"


def _batches(
    pool: ThreadPoolExecutor, read: Any, files: Sequence[tuple[Path, str]], batch: int
) -> Iterator[list[tuple[tuple[Path, str], Any]]]:
    """Groups of `batch` read images, one group ahead."""
    groups = [files[at : at + batch] for at in range(0, len(files), batch)]
    ahead = [pool.submit(read, file) for file, _ in groups[0]]
    for index, group in enumerate(groups):
        current = ahead
        following = groups[index + 1] if index + 1 < len(groups) else []
        ahead = [pool.submit(read, file) for file, _ in following]
        yield [(pair, f.result()) for pair, f in zip(group, current, strict=True)]
