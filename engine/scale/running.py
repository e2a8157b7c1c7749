"""A run of `batch` under way: which parts are there, which are to do, and what came of them."""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ... import __version__
from ...errors import OutputError
from ..photos.outputs import clear
from .asked import Asked
from .local import Outcome, Worker, over_workers
from .members import parquet
from .parts import kept, part_of, parts_in, record_of, write_manifest
from .shards import Shard

__all__ = ["Batched", "Cluster", "Run"]


# Between two manifests of a run that goes on.
EVERY = 60.0


@dataclass
class Batched:
    """What a run of `batch` did.

    folder: of the parts. written, kept: parts, now and before. rows, errors: of all of them.
    failed: shards without a part, and why. reasons: the first few errors. retried: shards that a
    worker died of once and that came through. notes: for people. providers: what it ran on.
    """

    folder: Path
    written: int = 0
    kept: int = 0
    rows: int = 0
    errors: int = 0
    computed: int = 0
    retried: int = 0
    seconds: float = 0.0
    failed: dict[str, str] = field(default_factory=dict)
    reasons: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    settled: dict[str, Any] = field(default_factory=dict)
    sha256: str = ""
    providers: list[str] = field(default_factory=list)
    parts: list[Path] = field(default_factory=list)

    @property
    def rate(self) -> float:
        """Pictures per second, of those that were computed now."""
        return self.computed / self.seconds if self.seconds else 0.0

    def table(self, columns: Sequence[str] | None = None) -> Any:
        """All parts as a pyarrow.Table; columns: of it, None for all."""
        pa: Any = importlib.import_module("pyarrow")
        read = [parquet().read_table(p, columns=columns, partitioning=None) for p in self.parts]
        return pa.concat_tables([t.replace_schema_metadata(None) for t in read])


@dataclass(frozen=True)
class Cluster:
    """Ray in place of this machine's processes. gpus, cpus: of each actor, fractions too."""

    gpus: float = 0.0
    cpus: float = 1.0


@dataclass
class Run:
    """The shards of a run: those whose parts are there, and those to do."""

    result: Batched
    shards: list[Shard]
    asked: Asked
    ready: dict[str, Any]
    on_progress: Callable[[int, int, int], None] | None
    records: dict[str, dict[str, Any]] = field(default_factory=dict)
    todo: list[Shard] = field(default_factory=list)

    def start_anew(self) -> None:
        """Remove the parts that are there. Raises OutputError for a file that is none."""
        there = list(parts_in(self.result.folder))
        names = {part_of(self.result.folder, s.name) for s in self.shards}
        for part in there:
            if record_of(part) is None and part not in names:
                raise OutputError(f"{part}: not a part of batch; it is not overwritten")
        for part in there:
            part.unlink()

    def look(self, verify: bool) -> None:
        """Which parts are there. Raises OutputError, before anything is changed."""
        folder, sha256 = self.result.folder, self.ready["asked_sha256"]
        whys: dict[str, int] = {}
        for shard in self.shards:
            record, why = kept(shard, folder, self.asked.sha256, sha256, verify)
            if record is None:
                self.todo.append(shard)
                if why:
                    whys[why] = whys.get(why, 0) + 1
            else:
                self.records[shard.name] = record
        names = {part_of(folder, s.name) for s in self.shards}
        others = [p for p in parts_in(folder) if p not in names]
        for why, count in whys.items():
            some = "1 part is" if count == 1 else f"{count} parts are"
            self.result.notes.append(f"{some} made again: {why}")
        if others:
            some = "1 file is" if len(others) == 1 else f"{len(others)} files are"
            self.result.notes.append(
                f"{some} of no shard that was given, and left as they are: {others[0].name}"
                + (" …" if len(others) > 1 else "")
            )
        self.result.kept = len(self.records)

    def all(self, first: Worker, workers: int, cluster: Cluster | None) -> None:
        """Have the missing parts made."""
        start = last = time.perf_counter()
        self.manifest(False)
        for done, outcome in enumerate(self._outcomes(first, workers, cluster), 1):
            if outcome.record is None:
                self.result.failed[outcome.shard.path] = outcome.why
            else:
                self.records[outcome.shard.name] = outcome.record
                self.result.written += 1
                self.result.computed += outcome.record["rows"]
                self.result.retried += bool(outcome.deaths)
                left = 3 - len(self.result.reasons)
                self.result.reasons += list(outcome.reasons)[: max(left, 0)]
            self._report(0, done)
            if time.perf_counter() - last > EVERY:
                self.manifest(False)
                last = time.perf_counter()
        clear(self.result.folder)  # what workers that died had half written
        self.result.seconds = time.perf_counter() - start
        self.result.rows = sum(r["rows"] for r in self.records.values())
        self.result.errors = sum(r["errors"] for r in self.records.values())
        there = [s for s in self.shards if s.name in self.records]
        self.result.parts = [part_of(self.result.folder, s.name) for s in there]
        self.manifest(not self.result.failed)

    def _outcomes(self, first: Worker, workers: int, cluster: Cluster | None) -> Iterator[Outcome]:
        folder = self.result.folder.absolute()
        self._rows = self._done = 0
        if not self.todo:
            return
        if cluster is None:
            yield from over_workers(
                self.todo, self.asked, folder, workers, first, lambda n: self._report(n, None)
            )
            return
        from .rayed import over_ray

        first.end()
        for outcome in over_ray(self.todo, self.asked, folder, workers, cluster.cpus, cluster.gpus):
            self._report((outcome.record or {}).get("rows", 0), None)
            yield outcome

    def _report(self, rows: int, done: int | None) -> None:
        self._rows += rows
        self._done = self._done if done is None else done
        if self.on_progress is not None:
            self.on_progress(self._rows, self._done, len(self.todo))

    def manifest(self, complete: bool) -> None:
        """Write down what is there. complete: of every shard that was given."""
        records = [self.records[s.name] for s in self.shards if s.name in self.records]
        write_manifest(
            self.result.folder,
            {
                "backlight": __version__,
                "command": "batch",
                "complete": complete,
                "model": self.asked.name,
                "model_sha256": self.asked.sha256,
                "asked": self.result.settled,
                "asked_sha256": self.ready["asked_sha256"],
                "labels": self.ready["labels"],
                "rows": sum(r["rows"] for r in records),
                "errors": sum(r["errors"] for r in records),
                "shards": [
                    {
                        "part": part_of(self.result.folder, r["shard"]).name,
                        **{k: r[k] for k in ("shard", "kind", "path", "sha256", "rows", "errors")},
                    }
                    for r in records
                ],
                "failed": [{"file": f, "error": e} for f, e in self.result.failed.items()],
            },
        )
