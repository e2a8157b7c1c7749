"""`backlight.embed`: a folder of pictures through a model into a store of vectors.

Each worker thread decodes a batch and runs it, so decoding overlaps inference and no core waits:
on the CPU two single-threaded runs side by side beat one run on two threads.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ... import arguments as take
from ...errors import ImageError, UsageError
from ...export.graph import ModelLike
from ...export.preprocess import Preprocess, from_json
from ...export.preprocess import given as given_preprocess
from ...export.sizes import Shapes
from ...lanes import in_lanes
from ..classifier.extras import InputsLike
from ..classifier.ready import Reading, Ready
from ..inside.taps import Taps
from ..photos import images
from ..photos.folders import class_folders
from ..photos.room import BATCHES
from ..photos.stream import fitting, lanes_of, turn_of
from ..runtime.digest import model_hash
from ..runtime.session import Providers
from .features import features
from .store import Embeddings, Row, Source
from .store_writer import Writer

__all__ = ["Embedded", "Embedder", "embed", "embedder_of", "model_hash"]

BATCH = 16
SIDE = 32  # of the stored pixels: CIFAR's size, the one that pixel distances are shown on
# A part is written when this much waits: a kill loses no more, and parts don't get many.
PART_ROWS = 4096
PART_SECONDS = 10.0
_BUNDLED = Path(__file__).parent.parent / "assets" / "squeezenet1_1.onnx"


class Embedder(Reading):
    """Vectors of image batches.

    model: a path, bytes or an onnx.ModelProto. layer: the tensor to embed; None: what the last
    linear layer before the class scores reads. Spatial tensors are averaged over positions.
    threads: in all; None: one per core. shapes: of inputs that the model leaves open, by name;
    inputs: what is fed beside every image, by name (see `backlight.Explainer`).

    Raises ModelError or UsageError.
    """

    @take.accepts(layer=take.text, providers=take.names, threads=take.whole)
    def __init__(
        self,
        model: ModelLike | Ready,
        layer: str | None = None,
        *,
        providers: Providers = None,
        threads: int | None = None,
        shapes: Shapes | None = None,
        inputs: InputsLike | None = None,
    ) -> None:
        if threads is not None and threads < 1:
            raise UsageError(f"threads {threads}; expected 1 or more")
        ready = Ready.of(model, shapes, inputs)
        found = features(ready, layer)
        if found.width is None:
            raise UsageError(f"the width of '{found.tensor}' is open; name another tensor")
        self.tensor, self.pooling, self.width = found.tensor, found.pooling, found.width
        self.hash = ready.hash
        given = ready.given
        self.file = str(Path(given).resolve()) if isinstance(given, (str, os.PathLike)) else ""
        providers, placed = ready.placed(providers)
        self.lanes, own = lanes_of(providers, threads)
        needed = {v.name for v in found.model.graph.inputs}
        beside = {n: v for n, v in ready.inputs.items() if n in needed}
        self._taps = Taps(
            found.model,
            [found.output],
            providers=providers,
            threads=own,
            inputs=beside,
            lanes=self.lanes,
        )
        super().__init__(ready, self._taps.fed)
        self._turn = turn_of(providers)
        self.provider = self._taps.session.provider
        self.providers = self._taps.session.providers
        self.notes = [*found.notes, *placed, *self._taps.notes]

    def __call__(self, x: NDArray[Any]) -> NDArray[np.float32]:
        """A batch in the image input's layout and dtype -> float32 [N, width]. ImageError."""
        with self._turn:
            (vectors,) = self._taps(x).values()
        return np.asarray(vectors, np.float32)

    def source(self, preprocess: Preprocess, side: int) -> Source:
        """What a store writes down of these vectors."""
        return Source(
            self.file, self.hash, self.tensor, self.pooling, preprocess.to_json(), self.width, side
        )

    def rows(
        self,
        files: Sequence[Path],
        labels: Sequence[str | None],
        preprocess: Preprocess,
        side: int,
    ) -> tuple[list[Row], dict[str, str]]:
        """One batch of files: their rows, and the ones that could not be used, with the reason."""
        good: list[tuple[str, str | None, images.Prepared]] = []
        bad: dict[str, str] = {}
        for file, label in zip(files, labels, strict=True):
            path = os.path.abspath(file)
            try:
                path.encode()
                seen = images.read(file, preprocess, self.input)
                good.append((path, label, seen))
            except UnicodeEncodeError:
                bad[path] = f"{path}: a name that is no UTF-8 text, as stores have it; rename it"
            except ImageError as err:
                bad[path] = str(err)
        if not good:
            return [], bad
        vectors = self(np.stack([seen.tensor for _, _, seen in good]))
        rows = []
        for (path, label, seen), vector in zip(good, vectors, strict=True):
            if np.isfinite(vector).all():
                rows.append(Row(path, label, vector, small(seen.pixels, side)))
            else:
                bad[path] = f"{path}: the model's '{self.tensor}' has NaN or infinite values"
        return rows, bad


def small(pixels: images.Pixels, side: int) -> images.Pixels:
    """What the model saw as uint8 [side, side, 3], by area averages."""
    return images.resized(pixels, (side, side), "box")


@dataclass
class Embedded:
    """What a run of `embed` did. skipped: files that could not be read, and why. newer: files that
    were written to after their vectors: a store knows a picture by its path."""

    store: Path
    added: int = 0
    known: int = 0
    newer: int = 0
    seconds: float = 0.0
    skipped: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def embeddings(self) -> Embeddings:
        """The store, for reading."""
        return Embeddings(self.store)

    @property
    def rate(self) -> float:
        """Images per second."""
        return (self.added + len(self.skipped)) / self.seconds if self.seconds else 0.0


@take.accepts(
    folder=take.paths, store=take.path, layer=take.text, preprocess=given_preprocess,
    providers=take.names, threads=take.whole, batch=take.whole, force=take.flag,
)  # fmt: skip
def embed(
    model: ModelLike | Ready | Embedder,
    folder: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    store: str | os.PathLike[str],
    *,
    layer: str | None = None,
    preprocess: Preprocess | str | None = None,
    providers: Providers = None,
    threads: int | None = None,
    batch: int = BATCH,
    force: bool = False,
    on_batch: Callable[[int, int], None] | None = None,
    shapes: Shapes | None = None,
    inputs: InputsLike | None = None,
) -> Embedded:
    """Embed the pictures under a folder (or several, or files) that the store doesn't hold yet.

    model, layer, providers, threads, shapes, inputs: see Embedder. preprocess: a preset's name or a
    record; default: the model's own. batch: pictures per run. force: start the store anew.
    on_batch: called with the number of files done and to do.

    A run that was killed goes on where it was: the store is the same as after a run that was
    not. A picture is known by its path, not by what is in it: one that was written to since is
    counted (`newer`) and said, and stays as it was. Labels are the names of the folder's folders,
    where all pictures lie in two or more such.
    Raises ImageError for an empty folder, UsageError for a store of another model or tensor.
    """
    if batch < 1:
        raise UsageError(f"batch {batch}; expected 1 or more")
    given = [folder] if isinstance(folder, (str, os.PathLike)) else list(folder)
    labels = class_folders(given)
    made = model if isinstance(model, Embedder) else None
    if made is None:
        assert not isinstance(model, Embedder)
        made = Embedder(
            model, layer, providers=providers, threads=threads, shapes=shapes, inputs=inputs
        )
    record = made.settled(preprocess)
    images.refuse_photos(list(labels), made.input)
    batch = made.input.batch or fitting(batch, record, made.input)
    size = batch * images.bytes_prepared(record, made.input)
    writer = Writer(store, made.source(record, SIDE), force)
    result = Embedded(Path(store), notes=[*made.notes, *writer.notes])
    start = time.perf_counter()
    with writer.writing():
        keys = {file: os.path.abspath(file) for file in labels}
        new = [f for f in labels if keys[f] not in writer.known and keys[f] not in writer.failed]
        # Those that failed before come last: batches stay what they were in the first run.
        todo = new + [f for f in labels if keys[f] in writer.failed]
        result.known = len(labels) - len(todo)
        result.newer = sum(_written_after(f, writer.known.get(keys[f])) for f in labels)
        if result.newer:
            some = "1 picture is" if result.newer == 1 else f"{result.newer} pictures are"
            result.notes.append(
                f"{some} newer than the vectors in {store}, which knows pictures by their paths; "
                "started anew (--force) it has what they are now"
            )
        written = time.perf_counter()
        done = 0

        def one(files: Sequence[Path]) -> tuple[list[Row], dict[str, str]]:
            with BATCHES.held(size):
                return made.rows(files, [labels[f] for f in files], record, SIDE)

        groups = [todo[at : at + batch] for at in range(0, len(todo), batch)]
        for group, (rows, bad) in zip(
            groups, in_lanes(one, groups, made.lanes, 2 * made.lanes), strict=True
        ):
            writer.add(rows, bad)
            result.added += len(rows)
            result.skipped |= bad
            done += len(group)
            if on_batch is not None:
                on_batch(done, len(todo))
            if writer.waiting >= PART_ROWS or time.perf_counter() - written > PART_SECONDS:
                writer.flush()
                written = time.perf_counter()
    result.seconds = time.perf_counter() - start
    return result


def _written_after(file: Path, then: float | None) -> bool:
    """Whether a file has a later time than its vector's; not where it can't be told."""
    try:
        return then is not None and file.stat().st_mtime > then
    except OSError:
        return False


def embedder_of(
    store: Embeddings,
    model: str | os.PathLike[str] | None = None,
    *,
    providers: Providers = None,
    threads: int | None = None,
    shapes: Shapes | None = None,
    inputs: InputsLike | None = None,
) -> tuple[Embedder, Preprocess]:
    """The embedder that made a store, and how it fed its pictures.

    model: the file, where it isn't at the place that the store names. shapes, inputs: as they were
    when the store was made. Raises UsageError where the model is not to be found, or is another
    one, or was fed something else beside its images.
    """
    source = store.source
    places = [Path(source.model or "?") if model is None else Path(model)]
    if model is None and not (shapes or inputs):  # the bundled one takes neither
        places.append(_BUNDLED)
    there = [p for p in places if p.is_file()]
    readied = (Ready(file, shapes, inputs) for file in there)
    found = next((r for r in readied if r.hash == source.hash), None)
    if found is None:
        what = f"{places[0]}: not the model" if there[:1] == places[:1] else "give the model"
        raise UsageError(
            f"{what} that {store.path} was made with: {source.model or 'one without a file'} "
            f"(sha256 {source.hash[:12]}…){_fed_as_then(there)}"
        )
    made = Embedder(found, source.tensor, providers=providers, threads=threads)
    return made, from_json(source.preprocess, str(store.path))


def _fed_as_then(files: Sequence[Path]) -> str:
    """What else tells a model from the one that it was, where it takes more than images."""
    more = next((f"--input {n}" for file in files for n in Ready(file).image.others), None)
    return "" if more is None else f", with the same {more}"
