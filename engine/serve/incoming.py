"""A body that is still in the socket: received where the application says, when it says so."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

from .answering import Gone

if TYPE_CHECKING:
    from .connection import Connection, Heads

__all__ = ["BODY", "WASTE", "Incoming"]

# The ASGI extension that has a request's body, where it is received so.
BODY = "backlight.body"
# What is read at once of what nobody wants.
WASTE = 1 << 18


class Incoming:
    """A body that is still in the socket. left: bytes of it that are to come. early: what came with
    the head, and of what follows the body."""

    def __init__(self, connection: Connection, heads: Heads, size: int, early: bytes) -> None:
        self._connection, self._heads, self._cycle = connection, heads, heads.cycle
        self.left, self.early = size, early
        self.taken = self._any = self._passed = False
        self._into: memoryview | None = None
        self._waiter: asyncio.Future[None] | None = None

    def take(self, into: memoryview | None) -> None:
        """Have it, or what is left of it, received there; None: nowhere."""
        cycle = self._cycle
        if into is not None and cycle.waiting_for_100_continue:
            cycle.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            cycle.waiting_for_100_continue = False
        self._into, self.taken = into, True
        there = min(len(self.early), self.left)
        if into is not None:
            into[:there] = self.early[:there]
        self.early = self.early[there:]
        self.received(there)

    def pass_over(self) -> None:
        """Have it received nowhere, by nobody's asking."""
        self._passed = True
        self.take(None)
        self._heads.flow.resume_reading()

    async def arrived(self, seconds: float) -> bool:
        """Whether all of it is there: read on until it is, or until nothing has come for so many
        seconds. Raises Gone."""
        while self.left:
            before = self.left
            await self._read(seconds)
            if self.left == before:
                return False
        return True

    async def stirred(self) -> None:
        """Wait until something comes, and read no further. Raises Gone."""
        self._any = True
        try:
            await self._read(None)
        finally:
            self._any = False

    async def _read(self, seconds: float | None) -> None:
        loop, flow = asyncio.get_running_loop(), self._heads.flow
        if self._cycle.disconnected:
            raise Gone
        self._waiter = loop.create_future()
        timer = None if seconds is None else loop.call_later(seconds, self.wake)
        flow.resume_reading()
        try:
            await self._waiter
        finally:
            self._waiter = None
            if timer is not None:
                timer.cancel()
            if self.left:
                flow.pause_reading()
        if self._cycle.disconnected and self.left:
            raise Gone

    def watch(self, call: Callable[[], None]) -> Callable[[], None]:
        """Have that called when the other side goes away; a task for it would take longer than what
        it waits for. Gives what ends that."""
        if self._cycle.disconnected:
            call()
        self._heads.flow.resume_reading()  # else nobody sees it go
        return self._connection.watch(call)

    def place(self, waste: memoryview) -> memoryview:
        """Where the next bytes of it lie, so many at most."""
        if self._into is None:
            return waste
        begun = len(self._into) - self.left
        return self._into[begun : begun + len(waste)]

    def received(self, count: int, waste: memoryview | None = None) -> None:
        """So many came, there."""
        mine = min(count, self.left)
        self.left -= mine
        if waste is not None and self._into is None:
            self.early += waste[mine:count]
        if self._any:
            self._heads.flow.pause_reading()
            self.wake()
        if not self.left:
            self._into = None  # a connection remembers its last request
            early, self.early = self.early, b""
            self._connection.whole(early)
            self.wake()
        elif count == WASTE and (self._waiter is not None or self._passed):  # the others' turn
            self._heads.flow.pause_reading()
            asyncio.get_running_loop().call_soon(self._on)

    def _on(self) -> None:
        if self._waiter is not None or self._passed:
            self._heads.flow.resume_reading()

    def wake(self) -> None:
        """Have who reads look again."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
