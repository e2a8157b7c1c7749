"""Shards over the cores of one machine: a worker process for each, and a new one where one dies."""

from __future__ import annotations

import contextlib
import json
import queue
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import RunError
from ..runtime.confined import command_of, started, told_of
from ..runtime.isolated import error_of
from .asked import Asked
from .shards import Shard

__all__ = ["Outcome", "Worker", "over_workers"]

COMMAND = command_of(f"{__package__}.worker")
# How often a shard is begun, where the worker dies of it.
TRIES = 3
# Without a batch done: a model that never ends.
STALLED = 1800.0
OnRows = Callable[[int], None]


@dataclass(frozen=True)
class Outcome:
    """What came of a shard: its part's record and the first reasons of its errors; or why there is
    no part. deaths: of workers on the way."""

    shard: Shard
    record: dict[str, Any] | None
    reasons: Sequence[str] = ()
    why: str = ""
    deaths: int = 0


class DiedError(Exception):
    """A worker is gone; with the reason."""


class Worker:
    """A worker process. Raises what its model raises there, and RunError where it can't start."""

    def __init__(self, asked: Asked, stalled: float = STALLED) -> None:
        self._stalled = stalled
        self.process = started(
            COMMAND, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            text=True, encoding="ascii",
        )  # fmt: skip
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        threading.Thread(target=self._listen, daemon=True).start()
        try:
            self._tell(asked.as_dict())
            said = self._heard()
        except DiedError as err:
            raise RunError(f"a worker of batch can't start: {err}") from err
        if "error" in said:
            self.end()
            raise error_of(said)
        self.ready: dict[str, Any] = said["ready"]

    def explain(self, shard: Shard, folder: Path, on_rows: OnRows) -> Outcome:
        """Have a shard's part written. Raises DiedError."""
        self._tell({"shard": shard.as_dict(), "folder": str(folder)})
        while True:
            said = self._heard()
            if "rows" in said:
                on_rows(said["rows"])
            elif "done" in said:
                return Outcome(shard, said["done"], said["reasons"])
            else:
                return Outcome(shard, None, why=said["message"])

    def end(self) -> None:
        """End it, whatever it does."""
        with contextlib.suppress(OSError):
            self.process.kill()
        for pipe in (self.process.stdin, self.process.stdout):
            with contextlib.suppress(OSError, ValueError):
                if pipe is not None:
                    pipe.close()
        self.process.wait()

    def _listen(self) -> None:
        assert self.process.stdout is not None
        with contextlib.suppress(ValueError, OSError):  # closed by `end`
            for line in self.process.stdout:
                self._lines.put(line)
        self._lines.put("")

    def _tell(self, what: dict[str, Any]) -> None:
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps(what) + "\n")
            self.process.stdin.flush()
        except (OSError, ValueError):
            raise DiedError(self._why()) from None

    def _heard(self) -> dict[str, Any]:
        try:
            line = self._lines.get(timeout=self._stalled)
        except queue.Empty:
            self.end()
            raise DiedError(f"no batch done in {self._stalled:g} seconds") from None
        if not line.endswith("\n"):
            raise DiedError(self._why())
        return dict(json.loads(line))

    def _why(self) -> str:
        """How it ended."""
        try:
            self.process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self.end()
        return told_of(self.process.returncode) or "it ended"


def over_workers(
    todo: Sequence[Shard], asked: Asked, folder: Path, count: int, first: Worker, on_rows: OnRows
) -> Iterator[Outcome]:
    """What comes of each shard, as it comes. count: of workers; first: one that is there already.

    A worker that dies costs its shard another try, `TRIES` in all. Where the caller stops early,
    the workers end at once: what they had begun is not there.
    """
    waiting: queue.SimpleQueue[Shard] = queue.SimpleQueue()
    for shard in todo:
        waiting.put(shard)
    found: queue.SimpleQueue[Outcome | BaseException] = queue.SimpleQueue()
    alive: set[Worker] = {first}
    lock = threading.Lock()
    over = threading.Event()

    def another() -> Worker:
        with lock:
            # Linux ends a process with the thread that started it: each lane starts its own.
            made = Worker(asked)
            alive.add(made)
            if over.is_set():
                made.end()
            return made

    def lane(worker: Worker | None) -> None:
        try:
            while not over.is_set():
                try:
                    shard = waiting.get_nowait()
                except queue.Empty:
                    return
                worker = worker or another()
                outcome, worker = _tried(shard, worker, another, folder, on_rows, over)
                found.put(outcome)
        except BaseException as err:
            found.put(err)

    lanes = [
        threading.Thread(target=lane, args=(first if at == 0 else None,), daemon=True)
        for at in range(max(1, min(count, len(todo))))
    ]
    try:
        for one in lanes:
            one.start()
        for _ in todo:
            outcome = found.get()
            if isinstance(outcome, BaseException):
                raise outcome
            yield outcome
    finally:
        over.set()
        with lock:
            for worker in alive:
                worker.end()
        for one in lanes:
            if one.ident is not None:
                one.join()


def _tried(
    shard: Shard, worker: Worker, another: Callable[[], Worker], folder: Path, on_rows: OnRows,
    over: threading.Event,
) -> tuple[Outcome, Worker | None]:  # fmt: skip
    """A shard's outcome, and the worker that is left."""
    current: Worker | None = worker
    for deaths in range(TRIES):
        rows = 0

        def counted(count: int) -> None:
            nonlocal rows
            rows += count
            on_rows(count)

        try:
            current = current or another()
            found = current.explain(shard, folder, counted)
            return Outcome(shard, found.record, found.reasons, found.why, deaths), current
        except DiedError as err:
            why = str(err)
            on_rows(-rows)  # to be done again
            if current is not None:
                current.end()
            current = None
            if over.is_set():
                break
    return Outcome(shard, None, (), f"{shard.path}: {TRIES} workers died of it: {why}", TRIES), None
