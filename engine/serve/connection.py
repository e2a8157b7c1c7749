"""A connection: heads go through uvicorn's parser, bodies of a known length into their own memory.

uvicorn hands a body on in pieces, each of which is copied four times until it is one: out of the
loop's buffer, out of the parser's, into the request's, and to join them. Here the parser is given
a request's head alone. What follows waits in the socket until the application has admitted the
request and says where it shall lie; it is received there. Chunked bodies go the parser's way.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable
from http import HTTPStatus
from typing import Any, ClassVar

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from .incoming import BODY, WASTE, Incoming

__all__ = ["Connection"]

# What is read at once where nobody has said what it is for: a head, and how its body begins.
_PIECE = 1 << 16
# Requests with a body that are begun in a turn of the loop: a probe comes behind no more of them.
_MOST_BEGUN = 16
# Of a head, and of what comes behind a chunked body.
_MOST_HEAD = 1 << 16
# Of a body that no one has read, passed over to get to the next request.
_MOST_LEFT = 1 << 28
_END = re.compile(rb"\r?\n\r?\n")
_UPGRADE = re.compile(rb"(?i)\nupgrade[ \t]*:")


class Heads(HttpToolsProtocol):
    """uvicorn's part. in_head: whether a head is expected, or has begun; bodied: whether the
    parser has had some of a body."""

    def __init__(self, outer: Connection, **how: Any) -> None:
        super().__init__(**how)
        self._outer = outer
        self.in_head, self.bodied = True, False
        self._headers = 0

    def fresh(self) -> None:
        """The next request has a parser of its own: the last one's is still at its body."""
        self.parser = httptools.HttpRequestParser(self)
        self.in_head = True

    @property
    def length(self) -> int:
        """Of the body that follows, where the parser has seen nothing of it; else 0."""
        if self.in_head or self.bodied or not self.headers:
            return 0
        known = dict(self.headers)
        return 0 if b"transfer-encoding" in known else int(known.get(b"content-length", b"0"))

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.bodied, self._headers = False, 0

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers += len(name) + len(value) + 4
        if self._headers > _MOST_HEAD:  # trailers; a head is measured as it comes
            raise ValueError
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        super().on_headers_complete()
        self.in_head = False

    def on_body(self, body: bytes) -> None:
        self.bodied = True
        super().on_body(body)

    def on_message_complete(self) -> None:
        self.in_head = True
        super().on_message_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        unread = self.cycle.response_complete and not self.in_head
        if unread and not self.transport.is_closing():
            self._outer.answered()

    def send_400_response(self, msg: str) -> None:
        if self._headers > _MOST_HEAD:
            self.refuse(431, f"the headers are too large; at most {_MOST_HEAD} bytes")
        else:
            self.refuse(400, "no HTTP/1.1 request")

    def refuse(self, status: int, message: str) -> None:
        """Answer what is no request, and close."""
        if self.in_head and self.cycle is not None and not self.cycle.response_complete:
            self.cycle.keep_alive = False  # what was asked before it is answered first
            return
        if not self.in_head and self.cycle.response_started:
            self.transport.close()
            return
        text = json.dumps({"error": message}).encode()
        head = (
            f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(text)}\r\nConnection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + text)
        self.transport.close()


class Connection(asyncio.BufferedProtocol):
    """As uvicorn makes them."""

    # Of all connections: what comes is taken out at once.
    _scratch = memoryview(bytearray(WASTE))
    # Of all, too: the requests begun in this turn (None), and those that wait for the next.
    _turn: ClassVar[list[tuple[Connection, bytes] | None]] = []

    def __init__(self, config: Any, server_state: Any, app_state: Any, _loop: Any = None) -> None:
        self._inner = Heads(
            self, config=config, server_state=server_state, app_state=app_state, _loop=_loop
        )
        self._seconds: float = config.timeout_keep_alive
        self._timer: asyncio.TimerHandle | None = None
        self._begun, self._passed = b"", 0
        self._body: Incoming | None = None
        self._watched: Callable[[], None] | None = None

    def watch(self, call: Callable[[], None]) -> Callable[[], None]:
        """Of the request that is under way; there is one at a time."""
        self._watched = call
        return self._unwatched

    def _unwatched(self) -> None:
        self._watched = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """uvicorn's, and a head has to come in time."""
        self._inner.connection_made(transport)  # type: ignore[arg-type]
        self._timed()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nobody is left."""
        self._untimed()
        self._inner.connection_lost(exc)
        if self._body is not None:
            self._body.wake()
        if self._watched is not None:
            self._watched()

    def pause_writing(self) -> None:
        """The other side reads too slowly."""
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        """It has caught up."""
        self._inner.resume_writing()

    def get_buffer(self, sizehint: int) -> memoryview:
        """Where the next bytes lie: where their body shall, or in memory for once."""
        if self._body is not None and self._body.taken:
            return self._body.place(self._scratch)
        return self._scratch[:_PIECE]

    def buffer_updated(self, nbytes: int) -> None:
        """They are there."""
        if self._body is None:
            data = bytes(self._scratch[:nbytes])
            if self._inner.in_head and data.startswith(b"POST "):
                self._in_turn(data)
            else:
                self._fed(data)
        elif self._body.taken:
            self._body.received(nbytes, self._scratch)
        else:  # an earlier request looks whether its caller is there
            self._body.early += self._scratch[:nbytes]
            self._inner.flow.pause_reading()

    def _in_turn(self, data: bytes) -> None:
        """Begin a request, unless the loop has begun enough of them in this turn."""
        if len(self._turn) < _MOST_BEGUN:
            if not self._turn:
                asyncio.get_running_loop().call_soon(self._turned)
            self._turn.append(None)
            self._fed(data)
            return
        self._inner.flow.pause_reading()
        self._turn.append((self, data))

    @classmethod
    def _turned(cls) -> None:
        """The next turn, and those who waited for it."""
        waiting = [one for one in cls._turn if one is not None]
        cls._turn.clear()
        for connection, data in waiting:
            connection._inner.flow.resume_reading()
            connection._in_turn(data)

    def _fed(self, data: bytes) -> None:
        """Give a request's head to the parser, and stop at its end where a body follows."""
        heads = self._inner
        while data and not heads.transport.is_closing():
            if not heads.in_head:
                self._passed += len(data) if heads.cycle.response_complete else 0
                if self._passed > _MOST_LEFT:
                    heads.transport.close()
                heads.data_received(data)
                return
            self._begun += data
            found = _END.search(self._begun)
            end = len(self._begun) if found is None else found.end()
            if end > _MOST_HEAD:
                heads.refuse(431, f"the head is too large; at most {_MOST_HEAD} bytes")
                return
            if found is None and self._begun[:1].isalpha():
                self._timed()
                return
            head, data = self._begun[:end], self._begun[end:]
            self._begun, self._passed = b"", 0
            self._untimed()
            # Java's client offers HTTP/2 with a request, whose body the parser then leaves out.
            heads.data_received(_UPGRADE.sub(b"\nx-upgrade:", head))
            if heads.length and not heads.transport.is_closing():
                self._body = Incoming(self, heads, heads.length, data)
                if len(data) < self._body.left:
                    heads.flow.pause_reading()
                heads.scope["extensions"] = {BODY: self._body}  # type: ignore[dict-item]
                return

    def whole(self, behind: bytes) -> None:
        """A body is there: its request is read, and the next may have begun behind it."""
        self._body = None
        self._inner.fresh()
        self._inner.on_message_complete()
        if behind:
            self._fed(behind)

    def answered(self) -> None:
        """The response is written, and the body isn't read: it is in the next request's way."""
        if self._body is None:  # chunked: as it comes, but not for good
            self._timed()
        elif self._body.left <= _MOST_LEFT and not self._inner.expect_100_continue:
            self._body.pass_over()
        else:
            self._inner.transport.close()

    def _timed(self) -> None:
        if self._timer is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(self._seconds, self._late)

    def _untimed(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _late(self) -> None:
        """A head that doesn't come."""
        if self._begun and not self._inner.transport.is_closing():
            self._inner.refuse(408, "the request's head didn't arrive in time")
        self._inner.transport.close()
