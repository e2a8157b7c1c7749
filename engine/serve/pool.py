"""The workers: processes that run batches, started again when they end.

Each has a link here, and a task that takes batches from the queue for it. What a worker was at when
it ended is answered with 503; what it had ahead, and what waits, goes to the others.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...errors import RunError
from . import wire
from .described import Described
from .link import Link, Made
from .refused import Refused, bad, busy, lost
from .waiting import Batch, Item, Waiting, now

__all__ = ["Answer", "Payload", "Pool", "Settings"]

Observer = Callable[[Batch, float, float], None]
# Between attempts to start a worker that doesn't come up.
_PAUSES = (0.0, 0.2, 1.0, 3.0, 10.0)
# Seconds before a run's end that the next is handed over: what that takes.
_AHEAD = 0.008


@dataclass(frozen=True)
class Settings:
    """How workers run. providers, threads: of ONNX Runtime. memory: bytes of each; 0: unlimited.
    seconds: after which one that doesn't answer is ended."""

    workers: int
    threads: int | None
    providers: tuple[str, ...] | None
    memory: int
    seconds: float


@dataclass(frozen=True)
class Payload:
    """An item's part of a job. job: the header's fields that are the same for all items of a batch;
    buffers: by input; pictures: in place of the image input. target, contrast: int64 [rows]."""

    job: Mapping[str, Any]
    buffers: Mapping[str, Any]
    pictures: Sequence[bytes] | None
    target: Any
    contrast: Any


@dataclass(frozen=True)
class Answer:
    """What came of an item. outputs: by name, arrays with a row each, or lists of bytes."""

    outputs: Mapping[str, Any]
    queued: float
    held: float
    compute: float


@dataclass(eq=False)
class _Slot:
    """A worker's place."""

    number: int
    link: Link | None = None
    ready: bool = False


@dataclass(eq=False)
class _Run:
    """A batch that a worker has. begun: when the worker had nothing before it any more."""

    batch: Batch
    made: asyncio.Future[Made]
    begun: float


class Pool:
    """Workers that take from `waiting`. observe: is told of every batch that ran (decoding and
    computing seconds); died: of every worker that ended by itself."""

    def __init__(
        self, settings: Settings, waiting: Waiting, observe: Observer,
        died: Callable[[str], None],
    ) -> None:  # fmt: skip
        self.settings, self.waiting = settings, waiting
        self._observe, self._died = observe, died
        self._slots = [_Slot(number) for number in range(settings.workers)]
        self.models: dict[str, Described] = {}
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def ready(self) -> int:
        """How many workers run."""
        return sum(slot.ready for slot in self._slots)

    def start(self) -> None:
        """Start the workers; they come up by themselves."""
        self._tasks = [asyncio.create_task(self._live(slot)) for slot in self._slots]

    async def add(self, key: str, described: Described) -> None:
        """Load a model in every worker. Raises RunError where one refuses it."""
        try:
            await self._everywhere(key, described)
        except RunError:
            await self.remove(key)
            raise
        self.models[key] = described
        await self._everywhere(key, described)  # one that has come up meanwhile

    async def _everywhere(self, key: str, described: Described) -> None:
        for slot in self._slots:
            if slot.link is not None:  # else it loads what there is when it comes up
                with contextlib.suppress(wire.GoneError):  # it is started again, with this model
                    await self._load(slot.link, key, described)

    async def _load(self, link: Link, key: str, described: Described) -> None:
        told = {"described": described.to_json(), "providers": self.settings.providers,
                "threads": self.settings.threads}  # fmt: skip
        await link.load(key, told)

    async def remove(self, key: str) -> None:
        """Drop a model from every worker."""
        self.models.pop(key, None)
        for slot in self._slots:
            if slot.link is not None:
                with contextlib.suppress(wire.GoneError):
                    await slot.link.drop(key)

    async def up(self, seconds: float) -> None:
        """Wait until a worker runs. Raises RunError."""
        end = now() + seconds
        while not self.ready:
            if now() > end:
                raise RunError(f"no worker came up in {seconds:g} seconds")
            await asyncio.sleep(0.02)

    async def stop(self) -> None:
        """End the workers."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for slot in self._slots:
            if slot.link is not None:
                slot.link.end()

    async def _live(self, slot: _Slot) -> None:
        """A worker's life, over and over."""
        failed = 0
        while True:
            await asyncio.sleep(_PAUSES[min(failed, len(_PAUSES) - 1)])
            slot.link = link = Link(slot.number, self.settings.memory)
            try:
                await link.begin()
                while missing := [key for key in self.models if key not in link.loaded]:
                    await self._load(link, missing[0], self.models[missing[0]])
            except (wire.GoneError, RunError, OSError) as err:
                failed += 1
                self._died(f"worker {slot.number} doesn't come up: {err}")
                link.end()
                continue
            slot.ready = True
            begun = now()
            try:
                await self._work(link)
            finally:
                slot.ready = False
                link.end()
            self._died(f"worker {slot.number} ended; another one takes its place")
            failed = 0 if now() - begun > 5 else failed + 1

    async def _work(self, link: Link) -> None:
        """Batch after batch, until the worker ends."""
        gone = asyncio.create_task(link.gone.wait())
        run = ahead = None
        try:
            while True:
                if run is None:
                    batch = await self._taken(gone)
                    if batch is None:
                        return
                    run = self._handed(link, batch)
                ahead = await self._ahead(link, run)
                made = await self._made(run)
                if made is None:
                    return
                # The worker goes on before this run's answers are written, which takes the loop as
                # long as a row takes to run.
                ahead = ahead or self._following(link)
                self._answer(run.batch, *made)
                run, ahead = ahead, None
                if run is not None:
                    run.begun = now()
        finally:
            gone.cancel()
            if run is not None:
                _lose(run.batch, "it ended")
            if ahead is not None:  # it was never begun
                self.waiting.put_back(ahead.batch)

    async def _taken(self, gone: asyncio.Task[Any]) -> Batch | None:
        """The next batch; None where the worker has ended first."""
        taking = asyncio.create_task(self.waiting.take())
        try:
            await asyncio.wait([taking, gone], return_when=asyncio.FIRST_COMPLETED)
        finally:
            if not taking.done():
                taking.cancel()
        return taking.result() if taking.done() and not taking.cancelled() else None

    def _handed(self, link: Link, batch: Batch) -> _Run:
        return _Run(batch, link.run(batch), now())

    def _following(self, link: Link) -> _Run | None:
        """What is ripe, handed to the worker."""
        batch = self.waiting.ripe(now())
        return None if batch is None else self._handed(link, batch)

    async def _ahead(self, link: Link, run: _Run) -> _Run | None:
        """The worker's next run, handed to it a little before this one ends: as late as it can be,
        for what has come by then, and what an idle worker has taken."""
        end = run.begun + run.batch.rows * self.waiting.seconds_per_row
        await asyncio.wait([run.made], timeout=max(end - _AHEAD - now(), 0))
        return None if run.made.done() else self._following(link)

    async def _made(self, run: _Run) -> Made | None:
        """What came of it; None where the worker has ended, or has to."""
        try:
            left = run.begun + self.settings.seconds - now()
            return await asyncio.wait_for(asyncio.shield(run.made), left)
        except wire.GoneError:
            return None
        except TimeoutError:
            _lose(run.batch, f"it took more than {self.settings.seconds:g} seconds")
            return None

    def _answer(self, batch: Batch, told: dict[str, Any], found: dict[int, dict[str, Any]]) -> None:
        compute = float(told["compute"])
        share = (compute + float(told["decode"])) / max(batch.rows, 1)
        before = self.waiting.seconds_per_row or share
        self.waiting.seconds_per_row = 0.8 * before + 0.2 * share
        self._observe(batch, float(told["decode"]), compute)
        for at, item in enumerate(batch.items):
            if str(at) in told["errors"]:
                kind, says = told["errors"][str(at)]
                _fail(item, _refusal(kind, says, item.payload.job["open"]))
            elif not item.answer.done():
                answer = Answer(found[at], batch.queued[at], batch.held[at], compute)
                item.answer.set_result(answer)


def _lose(batch: Batch, why: str) -> None:
    for item in batch.items:
        _fail(item, lost(f"the worker that ran this request is lost: {why}"))


def _fail(item: Item, error: Refused) -> None:
    if not item.answer.done():
        item.answer.set_exception(error)


def _refusal(kind: str, message: str, sizes_open: bool) -> Refused:
    if kind == "memory":
        return busy(message, "memory")
    # Of the shape that is asked for: no fault of the input.
    if kind == "run" and not sizes_open:
        return busy(message, "run_failed")
    return bad(message, "bad_input" if kind == "input" else "run_failed")
