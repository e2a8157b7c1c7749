"""The server's life: up, ready, reloading, draining, gone."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import signal
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import BacklightError, UsageError, hint
from .answering import Front, Limits
from .logs import Handler, Log
from .metrics import Metrics
from .models import Models, Source
from .pool import Pool, Settings
from .prepare import Asked
from .waiting import Batch, Waiting, now

__all__ = ["Options", "doubled", "listening", "serve"]

# For workers to load what is ready for them.
_UP = 300.0
# Connections that are taken in a turn of the loop. libuv takes one of each listener: a probe behind
# two hundred callers, who come at once, would wait for as many turns, a second and more.
_AT_ONCE = 32
# Seconds until a thread that reads a request hands the interpreter to one that waits for it: the
# event loop, which takes it several times for a probe.
_TURN = 0.001


@dataclass(frozen=True)
class Options:
    """What the command line says. sockets: of REST; rpc: gRPC's address, None for none. drain:
    seconds at the end for what is under way. token: for clients; None: none is needed."""

    sources: Sequence[Source]
    folders: Sequence[Path]
    asked: Asked
    settings: Settings
    limits: Limits
    wait: float
    drain: float
    token: str | None
    rpc: tuple[str, int, bool] | None


def listening(host: str, port: int) -> socket.socket:
    """A socket bound to an address. Raises UsageError where it is taken or isn't here."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        made = socket.socket(family, kind)
        if sys.platform != "win32":
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind(address)
        made.listen(2048)
        return made
    except OSError as err:
        raise UsageError(
            f"{host}:{port}: can't be listened at: {err.strerror or err}; another --port or --host"
        ) from err


def doubled(http: socket.socket) -> list[socket.socket]:
    """The socket, as often as connections shall be taken of it in one turn of the loop."""
    return [http, *(http.dup() for _ in range(_AT_ONCE - 1))]


def serve(options: Options, http: socket.socket, say: Callable[[str], None]) -> int:
    """Serve until SIGTERM or Ctrl-C. say: is told in a line when the server is ready. Returns the
    signal's number. Raises what reading a model raises, before anything is ready."""
    log = Log()
    handler = Handler(log)
    sys.setswitchinterval(_TURN)
    logging.captureWarnings(True)
    for name in ("py.warnings", "uvicorn", "uvicorn.error", "uvicorn.access", "asyncio", "grpc"):
        logging.getLogger(name).handlers = [handler]
        logging.getLogger(name).propagate = False
    with tempfile.TemporaryDirectory(prefix="backlight-serve-", ignore_cleanup_errors=True) as home:
        made = _Server(options, Path(home), log, say)
        try:
            import uvloop

            run: Any = uvloop.run
        except ImportError:
            run = asyncio.run
        return int(run(made.run(http)))


class _Server:
    def __init__(self, options: Options, home: Path, log: Log, say: Callable[[str], None]) -> None:
        self.options, self.log, self.say = options, log, say
        limits = options.limits
        waiting = Waiting(limits.rows, limits.size, options.wait, options.settings.workers)
        pool = Pool(options.settings, waiting, self._ran, self._ended)
        self.metrics = Metrics(waiting, pool)
        self.front = Front(
            limits, Models(home, options.asked, pool, log), pool, waiting, self.metrics, log,
            ThreadPoolExecutor(2, "parse"),
        )  # fmt: skip
        self.stopped: asyncio.Future[int] | None = None

    def _ran(self, batch: Batch, decode: float, compute: float) -> None:
        self.metrics.batch(batch.items[0].key[0].name, batch, decode, compute)  # type: ignore[index]

    def _ended(self, why: str) -> None:
        self.metrics.ended()
        self.log.event("worker", "error", error=why)

    async def run(self, http: socket.socket) -> int:
        """Until a signal comes; returns its number."""
        import uvicorn

        from .app import app
        from .connection import Connection

        loop = asyncio.get_running_loop()
        self.stopped = loop.create_future()
        connection: Any = Connection  # uvicorn names a protocol that is told of copies
        config = uvicorn.Config(
            app(self.front, self.options.token), log_config=None, access_log=False,
            http=connection, lifespan="off", server_header=False, timeout_keep_alive=75, ws="none",
            proxy_headers=False, timeout_graceful_shutdown=5, backlog=2048,
        )  # fmt: skip
        server = _quiet(uvicorn.Server)(config)
        with self._signals(loop):
            serving = asyncio.create_task(server.serve(sockets=doubled(http)))
            rpc = None
            try:
                loading = asyncio.create_task(self._load())
                first: list[asyncio.Future[Any]] = [loading, self.stopped, serving]
                await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
                if not loading.done():
                    loading.cancel()
                    with contextlib.suppress(asyncio.CancelledError, BacklightError):
                        await loading
                else:
                    loading.result()
                    rpc = await self._rpc()
                    self._announce(http, rpc)
                    watching = asyncio.create_task(self.front.models.watch(self.options.folders))
                    await asyncio.wait([self.stopped, serving], return_when=asyncio.FIRST_COMPLETED)
                    watching.cancel()
                    await self._drained()
            finally:
                # First: what the workers still had is answered.
                await self.front.pool.stop()
                if rpc is not None:
                    await rpc.stop(1)
                server.should_exit = True
                with contextlib.suppress(Exception):
                    await asyncio.wait_for(serving, 10)
                self.front.threads.shutdown(wait=False, cancel_futures=True)
        return self.stopped.result() if self.stopped.done() else 0

    async def _load(self) -> None:
        self.front.pool.start()
        self.front.models.seen(self.options.sources, self.options.folders)
        for source in self.options.sources:
            try:
                await self.front.models.add(source)
            except BacklightError as err:
                if source.path.parent not in self.options.folders:
                    raise
                self.log.event("reload", "error", model=source.name, error=str(err))
        if not list(self.front.models):
            raise UsageError("no model could be loaded")
        self._refuse_inputs()
        self._refuse_methods()
        await self.front.pool.up(_UP)
        # What is there now stays: it isn't gone through again for what requests leave behind.
        gc.collect()
        gc.freeze()
        self.front.loaded = True

    def _refuse_inputs(self) -> None:
        """Raise UsageError for an --input or a --shape that no model has."""
        known = {o.name for m in self.front.models for o in m.described.inputs}
        for name in self.options.asked.shapes or ():
            if name not in known:
                raise UsageError(
                    f"--shape '{name}': no such input; the models have {', '.join(sorted(known))}"
                    f"{hint(name, known, 1)}"
                )
        known -= {m.described.image for m in self.front.models}
        for name in self.options.asked.inputs or ():
            if name not in known:
                raise UsageError(
                    f"--input '{name}': no such input; besides their images the models have "
                    f"{', '.join(sorted(known)) or 'none'}{hint(name, known, 1)}"
                )

    def _refuse_methods(self) -> None:
        """Raise UsageError for a --method that no model has: exported files have what they have."""
        known = {name for m in self.front.models for name in m.described.methods}
        for name in self.options.asked.methods or ():
            if name not in known:
                names = ", ".join(m.name for m in self.front.models)
                raise UsageError(
                    f"--method '{name}': {names} {'was' if ',' not in names else 'were'} exported "
                    f"with {', '.join(sorted(known))}"
                )

    async def _rpc(self) -> Any:
        if self.options.rpc is None:
            return None
        from .rpc import started

        host, port, needed = self.options.rpc
        try:
            return await started(self.front, self.options.token, host, port)
        except UsageError as err:
            if needed:
                raise
            self.log.event("grpc", "warning", error=f"{err}; gRPC is not served")
            return None

    def _announce(self, http: socket.socket, rpc: Any) -> None:
        host, port = http.getsockname()[:2]
        shown = f"[{host}]" if ":" in host else host
        names = ", ".join(m.name for m in self.front.models)
        also = "" if rpc is None else f", gRPC at {shown}:{rpc.port}"
        for model in self.front.models:
            for note in model.described.notes:
                self.log.event("note", model=model.name, note=note)
        self.say(f"serving {names} at http://{shown}:{port}{also}")

    async def _drained(self) -> None:
        """Take nothing new, and let what is under way end, within bounds."""
        self.front.draining = True
        self.log.event("draining", rows=self.front.waiting.rows, requests=self.front.running)
        end = now() + self.options.drain
        while self.front.running and now() < end:
            await asyncio.sleep(0.02)
        if self.front.running:
            from .refused import busy

            self.front.waiting.fail_all(busy("the server is shutting down", "draining", 5))
            await asyncio.sleep(0.2)

    @contextlib.contextmanager
    def _signals(self, loop: asyncio.AbstractEventLoop) -> Iterator[None]:
        """SIGTERM and Ctrl-C end the server in good order; a second one does at once."""

        def stop(number: int) -> None:
            assert self.stopped is not None
            if self.stopped.done():
                self.options_at_once()
            else:
                self.stopped.set_result(number)

        def heard(number: int, _: Any) -> None:
            loop.call_soon_threadsafe(stop, number)

        before = {n: signal.signal(n, heard) for n in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def options_at_once(self) -> None:
        """End without waiting for what is under way."""
        self.front.running = 0


def _quiet(kind: Any) -> Any:
    """uvicorn's server without its own signals."""

    class Server(kind):  # type: ignore[misc]
        @contextlib.contextmanager
        def capture_signals(self) -> Iterator[None]:
            yield

    return Server
