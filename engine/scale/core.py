"""One shard to one Parquet part: no engine, no cluster, nothing shared with other shards.

    part = Explaining(asked).explain(shard, Path("out"))

A part has a row for each picture of its shard, in the shard's order: `key`, `row` (its place in
the shard), `class` and `name`, `probability`, `top_classes` and `top_scores`, a map for each
method, and `error`: why there is nothing else. It is written whole or not at all, and says in its
metadata which shard, model and options it is of. Batches never reach over two shards: a part is the
same whatever ran before it, and wherever.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import ImageError, RunError, UsageError
from ...export.combinations import told_from_itself
from ...export.preprocess import ASSUMED, from_json, preset
from ...export.sampling import Sampling
from ...lanes import in_lanes
from ..classifier import labels as names_of_classes
from ..classifier.intake import sound_rows
from ..direct.explainer import Explainer
from ..photos import images
from ..photos.outputs import written_whole
from ..photos.stream import fitting
from .asked import Asked
from .maps import MapColumns
from .members import Columns, Member, members, parquet
from .parts import Done, record_bytes
from .shards import Shard
from .table import empty, schema_of, table_in

__all__ = ["Explaining"]

NOT_FINITE = "the model's scores of it are NaN or infinite: there is nothing to explain"


@dataclass
class _Row:
    """key, at: of the picture; prepared: as the model takes it, or why there is none."""

    key: str
    at: int
    prepared: images.Prepared | ImageError


class Explaining:
    """A model readied once for many shards. Raises ModelError or UsageError."""

    def __init__(self, asked: Asked) -> None:
        parquet()
        self.asked = asked
        if asked.top < 1:
            raise UsageError(f"top {asked.top}; expected 1 or more")
        if asked.batch < 1:
            raise UsageError(f"batch {asked.batch}; expected 1 or more")
        self.explainer = Explainer(
            asked.model, methods=asked.methods, providers=asked.providers or None,
            threads=asked.threads, batch=asked.batch, inputs=asked.inputs,
        )  # fmt: skip
        self.explainer.fed.alone()
        self._shaped: dict[str, tuple[int, ...]] | None = None
        self.notes = list(self.explainer.notes)
        spec = self.explainer.input
        self.preprocess = images.fitted(self._record(spec), spec)
        self.labels = self._labels()
        self.target = names_of_classes.class_number(asked.target, self.labels)
        known = self.explainer.classes
        if known is not None and self.target >= known:
            raise UsageError(
                f"--target-class {self.target} is out of range; "
                f"the model has classes 0 to {known - 1}"
            )
        self.against = self._rival()
        self.columns = [
            MapColumns(method, asked.maps, asked.grid, spec) for method in self.explainer.methods
        ]
        # Of an image that is varied more often than usual, fewer.
        varied = max(asked.made.get("samples", 1), asked.made.get("steps", 1)) / Sampling.samples
        rows = max(1, int(asked.batch / max(varied, 1)))
        self.batch = self.explainer.fed.batch or fitting(rows, self.preprocess, spec, 3)

    def _rival(self) -> int | None:
        """The class of `contrast`; None where the model says it. Raises UsageError."""
        given, classes = self.asked.contrast, self.explainer.classes
        if given is None:
            return None
        if not self.explainer.contrasts:
            raise UsageError(
                f"--contrast {given}: {self.asked.name} is exported already and takes none; "
                "'backlight export --contrast input' makes one that does"
            )
        found = names_of_classes.rival_number(given, self.labels)
        if classes is not None and found >= classes:
            raise UsageError(
                f"--contrast {found} is out of range; the model has classes 0 to {classes - 1}"
            )
        if found == self.target >= 0:
            raise told_from_itself(given, self.explainer.contrast_form == "logit")
        return found

    @property
    def told_apart(self) -> bool:
        """Whether the maps tell the class from another one."""
        return bool(self.explainer.contrasted)

    def _record(self, spec: images.InputSpec) -> Any:
        if self.asked.preprocess is not None:
            return from_json(self.asked.preprocess, "preprocess")
        own = self.explainer.preprocess
        if own is not None:
            return own
        name = "none" if spec.dtype.kind in "iu" else ASSUMED
        self.notes.append(
            f"{self.asked.name} doesn't say how it wants its images: assuming {name} "
            "(--preprocess changes it)"
        )
        return preset(name)

    def _labels(self) -> list[str] | None:
        classes, layer = self.explainer.classes, self.explainer.layer
        if self.asked.labels is not None:
            return names_of_classes.fitting(list(self.asked.labels), classes, "--labels")
        own = None if layer is not None else self.explainer.labels
        if own is not None:
            return names_of_classes.fitting(own, classes, "the metadata")
        note = None if self.asked.made.get("of") else names_of_classes.missing(classes)
        self.notes += [] if note is None else [note]
        return None

    @property
    def settled(self) -> dict[str, Any]:
        """What was asked, with nothing left to the model: what parts are known by."""
        return {
            "methods": list(self.explainer.methods),
            "target": self.target,
            "preprocess": json.loads(self.preprocess.to_json()),
            "labels": _hash(self.labels),
            "maps": self.asked.maps,
            "grid": self.asked.grid if self.asked.maps == "grid" else None,
            "top": self.asked.top,
            "inputs": {
                name: hashlib.sha256(array.tobytes()).hexdigest()
                for name, array in sorted(self.explainer.fed.extras.arrays.items())
            },
            "columns": [self.asked.image_column, self.asked.key_column],
            **self.asked.made,
            **({} if self.against is None else {"contrast": self.against}),
        }

    @property
    def sha256(self) -> str:
        """Of what is settled."""
        return _hash(self.settled)

    def explain(
        self, shard: Shard, folder: Path, on_batch: Callable[[int], None] | None = None
    ) -> Done:
        """Write a shard's part to a folder. on_batch: told of rows that are done.

        Raises ImageError for a shard that can't be read to its end or is written to meanwhile, and
        OutputError; there is no part then.
        """
        try:
            stamp, digest = shard.stamp(), shard.digest()
        except OSError as err:
            raise ImageError(f"{shard.path}: can't be read: {err.strerror}") from err
        done = Done.begun(shard, stamp, digest, self.asked.sha256, self.sha256)
        broken: ImageError | None = None
        with written_whole(done.path(folder)) as file:
            with table_in(file, self._schema()) as table:
                for group in self._groups(shard):
                    if isinstance(group, ImageError):
                        broken = group
                        break
                    rows = self._explained(group)
                    for row in rows:
                        done.count(row["error"])
                    table.add(rows)
                    if on_batch is not None:
                        on_batch(len(group))
                table.end(record_bytes(done.record))
            if broken is None and shard.stamp() != stamp:
                broken = ImageError(f"{shard.path}: was written to while it was read")
            if broken is not None:
                raise broken
        return done

    def _groups(self, shard: Shard) -> Iterator[list[_Row] | ImageError]:
        """Batches of pictures, the next ones decoded while one runs. What the shard's own reading
        raises comes last, as a value: inside the writing of a file it would be an error of that."""
        columns = Columns(self.asked.image_column, self.asked.key_column)
        coming = enumerate(members(shard, columns))

        def read(of: tuple[int, Member]) -> _Row:
            at, member = of
            return _Row(member.key, at, self._prepared(member))

        with closing(in_lanes(read, coming, self.asked.decoders, 2 * self.batch)) as rows:
            try:
                while group := list(islice(rows, self.batch)):
                    yield group
            except (ImageError, UsageError) as err:
                yield ImageError(str(err))

    def _prepared(self, member: Member) -> images.Prepared | ImageError:
        try:
            if isinstance(member.data, ImageError):
                return member.data
            if isinstance(member.data, Path):
                return images.read(member.data, self.preprocess, self.explainer.input)
            spec = self.explainer.input
            return images.read_bytes(member.data, member.key, self.preprocess, spec)
        except ImageError as err:
            return err
        except ValueError as err:  # a name that no file system takes
            return ImageError(f"{member.key}: {err}")

    def _explained(self, group: list[_Row]) -> list[dict[str, Any]]:
        """Rows of the table, in order."""
        good = [(row, row.prepared.tensor) for row in group if not _is_error(row.prepared)]  # type: ignore[union-attr]
        found: dict[int, dict[str, Any]] = {}
        if good:
            rows, tensors = [r for r, _ in good], np.stack([t for _, t in good])
            try:
                found = self._run(rows, tensors)
            except (RunError, ImageError):
                # One row may bring down its batch: each alone, and those that fail say why.
                for row, tensor in good:
                    try:
                        found |= self._run([row], tensor[None])
                    except (RunError, ImageError) as err:
                        found[row.at] = _empty(row, str(err))
        return [
            found[row.at] if row.at in found else _empty(row, str(row.prepared)) for row in group
        ]

    def _run(self, rows: list[_Row], batch: NDArray[Any]) -> dict[int, dict[str, Any]]:
        """One run: by its place, each picture's row of the table."""
        result = self.explainer(batch, None if self.target < 0 else self.target, self.against)
        layer = self.explainer.layer is not None
        flat = np.asarray(result.scores).reshape(len(rows), -1)
        if layer and result.scores.ndim > 2:  # a channel's score is the sum over its positions
            flat = flat.reshape(*result.scores.shape[:2], -1).sum(axis=2)
        chances = None if layer else self.explainer.probabilities(result.scores)
        scores = flat if chances is None else chances
        finite = sound_rows(flat)
        made = {}
        for at, row in enumerate(rows):
            if not finite[at]:
                made[row.at] = _empty(row, f"{row.key}: {NOT_FINITE}")
                continue
            chosen = int(result.target[at])
            # Ties: the lower number first, as the target is chosen.
            best = np.argsort(-scores[at].astype(np.float64), kind="stable")[: self.asked.top]
            one = _empty(row, None) | {
                "class": chosen,
                "name": self.labels[chosen] if self.labels else None,
                "probability": None if chances is None else float(chances[at][chosen]),
                "top_classes": best.astype(np.int32),
                "top_scores": scores[at][best].astype(np.float32),
            }
            if result.contrast is not None:
                other = int(result.contrast[at])
                one["contrast"] = other
                one["contrast_name"] = self.labels[other] if self.labels else None
            for column in self.columns:
                values = np.asarray(result.saliency[column.method][at], np.float32)
                one |= column.cells(values)
            made[row.at] = one
        return made

    def _schema(self) -> Any:
        return schema_of(self.columns, self._shapes(), self.told_apart)

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        """Of each method's map, told by a run on one empty picture."""
        if self._shaped is None:
            assert self.preprocess.size is not None
            spec = self.explainer.input
            blank = np.zeros((1, *spec.shape(self.preprocess.size)), spec.dtype)
            found = self.explainer(blank, None if self.target < 0 else self.target, self.against)
            self._shaped = {m: np.asarray(v).shape[1:] for m, v in found.saliency.items()}
            for shape in self._shaped.values():
                if not 2 <= len(shape) <= 3:
                    shown = ",".join(["N", *map(str, shape)])
                    raise UsageError(f"--wrt: a tensor of [{shown}] has no picture; expected rows "
                                     "and columns")  # fmt: skip
        return self._shaped


def _is_error(prepared: images.Prepared | ImageError) -> bool:
    return isinstance(prepared, ImageError)


def _empty(row: _Row, error: str | None) -> dict[str, Any]:
    return empty(row.key, row.at, error)


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
