"""The workers: processes that run batches, started again when they end.

Each has a thread here that talks to it, and a task that takes batches from the queue for it. What a
worker was running when it ended is answered with 503; what waits goes to the others.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from ...errors import RunError
from ..runtime.confined import command_of, started
from . import wire
from .area import Area
from .described import Described
from .exchange import message_of, received
from .refused import Refused, bad, busy, lost
from .waiting import Batch, Item, Waiting, now

__all__ = ["Answer", "Payload", "Pool", "Settings"]

Observer = Callable[[Batch, float, float], None]
# Between attempts to start a worker that doesn't come up.
_PAUSES = (0.0, 0.2, 1.0, 3.0, 10.0)


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


@dataclass
class _Slot:
    """A worker's place."""

    number: int
    threads: ThreadPoolExecutor
    process: subprocess.Popen[bytes] | None = None
    # Where rows and results lie; without them they go through the pipes.
    given: Area | None = None
    made: Area | None = None
    ready: bool = False
    loaded: set[str] = field(default_factory=set)
    gone: asyncio.Event = field(default_factory=asyncio.Event)


class Pool:
    """Workers that take from `waiting`. observe: is told of every batch that ran (decoding and
    computing seconds); died: of every worker that ended by itself."""

    def __init__(
        self, settings: Settings, waiting: Waiting, observe: Observer,
        died: Callable[[str], None],
    ) -> None:  # fmt: skip
        self.settings, self.waiting = settings, waiting
        self._observe, self._died = observe, died
        self._slots = [
            _Slot(n, ThreadPoolExecutor(1, f"worker-{n}")) for n in range(settings.workers)
        ]
        self.models: dict[str, Described] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._stopping = False

    @property
    def ready(self) -> int:
        """How many workers run."""
        return sum(slot.ready for slot in self._slots)

    def start(self) -> None:
        """Start the workers; they come up by themselves."""
        self._tasks = [asyncio.create_task(self._live(slot)) for slot in self._slots]

    async def add(self, key: str, described: Described) -> None:
        """Load a model in every worker. Raises RunError where one refuses it."""
        for slot in self._slots:
            try:
                await self._in_thread(slot, self._load, slot, key, described)
            except wire.GoneError:  # it is started again, with this model
                slot.gone.set()
            except RunError:
                await self.remove(key)
                raise
        self.models[key] = described

    async def remove(self, key: str) -> None:
        """Drop a model from every worker."""
        self.models.pop(key, None)
        for slot in self._slots:
            with contextlib.suppress(wire.GoneError):
                await self._in_thread(slot, self._drop, slot, key)

    async def up(self, seconds: float) -> None:
        """Wait until a worker runs. Raises RunError."""
        end = now() + seconds
        while not self.ready:
            if now() > end:
                raise RunError(f"no worker came up in {seconds:g} seconds")
            await asyncio.sleep(0.02)

    async def stop(self) -> None:
        """End the workers."""
        self._stopping = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for slot in self._slots:
            self._kill(slot)
            slot.threads.shutdown(wait=False, cancel_futures=True)

    async def _in_thread(self, slot: _Slot, call: Callable[..., Any], *args: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(slot.threads, call, *args)

    async def _live(self, slot: _Slot) -> None:
        """A worker's life, over and over."""
        failed = 0
        while True:
            await asyncio.sleep(_PAUSES[min(failed, len(_PAUSES) - 1)])
            slot.gone = asyncio.Event()
            try:
                await self._in_thread(slot, self._begin, slot, asyncio.get_running_loop())
            except (wire.GoneError, RunError, OSError) as err:
                failed += 1
                self._died(f"worker {slot.number} doesn't come up: {err}")
                self._kill(slot)
                continue
            slot.ready = True
            begun = now()
            try:
                await self._work(slot)
            finally:
                slot.ready = False
                self._kill(slot)
            self._died(f"worker {slot.number} ended; another one takes its place")
            failed = 0 if now() - begun > 5 else failed + 1

    async def _work(self, slot: _Slot) -> None:
        """Batch after batch, until the worker ends."""
        gone = asyncio.create_task(slot.gone.wait())
        batch: Batch | None = None
        try:
            while True:
                if batch is None:
                    batch = await self._taken(gone)
                    if batch is None:
                        return
                    run = self._begun(slot, batch)
                done = await self._ran(slot, batch, run)
                if done is None:
                    return
                # The worker goes on before this run's answers are written, which takes the loop as
                # long as a row takes to run.
                following = self.waiting.ripe(now())
                if following is not None:
                    run = self._begun(slot, following)
                self._answer(batch, *done)
                batch = following
        finally:
            gone.cancel()

    async def _taken(self, gone: asyncio.Task[Any]) -> Batch | None:
        """The next batch; None where the worker has ended first."""
        taking = asyncio.create_task(self.waiting.take())
        try:
            await asyncio.wait([taking, gone], return_when=asyncio.FIRST_COMPLETED)
        finally:
            if not taking.done():
                taking.cancel()
        return taking.result() if taking.done() and not taking.cancelled() else None

    def _begun(self, slot: _Slot, batch: Batch) -> asyncio.Future[Any]:
        """Hand a batch to the worker, at once."""
        loop = asyncio.get_running_loop()
        return loop.run_in_executor(slot.threads, self._exchange, slot, batch)

    async def _ran(
        self, slot: _Slot, batch: Batch, run: asyncio.Future[Any]
    ) -> tuple[dict[str, Any], dict[int, dict[str, Any]]] | None:
        """What came of it; None where the worker has ended, and its items are answered so."""
        try:
            told, found = await asyncio.wait_for(asyncio.shield(run), self.settings.seconds)
        except (wire.GoneError, TimeoutError, asyncio.CancelledError) as err:
            self._kill(slot)
            hung = isinstance(err, TimeoutError)
            why = f"it took more than {self.settings.seconds:g} seconds" if hung else "it ended"
            for item in batch.items:
                _fail(item, lost(f"the worker that ran this request is lost: {why}"))
            if isinstance(err, asyncio.CancelledError):
                raise
            return None
        return told, found

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

    # Below: in the slot's thread.

    def _begin(self, slot: _Slot, loop: asyncio.AbstractEventLoop) -> None:
        slot.given, slot.made = Area.made(), Area.made()
        shared = [str(area.fd) for area in (slot.given, slot.made) if area is not None]
        if len(shared) < 2:
            slot.given = slot.made = None
            shared = []
        slot.process = started(
            command_of(f"{__package__}.worker", str(self.settings.memory), *shared), bufsize=0,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            pass_fds=[int(fd) for fd in shared],
        )  # fmt: skip
        for stream in (slot.process.stdin, slot.process.stdout):
            _widen(stream)
        process, gone = slot.process, slot.gone

        def watch() -> None:
            process.wait()
            with contextlib.suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(gone.set)

        threading.Thread(target=watch, name=f"watch-{slot.number}", daemon=True).start()
        slot.loaded.clear()
        for key, described in list(self.models.items()):
            self._load(slot, key, described)

    def _load(self, slot: _Slot, key: str, described: Described) -> None:
        if slot.process is None or key in slot.loaded:
            return  # one that comes up loads what there is
        told = {"do": "load", "model": key, "described": described.to_json(),
                "providers": self.settings.providers, "threads": self.settings.threads}  # fmt: skip
        wire.send(_in(slot), told)
        said = wire.read_header(_out(slot))
        if not said["ok"]:
            raise RunError(str(said["error"]))
        slot.loaded.add(key)

    def _drop(self, slot: _Slot, key: str) -> None:
        if slot.process is not None and key in slot.loaded:
            slot.loaded.discard(key)
            wire.send(_in(slot), {"do": "drop", "model": key})
            wire.read_header(_out(slot))

    def _exchange(
        self, slot: _Slot, batch: Batch
    ) -> tuple[dict[str, Any], dict[int, dict[str, Any]]]:
        header, buffers = message_of(batch)
        wire.send(_in(slot), header, buffers, slot.given)
        told = wire.read_header(_out(slot))
        rows = [item.rows for item in batch.items]
        return told, received(slot.made.rewound() if slot.made else _out(slot), told, rows)

    def _kill(self, slot: _Slot) -> None:
        process, slot.process = slot.process, None
        if process is None:
            return
        process.kill()
        # The thread that talks to it meets the end; what it talks through is closed when it has.
        slot.threads.submit(_close, process, slot.given, slot.made)


def _close(process: subprocess.Popen[bytes], *areas: Area | None) -> None:
    for held in (process.stdin, process.stdout, *areas):
        with contextlib.suppress(OSError):
            if held is not None:
                held.close()


def _in(slot: _Slot) -> Any:
    if slot.process is None:
        raise wire.GoneError("ended")
    return slot.process.stdin


def _out(slot: _Slot) -> Any:
    if slot.process is None:
        raise wire.GoneError("ended")
    return slot.process.stdout


def _widen(stream: Any) -> None:
    """A pipe that holds a megabyte: fewer turns between the two processes for each image."""
    try:
        import fcntl

        fcntl.fcntl(stream.fileno(), fcntl.F_SETPIPE_SZ, 1 << 20)
    except (ImportError, AttributeError, OSError, io.UnsupportedOperation):
        return


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
