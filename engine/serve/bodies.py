"""Bodies of requests, read within limits: by their length where they tell it, else as they come."""

from __future__ import annotations

import asyncio
import contextlib
import zlib
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any

from .answering import INLINE_RAW, Front, Gone
from .refused import Refused, bad

__all__ = ["Body", "refused_whole"]

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
# What is read of a body that nobody wants, so that its sender gets to read the answer.
_LEFT_BYTES, _LEFT_SECONDS = 1 << 28, 5.0
# Seconds without a piece of a body until its sender counts as slow.
_SLOW = 0.1


class Body:
    """A request's body and the room that it takes in the queue's bytes."""

    def __init__(self, front: Front, receive: Receive, headers: Mapping[str, str]) -> None:
        self._front, self._receive, self._headers = front, receive, headers
        self.held = 0
        self.finished = False
        self._turn = False

    def release(self) -> None:
        """Give its room and its turn back."""
        self._pass_on()
        self._front.waiting.release(self.held)
        self.held = 0

    def _hold(self, size: int) -> None:
        self._front.waiting.reserve(size)
        self.held += size

    async def read(self) -> bytes:
        """All of it. Raises Refused (400, 408, 413, 415, 503), Gone."""
        limit = self._front.limits.body
        length = self._headers.get("content-length")
        known = int(length) if length is not None and length.isdecimal() else None
        if known is not None and known > limit:
            raise _too_large(limit)
        self._front.admit()
        coding = self._headers.get("content-encoding", "identity").strip().lower()
        if coding not in ("identity", "gzip", "deflate"):
            raise Refused(415, "encoding", f"content-encoding '{coding[:40]}'; accepted: gzip, "
                          "deflate, identity")  # fmt: skip
        if known is not None:
            self._hold(known)
        pieces: list[bytes] = []
        size = 0
        try:
            async with asyncio.timeout(self._front.limits.deadline):
                while not self.finished:
                    message = await self._next()
                    if message["type"] == "http.disconnect":
                        raise Gone
                    piece = message.get("body", b"")
                    size += len(piece)
                    self.finished = not message.get("more_body", False)
                    if size > limit:
                        raise _too_large(limit)
                    if size > self.held:
                        self._hold(size - self.held)
                    pieces.append(piece)
        except TimeoutError:
            raise Refused(408, "slow_body", "the body didn't arrive in time") from None
        finally:
            self._pass_on()
        join = b"".join
        body = join(pieces) if size < INLINE_RAW else await self._front.apart(join, pieces)
        return body if coding == "identity" else await self._front.apart(self._inflated, body)

    def _inflated(self, body: bytes) -> bytes:
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
        return made

    async def _next(self) -> MutableMapping[str, Any]:
        """The next piece, in turn: so many bodies at once are read. A loop that had all of them in
        hand would come to a probe last. Whoever sends slowly gives the turn to another."""
        if not self._turn:
            await self._front.turns.acquire()
            self._turn = True
        # A timer, not a task to wait for beside it: a body comes in many pieces.
        slow = asyncio.get_running_loop().call_later(_SLOW, self._pass_on)
        try:
            return await self._receive()
        finally:
            slow.cancel()

    def _pass_on(self) -> None:
        if self._turn:
            self._turn = False
            self._front.turns.release()

    async def gone(self) -> None:
        """Done when the caller goes away; to be awaited behind `read`."""
        while (await self._receive())["type"] != "http.disconnect":
            pass


def _too_large(limit: int) -> Refused:
    return Refused(413, "too_large", f"the body is too large; at most {limit} bytes")


async def refused_whole(body: Body, headers: Mapping[str, str]) -> None:
    """Read what is left of a refused request: an answer to one who still writes is lost, where the
    connection is reset under it. Those who wait for `100 Continue` have written nothing."""
    if body.finished or headers.get("expect", "").lower() == "100-continue":
        return
    left = _LEFT_BYTES
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_LEFT_SECONDS):
            while left > 0 and not body.finished:
                message = await body._next()
                left -= len(message.get("body", b""))
                body.finished = not message.get("more_body", False)
