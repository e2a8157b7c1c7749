"""A worker's process, and the two threads that talk to it: one hands it runs while the other takes
what came of those before, in the same order.

So a worker has its next run before it is done with this one. Rows and results lie in two pairs of
areas in turn: what a run reads from isn't written for the next.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import subprocess
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from ...errors import RunError
from ..runtime.confined import command_of, started
from . import wire
from .area import Area
from .exchange import message_of, received
from .waiting import Batch

__all__ = ["PAIRS", "Link", "Made"]

# What a worker told of a run, and each item's rows of its outputs.
Made = tuple[dict[str, Any], dict[int, dict[str, Any]]]
# Runs that a worker has at once, at most: the one that it is at, and one ahead.
PAIRS = 2


class Link:
    """A worker's life. number: in its threads' names; memory: bytes that it may take, 0: any."""

    def __init__(self, number: int, memory: int) -> None:
        self.gone = asyncio.Event()
        """Set when the process has ended."""
        self.loaded: set[str] = set()
        """The models that it has."""
        self._number, self._memory = number, memory
        self._sending = ThreadPoolExecutor(1, f"to-worker-{number}")
        self._receiving = ThreadPoolExecutor(1, f"from-worker-{number}")
        self._process: subprocess.Popen[bytes] | None = None
        # given and made, of each pair; none where rows and results go through the pipes.
        self._areas: list[tuple[Area, Area]] = []
        self._handed = 0
        self._ended = False

    async def begin(self) -> None:
        """Start the process. Raises OSError."""
        await self._apart(self._sending, self._begin, asyncio.get_running_loop())

    async def load(self, key: str, told: Mapping[str, Any]) -> None:
        """Have it load a model, unless it has. told: which. Raises RunError where it refuses it,
        and GoneError."""
        if key in self.loaded:
            return
        said = await self._asked({"do": "load", "model": key, **told})
        if not said["ok"]:
            raise RunError(str(said["error"]))
        self.loaded.add(key)

    async def drop(self, key: str) -> None:
        """Have it forget a model. Raises GoneError."""
        if key in self.loaded:
            self.loaded.discard(key)
            await self._asked({"do": "drop", "model": key})

    def run(self, batch: Batch) -> asyncio.Future[Made]:
        """Hand it a batch, at once; gives what comes of it. Raises GoneError there. A worker has
        PAIRS of them at most."""
        pair, self._handed = self._handed % PAIRS, self._handed + 1
        self._apart(self._sending, self._hand, batch, pair).add_done_callback(_heard)
        taken = self._apart(self._receiving, self._take, batch, pair)
        taken.add_done_callback(_heard)
        return taken

    def end(self) -> None:
        """End it: who waits for something of it gets GoneError."""
        if self._ended:
            return
        self._ended = True
        if self._process is not None:
            self._process.kill()
        self._sending.submit(self._close)
        self._sending.shutdown(wait=False)

    async def _asked(self, header: dict[str, Any]) -> dict[str, Any]:
        sent = self._apart(self._sending, self._tell, header)
        _, said = await asyncio.gather(sent, self._apart(self._receiving, self._told))
        told: dict[str, Any] = said
        return told

    def _apart(
        self, thread: ThreadPoolExecutor, call: Callable[..., Any], *args: Any
    ) -> asyncio.Future[Any]:
        try:
            return asyncio.get_running_loop().run_in_executor(thread, call, *args)
        except RuntimeError:  # it takes nothing any more
            raise wire.GoneError("ended") from None

    # Below: in its threads.

    def _begin(self, loop: asyncio.AbstractEventLoop) -> None:
        made = [Area.made() for _ in range(2 * PAIRS)]
        areas = [area for area in made if area is not None]
        if len(areas) == len(made):
            self._areas = list(zip(areas[::2], areas[1::2], strict=True))
        shared = [str(area.fd) for pair in self._areas for area in pair]
        self._process = process = started(
            command_of(f"{__package__}.worker", str(self._memory), *shared), bufsize=0,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            pass_fds=[int(fd) for fd in shared],
        )  # fmt: skip
        for stream in (process.stdin, process.stdout):
            _widen(stream)

        def watch() -> None:
            process.wait()
            with contextlib.suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(self.gone.set)

        threading.Thread(target=watch, name=f"watch-{self._number}", daemon=True).start()

    def _tell(self, header: dict[str, Any]) -> None:
        wire.send(self._pipe("stdin"), header)

    def _told(self) -> dict[str, Any]:
        return wire.read_header(self._pipe("stdout"))

    def _hand(self, batch: Batch, pair: int) -> None:
        try:
            header, buffers = message_of(batch)
            given = self._areas[pair][0] if self._areas else None
            wire.send(self._pipe("stdin"), {**header, "pair": pair}, buffers, given)
        except BaseException:
            # Half a message, or none: what waits for its answer would wait for good.
            if self._process is not None:
                self._process.kill()
            raise

    def _take(self, batch: Batch, pair: int) -> Made:
        told = self._told()
        stream = self._areas[pair][1].rewound() if self._areas else self._pipe("stdout")
        return told, received(stream, told, [item.rows for item in batch.items])

    def _pipe(self, name: str) -> Any:
        if self._process is None:
            raise wire.GoneError("ended")
        return getattr(self._process, name)

    def _close(self) -> None:
        """Behind what was sent; and behind what is still read of it, what it went through."""
        process = self._process
        if process is not None:
            process.kill()
        self._receiving.submit(self._closed)
        self._receiving.shutdown(wait=False)

    def _closed(self) -> None:
        process = self._process
        pipes = [] if process is None else [process.stdin, process.stdout]
        for held in (*pipes, *(area for pair in self._areas for area in pair)):
            with contextlib.suppress(OSError):
                if held is not None:
                    held.close()


def _heard(done: asyncio.Future[Any]) -> None:
    """Whether anybody asks or not: an error that nobody has heard of is logged."""
    if not done.cancelled():
        done.exception()


def _widen(stream: Any) -> None:
    """A pipe that holds a megabyte: fewer turns between the two processes for each image."""
    try:
        import fcntl

        fcntl.fcntl(stream.fileno(), fcntl.F_SETPIPE_SZ, 1 << 20)
    except (ImportError, AttributeError, OSError, io.UnsupportedOperation):
        return
