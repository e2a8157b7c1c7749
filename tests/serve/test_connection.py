"""Connections: requests however they are cut, and how much of them is taken in hand at once."""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import socket
from types import SimpleNamespace
from typing import Any

import pytest
import uvicorn
from starlette.requests import Request
from uvicorn.server import ServerState

from backlight.engine.serve.answering import Gone
from backlight.engine.serve.bodies import Body
from backlight.engine.serve.connection import Connection
from backlight.engine.serve.incoming import Incoming
from backlight.engine.serve.refused import Refused
from backlight.engine.serve.server import doubled, listening

BODY = bytes(range(256)) * 1000


class Wire(asyncio.Transport):
    """A caller's end. most: bytes of a piece; turns: what was read in each of the loop's."""

    def __init__(self, most: int = 1 << 30) -> None:
        super().__init__()
        self.most, self.said, self.paused, self.closed = most, b"", False, False
        self.turns: list[int] = []
        self.front = Front()
        config = uvicorn.Config(self.front.app, interface="asgi3", proxy_headers=False,
                                log_config=None, lifespan="off", date_header=False)  # fmt: skip
        config.load()
        self.connection = Connection(config, ServerState(), {})
        self.connection.connection_made(self)

    def write(self, data: Any) -> None:
        self.said += bytes(data)

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            asyncio.get_running_loop().call_soon(self.connection.connection_lost, None)

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False

    async def send(self, data: bytes) -> int:
        """Send it as fast as it is read; how much was."""
        sent = 0
        for _ in range(100 + len(data) // min(self.most, 1 << 16)):
            self.turns.append(0)
            while sent < len(data) and not self.paused and not self.closed:
                where = self.connection.get_buffer(-1)
                size = min(len(where), self.most, len(data) - sent)
                where[:size] = data[sent : sent + size]
                self.connection.buffer_updated(size)
                sent += size
                self.turns[-1] += size
            await asyncio.sleep(0)
        return sent

    @property
    def statuses(self) -> list[int]:
        """Of the answers, in turn."""
        return [int(found) for found in re.findall(rb"HTTP/1.1 (\d+)", self.said)]


class Front:
    """What admits bodies, and says their digests. open: set when they may be read."""

    def __init__(self) -> None:
        self.limits = SimpleNamespace(body=1 << 20, deadline=30.0)
        self.waiting = SimpleNamespace(reserve=lambda _: None, release=lambda _: None)
        self.turns = asyncio.Semaphore(1)
        self.digests: list[str] = []
        self.open = asyncio.Event()
        self.open.set()
        self.gone = 0
        self.refuses = False

    def admit(self) -> None:
        if self.refuses:
            raise Refused(503, "full", "full", 1)

    async def apart(self, call: Any, *args: Any) -> Any:
        return call(*args)

    async def app(self, scope: Any, receive: Any, send: Any) -> None:
        await self.open.wait()
        body, status = Body(self, Request(scope, receive)), 200  # type: ignore[arg-type]
        if scope["path"] != "/unread":
            try:
                self.digests.append(hashlib.sha256(await body.read()).hexdigest())
            except Refused as refused:
                await body.refused()
                status = refused.status
            except Gone:
                self.gone += 1
                return
        await send({"type": "http.response.start", "status": status,
                    "headers": [(b"content-length", b"0")]})  # fmt: skip
        await send({"type": "http.response.body", "body": b""})


def post(body: bytes = BODY, path: str = "/", **headers: str) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: x", *(f"{k}: {v}" for k, v in headers.items())]
    if "Transfer-Encoding" in headers:
        pieces = [body[at : at + 70_000] for at in range(0, len(body), 70_000)]
        body = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in (*pieces, b""))
    else:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode() + body


GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
EMPTY, WHOLE = (hashlib.sha256(b).hexdigest() for b in (b"", BODY))
CHUNKED = {"Transfer-Encoding": "chunked"}
SENT: dict[str, tuple[bytes, list[str]]] = {
    "a body": (post(), [WHOLE]),
    "one after another": (post() * 3, [WHOLE] * 3),
    "with and without bodies": (GET + post() + GET + post(**CHUNKED) + post() + GET,
                                [EMPTY, WHOLE, EMPTY, WHOLE, WHOLE, EMPTY]),
    "empty lines between": (post() + b"\r\n\r\n" + post(b"") + b"\r\n" + GET,
                            [WHOLE, EMPTY, EMPTY]),
    "a small body": (post(b"x") + GET, [hashlib.sha256(b"x").hexdigest(), EMPTY]),
    # As Java's client offers HTTP/2: the parser would leave out the body.
    "an upgrade offered": (post(Connection="Upgrade", Upgrade="h2c") + post() + GET,
                           [WHOLE, WHOLE, EMPTY]),
    "a body that nobody reads": (post(path="/unread") + post(), [WHOLE]),
    "a chunked one": (post(path="/unread", **CHUNKED) + post(), [WHOLE]),
    "too large": (post(BODY * 5) + post(), [WHOLE]),
}  # fmt: skip


@pytest.mark.parametrize("most", [1 << 30, 50_000, 1000, 7])
@pytest.mark.parametrize("case", SENT)
def test_requests_are_the_same_however_they_are_cut(case: str, most: int) -> None:
    sent, digests = SENT[case]

    async def run() -> Wire:
        wire = Wire(most)
        assert await wire.send(sent) == len(sent)
        for _ in range(50):
            await asyncio.sleep(0)
        return wire

    if most == 7:  # a few thousand bytes of each are enough
        sent = sent if len(sent) < 300_000 else sent.replace(BODY, BODY[:2560])
        cut = hashlib.sha256(BODY[:2560]).hexdigest()
        if BODY not in sent:
            sent = sent.replace(b"Content-Length: 256000", b"Content-Length: 2560")
            digests = [cut if d == WHOLE else d for d in digests]
        if "chunked" in case or "bodies" in case or case == "too large":
            return
    wire = asyncio.run(run())
    assert wire.front.digests == digests
    assert not wire.closed and set(wire.statuses) <= {200, 413}


def test_little_is_read_before_a_body_is_admitted() -> None:
    """A turn of the loop takes 64 KB of each caller, not what all have sent."""

    async def run() -> None:
        wire = Wire()
        wire.front.open.clear()
        sent = post()
        assert await wire.send(sent) == 1 << 16
        wire.front.open.set()
        rest = sent[1 << 16 :]
        assert await wire.send(rest) == len(rest) and wire.front.digests == [WHOLE]

    asyncio.run(run())


def test_an_idle_connection_holds_no_body() -> None:
    async def run() -> None:
        wire = Wire()
        await wire.send(post() + b"\r\n")
        (body,) = wire.connection._inner.scope["extensions"].values()
        assert wire.front.digests == [WHOLE] and isinstance(body, Incoming)
        assert body._into is None and not body.early

    asyncio.run(run())


@pytest.mark.parametrize("path", ["/", "/unread"])
def test_a_turn_of_the_loop_takes_a_part_of_a_large_body(path: str) -> None:
    async def run() -> None:
        wire, sent = Wire(), post(BODY * 4, path)
        assert await wire.send(sent) == len(sent) and wire.statuses == [200]
        assert len(wire.turns) > 4 and max(wire.turns) <= 1 << 18

    asyncio.run(run())


def test_a_turn_of_the_loop_begins_some_requests_and_every_probe() -> None:
    async def run() -> None:
        wires = [Wire() for _ in range(40)]
        for wire in wires:
            wire.front.digests = wires[0].front.digests
            where = wire.connection.get_buffer(-1)
            sent = GET if wire is wires[-1] else post(b"x")
            where[: len(sent)] = sent
            wire.connection.buffer_updated(len(sent))
        begun = []
        for _ in range(20):
            begun.append(sum(wire.connection._inner.cycle is not None for wire in wires))
            await asyncio.sleep(0)
        assert begun[0] == 17 and begun[1] == 33 and begun[2] == 40
        assert wires[-1].connection._inner.cycle.response_complete
        await asyncio.sleep(0.01)
        assert all(wire.statuses == [200] for wire in wires)

    asyncio.run(run())


def test_a_refused_body_is_passed_over_and_the_next_request_read() -> None:
    async def run() -> None:
        wire = Wire()
        wire.front.refuses = True
        await wire.send(post())
        wire.front.refuses = False
        await wire.send(post())
        assert wire.statuses == [503, 200] and wire.front.digests == [WHOLE]

    asyncio.run(run())


def test_whoever_waits_for_100_continue_is_told_and_closed_on_where_refused() -> None:
    async def run() -> None:
        wire, head = Wire(), post(Expect="100-continue")[: -len(BODY)]
        await wire.send(head)
        assert wire.statuses == [100]
        await wire.send(BODY)
        assert wire.statuses == [100, 200] and wire.front.digests == [WHOLE]
        wire.front.refuses = True
        await wire.send(head)
        assert wire.statuses == [100, 200, 503] and wire.closed

    asyncio.run(run())


def test_a_caller_who_goes_and_one_who_is_slow() -> None:
    """The slow one gives his turn (there is one) to another, and is read on when more comes."""

    async def run() -> None:
        slow, other = Wire(), Wire()
        other.front.turns = slow.front.turns
        sent = post()
        await slow.send(sent[:100_000])
        read = await other.send(sent)
        assert read < len(sent)
        await asyncio.sleep(0.3)
        await other.send(sent[read:])
        assert other.front.digests == [WHOLE]
        await slow.send(sent[100_000:])
        assert slow.front.digests == [WHOLE]
        await slow.send(sent[:100_000])
        slow.connection.connection_lost(None)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert slow.front.gone == 1

    asyncio.run(run())


NONE = [
    (b"hello\r\n\r\n", 400),
    (b"\x16\x03\x01\x02\x00\x01\x00", 400),  # TLS
    (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
    (post().replace(b"Host: x", b"Content-Length: 5"), 400),
    (post().replace(b"Host: x", b"Transfer-Encoding: chunked"), 400),
    (post().replace(b"Length: ", b"Length: -"), 400),
    (post(b"", **CHUNKED).replace(b"0\r\n", b"zz\r\n", 1), 400),
    (b"GET /" + b"y" * 80_000, 431),
    (b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 20_000, 431),
    (post(b"x", **CHUNKED)[:-2] + b"X: yyyyyyyyyy\r\n" * 9000, 431),
]


@pytest.mark.parametrize("most", [1 << 30, 997])
@pytest.mark.parametrize(("sent", "status"), NONE, ids=range(len(NONE)))
def test_what_is_no_request_is_answered_in_json_and_closed_on(
    sent: bytes, status: int, most: int
) -> None:
    async def run() -> Wire:
        wire = Wire(most)
        await wire.send(sent)
        return wire

    wire = asyncio.run(run())
    assert wire.statuses == [status] and wire.closed
    assert set(json.loads(wire.said.partition(b"\r\n\r\n")[2])) == {"error"}


def test_garbage_behind_a_request_doesn_t_cost_its_answer() -> None:
    async def run() -> None:
        wire = Wire()
        wire.front.open.clear()
        await wire.send(GET + b"hello\r\n\r\n")
        wire.front.open.set()
        await wire.send(b"")
        assert wire.statuses == [200] and wire.closed

    asyncio.run(run())


def test_connections_that_come_at_once_are_taken_at_once() -> None:
    """In turns of the loop: uvloop's listener takes one connection a turn."""
    uvloop = pytest.importorskip("uvloop")
    made = 0

    class Counted(asyncio.Protocol):
        def connection_made(self, _: Any) -> None:
            nonlocal made
            made += 1

    async def turns(count: int) -> int:
        http = listening("127.0.0.1", 0)
        callers = [socket.create_connection(http.getsockname()) for _ in range(count)]
        loop, taken = asyncio.get_running_loop(), 0
        servers = [await loop.create_server(Counted, sock=one) for one in doubled(http)]
        before = made
        while made < count and taken < count:
            await asyncio.sleep(0)
            taken += made > before
        for one in (*callers, *servers):
            one.close()
        return taken

    assert uvloop.run(turns(200)) < 20
