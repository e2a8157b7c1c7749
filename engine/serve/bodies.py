"""Bodies of requests, read within limits: by their length where they tell it, else as they come."""

from __future__ import annotations

import asyncio
import contextlib
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
from starlette.requests import Request

from .answering import INLINE_RAW, Front, Gone
from .incoming import BODY, Incoming
from .refused import Refused, bad

__all__ = ["Body"]

# What is read of a body that nobody wants, so that its sender gets to read the answer.
_LEFT_BYTES, _LEFT_SECONDS = 1 << 28, 5.0
# Seconds without a piece of a body until its sender counts as slow.
_SLOW = 0.1


class Body:
    """A request's body and the room that it takes in the queue's bytes."""

    def __init__(self, front: Front, request: Request) -> None:
        self._front, self._receive, self.headers = front, request.receive, request.headers
        # Where its length is known; None: it comes in pieces.
        self._coming: Incoming | None = request.scope.get("extensions", {}).get(BODY)
        self.held = 0
        self._read = False
        self._turn = False

    def release(self) -> None:
        """Give its room and its turn back."""
        self._pass_on()
        self._front.waiting.release(self.held)
        self.held = 0

    def _hold(self, size: int) -> None:
        self._front.waiting.reserve(size)
        self.held += size

    @property
    def finished(self) -> bool:
        """Whether nothing of it is left to be read."""
        return self._read if self._coming is None else not self._coming.left

    async def read(self) -> memoryview:
        """All of it. Raises Refused (400, 408, 413, 415, 503), Gone."""
        limit = self._front.limits.body
        length = self.headers.get("content-length")
        known = int(length) if length is not None and length.isdecimal() else None
        if known is not None and known > limit:
            raise _too_large(limit)
        self._front.admit()
        coding = self.headers.get("content-encoding", "identity").strip().lower()
        if coding not in ("identity", "gzip", "deflate"):
            raise Refused(415, "encoding", f"content-encoding '{coding[:40]}'; accepted: gzip, "
                          "deflate, identity")  # fmt: skip
        if known is not None:
            self._hold(known)
        try:
            async with asyncio.timeout(self._front.limits.deadline):
                if self._coming is None:
                    body = await self._pieces(limit)
                else:
                    body = await self._whole(self._coming, self._room)
        except TimeoutError:
            raise Refused(408, "slow_body", "the body didn't arrive in time") from None
        finally:
            self._pass_on()
        return body if coding == "identity" else await self._front.apart(self._inflated, body)

    def _room(self, size: int) -> memoryview:
        """Memory for a body whose turn has come: there may be no room for its rows any more."""
        self._front.admit()
        made: Any = np.empty(size, np.uint8)  # not zeroed first
        return memoryview(made)

    async def _whole(self, coming: Incoming, room: Callable[[int], memoryview | None]) -> Any:
        """Have it received where `room` says, in turn: so many bodies at once are read. A loop that
        had all of them in hand would come to a probe last. Whoever sends slowly gives the turn to
        another."""
        into = None
        while not coming.taken or coming.left:
            async with self._front.turns:
                if not coming.taken:
                    into = room(coming.left)
                    coming.take(into)
                if await coming.arrived(_SLOW):
                    break
            await coming.stirred()
        return into

    async def _pieces(self, limit: int) -> memoryview:
        pieces: list[bytes] = []
        size = 0
        while not self._read:
            piece = await self._next()
            size += len(piece)
            if size > limit:
                raise _too_large(limit)
            if size > self.held:
                self._hold(size - self.held)
            pieces.append(piece)
        join = b"".join
        body = join(pieces) if size < INLINE_RAW else await self._front.apart(join, pieces)
        return memoryview(body)

    def _inflated(self, body: memoryview) -> memoryview:
        """A compressed body, within the same limit."""
        limit = self._front.limits.body
        inflater = zlib.decompressobj(wbits=47)  # gzip's or zlib's header
        try:
            made = inflater.decompress(body, limit + 1)
        except zlib.error:
            raise bad("the body is not the gzip or deflate that its header says") from None
        if len(made) > limit:
            raise _too_large(limit)
        if not inflater.eof:
            raise bad("the compressed body is cut short")
        return memoryview(made)

    async def _next(self) -> bytes:
        """The next piece, in turn, as above."""
        if not self._turn:
            await self._front.turns.acquire()
            self._turn = True
        # A timer, not a task to wait for beside it: a body comes in many pieces.
        slow = asyncio.get_running_loop().call_later(_SLOW, self._pass_on)
        try:
            message = await self._receive()
        finally:
            slow.cancel()
        if message["type"] == "http.disconnect":
            self._read = True
            raise Gone
        self._read = not message.get("more_body", False)
        piece: bytes = message.get("body", b"")
        return piece

    def _pass_on(self) -> None:
        if self._turn:
            self._turn = False
            self._front.turns.release()

    def watch(self, call: Callable[[], None]) -> Callable[[], Any]:
        """Have that called when the caller goes away; behind `read`. Gives what ends it."""
        if self._coming is not None:
            return self._coming.watch(call)
        gone = asyncio.ensure_future(self._gone())
        gone.add_done_callback(lambda done: None if done.cancelled() else call())
        return gone.cancel

    async def _gone(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass

    async def refused(self) -> None:
        """Read what is left of a refused request: an answer to one who still writes is lost, where
        the connection is reset under it. Those who wait for `100 Continue` have written nothing."""
        if self.finished or self.headers.get("expect", "").lower() == "100-continue":
            return
        with contextlib.suppress(TimeoutError, Gone):
            async with asyncio.timeout(_LEFT_SECONDS):
                if self._coming is not None:
                    if self._coming.left <= _LEFT_BYTES:
                        self._coming.taken = False
                        await self._whole(self._coming, lambda _: None)
                    return
                left = _LEFT_BYTES
                while left > 0 and not self._read:
                    left -= len(await self._next())


def _too_large(limit: int) -> Refused:
    return Refused(413, "too_large", f"the body is too large; at most {limit} bytes")
